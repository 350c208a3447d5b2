"""A copy of a live memory.db is its state at one moment, whoever writes and folds meanwhile, and holds nobody up."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from threading import Event, Thread

import pytest

from journal.errors import EnvironmentFault
from journal.events import EntityCreated, ObservationAdded
from journal.storage import RealFile, RealStorage
from recovery import open_server_sync
from recovery.setup import initialise
from replay.checkpoints import make_checkpoint
from replay.schema import connect, read_position
from replay.snapshot import snapshot
from tests import traced
from tests.test_replay_checkpoints import follow
from tests.worlds import world_in

STORAGE = RealStorage()


def test_a_copy_is_one_state_while_others_write_and_fold(tmp_path: Path):
    """Each event but the first makes one row, so that the position says how many there are. Folds come every few
    batches, and so at each stage of a copy: before it, when a reader sees the file alone, and while it lasts."""
    root = tmp_path / "data"
    initialise(str(root))
    stop = Event()
    seqs: list[int] = []
    with open_server_sync(root, background=False) as hook:
        hook.append(EntityCreated("global", "Acme", "company"))
        first = hook.core.state.applied_seq

        def write() -> None:
            number = 0
            while not stop.is_set():
                hook.append_all([ObservationAdded("global", "Acme", f"{number + n} " * 300) for n in range(20)])
                number += 20
                if number % 100 == 0:
                    with hook.core.lock:
                        hook.core.state.folding.copy()

        writer = Thread(target=write)
        writer.start()
        try:  # by a process of its own, as a checkpoint is
            command = [sys.executable, "-c", _COPIES, f"{root}/memory.db", str(tmp_path)]
            copies = subprocess.run(command, check=True, capture_output=True, text=True, timeout=300).stdout
        finally:
            stop.set()
            writer.join()
    for line in copies.splitlines():
        seq, rows, verdict = line.split()
        seqs.append(int(seq))
        assert (int(rows), verdict) == (int(seq) - first, "ok")
    assert seqs == sorted(seqs)
    assert len(set(seqs)) == 20
    assert [name for name in os.listdir(tmp_path) if name != "data"] == []


_COPIES = """
import sys
from journal.storage import RealStorage
from replay.schema import read_position
from replay.snapshot import snapshot
seen = set()
while len(seen) < 20:  # moments, however long it takes until the writer has its turn
    with snapshot(RealStorage(), sys.argv[1], f"{sys.argv[2]}/copy.db") as connection:
        (rows,) = connection.execute("SELECT count(*) FROM observations").fetchone()
        seq = read_position(connection).seq
        print(seq, rows, *connection.execute("PRAGMA integrity_check").fetchone())
        seen.add(seq)
"""


def test_a_copy_is_never_synced(tmp_path: Path):
    """All of it would go to the disk at once, hundreds of MB that are removed a moment later, and each sync of the
    journal would wait behind them."""
    if (why := traced.missing()) is not None:
        pytest.skip(why)
    root, log = tmp_path / "data", tmp_path / "strace.log"
    initialise(str(root))
    with open_server_sync(root, background=False) as hook:
        hook.append(EntityCreated("global", "Acme", "company"))
        program = _COPIES.replace("< 20", "< 1")
        command = [sys.executable, "-c", program, f"{root}/memory.db", str(tmp_path)]
        strace = ["strace", "-f", "-y", "-e", "trace=pwrite64,fsync,fdatasync", "-o", str(log), *command]
        copies = subprocess.run(strace, check=True, capture_output=True, text=True, timeout=120).stdout
    assert len(copies.splitlines()) == 1
    calls = [line for line in log.read_text().splitlines() if "/copy.db" in line]
    assert any("copy.db-wal" in line for line in calls), "there was a log to fold"
    assert not [line for line in calls if "sync(" in line]


class Interrupted(RealStorage):
    """Calls `between` while the first copy of a write-ahead log is being written, after so many pieces."""

    def __init__(self, between: Callable[[], object], pieces: int) -> None:
        super().__init__()
        self._between, self._pieces = between, pieces

    def open(self, path: str, *, write: bool = False, create: bool = False) -> RealFile:
        file = super().open(path, write=write, create=create)
        return _Piecewise(file.fd, path, self) if create and path.endswith("-wal") else file


class _Piecewise(RealFile):
    __slots__ = ("_storage",)

    def __init__(self, fd: int, path: str, storage: Interrupted) -> None:
        super().__init__(fd, path)
        self._storage = storage

    def write_at(self, offset: int, data: bytes) -> None:
        super().write_at(offset, data)
        self._storage._pieces -= 1
        if self._storage._pieces == 0:
            self._storage._between()


def test_a_log_that_begins_anew_while_it_is_copied_is_copied_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Scenario: all of the log was in the file when the copy began, so nothing keeps a writer from writing over it.
    The first commits of the old log, without the rest, would put old pages before those of the file."""
    monkeypatch.setattr("replay.snapshot._CHUNK_BYTES", 4096)
    root = tmp_path / "data"
    initialise(str(root))
    with open_server_sync(root, background=False) as hook:
        hook.append(EntityCreated("global", "Acme", "company"))
        first = hook.core.state.applied_seq

        def write(number: int) -> None:
            for each in range(number, number + 20):
                hook.append(ObservationAdded("global", "Acme", f"{each} " * 300))

        write(0)
        assert hook.core.state.folding.copy() is False, "all of it is in the file"
        storage = Interrupted(lambda: write(20), pieces=20)
        with snapshot(storage, f"{root}/memory.db", f"{tmp_path}/copy.db") as connection:
            assert storage._pieces < 0, "it was copied in pieces"
            (rows,) = connection.execute("SELECT count(*) FROM observations").fetchone()
            position = read_position(connection)
            assert connection.execute("PRAGMA integrity_check").fetchone() == ("ok",)
            assert position is not None
            assert rows == position.seq - first == 40


def test_a_checkpoint_keeps_nobody_from_folding(tmp_path: Path):
    """From the moment it is built to its proof: a reader's transaction would let the log grow all the while."""
    world = world_in(tmp_path, seed=11)
    world.grow(80)
    world.go_live()
    folds: list[tuple[int, int, int]] = []

    def fold(done: int, total: int) -> None:
        if done == total:
            world.grow(5)
            follow(world)
            with closing(connect(os.path.realpath(world.layout.memory_db))) as connection:
                connection.execute("PRAGMA busy_timeout=0")
                folds.append(connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone())

    made = make_checkpoint(world.storage, world.layout, lambda: 1, fold)
    assert folds == [(0, 0, 0)]
    assert (made.seq, made.drift, made.live_digest) == (80, False, made.digest)


def test_where_nothing_can_be_read_there_is_no_copy(tmp_path: Path):
    with pytest.raises(EnvironmentFault), snapshot(STORAGE, f"{tmp_path}/memory.db", f"{tmp_path}/copy.db"):
        pass
    assert os.listdir(tmp_path) == []
