"""What of a damaged log is provably whole, and which seqs are not: found by reading on behind every kind of damage.

A batch counts if its header's and its records' CRC match, it carries this journal's id and its segment's salt, and the
chain links it to the batches beside it, as far as there are any. What contradicts a chain is another history: then
nothing is decided here, since joining two would be worse than any loss. Changes nothing.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

from journal.errors import Corrupt, Diverged
from journal.format import (
    BATCH_FLAGS_KNOWN,
    BATCH_HEADER_BYTES,
    BATCH_MAGIC,
    CHAIN_GENESIS,
    TRAILER_BYTES,
    BatchHeader,
    SegmentHeader,
    decode_batch_header,
    trailer_matches,
)
from journal.reader import SegmentRef, list_segments
from journal.regions import Verdict, verdict_on
from journal.salvage_file import SalvagedFile
from journal.salvage_file import Spot as Spot
from journal.scan import BadRegion, Batch, Scanner
from journal.segment import segment_name
from journal.storage import Storage
from journal.stored import stored_bytes

Progress = Callable[[int, int], None]


class Run(NamedTuple):
    """Batches of one file that follow each other, chain and all. Offsets are the file's."""

    path: str
    header: SegmentHeader
    start: int
    end: int
    first_seq: int
    last_seq: int
    previous_chain: bytes


@dataclass
class Survey:
    """``runs`` hold what survived, in order of seqs; ``lost`` are the (first, last) seqs between and behind them.

    ``good_seq`` and ``good_chain`` are where the log is whole up to. ``events`` counts what survived, ``epoch`` is the
    highest that was met. ``tail_bytes`` is a torn tail: never acknowledged, so nothing is lost with it.
    """

    journal_id: bytes
    runs: list[Run] = field(default_factory=list)
    lost: list[tuple[int, int]] = field(default_factory=list)
    spots: list[Spot] = field(default_factory=list)
    good_seq: int = 0
    good_chain: bytes = CHAIN_GENESIS
    events: int = 0
    epoch: int = 0
    tail_bytes: int = 0

    @property
    def lost_events(self) -> int:
        return sum(last - first + 1 for first, last in self.lost)

    @property
    def last_seq(self) -> int:
        """The last seq that survived or is known to be lost."""
        survived = self.runs[-1].last_seq if self.runs else 0
        return max(survived, self.lost[-1][1] if self.lost else 0)


def survey(
    storage: Storage,
    directory: str,
    *,
    evidence_seq: int = 0,
    witnesses: Mapping[int, str] | None = None,
    progress: Progress | None = None,
) -> Survey:
    """Reads every segment under `directory` (the journal's) and finds what is whole in it.

    `evidence_seq` is the last seq known elsewhere to have been durable; `witnesses` are chains (hex) at seqs that
    something else vouches for. Raises Corrupt where nothing is left to read, Diverged where two histories meet, and
    Unsupported for what a newer program wrote: that is not lost.
    """
    segments = list_segments(storage, directory)
    files = sorted((SalvagedFile(storage, each) for each in segments), key=SalvagedFile.order)
    ids = Counter(each.header.journal_id for each in files if each.header is not None)
    if not ids:
        raise Corrupt(
            "no segment is left that says which journal this is",
            path=f"{directory}/segments",
            hint="bring a backup back: journal recover --from DIR",
        )
    joined = _Joined(Survey(ids.most_common(1)[0][0]), dict(witnesses or {}), evidence_seq)
    total, done = sum(stored_bytes(storage, each.path) for each in segments), 0
    for index, file in enumerate(files):
        after = files[index + 1].header if index + 1 < len(files) else None
        joined.read(file, after, last=index + 1 == len(files))
        done += stored_bytes(storage, file.ref.path)
        if progress is not None:
            progress(done, total)
    return joined.finish()


class _Joined:
    """Runs in the order of their seqs, each held against what came before it."""

    def __init__(self, found: Survey, witnesses: dict[int, str], evidence_seq: int) -> None:
        self.found = found
        self.witnesses = witnesses
        self.evidence_seq = evidence_seq
        self.next_seq = 1
        self.chain: bytes = CHAIN_GENESIS
        self.identity = (0, 0)  # of the segment that was read last
        self.path, self.end = "", 0  # where the last batch that survived ends
        self.declared = 0  # the last seq that a readable header claims for a batch that is not whole
        self.ends: dict[int, bytes] = {}  # last seq → chain, of the batches of this file and the one before
        self.before: dict[int, bytes] = {}

    def read(self, file: SalvagedFile, after: SegmentHeader | None, *, last: bool) -> None:
        found = self.found
        data, unreadable = file.read()
        ref = file.ref  # its path is another, where it was packed meanwhile
        found.spots += unreadable
        found.epoch = max(found.epoch, ref.epoch)
        header, start = file.header, file.start
        if header is not None and header.journal_id != found.journal_id:
            found.spots.append(Spot(ref.path, 0, len(data), f"a segment of journal {header.journal_id.hex()}"))
            return
        if header is None:
            header, start = _header_from(data, ref, found.journal_id)
            if not file.is_packed:  # of a pack without a header nothing can be read, and that is told already
                found.spots.append(Spot(ref.path, 0, start, file.problem))
        else:
            durable = max(int(header.extra.get("durable_seq", 0)), file.sealed_seq)
            self.evidence_seq = max(self.evidence_seq, header.first_seq - 1, durable)
            named = (header.previous_first_seq, header.previous_epoch)
            if named not in ((0, 0), self.identity):
                missing = f"{ref.path.rsplit('/', 1)[0]}/{segment_name(*named)}"
                found.spots.append(Spot(missing, 0, 0, "the segment is missing"))
        self.identity = (header.first_seq, header.epoch)
        end = None
        if after is not None and (after.previous_first_seq, after.previous_epoch) == (header.first_seq, header.epoch):
            end = after.previous_end
            data = data[:end]
        self.before, self.ends = self.ends, {}
        for batches, region in _runs(data, start, header, ref.path, end is not None, self._note):
            if batches:
                self._join(batches, header, ref.path)
            if region is not None and not file.is_packed:  # its blocks are told of already
                self._judge(region, ref.path, last)
        if end is not None and end > len(data) and not file.is_packed:
            found.spots.append(Spot(ref.path, len(data), end - len(data), "the file ends before its last batches"))

    def _note(self, header: BatchHeader) -> None:
        """Any readable batch header says how far the log had come, whatever became of its records."""
        self.evidence_seq = max(self.evidence_seq, header.durable_seq, header.first_seq - 1)

    def _judge(self, region: _Region, path: str, last: bool) -> None:
        bad = region.bad
        if last and region.is_last and bad is not None:
            if verdict_on(bad, self.evidence_seq) is Verdict.TORN_TAIL:
                self.found.tail_bytes = bad.length
                return
            self.declared = max(self.declared, bad.declared or bad.first_seq)
        self.found.spots.append(Spot(path, region.offset, region.length, region.reason))

    def _join(self, batches: list[Batch], header: SegmentHeader, path: str) -> None:
        """Takes a run behind what is there already. Raises Diverged where it tells another history."""
        at = 0
        while at < len(batches) and batches[at].last_seq < self.next_seq:
            known = self.ends.get(batches[at].last_seq) or self.before.get(batches[at].last_seq)
            if known != batches[at].chain:
                raise _other_history(batches[at], path)
            at += 1
        batches = batches[at:]
        if not batches:
            return
        first = batches[0]
        if first.first_seq < self.next_seq or (first.first_seq == self.next_seq and first.previous_chain != self.chain):
            raise _other_history(first, path)
        found = self.found
        if first.first_seq > self.next_seq:
            found.lost.append((self.next_seq, first.first_seq - 1))
        for batch in batches:
            for seq in [seq for seq in self.witnesses if batch.first_seq <= seq <= batch.last_seq]:
                if self.witnesses.pop(seq) != batch.chain.hex():
                    raise _other_history(batch, path)
            found.events += batch.count
            found.epoch = max(found.epoch, batch.epoch)
            self.ends[batch.last_seq] = batch.chain
        last = batches[-1]
        self.path, self.end = path, last.end
        found.runs.append(
            Run(path, header, first.offset, last.end, first.first_seq, last.last_seq, first.previous_chain)
        )
        self.next_seq, self.chain = last.last_seq + 1, last.chain
        if not found.lost:
            found.good_seq, found.good_chain = last.last_seq, last.chain

    def finish(self) -> Survey:
        """Counts what is known to have lain behind the last batch that survived as lost, too."""
        end = max(self.evidence_seq, self.declared)
        if end >= self.next_seq:
            self.found.lost.append((self.next_seq, end))
            behind = [each for each in self.found.spots if each.path == self.path and each.offset >= self.end]
            if self.path and not behind:
                self.found.spots.append(Spot(self.path, self.end, 0, "the log ends here, and went on once"))
        return self.found


def _other_history(batch: Batch, path: str) -> Diverged:
    return Diverged(
        f"two histories meet: the batch of seqs {batch.first_seq}-{batch.last_seq} (epoch {batch.epoch}) is whole, and "
        "its chain contradicts what lies before it, or what memory.db or a checkpoint says",
        path=path,
        offset=batch.offset,
        seq=batch.first_seq,
        hint="move the file that does not belong away; a copy can tell which: journal verify --against DIR",
    )


class _Region(NamedTuple):
    offset: int
    length: int
    reason: str
    is_last: bool  # nothing whole follows in this file
    bad: BadRegion | None


def _header_from(data: bytes, ref: SegmentRef, journal_id: bytes) -> tuple[SegmentHeader, int]:
    """A header for a segment whose own cannot be read: its batches say the salt, its name the rest."""
    at = data.find(BATCH_MAGIC)
    while at >= 0:
        found = decode_batch_header(data, at)
        if found is not None and found.journal_id == journal_id:
            return SegmentHeader(
                journal_id, found.salt, ref.epoch, found.first_seq, 0, 0, 0, found.previous_chain
            ), at  # fmt: skip
        at = data.find(BATCH_MAGIC, at + 1)
    return SegmentHeader(journal_id, bytes(8), ref.epoch, ref.first_seq, 0, 0, 0, CHAIN_GENESIS), len(data)


def _runs(
    data: bytes, start: int, header: SegmentHeader, path: str, sealed: bool, note: Callable[[BatchHeader], None]
) -> Iterator[tuple[list[Batch], _Region | None]]:
    """The runs of one segment, each with the bad region behind it. A sealed one has batches up to its end."""
    at, next_seq, chain = start, header.first_seq, header.previous_chain
    while True:
        scanner = Scanner(data, at, header, path)
        scanner.next_seq, scanner.chain = next_seq, chain
        batches: list[Batch] = []
        for batch in scanner:
            try:
                batch.records()
            except Corrupt:  # no writer makes such a batch; it is none
                scanner.offset, scanner.next_seq, scanner.chain = batch.offset, batch.first_seq, batch.previous_chain
                break
            batches.append(batch)
        bad = scanner.bad_region()
        if bad is None and (not sealed or scanner.offset == len(data)):
            yield batches, None
            return
        following = _next_whole(data, scanner.offset + 1, header, scanner.next_seq, note)
        length = (following[0] if following else len(data)) - scanner.offset
        if following is None and not sealed and bad is not None:
            length = bad.length
        reason = bad.reason if bad else "zeros where batches belong"
        region = _Region(scanner.offset, length, reason, following is None, bad)
        yield batches, region if length else None
        if following is None:
            return
        at, next_seq, chain = following[0], following[1].first_seq, following[1].previous_chain


def _next_whole(
    data: bytes, at: int, header: SegmentHeader, next_seq: int, note: Callable[[BatchHeader], None]
) -> tuple[int, BatchHeader] | None:
    """The next batch of this segment whose header and records match their CRCs."""
    view = memoryview(data)
    while (at := data.find(BATCH_MAGIC, at)) >= 0:
        found = decode_batch_header(data, at)
        if found is not None and (found.journal_id, found.salt) == (header.journal_id, header.salt):
            note(found)
            end = at + found.total_bytes
            known = found.count and found.first_seq >= next_seq and not found.flags & ~BATCH_FLAGS_KNOWN
            payload, trailer = view[at + BATCH_HEADER_BYTES : end - TRAILER_BYTES], view[end - TRAILER_BYTES : end]
            if known and end <= len(data) and trailer_matches(found, payload, trailer):
                return at, found
        at += 1
    return None


def batches_of(storage: Storage, run: Run) -> Iterator[Batch]:
    """The batches of a run, read and checked again. Raises Corrupt where they changed since the survey."""
    file = SalvagedFile(storage, SegmentRef(run.header.first_seq, run.header.epoch, run.path))
    data, _ = file.read()
    scanner = Scanner(data[: run.end], run.start, run.header, run.path)
    scanner.next_seq, scanner.chain = run.first_seq, run.previous_chain
    yield from scanner
    if scanner.next_seq != run.last_seq + 1:
        raise Corrupt("a batch that was whole a moment ago is not", path=run.path, offset=scanner.offset)
