"""Every byte under the journal's directory, read once and judged.

Reads as a verifier does: it goes on behind damage and names all of it, where a reader would stop. Changes nothing.
The lock and the quarantine are not looked at. What lies behind the end of a superseded segment is void, and the zero
fill behind the last batch is padding: neither is damage (`docs/format.md` lists both).
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Callable, Iterable
from typing import Any, Literal

import msgspec

from journal.checkpoint import CheckpointStore
from journal.errors import Corrupt, DataError, Diverged, JournalError
from journal.events import JournalEventLost
from journal.format import HEADER_BYTES_MAX, KIND_PLAN, Record, SegmentHeader, decode_file
from journal.index_check import check_indexes
from journal.index_store import IndexStore
from journal.lineage import Parent, parent_of
from journal.parity_check import check_store
from journal.parity_store import ParityStore
from journal.reader import LogReader, SegmentRef, list_segments, two_histories
from journal.regions import Verdict, error_for, verdict_on
from journal.scan import Batch, Scanner
from journal.storage import Readable, Storage, read_bounded
from journal.stored import PackedFile, PackedScanner, open_segment, read_segment_header, stored_bytes
from journal.strays import PLANS, strays
from journal.watermark import NAME as WATERMARK
from journal.watermark import Found as Watermarked
from journal.watermark import read_watermark
from journal.witness import Head, head_in, judge_head

Progress = Callable[[int, int], None]
"""Called with bytes read and bytes to read."""


class Finding(msgspec.Struct, frozen=True):
    """One thing that is wrong: what, where, which events, and what to do next.

    ``severity`` is ``damage``, or ``note`` for what costs nothing (a torn tail, a file left by a cut).
    """

    severity: Literal["damage", "note"]
    code: str
    message: str
    path: str
    offset: int | None = None
    seq: int | None = None
    hint: str | None = None


class Verified(msgspec.Struct):
    """What was read and what was found. ``exit_code`` is that of the worst finding, 0 without damage."""

    segments: int = 0
    batches: int = 0
    events: int = 0
    bytes: int = 0
    checkpoints: int = 0
    parity: int = 0
    indexes: int = 0
    last_seq: int = 0
    chain: str = ""
    head_proven: bool = False
    findings: list[Finding] = []
    exit_code: int = 0

    def add(self, error: JournalError, path: str) -> None:
        """Counts an error as damage."""
        self.findings.append(
            Finding("damage", error.code, error.message, error.path or path, error.offset, error.seq, error.hint)
        )
        self.exit_code = self.exit_code or error.exit_code


def verify(
    storage: Storage,
    directory: str,
    *,
    evidence_seq: int = 0,
    head: Head | None = None,
    progress: Progress | None = None,
    parity: ParityStore | None = None,
    deep: bool = False,
) -> Verified:
    """Checks every byte under `directory` (the journal's) but lock and quarantine, and its parity wherever that lies.

    `evidence_seq` is the last seq known elsewhere to be durable: it tells a torn tail from lost events. A `head` that
    was exported earlier must still be in the history. With `deep` each index is made anew, to compare. Raises
    NotAJournal where there is none; damage is in the result, never raised.
    """
    store = CheckpointStore(storage, f"{directory}/checkpoints")
    manifests, damaged = store.scan()
    parity = parity or ParityStore(storage, directory)
    segments = list_segments(storage, directory)
    if not segments:
        LogReader(storage, directory)  # says whether the log is lost or was never there
    sealed_seq = parity.sealed_seq(_journal_id(storage, segments) or None)
    evidence_seq = max([evidence_seq, sealed_seq, *(manifest.seq for manifest in manifests)])
    report = Verified()
    parts = {part for manifest in manifests for part in manifest.parts}
    total = sum(stored_bytes(storage, segment.path) for segment in segments) + sum(part.length for part in parts)
    total += sum(storage.size(parity.path_of(name)) for name in parity.names())
    indexes = IndexStore(storage, directory)
    total += sum(indexes.size_of(key) for key in indexes.listed())
    ours = _journal_id(storage, segments)
    wanted = {manifest.seq for manifest in manifests} | ({head.seq} if head else set())
    if head is not None and head.journal_id == ours:
        evidence_seq = max(evidence_seq, head.seq)
    watermark = read_watermark(storage, directory, bytes.fromhex(ours)) if ours else Watermarked(None)
    if watermark.mark is not None:
        evidence_seq = max(evidence_seq, watermark.mark.seq)
        wanted.add(watermark.mark.seq)
    chains = _Chains(wanted)
    _segments(storage, segments, evidence_seq, report, chains, lambda: progress and progress(report.bytes, total))
    _hold_watermark(watermark, chains, f"{directory}/{WATERMARK}", report)
    for broken in damaged:
        report.add(broken.error, broken.path)
    for manifest in manifests:
        path = store.manifest_path(manifest.seq)
        report.checkpoints += 1
        if manifest.journal_id != chains.journal_id:
            report.add(Corrupt(f"checkpoint belongs to journal {manifest.journal_id}", path=path), path)
        elif manifest.seq and manifest.seq in chains.at and chains.at[manifest.seq].chain != manifest.chain:
            report.add(_of_another_history(manifest.seq, path), path)
    for part in sorted(parts, key=lambda part: part.sha256):
        try:
            report.bytes += len(store.read_part(part))
        except JournalError as error:
            needed = ", ".join(str(each.seq) for each in reversed(manifests) if part in each.parts)
            error.message += f"; it is part of the checkpoints at seq {needed}"
            report.add(error, store.part_path(part))
        if progress:
            progress(report.bytes, total)
    if chains.parent is not None and not report.exit_code and chains.lost != chains.parent.lost:
        told = Corrupt("the events marked as lost are not those that the header names", path=segments[0].path, offset=0)
        report.add(told, segments[0].path)
    _parity(parity, report, lambda: progress and progress(report.bytes, total))
    _indexes(storage, directory, deep, report, lambda: progress and progress(report.bytes, total))
    _strays(storage, directory, {part.sha256 for part in parts}, report)
    if head is not None:
        wrong = judge_head(
            head, chains.at.get(head.seq), chains.journal_id, report.last_seq, directory, chains.parent
        )
        report.head_proven = wrong is None and not report.exit_code
        if wrong is not None:
            report.add(wrong, directory)
    return report


def _hold_watermark(found: Watermarked, chains: _Chains, path: str, report: Verified) -> None:
    for problem in found.problems:
        report.add(problem, path)
    mark = found.mark
    if mark is not None and mark.seq in chains.at and chains.at[mark.seq].chain != mark.chain.hex():
        told = f"the watermark is of another history: its chain at seq {mark.seq} is not the log's"
        report.add(Diverged(told, path=path, seq=mark.seq, hint="journal verify --against DIR"), path)


def _of_another_history(seq: int, path: str) -> Corrupt:
    return Corrupt(
        f"the checkpoint is of another history: its chain at seq {seq} is not the journal's",
        path=path,
        seq=seq,
        hint="it comes from a copy that was written separately; move it away, then: journal checkpoint create",
    )


def _parity(store: ParityStore, report: Verified, tick: Callable[[], Any]) -> None:
    def read(length: int) -> None:
        report.parity, report.bytes = report.parity + 1, report.bytes + length
        tick()

    damaged = {finding.path for finding in report.findings if finding.severity == "damage"}
    for found in check_store(store, damaged, read):
        if found.is_damage:
            report.add(found.error, found.path)
        else:
            hint = found.error.hint
            report.findings.append(Finding("note", "parity_late", found.error.message, found.path, hint=hint))


def _indexes(storage: Storage, directory: str, deep: bool, report: Verified, tick: Callable[[], Any]) -> None:
    def read(length: int) -> None:
        report.indexes, report.bytes = report.indexes + 1, report.bytes + length
        tick()

    for found in check_indexes(storage, directory, deep=deep, tick=read):
        if found.is_damage:
            report.add(found.error, found.path)
        else:
            hint = found.error.hint
            report.findings.append(Finding("note", "index_late", found.error.message, found.path, hint=hint))


def _journal_id(storage: Storage, segments: list[SegmentRef]) -> str:
    """As the first segment says that can tell; empty where none can."""
    for segment in segments:
        try:
            return _header(storage, segment)[0].journal_id.hex()
        except JournalError:
            continue
    return ""


class _Chains:
    """What the journal says of the seqs that a checkpoint or a head stands at, collected while segments go by."""

    def __init__(self, wanted: Iterable[int]) -> None:
        self.wanted = sorted(wanted)
        self.journal_id = ""
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


def _segments(
    storage: Storage,
    segments: list[SegmentRef],
    evidence_seq: int,
    report: Verified,
    chains: _Chains,
    tick: Callable[[], Any],
) -> None:
    headers: list[tuple[SegmentHeader, int] | None] = []
    for segment in segments:
        try:
            headers.append(_header(storage, segment))
        except JournalError as error:
            report.add(error, segment.path)
            headers.append(None)
    chains.journal_id = next((found[0].journal_id.hex() for found in headers if found), "")
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


def _header(storage: Storage, segment: SegmentRef) -> tuple[SegmentHeader, int]:
    header, start = read_segment_header(storage, segment.path)
    if (header.first_seq, header.epoch) != (segment.first_seq, segment.epoch):
        raise Corrupt("the header names another segment than the file's name", path=segment.path, offset=0)
    return header, start


def _segment(
    storage: Storage,
    segment: SegmentRef,
    found: tuple[SegmentHeader, int],
    after: tuple[SegmentHeader, int] | None,
    last: bool,
    evidence_seq: int,
    report: Verified,
    chains: _Chains,
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
            report.findings.append(
                Finding(
                    "note", "torn_tail", f"{region.length} bytes of a batch that was never acknowledged",
                    segment.path, region.offset, region.first_seq, "the next open sets them aside",
                )
            )  # fmt: skip
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
    storage: Storage, path: str, found: tuple[SegmentHeader, int], end: int | None, last: bool, report: Verified
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


def _read(file: Readable, path: str, found: tuple[SegmentHeader, int], last: bool) -> bytes:
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
    segments: list[SegmentRef],
    headers: list[tuple[SegmentHeader, int] | None],
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


def _strays(storage: Storage, directory: str, parts: set[str], report: Verified) -> None:
    """Tells of what is neither segment, manifest nor listed part; a plan must decode."""
    for path, is_half_packed in strays(storage, directory, parts):
        if is_half_packed:
            told, hint = "packing was cut: its segment is there, and counts", "journal compact goes on from there"
            report.findings.append(Finding("note", "half_packed", told, path, hint=hint))
        else:
            report.findings.append(Finding("note", "stray_file", "no part of the journal; left alone", path))
    for plan in (f"{directory}/{name}" for name in sorted(PLANS)):
        if storage.kind(plan) == "file":
            try:
                decode_file(read_bounded(storage, plan, HEADER_BYTES_MAX), KIND_PLAN, plan)
            except DataError as error:
                report.add(error, plan)
