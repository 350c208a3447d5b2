"""A successor of a damaged journal: what survived, under its own seqs, with every lost event marked in its place.

Each record keeps its seq, time, clock, op_id, agent, actor, epoch and batch, so row ids, tags, restores and states
keep their meaning; a lost seq is taken by `journal.event_lost`, which changes no state. Up to the first loss the chain
is the parent's. Knows one directory, in which it writes a whole journal; who puts it in place is not its business.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import msgspec

from journal.errors import Corrupt
from journal.events import Event, JournalEventLost, JournalForked, type_dictionary
from journal.format import CHAIN_GENESIS, SegmentHeader, encode_batch, encode_segment_header, next_chain
from journal.lineage import LOST_RANGES_MAX, Parent, as_key
from journal.record import Record, array_of, encode_record
from journal.salvage import Run, Survey, batches_of
from journal.segment import SegmentWriter
from journal.storage import Storage

LOST_EVENTS_MAX = 1 << 24
PLACEHOLDERS = 10_000  # in one batch
ACTOR = "journal"


class Built(msgspec.Struct, frozen=True):
    """A successor as it was written. ``last_seq`` is that of its `journal.forked`; before it are the parent's."""

    journal_id: bytes
    epoch: int
    last_seq: int


@dataclass(frozen=True, slots=True)
class _Kept:
    """A batch as it goes into the successor."""

    epoch: int
    first_seq: int
    count: int
    payload: bytes
    durable_seq: int


def build_successor(
    storage: Storage,
    found: Survey,
    directory: str,
    *,
    epoch: int,
    now: int,
    segment_bytes_max: int,
    progress: Callable[[int, int], None] | None = None,
    entropy: Callable[[int], bytes] = secrets.token_bytes,
) -> Built:
    """Writes the journal that succeeds the surveyed one into `directory`, which is empty; all of it is durable then.

    `epoch` must be above every epoch of the parent. Raises Corrupt where more is lost than placeholders can stand for.
    """
    if found.lost_events > LOST_EVENTS_MAX or len(found.lost) > LOST_RANGES_MAX:
        raise Corrupt(
            f"{found.lost_events:,} events in {len(found.lost):,} ranges are lost, more than a successor can name",
            path=directory,
            hint="bring a backup back: journal recover --from DIR",
        )
    for folder in ("segments", "checkpoints", "quarantine"):
        storage.make_directory(f"{directory}/{folder}")
    parent = Parent(found.journal_id, found.good_seq, found.good_chain, found.lost)
    writer = _Writer(storage, directory, parent, epoch, entropy)
    size = 0
    waiting: list[_Kept] = []
    for kept in _batches(storage, found, epoch, now):
        if waiting and size + len(kept.payload) > segment_bytes_max:
            writer.write(waiting)
            waiting, size = [], 0
        waiting.append(kept)
        size += len(kept.payload)
        if progress is not None:
            progress(kept.first_seq + kept.count - 1, found.last_seq + 1)
    writer.write(waiting, last=True)
    return Built(writer.journal_id, epoch, waiting[-1].first_seq)


def _batches(storage: Storage, found: Survey, epoch: int, now: int) -> Iterator[_Kept]:
    """What survived, with placeholders between, and the fork's own event at the end."""
    seq, time = 1, 0
    for run in found.runs:
        if run.first_seq > seq:
            yield from _placeholders(seq, run.first_seq - 1, time or _first_time(storage, run), epoch, run)
        for batch in batches_of(storage, run):
            yield _Kept(batch.epoch, batch.first_seq, batch.count, bytes(batch.payload), batch.durable_seq)
            time = batch.heads()[-1].time
        seq = run.last_seq + 1
    if found.last_seq >= seq:
        yield from _placeholders(seq, found.last_seq, time or now, epoch, None)
        seq = found.last_seq + 1
    lost = [list(each) for each in found.lost]
    forked = JournalForked(found.journal_id.hex(), found.good_seq, found.good_chain.hex(), lost)
    yield _Kept(epoch, seq, 1, array_of([_record(forked, max(now, time), now)]), seq - 1)


def _first_time(storage: Storage, run: Run) -> int:
    return next(batches_of(storage, run)).heads()[0].time


def _placeholders(first: int, last: int, time: int, epoch: int, after: Run | None) -> Iterator[_Kept]:
    """A lost range, under the time of the record before it; its last record says the chain behind it."""
    record = _record(JournalEventLost(first, last), time, time)
    chain = after.previous_chain.hex() if after is not None else ""
    for begin in range(first, last + 1, PLACEHOLDERS):
        end = min(begin + PLACEHOLDERS - 1, last)
        records = [record] * (end - begin + 1)
        if end == last:
            records[-1] = _record(JournalEventLost(first, last, chain), time, time)
        yield _Kept(epoch, begin, len(records), array_of(records), begin - 1)


def _record(event: Event, time: int, clock: int) -> bytes:
    return encode_record(Record(0, time, None if clock == time else clock, None, None, ACTOR, None, event))


class _Writer:
    """Whole segments, one after the other, each synced before it has its name."""

    def __init__(
        self, storage: Storage, directory: str, parent: Parent, epoch: int, entropy: Callable[[int], bytes]
    ) -> None:
        self.storage = storage
        self.folder = f"{directory}/segments"
        self.journal_id = entropy(16)
        self.epoch = epoch
        self.entropy = entropy
        self.chain = CHAIN_GENESIS
        self.before = (0, 0, 0)  # first seq, epoch and valid end of the segment before
        self.key: dict[str, object] = {"parent": as_key(parent)}

    def write(self, batches: list[_Kept], *, last: bool = False) -> None:
        first_seq, last_seq = batches[0].first_seq, batches[-1].first_seq + batches[-1].count - 1
        header = SegmentHeader(
            self.journal_id, self.entropy(8), self.epoch, first_seq, *self.before, self.chain, type_dictionary(),
            {"durable_seq": last_seq, **self.key},
        )  # fmt: skip
        offset = len(encode_segment_header(header))
        parts = []
        for each in batches:
            parts.append(
                encode_batch(
                    header, epoch=each.epoch, flags=0, first_seq=each.first_seq, count=each.count,
                    payload=each.payload, durable_seq=each.durable_seq, previous_chain=self.chain, offset=offset,
                )
            )  # fmt: skip
            offset += len(parts[-1])
            self.chain = next_chain(self.chain, each.first_seq, each.count, each.payload)
        segment = SegmentWriter.create(self.storage, self.folder, header, b"".join(parts))
        self.before, self.key = (first_seq, self.epoch, offset), {}
        if last:
            segment.close_clean(last_seq + 1, self.chain)
        else:
            segment.trim()
            segment.close()
