"""How far the journal was exported to one backend: a cursor of the journal itself, and so in every backup of it.

It is an event `cursor.moved` whose consumer begins with `journal:` and whose message is a seq.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from hashlib import sha256

from journal.errors import JournalError, Locked
from journal.events import JOURNAL_CONSUMER, CursorMoved, Event, tag_of
from journal.reader import LogReader
from recovery.control.writer import journal_beside
from recovery.data import Data
from replay.event_types import may_hold

NAME_BYTES_MAX = 400
_WAITS = (0.05, 0.1, 0.2, 0.4)  # seconds
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


def move(data: Data, consumer: str, seq: int, sleep: Callable[[float], object] = time.sleep) -> JournalError | None:
    """Journals that the consumer has everything up to `seq`; beside a live server through it.

    Returns why it could not: then what follows is exported again, which does no harm. One that has the lock for a
    moment, as another export does that moves its cursor, is waited for.
    """
    for seconds in (*_WAITS, None):
        try:
            journal_beside(data, CursorMoved(consumer, str(seq)))
        except Locked as error:
            if seconds is None:
                return error
            sleep(seconds)
        except JournalError as error:  # a full disk, one that is read-only: nothing of what was exported is lost
            return error
        else:
            return None
    raise AssertionError("unreachable")
