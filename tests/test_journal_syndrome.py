"""One bit of a record rots: its place is found from the CRC alone, wherever it is; a torn write is no rotten bit."""

from __future__ import annotations

import random
from collections.abc import Iterator
from zlib import crc32

import pytest

from journal.events import ConfigWritten, Event, ObservationAdded
from journal.format import CHAIN_GENESIS, SECTOR_BYTES, SegmentHeader, encode_batch, encode_segment_header, next_chain
from journal.record import array_of
from journal.repair_segment import End, mend_batches, mend_header, mend_last_batch
from journal.syndrome import Flip, flip_in, flips_in_header
from tests.journals import record

HEADER = SegmentHeader(bytes(range(16)), b"\x5a" * 8, 3, 1, 0, 0, 0, CHAIN_GENESIS)
NAME = "0000000000000001-000003.seg"


def segment(payloads: list[tuple[int, bytes]]) -> tuple[bytes, list[int], End]:
    """A segment of these (count, payload), the offsets where its batches begin, and where it ends."""
    data, seq, chain, starts = encode_segment_header(HEADER), 1, CHAIN_GENESIS, []
    for count, payload in payloads:
        starts.append(len(data))
        data += encode_batch(
            HEADER, epoch=3, flags=0, first_seq=seq, count=count, payload=payload, durable_seq=seq - 1,
            previous_chain=chain, offset=len(data),
        )  # fmt: skip
        chain = next_chain(chain, seq, count, payload)
        seq += count
    return data, starts, End(len(data), seq, chain)


def of_events(*events: Event) -> tuple[int, bytes]:
    return len(events), array_of([record(number, event) for number, event in enumerate(events, 1)])


def flipped(data: bytes, offset: int, bit: int) -> bytes:
    return Flip(offset, bit).applied_to(data)


@pytest.mark.parametrize("length", [1, 2, 100, 4095, 4096, 4097, 8192, 70_000, 1 << 20])
def test_a_place_is_found_in_a_message_of_any_length(length: int) -> None:
    rng = random.Random(length)
    message = rng.randbytes(length)
    right = crc32(message, 0xABCD)
    for offset in {0, length - 1, *(rng.randrange(length) for _ in range(40))}:
        for bit in range(8):
            assert flip_in(crc32(flipped(message, offset, bit), 0xABCD) ^ right, length) == (offset, bit)


def test_no_place_is_found_outside_of_the_message() -> None:
    """A syndrome of a longer message is none of a shorter one: else a repair would write past the end."""
    message = bytes(600)
    assert flip_in(crc32(flipped(message, 99, 3)) ^ crc32(message), 500) is None
    assert flip_in(0, 600) is None


def test_every_bit_of_a_record_of_4_kib_is_put_right() -> None:
    """All 32,768, each proven by the chain that the next segment names."""
    count, payload = of_events(ObservationAdded("global", "Acme", "x" * 4000))
    payload = array_of([record(1, ObservationAdded("global", "Acme", "x" * (4000 + 4096 - len(payload))))])
    assert len(payload) == 4096
    data, starts, end = segment([(count, payload)])
    at = starts[0] + 96
    for place in range(4096):
        for bit in range(8) if place % 16 == 0 else (place % 8,):
            mended = mend_batches(flipped(data, at + place, bit), NAME, end, {})
            assert mended is not None
            assert mended.data == data
            (step,) = mended.steps
            assert (step.offset, step.bit, step.first_seq, step.proof) == (at + place, bit, 1, "chain")


def test_every_bit_of_headers_trailers_and_short_payloads_is_put_right() -> None:
    data, starts, end = segment([of_events(ObservationAdded("global", "Acme", "a")) for _ in range(2)])
    for offset in range(starts[0], len(data)):
        for bit in range(8):
            mended = mend_batches(flipped(data, offset, bit), NAME, end, {})
            assert mended is not None, (offset, bit)
            assert (mended.data, len(mended.steps)) == (data, 1), (offset, bit)


def test_every_bit_of_a_segment_header_is_put_right() -> None:
    data, starts, _ = segment([of_events(ObservationAdded("global", "Acme", "a"))])
    for offset in range(starts[0]):
        for bit in range(8):
            damaged = flipped(data, offset, bit)
            assert flips_in_header(damaged) == [(offset, bit)]
            mended = mend_header(damaged, NAME, (1, 3))
            assert mended is not None
            assert mended.data == data
    assert flips_in_header(data) == []


def test_a_header_of_another_segment_is_not_taken() -> None:
    data, _, _ = segment([of_events(ObservationAdded("global", "Acme", "a"))])
    assert mend_header(flipped(data, 60, 0), NAME, (2, 3)) is None


def test_wrong_bits_in_several_batches_are_all_put_right() -> None:
    rng = random.Random(7)
    data, starts, end = segment([of_events(ObservationAdded("global", "Acme", f"{n}" * 90)) for n in range(30)])
    damaged = data
    for start in rng.sample(starts, 12):
        damaged = flipped(damaged, start + rng.randrange(190), rng.randrange(8))
    mended = mend_batches(damaged, NAME, end, {})
    assert mended is not None
    assert (mended.data, len(mended.steps)) == (data, 12)


def test_two_wrong_bits_in_a_batch_are_refused() -> None:
    """No candidate: or one that looks right to the CRC, and that the chain refuses."""
    rng = random.Random(11)
    data, starts, end = segment([of_events(ObservationAdded("global", "Acme", "b" * 3000))] * 2)
    for _ in range(3000):
        one, two = rng.sample(range(starts[0] * 8, starts[1] * 8), 2)
        damaged = flipped(flipped(data, one // 8, one % 8), two // 8, two % 8)
        mended = mend_batches(damaged, NAME, end, {})
        assert mended is None or mended.data == data


def test_what_the_crc_explains_and_the_chain_does_not_is_refused() -> None:
    """Rot that happens to look like a single bit elsewhere: made on purpose here, since chance takes 2^17 tries."""
    data, starts, end = segment([of_events(ObservationAdded("global", "Acme", "b" * 300))])
    other = data.replace(b"bbb", b"ccc", 1)
    at, crc_at = starts[0] + 96, len(data) - 5
    header_crc = int.from_bytes(other[starts[0] + 4 : starts[0] + 8], "little")
    forged = other[:crc_at] + crc32(other[at:crc_at], header_crc).to_bytes(4, "little") + other[-1:]
    damaged = flipped(forged, at + 200, 5)
    assert mend_last_batch(damaged + bytes(512), NAME) is not None, "by its CRC it is one bit away from whole"
    assert mend_batches(damaged, NAME, end, {}) is None


# -- torn tails -------------------------------------------------------------------------------------------------------


def torn_tails(seed: int) -> Iterator[tuple[bytes, bytes]]:
    """(what a cut left, what was being written): any subset of a last batch's sectors arrived, in a file of zeros."""
    rng = random.Random(seed)
    while True:
        events: list[Event] = []
        for _ in range(rng.choice((1, 1, 3, 20))):
            kind = rng.randrange(6)
            if kind == 0:
                events.append(ConfigWritten("zeros", bytes(rng.randrange(3000)), "0" * 64))
            elif kind == 1:
                events.append(ConfigWritten("sparse", (b"\x04" + bytes(511)) * rng.randrange(1, 5), "0" * 64))
            else:
                events.append(ObservationAdded("global", "Acme", "x" * rng.randrange(1500)))
        first = of_events(ObservationAdded("global", "Acme", "y" * rng.randrange(600)))
        whole, starts, _ = segment([first, of_events(*events)])
        low = starts[1] // SECTOR_BYTES
        high = (len(whole) - 1) // SECTOR_BYTES
        if low == high:
            continue
        filled = whole + bytes(-len(whole) % SECTOR_BYTES + SECTOR_BYTES)
        for _ in range(20):
            torn = bytearray(filled)
            kept = {sector for sector in range(low, high + 1) if rng.random() < 0.5}
            for sector in set(range(low, high + 1)) - kept:
                start = max(sector * SECTOR_BYTES, starts[1])
                torn[start : (sector + 1) * SECTOR_BYTES] = bytes((sector + 1) * SECTOR_BYTES - start)
            if bytes(torn) != filled:
                yield bytes(torn), filled


def judge_torn_tails(seed: int, count: int) -> int:
    """How many torn tails were seen to be repaired: into exactly what was written, or it raises."""
    finished = 0
    for (torn, whole), _ in zip(torn_tails(seed), range(count), strict=False):
        mended = mend_last_batch(torn, NAME)
        if mended is not None and mended.steps:
            assert mended.data == whole, "a torn write became events that nobody wrote"
            finished += 1
    return finished


def test_a_torn_tail_is_never_repaired_into_something_else() -> None:
    """A sector whose only set bit did not arrive is all that can be finished, into what was written bit for bit."""
    assert judge_torn_tails(1, 4000) < 400

