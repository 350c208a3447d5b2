"""What another program did to memory.db, as the events that would have done it.

Compares the rows of a sound file with the state that the journal makes at its position, and reads both sides only of
the entities and agents whose rows differ. Knows which differences an event can express; every other one is named and
left as the journal has it. Must not know locks, nor what is done with the events.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Collection, Iterator
from dataclasses import dataclass, field
from typing import Any

from journal.errors import Refused
from journal.events import (
    ConfigRemoved,
    ConfigWritten,
    EntityCreated,
    Event,
    MessageRecorded,
    ObservationAdded,
    RelationCreated,
    StatusChanged,
)
from journal.limits import admit, check_envelope
from replay.agent_quarantine import printable
from replay.deviation import differing
from replay.digest import COLUMNS
from replay.logical import Agent, Entity, EntityKey, Observation, Relation, State, Written, events_between
from replay.tolerant import text_or_bytes

_AT_ONCE = 500

Row = tuple[Any, ...]


@dataclass(slots=True)
class Drift:
    """The events that lead from the journal's state to what lies there, and the differences that none expresses."""

    events: list[Written] = field(default_factory=list)
    left_out: list[str] = field(default_factory=list)

    @property
    def is_empty(self) -> bool:
        return not (self.events or self.left_out)


def find_drift(found: sqlite3.Connection, expected: sqlite3.Connection) -> Drift:
    """What has to happen to `expected` for its content to be that of `found`; both are sound and of this schema."""
    drift = Drift()
    ids = differing(found, expected)
    with text_or_bytes(found), text_or_bytes(expected):
        told: set[str] = set()
        before, after = _Side(expected), _Side(found)
        about = _entities_of(before, ids) | _entities_of(after, ids)
        before.read(about, None, told)
        after.read(about, before, told)
        before.read_agents(ids["agents"], None, told)
        after.read_agents(ids["agents"], before, told)
        drift.events = [
            each._replace(event=_imported(each.event)) for each in events_between(before.state, after.state)
        ]
        drift.events += _messages(before, after, ids["messages"], told)
        drift.left_out = sorted(told)
        silent = sum(map(len, ids.values())) and not drift.events and not drift.left_out
    if silent:
        drift.left_out.append("rows differ only in times, ids or the form of their metadata: no event sets those")
    for table in _others(found) - _others(expected):
        drift.left_out.append(f"table {printable(table)}: no event has a place for it")
    return drift


def _imported(event: Event) -> Event:
    """Whose change it was, nobody knows; where it comes from, its origin says."""
    if isinstance(event, ConfigWritten):
        return ConfigWritten(event.name, event.content, origin="import")
    return ConfigRemoved(event.name, origin="import") if isinstance(event, ConfigRemoved) else event


def _others(connection: sqlite3.Connection) -> set[str]:
    names = connection.execute("SELECT name FROM sqlite_master WHERE type = 'table' AND name NOT LIKE 'sqlite_%'")
    return {name for (name,) in names}


def _entities_of(side: _Side, ids: dict[str, set[Any]]) -> set[int]:
    """Ids of the entities that the differing rows are, or hang from."""
    found = set(ids["entities"])
    for row in side.rows("observations", ids["observations"]):
        found.add(row[1])
    for row in side.rows("relations", ids["relations"]):
        found.update(row[1:3])
    return found


class _Side:
    """One file, and the part of it that matters as a logical state."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self.connection = connection
        self.state = State()
        self.names: dict[int, EntityKey] = {}

    def rows(self, table: str, ids: Collection[Any], column: str = "") -> Iterator[Row]:
        """The rows with these ids, or with these values in `column`."""
        wanted = sorted(ids, key=repr)
        key = column or ("name" if table == "agents" else "id")
        for at in range(0, len(wanted), _AT_ONCE):
            some = wanted[at : at + _AT_ONCE]
            marks = ", ".join("?" * len(some))
            order = "name" if table == "agents" else "id"
            sql = f"SELECT {COLUMNS[table]} FROM {table} WHERE {key} IN ({marks}) ORDER BY {order}"
            yield from self.connection.execute(sql, some).fetchall()

    def read(self, entities: set[int], journaled: _Side | None, told: set[str]) -> None:
        """Fills the state; with `journaled`, what no event can express is told, and is what it is there."""
        for row in self.rows("entities", entities):
            self._entity(row, journaled, told)
        seen: set[int] = set()
        for row in self.rows("observations", entities, "entity_id"):
            self._observation(row, journaled, told)
        for column in ("from_entity_id", "to_entity_id"):
            for row in self.rows("relations", entities, column):
                if row[0] not in seen:
                    seen.add(row[0])
                    self._relation(row, journaled, told)

    def _entity(self, row: Row, journaled: _Side | None, told: set[str]) -> None:
        row_id, scope, name, entity_type, metadata, confidence = row[:6]
        what = f"entities row {row_id!r} ({name!r})"
        made = _metadata(metadata, what, told)
        reason = _refusal(EntityCreated(scope, name, entity_type, made, confidence)) if made is not None else None
        if made is None or reason is not None or (scope, name) in self.state.entities:
            told.add(f"{what}: {reason or ('its name is taken' if made is not None else 'its metadata is no object')}")
            self._as_journaled(row_id, journaled)
            return
        self.names[row_id] = (scope, name)
        self.state.entities[scope, name] = Entity(entity_type, made, confidence)

    def _as_journaled(self, row_id: int, journaled: _Side | None) -> None:
        key = journaled.names.get(row_id) if journaled is not None else None
        if journaled is not None and key is not None and key not in self.state.entities:
            self.names[row_id] = key
            self.state.entities[key] = journaled.state.entities[key]

    def _observation(self, row: Row, journaled: _Side | None, told: set[str]) -> None:
        row_id, entity_id, content, _, metadata, agent = row[:6]
        key = self.names.get(entity_id)
        what = f"observations row {row_id!r}"
        if key is None:
            told.add(f"{what}: its entity, row {entity_id!r}, is not there or was left out")
            return
        made = _metadata(metadata, what, told)
        reason = _refusal(ObservationAdded(*key, content, made), agent) if made is not None else "no metadata"
        if made is None or reason is not None:
            told.add(f"{what}: {reason}")
            if journaled is not None:  # what the journal says of it stays
                for each in journaled.rows("observations", [row_id]):
                    if journaled.names.get(each[1]) == key:
                        kept = journaled.state.observation(key, each[2])
                        if kept is not None:
                            self.state.observations.setdefault(key, {})[each[2]] = kept
            return
        self.state.observations.setdefault(key, {})[content] = Observation(made, agent)

    def _relation(self, row: Row, journaled: _Side | None, told: set[str]) -> None:
        row_id, start, end, kind, strength, confidence, metadata = row[:7]
        ends = [self._name(start), self._name(end)]
        what = f"relations row {row_id!r}"
        if ends[0] is None or ends[1] is None:
            told.add(f"{what}: one of its ends is not there or was left out")
            return
        (scope, from_name), (other, to_name) = ends[0], ends[1]
        made = _metadata(metadata, what, told)
        reason: str | None = "its metadata is no object"
        if scope != other:
            reason = f"it joins two scopes, {scope} and {other}"
        elif made is not None:
            event = RelationCreated(scope, from_name, to_name, kind, strength, confidence, made)
            reason = _refusal(event)
        if reason is not None or made is None:
            told.add(f"{what}: {reason}")
            kept = journaled.state.relations.get((scope, from_name, to_name, kind)) if journaled is not None else None
            if kept is not None:
                self.state.relate((scope, from_name, to_name, kind), kept)
            return
        self.state.relate((scope, from_name, to_name, kind), Relation(strength, confidence, made))

    def _name(self, entity_id: int) -> EntityKey | None:
        """Of any entity: the other end of a relation may be one whose rows do not differ."""
        if entity_id not in self.names:
            for row in self.rows("entities", [entity_id]):
                if isinstance(row[1], str) and isinstance(row[2], str):
                    self.names[entity_id] = (row[1], row[2])
        return self.names.get(entity_id)

    def read_agents(self, names: Collection[Any], journaled: _Side | None, told: set[str]) -> None:
        for name, _, status, reason, _, content in self.rows("agents", names):
            if isinstance(content, str):
                content = content.encode()
            why = _refusal(ConfigWritten(name, content)) or _refusal(StatusChanged(name, status, reason))
            if why is None:
                self.state.agents[name] = Agent(content, status, reason)
                continue
            told.add(f"agents row {name!r}: {why}")
            kept = journaled.state.agents.get(name) if journaled is not None else None
            if kept is not None:
                self.state.agents[name] = kept


def _messages(before: _Side, after: _Side, ids: set[Any], told: set[str]) -> Iterator[Written]:
    """A message can be added; none can be changed or taken back."""
    journaled = {row[0]: row for row in before.rows("messages", ids)}
    for row in after.rows("messages", ids):
        row_id, conversation, message_id, agent, role, content = row[:6]
        if journaled.pop(row_id, None) is not None:
            told.add(f"messages row {row_id!r}: it was changed, and no event changes a message")
            continue
        event = MessageRecorded(conversation, agent, role, content, message_id)
        reason = _refusal(event)
        if reason is None:
            yield Written(event, agent)
        else:
            told.add(f"messages row {row_id!r}: {reason}")
    told.update(f"messages row {row_id!r}: it was removed, and no event removes a message" for row_id in journaled)


def _refusal(event: Event, agent: object = None) -> str | None:
    """Why the journal would not take this, or None."""
    try:
        admit(event)
        check_envelope(agent=agent)  # type: ignore[arg-type]
    except Refused as error:
        return printable(error.message)
    return None


def _metadata(text: object, what: str, told: set[str]) -> dict[str, Any] | None:
    try:
        value = json.loads(text) if isinstance(text, str) else None
    except (ValueError, RecursionError):
        return None
    return value if isinstance(value, dict) else None
