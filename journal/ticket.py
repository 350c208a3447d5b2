"""What a caller asks to be journaled, and what it gets back: drafts, tickets, receipts, and the bytes of a record.

Pure, but for the outcome that is put into a ticket. Must not know logs, states or queues.
"""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from journal.errors import JournalError, Refused
from journal.events import Event
from journal.limits import admit, check_envelope

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


class Ticket:
    """One caller's request: a single event, or a group that is taken whole or not at all.

    ``after_seq``, where given, is the last seq that the caller knew of: once the journal has gone on, it is refused.
    Once it is ``done`` either ``receipts`` or ``error`` is set; until then neither is an answer.
    """

    __slots__ = (
        "after_seq", "bytes", "done", "drafts", "error", "joined", "op_id", "queued_ns", "receipts", "waiter", "waits",
    )  # fmt: skip

    def __init__(self, drafts: Sequence[Draft], op_id: str | None, after_seq: int | None = None) -> None:
        self.drafts = drafts
        self.op_id = op_id
        self.after_seq = after_seq
        self.bytes = len(drafts[0].encoded) if len(drafts) == 1 else sum(len(draft.encoded) for draft in drafts)
        self.receipts: list[Receipt] = []
        self.error: JournalError | None = None
        self.joined: Ticket | None = None  # the same op_id, earlier in this batch
        self.done = False
        self.waiter: object = None  # the face's own
        self.waits = False  # for room on the disk
        self.queued_ns = 0  # when it came (perf_counter), where somebody asks how long appends take

    def result(self) -> list[Receipt]:
        """The receipts, or raises the error."""
        if self.error is not None:
            raise self.error
        return self.receipts


def draft(event: Event, agent: str | None, actor: str | None, traceparent: str | None) -> Draft:
    """Admits an event: types, sizes, names. Raises Refused. Needs no lock."""
    if agent is not None or actor is not None or traceparent is not None:
        check_envelope(agent, actor, None, traceparent)
    event, encoded = admit(event)
    return Draft(event, encoded, agent, actor, traceparent)


def ticket(drafts: Sequence[Draft], op_id: str | None, after_seq: int | None = None) -> Ticket:
    """A request of one or more drafts. Raises Refused for an op_id or a group beyond its limits."""
    if not drafts:
        raise Refused("invalid", "a group holds at least one event")
    if op_id is not None:
        check_envelope(None, None, op_id, None)
    made = Ticket(drafts, op_id, after_seq)
    if len(drafts) > GROUP_RECORDS_MAX or made.bytes > GROUP_BYTES_MAX:
        raise Refused(
            "too_large", f"a group holds at most {GROUP_RECORDS_MAX} events and {GROUP_BYTES_MAX >> 20} MiB"
        )
    return made


_encode_envelope = msgspec.msgpack.Encoder().encode


def encode_record(flags: int, time: int, clock: int | None, op_id: str | None, item: Draft) -> bytes:
    """A stored record: the envelope's seven fields and the event's own bytes, as one array of eight."""
    envelope = _encode_envelope((flags, time, clock, op_id, item.agent, item.actor, item.traceparent))
    return b"\x98" + envelope[1:] + item.encoded
