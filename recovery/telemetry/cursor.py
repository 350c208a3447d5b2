"""How far the journal was exported to one backend: a cursor of the journal itself, and so in every backup of it.

It is an event `cursor.moved` whose consumer begins with `journal:` and whose message is a seq.
"""

from __future__ import annotations

from collections.abc import Callable
from hashlib import sha256

from journal.errors import Locked
from journal.events import JOURNAL_CONSUMER, CursorMoved, Event, tag_of
from journal.reader import LogReader
from recovery.control.writer import journal_beside
from recovery.data import Data
from replay.event_types import may_hold

NAME_BYTES_MAX = 400
_MOVED = frozenset({tag_of(CursorMoved)})
_TRACE = f"{JOURNAL_CONSUMER}trace "


def is_own_cursor(event: Event) -> bool:
    """Whether it is such a cursor: itself nothing to export, or exporting would never end."""
    return isinstance(event, CursorMoved) and event.consumer.startswith(JOURNAL_CONSUMER)


def name_of(consumer: str) -> str:
    """The cursor's name, for a consumer of the journal."""
    return consumer.removeprefix(_TRACE)


def consumer_of(name: str) -> str:
    """The consumer of the cursor with this name: a backend's address, or what its user calls it."""
    if len(name.encode()) > NAME_BYTES_MAX:
        name = sha256(name.encode()).hexdigest()
    return _TRACE + name


def read_positions(reader: LogReader, first: int = 1) -> dict[str, int]:
    """Consumer → the seq up to which it has everything, of all that are told from seq `first` on."""
    found: dict[str, int] = {}
    for batch in reader.batches(first, reader.last_seq):
        if may_hold(batch, _MOVED):
            for record in batch.records():
                event = record.event
                if is_own_cursor(event):
                    found[event.consumer] = int(event.message_id)
    return found


def move(data: Data, consumer: str, seq: int, note: Callable[[str], None]) -> bool:
    """Journals that the consumer has everything up to `seq`; beside a live server through it.

    False where another process writes and does not listen: then what follows is exported again, which does no harm.
    """
    try:
        journal_beside(data, CursorMoved(consumer, str(seq)))
    except Locked:
        note(f"the cursor was not moved to seq {seq}: another process writes, and does not listen")
        return False
    return True
