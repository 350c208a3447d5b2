"""One segment's bytes: what is whole is read, what is not is named by its facts."""

from __future__ import annotations

from dataclasses import replace

import pytest

from journal.errors import Corrupt, Unsupported
from journal.events import ConfigWritten, TagCreated
from journal.format import (
    BATCH_HEADER_BYTES,
    SegmentHeader,
    decode_segment_header,
    encode_batch,
    encode_segment_header,
    next_chain,
)
from journal.record import Record, array_of, encode_record
from journal.scan import BadRegion, Scanner
from journal.segment import FILL_BYTES_MIN
from tests.journals import START, record

HEADER = SegmentHeader(bytes(range(16)), b"saltsalt", 3, 1, 0, 0, 0, bytes(32))


def segment(batches: list[list[bytes]], fill: int = 1024) -> tuple[bytes, list[int]]:
    """A segment's bytes and the offsets where its batches begin, the last being where they end."""
    data, seq, chain, starts = encode_segment_header(HEADER), 1, bytes(32), []
    for records in batches:
        payload = array_of(records)
        starts.append(len(data))
        data += encode_batch(
            HEADER, epoch=3, flags=0, first_seq=seq, count=len(records), payload=payload, durable_seq=seq - 1,
            previous_chain=chain, offset=len(data),
        )  # fmt: skip
        chain = next_chain(chain, seq, len(records), payload)
        seq += len(records)
    return data + bytes(fill), [*starts, len(data)]


THREE = [[record(1)], [record(2), record(3)], [record(4)]]


def scan(data: bytes) -> tuple[list[int], BadRegion | None]:
    header, start = decode_segment_header(data, "seg")
    scanner = Scanner(data, start, header, "seg")
    seqs = []
    for batch in scanner:
        assert len(batch.records()) == batch.count
        seqs += range(batch.first_seq, batch.last_seq + 1)
    return seqs, scanner.bad_region()


def test_whole_segment_reads_back_every_record_and_ends_in_zeros() -> None:
    data, _ = segment(THREE)
    assert scan(data) == ([1, 2, 3, 4], None)


def test_every_truncation_keeps_the_whole_batches_before_it_and_is_incomplete() -> None:
    data, starts = segment(THREE, fill=0)
    for length in range(starts[0], len(data)):
        seqs, region = scan(data[:length])
        whole = sum(1 for end in starts[1:] if end <= length)
        assert seqs == [[], [1], [1, 2, 3], [1, 2, 3, 4]][whole], length
        if length not in starts:
            assert region is not None, length
            assert region.incomplete, length
            assert region.offset == starts[whole]


def test_every_flipped_bit_in_a_batch_is_detected_at_its_batch() -> None:
    data, starts = segment(THREE)
    for position in range(starts[0], starts[-1]):
        for bit in range(8):
            damaged = bytearray(data)
            damaged[position] ^= 1 << bit
            index = sum(1 for start in starts if start <= position) - 1
            seqs, region = scan(bytes(damaged))
            assert seqs == [[], [1], [1, 2, 3]][index]
            assert region is not None
            assert region.offset == starts[index]
            assert region.followed == (index < 2)


def test_every_flipped_bit_in_the_segment_header_is_named_corrupt_or_unsupported() -> None:
    data, starts = segment(THREE)
    for position in range(starts[0]):
        for bit in range(8):
            damaged = bytearray(data)
            damaged[position] ^= 1 << bit
            with pytest.raises(Corrupt):
                scan(bytes(damaged))


def test_a_flipped_bit_in_the_zero_fill_harms_nothing() -> None:
    data, starts = segment(THREE)
    for position in (starts[-1], starts[-1] + 1, starts[-1] + 600, len(data) - 1):
        damaged = bytearray(data)
        damaged[position] ^= 0x10
        assert scan(bytes(damaged)) == ([1, 2, 3, 4], None)


def test_an_unwritten_sector_in_the_last_batch_makes_it_incomplete() -> None:
    data, starts = segment([[record(1)], [record(number) for number in range(2, 60)]])
    first = -(-starts[1] // 512) * 512
    for sector in range(first, starts[2], 512):
        torn = data[:sector] + bytes(512) + data[sector + 512 :]
        seqs, region = scan(torn)
        assert seqs == [1]
        assert region is not None
        assert region.incomplete, sector


def test_zeros_that_the_content_explains_prove_no_tear() -> None:
    """A NUL-filled config holds zero sectors by right: with a wrong CRC it is ambiguous, never a torn tail."""
    data, starts = segment([[record(1, ConfigWritten("writer", bytes(4096), "0" * 64))]])
    damaged = bytearray(data)
    damaged[starts[0] + BATCH_HEADER_BYTES + 3] ^= 1
    seqs, region = scan(bytes(damaged))
    assert seqs == []
    assert region is not None
    assert not region.incomplete


def flips_taken_for_a_tear(head: SegmentHeader, payload: bytes, chain: bytes = bytes(32)) -> list[int]:
    """Offsets of single-bit flips over a last batch that make it look as if it was never wholly written."""
    data = encode_segment_header(head)
    start = len(data)
    data += encode_batch(
        head, epoch=3, flags=0, first_seq=1, count=1, payload=payload, durable_seq=0, previous_chain=chain,
        offset=start,
    )  # fmt: skip
    found = []
    for position in range(start, len(data)):
        for bit in range(8):
            damaged = bytearray(data) + bytes(600)
            damaged[position] ^= 1 << bit
            scanner = Scanner(damaged, start, head, "seg")
            region = next(iter(scanner), None) or scanner.bad_region()
            if not isinstance(region, BadRegion) or region.incomplete:
                found.append(position)
    return found


def test_a_header_that_ends_in_zeros_behind_a_sector_boundary_is_no_tear() -> None:
    """The chain of a first batch is zeros: a flip in its header must not make an acknowledged event a torn tail."""
    for boundary in range(1, BATCH_HEADER_BYTES + 2, 5):
        pad = -(len(encode_segment_header(replace(HEADER, extra={"pad": "x" * 300}))) + boundary) % 512
        head = replace(HEADER, extra={"pad": "x" * (300 + pad)})
        assert (len(encode_segment_header(head)) + boundary) % 512 == 0
        assert flips_taken_for_a_tear(head, array_of([record(1)])) == []


def test_content_that_is_one_bit_away_from_a_zero_sector_is_no_tear() -> None:
    """The flip itself may make the sector blank."""
    content = (b"\x01" + bytes(511)) * 3
    assert flips_taken_for_a_tear(HEADER, array_of([record(1, ConfigWritten("writer", content, "0" * 64))])) == []


def test_a_batch_of_an_older_life_of_the_file_is_not_taken_for_content() -> None:
    data, starts = segment(THREE)
    other = SegmentHeader(HEADER.journal_id, b"othersal", 3, 1, 0, 0, 0, bytes(32))
    stale = encode_batch(
        other, epoch=3, flags=0, first_seq=5, count=1, payload=array_of([record(5)]), durable_seq=4,
        previous_chain=bytes(32), offset=starts[-1],
    )  # fmt: skip
    seqs, region = scan(data[: starts[-1]] + stale + bytes(512))
    assert seqs == [1, 2, 3, 4]
    assert region is not None
    assert region.reason == "the batch belongs to another segment"


def test_a_newer_format_version_is_unsupported_not_corrupt() -> None:
    from zlib import crc32

    data = bytearray(segment(THREE)[0])
    data[8:10] = (2).to_bytes(2, "little")
    length = int.from_bytes(data[12:16], "little")
    data[16:20] = crc32(data[20:length], crc32(data[:16])).to_bytes(4, "little")
    with pytest.raises(Unsupported, match="version 2 is newer"):
        scan(bytes(data))


def test_an_event_type_of_a_newer_program_is_unsupported_by_name() -> None:
    newer = replace(HEADER, types={**HEADER.types, "memory.dreamt": 4000})
    payload = b"\x91\x98\x00\x01\xc0\xc0\xc0\xc0\xc0\x92\xcd\x0f\xa0\xa1x"
    data = encode_segment_header(newer)
    data += encode_batch(
        newer, epoch=3, flags=0, first_seq=1, count=1, payload=payload, durable_seq=0, previous_chain=bytes(32),
        offset=len(data),
    )  # fmt: skip
    with pytest.raises(Unsupported, match=r"memory\.dreamt"):
        scan(data)


@pytest.mark.parametrize("flags", [4, 255, 1 << 40, -1])
def test_a_record_flag_of_a_newer_program_is_unsupported_and_never_skipped(flags: int) -> None:
    newer = encode_record(Record(flags, START, None, None, None, None, None, TagCreated("x", 1)))
    with pytest.raises(Unsupported, match="record flag"):
        scan(segment([[record(1), newer]])[0])


def test_arbitrary_bytes_behind_a_good_header_never_crash_the_scanner() -> None:
    import random

    rng = random.Random(7)
    head = encode_segment_header(HEADER)
    for _ in range(300):
        noise = rng.randbytes(rng.randrange(0, 400))
        seqs, region = scan(head + noise + bytes(FILL_BYTES_MIN >> 8))
        assert seqs == []
        assert region is not None or not noise.strip(b"\0")


@pytest.mark.parametrize("payload", [array_of([record(1)])[:-3], array_of([record(1), record(2)]), b"\xc1"])
def test_a_batch_whose_checksums_are_right_and_whose_records_are_not_is_corrupt_by_either_reading(
    payload: bytes,
) -> None:
    """Scenario: somebody changed the records and made every CRC right again, or a writer had a bug."""
    head = encode_segment_header(HEADER)
    batch = encode_batch(
        HEADER, epoch=3, flags=0, first_seq=1, count=1, payload=payload, durable_seq=0, previous_chain=bytes(32),
        offset=len(head),
    )  # fmt: skip
    header, start = decode_segment_header(head, "seg")
    (found,) = Scanner(head + batch, start, header, "seg")
    for read in (found.records, found.heads):
        with pytest.raises(Corrupt) as caught:
            read()
        assert (caught.value.path, caught.value.offset) == ("seg", len(head))
