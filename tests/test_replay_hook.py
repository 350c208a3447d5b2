"""The hook's two faces over a real journal and a real memory.db."""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import anyio
import pytest

from journal.errors import NotApplied, Poisoned, Refused
from journal.events import ConfigWritten, EntityCreated, ObservationAdded, RelationCreated, StateRestored
from journal.reader import LogReader
from journal.storage import RealStorage
from recovery import open_server, open_server_sync
from recovery.setup import initialise
from replay.digest import state_digest
from replay.model import Model
from replay.schema import connect, read_position


@pytest.fixture
def data(tmp_path: Path) -> Iterator[Path]:
    path = tmp_path / "data"
    initialise(str(path))
    yield path


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

    with pytest.raises(BaseException, match="bug|unhandled"):
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
