"""One bit rots under journal/ and a state is rebuilt: it is the right one, or an error names the file."""

from __future__ import annotations

import random
from dataclasses import dataclass
from pathlib import Path

import pytest

from journal.checkpoint import KIND_MEMORY, CheckpointStore
from journal.errors import AmbiguousTail, Corrupt, Unsupported
from journal.log import Log
from journal.reader import LogReader
from journal.storage import RealStorage
from replay.checkpoints import make_checkpoint
from replay.digest import state_digest
from replay.engine import Built, build_state
from replay.layout import Layout
from replay.leaves import KIND_LEAVES
from replay.model import Model
from replay.schema import connect
from tests.histories import SeededSource, Vouched, encoded, growing, vouching
from tests.journals import START, journal_in, segment_files

EVENTS = 3000
CHECKPOINTS = (1500, 2700)
DECLARED = (Corrupt, AmbiguousTail, Unsupported)


@dataclass
class Subject:
    """A journal, its files by kind, and the digest that the reference projection gives for its end."""

    directory: str
    digest: str
    files: dict[str, list[Path]]

    def build(self, path: Path) -> Built:
        """state(end), read from the disk as it is now. Whoever asks for the end asks what lies behind it."""
        reader = LogReader(RealStorage(), self.directory)
        reader.raise_for_tail()
        assert reader.last_seq == EVENTS
        return build_state(RealStorage(), self.directory, reader, EVENTS, str(path))


@pytest.fixture(scope="module")
def subject(tmp_path_factory: pytest.TempPathFactory) -> Subject:
    root = tmp_path_factory.mktemp("flips")
    storage, directory = journal_in(root)
    model, source, sizes = Model(), SeededSource(7), random.Random(7)
    made: Vouched | None = None
    for until in (*CHECKPOINTS, EVENTS):
        log = Log.open(storage, directory, segment_bytes_max=24 << 10)
        steps = [vouching(made, model, START + model.position)] if made else []
        steps += growing(source, model, until - model.position, restores=1)
        while steps:
            batch = steps[: sizes.choice((1, 2, 10, 60))]
            log.append(encoded(batch), batch[-1].time)
            del steps[: len(batch)]
        log.close()
        if until != EVENTS:
            shadow = make_checkpoint(storage, Layout.under(str(root)), lambda: START)
            assert shadow.seq == until
            made = Vouched(until, shadow.digest, shadow.manifest)
    newest, older = CheckpointStore(storage, f"{directory}/checkpoints").manifests()
    store = Path(directory, "checkpoints")
    files = {
        "newest manifest": [store / f"{newest.seq:016d}.manifest"],
        "older manifest": [store / f"{older.seq:016d}.manifest"],
        "newest part": [store / "parts" / part.sha256 for part in newest.of_kind(KIND_MEMORY)],
        "newest leaves": [store / "parts" / part.sha256 for part in newest.of_kind(KIND_LEAVES)],
        "older part": [store / "parts" / part.sha256 for part in older.parts],
        "segment": segment_files(directory),
    }
    assert len(files["segment"]) > 10
    return Subject(directory, model.digest(), files)


def rebuilt_with_a_flip(subject: Subject, path: Path, rng: random.Random, target: Path) -> Built | Exception:
    whole = path.read_bytes()
    damaged = bytearray(whole)
    damaged[rng.randrange(len(whole))] ^= 1 << rng.randrange(8)
    path.write_bytes(damaged)
    try:
        return subject.build(target)
    except DECLARED as error:
        return error
    finally:
        path.write_bytes(whole)


@pytest.mark.parametrize("kind", ["newest manifest", "older manifest", "newest part", "older part"])
def test_a_flip_in_a_checkpoint_costs_a_rung_of_the_ladder_and_nothing_else(
    subject: Subject, kind: str, tmp_path: Path
) -> None:
    rng = random.Random(kind)
    for number in range(12):
        path = rng.choice(subject.files[kind])
        built = rebuilt_with_a_flip(subject, path, rng, tmp_path / f"{number}.db")
        assert isinstance(built, Built), built
        assert built.digest == subject.digest
        if kind.startswith("newest"):
            assert built.base_seq == CHECKPOINTS[0]
            assert [str(path) in each.reason for each in built.passed_over] == [True]
        else:
            assert built.base_seq == CHECKPOINTS[1]


def test_a_flip_in_its_leaves_costs_a_scan_and_no_rung(subject: Subject, tmp_path: Path) -> None:
    rng = random.Random("leaves")
    assert subject.build(tmp_path / "whole.db").rows_scanned < 2000
    for number in range(12):
        (path,) = subject.files["newest leaves"]
        built = rebuilt_with_a_flip(subject, path, rng, tmp_path / f"{number}.db")
        assert isinstance(built, Built), built
        assert (built.digest, built.base_seq, built.passed_over) == (subject.digest, CHECKPOINTS[1], ())
        assert built.rows_scanned == sum(built.counts.values())


@pytest.mark.parametrize("seed", range(3))
def test_a_flip_in_a_segment_never_makes_another_state(subject: Subject, seed: int, tmp_path: Path) -> None:
    rng = random.Random(seed)
    refused = 0
    for number in range(25):
        path = rng.choice(subject.files["segment"])
        target = tmp_path / f"{number}.db"
        built = rebuilt_with_a_flip(subject, path, rng, target)
        if isinstance(built, Built):
            assert built.digest == subject.digest
            with connect(target, read_only=True) as connection:
                assert state_digest(connection) == subject.digest
        else:
            assert isinstance(built, DECLARED)
            assert built.path == str(path)
            assert built.offset is not None or built.seq is not None
            assert not target.exists()
            refused += 1
    assert 0 < refused < 25, "events before the checkpoint are not needed, those after it are"
