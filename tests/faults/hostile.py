"""Hostile input: files that are valid in every checksum and made to do harm. Only declared errors, in bounded time."""

from __future__ import annotations

import os
import random
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

from journal.checkpoint import CheckpointStore
from journal.errors import JournalError, UsageError
from journal.log import Log
from journal.reader import LogReader
from journal.verify import verify
from recovery.config.file import load_rules, parse
from replay.agent_format import validate
from replay.engine import build_state
from replay.history import read_history
from tests.faults.frame import Check, Run
from tests.hostile import hostile_files, hostile_yaml
from tests.overlay import View
from tests.specimen import Specimen, specimen

SECONDS_MAX = 60  # for one way with one file: what hangs takes hours


def files(run: Run) -> Counter[str]:
    return run.seeds(files_seed)


def files_seed(seed: int) -> Counter[str]:
    return judged(dict(hostile_files(seed, specimen(0))), f"seed {seed}")


def judged(changes: dict[str, bytes | None], what: str) -> Counter[str]:
    """What each way through the product made of these files. Raises where it was no answer."""
    subject = specimen(0)
    found = Counter({"hostile directories": 1})
    for name, way in WAYS.items():
        started = time.monotonic()
        try:
            way(subject, subject.view(changes))
            told = ""
        except JournalError as error:
            told = str(error)
        except Exception as error:
            raise AssertionError(f"{what}, {name}: {type(error).__name__}: {error}") from error
        assert len(told) < 5000, f"{what}, {name}: an error of {len(told)} characters"
        found["refused" if told else "taken"] += 1
        assert time.monotonic() - started < SECONDS_MAX, f"{what}: {name} does not come to an end"
    return found


def _read(subject: Specimen, view: View) -> None:
    reader = LogReader(view, subject.root)
    for batch in reader.batches():
        batch.records()
    reader.seq_at(1 << 60)
    read_history(reader, CheckpointStore(view, f"{subject.root}/checkpoints"))


def _verify(subject: Specimen, view: View) -> None:
    verify(view, subject.root)


def _open(subject: Specimen, view: View) -> None:
    Log.open(view, subject.root).close()


def _build(subject: Specimen, view: View) -> None:
    with tempfile.TemporaryDirectory(dir="/dev/shm" if os.access("/dev/shm", os.W_OK) else None) as scratch:
        target = Path(scratch) / "state.db"
        try:
            reader = LogReader(view, subject.root)
            build_state(view, subject.root, reader, reader.last_seq, str(target))
        except JournalError:
            assert not target.exists(), "a refused build leaves a file"
            raise


WAYS: dict[str, Callable[[Specimen, View], None]] = {"verify": _verify, "read": _read, "open": _open, "build": _build}


def yaml(run: Run) -> Counter[str]:
    return run.seeds(yaml_seed)


def yaml_seed(seed: int) -> Counter[str]:
    """An agent's frontmatter and a journal.yaml: findings, or one line that names the file."""
    rng = random.Random(seed)
    found = Counter[str]()
    for _ in range(20):
        data = hostile_yaml(rng)
        started = time.monotonic()
        for mode in ("strict", "lenient"):
            for finding in validate("writer", data, mode).findings:
                assert len(str(finding)) < 6000
        told = ""
        try:
            parse(data, "journal.yaml")
        except UsageError as error:
            told = str(error)
        assert "\n" not in told
        assert len(told) < 1000
        with tempfile.TemporaryDirectory() as scratch:
            Path(scratch, "journal.yaml").write_bytes(data)
            load_rules(scratch)
        assert time.monotonic() - started < SECONDS_MAX, "it does not come to an end"
        found["texts"] += 1
    return found


CHECKS = (
    Check(
        "hostile.files",
        "Segments, manifests, plans and locks that somebody made to do harm give declared errors, never a crash, a "
        "hang or a file of a refused build.",
        "valid files with one thing changed behind their checksums, all of which then fit: values, types, lengths of "
        "4 GiB, endless nesting, text that is none; read, verified, opened, state rebuilt",
        files,
    ),
    Check(
        "hostile.yaml",
        "An agent file or a configuration gives findings or one line, never a crash or a hang.",
        "texts of alias bombs, tags, endless nesting, odd numbers, control characters and broken bytes",
        yaml,
    ),
)

