"""memory.db's write-ahead log is folded while others write: which syncs it takes, and what one that fails leaves."""

from __future__ import annotations

import re
import resource
import shutil
import sqlite3
import subprocess
import sys
import threading
from contextlib import closing, suppress
from pathlib import Path
from threading import Thread

import pytest

from journal.events import EntityCreated, ObservationAdded
from recovery import open_server_sync
from recovery.setup import adopt_state, initialise
from replay.core import Core
from replay.digest import state_digest
from replay.folding import COPY_BYTES, FOLD_BYTES, Folding
from replay.holders import descriptors
from replay.live import LiveState
from replay.schema import connect
from tests import traced
from tests.command import ENVIRONMENT, ROOT

LARGE = "x" * 200_000


@pytest.fixture
def data(tmp_path: Path) -> Path:
    initialise(str(tmp_path / "data"))
    with open_server_sync(tmp_path / "data", background=False) as hook:  # from here on it is in WAL mode
        hook.append(EntityCreated("global", "Acme", "company"))
    return tmp_path / "data"


def fact(number: int, text: str = "") -> ObservationAdded:
    return ObservationAdded("global", "Acme", f"{number} {text}")


def live(core: Core) -> LiveState:
    assert isinstance(core.state, LiveState)
    return core.state


def salts(state: LiveState) -> bytes:
    return Path(f"{state.generation}-wal").read_bytes()[16:24]


# -- by strace ---------------------------------------------------------------------------------------------------------

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


# -- in one process ----------------------------------------------------------------------------------------------------


def test_after_a_sync_that_failed_memory_db_is_opened_again(data: Path) -> None:
    """By the policy of a memory.db that is gone: the log is read from its start then, and folded from there."""
    with open_server_sync(data, background=False) as hook:
        before = live(hook.core)
        before.folding.failed = "input/output error"
        for number in range(40):
            hook.append(fact(number))
        after = live(hook.core)
        assert after is not before
        assert after.folding.failed is None
        assert not hook.core.away
        assert after.folding.copy() is False
        (count,) = after.connection.execute("SELECT count(*) FROM observations").fetchone()
        assert count == 40


def test_the_log_is_written_over_and_not_grown_again(data: Path) -> None:
    """60 MB of it: a log that is cut and grown each time costs a commit of the file system's journal each time."""
    with open_server_sync(data, background=False) as hook:
        state = live(hook.core)
        log, lengths, runs = Path(f"{state.generation}-wal"), [], set()
        for number in range(300):
            hook.append(fact(number, LARGE))
            state.folding.join()
            lengths.append(log.stat().st_size)
            runs.add(salts(state))
        assert len(runs) >= 3
        assert lengths == sorted(lengths)
        assert lengths[-1] < 1.5 * FOLD_BYTES
        assert state.connection.execute("PRAGMA wal_autocheckpoint").fetchone() == (0,)


def test_what_a_slow_reader_made_of_the_log_is_cut_when_it_begins_anew(data: Path) -> None:
    with open_server_sync(data, background=False) as hook:
        state = live(hook.core)
        log = Path(f"{state.generation}-wal")
        with closing(connect(state.generation, read_only=True)) as reader:
            reader.execute("BEGIN")
            reader.execute("SELECT * FROM journal_position").fetchall()
            for number in range(250):
                hook.append(fact(number, LARGE))
            state.folding.join()
            assert log.stat().st_size > 2 * FOLD_BYTES
        assert state.folding.copy() is False
        hook.append(fact(-1))
        assert log.stat().st_size <= 2 * FOLD_BYTES


def test_a_fold_goes_on_beside_writers_and_ends_with_the_server(data: Path) -> None:
    """Eight threads write while folds come and go; the last one is under way, or not, when the server is closed."""
    with open_server_sync(data, background=False) as hook:
        state = live(hook.core)

        def write(first: int) -> None:
            for number in range(first, first + 60):
                hook.append(fact(number, LARGE[:50_000]))
                if number % 10 == 0:
                    hook.core.fold()

        threads = [Thread(target=write, args=(number * 1000,)) for number in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        with hook.core.lock:
            digest = state_digest(state.connection)
        hook.core.fold()
        folder = state.folding._thread
    assert folder is None or not folder.is_alive()
    generation = str((data / "memory.db").resolve())
    assert not descriptors(generation)
    assert not Path(f"{generation}-wal").exists(), "nothing was left in it"
    with closing(connect(generation)) as connection:
        assert connection.execute("PRAGMA integrity_check").fetchone() == ("ok",)
        assert state_digest(connection) == digest


def test_all_writers_wait_for_few_pages_at_once(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """However long the log gets before the file is synced: 16 MiB in one piece take 12 to 18 ms."""
    usual, copied = Folding.copy, list[int]()

    def copy(folding: Folding) -> bool:
        before, left = folding._copied, usual(folding)
        copied.append(folding._copied.bytes - (before.bytes if before.salts == folding._copied.salts else 0))
        return left

    monkeypatch.setattr(Folding, "copy", copy)
    with open_server_sync(data, background=False) as hook:
        folding = live(hook.core).folding
        for number in range(1000):
            hook.append(fact(number, LARGE[:50_000]))
            if folding._at_work.locked():
                hook.append(fact(-number))
                folding.join()
        assert sum(copied) > 2 * FOLD_BYTES
        assert max(copied) < FOLD_BYTES / 2


def test_a_copy_waits_for_a_younger_commit_so_that_sqlite_does_not_sync_the_file(
    data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Scenario: the writers pause for a moment while the log is synced. They would wait for the sync of all pages."""
    with open_server_sync(data, background=False) as hook:
        state, synced, left = live(hook.core), threading.Event(), list[bool]()
        hook.append_all([fact(number, LARGE) for number in range(10)])
        sync_log, copy = state.folding.sync_log, state.folding.copy
        monkeypatch.setattr(state.folding, "sync_log", lambda: (sync_log(), synced.set()))
        monkeypatch.setattr(state.folding, "copy", lambda: left.append(copy()) or left[-1])
        hook.core.fold()
        assert synced.wait(60)
        hook.append(fact(-1))
        state.folding.join()
        assert left == [True]


def test_what_is_committed_while_the_log_is_synced_is_not_taken_for_copied(
    data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Scenario: a slow disk. All of that would be copied and synced while all writers wait: of little only, it may."""
    with open_server_sync(data, background=False) as hook:
        state, held = live(hook.core), list[bool]()
        hook.append_all([fact(number, LARGE) for number in range(FOLD_BYTES // len(LARGE) + 10)])
        sync_log, copy = state.folding.sync_log, state.folding.copy
        meanwhile = [
            [fact(-2 - number, LARGE) for number in range(20)],
            *([fact(-100 - number)] for number in range(9)),
        ]

        def slowly() -> None:
            sync_log()
            hook.append_all(meanwhile.pop(0))

        def recorded() -> bool:
            assert state.folding._reader is not None
            held.append(state.folding._reader.in_transaction)
            return copy()

        monkeypatch.setattr(state.folding, "sync_log", slowly)
        monkeypatch.setattr(state.folding, "copy", recorded)
        hook.core.fold()
        state.folding.join()
        assert held == [True, True, False]


def test_the_log_is_folded_while_a_memory_is_taken_in(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It would get as long as the memory, and be folded at the end."""
    with open_server_sync(data, background=False) as hook:
        hook.append_all([fact(number) for number in range(300)])
    (tmp_path / "server").mkdir()
    shutil.copy(data / "memory.db", tmp_path / "server" / "memory.db")
    usual, begun = Folding.beside, list[str]()
    monkeypatch.setattr(Folding, "beside", lambda folding, lock: begun.append(folding._path) or usual(folding, lock))
    monkeypatch.setattr("recovery.setup.AT_ONCE", 10)
    monkeypatch.setattr("replay.folding.COPY_BYTES", 1 << 16)
    adopt_state(initialise(str(tmp_path / "server"), adopt=True)[0])
    assert begun


def test_where_no_descriptor_is_free_the_log_is_folded_without_a_reader(
    data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It would grow for as long as that is so, and nobody would say so."""
    monkeypatch.setattr("replay.folding.COPY_BYTES", COPY_BYTES // 2)  # the journal's next segment takes a descriptor
    with open_server_sync(data, background=False) as hook:
        state = live(hook.core)
        for number in range(16):
            hook.append(fact(number))
        assert not state.wants_fold, "it was looked at"
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        before = salts(state)
        with closing(Path("/dev/null").open("rb")) as lowest:
            resource.setrlimit(resource.RLIMIT_NOFILE, (lowest.fileno(), hard))
        try:
            for number in range(48):
                hook.append(fact(number, LARGE))
                state.folding.join()
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        assert salts(state) != before, "it began anew"
        assert Path(f"{state.generation}-wal").stat().st_size < FOLD_BYTES // 2


def test_where_no_thread_can_be_had_appending_goes_on_and_a_later_look_folds(
    data: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Scenario: the limit of processes is reached. What was journaled and applied by then is to be acknowledged."""
    with open_server_sync(data, background=False) as hook:
        state = live(hook.core)
        hook.append(fact(-1))
        before = salts(state)
        usual = threading.stack_size(1 << 52)  # no address space is that large
        try:
            for number in range(100):
                hook.append(fact(number, LARGE))
        finally:
            threading.stack_size(usual)
        assert "is not folded: can't start new thread" in caplog.text
        assert salts(state) == before
        for number in range(17):
            hook.append(fact(number))
            state.folding.join()
        assert salts(state) != before


def test_a_program_that_waits_for_the_reader_and_keeps_writers_waiting_is_let_pass(
    data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Scenario: another program folds with TRUNCATE. It takes the write lock, and waits with it for readers to go: for
    that of a fold, which goes on once it has the writers' lock, which is held by who waits for the write lock."""
    with open_server_sync(data, background=False) as hook:
        state, held, go_on = live(hook.core), threading.Event(), threading.Event()
        for number in range(10):
            hook.append(fact(number, LARGE))
        monkeypatch.setattr(state.folding, "sync_log", lambda: (held.set(), go_on.wait(60)))
        hook.core.fold()
        assert held.wait(60)
        hook.append(fact(-1))
        other = subprocess.Popen([sys.executable, "-c", _TRUNCATES, state.generation], stdout=subprocess.PIPE)
        try:
            with hook.core.lock:
                wait_until_it_waits(other, state)
                go_on.set()
                state.connection.execute("BEGIN IMMEDIATE")
                state.connection.execute("ROLLBACK")
            assert other.communicate(timeout=60)[0] == b"0\n", "it got its turn"
        finally:
            go_on.set()
            other.kill()
            other.wait()


def test_a_log_that_another_program_is_folding_is_not_taken_for_folded(data: Path) -> None:
    """SQLite gives -1 for the length of such a log, and -1 for what is copied of it."""
    with open_server_sync(data, background=False) as hook:
        state = live(hook.core)
        hook.append(fact(0))
        with closing(connect(state.generation, read_only=True)) as reader:
            reader.execute("BEGIN")
            reader.execute("SELECT seq FROM journal_position").fetchall()
            hook.append(fact(1))
            other = subprocess.Popen([sys.executable, "-c", _TRUNCATES, state.generation], stdout=subprocess.PIPE)
            try:
                wait_until_it_waits(other, state)
                assert state.folding.copy()
                reader.execute("ROLLBACK")
                assert other.communicate(timeout=60)[0] == b"0\n"
            finally:
                other.kill()
                other.wait()
        assert not state.folding.copy()


def wait_until_it_waits(other: subprocess.Popen[bytes], state: LiveState) -> None:
    """For a reader to go, with the write lock in its hands."""
    with closing(sqlite3.connect(state.generation, timeout=0, isolation_level=None)) as probe, suppress(sqlite3.Error):
        while other.poll() is None:
            probe.execute("BEGIN IMMEDIATE")
            probe.execute("ROLLBACK")
    assert other.poll() is None


_TRUNCATES = """
import sqlite3, sys
connection = sqlite3.connect(sys.argv[1], timeout=50)
print(connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()[0])
"""
