"""A state without ids and times: what is known, under the names that people and events use for it.

Knows entities, observations, relations and agents by their keys, and which events lead from one such state to another;
must not know rows, nor which state is right. Messages are no part of it: no event takes one back. For undoing changes
and for taking in foreign ones; `memory` and `bulk` make the rows that servers read.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from journal.events import (
    ConfigRemoved,
    ConfigWritten,
    EntityCreated,
    EntityDeleted,
    EntityUpdated,
    Event,
    ObservationAdded,
    ObservationRemoved,
    RelationCreated,
    RelationDeleted,
    RelationUpdated,
    StatusChanged,
)
from replay.schema import metadata_text

EntityKey = tuple[str, str]  # scope, name
RelationKey = tuple[str, str, str, str]  # scope, from, to, type


class Entity(NamedTuple):
    entity_type: str
    metadata: dict[str, Any]
    confidence: float


class Observation(NamedTuple):
    metadata: dict[str, Any]
    agent: str | None


class Relation(NamedTuple):
    strength: float
    confidence: float
    metadata: dict[str, Any]


class Agent(NamedTuple):
    content: bytes
    status: str = "active"
    reason: str = ""


@dataclass(slots=True)
class State:
    """``observations`` by entity, then content; ``ends`` leads from an entity to the relations that touch it."""

    entities: dict[EntityKey, Entity] = field(default_factory=dict)
    observations: dict[EntityKey, dict[str, Observation]] = field(default_factory=dict)
    relations: dict[RelationKey, Relation] = field(default_factory=dict)
    agents: dict[str, Agent] = field(default_factory=dict)
    ends: dict[EntityKey, set[RelationKey]] = field(default_factory=dict)

    def observation(self, key: EntityKey, content: str) -> Observation | None:
        return self.observations.get(key, {}).get(content)

    def relate(self, key: RelationKey, relation: Relation) -> None:
        self.relations[key] = relation
        for end in ends_of(key):
            self.ends.setdefault(end, set()).add(key)

    def unrelate(self, key: RelationKey) -> None:
        del self.relations[key]
        for end in ends_of(key):
            self.ends.get(end, set()).discard(key)

    def forget(self, key: EntityKey) -> None:
        """The entity goes, and with it what was observed of it and the relations that start or end there."""
        self.entities.pop(key, None)
        self.observations.pop(key, None)
        for relation in list(self.ends.pop(key, ())):
            if relation in self.relations:
                self.unrelate(relation)


def ends_of(key: RelationKey) -> tuple[EntityKey, EntityKey]:
    scope, start, end, _ = key
    return (scope, start), (scope, end)


def same(one: Any, other: Any) -> bool:
    """Whether two values are stored alike. Python takes 1 for 1.0 and True, and forgets the order of keys."""
    if one is None or other is None:
        return one is other
    return all(map(_same_cell, one, other))


def _same_cell(one: Any, other: Any) -> bool:
    if isinstance(one, dict) and isinstance(other, dict):
        return metadata_text(one) == metadata_text(other)
    return bool(one == other or (one != one and other != other))  # a NaN, which no admitted event holds, is NULL


# -- from one state to another ----------------------------------------------------------------------------------------


class Written(NamedTuple):
    """An event, and the agent that the envelope names: for an observation, who made it."""

    event: Event
    agent: str | None = None


def events_between(before: State, after: State) -> Iterator[Written]:
    """The events that lead from one state to the other, in an order in which every reference holds.

    What goes first goes with its entity, where that goes; what comes waits for the entities that it hangs from.
    """
    gone = [key for key in before.entities if key not in after.entities]
    left = set(gone)
    for key in before.observations:
        if key not in left:
            yield from _observations_gone(before, after, key)
    for relation in before.relations:
        if relation not in after.relations and left.isdisjoint(ends_of(relation)):
            yield Written(RelationDeleted(*relation))
    for scope, name in gone:
        yield Written(EntityDeleted(scope, name))
    for key, entity in after.entities.items():
        yield from _entity(before.entities.get(key), entity, key)
    for key in after.observations:
        yield from _observations_new(before, after, key)
    for relation, value in after.relations.items():
        yield from _relation(before.relations.get(relation), value, relation)
    yield from _agents(before.agents, after.agents)


def _observations_gone(before: State, after: State, key: EntityKey) -> Iterator[Written]:
    for content, one in before.observations[key].items():
        other = after.observation(key, content)
        if not same(one, other):  # an observation cannot be changed: it goes, and comes again
            yield Written(ObservationRemoved(*key, content))


def _observations_new(before: State, after: State, key: EntityKey) -> Iterator[Written]:
    for content, one in after.observations[key].items():
        if not same(one, before.observation(key, content)):
            yield Written(ObservationAdded(*key, content, one.metadata), one.agent)


def _entity(before: Entity | None, after: Entity, key: EntityKey) -> Iterator[Written]:
    if before is None:
        yield Written(EntityCreated(*key, after.entity_type, after.metadata, after.confidence))
    elif not same(before, after):
        yield Written(EntityUpdated(*key, **_changes(before, after)))


def _relation(before: Relation | None, after: Relation, key: RelationKey) -> Iterator[Written]:
    if before is None:
        yield Written(RelationCreated(*key, after.strength, after.confidence, after.metadata))
    elif not same(before, after):
        yield Written(RelationUpdated(*key, **_changes(before, after)))


def _changes(before: Any, after: Any) -> dict[str, Any]:
    """The fields that differ. An update gives no field None: that leaves it as it is."""
    pairs = zip(after._fields, before, after, strict=True)
    return {name: new for name, old, new in pairs if not _same_cell(old, new)}


def _agents(before: dict[str, Agent], after: dict[str, Agent]) -> Iterator[Written]:
    for name in before:
        if name not in after:
            yield Written(ConfigRemoved(name, origin="recovery"))
    for name, agent in after.items():
        old = before.get(name)
        if old is None or old.content != agent.content:
            yield Written(ConfigWritten(name, agent.content, origin="recovery"))
        if (old or Agent(b""))[1:] != agent[1:]:
            yield Written(StatusChanged(name, agent.status, agent.reason))
