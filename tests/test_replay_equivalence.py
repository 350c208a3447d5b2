"""One state by every way to it: applied in batches of any size, loaded in bulk, refused or not, jumped about in.

Each way is held against the reference projection, row by row and by digest, over histories that are valid, that are
not, and that miss events.
"""

from __future__ import annotations

import copy
import random
import sqlite3
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from itertools import islice, pairwise
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from journal.errors import Refused
from journal.events import StateRestored
from replay import validate
from replay.bulk import BulkLoader
from replay.digest import state_digest
from replay.memory import Applied, apply_records
from replay.model import Agent, Entity, Message, Model, Observation, Relation, State
from replay.schema import connect, create
from replay.timeline import lineage
from replay.validate import Validator
from tests.histories import START, SeededSource, Step, decoded, growing, next_event
from tests.strategies import any_histories, batches, loose_histories

TABLES: dict[str, Any] = {
    "entities": Entity,
    "observations": Observation,
    "relations": Relation,
    "messages": Message,
    "agents": Agent,
}


@contextmanager
def database(*, empty: bool = False) -> Iterator[sqlite3.Connection]:
    """A memory.db on disk; `empty` leaves even its tables to be made."""
    with tempfile.TemporaryDirectory() as folder, closing(connect(Path(folder, "memory.db"))) as connection:
        connection.execute("PRAGMA synchronous=OFF")  # no cut comes here
        if not empty:
            create(connection)
        yield connection


def rows(connection: sqlite3.Connection) -> dict[str, list[tuple[Any, ...]]]:
    return {
        table: sorted(connection.execute(f"SELECT {', '.join(row._fields)} FROM {table}"))
        for table, row in TABLES.items()
    }


def assert_same(connection: sqlite3.Connection, state: State) -> None:
    assert rows(connection) == state.rows()
    assert state_digest(connection) == state.digest()
    assert connection.execute("PRAGMA foreign_key_check").fetchall() == []
    assert connection.execute("PRAGMA integrity_check").fetchall() == [("ok",)]


def model_of(steps: Sequence[Step]) -> Model:
    model = Model()
    for step in steps:
        model.apply(*step)
    return model


def apply(connection: sqlite3.Connection, split: Sequence[Sequence[Step]]) -> int:
    """Each batch in a transaction of its own; returns the number of no-ops."""
    no_ops = 0
    for batch in split:
        connection.execute("BEGIN")
        applied = apply_records(connection, batch[0].seq, decoded(batch))
        connection.execute("COMMIT")
        assert applied.events == len(batch)
        no_ops += applied.no_ops
    return no_ops


def load(connection: sqlite3.Connection, split: Sequence[Sequence[Step]]) -> Applied:
    loader = BulkLoader(connection)
    for batch in split:
        loader.add(batch[0].seq, decoded(batch))
    return loader.finish()


@settings(max_examples=30, deadline=None)
@given(st.data())
def test_any_history_in_any_batches_makes_the_rows_of_the_reference(data: st.DataObject) -> None:
    steps = data.draw(any_histories(30))
    model = model_of(steps)
    with database() as connection:
        assert apply(connection, data.draw(batches(steps))) == model.no_ops
        assert_same(connection, model.state)


@settings(max_examples=30, deadline=None)
@given(st.data())
def test_any_history_loaded_in_bulk_makes_the_rows_of_the_reference(data: st.DataObject) -> None:
    steps = data.draw(any_histories(30))
    model = model_of(steps)
    with database(empty=True) as connection:
        load(connection, data.draw(batches(steps)))
        assert_same(connection, model.state)


@settings(max_examples=15, deadline=None)
@given(st.data())
def test_a_bulk_load_is_gone_on_from_event_by_event(data: st.DataObject) -> None:
    """The first part in bulk, as a rebuild does; then live. The indexes that came last must hold."""
    steps = data.draw(any_histories(30))
    middle = data.draw(st.integers(0, len(steps)))
    with database(empty=True) as connection:
        load(connection, data.draw(batches(steps[:middle])))
        apply(connection, [[step] for step in steps[middle:]])
        assert_same(connection, model_of(steps).state)


@settings(max_examples=30, deadline=None)
@given(st.data())
def test_the_events_of_a_timeline_make_the_state_that_a_restore_means(data: st.DataObject) -> None:
    steps = data.draw(any_histories(30, restores=150))
    target = data.draw(st.integers(0, len(steps) + 2))
    restores = [(step.seq, step.event.to_seq) for step in steps if isinstance(step.event, StateRestored)]
    way = [step for after, last in lineage(restores, target) for step in steps if after < step.seq <= last]
    state = model_of(steps).state_at(target)
    with database() as connection, database(empty=True) as other:
        apply(connection, data.draw(batches(way)))
        assert_same(connection, state)
        load(other, data.draw(batches(way)))
        assert_same(other, state)


@pytest.mark.parametrize("loose", [False, True], ids=["valid", "loose"])
@pytest.mark.parametrize("seed", range(6))
def test_a_longer_history_makes_the_rows_of_the_reference(seed: int, loose: bool) -> None:
    model = Model()
    steps = list(growing(SeededSource(seed), model, 800, loose=loose))
    cuts = sorted({0, 800, *random.Random(seed).sample(range(1, 800), 20)})
    split = [steps[start:end] for start, end in pairwise(cuts)]
    with database() as connection, database(empty=True) as other:
        assert apply(connection, split) == model.no_ops
        assert_same(connection, model.state)
        applied = load(other, split)
        assert_same(other, model.state)
        assert loose or applied.no_ops == model.no_ops


# -- references -------------------------------------------------------------------------------------------------------


def refusal(validator: Validator, step: Step) -> str | None:
    try:
        validator.check(step.event, step.seq)
    except Refused as refused:
        return refused.code
    return None


class Writer:
    """Group commit in small: what was accepted waits, and is applied a part at a time while more is accepted."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self.connection = connection
        self.validator = Validator(connection, 0)
        self.pending: list[Step] = []

    def settle(self, count: int) -> None:
        """Applies the oldest `count` that wait."""
        done, self.pending = self.pending[:count], self.pending[count:]
        if done:
            apply(self.connection, [done])
            self.validator.settle(done[-1].seq)


@pytest.fixture(params=[False, True], ids=["", "small caches"])
def caches(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Once as it is, once with so little remembered that memory.db must be asked."""
    if request.param:
        monkeypatch.setattr(validate, "OVERLAY_MAX", 2)
        monkeypatch.setattr(validate, "ENTITIES_MAX", 2)


@pytest.mark.usefixtures("caches")
@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data())
def test_what_is_refused_is_what_the_reference_refuses(data: st.DataObject) -> None:
    """Some of the history is in memory.db, the rest waits; what is refused takes no seq."""
    model = Model()
    with database() as connection:
        writer = Writer(connection)
        for each in data.draw(loose_histories(30)):
            step = each._replace(seq=model.position + 1)
            expected = model.would_refuse(step.event)
            assert refusal(writer.validator, step) == expected, step.event
            if expected is None:
                model.apply(*step)
                writer.pending.append(step)
            if data.draw(st.integers(0, 3)) == 0:
                writer.settle(data.draw(st.integers(0, len(writer.pending))))
        writer.settle(len(writer.pending))
        assert_same(connection, model.state)


@pytest.mark.usefixtures("caches")
@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data())
def test_a_refused_group_leaves_no_trace(data: st.DataObject) -> None:
    """Groups of one to four: one refused event takes back the others of its group, and what follows must not see it."""
    model = Model()
    waiting = iter(data.draw(loose_histories(30)))
    with database() as connection:
        writer = Writer(connection)
        while group := list(islice(waiting, data.draw(st.integers(1, 4)))):
            mark, ahead = writer.validator.mark(), copy.deepcopy(model)
            taken: list[Step] = []
            for each in group:
                step = each._replace(seq=ahead.position + 1)
                expected = ahead.would_refuse(step.event)
                assert refusal(writer.validator, step) == expected, step.event
                if expected is not None:
                    writer.validator.rollback(mark)
                    break
                ahead.apply(*step)
                taken.append(step)
            else:
                model = ahead
                writer.pending += taken
            if data.draw(st.integers(0, 3)) == 0:
                writer.settle(data.draw(st.integers(0, len(writer.pending))))
        writer.settle(len(writer.pending))
        assert_same(connection, model.state)


@pytest.mark.usefixtures("caches")
@pytest.mark.parametrize("seed", range(3))
def test_many_refused_groups_leave_no_trace(seed: int) -> None:
    """As above and longer, each event made for the state that it meets: what a group removed is asked for again."""
    source, model = SeededSource(seed), Model()
    refused = 0
    with database() as connection:
        writer = Writer(connection)
        for _ in range(500):
            mark, before, position = writer.validator.mark(), model.state.copy(), model.position
            taken: list[Step] = []
            for _ in range(source.integer(1, 4)):
                event = next_event(source, model, model.position + 1, loose=True)
                step = Step(model.position + 1, START, None, event)
                expected = model.would_refuse(event)
                assert refusal(writer.validator, step) == expected, event
                if expected is not None:
                    writer.validator.rollback(mark)
                    model.state, model.position = before, position
                    refused += 1
                    break
                model.apply(*step)
                taken.append(step)
            else:
                writer.pending += taken
            if source.integer(0, 5) == 0:
                writer.settle(source.integer(0, len(writer.pending)))
        writer.settle(len(writer.pending))
        assert_same(connection, model.state)
    assert 50 < refused < 450
