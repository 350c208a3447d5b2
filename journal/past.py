"""What a writer's log held before: read without a scan for its end, since the writer knows where that is.

For retries, whose answers everybody waits for; what is read is proven as by any reader. Knows a segment that is being
written, and places in it where reading may begin; must not know who looks back, nor why.
"""

from __future__ import annotations

from journal.format import SegmentHeader
from journal.index import GRANULE_BYTES, GRANULE_RECORDS, Granule, SegmentIndex
from journal.reader import LogReader
from journal.segments import Tail
from journal.storage import Storage


class Places:
    """Where reading may begin in a segment that is being written. ``start`` is where its batches begin."""

    __slots__ = ("_granules", "_next_offset", "_next_seq", "header", "path")

    def __init__(self, path: str, header: SegmentHeader, start: int) -> None:
        self.path = path
        self.header = header
        self._granules: list[Granule] = []
        self._next_seq = self._next_offset = 0
        self.note(header.first_seq, start, header.previous_chain)

    def note(self, seq: int, offset: int, chain: bytes) -> None:
        """A batch begins there, with this chain before it. On the write path: most batches are no place."""
        if seq >= self._next_seq or offset >= self._next_offset:
            self._granules.append(Granule(seq, offset, 0, chain, memoryview(b"")))
            self._next_seq, self._next_offset = seq + GRANULE_RECORDS, offset + GRANULE_BYTES

    def until(self, next_seq: int, offset: int, chain: bytes) -> SegmentIndex:
        """As of a segment that ends there."""
        header, end = self.header, Granule(next_seq, offset, 0, chain, memoryview(b""))
        granules = tuple(self._granules)
        return SegmentIndex(header.journal_id, header.salt, header.epoch, header.first_seq, granules, end)


class Past(LogReader):
    """A reader up to a writer's last durable batch: ``known`` is of the segment at `path`, the log's last."""

    def __init__(self, storage: Storage, directory: str, path: str, known: SegmentIndex) -> None:
        self._path = path
        self._known = known
        super().__init__(storage, directory)

    def _read_tail(self) -> Tail:
        self._tail_index, end = self._known, self._known.end
        last_seq = end.seq - 1
        return Tail(self._path, end.offset, end.offset, last_seq, end.chain, last_seq, self._known.epoch, False, None)
