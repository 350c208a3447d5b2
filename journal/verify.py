"""Every byte under the journal's directory, read once and judged.

Reads as a verifier does: it goes on behind damage and names all of it, where a reader would stop. Changes nothing.
The lock and the quarantine are not looked at. What lies behind the end of a superseded segment is void, and the zero
fill behind the last batch is padding: neither is damage (`docs/format.md` lists both).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from journal.checkpoint import CheckpointStore, Manifest, Part
from journal.errors import Corrupt, DataError, Diverged, JournalError
from journal.files import read_bounded, size_of
from journal.format import HEADER_BYTES_MAX, KIND_PLAN, decode_file
from journal.index_check import IndexFinding, check_indexes
from journal.index_store import IndexStore
from journal.parity_check import ParityFinding, check_store
from journal.parity_store import ParityStore, listed_parts
from journal.reader import LogReader, list_segments
from journal.storage import Storage
from journal.stored import stored_bytes
from journal.strays import PLANS, strays
from journal.verified import Progress, Verified
from journal.verify_log import Chains, journal_id_in, read_headers, verify_segments
from journal.watermark import NAME as WATERMARK
from journal.watermark import Found as Watermarked
from journal.watermark import read_watermark
from journal.witness import Head, judge_head


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
    report = Verified()
    headers = read_headers(storage, segments, report)
    journal_id = journal_id_in(headers)
    watermark = read_watermark(storage, directory, bytes.fromhex(journal_id)) if journal_id else Watermarked(None)
    evidence_seq = max([evidence_seq, parity.sealed_seq(journal_id or None), *(each.seq for each in manifests)])
    if (there := list_segments(storage, directory)) != segments:  # a writer is at work: that may be of a segment since
        segments, report = there, Verified()
        headers = read_headers(storage, segments, report)
    parts = {part for manifest in manifests for part in manifest.parts}
    total = sum(stored_bytes(storage, segment.path) for segment in segments) + sum(part.length for part in parts)
    total += sum(parity.size_of(name) for name in parity.names())
    indexes = IndexStore(storage, directory)
    total += sum(size_of(storage, indexes.path_of(key)) for key in indexes.listed())
    wanted = {manifest.seq for manifest in manifests} | ({head.seq} if head else set())
    if head is not None and head.journal_id == journal_id:
        evidence_seq = max(evidence_seq, head.seq)
    if watermark.mark is not None:
        evidence_seq = max(evidence_seq, watermark.mark.seq)
        wanted.add(watermark.mark.seq)
    chains = Chains(wanted)

    def tick() -> None:
        if progress is not None:
            progress(report.bytes, total)

    verify_segments(storage, segments, headers, evidence_seq, report, chains, tick)
    _hold_watermark(watermark, chains, f"{directory}/{WATERMARK}", report)
    for broken in damaged:
        report.add(broken.error, broken.path)
    _checkpoints(store, manifests, journal_id, chains, report)
    _parts(store, manifests, parts, report, tick)
    if chains.parent is not None and not report.exit_code and chains.lost != chains.parent.lost:
        told = Corrupt("the events marked as lost are not those that the header names", path=segments[0].path, offset=0)
        report.add(told, segments[0].path)

    def read_parity(length: int) -> None:
        report.parity, report.bytes = report.parity + 1, report.bytes + length
        tick()

    def read_index(length: int) -> None:
        report.indexes, report.bytes = report.indexes + 1, report.bytes + length
        tick()

    if (problem := parity.problem()) is not None:
        report.add(problem, parity.directory)
    known = {finding.path for finding in report.findings if finding.severity == "damage"}
    _derived(check_store(parity, known, read_parity), "parity_late", report)
    _derived(check_indexes(storage, directory, deep=deep, tick=read_index), "index_late", report)
    _strays(storage, directory, {part.sha256 for part in parts}, parity, report)
    if head is not None:
        wrong = judge_head(head, chains.at.get(head.seq), journal_id, report.last_seq, directory, chains.parent)
        report.head_proven = wrong is None and not report.exit_code
        if wrong is not None:
            report.add(wrong, directory)
    return report


def _hold_watermark(found: Watermarked, chains: Chains, path: str, report: Verified) -> None:
    for problem in found.problems:
        report.add(problem, path)
    mark = found.mark
    if mark is not None and mark.seq in chains.at and chains.at[mark.seq].chain != mark.chain.hex():
        told = f"the watermark is of another history: its chain at seq {mark.seq} is not the log's"
        report.add(Diverged(told, path=path, seq=mark.seq, hint="journal verify --against DIR"), path)


def _checkpoints(
    store: CheckpointStore, manifests: Iterable[Manifest], journal_id: str, chains: Chains, report: Verified
) -> None:
    for manifest in manifests:
        path = store.manifest_path(manifest.seq)
        report.checkpoints += 1
        if manifest.journal_id != journal_id:
            report.add(Corrupt(f"checkpoint belongs to journal {manifest.journal_id}", path=path), path)
        elif manifest.seq and manifest.seq in chains.at and chains.at[manifest.seq].chain != manifest.chain:
            told = f"the checkpoint is of another history: its chain at seq {manifest.seq} is not the journal's"
            hint = "it comes from a copy that was written separately; move it away, then: journal checkpoint create"
            report.add(Corrupt(told, path=path, seq=manifest.seq, hint=hint), path)


def _parts(
    store: CheckpointStore, manifests: list[Manifest], parts: Iterable[Part], report: Verified, tick: Callable[[], Any]
) -> None:
    for part in sorted(parts, key=lambda part: part.sha256):
        try:
            report.bytes += len(store.read_part(part))
        except JournalError as error:
            if part not in listed_parts(store.manifests()):
                continue  # its checkpoints were pruned since
            needed = ", ".join(str(each.seq) for each in reversed(manifests) if part in each.parts)
            error.message += f"; it is part of the checkpoints at seq {needed}"
            report.add(error, store.part_path(part))
        tick()


def _derived(found: Iterable[ParityFinding | IndexFinding], late: str, report: Verified) -> None:
    """Of files that are made from others: one that is merely late is a note, of this code."""
    for each in found:
        if each.is_damage:
            report.add(each.error, each.path)
        else:
            report.note(late, each.error.message, each.path, hint=each.error.hint)


def _strays(storage: Storage, directory: str, parts: set[str], parity: ParityStore, report: Verified) -> None:
    """Tells of what is neither segment, manifest nor listed part; a plan must decode."""
    for path, is_half_packed in strays(storage, directory, parts, parity):
        if is_half_packed:
            told, hint = "packing was cut: its segment is there, and counts", "journal compact goes on from there"
            report.note("half_packed", told, path, hint=hint)
        else:
            report.note("stray_file", "no part of the journal; left alone", path)
    for plan in (f"{directory}/{name}" for name in sorted(PLANS)):
        if storage.kind(plan) == "file":
            try:
                decode_file(read_bounded(storage, plan, HEADER_BYTES_MAX), KIND_PLAN, plan)
            except DataError as error:
                report.add(error, plan)
