"""How far each consumer has acknowledged the messages of each conversation, read from the journal and kept current.

Knows `cursor.moved` and where its message stands; must not know hooks. A cursor belongs to the journal and not to the
state: a restore does not take an acknowledgement back. What is not acknowledged is handed out again, after a crash too,
so a message is delivered at least once. The last `cursor.moved` of a consumer in a conversation counts.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Iterator
from itertools import islice

import msgspec

from journal.commit import Ticket
from journal.errors import NotApplied, Refused
from journal.events import JOURNAL_CONSUMER, CursorMoved, MessageRecorded, tag_of
from journal.reader import LogReader
from replay.event_types import may_hold

_MOVED, _RECORDED = tag_of(CursorMoved), tag_of(MessageRecorded)


class Message(msgspec.Struct, frozen=True):
    """One message; ``seq`` is that of the event that recorded it, ``time`` UTC ns."""

    seq: int
    conversation_id: str
    message_id: str
    agent: str
    role: str
    content: str
    time: int


class Cursors:
    """Consumer → conversation → seq of the last message that was acknowledged; of one state, until it is swapped."""

    def __init__(self) -> None:
        self._at: dict[str, dict[str, int]] = {}
        self._floors: dict[str, int] = {}  # consumer → a seq up to which nothing is pending in any conversation

    def at(self, consumer: str, conversation_id: str) -> int:
        return self._at.get(consumer, {}).get(conversation_id, 0)

    def conversations(self, consumer: str) -> dict[str, int]:
        return dict(self._at.get(consumer, {}))

    def move(self, consumer: str, conversation_id: str, seq: int) -> None:
        if seq < self.at(consumer, conversation_id):  # somebody wants them again
            self._floors.pop(consumer, None)
        self._at.setdefault(consumer, {})[conversation_id] = seq

    def floor(self, consumer: str) -> int:
        return self._floors.get(consumer, 0)

    def raise_floor(self, consumer: str, seq: int) -> None:
        self._floors[consumer] = max(seq, self.floor(consumer))

    def note(self, settled: Iterable[Ticket], connection: sqlite3.Connection) -> bool:
        """Takes what was just committed, for one who keeps the cursors beside a writer.

        False where something was journaled and not applied: then they have to be read again.
        """
        for request in settled:
            if isinstance(request.error, NotApplied):
                return False
            for item, receipt in zip(request.drafts, request.receipts, strict=False):
                if type(item.event) is CursorMoved and not item.event.consumer.startswith(JOURNAL_CONSUMER):
                    found = place_of(connection, item.event.message_id, receipt.seq)
                    if found is not None:
                        self.move(item.event.consumer, *found)
        return True


def read_cursors(reader: LogReader, connection: sqlite3.Connection) -> Cursors:
    """All cursors as the log tells them. Messages are looked up in memory.db, and those that a restore left in the log.

    Raises Corrupt where the log is damaged.
    """
    moves: dict[str, dict[str, int]] = {}  # consumer → message id → seq of the move, the last one last
    for batch in reader.batches(1, reader.last_seq):
        if not may_hold(batch, {_MOVED}):
            continue
        for seq, record in enumerate(batch.records(), batch.first_seq):
            if type(record.event) is CursorMoved and not record.event.consumer.startswith(JOURNAL_CONSUMER):
                of_consumer = moves.setdefault(record.event.consumer, {})
                of_consumer.pop(record.event.message_id, None)
                of_consumer[record.event.message_id] = seq
    cursors = Cursors()
    left = _resolve(cursors, moves, connection)
    if left:
        _resolve_in_log(cursors, left, reader)
    return cursors


def _resolve(
    cursors: Cursors, moves: dict[str, dict[str, int]], connection: sqlite3.Connection
) -> dict[str, list[tuple[str, int]]]:
    """Fills in what memory.db knows; returns, by message id, the moves of messages that it does not hold."""
    left: dict[str, list[tuple[str, int]]] = {}
    for consumer, of_consumer in moves.items():
        for message_id, seq in of_consumer.items():
            found = place_of(connection, message_id, seq)
            if found is not None:
                cursors.move(consumer, *found)
            else:
                left.setdefault(message_id, []).append((consumer, seq))
    return left


def _resolve_in_log(cursors: Cursors, left: dict[str, list[tuple[str, int]]], reader: LogReader) -> None:
    for batch in reader.batches(1, reader.last_seq):
        if not may_hold(batch, {_RECORDED}):
            continue
        for seq, record in enumerate(batch.records(), batch.first_seq):
            event = record.event
            if type(event) is MessageRecorded:
                for consumer, moved in left.get(event.message_id, ()):
                    if seq < moved and cursors.at(consumer, event.conversation_id) < seq:
                        cursors.move(consumer, event.conversation_id, seq)


def place_of(connection: sqlite3.Connection, message_id: str, before: int) -> tuple[str, int] | None:
    """Conversation and seq of the message, recorded before a seq. Of several with one id it is the first: what was not
    clearly acknowledged is handed out again."""
    row = connection.execute(
        "SELECT conversation_id, id FROM messages WHERE message_id = ? AND id < ? ORDER BY id LIMIT 1",
        (message_id, before),
    ).fetchone()
    return (row[0], row[1]) if row is not None else None


def one_place(connection: sqlite3.Connection, message_id: str, conversation_id: str | None) -> tuple[str, int]:
    """The same, of a message that is about to be acknowledged. Raises Refused if there is none, or several."""
    rows = connection.execute(
        "SELECT conversation_id, id FROM messages WHERE message_id = ? ORDER BY id LIMIT 2", (message_id,)
    ).fetchall()
    if not rows or (conversation_id is not None and conversation_id not in [row[0] for row in rows]):
        where = f" in conversation {conversation_id!r}" if conversation_id is not None else ""
        raise Refused(
            "not_found", f"there is no message {message_id!r}{where}",
            hint="journal messages pending CONSUMER lists those that wait",
        )  # fmt: skip
    if len(rows) > 1:
        raise Refused(
            "invalid",
            f"message id {message_id!r} is in several conversations: which one is acknowledged could not be told",
            hint="give each message an id of its own",
        )
    return rows[0][0], rows[0][1]


def pending(
    connection: sqlite3.Connection, cursors: Cursors, consumer: str, conversation_id: str | None, limit: int
) -> list[Message]:
    """The oldest messages that the consumer has not acknowledged, in the order in which they were recorded."""
    return list(islice(_pending(connection, cursors, consumer, conversation_id), limit))


_COLUMNS = "SELECT id, conversation_id, message_id, agent, role, content, created_at FROM messages WHERE"


def _pending(
    connection: sqlite3.Connection, cursors: Cursors, consumer: str, conversation_id: str | None
) -> Iterator[Message]:
    if conversation_id is not None:
        after = cursors.at(consumer, conversation_id)
        sql = f"{_COLUMNS} conversation_id = ? AND id > ? ORDER BY id"
        rows = connection.execute(sql, (conversation_id, after))
        yield from (Message(*row) for row in rows)
        return
    known = cursors.conversations(consumer)
    is_first = True
    for row in connection.execute(f"{_COLUMNS} id > ? ORDER BY id", (cursors.floor(consumer),)):
        if row[0] > known.get(row[1], 0):
            is_first = False
            yield Message(*row)
        elif is_first:
            cursors.raise_floor(consumer, row[0])
