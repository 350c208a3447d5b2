"""Folding memory.db's write-ahead log by strace: which syncs it takes, and what one that fails leaves."""

from __future__ import annotations

import re
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import pytest

from recovery import open_server_sync
from replay.schema import connect
from tests import traced
from tests.command import ENVIRONMENT, ROOT
from tests.folds import live, with_a_log


@pytest.fixture
def data(tmp_path: Path) -> Path:
    return with_a_log(tmp_path / "data")


_FACTS = """
import os, sys
from journal.events import ObservationAdded
from recovery import open_server_sync
def fact(number):
    return ObservationAdded("global", "Acme", f"{number} " + "x" * 200)
"""
_BEGIN = f"""{_FACTS}
with open_server_sync(sys.argv[1], background=False) as hook:
    folding = hook.core.state.folding
    hook.append_all([fact(number) for number in range(3000)])
    folding.is_due()
"""
_STEPS = """
    def step(name):
        os.write(2, b"begin " + name.encode())
        getattr(folding, name)()
        os.write(2, b"begin writing")
    step("hold")
    hook.append(fact(3000))
    step("sync_log")
    step("copy")
    step("sync_file")
    step("copy")
    hook.append(fact(3001))
    step("copy")
"""


def under_strace(data: Path, program: str, *options: str) -> list[str]:
    """The lines of strace's log of a process that runs `program`."""
    if (why := traced.missing()) is not None:
        pytest.skip(why)
    log = data.parent / "strace.log"
    command = ["strace", "-f", "-y", "-s", "20", "-o", str(log), *options, sys.executable, "-c", program, str(data)]
    ran = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, env=ENVIRONMENT, timeout=120, check=False)
    assert ran.returncode == 0, ran.stderr
    return log.read_text().splitlines()


def test_sqlite_syncs_the_file_only_when_little_is_left_to_sync(data: Path) -> None:
    """A copy that leaves something in the log writes hundreds of pages and syncs none of them; the one after it, which
    lets the log begin anew, writes and syncs the few pages that were committed meanwhile."""
    lines = under_strace(data, _BEGIN + _STEPS, "-e", "trace=fdatasync,fsync,pwrite64,sync_file_range,write")
    steps: list[tuple[str, list[str]]] = []
    for line in lines:
        if found := re.search(r'write\(2<.*"begin (.+)"', line):
            steps.append((found[1], []))
        elif steps:
            steps[-1][1].append(line)

    def count(calls: list[str], name: str, ending: str) -> int:
        return sum(re.search(rf"{name}\(\d+<[^>]*memory-\d+\.db{ending}>", call) is not None for call in calls)

    done = [(name, *(count(calls, call, ending) for call in ("pwrite64", "fdatasync") for ending in ("", "-wal")))
            for name, calls in steps if name != "writing"]  # fmt: skip
    (ranges,) = (count(calls, "sync_file_range", "") for name, calls in steps if name == "sync_file")
    assert ranges >= 1, "piece by piece: the queue of the disk is the journal's, too"
    names, pages, _, syncs, log_syncs = zip(*done, strict=True)
    assert names == ("hold", "sync_log", "copy", "sync_file", "copy", "copy")
    assert pages[2] > 100
    assert syncs == (0, 0, 0, 1, 1, 1), "SQLite's own are the last two"
    assert 0 < pages[4] < 10
    assert 0 < pages[5] < 10
    assert log_syncs == (0, 1, 1, 0, 1, 1)


_FAILED = """
    folding.hold()
    hook.append(fact(3000))
    folding.copy()
    folding.sync_file()
    assert folding.failed, "the fault fired"
    assert not folding.copy()
    hook.append(fact(3001))
"""


def test_after_a_sync_that_failed_the_log_stays_and_is_copied_again(data: Path) -> None:
    """The kernel says once that pages could not be written, and yes from then on. SQLite, which did not hear of it,
    would sync the rest, begin the log anew, and remove it at the end: those pages would be nowhere."""
    generation = str((data / "memory.db").resolve())
    faulty = ("-P", generation, "-e", "trace=fdatasync", "-e", "inject=fdatasync:error=EIO:when=1")
    lines = under_strace(data, _BEGIN + _FAILED, *faulty)
    assert sum("INJECTED" in line for line in lines) == 1
    log = Path(f"{generation}-wal")
    assert log.stat().st_size > 100 * 4096
    with open_server_sync(data, background=False) as hook:
        state = live(hook.core)
        frames = log.stat().st_size // (24 + 4096)
        assert state.connection.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchone() == (0, frames, frames)
        (count,) = state.connection.execute("SELECT count(*) FROM observations").fetchone()
        assert count == 3002


_CATCHES_UP = """
    import sqlite3, replay.catchup
    from contextlib import closing, suppress
    from journal.errors import NotApplied
    replay.catchup.EVENTS_PER_COMMIT = 10
    folding.hold()
    hook.append(fact(3000))
    assert folding.copy()
    state = hook.core.state
    state.connection.execute("PRAGMA busy_timeout=0")
    with closing(sqlite3.connect(state.generation, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        for number in range(30):
            with suppress(NotApplied):
                hook.append(fact(4000 + number))
        assert state.failure
        other.execute("ROLLBACK")
        hook.append(fact(5000))
"""


def test_a_sync_that_fails_while_events_are_caught_up_takes_back_what_was_copied_before(data: Path) -> None:
    """Scenario: another program kept memory.db for long. SQLite copies in between, and again what it copied when its
    sync fails, but not what a fold had copied and not yet synced: those pages would be nowhere."""
    generation = str((data / "memory.db").resolve())
    faulty = ("-P", generation, "-e", "trace=fdatasync,pwrite64", "-e", "inject=fdatasync:error=EIO:when=1")
    lines = under_strace(data, _BEGIN + _CATCHES_UP, *faulty)
    (failed,) = (at for at, line in enumerate(lines) if "INJECTED" in line)
    before, after = (
        {line.split(", ")[-1] for line in part if "pwrite64" in line} for part in (lines[:failed], lines[failed:])
    )
    assert len(before) > 100
    assert before <= after, "by their offsets"


def test_where_the_disk_does_not_give_out_the_log_what_was_committed_is_acknowledged(data: Path) -> None:
    """Scenario: a sector of it rotted. Who looks at its length has committed; memory.db is opened again."""
    program = """
with open_server_sync(sys.argv[1], background=False) as hook:
    before = hook.core.state
    hook.append_all([fact(number) for number in range(3000)])
    for number in range(40):
        hook.append(fact(4000 + number))
    assert hook.core.state is not before
    assert not hook.core.away
    assert hook.core.state.folding.failed is None
"""
    log = f"{(data / 'memory.db').resolve()}-wal"
    faulty = ("-P", log, "-e", "trace=pread64", "-e", "inject=pread64:error=EIO:when=1")
    lines = under_strace(data, _FACTS + program, *faulty)
    assert sum("INJECTED" in line for line in lines) == 1


@pytest.mark.parametrize(("error", "failed"), [("EIO", True), ("ENOSPC", True), ("ENOSYS", False), ("EPERM", False)])
def test_only_what_was_not_written_is_a_failure(data: Path, error: str, failed: bool) -> None:
    """A piece that could not be written says so once. A sandbox without that call says so each time, and the sync that
    follows writes all."""
    program = f"{_BEGIN}\n    folding.sync_file()\n    assert bool(folding.failed) is {failed}, folding.failed\n"
    generation = str((data / "memory.db").resolve())
    inject = f"inject=sync_file_range:error={error}:when=1"
    lines = under_strace(data, program, "-P", generation, "-e", "trace=sync_file_range", "-e", inject)
    assert sum("INJECTED" in line for line in lines) == 1


def test_a_reader_that_stays_does_not_hide_what_a_failed_sync_lost(data: Path) -> None:
    """The pages that the kernel could not write are what the disk held before; the kernel's cache forgets the rest. A
    reader of another process, idle even, keeps the index of the log, which says that they are in the file."""
    generation = str((data / "memory.db").resolve())
    with closing(connect(generation, read_only=True)) as reader:
        reader.execute("SELECT seq FROM journal_position").fetchall()
        with closing(connect(generation)) as connection:
            connection.execute("PRAGMA wal_checkpoint(PASSIVE)")
        before = data.parent / "before.db"
        subprocess.run(["cp", generation, before], check=True)  # to open it here would drop the reader's locks
        faulty = ("-P", generation, "-e", "trace=fdatasync", "-e", "inject=fdatasync:error=EIO:when=1")
        lines = under_strace(data, _BEGIN + _FAILED, *faulty)
        assert sum("INJECTED" in line for line in lines) == 1
        subprocess.run(["dd", f"if={before}", f"of={generation}", "conv=notrunc", "status=none"], check=True)
        with open_server_sync(data, background=False) as hook:
            assert not hook.recovered.rebuilt, "the log has all of it"
            assert live(hook.core).folding.copy() is False
    with closing(connect(generation)) as connection:
        assert connection.execute("PRAGMA integrity_check").fetchone() == ("ok",)
        assert connection.execute("SELECT count(*) FROM observations").fetchone() == (3002,)
