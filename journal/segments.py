"""The segment files of one log in order, each read by itself: all of it, or the part that an index points at.

Knows what a segment's header and its successor's say of it. Which of them make a history, and where that ends, is
`journal.reader`'s to say.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import NamedTuple

from journal.errors import Corrupt, Diverged
from journal.format import SegmentHeader
from journal.index import GRANULE_BYTES, GRANULE_RECORDS, SEGMENT_BYTES_MIN, Granule, SegmentIndex, batches_between
from journal.index_store import IndexStore
from journal.regions import CORRUPT_HINT
from journal.scan import BadRegion, Batch, Scanner
from journal.segment import is_packed, parse_segment_name
from journal.storage import Readable, Storage
from journal.stored import PackedFile, PackedScanner, open_segment, read_segment_header

FRONT_BYTES = 64 << 10
"""What is read to see the first batch of a segment: nearly always more than enough."""


class SegmentRef(NamedTuple):
    """A segment file by name alone, plain or packed. Ordered as the log is: by first seq, then epoch."""

    first_seq: int
    epoch: int
    path: str

    @property
    def key(self) -> tuple[int, int]:
        return self.first_seq, self.epoch


@dataclass(frozen=True, slots=True)
class Tail:
    """Where the valid bytes of the last segment end, and what lies there. ``records_end`` is before a clean close."""

    path: str
    offset: int
    records_end: int
    last_seq: int
    chain: bytes
    durable_seq: int
    epoch: int
    closed: bool
    region: BadRegion | None


class Bounds(NamedTuple):
    """Of a segment its header, where its batches begin and end, and its successor's header, which says that.

    The last segment has no successor: it ends with the tail. ``last_seq`` is below the header's first seq where there
    is no batch.
    """

    header: SegmentHeader
    start: int
    end: int
    last_seq: int
    successor: SegmentHeader | None


def list_segments(storage: Storage, directory: str) -> list[SegmentRef]:
    """The segments under `directory` (the journal's), in order. Other names are not looked at.

    Where one lies there both plain and packed, packing was cut, and the plain one counts.
    """
    folder = f"{directory}/segments"
    names = sorted(storage.list(folder), key=is_packed, reverse=True)
    found = {parse_segment_name(name): f"{folder}/{name}" for name in names}
    return sorted(SegmentRef(*key, path) for key, path in found.items() if key is not None)


def header_of(storage: Storage, segment: SegmentRef) -> tuple[SegmentHeader, int]:
    """A segment's header, and where its batches begin. Raises Corrupt where it is another segment's than the file's
    name says, Unsupported, FileNotFoundError."""
    header, start = read_segment_header(storage, segment.path)
    if (header.first_seq, header.epoch) != segment.key:
        raise Corrupt("the header names another segment than the file's name", path=segment.path, offset=0)
    return header, start


def two_histories(header: SegmentHeader, path: str) -> Diverged:
    """The error for a whole segment that continues another history than the one before it tells."""
    return Diverged(
        f"two histories meet: from seq {header.first_seq} on this segment (epoch {header.epoch}) continues another one "
        "than the segment before it tells",
        path=path,
        offset=0,
        seq=header.first_seq,
        hint="it may come from a copy that was written separately: journal verify --against DIR",
    )


def granules_of(batches: Iterable[Batch]) -> Iterator[Granule]:
    """Granules as an index has them, without time and names: where to begin in a segment that has no index yet."""
    seq = offset = -1
    for batch in batches:
        if seq < 0 or batch.first_seq - seq >= GRANULE_RECORDS or batch.offset - offset >= GRANULE_BYTES:
            seq, offset = batch.first_seq, batch.offset
            yield Granule(seq, offset, 0, batch.previous_chain, memoryview(b""))


class Segments:
    """What `journal.reader.LogReader` reads segments by. It keeps ``segments``, ``tail`` and what goes with them."""

    segments: list[SegmentRef]
    journal_id: bytes
    tail: Tail
    _tail_index: SegmentIndex | None

    def __init__(self, storage: Storage, directory: str) -> None:
        self.storage = storage
        self.directory = directory
        self.indexes = IndexStore(storage, directory)
        self._headers: dict[str, tuple[SegmentHeader, int]] = {}
        self._index: tuple[str, SegmentIndex | None] = ("", None)  # the one that was asked for last, by its segment

    def segment_of(self, seq: int) -> int:
        """Number of the first segment to look into for `seq`. Where several begin with it, all but the last are empty.

        They are read all the same: nobody else would notice damage in them.
        """
        number = bisect_left(self.segments, seq, key=lambda segment: segment.first_seq)
        begins = number < len(self.segments) and self.segments[number].first_seq == seq
        return number if begins else max(number - 1, 0)

    def bounds(self, number: int) -> Bounds:
        """Raises Corrupt where the segment belongs to another journal, or the one after it is not its successor."""
        segment = self.segments[number]
        header, start = self._header(segment)
        self._check_identity(header, segment)
        if number + 1 == len(self.segments):
            return Bounds(header, start, self.tail.offset, self.tail.last_seq, None)
        after = self.segments[number + 1]
        successor, _ = self._header(after)
        self._check_link(segment, successor, after)
        return Bounds(header, start, successor.previous_end, successor.first_seq - 1, successor)

    def index_of(self, number: int) -> SegmentIndex | None:
        """The sparse index of a sealed segment, where there is one that is whole and of this very segment."""
        segment = self.segments[number]
        bounds = self.bounds(number)
        if bounds.successor is None or bounds.end < SEGMENT_BYTES_MIN:
            return None
        if self._index[0] != segment.path:
            self._index = (segment.path, self.indexes.find(segment.key))
        known = self._index[1]
        return known if known is not None and known.is_of(bounds.header, bounds.successor) else None

    def read(self, number: int, offset: int, length: int) -> bytes:
        """Bytes of a segment, as its writer synced them; unproven where it is not packed."""
        file = self._open(self.segments[number])
        try:
            return file.read_at(offset, length)
        finally:
            file.close()

    def scan(self, number: int, from_seq: int = 1, to_seq: int | None = None) -> Iterator[Batch]:
        """The batches of one segment. Those before `from_seq` are left out as far as it is known where they lie, and
        it ends with the first behind `to_seq`. Raises Corrupt where it comes to damage."""
        for batch in self._part(number, from_seq, to_seq) or self._whole(number, from_seq):
            if to_seq is not None and batch.first_seq > to_seq:
                return
            yield batch

    def first_batch(self, number: int) -> Batch | None:
        """Of a segment that holds one, by reading little more. Of its offsets only their distance is right."""
        bounds, segment = self.bounds(number), self.segments[number]
        if is_packed(segment.path):
            return next(self._whole(number, 1), None)
        front = self.read(number, bounds.start, min(FRONT_BYTES, bounds.end - bounds.start))
        return next(iter(Scanner(front, 0, bounds.header, segment.path)), None) or next(self._whole(number, 1), None)

    def _part(self, number: int, from_seq: int, to_seq: int | None) -> list[Batch] | None:
        """The batches of the granules that hold these seqs; None where only all of the segment can tell.

        A pack finds its own blocks.
        """
        segment, bounds = self.segments[number], self.bounds(number)
        first = max(from_seq, bounds.header.first_seq)
        last = bounds.last_seq if to_seq is None else min(to_seq, bounds.last_seq)
        if first > last or (first, last) == (bounds.header.first_seq, bounds.last_seq) or is_packed(segment.path):
            return None
        known = self.index_of(number) if bounds.successor is not None else self._tail_index
        if known is None:
            return None
        file = self._open(segment)
        try:
            if isinstance(file, PackedFile):  # since it was listed
                return None
            begin, end = known.granules[known.granule_of(first)], known.at(known.granule_of(last) + 1)
            data = file.read_at(begin.offset, end.offset - begin.offset)
        finally:
            file.close()
        return batches_between(data, bounds.header, segment.path, begin, end)

    def _whole(self, number: int, from_seq: int) -> Iterator[Batch]:
        """The batches of one segment: up to where its successor says that it ends, or to the tail.

        Of a packed one those of the blocks before `from_seq` are left out.
        """
        segment = self.segments[number]
        header, start, end, last_seq, successor = self.bounds(number)
        file = self._open(segment)
        scanner = _scanner_of(file, end, start, header, segment.path, from_seq)
        yield from scanner
        if successor is None and isinstance(file, PackedFile):
            yield from self._carried(segment, scanner.next_seq, scanner.chain)
        elif scanner.offset != end:  # in the last segment too: it may have rotted since the tail was read
            region = scanner.bad_region()
            raise Corrupt(
                f"{region.reason if region else 'zeros where a batch belongs'}; "
                f"events {scanner.next_seq}-{last_seq} cannot be read",
                path=segment.path,
                offset=scanner.offset,
                seq=scanner.next_seq,
                hint=CORRUPT_HINT,
            )
        if successor and (scanner.chain != successor.previous_chain or scanner.next_seq != successor.first_seq):
            raise two_histories(successor, self.segments[number + 1].path)

    def _carried(self, segment: SegmentRef, next_seq: int, chain: bytes) -> Iterator[Batch]:
        """Batches that the last segment had when it was listed and that its pack has not: the next opener carried them
        over. Their offsets are those where they lie now."""
        for after in list_segments(self.storage, self.directory):
            if after.key <= segment.key or next_seq > self.tail.last_seq:
                continue
            header, start = self._header(after)
            self._check_identity(header, after)
            file = self._open(after)
            for batch in _scanner_of(file, file.size(), start, header, after.path):
                if (batch.first_seq, batch.previous_chain) == (next_seq, chain) and next_seq <= self.tail.last_seq:
                    next_seq, chain = batch.last_seq + 1, batch.chain
                    yield batch
        if next_seq <= self.tail.last_seq:
            raise Corrupt(
                f"events {next_seq}-{self.tail.last_seq} were carried over and cannot be found",
                path=segment.path,
                seq=next_seq,
                hint=CORRUPT_HINT,
            )

    def _open(self, segment: SegmentRef) -> Readable:
        try:
            return open_segment(self.storage, segment.path)
        except FileNotFoundError:
            raise _missing(segment) from None

    def _header(self, segment: SegmentRef) -> tuple[SegmentHeader, int]:
        known = self._headers.get(segment.path)
        if known is None:
            try:
                known = header_of(self.storage, segment)
            except FileNotFoundError:
                raise _missing(segment) from None
            self._headers[segment.path] = known
        return known

    def _check_identity(self, header: SegmentHeader, segment: SegmentRef) -> None:
        if header.journal_id != self.journal_id:
            raise Corrupt(
                f"segment belongs to journal {header.journal_id.hex()}",
                path=segment.path,
                offset=0,
                hint=f"the first segment is of journal {self.journal_id.hex()}: one of the two does not belong here",
            )

    def _check_link(self, segment: SegmentRef, successor: SegmentHeader, after: SegmentRef) -> None:
        named = (successor.previous_first_seq, successor.previous_epoch)
        if named != segment.key:
            raise Corrupt(
                f"the segment before it should be {named[0]}-{named[1]}, found {segment.first_seq}-{segment.epoch}: "
                f"a segment is missing or does not belong",
                path=after.path,
                seq=named[0],
                hint="restore the missing segment from a backup",
            )


def _scanner_of(
    file: Readable, end: int, start: int, header: SegmentHeader, path: str, from_seq: int = 1
) -> Scanner | PackedScanner:
    """What reads an open segment, packed or plain, up to `end`. The file is closed by the time it has read all."""
    if isinstance(file, PackedFile):
        return PackedScanner(file, end, from_seq)
    return Scanner(all_of(file, end), start, header, path)


def all_of(file: Readable, length: int) -> bytes:
    """The first `length` bytes of an open file, which is closed."""
    try:
        return file.read_at(0, length)
    finally:
        file.close()


def _missing(segment: SegmentRef) -> Corrupt:
    return Corrupt("segment is missing", path=segment.path, hint="journal recover --from DIR brings a backup back")
