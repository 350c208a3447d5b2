"""Records of the log as a projection takes them: by ranges of seqs, and the position that follows from a seq."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Iterator, Sequence

from journal.events import StateRestored
from journal.format import CHAIN_GENESIS
from journal.reader import LogReader
from journal.record import Record
from journal.scan import Batch
from journal.storage import Storage
from replay.memory import Applied
from replay.schema import Position
from replay.timeline import Range, Restore

RUN_RECORDS = 1000  # a log of single writes has a record a batch; runs of them are applied several times as fast


def records_of(reader: LogReader, ranges: Sequence[Range]) -> Iterator[tuple[int, list[Record]]]:
    """The records of the ranges in order, in runs of about a thousand, each with the seq of its first."""
    for after, last in ranges:
        first, run = after + 1, list[Record]()
        for batch in reader.batches(after + 1, last):
            run += within(batch, after, last)
            if len(run) >= RUN_RECORDS:
                yield first, run
                first, run = first + len(run), []
        if run:
            yield first, run


def within(batch: Batch, after: int, last: int) -> list[Record]:
    """The batch's records with after < seq <= last."""
    records = batch.records()
    if after < batch.first_seq and batch.last_seq <= last:
        return records
    return records[max(0, after + 1 - batch.first_seq) : last + 1 - batch.first_seq]


def jump_in(first_seq: int, records: Sequence[Record]) -> Restore | None:
    """The first restore among the records that makes an earlier state current."""
    for index, record in enumerate(records):
        if type(record.event) is StateRestored:
            restore = Restore(first_seq + index, record.event.to_seq)
            if restore.jumps:
                return restore
    return None


class RememberingReader(LogReader):
    """A reader that has the stretch of the log ready which it read last, and single batches that it was asked for.

    For whoever asks several things of the same events, and drops it then. A long stretch is not kept.
    """

    _events_max = 100_000

    def __init__(self, storage: Storage, directory: str) -> None:
        super().__init__(storage, directory)
        self._after = self._last = 0
        self._kept: list[Batch] = []
        self._single: dict[int, Batch] = {}

    def batch_of(self, seq: int) -> Batch:
        batch = self._single.get(seq)
        if batch is None:
            batch = self._single[seq] = super().batch_of(seq)
        return batch

    def batches(self, from_seq: int = 1, to_seq: int | None = None) -> Iterator[Batch]:
        if to_seq is None or to_seq - from_seq >= self._events_max:
            return super().batches(from_seq, to_seq)
        if self._after < from_seq <= to_seq <= self._last:
            start = bisect_left(self._kept, from_seq, key=lambda batch: batch.last_seq)
            end = bisect_right(self._kept, to_seq, key=lambda batch: batch.first_seq)
            return iter(self._kept[start:end])
        return self._keeping(from_seq, to_seq)

    def _keeping(self, from_seq: int, to_seq: int) -> Iterator[Batch]:
        kept: list[Batch] = []
        for batch in super().batches(from_seq, to_seq):
            kept.append(batch)
            yield batch
        if len(kept) > 1:  # else it is one that was asked for between those who read on
            self._after, self._last, self._kept = from_seq - 1, min(to_seq, self.last_seq), kept


def position_at(reader: LogReader, seq: int) -> Position:
    """The position of a projection that holds everything up to `seq`."""
    journal_id = reader.journal_id.hex()
    if seq == 0:
        return Position(0, journal_id, 0, CHAIN_GENESIS.hex())
    batch = reader.batch_of(seq)
    return Position(seq, journal_id, batch.epoch, batch.chain.hex())


def total_of(one: Applied, other: Applied) -> Applied:
    return Applied(one.events + other.events, one.rows + other.rows, one.no_ops + other.no_ops)
