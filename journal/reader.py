"""Reading a log: its ordered segments as one run of batches, verified link by link. Takes no lock.

Every byte that is returned has passed its CRC and the chain. A reader beside a live writer sees a consistent prefix:
what is still being written at the tail is not there yet, and is never taken for damage.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

from journal.errors import Corrupt, Diverged, NotAJournal
from journal.format import CHAIN_GENESIS, SegmentHeader
from journal.lineage import Parent, parent_of
from journal.regions import CORRUPT_HINT, Verdict, error_for, verdict_on
from journal.scan import BadRegion, Batch, Scanner
from journal.segment import is_packed, parse_segment_name
from journal.storage import Readable, Storage
from journal.stored import PackedFile, PackedScanner, open_segment, read_segment_header
from journal.watermark import read_watermark


class SegmentRef(NamedTuple):
    """A segment file by name alone, plain or packed. Ordered as the log is: by first seq, then epoch."""

    first_seq: int
    epoch: int
    path: str


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


def list_segments(storage: Storage, directory: str) -> list[SegmentRef]:
    """The segments under `directory` (the journal's), in order. Other names are not looked at.

    Where one lies there both plain and packed, packing was cut, and the plain one counts.
    """
    folder = f"{directory}/segments"
    names = sorted(storage.list(folder), key=is_packed, reverse=True)
    found = {parse_segment_name(name): f"{folder}/{name}" for name in names}
    return sorted(SegmentRef(*key, path) for key, path in found.items() if key is not None)


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


def _missing(segment: SegmentRef) -> Corrupt:
    return Corrupt("segment is missing", path=segment.path, hint="journal recover --from DIR brings a backup back")


def _all_of(file: Readable, length: int) -> bytes:
    try:
        return file.read_at(0, length)
    finally:
        file.close()


def _end_of(file: PackedFile, header: SegmentHeader) -> Tail:
    """Of a log whose last segment is a packed one, since what came after it is gone. All that it holds was durable."""
    pack = file.pack
    last_seq = pack.next_seq - 1
    return Tail(pack.path, pack.end, pack.end, last_seq, pack.chain, last_seq, header.epoch, False, None)


class LogReader:
    """A read-only view of the log under `directory`. Call `refresh` to see what was appended since.

    Raises NotAJournal where there is none, Corrupt for damage that reading meets, Unsupported for a newer format.
    `evidence_seq` is the last seq that something outside the log (memory.db, a receipt) knows to have been durable.
    """

    def __init__(self, storage: Storage, directory: str, *, evidence_seq: int = 0) -> None:
        self.storage = storage
        self.directory = directory
        self.evidence_seq = evidence_seq
        self._headers: dict[str, tuple[SegmentHeader, int]] = {}
        self.refresh()

    def refresh(self) -> None:
        """Looks at the directory and the last segment again."""
        segments = list_segments(self.storage, self.directory)
        if not segments:
            raise self._nothing()
        self.segments = segments
        header, _ = self._header(segments[0])
        if header.previous_first_seq:
            raise Corrupt(
                f"segments before seq {header.first_seq} are missing",
                path=segments[0].path,
                seq=header.previous_first_seq,
                hint="restore them from a backup",
            )
        self.journal_id = header.journal_id
        # Before the tail: a writer at work moves both on, and what it said of a seq must be there to be read.
        self.watermark = read_watermark(self.storage, self.directory, header.journal_id).mark
        if self.watermark is not None:
            self.evidence_seq = max(self.evidence_seq, self.watermark.seq)
        self.tail = self._read_tail()

    def _nothing(self) -> Exception:
        if self.storage.list(f"{self.directory}/checkpoints"):
            return Corrupt(
                "all segments are missing", path=f"{self.directory}/segments", hint="restore them from a backup"
            )
        return NotAJournal("no journal here", path=self.directory, hint="create one with: journal init")

    @property
    def last_seq(self) -> int:
        """The last seq that can be read; 0 in an empty journal."""
        return self.tail.last_seq

    @property
    def last_chain(self) -> bytes:
        return self.tail.chain

    @property
    def last_time(self) -> int:
        """Time (UTC ns) of the last record, 0 in an empty journal."""
        return self.batch_of(self.last_seq).heads()[-1].time if self.last_seq else 0

    @property
    def parent(self) -> Parent | None:
        """The journal that this one succeeds after a loss, as its first segment's header names it."""
        return parent_of(self._header(self.segments[0])[0], self.segments[0].path)

    def carried(self) -> tuple[int, int] | None:
        """(first, last) seq of what the last opener carried over: events that nobody had vouched for until then."""
        epoch = self.segments[-1].epoch
        header, _ = self._header(next(each for each in self.segments if each.epoch == epoch))
        durable_seq = int(header.extra.get("durable_seq", 0))
        made_whole = durable_seq < header.first_seq or parent_of(header, self.segments[0].path) is not None
        return None if made_whole else (header.first_seq, durable_seq)

    # -- batches ------------------------------------------------------------------------------------------------------

    def batches(self, from_seq: int = 1, to_seq: int | None = None) -> Iterator[Batch]:
        """Batches in order, from the one that contains `from_seq` to the one that contains `to_seq` (default: all).

        Raises Corrupt or AmbiguousTail when it comes to damage that lies before `to_seq`, after yielding what is whole.
        """
        last = self.last_seq if to_seq is None else min(to_seq, self.last_seq)
        for index in range(self._segment_of(from_seq), len(self.segments)):
            if self.segments[index].first_seq > last:
                break
            for batch in self._scan(index, from_seq):
                if batch.last_seq < from_seq:
                    continue
                if batch.first_seq > last:
                    return
                yield batch
        if to_seq is None or to_seq > self.last_seq:
            self.raise_for_tail()

    def raise_for_tail(self) -> None:
        """Raises the error that the bytes behind the last batch deserve; nothing for zeros or a torn tail."""
        region = self.tail.region
        if region is None:
            return
        verdict = verdict_on(region, self.evidence_seq)
        if verdict is not Verdict.TORN_TAIL:
            raise error_for(verdict, region, self.tail.path, self.evidence_seq)

    def raise_for_end(self) -> None:
        """As `raise_for_tail`; Diverged too, where a seq behind the end was durable.

        Then the end is gone without a trace: an older copy of the last segment lies there, or the segment is missing.
        """
        self.raise_for_tail()
        if self.evidence_seq > self.last_seq:
            raise Diverged(
                f"the journal ends at seq {self.last_seq}, but seq {self.evidence_seq} was durable",
                path=self.tail.path,
                offset=self.tail.offset,
                seq=self.last_seq + 1,
                hint="bring the newer segments back: journal recover --from DIR",
            )

    def batch_of(self, seq: int) -> Batch:
        """The batch that contains `seq` (1 ≤ seq ≤ last_seq)."""
        if not 1 <= seq <= self.last_seq:
            raise IndexError(f"seq {seq} is not in 1-{self.last_seq}")
        return next(self.batches(seq, seq))

    def chain_at(self, seq: int) -> bytes:
        """The chain after the batch that contains `seq`; 32 zero bytes for seq 0."""
        return self.batch_of(seq).chain if seq else CHAIN_GENESIS

    def time_of(self, seq: int) -> int:
        """Time (UTC ns) of the record at `seq`."""
        batch = self.batch_of(seq)
        return batch.heads()[seq - batch.first_seq].time

    def seq_at(self, time: int, *, exclusive: bool = False) -> int:
        """The greatest seq whose time is ≤ `time` (or < with `exclusive`); 0 if there is none.

        Bisects over the segments by their first records, then over one segment's batches: times never decrease.
        """
        limit = time - 1 if exclusive else time
        low, high = 0, len(self.segments)
        while low < high:  # the first segment that begins after the limit
            middle = (low + high) // 2
            first = self._first_time(middle)
            before = first <= limit if first is not None else self._any_before(middle, limit)
            if before:
                low = middle + 1
            else:
                high = middle
        for index in range(low - 1, -1, -1):
            found = 0
            for batch in self._scan(index):
                times = [head.time for head in batch.heads()]
                if times[0] > limit:
                    break
                found = batch.first_seq + bisect_right(times, limit) - 1
            if found:
                return found
        return 0

    def _first_time(self, index: int) -> int | None:
        batch = next(self._scan(index), None)
        return batch.heads()[0].time if batch else None

    def _any_before(self, index: int, limit: int) -> bool:
        """For an empty segment: whether the next one that holds records begins at or before the limit."""
        for later in range(index + 1, len(self.segments)):
            first = self._first_time(later)
            if first is not None:
                return first <= limit
        return False

    # -- segments -----------------------------------------------------------------------------------------------------

    def _segment_of(self, seq: int) -> int:
        """Index of the first segment to look into for `seq`. Where several begin with it, all but the last are empty.

        They are read all the same: nobody else would notice damage in them.
        """
        index = bisect_left(self.segments, seq, key=lambda segment: segment.first_seq)
        begins = index < len(self.segments) and self.segments[index].first_seq == seq
        return index if begins else max(index - 1, 0)

    def _header(self, segment: SegmentRef) -> tuple[SegmentHeader, int]:
        known = self._headers.get(segment.path)
        if known is None:
            try:
                known = read_segment_header(self.storage, segment.path)
            except FileNotFoundError:
                raise _missing(segment) from None
            header = known[0]
            if (header.first_seq, header.epoch) != (segment.first_seq, segment.epoch):
                raise Corrupt("the header names another segment than the file's name", path=segment.path, offset=0)
            self._headers[segment.path] = known
        return known

    def _open(self, segment: SegmentRef) -> Readable:
        try:
            return open_segment(self.storage, segment.path)
        except FileNotFoundError:
            raise _missing(segment) from None

    def _scan(self, index: int, from_seq: int = 1) -> Iterator[Batch]:
        """The batches of one segment: up to where its successor says that it ends, or to the tail.

        Of a packed one those of the blocks before `from_seq` are left out.
        """
        segment = self.segments[index]
        header, start = self._header(segment)
        self._check_identity(header, segment)
        successor = None
        end, last_seq = self.tail.offset, self.tail.last_seq
        if index + 1 < len(self.segments):
            successor, _ = self._header(self.segments[index + 1])
            self._check_link(segment, successor, self.segments[index + 1])
            end, last_seq = successor.previous_end, successor.first_seq - 1
        scanner: Scanner | PackedScanner
        file = self._open(segment)
        if isinstance(file, PackedFile):
            scanner = PackedScanner(file, end, from_seq)
        else:
            scanner = Scanner(_all_of(file, end), start, header, segment.path)
        yield from scanner
        if scanner.offset != end:  # in the last segment too: it may have rotted since the tail was read
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
            raise two_histories(successor, self.segments[index + 1].path)

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
        if named != (segment.first_seq, segment.epoch):
            raise Corrupt(
                f"the segment before it should be {named[0]}-{named[1]}, found {segment.first_seq}-{segment.epoch}: "
                f"a segment is missing or does not belong",
                path=after.path,
                seq=named[0],
                hint="restore the missing segment from a backup",
            )

    def _read_tail(self) -> Tail:
        """Scans the last segment. Bad bytes are read again until they stand still: a writer may be at work there."""
        segment = self.segments[-1]
        header, start = self._header(segment)
        self._check_identity(header, segment)
        if len(self.segments) > 1:
            self._check_link(self.segments[-2], header, segment)
        before: BadRegion | None = None
        while True:
            file = self._open(segment)
            if isinstance(file, PackedFile):
                file.close()
                return _end_of(file, header)
            scanner = Scanner(_all_of(file, file.size()), start, header, segment.path)
            for _ in scanner:
                pass
            region = scanner.bad_region()
            if region is None or region == before:
                break
            before = region
        return Tail(
            segment.path, scanner.offset, scanner.records_end, scanner.next_seq - 1, scanner.chain,
            scanner.durable_seq, header.epoch, scanner.closed, region,
        )  # fmt: skip
