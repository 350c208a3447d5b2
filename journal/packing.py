"""Packing sealed segments: each is replaced by a pack that holds the same bytes, once that is proven and durable.

    write X.pack.tmp, sync, read it back, compare with X.seg    a cut leaves X.seg
    rename to X.pack, sync the directory                        both: X.seg is used, and the pack is proven anew
    make parity of X.pack                                       both
    remove X.seg, sync the directory, remove its parity         X.pack

Runs beside a live writer, whose segments it leaves alone: the last two. Readers that listed X.seg before open X.pack
(`journal.stored`), those that have X.seg open go on reading it. Held off while somebody replaces files of the journal.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import pairwise
from typing import NamedTuple

import msgspec

from journal.checkpoint import CheckpointStore
from journal.disk import Lock
from journal.errors import Corrupt, DataError, IOFault, Locked
from journal.files import publish
from journal.pack import encode_pack
from journal.parity_store import ParityStore, Protected
from journal.reader import list_segments
from journal.segment import is_packed, packed_path
from journal.storage import Storage
from journal.stored import End, is_whole, read_segment_header
from journal.unpack import unpack

SEGMENTS_KEPT = 2  # at the log's end: the one being written, and the one that its next opener carries from
BYTES_MIN = 32 << 10  # of a segment: the two headers of a pack would outweigh what is saved of a smaller one
RUN_BYTES = 256 << 20

Progress = Callable[[int, int], None]
"""Called with bytes done and bytes to do."""


class Candidate(NamedTuple):
    """A segment that can be packed, and where it ends."""

    path: str
    end: End


class Packed(msgspec.Struct):
    """What a run did: segments that were packed, their bytes before and after. ``skipped`` are paths of damaged ones;
    ``left`` segments are for the next run."""

    segments: int = 0
    bytes_before: int = 0
    bytes_after: int = 0
    skipped: list[str] = []
    left: int = 0


def packable(storage: Storage, directory: str, bytes_min: int = BYTES_MIN) -> list[Candidate]:
    """Sealed segments that are not packed yet, oldest first. One whose successor cannot be read is none."""
    return list(_packable(storage, directory, bytes_min))


def _packable(storage: Storage, directory: str, bytes_min: int) -> Iterator[Candidate]:
    segments = list_segments(storage, directory)
    for segment, after in list(pairwise(segments))[: 1 - SEGMENTS_KEPT]:
        if is_packed(segment.path):
            continue
        try:
            header = read_segment_header(storage, after.path)[0]
        except (DataError, FileNotFoundError):
            continue
        linked = (header.previous_first_seq, header.previous_epoch) == segment[:2]
        if linked and header.previous_end >= bytes_min:
            yield Candidate(segment.path, End(header.previous_end, header.first_seq, header.previous_chain))


def pack_segments(
    storage: Storage,
    directory: str,
    parity: ParityStore | None = None,
    *,
    bytes_min: int = BYTES_MIN,
    run_bytes: int | None = RUN_BYTES,
    progress: Progress | None = None,
) -> Packed:
    """Packs what can be packed of the journal in `directory`, oldest first, about `run_bytes` of it; None: all.

    With `parity`, no segment goes before its pack has some. Raises Locked where the journal's files are being changed,
    IOFault where a pack does not read back; what was packed until then stays.
    """
    found = packable(storage, directory, bytes_min)
    result, total = Packed(), sum(each.end.offset for each in found)
    checkpoints = CheckpointStore(storage, f"{directory}/checkpoints")
    for number, each in enumerate(found):
        if run_bytes is not None and result.bytes_before >= run_bytes:
            result.left = len(found) - number
            break
        with checkpoints.exclusive() as lock:
            if storage.kind(each.path) == "missing":  # another run packed it meanwhile
                continue
            length = _pack(storage, directory, each, parity, lock)
        if length is None:
            result.skipped.append(each.path)
        else:
            result.segments += 1
            result.bytes_before, result.bytes_after = result.bytes_before + each.end.offset, result.bytes_after + length
        if progress is not None:
            progress(result.bytes_before, total)
    return result


def _pack(
    storage: Storage, directory: str, candidate: Candidate, parity: ParityStore | None, lock: Lock
) -> int | None:
    """Bytes of the pack that took a segment's place; None where that is not whole, or its pack gets no parity."""
    path, packed = candidate.path, packed_path(candidate.path)
    try:
        data = _valid_bytes(storage, candidate)
    except (DataError, FileNotFoundError):
        return None
    folder = path.rsplit("/", 1)[0]
    if storage.kind(f"{packed}.tmp") != "missing":  # of a run that was cut
        storage.remove(f"{packed}.tmp")
    length = _length_if_equal(storage, packed, data)  # of one that a cut run left
    if length is None:
        length = _write(storage, packed, data)
    else:
        storage.sync_dir(folder)  # that run may have been killed before this, and the power may go now
    if parity is not None:
        name = packed.removeprefix(f"{directory}/")
        if not parity.protect(Protected(name, length, candidate.end)):
            return None
    if not lock.is_held():  # the directory was put aside: what lies under these names now is another journal's
        raise Locked("the journal was replaced a moment ago", path=directory, hint="try again")
    storage.remove(path)
    storage.sync_dir(folder)
    if parity is not None:
        parity.forget(path.removeprefix(f"{directory}/"))
    return length


def _valid_bytes(storage: Storage, candidate: Candidate) -> bytes:
    """The segment up to its valid end. Raises DataError where it is not whole."""
    file = storage.open(candidate.path)
    try:
        data = file.read_at(0, candidate.end.offset)
    finally:
        file.close()
    if not is_whole(data, candidate.path, candidate.end):
        raise Corrupt("the segment is damaged", path=candidate.path)
    return data


def _length_if_equal(storage: Storage, packed: str, data: bytes) -> int | None:
    """The pack's bytes where it holds these of its segment, and is whole; None where it is missing or is not."""
    if storage.kind(packed) != "file":
        return None
    try:
        stored = storage.read(packed)
        return len(stored) if unpack(stored, packed) == data else None
    except DataError:
        return None


def _write(storage: Storage, packed: str, data: bytes) -> int:
    """Makes the pack, durable with its name; returns its bytes. Raises IOFault where it does not read back."""
    temporary = f"{packed}.tmp"
    pack = encode_pack(data, packed)

    def check() -> None:
        try:
            whole = unpack(storage.read(temporary), temporary) == data
        except DataError:
            whole = False
        if not whole:
            raise IOFault(
                "the pack of a segment does not read back, so the segment stays",
                path=temporary, hint="check the disk (dmesg, smartctl)",
            )  # fmt: skip

    try:
        publish(storage, temporary, packed, pack, check)
    except FileNotFoundError:  # by a recovery that tidies up
        raise Locked("a pack that was being written was removed", path=temporary, hint="try again") from None
    storage.sync_dir(packed.rsplit("/", 1)[0])
    return len(pack)
