"""A whole history into an empty memory.db: the same rows as `memory.apply_records` makes, several times as fast.

Knows what each event does to the tables, and that nobody reads them before `finish`; must not know where events come
from. References are looked up in dictionaries instead of indexes; rows go in by the hundred, in the order of their
ids, which only ever appends to a table's tree; what changes or removes a row waits until the rows are in; the indexes
come last. Nothing is synced: after an error or a crash the file is thrown away.

Why deferring is exact. Entities and relations are followed key by key, so what happens to one waits as a change of
this id, and an id is never used twice. Observations and messages may be too many to follow. There a key's fate is
settled by ids and removals alone: where something removes the key, its story is told at the end; everywhere else the
first row stands, and building the unique index finds out whether a later one came after it, which no validated
history has.
"""

from __future__ import annotations

import gc
import sqlite3
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
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
from replay.deferred import Deferred
from replay.inserter import Inserter
from replay.memory import Applied
from replay.schema import NULL, create, metadata_text

_COLUMNS = {
    "entities": "id, scope, name, entity_type, metadata, confidence, created_at, updated_at",
    "observations": "id, entity_id, content, text_sha256, metadata, agent, created_at",
    "relations": "id, from_entity_id, to_entity_id, relation_type, strength, confidence, metadata, created_at",
    "messages": "id, conversation_id, message_id, agent, role, content, created_at",
}
_INSERT_AGENT = "INSERT INTO agents(name, sha256, content, status, reason, updated_at) VALUES (?, ?, ?, ?, ?, ?)"

CHANGES_MAX = 50_000  # so many changes wait before they are applied: a bound for memory, and for pages in vain


class BulkLoader:
    """Takes a history from its first record on: `add` in the order of seqs, then `finish` once.

    The connection is to a file without tables: they are made here. `finish` leaves its settings as they were, the rows
    committed but not synced; the position is the caller's to write.
    """

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._connection = connection
        self._applied = Applied()
        self._idle = 0  # events that had no effect after all
        self._settings = {name: _pragma(connection, name) for name in ("journal_mode", "synchronous", "foreign_keys")}
        # A rollback journal in memory costs nothing while a file only grows, and lets a failed index be taken back.
        for setting in ("journal_mode=MEMORY", "synchronous=OFF", "foreign_keys=OFF"):
            connection.execute(f"PRAGMA {setting}")
        create(connection, indexes=False)
        connection.execute("BEGIN")
        self._entities: dict[str, dict[str, int]] = {}  # scope, name: id
        self._relations: dict[tuple[int, int, str], int] = {}  # from, to, type: id
        self._agents: dict[str, tuple[Any, ...]] = {}
        self._tables = [Inserter(connection, name, columns) for name, columns in _COLUMNS.items()]
        self._entity_cells, self._observation_cells, self._relation_cells, self._message_cells = (
            table.cells for table in self._tables
        )
        self._deferred = Deferred(connection)
        self._handlers: dict[type[Any], Callable[[int, Record], int]] = {
            EntityCreated: self._entity_created,
            EntityUpdated: self._entity_updated,
            EntityDeleted: self._entity_deleted,
            ScopeCleared: self._scope_cleared,
            ObservationRemoved: self._observation_removed,
            RelationCreated: self._relation_created,
            RelationUpdated: self._relation_updated,
            RelationDeleted: self._relation_deleted,
            MessageRecorded: self._message_recorded,
            ConfigWritten: self._config_written,
            ConfigRemoved: self._config_removed,
            StatusChanged: self._status_changed,
        }

    def add(self, first_seq: int, records: Sequence[Record]) -> None:
        """Takes the next records, whose seqs are consecutive and above all that came before."""
        with collector_paused():
            self._add(first_seq, records)
            for table in self._tables:
                table.write_full()
            if self._deferred.changes > CHANGES_MAX:
                self._flush()
            if self._deferred.removed > CHANGES_MAX and self._deferred.is_worth_settling():
                self._flush()
                self._settle()

    def _add(self, first_seq: int, records: Sequence[Record]) -> None:
        entities, observations, handlers = self._entities, self._observation_cells, self._handlers
        rows = no_ops = 0
        for seq, record in enumerate(records, first_seq):
            event = record.event
            if type(event) is ObservationAdded:  # most of any history, and a call would cost a tenth of the load
                try:
                    entity_id = entities[event.scope][event.entity]
                except KeyError:
                    no_ops += 1
                    continue
                content, agent = event.content, record.agent
                metadata = metadata_text(event.metadata) if event.metadata else "{}"
                observations += (
                    seq,
                    entity_id,
                    content,
                    bytearray(sha256(content.encode()).digest()),
                    metadata,
                    NULL if agent is None else agent,
                    record.time,
                )
                rows += 1
            elif (handler := handlers.get(type(event))) is not None:
                made = handler(seq, record)
                rows += made
                no_ops += not made and type(event) is not ScopeCleared
        self._applied.events += len(records)
        self._applied.rows += rows
        self._applied.no_ops += no_ops

    def finish(self) -> Applied:
        """Settles what waits, makes the indexes, commits. Counts as `apply_records` does, for any valid history."""
        applied = self._applied
        with collector_paused():
            agents = ((name, *agent) for name, agent in self._agents.items())
            self._connection.executemany(_INSERT_AGENT, agents)
            self._flush()
            self._settle()
            self._connection.execute("COMMIT")
            self._idle += self._deferred.make_indexes()
        for name, value in self._settings.items():
            self._connection.execute(f"PRAGMA {name}={value}")
        return Applied(applied.events, applied.rows - self._idle, applied.no_ops + self._idle)

    def _flush(self) -> None:
        """All rows go in, then what changed them: by id, so no order between rows is lost."""
        for table in self._tables:
            table.write_all()
        self._deferred.apply_changes()

    def _settle(self) -> None:
        """Of what is gone no key is followed any further: ids are never used twice."""
        dead = {entity_id for (entity_id,) in self._deferred.dead_entities}
        if dead:
            self._relations = {
                key: each for key, each in self._relations.items() if key[0] not in dead and key[1] not in dead
            }
        self._idle += self._deferred.settle()

    # -- one event: how many rows it makes, changes or removes --------------------------------------------------------

    def _entity_created(self, seq: int, record: Record) -> int:
        event, time = record.event, record.time
        names = self._entities.get(event.scope)
        if names is None:
            names = self._entities[event.scope] = {}
        if names.setdefault(event.name, seq) != seq:
            return 0
        metadata = metadata_text(event.metadata)
        self._entity_cells += (seq, event.scope, event.name, event.entity_type, metadata, event.confidence, time, time)
        return 1

    def _entity_updated(self, _: int, record: Record) -> int:
        event = record.event
        entity_id = self._entities.get(event.scope, {}).get(event.name)
        if entity_id is None:
            return 0
        metadata = None if event.metadata is None else metadata_text(event.metadata)
        number = event.confidence
        self._deferred.entity_changes.append(
            (event.entity_type, metadata, number is not None, number, record.time, entity_id)
        )
        return 1

    def _entity_deleted(self, _: int, record: Record) -> int:
        entity_id = self._entities.get(record.event.scope, {}).pop(record.event.name, None)
        if entity_id is None:
            return 0
        self._deferred.dead_entities.append((entity_id,))
        return 1

    def _scope_cleared(self, _: int, record: Record) -> int:
        names = self._entities.pop(record.event.scope, {})
        self._deferred.dead_entities.extend((entity_id,) for entity_id in names.values())
        return len(names)

    def _observation_removed(self, seq: int, record: Record) -> int:
        event = record.event
        entity_id = self._entities.get(event.scope, {}).get(event.entity)
        if entity_id is None:
            return 0
        self._deferred.removals.append((entity_id, sha256(event.content.encode()).digest(), seq))
        return 1  # taken back when it is settled, where there was nothing to remove

    def _relation_created(self, seq: int, record: Record) -> int:
        event, kind = record.event, record.event.relation_type
        try:
            names = self._entities[event.scope]
            from_id, to_id = names[event.from_entity], names[event.to_entity]
        except KeyError:
            return 0
        if self._relations.setdefault((from_id, to_id, kind), seq) != seq:
            return 0
        metadata = metadata_text(event.metadata)
        self._relation_cells += (seq, from_id, to_id, kind, event.strength, event.confidence, metadata, record.time)
        return 1

    def _relation_key(self, event: RelationUpdated | RelationDeleted) -> tuple[int, int, str]:
        """Ends that are missing have no id, and no relation has them."""
        names = self._entities.get(event.scope, {})
        return names.get(event.from_entity, 0), names.get(event.to_entity, 0), event.relation_type

    def _relation_updated(self, _: int, record: Record) -> int:
        event = record.event
        relation_id = self._relations.get(self._relation_key(event))
        if relation_id is None:
            return 0
        metadata = None if event.metadata is None else metadata_text(event.metadata)
        strength, confidence = event.strength, event.confidence
        self._deferred.relation_changes.append(
            (strength is not None, strength, confidence is not None, confidence, metadata, relation_id)
        )
        return 1

    def _relation_deleted(self, _: int, record: Record) -> int:
        relation_id = self._relations.pop(self._relation_key(record.event), None)
        if relation_id is None:
            return 0
        self._deferred.dead_relations.append((relation_id,))
        return 1

    def _message_recorded(self, seq: int, record: Record) -> int:
        event = record.event
        message = (event.conversation_id, event.message_id, event.agent, event.role, event.content)
        self._message_cells += (seq, *message, record.time)
        return 1

    def _config_written(self, _: int, record: Record) -> int:
        event = record.event
        _, _, status, reason, _ = self._agents.get(event.name, (None, None, "active", "", None))
        self._agents[event.name] = (sha256(event.content).hexdigest(), event.content, status, reason, record.time)
        return 1

    def _config_removed(self, _: int, record: Record) -> int:
        return int(self._agents.pop(record.event.name, None) is not None)

    def _status_changed(self, _: int, record: Record) -> int:
        event = record.event
        if event.name not in self._agents:
            return 0
        digest, content = self._agents[event.name][:2]
        self._agents[event.name] = (digest, content, event.status, event.reason, record.time)
        return 1


def _pragma(connection: sqlite3.Connection, name: str) -> Any:
    return connection.execute(f"PRAGMA {name}").fetchone()[0]


@contextmanager
def collector_paused() -> Iterator[None]:
    """No garbage collection inside: what a load makes is kept or freed by count, and walking it costs up to 1.4 times.

    Worth holding around the decoding of a history too.
    """
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()
