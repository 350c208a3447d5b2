"""Undoing some events of a history: the state is what it were without them, or it is said where it cannot be.

The judge is the reference projection, folded over the same history without the chosen events.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

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
    RelationUpdated,
    ScopeCleared,
    StatusChanged,
)
from replay.model import Model
from replay.revert import Undoing, undo
from replay.units import Past
from tests.histories import SeededSource, Step, history

Logical = dict[tuple[Any, ...], Any]


def logical(model: Model) -> Logical:
    """What is known, by name: without ids and times. Messages stay, whatever is undone."""
    names = {each.id: key for key, each in model.state.entities.items()}
    found: Logical = {}
    for (scope, name), each in model.state.entities.items():
        found["entity", (scope, name)] = (each.entity_type, each.metadata, each.confidence)
    for (owner, content), each in model.state.observations.items():
        found["observation", (*names[owner], content)] = (each.metadata, each.agent)
    for (start, end, kind), each in model.state.relations.items():
        key = (*names[start], names[end][1], kind)
        found["relation", key] = (each.strength, each.confidence, each.metadata)
    for name, each in model.state.agents.items():
        found["agent", (name,)] = (each.content, each.status, each.reason)
    return found


def pasts(steps: Sequence[Step]) -> Iterator[Past]:
    return (Past(step.seq, step.agent, step.event) for step in steps)


def folded(steps: Sequence[Step], without: frozenset[int] = frozenset()) -> Model:
    model = Model()
    for step in steps:
        if step.seq not in without:
            model.apply(step.seq, step.time, step.agent, step.event)
    return model


def applied(steps: Sequence[Step], undoing: Undoing) -> Model:
    """The history with the compensating events behind it, each of which the state must accept."""
    model = folded(steps)
    seq, time = steps[-1].seq, steps[-1].time
    for event, agent in undoing.events:
        assert model.would_refuse(event) is None, event
        seq, time = seq + 1, time + 1
        assert model.apply(seq, time, agent, event), f"{event} does nothing"
    return model


def differing(one: Logical, other: Logical) -> set[tuple[Any, ...]]:
    return {key for key in one.keys() | other.keys() if one.get(key) != other.get(key)}


def check(steps: Sequence[Step], chosen: frozenset[int]) -> Undoing:
    undoing = undo(lambda: pasts(steps), chosen)
    after, wanted = logical(applied(steps, undoing)), logical(folded(steps, chosen))
    excused = {(conflict.unit.kind, conflict.unit.key) for conflict in undoing.conflicts}
    for kind, key in differing(after, wanted):
        scope, *names = key
        hangs_from = {("entity", (scope, name)) for name in (names[:2] if kind == "relation" else names[:1])}
        assert not excused.isdisjoint({(kind, key), *hangs_from}), f"{kind} {key} differs, and nothing was said"
    if not undoing.conflicts:
        assert after == wanted
    return undoing


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 2**32), count=st.integers(1, 60), share=st.sampled_from((0.05, 0.2, 0.5, 0.9)))
def test_what_is_left_is_the_state_without_them_or_a_named_conflict(seed: int, count: int, share: float) -> None:
    steps = history(SeededSource(seed), count)
    rng = random.Random(seed)
    check(steps, frozenset(step.seq for step in steps if rng.random() < share))


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 2**32), count=st.integers(1, 60), loose=st.booleans())
@example(seed=39, count=32, loose=True)  # a confidence that is no number
def test_the_last_events_can_always_be_undone(seed: int, count: int, loose: bool) -> None:
    """Nothing comes after them, so nothing can rest on them; a history with no-ops in it is no exception."""
    steps = history(SeededSource(seed), count, loose=loose)
    first = random.Random(seed).randint(1, count)
    undoing = check(steps, frozenset(range(first, count + 1)))
    assert undoing.conflicts == []
    assert undoing.overtaken == []


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 2**32), count=st.integers(1, 50))
def test_undoing_the_undoing_brings_them_back(seed: int, count: int) -> None:
    steps = history(SeededSource(seed), count)
    rng = random.Random(seed)
    undoing = undo(lambda: pasts(steps), frozenset(step.seq for step in steps if rng.random() < 0.3))
    more = [
        Step(steps[-1].seq + at, steps[-1].time + at, agent, event)
        for at, (event, agent) in enumerate(undoing.events, 1)
    ]
    again = undo(lambda: pasts([*steps, *more]), frozenset(step.seq for step in more))
    assert again.conflicts == []
    assert logical(applied([*steps, *more], again) if more else folded(steps)) == logical(folded(steps))


def test_many_long_histories_have_many_conflicts_and_many_without() -> None:
    """So that the properties above are not true of nothing."""
    outcomes = [check(history(SeededSource(seed), 40), frozenset({5, 11, 17})) for seed in range(60)]
    assert sum(bool(each.conflicts) for each in outcomes) > 5
    assert sum(bool(each.events) and not each.conflicts for each in outcomes) > 20
    assert sum(bool(each.overtaken) for each in outcomes) > 2


# -- one case each ----------------------------------------------------------------------------------------------------

ACME = EntityCreated("global", "Acme", "company")
BOB = EntityCreated("global", "Bob", "person")
CONFIG = ConfigWritten("writer", b"one")


def steps_of(*events: Event) -> list[Step]:
    return [Step(seq, 1000 + seq, "sales", event) for seq, event in enumerate(events, 1)]


def undone(events: Sequence[Event], *chosen: int) -> Undoing:
    return check(steps_of(*events), frozenset(chosen))


@pytest.mark.parametrize(
    ("events", "chosen", "expected"),
    [
        ([ACME], 1, [EntityDeleted("global", "Acme")]),
        ([ACME, EntityUpdated("global", "Acme", confidence=0.5)], 2, [EntityUpdated("global", "Acme", confidence=1.0)]),
        (
            [ACME, EntityUpdated("global", "Acme", "firm", {"a": 1}, 0.5), EntityUpdated("global", "Acme", "shop")],
            2,
            [EntityUpdated("global", "Acme", None, {}, 1.0)],  # the type was set again, and stays
        ),
        ([ACME, ObservationAdded("global", "Acme", "x")], 2, [ObservationRemoved("global", "Acme", "x")]),
        (
            [ACME, ObservationAdded("global", "Acme", "x", {"n": 1}), ObservationRemoved("global", "Acme", "x")],
            3,
            [ObservationAdded("global", "Acme", "x", {"n": 1})],
        ),
        (
            [ACME, BOB, RelationCreated("global", "Bob", "Acme", "runs", 0.5), ObservationAdded("global", "Acme", "x"),
             EntityDeleted("global", "Acme")],
            5,
            [ACME, ObservationAdded("global", "Acme", "x"), RelationCreated("global", "Bob", "Acme", "runs", 0.5)],
        ),
        (
            [ACME, BOB, ScopeCleared("global")],
            3,
            [ACME, BOB],
        ),
        (
            [ACME, BOB, RelationCreated("global", "Bob", "Acme", "runs"),
             RelationUpdated("global", "Bob", "Acme", "runs", 0.5, 0.25)],
            4,
            [RelationUpdated("global", "Bob", "Acme", "runs", 1.0, 1.0)],
        ),
        ([CONFIG, ConfigWritten("writer", b"two")], 2, [ConfigWritten("writer", b"one", origin="recovery")]),
        ([CONFIG], 1, [ConfigRemoved("writer", origin="recovery")]),
        (
            [CONFIG, StatusChanged("writer", "suspended", "loud"), ConfigRemoved("writer")],
            3,
            [ConfigWritten("writer", b"one", origin="recovery"), StatusChanged("writer", "suspended", "loud")],
        ),
        ([MessageRecorded("c", "writer", "user", "hello", "m1")], 1, []),
    ],
)  # fmt: skip
def test_each_kind_of_change(events: list[Event], chosen: int, expected: list[Event]) -> None:
    undoing = undone(events, chosen)
    assert undoing.conflicts == []
    assert sorted(map(repr, (each.event for each in undoing.events))) == sorted(map(repr, expected))


@pytest.mark.parametrize(
    ("events", "chosen", "later"),
    [
        ([ACME, ObservationAdded("global", "Acme", "x")], 1, 2),
        ([ACME, EntityUpdated("global", "Acme", confidence=0.5)], 1, 2),
        ([ACME, BOB, RelationCreated("global", "Acme", "Bob", "knows")], 2, 3),
        ([ACME, EntityDeleted("global", "Acme"), EntityCreated("global", "Acme", "shop")], 2, 3),
        ([CONFIG, StatusChanged("writer", "suspended")], 1, 2),
    ],
)
def test_what_rests_on_it_is_a_conflict(events: list[Event], chosen: int, later: int) -> None:
    undoing = undone(events, chosen)
    assert [each.later_seq for each in undoing.conflicts] == [later] * len(undoing.conflicts) != []
    assert undoing.events == []
    assert f"seq {later} rests on that" in str(undoing.conflicts[0])


def test_a_change_that_was_made_again_is_overtaken() -> None:
    """Scenario: an agent broke a config, and a person has mended it since."""
    undoing = undone([CONFIG, ConfigWritten("writer", b"bad"), ConfigWritten("writer", b"good")], 2)
    assert (undoing.events, undoing.conflicts) == ([], [])
    assert [str(each) for each in undoing.overtaken] == [
        "agent writer: its config: changed at seq 2, and again at seq 3, which stands"
    ]


def test_an_observation_comes_back_under_the_agent_that_made_it() -> None:
    steps = [
        Step(1, 1, "sales", ACME),
        Step(2, 2, "research", ObservationAdded("global", "Acme", "x")),
        Step(3, 3, "ops", ScopeCleared("global")),
    ]
    undoing = check(steps, frozenset({3}))
    assert undoing.events[1] == (ObservationAdded("global", "Acme", "x"), "research")


def test_its_own_changes_of_what_stays_in_conflict_are_undone_all_the_same() -> None:
    """Scenario: an agent made an entity and said two things; another agent added a third."""
    events = [ACME, *(ObservationAdded("global", "Acme", text) for text in ("a", "b", "c"))]
    undoing = undone(events, 1, 2, 3)
    assert [str(each.unit) for each in undoing.conflicts] == ["entity Acme"]
    assert {each.event for each in undoing.events} == {ObservationRemoved("global", "Acme", text) for text in "ab"}
