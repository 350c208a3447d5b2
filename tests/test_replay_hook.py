"""The hook's two faces over a real journal and a real memory.db."""

from __future__ import annotations

import sqlite3
import sys
import threading
from collections.abc import Callable, Sequence
from contextlib import closing
from pathlib import Path
from time import monotonic, sleep

import anyio
import anyio.from_thread
import anyio.to_thread
import pytest

from journal.errors import Corrupt, JournalError, NoSpace, NotApplied, Poisoned, Refused, UsageError
from journal.events import ConfigWritten, EntityCreated, ObservationAdded, RelationCreated, StateRestored
from journal.log import Appended, Log
from journal.reader import LogReader
from journal.record import Record
from journal.retention import Policy
from journal.storage import RealStorage
from recovery import open_server, open_server_sync
from recovery.setup import initialise
from replay.core import SLOW_SYNC_NS
from replay.digest import state_digest
from replay.holders import holders
from replay.model import Model
from replay.rebuild import rebuild
from replay.schema import connect, read_position


@pytest.fixture
def data(tmp_path: Path) -> Path:
    path = tmp_path / "data"
    initialise(str(path))
    return path


def reference(data: Path) -> Model:
    model = Model()
    for batch in LogReader(RealStorage(), str(data / "journal")).batches():
        for seq, record in enumerate(batch.records(), batch.first_seq):
            model.apply(seq, record.time, record.agent, record.event)
    return model


def live_digest(data: Path) -> str:
    with closing(connect(data / "memory.db", read_only=True)) as connection:
        return state_digest(connection)


ACME = EntityCreated("global", "Acme", "company")


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
def test_tasks_write_through_and_each_gets_its_own_receipt(data: Path, backend: str) -> None:
    async def serve() -> list[int]:
        seqs: list[int] = []
        async with open_server(data, background=False) as hook:
            await hook.append(ACME)

            async def write(number: int) -> None:
                for index in range(20):
                    event = ObservationAdded("global", "Acme", f"fact {number}-{index}")
                    seqs.append((await hook.append(event, agent=f"a{number}")).seq)

            async with anyio.create_task_group() as tasks:
                for number in range(16):
                    tasks.start_soon(write, number)
        return seqs

    seqs = anyio.run(serve, backend=backend)
    assert sorted(seqs) == list(range(2, 322))
    assert live_digest(data) == reference(data).digest()


def test_threads_share_batches_and_each_gets_its_own_receipt(data: Path) -> None:
    seqs: list[int] = []
    with open_server_sync(data, background=False) as hook:
        hook.append(ACME)

        def write(number: int) -> None:
            for index in range(25):
                seqs.append(hook.append(ObservationAdded("global", "Acme", f"fact {number}-{index}")).seq)

        threads = [threading.Thread(target=write, args=(number,)) for number in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert sorted(seqs) == list(range(2, 202))
    assert live_digest(data) == reference(data).digest()


def test_a_reference_within_one_batch_is_counted_in(data: Path) -> None:
    with open_server_sync(data, background=False) as hook:
        receipts = hook.append_all(
            [ACME, EntityCreated("global", "Bolt", "company"), RelationCreated("global", "Acme", "Bolt", "owns"),
             ObservationAdded("global", "Bolt", "makes bolts")]
        )  # fmt: skip
        assert [receipt.seq for receipt in receipts] == [1, 2, 3, 4]
        with pytest.raises(Refused) as caught:
            hook.append_all([EntityCreated("global", "Cog", "company"), ACME])
        assert caught.value.code == "already_exists"
        with pytest.raises(Refused) as caught:
            hook.append(ObservationAdded("global", "Cog", "was never created"))
        assert caught.value.code == "not_found"
    assert live_digest(data) == reference(data).digest()


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
def test_cancelling_an_await_never_withdraws_what_was_queued(data: Path, backend: str) -> None:
    async def serve() -> None:
        async with open_server(data, background=False) as hook:
            with anyio.CancelScope() as scope:
                scope.cancel()
                await hook.append(ACME, op_id="once")
            assert (await hook.append(ACME, op_id="once")).seq == 1

    anyio.run(serve, backend=backend)
    assert [len(batch.records()) for batch in LogReader(RealStorage(), f"{data}/journal").batches()] == [1]


def test_a_closed_hook_takes_nothing_more(data: Path) -> None:
    async def serve() -> None:
        async with open_server(data, background=False) as hook:
            await hook.append(ACME)
        with pytest.raises(Poisoned):
            await hook.append(EntityCreated("global", "Bolt", "company"))

    anyio.run(serve)


def test_a_server_error_still_commits_what_was_queued(data: Path) -> None:
    async def serve() -> None:
        async with open_server(data, background=False) as hook, anyio.create_task_group() as tasks:
            tasks.start_soon(hook.append, ACME)
            await anyio.sleep(0)
            raise RuntimeError("a bug in the server")

    with pytest.raises(BaseException, match=r"bug|unhandled"):
        anyio.run(serve)
    assert live_digest(data) == reference(data).digest()


def test_agent_configs_are_materialised_byte_for_byte_and_removed(data: Path) -> None:
    content = "---\r\nname: writer\r\n---\r\nno newline at the end".encode("utf-8-sig")
    with open_server_sync(data, background=False) as hook:
        hook.agents.write("writer.agent", content)
        path = data / "agents" / "writer.agent.md"
        assert path.read_bytes() == content
        hook.agents.write("writer.agent", "second")
        assert path.read_bytes() == b"second"
        hook.agents.remove("writer.agent")
        assert not path.exists()


def test_a_hand_edit_is_kept_in_quarantine_when_the_hook_writes_over_it(data: Path) -> None:
    with open_server_sync(data, background=False) as hook:
        hook.agents.write("writer", "first")
        (data / "agents" / "writer.md").write_text("edited by hand")
        hook.agents.write("writer", "second")
    kept = [path.read_bytes() for path in (data / "journal" / "quarantine").rglob("*") if path.is_file()]
    assert b"edited by hand" in kept


@pytest.mark.parametrize("name", ["../x", "a/b", "..", "", "nul\0", "x" * 253, " x"])
def test_a_name_that_could_leave_the_directory_is_refused(data: Path, name: str) -> None:
    with open_server_sync(data, background=False) as hook, pytest.raises(Refused):
        hook.agents.write(name, "text")
    assert sorted(path.name for path in (data / "agents").iterdir()) == []


def test_the_journals_own_events_are_not_taken_from_callers(data: Path) -> None:
    with open_server_sync(data, background=False) as hook, pytest.raises(Refused) as caught:
        hook.append(StateRestored(0))
    assert caught.value.code == "reserved_type"


def test_when_memory_db_cannot_be_written_events_are_journaled_and_applied_later(data: Path) -> None:
    with open_server_sync(data, background=False) as hook:
        hook.append(ACME)
        generation = Path(hook.core.state.generation)
        with closing(sqlite3.connect(generation, isolation_level=None)) as other:
            other.execute("BEGIN IMMEDIATE")  # another program holds memory.db's write lock
            hook.core.state.connection.execute("PRAGMA busy_timeout=10")
            with pytest.raises(NotApplied, match="journaled at seq 2"):
                hook.append(ObservationAdded("global", "Acme", "one"))
            other.execute("ROLLBACK")
        assert hook.append(ObservationAdded("global", "Acme", "two")).seq == 3
        position = read_position(hook.core.state.connection)
        assert position is not None
        assert position.seq == 3
    assert live_digest(data) == reference(data).digest()


def test_readers_hear_of_a_swap_though_what_came_after_it_failed(data: Path) -> None:
    """The next generation is in place, then the disk fails: whoever reads the old one must not go on with it."""
    seen: list[str] = []
    with open_server_sync(data, background=False) as hook:
        hook.on_swap(lambda _: 1 // 0)
        hook.on_swap(seen.append)
        hook.append(ACME)
        core = hook.core

        def rebuild_and_fail() -> None:
            with core.exclusively() as log:
                rebuild(core.state.storage, core.state.layout, log.reader())
                raise OSError("input/output error")

        with pytest.raises(ZeroDivisionError):
            rebuild_and_fail()
        assert seen == [core.state.generation]
        assert hook.append(ObservationAdded("global", "Acme", "one")).seq == 2


def test_what_was_closed_is_not_opened_again_by_a_late_rebuild(data: Path) -> None:
    """An operator's request that ran on while the server closed: memory.db stays free for the next one."""
    with open_server_sync(data, background=False) as hook:
        hook.append(ACME)
    for late in (hook.core.rebuild, lambda: hook.restore(0), lambda: hook.recover_scope("global")):
        with pytest.raises(Poisoned):
            late()
    assert holders([str(data / "memory.db")]) == []


def test_a_restore_while_the_hook_is_open_swaps_and_can_be_undone(data: Path) -> None:
    seen: list[str] = []
    with open_server_sync(data, background=False) as hook:
        hook.on_swap(seen.append)
        hook.append(ACME)
        hook.agents.write("writer", "first")
        hook.append(ObservationAdded("global", "Acme", "one"))
        hook.agents.write("writer", "second")
        before = live_digest(data)
        hook.restore(2, reason="try again")
        assert (data / "agents" / "writer.md").read_bytes() == b"first"
        hook.append(ObservationAdded("global", "Acme", "one"))
        hook.restore(4)
        assert live_digest(data) == before
        assert (data / "agents" / "writer.md").read_bytes() == b"second"
        with pytest.raises(Refused):
            hook.append(ObservationAdded("global", "Acme", "one"))
    assert len(seen) == 2
    assert live_digest(data) == reference(data).digest()


def test_a_config_is_refused_when_its_sha256_does_not_match(data: Path) -> None:
    with open_server_sync(data, background=False) as hook, pytest.raises(Refused, match="sha256"):
        hook.append(ConfigWritten("writer", b"text", "0" * 64))


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
def test_what_is_queued_when_a_restore_begins_is_answered_after_it(data: Path, backend: str) -> None:
    done: list[int] = []

    async def serve() -> None:
        async with open_server(data, background=False) as hook, anyio.create_task_group() as tasks:
            await hook.append(ACME)

            async def write(number: int) -> None:
                done.append((await hook.append(ObservationAdded("global", "Acme", f"fact {number}"))).seq)

            hook.core.lock.acquire()  # the restore waits for it first, and then finds the queue as it is
            tasks.start_soon(hook.restore, 1)
            await anyio.sleep(0.05)
            for number in range(4):
                tasks.start_soon(write, number)
            await anyio.sleep(0.05)
            hook.core.lock.release()
            with anyio.move_on_after(10):
                while len(done) < 4:
                    await anyio.sleep(0.01)
            tasks.cancel_scope.cancel()

    anyio.run(serve, backend=backend)
    assert len(done) == 4
    assert live_digest(data) == reference(data).digest()


def test_a_restore_that_cannot_be_applied_lets_nothing_be_checked_against_the_state_before_it(
    data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Acme is there in memory.db, and no more in the state that the restore made current."""
    with open_server_sync(data, background=False) as hook:
        hook.append(ACME)
        generation = Path(hook.core.state.generation)
        next_one = generation.with_name("memory-000002.db.building")
        let_go = hook.core.state.close

        def close() -> None:
            let_go()
            next_one.mkdir(exist_ok=True)  # the next generation cannot be built

        monkeypatch.setattr(hook.core.state, "close", close)
        with pytest.raises((JournalError, OSError, sqlite3.Error)):
            hook.restore(0)
        with pytest.raises(Poisoned, match="restore at seq 2"):
            hook.append(ObservationAdded("global", "Acme", "of nobody"))
    next_one.rmdir()
    with open_server_sync(data, background=False) as hook, pytest.raises(Refused) as caught:
        hook.append(ObservationAdded("global", "Acme", "of nobody"))
    assert caught.value.code == "not_found"
    assert live_digest(data) == reference(data).digest()


def test_a_restore_to_a_seq_that_is_not_there_leaves_the_hook_as_it_was(data: Path) -> None:
    with open_server_sync(data, background=False) as hook:
        hook.append(ACME)
        state = hook.core.state
        with pytest.raises(UsageError):
            hook.restore(2)
        assert hook.core.state is state
        assert hook.append(ObservationAdded("global", "Acme", "one")).seq == 2


def test_a_retry_of_what_was_not_applied_gets_it_applied(data: Path) -> None:
    """It appends nothing, so no later batch would do that."""
    with open_server_sync(data, background=False) as hook:
        hook.append(ACME)
        with closing(sqlite3.connect(hook.core.state.generation, isolation_level=None)) as other:
            other.execute("BEGIN IMMEDIATE")
            hook.core.state.connection.execute("PRAGMA busy_timeout=10")
            with pytest.raises(NotApplied):
                hook.append(ObservationAdded("global", "Acme", "one"), op_id="once")
            other.execute("ROLLBACK")
        assert hook.append(ObservationAdded("global", "Acme", "one"), op_id="once").seq == 2
        assert live_digest(data) == reference(data).digest()


def test_an_agent_file_that_could_not_be_written_is_written_with_the_next_batch(data: Path) -> None:
    with open_server_sync(data, background=False) as hook:
        hook.append(ACME)
        (data / "agents").rename(data / "agents.away")
        (data / "agents").write_text("in the way")
        with pytest.raises(NotApplied):
            hook.agents.write("writer", "first")
        (data / "agents").unlink()
        (data / "agents.away").rename(data / "agents")
        hook.append(ObservationAdded("global", "Acme", "one"))
        assert (data / "agents" / "writer.md").read_bytes() == b"first"


def test_a_memory_db_that_cannot_be_asked_refuses_events_and_no_more(data: Path) -> None:
    """Nothing was written, so the journal is as sound as before."""
    with open_server_sync(data, background=False) as hook, closing(connect(data / "memory.db")) as another:
        hook.append(ACME)
        another.execute("ALTER TABLE observations RENAME TO elsewhere")
        with pytest.raises(Corrupt):
            hook.append(ObservationAdded("global", "Acme", "one"))
        another.execute("ALTER TABLE elsewhere RENAME TO observations")
        assert hook.append(ObservationAdded("global", "Acme", "one")).seq == 2
    assert live_digest(data) == reference(data).digest()


def test_a_closed_hook_for_threads_takes_nothing_more(data: Path) -> None:
    with open_server_sync(data, background=False) as hook:
        hook.append(ACME)
    with pytest.raises(Poisoned):
        hook.append(EntityCreated("global", "Bolt", "company"))


def test_a_group_of_nothing_writes_nothing(data: Path) -> None:
    with open_server_sync(data, background=False) as hook:
        hook.append(ACME)
        assert hook.append_all([]) == []
        assert hook.append_all(iter([])) == []
        assert hook.append(ObservationAdded("global", "Acme", "one")).seq == 2
    assert live_digest(data) == reference(data).digest()


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
def test_an_interrupt_while_committing_ends_the_server_and_leaves_nobody_waiting(data: Path, backend: str) -> None:
    """Ctrl-C arrives in the task that commits: the other tasks hear of it, the lock is free, nothing hangs."""
    told: list[BaseException] = []

    async def serve() -> None:
        async with anyio.create_task_group() as tasks, open_server(data, background=False) as hook:
            await hook.append(ACME)

            async def write() -> None:
                try:
                    await hook.append(ObservationAdded("global", "Acme", "one"), op_id="once")
                except JournalError as error:
                    told.append(error)

            def interrupted(appended: Appended, records: Sequence[Record]) -> None:
                raise KeyboardInterrupt

            hook.core.state.apply = interrupted  # type: ignore[method-assign]
            tasks.start_soon(write)
            await anyio.sleep(0.2)

    with pytest.raises(BaseException, match=r"unhandled|Trio|^$"):  # KeyboardInterrupt, maybe in a group
        anyio.run(serve, backend=backend)
    assert [type(error) for error in told] in ([], [NotApplied])
    with open_server_sync(data, background=False) as hook:
        assert hook.append(ObservationAdded("global", "Acme", "one"), op_id="once").seq == 2


@pytest.mark.parametrize("full", [False, True])
def test_an_open_that_fails_at_its_last_step_locks_nobody_out(
    data: Path, monkeypatch: pytest.MonkeyPatch, full: bool
) -> None:
    """A writer was killed, and what its successor has to say of that cannot be written."""
    with open_server_sync(data, background=False) as hook:
        hook.append(ACME)
        hook.core.log._lock.release()
        hook.core.log.poison("killed")
    if full:  # the reserve takes it
        (data / "journal.yaml").write_text(f"disk:\n  reserve_bytes: {1 << 60}\n")
    else:
        monkeypatch.setattr(Log, "append_payload", _no_space)
        with pytest.raises(NoSpace), open_server_sync(data, background=False):
            pass
        monkeypatch.undo()
    with open_server_sync(data, background=False) as hook:
        hook.append(ObservationAdded("global", "Acme", "one"))
    assert live_digest(data) == reference(data).digest()


def _no_space(*_: object) -> None:
    raise NoSpace("no space")


def test_recovery_uses_the_reserve(data: Path) -> None:
    with open_server_sync(data, background=False) as hook:
        hook.append(ACME)
    (data / "memory.db").unlink()
    (data / "journal.yaml").write_text(f"disk:\n  reserve_bytes: {1 << 60}\n")
    with open_server_sync(data, background=False) as hook, pytest.raises(NoSpace):
        hook.append_all(ObservationAdded("global", "Acme", f"{number}" * 1000) for number in range(100))
    assert live_digest(data) == reference(data).digest()


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
def test_a_commit_needs_no_thread_that_those_who_wait_for_it_hold(data: Path, backend: str) -> None:
    """A web server runs its blocking endpoints in threads, and each of them waits for an append."""

    async def serve() -> None:
        anyio.to_thread.current_default_thread_limiter().total_tokens = 2
        async with open_server(data, background=False) as hook, anyio.create_task_group() as tasks:
            for _ in range(10):
                hook.core._pace.note(SLOW_SYNC_NS + 1)  # a slow disk: commits go to a thread

            def endpoint(number: int) -> None:
                anyio.from_thread.run(hook.append, EntityCreated("global", f"e{number}", "thing"))

            for number in range(8):
                tasks.start_soon(anyio.to_thread.run_sync, endpoint, number)

    server = threading.Thread(target=lambda: anyio.run(serve, backend=backend), daemon=True)
    server.start()
    server.join(30)
    assert not server.is_alive()
    assert live_digest(data) == reference(data).digest()


def test_a_checkpoint_that_cannot_even_start_is_not_the_last_one(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with open_server_sync(data) as hook:
        hook.background.policy = Policy(events=1)
        monkeypatch.setattr(sys, "executable", "/nowhere/python")
        hook.append(ACME)
        _until(lambda: hook.background.last_error is not None)
        monkeypatch.undo()
        hook.append(EntityCreated("global", "Bolt", "company"))
        _until(lambda: any((data / "journal" / "checkpoints").glob("*.manifest")))


def _until(holds: Callable[[], bool]) -> None:
    deadline = monotonic() + 30
    while not holds():
        assert monotonic() < deadline
        sleep(0.05)


def test_text_that_is_no_text_is_refused(data: Path) -> None:
    with open_server_sync(data, background=False) as hook, pytest.raises(Refused, match="surrogate"):
        hook.agents.write("writer", "a\ud800")
