"""What a caller asks to be journaled, and what it gets back: drafts, tickets, receipts.

Pure, but for the outcome that is put into a ticket. Must not know logs, states or queues.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec

from journal.errors import JournalError, Refused
from journal.events import Event
from journal.limits import admit, check_envelope, is_plain_name

GROUP_RECORDS_MAX = 10_000
GROUP_BYTES_MAX = 32 << 20


class Receipt(msgspec.Struct, frozen=True, gc=False, omit_defaults=True):
    """Proof that an event is durable: its seq, time (UTC ns), op_id, the chain (hex) after its batch, the epoch.

    Not ``checked``: there was no state to hold its references against, and it is applied once that is back; should one
    be missing then, it is a no-op.
    """

    seq: int
    time: int
    op_id: str
    chain: str
    epoch: int
    checked: bool = True


class Draft(msgspec.Struct, frozen=True, gc=False):
    """An admitted event, encoded, with its envelope; not yet journaled."""

    event: Event
    encoded: bytes
    agent: str | None
    actor: str | None
    traceparent: str | None


class Ticket(msgspec.Struct, eq=False):
    """One caller's request: a single event, or a group that is taken whole or not at all.

    ``after_seq``, where given, is the last seq that the caller knew of: once the journal has gone on, it is refused.
    Once it is ``done`` either ``receipts`` or ``error`` is set; until then neither is an answer.
    """

    drafts: Sequence[Draft]
    op_id: str | None
    after_seq: int | None
    bytes: int
    receipts: list[Receipt] = []
    error: JournalError | None = None
    joined: Ticket | None = None  # the same op_id, earlier in this batch
    done: bool = False
    waiter: Any = None  # the face's own
    waits: bool = False  # for room on the disk
    queued_ns: int = 0  # when it came (perf_counter), where somebody asks how long appends take

    def result(self) -> list[Receipt]:
        """The receipts, or raises the error."""
        if self.error is not None:
            raise self.error
        return self.receipts


def draft(event: Event, agent: str | None, actor: str | None, traceparent: str | None) -> Draft:
    """Admits an event: types, sizes, names. Raises Refused. Needs no lock."""
    if actor is not None or traceparent is not None or not (agent is None or is_plain_name(agent)):
        check_envelope(agent, actor, None, traceparent)
    event, encoded = admit(event)
    return Draft(event, encoded, agent, actor, traceparent)


def single(
    event: Event, agent: str | None, actor: str | None, traceparent: str | None, op_id: str | None
) -> Ticket:
    """`ticket` of one `draft`, with fewer steps on the way: most requests are."""
    if op_id is not None and not is_plain_name(op_id):
        check_envelope(None, None, op_id, None)
    if actor is not None or traceparent is not None or not (agent is None or is_plain_name(agent)):
        check_envelope(agent, actor, None, traceparent)
    event, encoded = admit(event)
    return Ticket((Draft(event, encoded, agent, actor, traceparent),), op_id, None, len(encoded))


def ticket(drafts: Sequence[Draft], op_id: str | None, after_seq: int | None = None) -> Ticket:
    """A request of one or more drafts. Raises Refused for an op_id or a group beyond its limits."""
    if not drafts:
        raise Refused("invalid", "a group holds at least one event")
    if op_id is not None and not is_plain_name(op_id):
        check_envelope(None, None, op_id, None)
    if len(drafts) == 1:
        return Ticket(drafts, op_id, after_seq, len(drafts[0].encoded))
    size = sum(len(each.encoded) for each in drafts)
    if len(drafts) > GROUP_RECORDS_MAX or size > GROUP_BYTES_MAX:
        raise Refused(
            "too_large", f"a group holds at most {GROUP_RECORDS_MAX} events and {GROUP_BYTES_MAX >> 20} MiB"
        )
    return Ticket(drafts, op_id, after_seq, size)
