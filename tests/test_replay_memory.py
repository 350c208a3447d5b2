"""Events to rows, one kind after the other: what each does, and that what cannot be done is a no-op, never an error."""

from __future__ import annotations

import hashlib
import math
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from journal.events import (
    ConfigRemoved,
    ConfigWritten,
    CursorMoved,
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
    TagCreated,
    type_dictionary,
    type_named,
)
from journal.record import Record
from replay.memory import Applied, apply_records
from replay.schema import connect, create


class Memory:
    """A memory.db that events are applied to, each with time = seq * 10."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self.connection = connection
        self.seq = 0

    def apply(self, *events: Event, agent: str | None = None) -> Applied:
        first = self.seq + 1
        self.seq += len(events)
        records = [Record(0, (first + n) * 10, None, None, agent, None, None, event) for n, event in enumerate(events)]
        return apply_records(self.connection, first, records)

    def rows(self, table: str, columns: str = "*") -> list[tuple[Any, ...]]:
        return self.connection.execute(f"SELECT {columns} FROM {table} ORDER BY rowid").fetchall()


@pytest.fixture
def memory(tmp_path: Path) -> Iterator[Memory]:
    with closing(connect(tmp_path / "memory.db")) as connection:
        create(connection)
        yield Memory(connection)


def entity(name: str = "Acme", scope: str = "global") -> EntityCreated:
    return EntityCreated(scope, name, "company")


# -- entities ---------------------------------------------------------------------------------------------------------


def test_an_entity_is_a_row_with_the_seq_of_its_event(memory: Memory) -> None:
    assert memory.apply(TagCreated("t", 0), EntityCreated("global", "Acme", "company", {"b": 1, "a": "é"}, 0.5)) == (
        Applied(events=2, rows=1, no_ops=0)
    )
    assert memory.rows("entities") == [(2, "global", "Acme", "company", '{"b":1,"a":"é"}', 0.5, 20, 20)]


def test_an_update_sets_what_it_gives_and_the_time(memory: Memory) -> None:
    memory.apply(EntityCreated("global", "Acme", "company", {"a": 1}, 0.5), entity("Other"))
    memory.apply(EntityUpdated("global", "Acme", "buyer"))
    assert memory.rows("entities")[0] == (1, "global", "Acme", "buyer", '{"a":1}', 0.5, 10, 30)
    memory.apply(EntityUpdated("global", "Acme", None, {}, 0.0), EntityUpdated("global", "Acme"))
    assert memory.rows("entities")[0] == (1, "global", "Acme", "buyer", "{}", 0.0, 10, 50)
    assert memory.rows("entities", "updated_at")[1] == (20,)


def test_what_hangs_from_an_entity_goes_with_it(memory: Memory) -> None:
    memory.apply(entity("a"), entity("b"), entity("a", "agent:x"))
    memory.apply(ObservationAdded("global", "a", "x"), ObservationAdded("global", "b", "x"))
    memory.apply(RelationCreated("global", "a", "b", "r"), RelationCreated("global", "b", "a", "r"))
    memory.apply(RelationCreated("global", "b", "b", "r"))
    assert memory.apply(EntityDeleted("global", "a")) == Applied(1, 1, 0)
    assert memory.rows("entities", "id") == [(2,), (3,)]
    assert memory.rows("observations", "id") == [(5,)]
    assert memory.rows("relations", "id") == [(8,)]


def test_clearing_a_scope_leaves_the_others(memory: Memory) -> None:
    memory.apply(entity("a"), entity("b"), entity("c"), entity("a", "agent:x"), ObservationAdded("global", "a", "x"))
    assert memory.apply(ScopeCleared("global"), ScopeCleared("global")) == Applied(events=2, rows=3, no_ops=0)
    assert memory.rows("entities", "scope") == [("agent:x",)]
    assert memory.rows("observations") == []


def test_an_entity_created_anew_has_none_of_the_old_one(memory: Memory) -> None:
    memory.apply(entity(), ObservationAdded("global", "Acme", "old"), EntityDeleted("global", "Acme"), entity())
    assert memory.rows("entities", "id, created_at") == [(4, 40)]
    assert memory.rows("observations") == []


# -- observations and relations ---------------------------------------------------------------------------------------


def test_an_observation_names_its_agent_if_there_is_one(memory: Memory) -> None:
    memory.apply(entity())
    memory.apply(ObservationAdded("global", "Acme", "a \0 b\n", {"k": []}), agent="sales")
    memory.apply(ObservationAdded("global", "Acme", ""))
    first, second = memory.rows("observations")
    assert first == (2, 1, "a \0 b\n", hashlib.sha256(b"a \0 b\n").digest(), '{"k":[]}', "sales", 20)
    assert second == (3, 1, "", hashlib.sha256(b"").digest(), "{}", None, 30)


def test_removing_an_observation_takes_that_text_only(memory: Memory) -> None:
    memory.apply(entity(), ObservationAdded("global", "Acme", "e\u0301"), ObservationAdded("global", "Acme", "é"))
    assert memory.apply(ObservationRemoved("global", "Acme", "é")) == Applied(1, 1, 0)
    assert memory.rows("observations", "id") == [(2,)]


def test_a_relation_is_changed_where_an_update_gives_something(memory: Memory) -> None:
    memory.apply(entity("a"), entity("b"), RelationCreated("global", "a", "b", "r", 0.5, 0.25, {"k": 1}))
    memory.apply(RelationUpdated("global", "a", "b", "r", strength=0.75))
    assert memory.rows("relations") == [(3, 1, 2, "r", 0.75, 0.25, '{"k":1}', 30)]
    memory.apply(RelationUpdated("global", "a", "b", "r", None, 1.0, {}))
    assert memory.rows("relations") == [(3, 1, 2, "r", 0.75, 1.0, "{}", 30)]
    assert memory.apply(RelationDeleted("global", "a", "b", "r")) == Applied(1, 1, 0)
    assert memory.rows("relations") == []


def test_a_relation_of_an_entity_to_itself_and_one_in_each_direction(memory: Memory) -> None:
    memory.apply(entity("a"), entity("b"))
    directions = [("a", "a"), ("a", "b"), ("b", "a")]
    assert memory.apply(*(RelationCreated("global", x, y, "r") for x, y in directions)).no_ops == 0
    assert memory.rows("relations", "from_entity_id, to_entity_id") == [(1, 1), (1, 2), (2, 1)]


# -- agents and messages ----------------------------------------------------------------------------------------------


def test_a_config_keeps_its_bytes_and_the_status_survives_a_new_one(memory: Memory) -> None:
    memory.apply(ConfigWritten("x", b"\xff\0"), StatusChanged("x", "suspended", "why"), ConfigWritten("x", b"new"))
    assert memory.rows("agents") == [("x", hashlib.sha256(b"new").hexdigest(), b"new", "suspended", "why", 30)]
    memory.apply(ConfigRemoved("x"), ConfigWritten("x", b""))
    assert memory.rows("agents") == [("x", hashlib.sha256(b"").hexdigest(), b"", "active", "", 50)]


def test_a_config_row_names_the_sha256_of_its_bytes_whatever_the_event_says(memory: Memory) -> None:
    memory.apply(ConfigWritten("x", b"bytes", "0" * 64), ConfigWritten("y", b"bytes"))
    assert memory.rows("agents", "sha256") == [(hashlib.sha256(b"bytes").hexdigest(),)] * 2


def test_a_message_is_recorded_once_a_conversation(memory: Memory) -> None:
    message = MessageRecorded("c", "writer", "user", "hi", "m")
    assert memory.apply(message, message, MessageRecorded("d", "writer", "user", "hi", "m")) == Applied(3, 2, 1)
    assert memory.rows("messages")[0] == (1, "c", "m", "writer", "user", "hi", 10)
    assert memory.rows("messages", "id") == [(1,), (3,)]


# -- totality ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "event",
    [
        entity(),
        EntityUpdated("global", "nobody", "x"),
        EntityDeleted("agent:x", "Acme"),
        ObservationAdded("global", "nobody", "x"),
        ObservationAdded("global", "Acme", "fact"),
        ObservationRemoved("global", "Acme", "Fact"),
        ObservationRemoved("global", "nobody", "fact"),
        RelationCreated("global", "Acme", "nobody", "r"),
        RelationCreated("global", "nobody", "Acme", "r"),
        RelationCreated("global", "Acme", "Acme", "r"),
        RelationUpdated("global", "Acme", "Acme", "R", 0.5),
        RelationDeleted("global", "nobody", "nobody", "r"),
        ConfigRemoved("nobody"),
        StatusChanged("nobody", "active"),
    ],
    ids=lambda event: type(event).__name__,
)
@pytest.mark.parametrize("times", [1, 3])
def test_what_cannot_be_done_is_a_no_op_that_is_counted(memory: Memory, event: Event, times: int) -> None:
    memory.apply(entity(), ObservationAdded("global", "Acme", "fact"), RelationCreated("global", "Acme", "Acme", "r"))
    tables = ("entities", "observations", "relations", "agents")
    before = [memory.rows(table) for table in tables]
    assert memory.apply(*[event] * times) == Applied(events=times, rows=0, no_ops=times)
    assert [memory.rows(table) for table in tables] == before


def test_events_that_project_nothing_are_only_counted(memory: Memory) -> None:
    applied = memory.apply(StateRestored(1), CursorMoved("c", "m"), TagCreated("t", 1), StateRestored(0))
    assert applied == Applied(events=4, rows=0, no_ops=0)


def test_a_nan_is_stored_as_null_and_infinity_as_itself(memory: Memory) -> None:
    memory.apply(EntityCreated("global", "a", "x", {}, math.nan), EntityCreated("global", "b", "x", {}, math.inf))
    assert memory.rows("entities", "confidence") == [(None,), (math.inf,)]
    memory.apply(EntityUpdated("global", "b", confidence=math.nan), EntityUpdated("global", "a", confidence=1.0))
    assert memory.rows("entities", "confidence") == [(1.0,), (None,)]


def test_any_type_with_any_content_is_applied_without_an_error(memory: Memory) -> None:
    """Also what no limit would admit: empty names, unknown statuses, metadata that is no JSON."""
    values: dict[str, Any] = {
        "str": "", "bytes": b"", "int": -1, "float": math.nan, "bool": True, "dict[str, Any]": {"k": b"\xff"},
        "dict[str, str]": {}, "dict[str, int]": {}, "list[str]": [], "list[list[int]]": [],
    }  # fmt: skip
    for name in type_dictionary():
        cls = type_named(name)
        assert cls is not None
        fields = {field: values[hint.removesuffix(" | None")] for field, hint in _hints(cls).items()}
        assert memory.apply(cls(**fields)).events == 1
    assert memory.rows("entities", "scope") == []


def _hints(cls: type[Event]) -> dict[str, str]:
    return {field: cls.__annotations__[field] for field in cls.__struct_fields__}


def test_a_run_of_one_kind_is_as_good_as_one_after_the_other(memory: Memory, tmp_path: Path) -> None:
    events: list[Event] = [entity("a"), entity("b"), entity("a"), ObservationAdded("global", "a", "x")]
    events += [ObservationAdded("global", "c", "x"), ObservationAdded("global", "a", "x"), ScopeCleared("global")]
    events += [ScopeCleared("global"), entity("a"), ConfigWritten("x", b"1"), ConfigWritten("x", b"2")]
    whole = memory.apply(*events)
    with closing(connect(tmp_path / "other.db")) as connection:
        create(connection)
        other = Memory(connection)
        singly = [other.apply(event) for event in events]
        assert Applied(*(sum(getattr(one, name) for one in singly) for name in ("events", "rows", "no_ops"))) == whole
        for table in ("entities", "observations", "agents"):
            assert other.rows(table) == memory.rows(table)
