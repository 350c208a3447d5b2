"""References, with the pending batch counted in: what is refused, and that a settled, forgotten or undone effect is."""

from __future__ import annotations

import random
import sqlite3
from collections import Counter
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from journal.errors import Refused
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
    StatusChanged,
    TagCreated,
)
from journal.record import Record
from replay import validate
from replay.memory import apply_records
from replay.schema import connect, create
from replay.validate import Validator


class Writer:
    """Accepts events as the writer does, and applies them when it is told to."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self.connection = connection
        self.validator = Validator(connection, 0)
        self.events: list[Event] = []
        self.applied = 0

    def accept(self, *events: Event) -> None:
        for event in events:
            self.validator.check(event, len(self.events) + 1)
            self.events.append(event)

    def refuse(self, event: Event, code: str) -> str:
        with pytest.raises(Refused) as refused:
            self.validator.check(event, len(self.events) + 1)
        assert refused.value.code == code
        return refused.value.message

    def apply(self, count: int | None = None) -> None:
        """The next `count` pending events (all of them) are in memory.db now."""
        events = self.events[self.applied :][:count]
        records = [Record(0, 0, None, None, None, None, None, event) for event in events]
        assert apply_records(self.connection, self.applied + 1, records).no_ops == 0
        self.applied += len(events)
        self.validator.settle(self.applied)

    def undo(self, mark: int) -> None:
        self.validator.rollback(mark)
        del self.events[self.applied :]


@pytest.fixture
def writer(tmp_path: Path) -> Iterator[Writer]:
    with closing(connect(tmp_path / "memory.db")) as connection:
        create(connection)
        yield Writer(connection)


def entity(name: str = "Acme", scope: str = "global") -> EntityCreated:
    return EntityCreated(scope, name, "company")


FACT = ObservationAdded("global", "Acme", "fact")
NO_FACT = ObservationRemoved("global", "Acme", "fact")
LOOP = RelationCreated("global", "Acme", "Acme", "knows")
NO_LOOP = RelationDeleted("global", "Acme", "Acme", "knows")
MESSAGE = MessageRecorded("c", "writer", "user", "hi", "m")


@pytest.fixture(params=["pending", "applied", "half applied", "foreign write"])
def known(request: pytest.FixtureRequest, writer: Writer) -> Writer:
    """A writer of one entity, observation, relation, agent and message, at each stage of their way into memory.db."""
    writer.accept(entity(), FACT, LOOP, ConfigWritten("writer", b"x"), MESSAGE)
    if request.param != "pending":
        writer.apply(2 if request.param == "half applied" else None)
    if request.param == "foreign write":
        writer.validator.forget()
    return writer


# -- the rules --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("event", [entity(), FACT, LOOP, MESSAGE], ids=lambda event: type(event).__name__)
def test_creating_what_is_there_is_refused(known: Writer, event: Event) -> None:
    known.refuse(event, "already_exists")


@pytest.mark.parametrize(
    ("event", "missing"),
    [
        (EntityUpdated("global", "acme"), "no entity 'acme' in scope 'global'"),
        (EntityDeleted("agent:x", "Acme"), "no entity 'Acme' in scope 'agent:x'"),
        (ObservationAdded("global", "Nobody", "x"), "no entity 'Nobody'"),
        (ObservationRemoved("global", "Nobody", "x"), "no entity 'Nobody'"),
        (ObservationRemoved("global", "Acme", "Fact"), "no such observation: 'Fact'"),
        (RelationCreated("global", "Acme", "Nobody", "r"), "no entity 'Nobody'"),
        (RelationCreated("global", "Nobody", "Acme", "r"), "no entity 'Nobody'"),
        (RelationUpdated("global", "Acme", "Acme", "Knows"), "relation 'Acme' -Knows-> 'Acme'"),
        (RelationDeleted("global", "Acme", "Acme", "Knows"), "relation 'Acme' -Knows-> 'Acme'"),
        (ConfigRemoved("Writer"), "no agent 'Writer'"),
        (StatusChanged("Writer", "active"), "no agent 'Writer'"),
        (CursorMoved("mailer", "m2"), "no message 'm2'"),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, Event) else "",
)
def test_what_is_missing_is_named(known: Writer, event: Event, missing: str) -> None:
    assert missing in known.refuse(event, "not_found")


def test_what_is_allowed(known: Writer) -> None:
    known.accept(
        entity("Acme", "agent:x"), ObservationAdded("agent:x", "Acme", "fact"), EntityUpdated("global", "Acme"),
        RelationUpdated("global", "Acme", "Acme", "knows"), ConfigWritten("writer", b"x"), ConfigWritten("other", b"x"),
        StatusChanged("writer", "failed"), MessageRecorded("d", "writer", "user", "hi", "m"),
        CursorMoved("mailer", "m"), ScopeCleared("workspace:empty"), TagCreated("t", 1), NO_FACT, FACT, NO_LOOP, LOOP,
    )  # fmt: skip
    known.apply()


def test_what_was_removed_can_be_created_anew_but_not_removed_again(known: Writer) -> None:
    known.accept(NO_FACT, NO_LOOP, ConfigRemoved("writer"))
    known.refuse(NO_FACT, "not_found")
    known.refuse(NO_LOOP, "not_found")
    known.refuse(ConfigRemoved("writer"), "not_found")
    known.refuse(StatusChanged("writer", "active"), "not_found")
    known.accept(FACT, LOOP, ConfigWritten("writer", b""))
    known.apply()


@pytest.mark.parametrize("removal", [EntityDeleted("global", "Acme"), ScopeCleared("global")], ids=["entity", "scope"])
def test_what_hung_from_an_entity_is_gone_with_it(known: Writer, removal: Event) -> None:
    known.refuse(entity(), "already_exists")  # its id is remembered now
    known.accept(removal)
    for event in (FACT, NO_FACT, LOOP, NO_LOOP, EntityUpdated("global", "Acme"), EntityDeleted("global", "Acme")):
        known.refuse(event, "not_found")
    known.accept(entity())
    known.refuse(NO_FACT, "not_found")
    known.refuse(NO_LOOP, "not_found")
    known.accept(FACT, LOOP)
    known.refuse(entity(), "already_exists")
    known.apply()


def test_a_cleared_scope_is_empty_only_until_something_is_created(known: Writer) -> None:
    """In pieces: the clearing may be applied while what follows it is pending."""
    known.accept(entity("b"), ScopeCleared("global"), entity("c"))
    pending = len(known.events) - known.applied
    for _ in range(pending):
        known.refuse(EntityUpdated("global", "Acme"), "not_found")
        known.refuse(EntityUpdated("global", "b"), "not_found")
        known.refuse(entity("c"), "already_exists")
        known.apply(1)
    known.refuse(entity("c"), "already_exists")
    known.accept(entity("Acme"), entity("b"))


# -- groups -----------------------------------------------------------------------------------------------------------


def test_a_group_that_is_refused_leaves_no_trace(known: Writer) -> None:
    if known.applied < 5:
        known.apply()
    mark = known.validator.mark()
    known.accept(
        entity("b"), NO_FACT, NO_LOOP, LOOP, EntityDeleted("global", "Acme"), entity(), ConfigRemoved("writer")
    )
    known.accept(MessageRecorded("c", "writer", "user", "hi", "m2"), ScopeCleared("global"), entity("c"))
    known.undo(mark)
    for event in (entity(), FACT, LOOP, MESSAGE):
        known.refuse(event, "already_exists")
    for event in (EntityDeleted("global", "b"), EntityDeleted("global", "c"), CursorMoved("x", "m2")):
        known.refuse(event, "not_found")
    known.accept(NO_FACT, NO_LOOP, ConfigRemoved("writer"), entity("b"))
    known.apply()


def test_undoing_goes_back_to_the_mark_and_no_further(writer: Writer) -> None:
    writer.accept(entity("a"))
    first = writer.validator.mark()
    writer.accept(entity("b"))
    second = writer.validator.mark()
    writer.accept(entity("c"), EntityDeleted("global", "a"))
    writer.validator.rollback(second)
    writer.refuse(entity("a"), "already_exists")
    writer.refuse(entity("b"), "already_exists")
    writer.refuse(EntityDeleted("global", "c"), "not_found")
    writer.validator.rollback(first)
    writer.refuse(EntityDeleted("global", "b"), "not_found")
    writer.refuse(entity("a"), "already_exists")


def test_a_mark_outlives_the_settling_of_what_came_before_it(writer: Writer) -> None:
    writer.accept(entity("a"), entity("b"), entity("c"))
    mark = writer.validator.mark()
    writer.accept(entity("d"))
    writer.apply(2)
    writer.validator.rollback(mark)
    writer.refuse(entity("c"), "already_exists")
    writer.refuse(EntityDeleted("global", "d"), "not_found")


def test_a_batch_is_checked_inside_one_read_transaction(known: Writer) -> None:
    with known.validator.reading():
        assert known.connection.in_transaction
        known.refuse(FACT, "already_exists")
        known.accept(entity("b"), NO_FACT)
    assert not known.connection.in_transaction
    with pytest.raises(Refused), known.validator.reading():
        known.validator.check(NO_FACT, 9)
    assert not known.connection.in_transaction
    known.apply()


@pytest.mark.parametrize("seed", range(12))
def test_a_batch_at_once_is_judged_as_its_events_one_by_one(writer: Writer, tmp_path: Path, seed: int) -> None:
    """Batches of anything, some with an event that cannot be, half applied, forgotten or undone in between."""
    rng = random.Random(seed)
    names, texts = ["a", "b", "c"], ["x", "y", "z"]

    def any_event() -> Event:
        name, other, text = rng.choice(names), rng.choice(names), rng.choice(texts)
        return rng.choice([
            entity(name), ObservationAdded("global", name, text), ObservationAdded("global", name, text),
            ObservationRemoved("global", name, text), RelationCreated("global", name, other, "r"),
            RelationDeleted("global", name, other, "r"), EntityDeleted("global", name), TagCreated("t", 1),
        ])  # fmt: skip

    def passes(one: Writer, event: Event) -> bool:
        try:
            one.accept(event)
        except Refused:
            return False
        return True

    outcomes = Counter[bool]()
    with closing(connect(tmp_path / "second.db")) as connection:
        create(connection)
        singly = Writer(connection)
        for _ in range(120):
            batch = [any_event() for _ in range(rng.choice([1, 1, 2, 3, 6]))]
            marks = writer.validator.mark(), singly.validator.mark()
            expected = [passes(singly, event) for event in batch]
            together = writer.validator.check_all(batch, len(writer.events) + 1)
            outcomes[together] += 1
            assert together == all(expected)
            if together:
                writer.events += batch
            else:
                assert [passes(writer, event) for event in batch] == expected
            step = rng.random()
            if step < 0.1 and writer.applied == len(writer.events) - sum(expected):
                for one, mark in zip((writer, singly), marks, strict=True):
                    one.undo(mark)
            elif step < 0.6:
                for one in (writer, singly):
                    one.apply()
            elif step < 0.7:
                writer.validator.forget()
    assert min(outcomes[True], outcomes[False]) > 10


# -- bounds and foreign writes ----------------------------------------------------------------------------------------


def test_a_foreign_write_is_seen_once_the_caches_are_dropped(writer: Writer) -> None:
    writer.accept(entity())
    writer.apply()
    writer.refuse(entity(), "already_exists")
    writer.connection.execute("DELETE FROM entities")
    writer.validator.forget()
    writer.refuse(FACT, "not_found")
    writer.accept(entity())


def test_forgetting_keeps_what_is_pending(writer: Writer) -> None:
    writer.accept(entity(), FACT)
    writer.validator.forget()
    writer.refuse(entity(), "already_exists")
    writer.refuse(FACT, "already_exists")


def test_another_generation_is_asked_after_a_swap(writer: Writer, tmp_path: Path) -> None:
    writer.accept(entity())
    writer.apply()
    writer.refuse(entity(), "already_exists")
    with closing(connect(tmp_path / "next.db")) as other:
        create(other)
        writer.validator.forget(other)
        writer.refuse(FACT, "not_found")


def test_small_bounds_change_nothing_but_how_often_memory_db_is_asked(
    writer: Writer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Never quite settled, as under load: the newest event is always pending while the rest is applied."""
    monkeypatch.setattr(validate, "ENTITIES_MAX", 2)
    monkeypatch.setattr(validate, "OVERLAY_MAX", 0)
    for number in range(40):
        name = f"e{number % 5}"
        if number >= 5:
            writer.refuse(entity(name), "already_exists")
            writer.refuse(ObservationAdded("global", name, "x"), "already_exists")
            writer.accept(EntityDeleted("global", name))
        writer.accept(entity(name), ObservationAdded("global", name, "x"))
        writer.apply(len(writer.events) - writer.applied - 1)
        writer.refuse(ObservationAdded("global", name, "x"), "already_exists")
        assert sum(map(len, writer.validator._overlay)) == 1
        assert len(writer.validator._ids) <= 2
