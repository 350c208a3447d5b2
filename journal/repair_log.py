"""What can be repaired in the segments, and how that is proven: each by its own chain, and by those beside it."""

from __future__ import annotations

from collections.abc import Callable

from journal.errors import Corrupt, DataError
from journal.format import SegmentHeader, clean_close, decode_segment_header
from journal.reader import SegmentRef, list_segments
from journal.repair_bench import Bench
from journal.repair_pack import mend_pack, mend_pack_header
from journal.repair_segment import Mended, Step, mend_batches, mend_header
from journal.scan import Batch, Scanner
from journal.segment import is_packed, parse_segment_name
from journal.stored import End, is_whole

Progress = Callable[[int, int], None]


def plan_segments(bench: Bench, progress: Progress | None = None) -> None:
    """Plans the repairs of all segments; headers first, since each says where the one before it ends."""
    log = _Log(bench)
    for number in range(len(log.segments)):
        log.judge(number)
        if progress is not None:
            progress(number + 1, len(log.segments))


class _Log:
    """The segments with the headers that they have, or would have once they are put right."""

    def __init__(self, bench: Bench) -> None:
        self.bench = bench
        self.segments = self._found()
        self._header_steps: dict[str, tuple[Step, ...]] = {}
        self._headers = [self._header(segment) for segment in self.segments]

    def _found(self) -> list[SegmentRef]:
        """Those that lie there, and those that only their parity still tells of."""
        bench = self.bench
        found = {each[:2]: each for each in list_segments(bench.storage, bench.directory)}
        for name in bench.parity.names():
            key = parse_segment_name(name.removeprefix("segments/"))
            if key is not None:
                found.setdefault(key, SegmentRef(*key, f"{bench.directory}/{name}"))
        return [found[key] for key in sorted(found)]

    def _header(self, segment: SegmentRef) -> SegmentHeader | None:
        """A segment's header, put right in the plan where one bit or its parity does that."""
        data, wanted = self.bench.data(segment.path), segment[:2]
        if is_packed(segment.path):
            return self._packed_header(segment, data)
        try:
            header, _ = decode_segment_header(data, segment.path)
            return header if (header.first_seq, header.epoch) == wanted else None
        except Corrupt:
            bench = self.bench
            mended = (
                mend_header(data, segment.path, wanted)
                or bench.from_pack(segment.path)
                or bench.from_parity(segment.path)
            )
        except DataError:
            return None  # written by a newer version: not for this one to mend
        if mended is None:
            return None
        self._header_steps[segment.path] = mended.steps
        self.bench.take(segment.path, mended.data, mended.steps)
        return decode_segment_header(mended.data, segment.path)[0]

    def _packed_header(self, segment: SegmentRef, data: bytes) -> SegmentHeader | None:
        """As `_header`. What is wrong at one end of the pack is put right with all of it: see `_mended`."""
        try:
            found = mend_pack_header(data, segment.path, segment[:2])
            if found is None:
                restored = self.bench.from_parity(segment.path)
                found = mend_pack_header(restored.data, segment.path, segment[:2]) if restored is not None else None
        except DataError:
            return None  # written by a newer version
        return found[0].header if found else None

    def judge(self, number: int) -> None:
        """Plans the repair of one segment, or refuses it; nothing where it is whole."""
        bench, path = self.bench, self.segments[number].path
        if self._headers[number] is None:
            bench.refuse(path, "its header cannot be read, and neither one bit nor parity explains it")
            return
        end = self._end(number)
        if end is None and number + 1 < len(self.segments):
            if path in self._header_steps:
                bench.refuse(path, "the segment after it does not confirm it")
            return  # what follows is damaged beyond repair, or another history: it is named there
        try:
            mended = self._mended(number, end)
        except DataError as error:
            bench.refuse(path, error.message)
            return
        steps = self._header_steps.get(path, ())
        if mended is None or (steps and not self._is_linked(number)):
            bench.refuse(path)
        elif mended.steps or steps:
            bench.take(path, mended.data, (*steps, *mended.steps))

    def _mended(self, number: int, end: End | None) -> Mended | None:
        """The segment put right by copy or by bits, where its parity agrees if it has any; else by pack or parity."""
        bench, path = self.bench, self.segments[number].path
        if is_packed(path):
            return self._mended_pack(path, self.segments[number][:2], end)
        mended = mend_batches(bench.data(path), path, end, self._copies(number))
        if end is None and (closed := self._closed_again(path, mended)) is not None:
            return closed
        changed = mended is not None and (bool(mended.steps) or path in self._header_steps)
        if mended is not None and (end is not None and not changed):
            return mended
        agrees = mended is not None and bench.matches_parity(path, mended.data)
        if mended is not None and agrees is not False:
            return mended  # in the last segment parity tells that an end is missing, which nothing else may know
        other = bench.from_pack(path) if end is not None else None
        if other is None or end is None or not is_whole(other.data, path, end):
            other = bench.from_parity(path)
        if other is None:
            return None
        if end is None:
            return self._closed_again(path, other) or other
        return other if is_whole(other.data, path, end) else None

    def _mended_pack(self, path: str, wanted: tuple[int, int], end: End | None) -> Mended | None:
        """The pack put right by itself, else by parity. Nothing else can have the chain that its end is proven by."""
        mended = mend_pack(self.bench.data(path), path, wanted, end)
        restored = self.bench.from_parity(path) if mended is None else None
        whole = mend_pack(restored.data, path, wanted, end) if restored is not None else None
        if restored is not None and whole is not None:  # bytes behind the protected length are cut, if any are
            return Mended(whole.data, restored.steps + whole.steps)
        return mended

    def _closed_again(self, path: str, mended: Mended | None) -> Mended | None:
        """The last segment with its clean close made anew, where its parity says that it was closed and no bit explains
        what lies there instead. The mark is no guess: its bytes follow from the header and the chain."""
        bench = self.bench
        parity = bench.parity.read(bench.name(path))
        data, steps = (mended.data, mended.steps) if mended is not None else (bench.data(path), ())
        if parity is None or not bench.matches_parity(path, data):
            return None
        end = parity.header.shape.length
        header, start = decode_segment_header(data, path)
        scanner = Scanner(data, start, header, path)
        for _ in scanner:
            pass
        if scanner.closed or scanner.offset != end:
            return None
        mark = clean_close(header, scanner.next_seq, scanner.chain)
        return Mended(data[:end] + mark, (*steps, Step("parity", end, len(mark), proof="sha256")))

    def _end(self, number: int) -> End | None:
        """Where the segment ends by what its successor says; None for the last, and where that one cannot say."""
        after = self._headers[number + 1] if number + 1 < len(self.segments) else None
        if after is None or (after.previous_first_seq, after.previous_epoch) != self.segments[number][:2]:
            return None
        return End(after.previous_end, after.first_seq, after.previous_chain)

    def _copies(self, number: int) -> dict[int, Batch]:
        """Batches that were carried into this segment and still lie, void, in the one before."""
        header = self._headers[number]
        before = self._headers[number - 1] if number else None
        found: dict[int, Batch] = {}
        path = self.segments[number - 1].path
        if header is None or before is None or is_packed(path):  # a pack has no void bytes
            return found
        data = self.bench.data(path)
        carried_to = int(header.extra.get("durable_seq", 0))
        for batch in Scanner(data, decode_segment_header(data, path)[1], before, path):
            if batch.offset >= header.previous_end and batch.last_seq <= carried_to:
                found[batch.first_seq] = batch
        return found

    def _is_linked(self, number: int) -> bool:
        """True if a header that was put right continues the segment before it, which is whole up to there."""
        header = self._headers[number]
        assert header is not None
        if number == 0:
            return header.previous_first_seq == 0
        before, end = self._headers[number - 1], self._end(number - 1)
        if before is None or end is None or header.journal_id != before.journal_id:
            return False
        path = self.segments[number - 1].path
        return is_whole(self.bench.data(path), path, end)
