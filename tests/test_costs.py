"""What a write costs, counted: calls, bytes and statements, which do not depend on the machine.

A regression in speed that matters shows here first; time itself is measured by `make bench`, and asserted nowhere.
"""

from __future__ import annotations

import asyncio
import gc
import sqlite3
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, closing, contextmanager, nullcontext
from itertools import pairwise
from pathlib import Path
from threading import Thread
from types import FrameType
from typing import Any

import anyio
import pytest

from journal import storage
from journal.commit import Committer, Ticket, draft, ticket
from journal.events import (
    EntityCreated,
    EntityUpdated,
    Event,
    ObservationAdded,
    ObservationRemoved,
    RelationCreated,
)
from journal.format import BATCH_HEADER_BYTES, TRAILER_BYTES
from journal.log import Log, create
from journal.reader import LogReader
from journal.record import Record
from journal.storage import RealStorage
from recovery import open_server, open_server_sync
from recovery.setup import initialise
from replay.bulk import BulkLoader
from replay.core import Core, Pace
from replay.engine import build_state
from replay.folding import FOLD_BYTES, ROUNDS_MAX
from replay.memory import apply_records
from replay.schema import connect
from replay.schema import create as create_tables
from replay.working import connect_private
from tests.commands import ENVIRONMENT
from tests.crashes import Everything
from tests.histories import Step
from tests.simdisk import SimDisk
from tests.worlds import World, world_in

JOURNAL = "/data/journal"
TEXT = "x" * 120
ROOMS = tuple(str(Path(__file__).resolve().parent.parent / room) for room in ("journal", "replay"))


@contextmanager
def writer(disk: SimDisk) -> Iterator[Committer]:
    """A committer whose segment is open and filled ahead, as it is between two appends."""
    create(disk, JOURNAL, journal_id=bytes(16))
    with closing(Log.open(disk, JOURNAL, reserve_bytes=0)) as log:
        committer = Committer(log, Everything())
        committer.submit(observation(0))
        committer.run()
        yield committer


def observation(number: int, op_id: str | None = None) -> Ticket:
    text = f"{number}-{TEXT}"[:120]
    return ticket([draft(ObservationAdded("global", "Acme", text), "sales", None, None)], op_id)


def changes(disk: SimDisk) -> Counter[str]:
    return Counter(disk.counts.operations)


@pytest.mark.parametrize("together", [1, 32, 256])
def test_a_batch_is_one_write_and_one_sync(together: int) -> None:
    disk = SimDisk()
    with writer(disk) as committer:
        before, bytes_before = changes(disk), disk.counts.bytes_written
        for number in range(1, together + 1):
            committer.submit(observation(number, f"op-{number}"))
        settled = committer.run()
        done = changes(disk) - before
        assert [request.result()[0].seq for request in settled] == list(range(2, together + 2))
        assert (done["write"], done["sync"]) == (1, 1)
        assert not done.keys() & {"sync_dir", "create", "open", "rename", "truncate", "lock"}
        assert disk.counts.bytes_written - bytes_before <= 200 * together + BATCH_HEADER_BYTES + TRAILER_BYTES + 3


def test_zero_filling_is_rare_and_a_new_segment_rarer() -> None:
    """2,000 batches of one 120-byte observation: every sync beyond theirs is one of filling ahead, which doubles."""
    disk = SimDisk()
    with writer(disk) as committer:
        before = changes(disk)
        for number in range(2000):
            committer.submit(observation(number + 1))
            committer.run()
        done = changes(disk) - before
    assert done["sync_dir"] == 0
    assert done["create"] == 0
    assert 2000 <= done["sync"] <= 2000 + 6
    assert done["write"] == done["sync"]


def test_a_retry_reads_a_small_part_of_the_segment_that_is_being_written() -> None:
    """20 of 3,000 events, each asked for again in a batch of its own, while everybody else waits for it."""
    disk = SimDisk()
    with writer(disk) as committer:
        for number in range(1, 3001):
            committer.submit(observation(number, f"op-{number}"))
            committer.run()
        segment = disk.counts.bytes_written
        read = [disk.counts.bytes_read]
        for number in range(100, 2100, 100):
            request = observation(number, f"op-{number}")
            committer.submit(request)
            committer.run()
            assert request.result()[0].seq == number + 1
            read.append(disk.counts.bytes_read)
    assert max(after - before for before, after in pairwise(read)) <= segment // 3


@pytest.mark.parametrize(("together", "most"), [(1, 262), (32, 162), (256, 159)])
def test_bytes_of_an_observation_of_120_bytes(tmp_path: Path, together: int, most: int) -> None:
    """On disk, with its share of the batch's frame; without an op_id of its own, and closed."""
    storage, directory = RealStorage(), f"{tmp_path}/journal"
    create(storage, directory)
    with closing(Log.open(storage, directory)) as log:
        committer = Committer(log, Everything())
        for number in range(together * 8):
            committer.submit(observation(number))
            if len(committer) == together:
                committer.run()
    reader = LogReader(storage, directory)
    assert reader.last_seq == together * 8
    batches = list(reader.batches())
    assert len(batches) == 8
    assert (batches[-1].end - batches[0].offset) / reader.last_seq <= most


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
def test_tasks_that_append_at_once_share_batches(tmp_path: Path, backend: str) -> None:
    """64 tasks of 10 appends each: as many batches as rounds, and a few, however fast the disk is."""
    initialise(str(tmp_path / "data"))

    async def serve() -> None:
        async with open_server(tmp_path / "data", background=False) as hook:
            await hook.append(EntityCreated("global", "Acme", "company"))

            async def write(number: int) -> None:
                for index in range(10):
                    await hook.append(ObservationAdded("global", "Acme", f"fact {number}-{index}"))

            async with anyio.create_task_group() as tasks:
                for number in range(64):
                    tasks.start_soon(write, number)

    anyio.run(serve, backend=backend)
    counts = [batch.count for batch in LogReader(RealStorage(), f"{tmp_path}/data/journal").batches()]
    assert sum(counts) == 641
    assert len(counts) <= 40
    assert max(counts) == 64


# -- memory.db --------------------------------------------------------------------------------------------------------


def test_an_event_is_one_statement_and_a_run_of_one_kind_too() -> None:
    with closing(connect(":memory:")) as connection:
        create_tables(connection)
        statements: list[str] = []

        def apply(first_seq: int, *events: Event) -> int:
            connection.execute("BEGIN")
            statements.clear()
            connection.set_trace_callback(statements.append)
            records = [Record(0, 1, None, None, None, None, None, event) for event in events]
            applied = apply_records(connection, first_seq, records)
            connection.set_trace_callback(None)
            connection.execute("COMMIT")
            assert applied.rows == len(events)
            return len(statements)

        assert apply(1, EntityCreated("global", "Acme", "company")) == 1
        assert apply(2, ObservationAdded("global", "Acme", TEXT)) == 1
        assert apply(3, EntityUpdated("global", "Acme", confidence=0.5)) == 1
        assert apply(4, RelationCreated("global", "Acme", "Acme", "knows")) == 1
        assert apply(5, *(ObservationAdded("global", "Acme", f"{number}") for number in range(100))) == 100


def test_a_write_through_is_five_statements(tmp_path: Path) -> None:
    """Begin, who else wrote, the row, the position, commit; and no sync but the journal's. Whether the observation is
    there is asked of memory.db at the entity's first one alone."""
    initialise(str(tmp_path / "data"))
    statements: list[str] = []

    async def serve() -> None:
        async with open_server(tmp_path / "data", background=False) as hook:
            await hook.append(EntityCreated("global", "Acme", "company"))
            await hook.append(ObservationAdded("global", "Acme", "one"))
            connection = hook.core.state.connection
            assert connection.execute("PRAGMA synchronous").fetchone() == (1,)
            connection.set_trace_callback(statements.append)
            await hook.append(ObservationAdded("global", "Acme", "two"))
            connection.set_trace_callback(None)

    anyio.run(serve)
    verbs = [statement.split()[0] for statement in statements if not statement.startswith("--")]
    assert verbs == ["BEGIN", "PRAGMA", "INSERT", "INSERT", "COMMIT"], statements
    with closing(sqlite3.connect(tmp_path / "data" / "memory.db")) as connection:
        assert connection.execute("SELECT count(*) FROM observations").fetchone() == (2,)


def test_a_reader_that_takes_its_time_holds_no_fold_up(tmp_path: Path) -> None:
    """A checkpoint reads memory.db for seconds. A fold that waited for it, as SQLite does by itself, would hold every
    writer up for as long; and one after each commit would sync memory.db each time."""
    initialise(str(tmp_path / "data"))
    with open_server_sync(tmp_path / "data", background=False) as hook:
        state = hook.core.state
        hook.append(EntityCreated("global", "Acme", "company"))
        state.connection.execute("PRAGMA busy_timeout=600000")
        folds: list[str] = []
        state.connection.set_trace_callback(lambda sql: folds.append(sql) if "wal_checkpoint" in sql else None)
        with closing(connect(state.generation, read_only=True)) as reader:
            reader.execute("BEGIN")
            reader.execute("SELECT * FROM journal_position").fetchall()

            def write() -> None:
                for number in range(320):
                    hook.append(ObservationAdded("global", "Acme", f"{number}" + "x" * 200_000))

            writer_thread = Thread(target=write, daemon=True)
            writer_thread.start()
            writer_thread.join(120)
            assert not writer_thread.is_alive(), "it waits for the reader"
            grown = Path(f"{state.generation}-wal").stat().st_size
            assert grown > 3 * FOLD_BYTES
            state.folding.join()
            assert 2 <= len(folds) <= (ROUNDS_MAX + 1) * (grown // FOLD_BYTES)
            reader.execute("ROLLBACK")
        assert state.folding.copy() is False, "nothing is left"
        assert state.connection.execute("PRAGMA busy_timeout").fetchone() == (600000,)


# -- telemetry --------------------------------------------------------------------------------------------------------

CALLS = """
import sys
{imports}
from journal.events import ObservationAdded
from recovery import open_server_sync

every = of_telemetry = looks = 0
outermost = None
def note(frame, event, argument):
    global every, of_telemetry, looks, outermost
    if event in ("call", "c_call"):
        every += 1
        if outermost is None and event == "call" and frame.f_code.co_filename.endswith("/replay/tracing.py"):
            outermost = frame
        of_telemetry += outermost is not None
        looks += event == "call" and "/opentelemetry/" in frame.f_code.co_filename
    elif event == "return" and frame is outermost:
        outermost = None
with open_server_sync(sys.argv[1], background=False) as hook:
    events = [ObservationAdded("global", "Acme", f"fact {{n}}") for n in range(704)]
    for event in events[:64]:
        hook.append(event)
    sys.setprofile(note)
    for event in events[64:]:
        hook.append(event)
    sys.setprofile(None)
assert ("opentelemetry.trace" in sys.modules) == bool({imports!r})
print(every, of_telemetry, looks)
"""


def test_an_append_without_an_sdk_asks_twice_and_that_is_all_that_telemetry_costs(tmp_path: Path) -> None:
    """640 appends: a question where each begins and one where its batch is committed, of which every 64th is a look at
    the provider. The calls in these and below, counted by the interpreter, with OpenTelemetry's API and without."""
    counted = {}
    for imports in ("", "import opentelemetry.trace"):
        place = tmp_path / (imports or "nothing")
        initialise(str(place))
        with open_server_sync(place, background=False) as hook:
            hook.append(EntityCreated("global", "Acme", "company"))
        program = CALLS.format(imports=imports)
        ran = subprocess.run([sys.executable, "-c", program, str(place)], capture_output=True, text=True, check=False,
                             env=ENVIRONMENT, timeout=120)  # fmt: skip
        assert ran.returncode == 0, ran.stderr
        counted[imports] = [int(number) / 640 for number in ran.stdout.split()]
    (_, asked, none), (every, of_telemetry, looks) = counted.values()
    assert (none, 2 <= asked <= 2.2) == (0, True), "a question where it begins, one where its batch is committed"
    assert 0 < looks <= 0.5
    assert 2 < of_telemetry <= 3
    assert of_telemetry / every <= 0.02, "of the calls that the interpreter makes for an append"


# -- Python -----------------------------------------------------------------------------------------------------------


@pytest.fixture
def inline(monkeypatch: pytest.MonkeyPatch) -> None:
    """However slow the disk is, since what a thread does is not counted; and as when the log was open for a while."""
    monkeypatch.setattr(Pace, "note", lambda *_: None)
    monkeypatch.setattr(storage, "_has_settled", lambda _: True)


def appended(path: Path, tasks: int, rounds: int, during: Callable[[], AbstractContextManager[object]]) -> None:
    """So many tasks append `rounds` observations each, with op_ids, after as many that nobody counts."""
    initialise(str(path))

    async def serve() -> None:
        async with open_server(path, background=False) as hook:
            await hook.append(EntityCreated("global", "Acme", "company"))

            async def write(number: int, part: str) -> None:
                for index in range(rounds):
                    event = ObservationAdded("global", "Acme", f"{part} {number}-{index} {TEXT}")
                    await hook.append(event, agent="sales", op_id=f"{part}-{number}-{index}")

            for part, counted in (("before", nullcontext), ("during", during)):
                with counted():
                    async with asyncio.TaskGroup() as group:
                        for number in range(tasks):
                            group.create_task(write(number, part))

    asyncio.run(serve())


@pytest.mark.parametrize(("tasks", "most"), [(1, 86), (32, 19.5), (256, 18)])
def test_calls_of_an_append(inline: None, tmp_path: Path, tasks: int, most: float) -> None:
    """Functions of the project that an event goes through, with its share of the batch's: time, without a clock. Five
    of the 86 are the look at memory.db's log, which comes every 64th batch, and here in the midst of eight."""
    calls: Counter[str] = Counter()

    @contextmanager
    def profiled() -> Iterator[None]:
        def note(frame: FrameType, event: str, _: object) -> None:
            code = frame.f_code
            if event == "call" and code.co_filename.startswith(ROOMS) and not code.co_name.startswith("<"):
                calls[f"{code.co_filename}:{code.co_name}"] += 1

        sys.setprofile(note)
        try:
            yield
        finally:
            sys.setprofile(None)

    appended(tmp_path / "data", tasks, 8, profiled)
    assert calls.total() / (8 * tasks) <= most, calls.most_common(30)


def test_a_batch_is_gone_when_the_next_one_comes(inline: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """64 tasks, 8 batches: where the answered tickets of one, and their futures, live on through the next, the
    collector looks at twice as many, twice as often."""
    alive: list[int] = []
    commit = Core.commit

    def tickets() -> int:
        return sum(type(each) is Ticket for each in gc.get_objects())

    def counted(core: Core) -> list[Ticket]:
        alive.append(tickets() - others)
        return commit(core)

    gc.collect()
    others = tickets()  # of tests before

    monkeypatch.setattr(Core, "commit", counted)
    appended(tmp_path / "data", 64, 8, nullcontext)
    assert len(alive) >= 16
    assert max(alive) == 64


def test_one_pass_of_the_loop_serves_a_whole_batch(
    inline: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """64 tasks, 8 batches: no thread wakes the loop, and it asks for events once a batch, not once an event."""
    counts: Counter[str] = Counter()

    @contextmanager
    def counted() -> Iterator[None]:
        loop: Any = asyncio.get_running_loop()
        select = loop._selector.select
        monkeypatch.setattr(loop._selector, "select", lambda timeout: counts.update(["select"]) or select(timeout))
        monkeypatch.setattr(loop, "call_soon_threadsafe", lambda *_, **__: counts.update(["woken by a thread"]))
        yield
        monkeypatch.undo()

    appended(tmp_path / "data", 64, 8, counted)
    assert counts["woken by a thread"] == 0
    assert 8 <= counts["select"] <= 8 + 6


# -- replay -----------------------------------------------------------------------------------------------------------


def test_a_rebuild_is_a_statement_for_a_hundred_rows_and_one_an_index(tmp_path: Path) -> None:
    """10,000 observations of 100 entities; what begins, ends and sets the connection up comes on top."""
    events: list[Event] = [EntityCreated("global", f"E{number}", "t") for number in range(100)]
    events += [ObservationAdded("global", f"E{number % 100}", f"{number}") for number in range(10_000)]
    statements: list[str] = []
    with closing(connect_private(str(tmp_path / "memory.db"))) as connection:
        connection.set_trace_callback(statements.append)
        loader = BulkLoader(connection)
        for start in range(0, len(events), 1000):
            records = [Record(0, 1, None, None, None, None, None, event) for event in events[start : start + 1000]]
            loader.add(start + 1, records)
        assert loader.finish().rows == len(events)
        connection.set_trace_callback(None)
    done = Counter(statement.split()[0] for statement in statements if not statement.startswith("--"))
    assert done["INSERT"] == 101
    assert done["SELECT"] == 0
    assert sum("INDEX" in statement for statement in statements) == 6


def test_a_restore_scans_the_buckets_that_its_events_touch(tmp_path: Path) -> None:
    """Of 12,000 rows in 12 buckets three: those of an old entity, of a removed observation and of what was added."""
    world = world_in(tmp_path, seed=2)
    events: list[Event] = [EntityCreated("global", f"E{number}", "t") for number in range(2000)]
    events += [ObservationAdded("global", f"E{number % 2000}", f"{number}") for number in range(10_000)]
    play(world, events)
    world.checkpoint()
    world.vouch()
    play(world, [
        EntityUpdated("global", "E10", confidence=0.5), ObservationRemoved("global", "E1001", "5001"),
        *(ObservationAdded("global", "E7", f"new {number}") for number in range(20)),
    ])  # fmt: skip
    end = world.model.position
    built = build_state(world.storage, world.layout.journal, world.reader(), end, f"{tmp_path}/built.db")
    assert (built.base_seq, built.digest) == (12_000, world.digest_at(end))
    assert built.rows_scanned <= 3 * 1024
    assert sum(built.counts.values()) == 12_019


def play(world: World, events: list[Event]) -> None:
    first = world.model.position + 1
    steps = [Step(seq, 10**18, None, event) for seq, event in enumerate(events, first)]
    for step in steps:
        world.model.apply(*step)
    world.append(steps, together=500)
