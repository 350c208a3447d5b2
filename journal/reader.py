"""Reading a log: its ordered segments as one run of batches, verified link by link. Takes no lock.

Every byte that is returned has passed its CRC and the chain. A reader beside a live writer sees a consistent prefix:
what is still being written at the tail is not there yet, and is never taken for damage.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator

from journal.errors import Corrupt, Diverged, NotAJournal
from journal.format import CHAIN_GENESIS, SegmentHeader
from journal.index import Granule, SegmentIndex
from journal.lineage import Parent, parent_of
from journal.regions import Verdict, error_for, verdict_on
from journal.scan import BadRegion, Batch, Scanner
from journal.segments import SegmentRef as SegmentRef
from journal.segments import Segments, all_of, granules_of
from journal.segments import Tail as Tail
from journal.segments import list_segments as list_segments
from journal.segments import two_histories as two_histories
from journal.storage import Storage
from journal.stored import PackedFile
from journal.watermark import read_watermark


def _end_of(file: PackedFile, header: SegmentHeader) -> Tail:
    """Of a log whose last segment is a packed one, since what came after it is gone. All that it holds was durable."""
    pack = file.pack
    last_seq = pack.next_seq - 1
    return Tail(pack.path, pack.end, pack.end, last_seq, pack.chain, last_seq, header.epoch, False, None)


class LogReader(Segments):
    """A read-only view of the log under `directory`. Call `refresh` to see what was appended since.

    Raises NotAJournal where there is none, Corrupt for damage that reading meets, Unsupported for a newer format.
    `evidence_seq` is the last seq that something outside the log (memory.db, a receipt) knows to have been durable.
    """

    def __init__(self, storage: Storage, directory: str, *, evidence_seq: int = 0) -> None:
        super().__init__(storage, directory)
        self.evidence_seq = evidence_seq
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
        # Before the last segment is known, and its tail: a writer at work moves all three on, and what it said of a seq
        # must be there to be read.
        self.watermark = read_watermark(self.storage, self.directory, header.journal_id).mark
        if self.watermark is not None:
            self.evidence_seq = max(self.evidence_seq, self.watermark.seq)
            self.segments = list_segments(self.storage, self.directory)
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
        for number in range(self.segment_of(from_seq), len(self.segments)):
            if self.segments[number].first_seq > last:
                break
            for batch in self.scan(number, from_seq, last):
                if batch.last_seq >= from_seq:
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
                hint="bring the newer segments back: journal recover --from DIR; "
                "with no backup that has them: journal recover journal --accept-loss --dry-run",
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

        Bisects over the segments by their first records, then looks into one of them: times never decrease.
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
        for number in range(low - 1, -1, -1):
            found = self._seq_in(number, limit)
            if found:
                return found
        return 0

    def _seq_in(self, number: int, limit: int) -> int:
        """As `seq_at`, of one segment."""
        known, first_seq, last_seq = self.index_of(number), 1, None
        if known is not None:
            granule = bisect_right(known.granules, limit, key=lambda each: each.time) - 1
            if granule < 0:
                return 0
            first_seq, last_seq = known.granules[granule].seq, known.at(granule + 1).seq - 1
        found = 0
        for batch in self.scan(number, first_seq, last_seq):
            times = [head.time for head in batch.heads()]
            if times[0] > limit:
                break
            found = batch.first_seq + bisect_right(times, limit) - 1
        return found

    def _first_time(self, number: int) -> int | None:
        batch = self.first_batch(number)
        return batch.heads()[0].time if batch else None

    def _any_before(self, number: int, limit: int) -> bool:
        """For an empty segment: whether the next one that holds records begins at or before the limit."""
        for later in range(number + 1, len(self.segments)):
            first = self._first_time(later)
            if first is not None:
                return first <= limit
        return False

    # -- the end ------------------------------------------------------------------------------------------------------

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
                self._tail_index = None
                return _end_of(file, header)
            scanner = Scanner(all_of(file, file.size()), start, header, segment.path)
            granules = tuple(granules_of(scanner))
            region = scanner.bad_region()
            if region is None or region == before:
                break
            before = region
        end = Granule(scanner.next_seq, scanner.records_end, 0, scanner.chain, memoryview(b""))
        self._tail_index = SegmentIndex(header.journal_id, header.salt, header.epoch, header.first_seq, granules, end)
        return Tail(
            segment.path, scanner.offset, scanner.records_end, scanner.next_seq - 1, scanner.chain,
            scanner.durable_seq, header.epoch, scanner.closed, region,
        )  # fmt: skip
