"""What an event makes, changes or removes in a logical state, unit by unit.

Knows the smallest things that events touch, and applies an event to the part of a state that somebody asks about; must
not know who asks. Total, as `memory` is: an event whose reference is missing touches nothing.
"""

from __future__ import annotations

from collections.abc import Iterator
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
    ScopeCleared,
    StatusChanged,
)
from replay.logical import Agent, Entity, EntityKey, Observation, Relation, RelationKey, State, ends_of


class Past(NamedTuple):
    """One event of the history; ``agent`` is its envelope's."""

    seq: int
    agent: str | None
    event: Event


class Unit(NamedTuple):
    """The smallest thing that an event makes, changes or removes; ``part`` names a field, "" is its being there."""

    kind: str  # entity, observation, relation, agent
    key: tuple[str, ...]
    part: str = ""

    @property
    def whole(self) -> Unit:
        return self._replace(part="")

    def owners(self) -> list[Unit]:
        """What it hangs from: it cannot be without them."""
        if self.kind == "observation":
            return [Unit("entity", self.key[:2])]
        if self.kind == "relation":
            scope, start, end, _ = self.key
            return [Unit("entity", (scope, start)), Unit("entity", (scope, end))]
        return []

    def __str__(self) -> str:
        if self.kind == "agent":
            return f"agent {self.key[0]}" + (f": its {self.part}" if self.part else "")
        scope, *names = self.key
        name = f"{names[0]} -{names[2]}-> {names[1]}" if self.kind == "relation" else names[0]
        what = f"observation of {names[0]}: {names[1]!r}" if self.kind == "observation" else f"{self.kind} {name}"
        where = "" if scope == "global" else f" in {scope}"
        return what + where + (f": its {self.part}" if self.part else "")


# -- what is asked about ----------------------------------------------------------------------------------------------

_OF_ENTITY = (EntityCreated, EntityUpdated, EntityDeleted)
_OF_OBSERVATION = (ObservationAdded, ObservationRemoved)
_OF_RELATION = (RelationCreated, RelationUpdated, RelationDeleted)
_OF_AGENT = (ConfigWritten, ConfigRemoved, StatusChanged)


class About:
    """The entities and agents that the chosen events are about, and the other ends of their relations."""

    def __init__(self) -> None:
        self.entities: set[EntityKey] = set()
        self.scopes: set[str] = set()
        self.agents: set[str] = set()
        self.peers: set[EntityKey] = set()

    def add(self, event: Event) -> None:
        if isinstance(event, ScopeCleared):
            self.scopes.add(event.scope)
        elif isinstance(event, _OF_AGENT):
            self.agents.add(event.name)
        else:
            self.entities.update(_entities_of(event))

    def add_peers(self, event: Event) -> None:
        if isinstance(event, _OF_RELATION):
            ends = _entities_of(event)
            if any(self.is_about(end) for end in ends):
                self.peers.update(ends)

    def is_about(self, key: EntityKey) -> bool:
        return key in self.entities or key[0] in self.scopes

    def holds(self, key: EntityKey) -> bool:
        """Whether its being there is followed; of a peer, nothing else is."""
        return self.is_about(key) or key in self.peers


def _entities_of(event: Event) -> list[EntityKey]:
    if isinstance(event, _OF_ENTITY):
        return [(event.scope, event.name)]
    if isinstance(event, _OF_OBSERVATION):
        return [(event.scope, event.entity)]
    if isinstance(event, _OF_RELATION):
        return [(event.scope, event.from_entity), (event.scope, event.to_entity)]
    return []


# -- applying ---------------------------------------------------------------------------------------------------------


def apply(state: State, about: About, past: Past) -> Iterator[Unit]:
    """Applies one event as far as it is asked about; yields the units that it made, changed or removed."""
    event = past.event
    if isinstance(event, _OF_ENTITY):
        key = (event.scope, event.name)
        if about.holds(key):
            yield from _apply_entity(state, event, key)
    elif isinstance(event, _OF_OBSERVATION):
        key = (event.scope, event.entity)
        if about.is_about(key) and key in state.entities:
            yield from _apply_observation(state, event, key, past.agent)
    elif isinstance(event, _OF_RELATION):
        yield from _apply_relation(state, about, event)
    elif isinstance(event, ScopeCleared):
        for key in [key for key in state.entities if key[0] == event.scope]:
            yield from _forget(state, key)
    elif isinstance(event, _OF_AGENT) and event.name in about.agents:
        yield from _apply_agent(state, event)


def _apply_entity(state: State, event: Any, key: EntityKey) -> Iterator[Unit]:
    entity = state.entities.get(key)
    if isinstance(event, EntityCreated):
        if entity is None:
            state.entities[key] = Entity(event.entity_type, event.metadata, event.confidence)
            yield Unit("entity", key)
    elif entity is None:
        return
    elif isinstance(event, EntityUpdated):
        state.entities[key], parts = _updated(entity, event)
        yield from (Unit("entity", key, part) for part in parts)
    else:
        yield from _forget(state, key)


def _forget(state: State, key: EntityKey) -> Iterator[Unit]:
    yield Unit("entity", key)
    yield from (Unit("observation", (*key, content)) for content in state.observations.get(key, ()))
    yield from (Unit("relation", relation) for relation in state.ends.get(key, ()))
    state.forget(key)


def _apply_observation(state: State, event: Any, key: EntityKey, agent: str | None) -> Iterator[Unit]:
    there = state.observation(key, event.content) is not None
    if isinstance(event, ObservationAdded) and not there:
        state.observations.setdefault(key, {})[event.content] = Observation(event.metadata, agent)
    elif isinstance(event, ObservationRemoved) and there:
        del state.observations[key][event.content]
    else:
        return
    yield Unit("observation", (*key, event.content))


def _apply_relation(state: State, about: About, event: Any) -> Iterator[Unit]:
    key: RelationKey = (event.scope, event.from_entity, event.to_entity, event.relation_type)
    if not any(map(about.is_about, ends_of(key))):
        return
    relation = state.relations.get(key)
    if isinstance(event, RelationCreated):
        if relation is None and all(end in state.entities for end in ends_of(key)):
            state.relate(key, Relation(event.strength, event.confidence, event.metadata))
            yield Unit("relation", key)
    elif relation is None:
        return
    elif isinstance(event, RelationUpdated):
        state.relations[key], parts = _updated(relation, event)
        yield from (Unit("relation", key, part) for part in parts)
    else:
        state.unrelate(key)
        yield Unit("relation", key)


def _apply_agent(state: State, event: Any) -> Iterator[Unit]:
    key, agent = (event.name,), state.agents.get(event.name)
    if isinstance(event, ConfigWritten):
        state.agents[event.name] = Agent(event.content, *(agent[1:] if agent else ()))
        yield Unit("agent", key, "config") if agent else Unit("agent", key)
    elif agent is None:
        return
    elif isinstance(event, ConfigRemoved):
        del state.agents[event.name]
        yield Unit("agent", key)
    else:
        state.agents[event.name] = Agent(agent.content, event.status, event.reason)
        yield Unit("agent", key, "status")


def _updated(value: Any, event: Any) -> tuple[Any, list[str]]:
    given = {name: new for name in value._fields if (new := getattr(event, name)) is not None}
    return value._replace(**given), list(given)
