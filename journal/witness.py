"""What was given out earlier and is kept elsewhere: receipts and heads, and whether the journal still holds them.

A hash chain shows that nothing in it was changed; it cannot show that all of it was replaced, or that its end is gone.
Only something outside can: a receipt, or a head, exported before. Knows one journal at a time and changes nothing.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated

import msgspec

from journal.commit import Receipt
from journal.errors import Corrupt, DataError, Diverged, UsageError
from journal.events import JournalEventLost, JournalForked
from journal.format import CHAIN_GENESIS, next_chain
from journal.lineage import Parent
from journal.reader import LogReader
from journal.record import generated_op_id
from journal.scan import Batch


class Head(msgspec.Struct, frozen=True):
    """Where a journal ended when it was asked: the last seq, and chain, epoch and time (UTC ns) there.

    The epoch is that of the batch which holds the event; carrying a batch into another segment changes none of these.
    """

    journal_id: Annotated[str, msgspec.Meta(pattern="^[0-9a-f]{32}$")]
    seq: Annotated[int, msgspec.Meta(ge=0, le=(1 << 63) - 1)]
    chain: Annotated[str, msgspec.Meta(pattern="^[0-9a-f]{64}$")]
    epoch: Annotated[int, msgspec.Meta(ge=0, lt=1 << 32)]
    time: Annotated[int, msgspec.Meta(ge=0, le=(1 << 63) - 1)]


def head_in(batch: Batch, seq: int, journal_id: bytes) -> Head:
    """The head as it was when `seq` was the last one; `batch` is the one that contains it."""
    time = batch.heads()[seq - batch.first_seq].time
    return Head(journal_id.hex(), seq, batch.chain.hex(), batch.epoch, time)


def head_of(reader: LogReader) -> Head:
    """The head of the journal as it can be read now. Raises what reading the tail raises."""
    reader.raise_for_end()
    if not reader.last_seq:
        return Head(reader.journal_id.hex(), 0, CHAIN_GENESIS.hex(), 0, 0)
    return head_in(reader.batch_of(reader.last_seq), reader.last_seq, reader.journal_id)


def judge_head(
    head: Head, found: Head | None, journal_id: str, last_seq: int, path: str, parent: Parent | None = None
) -> DataError | None:
    """What speaks against a journal, where `head` was exported from it, or from its parent, earlier; None if nothing.

    `found` is what the journal says of the head's seq now, None where it has no such event.
    """
    if parent is not None and head.journal_id == parent.journal_id.hex():
        if head.seq > parent.seq:
            lost = ", ".join(f"{first}-{last}" for first, last in parent.lost if first <= head.seq)
            return Corrupt(
                f"this journal succeeded that of the head after a loss: of the events up to seq {head.seq} it lost "
                f"{lost or 'none that it names'}",
                path=path,
                seq=parent.seq + 1,
                hint="what survived is proven by receipts: journal verify --receipt FILE",
            )
        head = msgspec.structs.replace(head, journal_id=journal_id)  # up to the first loss they are one history
    if head.journal_id != journal_id:
        return Diverged(
            f"the head is of journal {head.journal_id}, this is {journal_id}",
            path=path,
            hint="another journal lies in its place, or the head was exported elsewhere",
        )
    if head.seq > last_seq:
        return Corrupt(
            f"the journal ends at seq {last_seq}, but the head says that it went to {head.seq}: it was truncated, or "
            "an older copy was put in its place",
            path=path,
            seq=last_seq + 1,
            hint="bring the newer one back: journal recover --from DIR",
        )
    if head.seq and found is None:
        return Corrupt(
            f"seq {head.seq}, where the head stands, cannot be read", path=path, seq=head.seq, hint="see the damage"
        )
    if found is not None and found != head:
        what = "chain" if found.chain != head.chain else "epoch" if found.epoch != head.epoch else "time"
        return Diverged(
            f"the {what} at seq {head.seq} is {getattr(found, what)}, the head says {getattr(head, what)}: the history "
            "up to there was rewritten, or is that of another copy",
            path=path,
            seq=head.seq,
            hint="compare it with a copy: journal verify --against DIR",
        )
    return None


class ParentChains:
    """The chain that the parent had after each batch that survived it, computed once from what the losses left."""

    def __init__(self, reader: LogReader) -> None:
        self.parent = reader.parent
        self._reader = reader
        self._after: dict[int, str] | None = None

    def after(self, batch: Batch) -> str | None:
        """The parent's chain (hex) after a batch; None where there is no parent, or the batch was not its."""
        if self.parent is None:
            return None
        if batch.last_seq <= self.parent.seq:
            return batch.chain.hex()
        if self._after is None:
            self._after = dict(self._walk())
        return self._after.get(batch.first_seq)

    def _walk(self) -> Iterator[tuple[int, str]]:
        assert self.parent is not None
        chain: bytes | None = self.parent.chain
        for batch in self._reader.batches(self.parent.seq + 1, self._reader.last_seq):
            event = batch.records()[-1].event
            if isinstance(event, JournalForked) and event.parent_journal_id == self.parent.journal_id.hex():
                return
            if isinstance(event, JournalEventLost) and self.parent.has_lost(batch.first_seq):
                chain = bytes.fromhex(event.chain) if event.chain else None
            elif chain is not None:
                chain = next_chain(chain, batch.first_seq, batch.count, batch.payload)
                yield batch.first_seq, chain.hex()


def prove(reader: LogReader, receipt: Receipt, parents: ParentChains | None = None) -> None:
    """Proves that the receipt's event is in this journal, unchanged. Raises Corrupt or UsageError if it is not."""
    if not 1 <= receipt.seq <= reader.last_seq:
        raise Corrupt(
            f"seq {receipt.seq} is not in this journal, which ends at {reader.last_seq}",
            path=reader.directory,
            seq=receipt.seq,
            hint="the journal lost its end, or the receipt is of another one",
        )
    prove_in(reader.batch_of(receipt.seq), receipt, reader.directory, parents or ParentChains(reader))


def prove_in(batch: Batch, receipt: Receipt, path: str, parents: ParentChains) -> None:
    """As `prove`, where the batch that contains the receipt's seq was read already.

    A receipt that the journal's parent gave is proven by the parent's chain, where its event survived.
    """
    head = batch.heads()[receipt.seq - batch.first_seq]
    chains = (batch.chain.hex(), batch.epoch) == (receipt.chain, receipt.epoch)
    if not chains and (parents.after(batch), batch.epoch) != (receipt.chain, receipt.epoch):
        if parents.parent is not None and parents.parent.has_lost(receipt.seq):
            raise Corrupt(
                f"the event at seq {receipt.seq} was lost when this journal succeeded journal "
                f"{parents.parent.journal_id.hex()}",
                path=path,
                seq=receipt.seq,
                hint="its bytes, as far as there are any, lie beside: journal.parent-*",
            )
        raise Corrupt(
            f"the chain at seq {receipt.seq} is {batch.chain.hex()} (epoch {batch.epoch}), the receipt says otherwise",
            path=path,
            seq=receipt.seq,
            hint="this journal was rewritten, or the receipt is of another one",
        )
    if (head.time, head.op_id or generated_op_id(batch.epoch, receipt.seq)) != (receipt.time, receipt.op_id):
        raise UsageError(f"the receipt's time or op_id is not that of seq {receipt.seq}", seq=receipt.seq)
