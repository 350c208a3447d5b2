"""The open after a crash: what the last writer left is decided, set aside or made durable, before all else.

Runs once, under the lock, between reading the tail and the first append. Nothing is removed: a torn tail is copied to
quarantine, and a segment that is superseded stays, void from where its successor says that it ends.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from journal.errors import Diverged
from journal.files import write_file
from journal.format import SegmentHeader, encode_batch, encode_segment_header
from journal.reader import LogReader, Tail
from journal.record import generated_op_id
from journal.regions import Action, Verdict, decision_on, error_for, verdict_on
from journal.repair_segment import mend_last_batch
from journal.repaired import Repair, put_in_place, repair_of
from journal.segment import SegmentWriter, segment_key
from journal.storage import Storage
from journal.watermark import NAME as WATERMARK


@dataclass(frozen=True, slots=True)
class Opening:
    """What an open found: whether the last writer closed, what was carried over and what was set aside.

    ``carried`` are (seq, op_id) of records that lay past the last durable seq: they survived, though their writer may
    have told its callers `outcome_unknown`. ``torn_bytes`` were moved to ``quarantined``. ``repaired`` is the wrong bit
    of the tail that was put right. ``watermark_problems`` is why a watermark that was there was no evidence.
    """

    clean: bool
    previous_epoch: int
    carried: tuple[tuple[int, str], ...] = ()
    torn_bytes: int = 0
    quarantined: str | None = None
    repaired: tuple[Repair, ...] = ()
    watermark_problems: tuple[str, ...] = ()


def settle(
    storage: Storage,
    directory: str,
    reader: LogReader,
    previous_epoch: int,
    epoch: int,
    entropy: Callable[[int], bytes],
    accept_tail: bool = False,
) -> tuple[Opening, SegmentWriter | None]:
    """Decides the tail that an interrupted writer left, and makes durable what it may not have synced.

    With `accept_tail` an ambiguous tail is set aside like a torn one: its owner says that it was never acknowledged.

    After an fsync that failed, pages read fine from the cache and are gone after a power cut, and the kernel reports
    the next fsync as good. So bytes past the last durable seq are never trusted where they lie: they are copied into
    a new segment and synced there, before anything applies, deduplicates or acknowledges by them.
    """
    repaired = _repair_tail(storage, directory, reader)
    _hold_against_watermark(reader)
    tail = reader.tail
    if tail.region is None:
        reader.raise_for_end()
    if tail.closed and tail.region is None:
        return Opening(clean=True, previous_epoch=previous_epoch, repaired=repaired), None
    quarantined = None
    if tail.region is not None:
        verdict = verdict_on(tail.region, reader.evidence_seq)
        accepted = accept_tail and verdict is Verdict.AMBIGUOUS
        if verdict is not Verdict.TORN_TAIL and not accepted:
            raise error_for(verdict, tail.region, tail.path, reader.evidence_seq)
        quarantined = _quarantine_tail(storage, directory, tail, epoch)
    torn_bytes = tail.region.length if tail.region is not None else 0
    segment, carried = _carry(storage, directory, reader, epoch, entropy)
    return Opening(False, previous_epoch, carried, torn_bytes, quarantined, repaired), segment


def _repair_tail(storage: Storage, directory: str, reader: LogReader) -> tuple[Repair, ...]:
    """Puts the one wrong bit right that explains the bad region at the log's end, if there is such a bit.

    Before the tail is judged: what is whole again needs no verdict. A torn tail is never one bit away from whole, as
    an end byte or a sector of it still shows zeros.
    """
    tail = reader.tail
    if tail.region is None:
        return ()
    mended = mend_last_batch(storage.read(tail.path), tail.path)
    if mended is None or not mended.steps:
        return ()
    if decision_on(tail.region, reader.evidence_seq, one_bit=True).action is not Action.REPAIR:
        return ()
    repairs = [repair_of(step, tail.path, directory) for step in mended.steps]
    done = put_in_place(storage, directory, tail.path, mended.data, repairs)
    reader.refresh()
    return done


def _hold_against_watermark(reader: LogReader) -> None:
    """Raises Diverged where the watermark tells another history than the log; that it ends too early is told later."""
    mark = reader.watermark
    if mark is None:
        return
    if 0 < mark.seq <= reader.last_seq and reader.chain_at(mark.seq) != mark.chain:
        raise Diverged(
            f"the watermark is of another history: its chain at seq {mark.seq} (epoch {mark.epoch}) is not the log's",
            path=f"{reader.directory}/{WATERMARK}",
            seq=mark.seq,
            hint="a copy of this journal was written separately: journal verify --against DIR",
        )


def _quarantine_tail(storage: Storage, directory: str, tail: Tail, epoch: int) -> str:
    assert tail.region is not None
    data = storage.read(tail.path)[tail.offset : tail.offset + tail.region.length]
    name = tail.path.rsplit("/", 1)[1]
    path = f"{directory}/quarantine/torn-tail-{name}-{tail.offset}-epoch-{epoch}"
    storage.make_directory(f"{directory}/quarantine")
    write_file(storage, path, data)
    return path


def _carry(
    storage: Storage, directory: str, reader: LogReader, epoch: int, entropy: Callable[[int], bytes]
) -> tuple[SegmentWriter, tuple[tuple[int, str], ...]]:
    """Copies the batches past the last durable seq into a new segment; boundaries, epochs and chains stay."""
    tail = reader.tail
    segment_first_seq, segment_epoch = segment_key(tail.path)
    kept_end, first_seq, chain = None, tail.last_seq + 1, tail.chain
    batches = []
    if tail.durable_seq < tail.last_seq:
        batches = list(reader.batches(tail.durable_seq + 1, tail.last_seq))
        kept_end, first_seq, chain = batches[0].offset, batches[0].first_seq, batches[0].previous_chain
    header = SegmentHeader(
        reader.journal_id, entropy(8), epoch, first_seq, segment_first_seq, segment_epoch,
        tail.records_end if kept_end is None else kept_end, chain, extra={"durable_seq": tail.last_seq},
    )  # fmt: skip
    offset = len(encode_segment_header(header))
    parts: list[bytes] = []
    carried: list[tuple[int, str]] = []
    for batch in batches:
        parts.append(
            encode_batch(
                header, epoch=batch.epoch, flags=0, first_seq=batch.first_seq, count=batch.count, payload=batch.payload,
                durable_seq=batch.durable_seq, previous_chain=batch.previous_chain, offset=offset,
            )
        )  # fmt: skip
        offset += len(parts[-1])
        for seq, head in enumerate(batch.heads(), batch.first_seq):
            carried.append((seq, head.op_id or generated_op_id(batch.epoch, seq)))
    segment = SegmentWriter.create(storage, f"{directory}/segments", header, b"".join(parts))
    return segment, tuple(carried)
