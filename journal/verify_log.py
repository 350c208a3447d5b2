"""The log's part of verifying: each segment is read to its end, judged, and held against the one before it.

Goes on behind damage and tells all of it, where a reader would stop. Must not know what else lies in a journal.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from journal.errors import Corrupt, JournalError
from journal.events import JournalEventLost
from journal.format import SegmentHeader
from journal.lineage import Parent, parent_of
from journal.record import Record
from journal.regions import Verdict, error_for, verdict_on
from journal.scan import Batch, Scanner
from journal.segments import SegmentRef, header_of, two_histories
from journal.storage import Readable, Storage
from journal.stored import PackedFile, PackedScanner, open_segment, stored_bytes
from journal.verified import Verified
from journal.witness import Head, head_in

Header = tuple[SegmentHeader, int]
"""A segment's header, and where its batches begin."""


def read_headers(storage: Storage, segments: Sequence[SegmentRef], report: Verified) -> list[Header | None]:
    """That of each segment; None where it cannot be read, which is told."""
    headers: list[Header | None] = []
    for segment in segments:
        try:
            headers.append(header_of(storage, segment))
        except JournalError as error:
            report.add(error, segment.path)
            headers.append(None)
    return headers


def journal_id_in(headers: Iterable[Header | None]) -> str:
    """Of the first that says one, as hex; empty where none does."""
    return next((found[0].journal_id.hex() for found in headers if found), "")


class Chains:
    """What the log says of the seqs that a checkpoint or a head stands at, collected while segments go by."""

    def __init__(self, wanted: Iterable[int]) -> None:
        self.wanted = sorted(wanted)
        self.at: dict[int, Head] = {}
        self.parent: Parent | None = None
        self.epoch = 0  # of the successor's making: only its own marks count, not those that its parent inherited
        self.lost: list[tuple[int, int]] = []
        self.end: tuple[int, bytes] | None = None  # next seq and chain where the last segment that could be read ended

    def note(self, batch: Batch, journal_id: bytes, records: list[Record]) -> None:
        """Takes what is wanted of one batch."""
        if self.parent is not None and batch.epoch == self.epoch:
            self.lost += [
                (each.event.first_seq, each.event.last_seq)
                for seq, each in enumerate(records, batch.first_seq)
                if isinstance(each.event, JournalEventLost) and seq == each.event.last_seq
            ]
        for index in range(bisect_left(self.wanted, batch.first_seq), bisect_right(self.wanted, batch.last_seq)):
            self.at[self.wanted[index]] = head_in(batch, self.wanted[index], journal_id)


def verify_segments(
    storage: Storage,
    segments: Sequence[SegmentRef],
    headers: Sequence[Header | None],
    evidence_seq: int,
    report: Verified,
    chains: Chains,
    tick: Callable[[], Any],
) -> None:
    """Reads all of them into the report, and what is wanted of them into `chains`; `tick` is called after each."""
    if headers and headers[0] is not None:
        chains.epoch = headers[0][0].epoch
        try:
            chains.parent = parent_of(headers[0][0], segments[0].path)
        except Corrupt as error:
            report.add(error, segments[0].path)
    for index, segment in enumerate(segments):
        found = headers[index]
        after = headers[index + 1] if index + 1 < len(segments) else None
        report.segments += 1
        before, chains.end = chains.end, None
        if found is not None:
            _segment(storage, segment, found, after, index + 1 == len(segments), evidence_seq, report, chains)
            _link(segments, headers, index, before, report)
        report.bytes += stored_bytes(storage, segment.path)
        tick()


def _segment(
    storage: Storage,
    segment: SegmentRef,
    found: Header,
    after: Header | None,
    last: bool,
    evidence_seq: int,
    report: Verified,
    chains: Chains,
) -> None:
    header, _ = found
    try:
        end = after[0].previous_end if after is not None else None
        scanner = _scanner(storage, segment.path, found, end, last, report)
        for batch in scanner:
            records = batch.records()
            report.batches += 1
            report.events += batch.count
            chains.note(batch, header.journal_id, records)
    except JournalError as error:
        report.add(error, segment.path)
        return
    report.last_seq, report.chain = scanner.next_seq - 1, scanner.chain.hex()
    region = scanner.bad_region()
    if region is not None:
        verdict = verdict_on(region, evidence_seq, last_segment=last)
        if verdict is Verdict.TORN_TAIL:
            told = f"{region.length} bytes of a batch that was never acknowledged"
            hint = "the next open sets them aside"
            report.note("torn_tail", told, segment.path, offset=region.offset, seq=region.first_seq, hint=hint)
        else:
            report.add(error_for(verdict, region, segment.path, evidence_seq), segment.path)
    elif after is not None and scanner.offset != after[0].previous_end:
        report.add(
            Corrupt(
                f"zeros where a batch belongs; events {scanner.next_seq}-{after[0].first_seq - 1} cannot be read",
                path=segment.path, offset=scanner.offset, seq=scanner.next_seq,
            ),
            segment.path,
        )  # fmt: skip
    else:
        chains.end = (scanner.next_seq, scanner.chain)
    if region is None and last and evidence_seq > report.last_seq:
        report.add(
            Corrupt(
                f"the journal ends at seq {report.last_seq}, but seq {evidence_seq} was durable",
                path=segment.path, offset=scanner.offset, seq=report.last_seq + 1,
                hint="restore the newer segments from a backup",
            ),
            segment.path,
        )  # fmt: skip


def _scanner(
    storage: Storage, path: str, found: Header, end: int | None, last: bool, report: Verified
) -> Scanner | PackedScanner:
    """Over the segment up to `end`, or all of it. What is wrong with a packed one is reported block by block."""
    file = open_segment(storage, path)
    if isinstance(file, PackedFile):
        for error in file.damaged_ends():
            report.add(error, path)
        return PackedScanner(file, file.size() if end is None else end, tell=lambda error: report.add(error, path))
    try:
        data = _read(file, path, found, last)
    finally:
        file.close()
    return Scanner(data[:end], found[1], found[0], path)


def _read(file: Readable, path: str, found: Header, last: bool) -> bytes:
    """A segment. Bad bytes at the end of the last are read again until they stand still: a writer may be at work."""
    before = None
    while True:
        data = file.read_at(0, file.size())
        if not last:
            return data
        scanner = Scanner(data, found[1], found[0], path)
        for _ in scanner:
            pass
        region = scanner.bad_region()
        if region is None or region == before:
            return data
        before = region


def _link(
    segments: Sequence[SegmentRef],
    headers: Sequence[Header | None],
    index: int,
    end_before: tuple[int, bytes] | None,
    report: Verified,
) -> None:
    """Damage where a segment does not continue the one that lies before it."""
    found = headers[index]
    assert found is not None
    header, path = found[0], segments[index].path
    first = next(each for each in headers if each)
    if header.journal_id != first[0].journal_id:
        report.add(Corrupt(f"segment belongs to journal {header.journal_id.hex()}", path=path, offset=0), path)
    before = (segments[index - 1].first_seq, segments[index - 1].epoch) if index else (0, 0)
    if (header.previous_first_seq, header.previous_epoch) != before:
        report.add(
            Corrupt(
                f"a segment is missing before it: it continues {header.previous_first_seq}-{header.previous_epoch}, "
                f"found {before[0]}-{before[1]}",
                path=path, offset=0, seq=header.previous_first_seq, hint="restore the missing segment from a backup",
            ),
            path,
        )  # fmt: skip
    elif end_before is not None and (header.first_seq, header.previous_chain) != end_before:
        report.add(two_histories(header, path), path)
