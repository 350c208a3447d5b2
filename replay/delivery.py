"""Messages with acknowledgement, for the consumers that a server runs: `hook.messages`.

A message is recorded by `hook.append(MessageRecorded(…))`, handed out by `pending` until the consumer acknowledges it,
and handed out again to whoever asks after a crash. An acknowledgement covers every earlier message of its conversation.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import anyio.to_thread

from journal.commit import Receipt
from journal.events import CursorMoved
from replay.cursors import Message, one_place, pending, read_cursors
from replay.faults import declared

if TYPE_CHECKING:
    from replay.core import Core
    from replay.hook import Hook, SyncHook


class Messages:
    """Through the async hook."""

    def __init__(self, hook: Hook) -> None:
        self._hook = hook

    async def pending(self, consumer: str, conversation_id: str | None = None, *, limit: int = 100) -> list[Message]:
        """The oldest messages that `consumer` has not acknowledged, of one conversation or of all, in order."""
        return await anyio.to_thread.run_sync(pending_of, self._hook.core, consumer, conversation_id, limit)

    async def ack(
        self, consumer: str, message_id: str, conversation_id: str | None = None, **envelope: Any
    ) -> Receipt | None:
        """Journals that `consumer` has dealt with this message and all before it in its conversation.

        None, and nothing is written, where that was acknowledged already. Raises Refused for a message that is not
        there or whose id is in several conversations, and as `Hook.append` does.
        """
        new = await anyio.to_thread.run_sync(is_unacknowledged, self._hook.core, consumer, message_id, conversation_id)
        return await self._hook.append(CursorMoved(consumer, message_id), **envelope) if new else None


class SyncMessages:
    """Through the sync hook."""

    def __init__(self, hook: SyncHook) -> None:
        self._hook = hook

    def pending(self, consumer: str, conversation_id: str | None = None, *, limit: int = 100) -> list[Message]:
        """As `Messages.pending`."""
        return pending_of(self._hook.core, consumer, conversation_id, limit)

    def ack(
        self, consumer: str, message_id: str, conversation_id: str | None = None, **envelope: Any
    ) -> Receipt | None:
        """As `Messages.ack`."""
        new = is_unacknowledged(self._hook.core, consumer, message_id, conversation_id)
        return self._hook.append(CursorMoved(consumer, message_id), **envelope) if new else None


def pending_of(core: Core, consumer: str, conversation_id: str | None, limit: int) -> list[Message]:
    """As `Messages.pending`, for who has the core in hand."""
    with declared(core.state.layout.memory_db), core.lock:
        _load(core)
        assert core.cursors is not None
        return pending(core.state.connection, core.cursors, consumer, conversation_id, limit)


def is_unacknowledged(core: Core, consumer: str, message_id: str, conversation_id: str | None) -> bool:
    """True if acknowledging the message would move the cursor. Raises Refused as `Messages.ack` does."""
    with declared(core.state.layout.memory_db), core.lock:
        _load(core)
        assert core.cursors is not None
        conversation, seq = one_place(core.state.connection, message_id, conversation_id)
        return seq > core.cursors.at(consumer, conversation)


def _load(core: Core) -> None:
    """The cursors are read from the log once, by the first who asks; from then on each commit keeps them current."""
    core.state.mend(core.log.next_seq - 1)
    if core.cursors is None:
        core.cursors = read_cursors(core.log.reader(), core.state.connection)
