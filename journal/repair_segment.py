"""The bytes that a damaged segment had: found bit by bit or in another copy, and proven before they are given out.

Pure: bytes in, bytes or a reason out. Nothing is guessed. A batch is taken from where it provably lies as well (void
bytes of the segment that it was carried from), or it is one bit away from whole; and the result counts only if the
whole segment then is what its surroundings say: where it ends, with which seq and chain.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from journal.errors import DataError, JournalError
from journal.format import SegmentHeader, decode_segment_header, encode_batch
from journal.scan import Batch, Scanner
from journal.stored import End
from journal.syndrome import Flip, flips_in_batch, flips_in_header

STEPS_MAX = 64  # wrong bits that are looked for in one segment

Method = Literal["copy", "one bit", "parity", "cut"]


@dataclass(frozen=True, slots=True)
class Step:
    """One thing that was put right. ``first_seq`` and ``last_seq`` are the events of the batch, None in a header.

    ``proof`` is what confirms it: ``chain`` (something behind it continues the chain), ``sha256`` (of the whole file),
    or ``crc`` alone, which happens only at the log's very end.
    """

    method: Method
    offset: int
    length: int
    bit: int | None = None
    first_seq: int | None = None
    last_seq: int | None = None
    proof: Literal["chain", "sha256", "crc"] = "chain"


@dataclass(frozen=True, slots=True)
class Mended:
    """A segment's bytes put right, and how. ``steps`` is empty where nothing was wrong."""

    data: bytes
    steps: tuple[Step, ...]


def mend_header(data: bytes, path: str, wanted: tuple[int, int]) -> Mended | None:
    """The segment with a header that decodes and is that of segment `wanted` (first seq, epoch), or None.

    What the header says beyond its name is proven by `mend_batches` and by the segments around it.
    """
    found = []
    for flip in flips_in_header(data):
        tried = flip.applied_to(data)
        try:
            header, _ = decode_segment_header(tried, path)
        except DataError:
            continue
        if (header.first_seq, header.epoch) == wanted:
            found.append(Mended(tried, (Step("one bit", flip.offset, 1, flip.bit),)))
    return found[0] if len(found) == 1 else None


def mend_batches(
    data: bytes, path: str, end: End | None, copies: Mapping[int, Batch], *, limit: int = STEPS_MAX
) -> Mended | None:
    """The segment with all of its batches whole, or None. `end` is what the successor says; None in the last segment.

    `copies` are batches that the segment before still holds behind its end, by first seq: those that were carried into
    this one. A torn tail, which still shows zeros where something was to be written, is left as it is.
    """
    header, _ = decode_segment_header(data, path)
    steps: list[Step] = []
    while True:
        scanner, wrong_at = _scan(data, path, end)
        if wrong_at is None:
            return Mended(data, tuple(steps)) if _is_end(scanner, end) else None
        if len(steps) == limit:
            return None
        found = _candidates(data, path, scanner, header, copies, end)
        if not found:
            return None
        data, step = found
        steps.append(step)


def mend_last_batch(data: bytes, path: str) -> Mended | None:
    """As `mend_batches` for the log's last batch, where nothing follows: one bit, or nothing."""
    return mend_batches(data, path, None, {}, limit=1)


def _scan(data: bytes, path: str, end: End | None) -> tuple[Scanner, int | None]:
    """The scanner at its end, and the offset of what is wrong there; None where nothing is."""
    header, start = decode_segment_header(data, path)
    scanner = Scanner(memoryview(data)[: end.offset] if end else data, start, header, path)
    for _ in scanner:
        pass
    if end is not None:
        return scanner, None if scanner.offset == end.offset else scanner.offset
    region = scanner.bad_region()
    torn = region is not None and region.incomplete and not region.followed and region.durable_seq < region.first_seq
    return scanner, None if region is None or torn else region.offset


def _is_end(scanner: Scanner, end: End | None) -> bool:
    return end is None or (scanner.offset, scanner.next_seq, scanner.chain) == (end.offset, end.next_seq, end.chain)


def _candidates(
    data: bytes, path: str, scanner: Scanner, header: SegmentHeader, copies: Mapping[int, Batch], end: End | None
) -> tuple[bytes, Step] | None:
    """The data with the batch at the scanner's offset made whole, by the one way that there is."""
    at = scanner.offset
    tried: list[tuple[bytes, Step]] = []
    copy = copies.get(scanner.next_seq)
    if copy is not None and copy.previous_chain == scanner.chain:
        batch = encode_batch(
            header, epoch=copy.epoch, flags=0, first_seq=copy.first_seq, count=copy.count, payload=copy.payload,
            durable_seq=copy.durable_seq, previous_chain=copy.previous_chain, offset=at,
        )  # fmt: skip
        tried.append((data[:at] + batch + data[at + len(batch) :], Step("copy", at, len(batch))))
    tried += [(flip.applied_to(data), _step_of(flip)) for flip in flips_in_batch(data, at)]
    for changed, step in tried:
        if end is not None and len(changed) > len(data):
            continue
        after = _made_whole(changed, path, scanner, end)
        if after is not None:
            first, last, confirmed = after
            return changed, Step(
                step.method, step.offset, step.length, step.bit, first, last, "chain" if confirmed else "crc"
            )
    return None


def _step_of(flip: Flip) -> Step:
    return Step("one bit", flip.offset, 1, flip.bit)


def _made_whole(data: bytes, path: str, before: Scanner, end: End | None) -> tuple[int | None, int | None, bool] | None:
    """(first seq, last seq, confirmed by what follows) of the batch that begins where `before` stopped, or None.

    A batch of the chain's next seq is whole, its records can be read, and what comes behind it continues its chain or
    there is nothing.
    """
    scanner = Scanner(memoryview(data)[: end.offset] if end else data, before.offset, before.header, path)
    scanner.next_seq, scanner.chain, scanner.durable_seq = before.next_seq, before.chain, before.durable_seq
    try:
        batch = next(iter(scanner), None)
        if batch is not None:
            batch.records()
    except JournalError:
        return None
    if scanner.offset == before.offset:
        return None
    if batch is None:  # the mark of a clean close: no events
        return None, None, end is not None
    follows = Scanner(data, scanner.offset, before.header, path)
    follows.next_seq, follows.chain = scanner.next_seq, scanner.chain
    for _ in follows:
        break
    return batch.first_seq, batch.last_seq, end is not None or follows.offset > scanner.offset
