"""Events to rows of memory.db, one transaction after the other, as they come.

Knows what each event does to the tables; must not know where events come from, nor transactions and positions, which
are the caller's. Apply is total and depends on nothing but state and record: a reference that is missing or a row that
is there already makes an event a counted no-op, never an error, so any decodable sequence has a state. A row's id is
the seq of its event. `bulk` does the same to an empty file, faster; both must make the same rows.

A NaN, which no admitted event holds, is stored as SQLite stores it: as NULL.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from hashlib import sha256
from typing import Any

from journal.events import (
    ConfigRemoved,
    ConfigWritten,
    EntityCreated,
    EntityDeleted,
    EntityUpdated,
    MessageRecorded,
    ObservationAdded,
    ObservationRemoved,
    RelationCreated,
    RelationDeleted,
    RelationUpdated,
    ScopeCleared,
    StatusChanged,
)
from journal.record import Record
from replay.schema import NULL, metadata_text, text_digest


@dataclass(slots=True)
class Applied:
    """What a sequence did: its events, the rows they made, changed or removed themselves (what cascades from a row is
    not counted), and the events whose reference was missing or whose row was there already."""

    events: int = 0
    rows: int = 0
    no_ops: int = 0


def apply_records(connection: sqlite3.Connection, first_seq: int, records: Sequence[Record]) -> Applied:
    """Applies records with consecutive seqs. The caller owns the transaction and moves the position in it.

    Needs foreign keys to be on, as `schema.connect` has them. `state.restored` is a jump that the caller makes; here
    it projects nothing, like every event that memory.db does not show.
    """
    applied = Applied(len(records))
    start, end = 0, len(records)
    while start < end:
        kind = type(records[start].event)
        stop = start + 1
        if (statement := _STATEMENTS.get(kind)) is None:
            start = stop
            continue
        sql, parameters = statement
        while stop < end and type(records[stop].event) is kind:
            stop += 1
        if stop == start + 1:
            rows = connection.execute(sql, parameters(first_seq + start, records[start])).rowcount
        else:
            run = map(parameters, range(first_seq + start, first_seq + stop), records[start:stop])
            rows = connection.executemany(sql, run).rowcount
        applied.rows += rows
        if kind is not ScopeCleared:  # it may remove any number of rows: none is what it asks for, too
            applied.no_ops += stop - start - rows
        start = stop
    return applied


# -- one statement and its parameters for each event -------------------------------------------------------------------
#
# References are looked up inside the statement: what is missing selects no row, and one round trip does it all.

_Parameters = Callable[[int, Any], tuple[Any, ...]]

# What an update gives; a number is given or not by a flag of its own, because a NaN is bound as NULL.
ENTITY_CHANGES = (
    "entity_type = coalesce(?, entity_type), metadata = coalesce(?, metadata), confidence = iif(?, ?, confidence),"
    " updated_at = ?"
)
RELATION_CHANGES = (
    "strength = iif(?, ?, strength), confidence = iif(?, ?, confidence), metadata = coalesce(?, metadata)"
)

_ENTITY = "(SELECT id FROM entities WHERE scope = ? AND name = ?)"
_RELATION = f"from_entity_id = {_ENTITY} AND to_entity_id = {_ENTITY} AND relation_type = ?"


def _entity_created(seq: int, record: Record) -> tuple[Any, ...]:
    event, time = record.event, record.time
    metadata = metadata_text(event.metadata)
    return (seq, event.scope, event.name, event.entity_type, metadata, event.confidence, time, time)


def _entity_updated(_: int, record: Record) -> tuple[Any, ...]:
    event = record.event
    metadata = None if event.metadata is None else metadata_text(event.metadata)
    confidence = event.confidence
    return (event.entity_type, metadata, confidence is not None, confidence, record.time, event.scope, event.name)


def _observation_added(seq: int, record: Record) -> tuple[Any, ...]:
    event = record.event
    content, metadata = event.content, metadata_text(event.metadata)
    agent = NULL if record.agent is None else record.agent
    return (seq, content, text_digest(content), metadata, agent, record.time, event.scope, event.entity)


def _observation_removed(_: int, record: Record) -> tuple[Any, ...]:
    event = record.event
    return (event.scope, event.entity, text_digest(event.content))


def _relation_created(seq: int, record: Record) -> tuple[Any, ...]:
    event = record.event
    scope, metadata = event.scope, metadata_text(event.metadata)
    columns = (seq, event.relation_type, event.strength, event.confidence, metadata, record.time)
    return (*columns, scope, event.from_entity, scope, event.to_entity)


def _relation_updated(_: int, record: Record) -> tuple[Any, ...]:
    event = record.event
    metadata = None if event.metadata is None else metadata_text(event.metadata)
    strength, confidence = event.strength, event.confidence
    return (strength is not None, strength, confidence is not None, confidence, metadata, *_relation_key(event))


def _relation_deleted(_: int, record: Record) -> tuple[Any, ...]:
    return _relation_key(record.event)


def _relation_key(event: RelationUpdated | RelationDeleted) -> tuple[str, ...]:
    return (event.scope, event.from_entity, event.scope, event.to_entity, event.relation_type)


def _message_recorded(seq: int, record: Record) -> tuple[Any, ...]:
    event = record.event
    return (seq, event.conversation_id, event.message_id, event.agent, event.role, event.content, record.time)


def _config_written(_: int, record: Record) -> tuple[Any, ...]:
    event = record.event
    # Of the content itself: an event that names another sha256 was never admitted, and must not make a lying row.
    return (event.name, sha256(event.content).hexdigest(), event.content, record.time)


def _status_changed(_: int, record: Record) -> tuple[Any, ...]:
    event = record.event
    return (event.status, event.reason, record.time, event.name)


_STATEMENTS: dict[type[Any], tuple[str, _Parameters]] = {
    EntityCreated: (
        "INSERT OR IGNORE INTO entities"
        "(id, scope, name, entity_type, metadata, confidence, created_at, updated_at) VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
        _entity_created,
    ),
    EntityUpdated: (
        f"UPDATE entities SET {ENTITY_CHANGES} WHERE scope = ? AND name = ?",
        _entity_updated,
    ),
    EntityDeleted: (
        "DELETE FROM entities WHERE scope = ? AND name = ?",
        lambda _, record: (record.event.scope, record.event.name),
    ),
    ScopeCleared: ("DELETE FROM entities WHERE scope = ?", lambda _, record: (record.event.scope,)),
    ObservationAdded: (
        "INSERT OR IGNORE INTO observations(id, entity_id, content, text_sha256, metadata, agent, created_at)"
        " SELECT ?, id, ?, ?, ?, ?, ? FROM entities WHERE scope = ? AND name = ?",
        _observation_added,
    ),
    ObservationRemoved: (
        f"DELETE FROM observations WHERE entity_id = {_ENTITY} AND text_sha256 = ?",
        _observation_removed,
    ),
    RelationCreated: (
        "INSERT OR IGNORE INTO relations"
        "(id, from_entity_id, to_entity_id, relation_type, strength, confidence, metadata, created_at)"
        " SELECT ?, a.id, b.id, ?, ?, ?, ?, ? FROM entities a, entities b"
        " WHERE a.scope = ? AND a.name = ? AND b.scope = ? AND b.name = ?",
        _relation_created,
    ),
    RelationUpdated: (
        f"UPDATE relations SET {RELATION_CHANGES} WHERE {_RELATION}",
        _relation_updated,
    ),
    RelationDeleted: (f"DELETE FROM relations WHERE {_RELATION}", _relation_deleted),
    MessageRecorded: (
        "INSERT OR IGNORE INTO messages"
        "(id, conversation_id, message_id, agent, role, content, created_at) VALUES (?, ?, ?, ?, ?, ?, ?)",
        _message_recorded,
    ),
    ConfigWritten: (
        "INSERT INTO agents(name, sha256, content, status, reason, updated_at) VALUES (?, ?, ?, 'active', '', ?)"
        " ON CONFLICT(name) DO UPDATE SET sha256 = excluded.sha256, content = excluded.content,"
        " updated_at = excluded.updated_at",
        _config_written,
    ),
    ConfigRemoved: ("DELETE FROM agents WHERE name = ?", lambda _, record: (record.event.name,)),
    StatusChanged: ("UPDATE agents SET status = ?, reason = ?, updated_at = ? WHERE name = ?", _status_changed),
}
