"""Who wrote what a state holds: a row's id is the seq of the event that made it, and the journal names its writer.

Knows the tables and the log; must not know how states are built or how answers are printed.
"""

from __future__ import annotations

import json
import sqlite3
from bisect import bisect_right
from collections.abc import Iterable, Iterator
from itertools import groupby
from typing import Any

import msgspec

from journal.events import EntityCreated, EntityUpdated
from journal.reader import LogReader
from journal.record import RecordHead, generated_op_id


class Writer(msgspec.Struct, frozen=True):
    """The envelope of the event that wrote a row; ``time`` is UTC ns."""

    seq: int
    time: int
    op_id: str
    agent: str | None
    actor: str | None


class Observed(msgspec.Struct, frozen=True):
    content: str
    metadata: dict[str, Any]
    written_by: Writer


class Related(msgspec.Struct, frozen=True):
    """A relation of the entity to another one, or the other way round."""

    from_entity: str
    relation_type: str
    to_entity: str
    strength: float
    confidence: float
    metadata: dict[str, Any]
    written_by: Writer


class Known(msgspec.Struct, frozen=True):
    """All that a state knows of one entity. ``updated_by`` is None where nothing changed it since it was created."""

    scope: str
    name: str
    entity_type: str
    metadata: dict[str, Any]
    confidence: float
    written_by: Writer
    updated_by: Writer | None
    observations: list[Observed]
    relations: list[Related]


def known_of(
    connection: sqlite3.Connection, reader: LogReader, seq: int, name: str, scope: str | None = None
) -> list[Known]:
    """What state(seq), open at `connection`, knows of the entities called `name`: one a scope, in the scopes' order."""
    rows = connection.execute(
        "SELECT id, scope, name, entity_type, metadata, confidence, updated_at FROM entities"
        " WHERE name = :name AND (:scope IS NULL OR scope = :scope) ORDER BY scope",
        {"name": name, "scope": scope},
    ).fetchall()
    return [_known(connection, reader, seq, row) for row in rows]


def _known(connection: sqlite3.Connection, reader: LogReader, seq: int, row: tuple[Any, ...]) -> Known:
    entity_id, scope, name, entity_type, metadata, confidence, updated_at = row
    observations = connection.execute(
        "SELECT id, content, metadata FROM observations WHERE entity_id = ? ORDER BY id", (entity_id,)
    ).fetchall()
    relations = connection.execute(
        "SELECT r.id, f.name, r.relation_type, t.name, r.strength, r.confidence, r.metadata FROM relations r"
        " JOIN entities f ON f.id = r.from_entity_id JOIN entities t ON t.id = r.to_entity_id"
        " WHERE :id IN (r.from_entity_id, r.to_entity_id) ORDER BY r.id",
        {"id": entity_id},
    ).fetchall()
    who = writers(reader, [entity_id, *(each[0] for each in observations), *(each[0] for each in relations)])
    return Known(
        scope, name, entity_type, json.loads(metadata), confidence, who[entity_id],
        _updater(reader, seq, scope, name, updated_at),
        [Observed(content, json.loads(about), who[row_id]) for row_id, content, about in observations],
        [
            Related(start, kind, end, strength, sure, json.loads(about), who[row_id])
            for row_id, start, kind, end, strength, sure, about in relations
        ],
    )  # fmt: skip


def names_in(connection: sqlite3.Connection) -> Iterator[tuple[str, str]]:
    """(scope, name) of every entity of a state."""
    yield from connection.execute("SELECT scope, name FROM entities")


def writers(reader: LogReader, seqs: Iterable[int]) -> dict[int, Writer]:
    """The envelopes at these seqs. Each segment that holds any of them is read once."""
    firsts = [segment.first_seq for segment in reader.segments]
    found: dict[int, Writer] = {}
    for _, group in groupby(sorted(set(seqs)), key=lambda seq: bisect_right(firsts, seq)):
        wanted = list(group)
        for batch in reader.batches(wanted[0], wanted[-1]):
            here = [seq for seq in wanted if batch.first_seq <= seq <= batch.last_seq]
            if here:
                heads = batch.heads()
                found |= {seq: _writer(batch.epoch, seq, heads[seq - batch.first_seq]) for seq in here}
    return found


def _writer(epoch: int, seq: int, head: RecordHead) -> Writer:
    return Writer(seq, head.time, head.op_id or generated_op_id(epoch, seq), head.agent, head.actor)


def _updater(reader: LogReader, seq: int, scope: str, name: str, time: int) -> Writer | None:
    """The last update up to `seq` of the entity at `time`, if that is none of its creation: rows keep the time of an
    update, not its seq."""
    at = min(seq, reader.seq_at(time))
    while at:
        batch = reader.batch_of(at)
        records = batch.records()
        for index in range(at - batch.first_seq, -1, -1):
            record = records[index]
            if record.time < time:
                return None
            event = record.event
            if isinstance(event, EntityUpdated | EntityCreated) and (event.scope, event.name) == (scope, name):
                if isinstance(event, EntityCreated):
                    return None
                return Writer(
                    batch.first_seq + index, record.time,
                    record.op_id or generated_op_id(batch.epoch, batch.first_seq + index), record.agent, record.actor,
                )  # fmt: skip
        at = batch.first_seq - 1
    return None
