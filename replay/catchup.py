"""Bringing a live memory.db to the journal's end, event by event, in the file that servers have open.

Knows where a file stands and that its place must lie in this journal's history. A whole restore is beyond it: that
takes a new file and a swap.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass

from journal.errors import Diverged
from journal.reader import LogReader
from journal.record import Record
from replay.memory import Applied, apply_records
from replay.records import jump_in, total_of, within
from replay.schema import Position, read_position, settings, write_position
from replay.timeline import Restore
from replay.tracing import database_span

EVENTS_PER_COMMIT = 20_000  # others wait to write, and the write-ahead log grows, for no longer than that
_MANY = 1000
_CACHE_KIB = 96 << 10  # holds what that many events dirty: a page of an index each, at random; spilled ones cost twice


@dataclass(frozen=True, slots=True)
class CaughtUp:
    """How far a live memory.db was brought, from one seq to another.

    ``restore`` is set where it stopped before a `state.restored`: what follows builds on an earlier state, to which
    a live file cannot go back. The state must then be built anew and swapped in.
    """

    from_seq: int
    to_seq: int
    applied: Applied
    restore: Restore | None = None


def check_position(connection: sqlite3.Connection, reader: LogReader) -> Position:
    """The position of a live memory.db, proven to lie in this journal's history.

    Raises Diverged; or Corrupt where the journal is damaged and once held what memory.db holds.
    """
    position = read_position(connection)
    hint = "memory.db and the journal tell two histories; compare with a backup, or run: journal recover memory"
    if position is None:
        raise Diverged("memory.db has no position", hint=hint)
    if position.journal_id != reader.journal_id.hex():
        raise Diverged(f"memory.db belongs to journal {position.journal_id}", hint=hint)
    if position.seq > reader.last_seq:
        reader.evidence_seq = max(reader.evidence_seq, position.seq)
        reader.raise_for_tail()
        raise Diverged(
            f"memory.db is at seq {position.seq}, the journal ends at {reader.last_seq}", seq=position.seq, hint=hint
        )
    if position.chain != reader.chain_at(position.seq).hex():
        raise Diverged(f"the chains differ at seq {position.seq}", seq=position.seq, hint=hint)
    return position


def catch_up(
    connection: sqlite3.Connection, reader: LogReader, progress: Callable[[int, int], None] | None = None
) -> CaughtUp:
    """Applies what the journal holds after memory.db's position, in transactions of bounded size.

    `connection` is the one that writes memory.db, `progress` is called with (done, total) events. Raises Diverged,
    before anything is changed, where the position lies in another history, and Corrupt where the journal is damaged
    before its end.
    """
    start = check_position(connection, reader)
    reader.raise_for_tail()  # the seq before damage must not pass for the journal's end
    total = reader.last_seq - start.seq
    applied, reached = Applied(), start
    restore: Restore | None = None
    waiting: list[Record] = []

    def commit() -> None:
        nonlocal applied
        if waiting:
            first_seq = reached.seq - len(waiting) + 1
            applied = total_of(applied, _commit(connection, first_seq, waiting, reached))
            waiting.clear()
        if progress is not None:
            progress(reached.seq - start.seq, total)

    with (
        database_span("catch_up") if total else nullcontext(),
        _for_many(connection) if total >= _MANY else nullcontext(),
    ):
        for batch in reader.batches(start.seq + 1, reader.last_seq) if total else ():
            if len(waiting) >= EVENTS_PER_COMMIT:
                commit()
                connection.execute("PRAGMA wal_checkpoint(PASSIVE)")
            records = within(batch, start.seq, reader.last_seq)
            restore = jump_in(reached.seq + 1, records)
            if restore is not None:
                records = records[: restore.seq - reached.seq - 1]
            if records:  # else the restore is the batch's first, and the chain of its batch is not ours
                waiting += records
                reached = Position(reached.seq + len(records), start.journal_id, batch.epoch, batch.chain.hex())
            if restore is not None:
                break
        commit()
    return CaughtUp(start.seq, reached.seq, applied, restore)


def _for_many(connection: sqlite3.Connection) -> AbstractContextManager[None]:
    """Settings under which a transaction of many events writes each page once, and its commit does not fold.

    Folding syncs. Between two transactions it bounds the write-ahead log; after the last one nobody should wait for it.
    """
    return settings(connection, cache_size=-_CACHE_KIB, wal_autocheckpoint=0)


def _commit(connection: sqlite3.Connection, first_seq: int, records: Sequence[Record], position: Position) -> Applied:
    connection.execute("BEGIN IMMEDIATE")
    try:
        applied = apply_records(connection, first_seq, records)
        write_position(connection, position)
        connection.execute("COMMIT")
    except BaseException:
        if connection.in_transaction:
            connection.execute("ROLLBACK")
        raise
    return applied
