"""Batches that may hold what is asked for, without reading those that do not: forwards, or the newest first.

Nothing is left out that holds it, with or without indexes; what comes may still not hold it, so whoever asks looks at
the records. Of batches that were read and proven, too, only those come in whose bytes the names stand. Knows granules
and names; must not know who asks, or why.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

from journal.index import Granule, Name, SegmentIndex, hashed
from journal.reader import LogReader
from journal.scan import Batch

MakeIndex = Callable[[LogReader, int], SegmentIndex | None]

_WRITTEN_OUT = frozenset({"agent", "actor", "op_id", "entity"})
"""Kinds of names that stand in a payload as they are, in UTF-8: a type is a number there, a scope may be a default."""


class AnyOf(NamedTuple):
    """A record is wanted that has one of these names, or is one of these seqs."""

    names: tuple[Name, ...] = ()
    seqs: tuple[int, ...] = ()


class Lookup:
    """Of a reader's batches those that may hold a record which meets all the conditions in `wanted`.

    `make` gives the index of a segment that has none, or None; it is asked for each such segment that is searched.
    """

    def __init__(self, reader: LogReader, wanted: Sequence[AnyOf], make: MakeIndex | None = None) -> None:
        self._reader = reader
        self._wanted = [([hashed(name) for name in each.names], sorted(each.seqs)) for each in wanted]
        self._texts = [
            ([text.encode(errors="surrogatepass") for _, text in each.names], each.seqs)
            for each in wanted
            if _WRITTEN_OUT.issuperset(kind for kind, _ in each.names)
        ]
        self._make = make

    def batches(self, first_seq: int, last_seq: int) -> Iterator[Batch]:
        """Oldest first, from the batch that holds `first_seq` to the one that holds `last_seq`. Raises DataError."""
        for number in self._segments(first_seq, last_seq):
            for first, last in self._runs(number, first_seq, last_seq):
                yield from self._within(number, first, last)

    def newest_first(self, first_seq: int, last_seq: int) -> Iterator[list[Batch]]:
        """The same batches in runs, the newest run first; within each they are in order. Raises DataError."""
        for number in reversed(self._segments(first_seq, last_seq)):
            for first, last in reversed(list(self._granules(number, first_seq, last_seq))):
                yield list(self._within(number, first, last))

    def _segments(self, first_seq: int, last_seq: int) -> range:
        """Those that begin with one seq are all looked into: all but the last of them are empty."""
        reader = self._reader
        if first_seq > last_seq:
            return range(0)
        return range(
            reader.segment_of(first_seq),
            bisect_right(reader.segments, last_seq, key=lambda segment: segment.first_seq),
        )

    def _within(self, number: int, first: int, last: int) -> Iterator[Batch]:
        for batch in self._reader.scan(number, first, last):
            if batch.last_seq >= first and batch.first_seq <= last and self._may_be_in(batch):
                yield batch

    def _may_be_in(self, batch: Batch) -> bool:
        """Whether the texts that are wanted stand in it somewhere: to search costs a hundredth of decoding."""
        payload = bytes(batch.payload) if self._texts else b""
        return all(
            any(text in payload for text in texts) or any(batch.first_seq <= seq <= batch.last_seq for seq in seqs)
            for texts, seqs in self._texts
        )

    def _granules(self, number: int, first_seq: int, last_seq: int) -> Iterator[tuple[int, int]]:
        """The seqs, first and last, of each granule of one segment that may hold what is wanted."""
        reader = self._reader
        known = reader.index_of(number) or (self._make(reader, number) if self._make is not None else None)
        if known is None:
            yield first_seq, last_seq
            return
        for each, granule in enumerate(known.granules):
            first, last = granule.seq, known.at(each + 1).seq - 1
            if last >= first_seq and first <= last_seq and self._may_hold(granule, last):
                yield max(first, first_seq), min(last, last_seq)

    def _runs(self, number: int, first_seq: int, last_seq: int) -> Iterator[tuple[int, int]]:
        """As `_granules`, neighbours together."""
        run: tuple[int, int] | None = None
        for first, last in self._granules(number, first_seq, last_seq):
            if run is not None and run[1] + 1 < first:
                yield run
                run = None
            run = (first if run is None else run[0], last)
        if run is not None:
            yield run

    def _may_hold(self, granule: Granule, last_seq: int) -> bool:
        for names, seqs in self._wanted:  # plain loops: of a long history there are ten thousand granules
            if not granule.may_hold(names) and not any(granule.seq <= seq <= last_seq for seq in seqs):
                return False
        return True
