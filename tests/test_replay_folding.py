"""memory.db's write-ahead log is folded while others write: how long it gets, who waits, and what is in the way."""

from __future__ import annotations

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

from recovery import open_server_sync
from recovery.setup import adopt_state, initialise
from replay.digest import state_digest
from replay.folding import COPY_BYTES, FOLD_BYTES, Folding, _added
from replay.holders import descriptors
from replay.live import LiveState
from replay.schema import connect
from tests.folds import LARGE, fact, live, salts, with_a_log


@pytest.fixture
def data(tmp_path: Path) -> Path:
    return with_a_log(tmp_path / "data")


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
        copied.append(_added(before, folding._copied))
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
