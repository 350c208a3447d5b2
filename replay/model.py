"""The reference projection: what state(seq) is, in plain dicts, simple enough to be checked by eye.

Knows the vocabulary and the rules of the state; must not know SQLite, nor share a line with the projection that servers
use. Tests hold the two against each other, rows and digests. It is slow on purpose: nothing is cached but what makes
`state_at` bearable, and the digest is its own (`model_digest`).

A restore is a jump: at its seq R the state is state(K), whichever timeline K lies on. What follows builds on that.
"""

from __future__ import annotations

import base64
import json
import math
from bisect import bisect_right
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from hashlib import sha256
from typing import Any, NamedTuple

import msgspec

from journal import events
from journal.events import Event
from replay.model_digest import state_digest

SNAPSHOT_EVENTS = 500


class Entity(NamedTuple):
    id: int
    scope: str
    name: str
    entity_type: str
    metadata: str
    confidence: float | None
    created_at: int
    updated_at: int


class Observation(NamedTuple):
    id: int
    entity_id: int
    content: str
    text_sha256: bytes
    metadata: str
    agent: str | None
    created_at: int


class Relation(NamedTuple):
    id: int
    from_entity_id: int
    to_entity_id: int
    relation_type: str
    strength: float | None
    confidence: float | None
    metadata: str
    created_at: int


class Message(NamedTuple):
    id: int
    conversation_id: str
    message_id: str
    agent: str
    role: str
    content: str
    created_at: int


class Agent(NamedTuple):
    name: str
    sha256: str
    content: bytes
    status: str
    reason: str
    updated_at: int


@dataclass(slots=True)
class State:
    """One state: rows under the keys that make them unique."""

    entities: dict[tuple[str, str], Entity] = field(default_factory=dict)  # scope, name
    observations: dict[tuple[int, str], Observation] = field(default_factory=dict)  # entity id, content
    relations: dict[tuple[int, int, str], Relation] = field(default_factory=dict)  # from id, to id, type
    messages: dict[tuple[str, str], Message] = field(default_factory=dict)  # conversation id, message id
    agents: dict[str, Agent] = field(default_factory=dict)

    def copy(self) -> State:
        return State(
            dict(self.entities), dict(self.observations), dict(self.relations), dict(self.messages), dict(self.agents)
        )

    def rows(self) -> dict[str, list[tuple[Any, ...]]]:
        """All rows by table, columns as published, sorted by id (agents by name)."""
        return {
            "entities": sorted(map(tuple, self.entities.values())),
            "observations": sorted(map(tuple, self.observations.values())),
            "relations": sorted(map(tuple, self.relations.values())),
            "messages": sorted(map(tuple, self.messages.values())),
            "agents": sorted(map(tuple, self.agents.values())),
        }

    def digest(self) -> str:
        agents = sorted(self.agents.values(), key=lambda each: each.name.encode())
        return state_digest(
            {
                "entities": [(each.id, each) for each in self.entities.values()],
                "observations": [(each.id, each) for each in self.observations.values()],
                "relations": [(each.id, each) for each in self.relations.values()],
                "messages": [(each.id, each) for each in self.messages.values()],
                "agents": [(0, (each.name, each.sha256, each.status, each.reason, each.updated_at)) for each in agents],
            }
        )

    def entity_id(self, scope: str, name: str) -> int | None:
        entity = self.entities.get((scope, name))
        return entity.id if entity else None

    def relation_key(self, event: Any) -> tuple[int, int, str] | None:
        """The key that a relation event means, or None where an end is missing."""
        start = self.entity_id(event.scope, event.from_entity)
        end = self.entity_id(event.scope, event.to_entity)
        return None if start is None or end is None else (start, end, event.relation_type)


class Model:
    """State by events, one after the other; and every state that there was."""

    def __init__(self) -> None:
        self.state = State()
        self.position = 0
        self.no_ops = 0
        self._records: list[tuple[int, int, str | None, Event]] = []
        self._snapshots: list[tuple[int, State]] = [(0, State())]

    def apply(self, seq: int, time: int, agent: str | None, event: Event) -> bool:
        """Applies one event; seqs ascend, gaps are allowed.

        False if it was a no-op: its reference is missing, or it creates what is there.
        """
        assert seq > self.position, f"seq {seq} after {self.position}"
        effective = True
        if isinstance(event, events.StateRestored):
            effective = 0 <= event.to_seq < seq
            if effective:
                self.state = self.state_at(event.to_seq)
                self._snapshots.append((seq, self.state.copy()))
        else:
            effective = _apply(self.state, seq, time, agent, event)
            if len(self._records) % SNAPSHOT_EVENTS == 0:
                self._snapshots.append((seq, self.state.copy()))
        self._records.append((seq, time, agent, event))
        self.position = seq
        self.no_ops += not effective
        return effective

    def state_at(self, seq: int) -> State:
        """state(seq), on whatever timeline seq lies; beyond the position it is the current one."""
        # Each restore left a snapshot of what it jumped to, so none lies between the snapshot taken here and seq.
        base, state = self._snapshots[bisect_right(self._snapshots, seq, key=lambda each: each[0]) - 1]
        state = state.copy()
        first = bisect_right(self._records, base, key=lambda each: each[0])
        last = bisect_right(self._records, seq, key=lambda each: each[0])
        for record in self._records[first:last]:
            _apply(state, *record)
        return state

    def would_refuse(self, event: Event) -> str | None:
        """The code with which the event must be refused for its references in the current state, or None."""
        return _would_refuse(self.state, event)

    def rows(self) -> dict[str, list[tuple[Any, ...]]]:
        return self.state.rows()

    def digest(self) -> str:
        return self.state.digest()


# -- what an event does -----------------------------------------------------------------------------------------------


def _apply(state: State, seq: int, time: int, agent: str | None, event: Event) -> bool:
    match event:
        case events.EntityCreated():
            key = (event.scope, event.name)
            if key in state.entities:
                return False
            state.entities[key] = Entity(
                seq, *key, event.entity_type, _text(event.metadata), _real(event.confidence), time, time
            )

        case events.EntityUpdated():
            entity = state.entities.get((event.scope, event.name))
            if entity is None:
                return False
            state.entities[event.scope, event.name] = entity._replace(**_changes(event), updated_at=time)

        case events.EntityDeleted():
            entity = state.entities.get((event.scope, event.name))
            if entity is None:
                return False
            _delete_entities(state, [entity])

        case events.ScopeCleared():
            _delete_entities(state, [each for each in state.entities.values() if each.scope == event.scope])

        case events.ObservationAdded():
            owner = state.entity_id(event.scope, event.entity)
            if owner is None or (owner, event.content) in state.observations:
                return False
            state.observations[owner, event.content] = Observation(
                seq, owner, event.content, sha256(event.content.encode()).digest(), _text(event.metadata), agent, time
            )

        case events.ObservationRemoved():
            owner = state.entity_id(event.scope, event.entity)
            if owner is None or (owner, event.content) not in state.observations:
                return False
            del state.observations[owner, event.content]

        case events.RelationCreated():
            ends = state.relation_key(event)
            if ends is None or ends in state.relations:
                return False
            state.relations[ends] = Relation(
                seq, *ends, _real(event.strength), _real(event.confidence), _text(event.metadata), time
            )

        case events.RelationUpdated():
            ends = state.relation_key(event)
            if ends is None or ends not in state.relations:
                return False
            state.relations[ends] = state.relations[ends]._replace(**_changes(event))

        case events.RelationDeleted():
            ends = state.relation_key(event)
            if ends is None or ends not in state.relations:
                return False
            del state.relations[ends]

        case events.ConfigWritten():
            before = state.agents.get(event.name)
            status, reason = (before.status, before.reason) if before else ("active", "")
            digest = sha256(event.content).hexdigest()
            state.agents[event.name] = Agent(event.name, digest, event.content, status, reason, time)

        case events.ConfigRemoved():
            if event.name not in state.agents:
                return False
            del state.agents[event.name]

        case events.StatusChanged():
            before = state.agents.get(event.name)
            if before is None:
                return False
            state.agents[event.name] = before._replace(status=event.status, reason=event.reason, updated_at=time)

        case events.MessageRecorded():
            place = (event.conversation_id, event.message_id)
            if place in state.messages:
                return False
            state.messages[place] = Message(seq, *place, event.agent, event.role, event.content, time)

    return True


def _delete_entities(state: State, gone: Iterable[Entity]) -> None:
    """Entities go, and with them their observations and the relations that start or end there."""
    ids = {entity.id for entity in gone}
    state.entities = {key: each for key, each in state.entities.items() if each.id not in ids}
    state.observations = {key: each for key, each in state.observations.items() if key[0] not in ids}
    state.relations = {key: each for key, each in state.relations.items() if not ids & {key[0], key[1]}}


def _changes(event: events.EntityUpdated | events.RelationUpdated) -> dict[str, Any]:
    """The columns that an update gives; None leaves a column as it is."""
    as_stored: dict[str, Callable[[Any], Any]] = {
        "entity_type": str,
        "metadata": _text,
        "confidence": _real,
        "strength": _real,
    }
    given = {name: getattr(event, name, None) for name in as_stored}
    return {name: as_stored[name](value) for name, value in given.items() if value is not None}


def _text(metadata: dict[str, Any]) -> str:
    """Metadata as JSON text; what JSON does not have (no admitted event holds any) as MessagePack in base64."""
    try:
        return json.dumps(metadata, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
    except (TypeError, ValueError):
        packed = base64.b64encode(msgspec.msgpack.encode(metadata)).decode()
        return f'{{"messagepack_base64":"{packed}"}}'


def _real(number: float) -> float | None:
    """A REAL column knows no NaN (it is NULL) and no negative zero."""
    return None if math.isnan(number) else float(number) + 0.0


# -- what is refused --------------------------------------------------------------------------------------------------


def _would_refuse(state: State, event: Event) -> str | None:
    """Creating what is there, and changing, removing or adding to what is not."""

    def creates(parents_exist: bool, exists: bool) -> str | None:
        return "not_found" if not parents_exist else "already_exists" if exists else None

    def needs(exists: bool) -> str | None:
        return None if exists else "not_found"

    match event:
        case events.EntityCreated():
            return creates(True, (event.scope, event.name) in state.entities)
        case events.EntityUpdated() | events.EntityDeleted():
            return needs((event.scope, event.name) in state.entities)
        case events.ObservationAdded():
            owner = state.entity_id(event.scope, event.entity)
            return creates(owner is not None, (owner, event.content) in state.observations)
        case events.ObservationRemoved():
            return needs((state.entity_id(event.scope, event.entity), event.content) in state.observations)
        case events.RelationCreated():
            ends = state.relation_key(event)
            return creates(ends is not None, ends in state.relations)
        case events.RelationUpdated() | events.RelationDeleted():
            return needs(state.relation_key(event) in state.relations)
        case events.ConfigRemoved() | events.StatusChanged():
            return needs(event.name in state.agents)
        case events.MessageRecorded():
            return creates(True, (event.conversation_id, event.message_id) in state.messages)
        case events.CursorMoved():
            return needs(any(event.message_id == message_id for _, message_id in state.messages))
    return None
