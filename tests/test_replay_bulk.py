"""A bulk load makes what event by event makes: its counts, its rows, its rules and a file that is gone on with."""

from __future__ import annotations

import gc
import math
import os
import random
import sqlite3
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import closing
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from journal.events import (
    ConfigRemoved,
    ConfigWritten,
    EntityCreated,
    EntityDeleted,
    EntityUpdated,
    Event,
    MessageRecorded,
    ObservationAdded,
    ObservationRemoved,
    RelationCreated,
    RelationDeleted,
    RelationUpdated,
    ScopeCleared,
    StateRestored,
    StatusChanged,
)
from journal.record import Record
from replay import bulk, deferred
from replay.bulk import BulkLoader, collector_paused
from replay.digest import state_digest
from replay.memory import Applied, apply_records
from replay.schema import TABLES, connect, create
from tests.loopdisk import missing, tmpfs


@pytest.fixture
def bulk_and_live(tmp_path: Path) -> Iterator[tuple[sqlite3.Connection, sqlite3.Connection]]:
    with closing(connect(tmp_path / "bulk.db")) as one, closing(connect(tmp_path / "live.db")) as other:
        create(other)
        yield one, other


def records_of(events: list[Event]) -> list[Record]:
    return [Record(0, 10 * n, None, None, "w" if n % 2 else None, None, None, e) for n, e in enumerate(events, 1)]


def assert_same(
    connections: tuple[sqlite3.Connection, sqlite3.Connection],
    events: list[Event],
    *,
    seq: int = 1,
    cuts: Sequence[int] = (),
) -> tuple[Applied, Applied]:
    """Both ways with the same records (in parts, cut there), then the same rows; returns what each counted."""
    one, other = connections
    records = records_of(events)
    loader = BulkLoader(one)
    for start, end in pairwise([0, *sorted(cuts), len(records)]):
        loader.add(seq + start, records[start:end])
    loaded = loader.finish()
    applied = apply_records(other, seq, records)
    for table in TABLES:
        everything = f"SELECT * FROM {table} ORDER BY 1"
        assert one.execute(everything).fetchall() == other.execute(everything).fetchall(), table
    assert state_digest(one) == state_digest(other)
    assert one.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
    assert one.execute("PRAGMA foreign_key_check").fetchall() == []
    return loaded, applied


def entity(name: str = "a", scope: str = "global") -> EntityCreated:
    return EntityCreated(scope, name, "company", {"of": name})


def fact(name: str = "a", text: str = "x") -> ObservationAdded:
    return ObservationAdded("global", name, text)


def no_fact(name: str = "a", text: str = "x") -> ObservationRemoved:
    return ObservationRemoved("global", name, text)


Pair = tuple[sqlite3.Connection, sqlite3.Connection]

VALID: dict[str, list[Event]] = {
    "nothing at all": [],
    "nothing that shows": [StateRestored(0)],
    "one of each": [
        entity(), entity("b"), fact(), RelationCreated("global", "a", "b", "r", 0.5, 0.25, {"k": None}),
        MessageRecorded("c", "w", "user", "hi", "m"), ConfigWritten("w", b"\xff"), StatusChanged("w", "failed", "why"),
    ],
    "removed and added again": [entity(), fact(), no_fact(), fact(), no_fact(), fact(), fact("a", "y")],
    "removed for good": [entity(), fact(), fact("a", "y"), no_fact(), fact(), no_fact()],
    "an entity goes": [
        entity(), entity("b"), fact(), fact("b"), RelationCreated("global", "a", "b", "r"),
        RelationCreated("global", "b", "a", "r"), RelationCreated("global", "b", "b", "r"),
        EntityDeleted("global", "a"),
    ],
    "an entity comes back without its past": [
        entity(), fact(), RelationCreated("global", "a", "a", "r"), EntityUpdated("global", "a", "old"),
        EntityDeleted("global", "a"), entity(), fact(), RelationCreated("global", "a", "a", "r", 0.5),
    ],
    "a scope is cleared": [
        entity(), entity("b"), entity("a", "agent:w"), fact(), ObservationAdded("agent:w", "a", "x"),
        ScopeCleared("global"), ScopeCleared("workspace:none"), entity("b"), fact("b"),
    ],
    "removed, then its entity goes": [entity(), fact(), no_fact(), fact(), EntityDeleted("global", "a")],
    "changed and changed again": [
        entity(), EntityUpdated("global", "a", "x", {}, 0.5), EntityUpdated("global", "a", metadata={"n": 2}),
        RelationCreated("global", "a", "a", "r"), RelationUpdated("global", "a", "a", "r", 0.5),
        RelationUpdated("global", "a", "a", "r", None, 0.25, {"k": 1}), EntityUpdated("global", "a"),
    ],
    "a relation goes and comes": [
        entity(), RelationCreated("global", "a", "a", "r"), RelationUpdated("global", "a", "a", "r", 0.5),
        RelationDeleted("global", "a", "a", "r"), RelationCreated("global", "a", "a", "r"),
    ],
    "agents": [
        ConfigWritten("w", b"1"), StatusChanged("w", "suspended", "r"), ConfigWritten("w", b"2"),
        ConfigWritten("v", b""), ConfigRemoved("w"), ConfigWritten("w", b"3"),
    ],
}  # fmt: skip

INVALID: dict[str, list[Event]] = {
    "doubled observations": [entity(), fact(), fact(), fact("a", "y"), fact()],
    "doubled, then removed": [entity(), fact(), fact(), no_fact(), no_fact(), fact(), fact()],
    "doubled in an entity that goes": [entity(), fact(), fact(), EntityDeleted("global", "a"), entity(), fact()],
    "doubled messages": [MessageRecorded("c", "w", "user", text, "m") for text in ("first", "second", "third")],
    "doubled everything": [entity(), entity(), RelationCreated("global", "a", "a", "r")] * 2,
    "to nobody": [
        fact(), no_fact(), EntityUpdated("global", "a"), EntityDeleted("global", "a"), ConfigRemoved("w"),
        RelationCreated("global", "a", "b", "r"), RelationUpdated("global", "a", "b", "r"), StatusChanged("w", "x"),
        RelationDeleted("global", "a", "b", "r"), entity(), RelationCreated("global", "a", "b", "r"), no_fact(),
        RelationDeleted("global", "b", "a", "r"),
    ],
    "no numbers": [
        EntityCreated("global", "a", "x", {"n": math.nan}, math.nan), EntityUpdated("global", "a", confidence=math.inf),
        EntityUpdated("global", "a", confidence=math.nan), RelationCreated("global", "a", "a", "r", math.nan, -0.0),
    ],
}  # fmt: skip


@pytest.mark.parametrize("name", VALID)
def test_a_valid_history_makes_the_same_rows_and_counts(bulk_and_live: Pair, name: str) -> None:
    loaded, applied = assert_same(bulk_and_live, VALID[name])
    assert loaded == applied
    assert loaded.no_ops == 0


@pytest.mark.parametrize("name", INVALID)
def test_an_invalid_history_makes_the_same_rows(bulk_and_live: Pair, name: str) -> None:
    loaded, applied = assert_same(bulk_and_live, INVALID[name])
    assert loaded.events == applied.events
    if "that goes" not in name:
        assert loaded == applied


@pytest.mark.parametrize("name", [*VALID, *INVALID])
def test_what_waits_may_be_settled_after_any_event(bulk_and_live: Pair, eager: None, name: str) -> None:
    """A story that is told in parts is the same story."""
    events = (VALID | INVALID)[name]
    loaded, applied = assert_same(bulk_and_live, events, cuts=range(1, len(events)))
    assert loaded == applied or "that goes" in name


@pytest.mark.parametrize("count", [99, 100, 101, 1000, 1001])
def test_no_row_is_lost_between_statements(bulk_and_live: Pair, count: int) -> None:
    events: list[Event] = [entity(), *(fact("a", str(n)) for n in range(count))]
    events += [MessageRecorded("c", "w", "user", "", str(n)) for n in range(count)]
    loaded, _ = assert_same(bulk_and_live, events, seq=500, cuts=[count // 3])
    assert loaded.rows == 2 * count + 1


@pytest.fixture
def eager(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing waits for longer than one part."""
    monkeypatch.setattr(bulk, "CHANGES_MAX", 0)
    monkeypatch.setattr(deferred, "_REMOVED_PER_PAGE", 0)


@pytest.mark.parametrize("seed", range(8))
@pytest.mark.parametrize("wait", ["settled at the end", "settled all along"])
def test_a_random_history_over_few_names_makes_the_same_rows(
    bulk_and_live: Pair, seed: int, wait: str, request: pytest.FixtureRequest
) -> None:
    """Few enough that nearly every event meets what others left behind."""
    if wait == "settled all along":
        request.getfixturevalue("eager")
    rng = random.Random(seed)

    def one() -> Event:
        scope, a, b = rng.choice(("global", "agent:w")), rng.choice("ab"), rng.choice("ab")
        text, kind = rng.choice("xyz"), rng.choice("rs")
        kinds: list[Event] = [
            EntityCreated(scope, a, text), EntityUpdated(scope, a, text), ObservationAdded(scope, a, text),
            ObservationAdded(scope, a, text), ObservationRemoved(scope, a, text), RelationCreated(scope, a, b, kind),
            RelationUpdated(scope, a, b, kind, rng.random()), RelationDeleted(scope, a, b, kind), entity(a, scope),
            MessageRecorded(a, b, "user", text, kind), ConfigWritten(a, text.encode()), StatusChanged(a, text),
        ]  # fmt: skip
        if rng.random() < 0.04:
            kinds = [EntityDeleted(scope, a), ScopeCleared(scope), ConfigRemoved(a)]
        return rng.choice(kinds)

    events = [one() for _ in range(400)]
    assert_same(bulk_and_live, events, cuts=rng.sample(range(1, 400), rng.randint(1, 40)))


def test_a_loaded_file_has_the_rules_and_settings_of_any_other(bulk_and_live: Pair) -> None:
    def schema_and_settings(connection: sqlite3.Connection) -> list[Any]:
        settings = [connection.execute(f"PRAGMA {name}").fetchone() for name in ("synchronous", "foreign_keys")]
        master = connection.execute("SELECT name, sql FROM sqlite_master ORDER BY name").fetchall()
        return [*settings, connection.execute("PRAGMA journal_mode").fetchone(), master]

    one, other = bulk_and_live
    assert_same(bulk_and_live, VALID["one of each"])
    assert schema_and_settings(one) == schema_and_settings(other)
    assert not one.in_transaction
    with pytest.raises(sqlite3.IntegrityError):
        one.execute("INSERT INTO entities SELECT 99, scope, name, 'x', '{}', 1.0, 0, 0 FROM entities")


def test_an_id_keeps_its_seq_across_a_gap(bulk_and_live: Pair) -> None:
    one, _ = bulk_and_live
    loader = BulkLoader(one)
    loader.add(5, records_of([entity()]))
    loader.add(1 << 40, records_of([fact()]))
    assert loader.finish() == Applied(2, 2, 0)
    assert one.execute("SELECT id, entity_id FROM observations").fetchall() == [(1 << 40, 5)]


def test_the_collector_is_paused_and_left_as_it_was() -> None:
    assert gc.isenabled()
    with collector_paused():
        assert not gc.isenabled()
        with collector_paused():
            pass
        assert not gc.isenabled()
    assert gc.isenabled()
    with pytest.raises(RuntimeError), collector_paused():
        raise RuntimeError
    assert gc.isenabled()


# -- indexes ----------------------------------------------------------------------------------------------------------

LOAD = """
import sqlite3, sys
from journal.events import EntityCreated, ObservationAdded
from journal.record import Record
from replay.bulk import BulkLoader
from replay.working import connect_private

connection = connect_private(sys.argv[1])
loader, events = BulkLoader(connection), [EntityCreated("global", "E", "t")]
events += [ObservationAdded("global", "E", str(number)) for number in range(60_000)]
loader.add(1, [Record(0, 1, None, None, None, None, None, event) for event in events])
told = []
connection.set_trace_callback(told.append)
applied = loader.finish()
connection.set_trace_callback(None)
assert connection.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
print(applied.rows, sum("INDEX observations_by_entity" in statement for statement in told))
"""


def loaded(path: Path, temporary: Path) -> str:
    """What `LOAD` prints in a process whose temporary files are in `temporary`: SQLite asks for it once."""
    command = [sys.executable, "-c", LOAD, str(path)]
    environment = os.environ | {"SQLITE_TMPDIR": str(temporary), "PYTHONPATH": str(Path(__file__).parent.parent)}
    return subprocess.run(command, env=environment, check=True, capture_output=True, text=True).stdout


def test_entries_are_sorted_in_temporary_files(tmp_path: Path) -> None:
    assert loaded(tmp_path / "memory.db", tmp_path) == "60001 1\n"
    assert os.listdir(tmp_path) == ["memory.db"]


@pytest.mark.skipif(missing("tmpfs") is not None, reason=missing("tmpfs") or "")
def test_where_temporary_files_have_no_room_memory_does(tmp_path: Path) -> None:
    """A full /tmp must not keep anybody from recovering."""
    with tmpfs(tmp_path, "size=64k") as small:
        assert loaded(tmp_path / "memory.db", small) == "60001 2\n"
