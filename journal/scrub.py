"""A journal's files one by one, each with a check of its own: so all can be read little by little, and gone on with.

`verify` reads everything in one run and judges it as a whole. Here each file is a unit that is proven alone: a segment
by its chain from what its header says to what the next one's says, so that all units together prove the log. Takes no
lock and changes nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass

from journal.checkpoint import CheckpointStore, decode_manifest
from journal.errors import Corrupt, DataError, JournalError
from journal.files import size_of
from journal.format import SegmentHeader
from journal.index_check import HINT as INDEX_HINT
from journal.index_store import IndexStore, Key
from journal.parity_check import check_one
from journal.parity_store import ParityStore, listed_parts
from journal.regions import Verdict, error_for, verdict_on
from journal.scan import Scanner
from journal.segments import SegmentRef, header_of, list_segments
from journal.storage import Storage
from journal.stored import PackedFile, PackedScanner, open_segment, stored_bytes

Check = Callable[[], Sequence[JournalError]]
_REPAIR = "journal verify --repair"


@dataclass(frozen=True, slots=True)
class Unit:
    """One file to read: its name relative to the journal's directory (``parity/…`` for parity), its bytes, its check.

    ``key`` orders the units; it stays the same from run to run.
    """

    key: str
    name: str
    bytes: int
    check: Check


def units(storage: Storage, directory: str, parity: ParityStore, evidence_seq: int = 0) -> list[Unit]:
    """All there is to read now, in order: segments, manifests, parts, parity, indexes."""
    found = [*_segments(storage, directory, evidence_seq), *_checkpoints(storage, directory), *_parity(parity)]
    found += _indexes(storage, directory)
    return sorted(found, key=lambda unit: unit.key)


# -- segments ---------------------------------------------------------------------------------------------------------


def _segments(storage: Storage, directory: str, evidence_seq: int) -> Iterator[Unit]:
    segments = list_segments(storage, directory)
    for number, segment in enumerate(segments):
        name = segment.path.removeprefix(f"{directory}/")

        def check(number: int = number) -> list[DataError]:
            try:
                return _check_segment(storage, segments, number, evidence_seq)
            except DataError as error:
                return [error]

        yield Unit(f"1 {name}", name, stored_bytes(storage, segment.path), check)


def _check_segment(storage: Storage, segments: list[SegmentRef], number: int, evidence_seq: int) -> list[DataError]:
    segment = segments[number]
    header, start = header_of(storage, segment)
    before = segments[number - 1][:2] if number else (0, 0)
    if (header.previous_first_seq, header.previous_epoch) != before:
        told = f"a segment is missing before it: {header.previous_first_seq}-{header.previous_epoch}"
        return [Corrupt(told, path=segment.path, offset=0, seq=header.previous_first_seq, hint=_REPAIR)]
    after = None
    if number + 1 < len(segments):
        with suppress(DataError):  # it has a unit of its own; this one is then whole up to somewhere
            after = header_of(storage, segments[number + 1])[0]
    scanner = _scan(storage, segment, header, start, after)
    region = scanner.bad_region() if after is None or scanner.offset != after.previous_end else None
    if region is not None:
        verdict = verdict_on(region, evidence_seq, last_segment=number + 1 == len(segments))
        if verdict is Verdict.TORN_TAIL:
            return []
        return [error_for(verdict, region, segment.path, evidence_seq)]
    if after is not None and (scanner.offset, scanner.next_seq, scanner.chain) != (
        after.previous_end, after.first_seq, after.previous_chain
    ):  # fmt: skip
        told = f"it ends at seq {scanner.next_seq - 1}, and the next segment continues something else"
        return [Corrupt(told, path=segment.path, offset=scanner.offset, seq=scanner.next_seq, hint=_REPAIR)]
    if number + 1 == len(segments) and evidence_seq >= scanner.next_seq:
        told = f"the journal ends at seq {scanner.next_seq - 1}, but seq {evidence_seq} was durable"
        return [Corrupt(told, path=segment.path, offset=scanner.offset, seq=scanner.next_seq, hint=_REPAIR)]
    return []


def _scan(
    storage: Storage, segment: SegmentRef, header: SegmentHeader, start: int, after: SegmentHeader | None
) -> Scanner | PackedScanner:
    """The scanner at its end. Bad bytes of the last segment are read again until they stand still: a writer may be at
    work there. Raises Corrupt for what is wrong with a packed one."""
    seen = None
    while True:
        file = open_segment(storage, segment.path)
        scanner: Scanner | PackedScanner
        if isinstance(file, PackedFile):
            for error in file.damaged_ends():
                raise error
            scanner = PackedScanner(file, file.size() if after is None else after.previous_end)
        else:
            data = file.read_at(0, file.size())
            file.close()
            scanner = Scanner(data[: after.previous_end] if after is not None else data, start, header, segment.path)
        for batch in scanner:
            batch.records()
        region = scanner.bad_region() if after is None else None
        if region is None or region == seen:
            return scanner
        seen = region


# -- checkpoints and parity -------------------------------------------------------------------------------------------


def _checkpoints(storage: Storage, directory: str) -> Iterator[Unit]:
    store = CheckpointStore(storage, f"{directory}/checkpoints")
    manifests, damaged = store.scan()
    for path in [*(store.manifest_path(each.seq) for each in manifests), *(each.path for each in damaged)]:

        def check_manifest(path: str = path) -> list[DataError]:
            try:
                decode_manifest(store.encoded(path), path)
            except FileNotFoundError:
                pass  # pruned since
            except DataError as error:
                return [error]
            return []

        name = path.removeprefix(f"{directory}/")
        yield Unit(f"2 {name}", name, size_of(storage, path), check_manifest)
    for part in listed_parts(manifests):

        def check_part(part=part) -> list[DataError]:  # type: ignore[no-untyped-def]
            try:
                store.read_part(part)
            except DataError as error:
                # A checkpoint that was pruned since lists it no more, and then it may be gone.
                return [error] if part in listed_parts(store.manifests()) else []
            return []

        name = store.part_path(part).removeprefix(f"{directory}/")
        yield Unit(f"3 {name}", name, part.length, check_part)


def _parity(parity: ParityStore) -> Iterator[Unit]:
    for name in parity.names():

        def check(name: str = name) -> Sequence[JournalError]:
            return [found.error for found in check_one(parity, name) if found.is_damage]

        yield Unit(f"4 parity/{name}", f"parity/{name}", parity.size_of(name), check)


def _indexes(storage: Storage, directory: str) -> Iterator[Unit]:
    store = IndexStore(storage, directory)
    for key in store.listed():
        path = store.path_of(key)

        def check(key: Key = key) -> Sequence[JournalError]:
            with suppress(FileNotFoundError):  # its segment went since
                try:
                    store.load(key)
                except DataError as error:
                    error.hint = error.hint or INDEX_HINT
                    return [error]
            return []

        name = path.removeprefix(f"{directory}/")
        yield Unit(f"5 {name}", name, size_of(storage, path), check)
