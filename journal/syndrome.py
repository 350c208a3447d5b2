"""Which single bit was flipped, from what it did to a CRC-32. Pure: bytes in, candidates out.

CRC-32 is linear: two messages that differ in one bit have CRCs whose exclusive or, the *syndrome*, depends only on how
far from the message's end that bit stands. Its polynomial is primitive, so within 2^32 - 1 bits no two places share a
syndrome: a wrong CRC that one bit explains is explained by one bit only. More than one wrong bit may look like another
single one, with a probability of (bits of the message) / 2^32. So a candidate is no repair: whoever takes it proves it
by something else, the chain above all.
"""

from __future__ import annotations

from functools import cache
from typing import NamedTuple
from zlib import crc32

from journal.format import (
    BATCH_HEADER_BYTES,
    BATCH_MAGIC,
    END_BYTE,
    HEADER_BYTES_MAX,
    PROLOGUE_BYTES,
    TRAILER_BYTES,
    decode_batch_header,
)

_WINDOW_BYTES = 4096  # the baby steps: how many places are in the table
_CRC_AT, _LENGTH_AT = 16, 12  # where a prologue has its CRC and its header length
_BATCH_CRC_AT = 4


class Flip(NamedTuple):
    """One bit: the byte's offset, and 0 for the bit of value 1 up to 7 for that of value 128."""

    offset: int
    bit: int

    def applied_to(self, data: bytes | memoryview) -> bytes:
        """The bytes with this bit flipped."""
        flipped = bytearray(data)
        flipped[self.offset] ^= 1 << self.bit
        return bytes(flipped)


def flip_in(syndrome: int, length: int) -> Flip | None:
    """The bit of a message of `length` bytes that changes its CRC-32 by `syndrome`; None if no single one does.

    Baby-step giant-step, as for discrete logarithms: the syndrome is stepped back over 4096 zero bytes at a time and
    looked up among those of the last 4096 bytes.
    """
    places, back = _places(), _back()
    for behind in range(0, length, _WINDOW_BYTES):
        found = places.get(syndrome)
        if found is not None:
            offset = length - 1 - behind - found.offset
            return Flip(offset, found.bit) if offset >= 0 else None
        low = back[0][syndrome & 255] ^ back[1][syndrome >> 8 & 255]
        syndrome = low ^ back[2][syndrome >> 16 & 255] ^ back[3][syndrome >> 24]
    return None


def flips_in_header(data: bytes | memoryview) -> list[Flip]:
    """The flips that make a prologue's CRC match, in a file that begins with one; none where it matches already."""
    if len(data) < PROLOGUE_BYTES:
        return []
    length = int.from_bytes(data[_LENGTH_AT:_CRC_AT], "little")
    found = []
    for bit in range(32):  # another length takes the CRC over other bytes, so these are tried one by one
        other = length ^ 1 << bit
        if _fits(other, data) and _header_syndrome(data, other) == 0:
            found.append(Flip(_LENGTH_AT + bit // 8, bit % 8))
    if _fits(length, data):
        syndrome = _header_syndrome(data, length)
        if syndrome == 0:
            return []
        if syndrome.bit_count() == 1:
            found.append(_bit_at(_CRC_AT, syndrome))
        place = flip_in(syndrome, length - 4)
        if place is not None and not _LENGTH_AT <= place.offset < _CRC_AT:
            found.append(place if place.offset < _CRC_AT else Flip(place.offset + 4, place.bit))
    return found


def _fits(length: int, data: bytes | memoryview) -> bool:
    return PROLOGUE_BYTES <= length <= min(HEADER_BYTES_MAX, len(data))


def _header_syndrome(data: bytes | memoryview, length: int) -> int:
    front = bytes(data[:_LENGTH_AT]) + length.to_bytes(4, "little")
    stored = int.from_bytes(data[_CRC_AT:PROLOGUE_BYTES], "little")
    return crc32(data[PROLOGUE_BYTES:length], crc32(front)) ^ stored


def flips_in_batch(data: bytes | memoryview, offset: int) -> list[Flip]:
    """The flips that make whole the batch that should begin at `offset`: magic, CRCs and end byte all match.

    Whether it then is the batch that belongs there (identity, seq, chain) is for the caller to see.
    """
    if len(data) - offset < BATCH_HEADER_BYTES + TRAILER_BYTES:
        return []
    header = decode_batch_header(data, offset)
    if header is None:
        return [flip for flip in _flips_in_batch_header(data, offset) if _is_whole(data, offset, flip)]
    end = offset + header.total_bytes
    if end > len(data):
        return []
    payload = data[offset + BATCH_HEADER_BYTES : end - TRAILER_BYTES]
    crc_at = end - TRAILER_BYTES
    syndrome = crc32(payload, header.crc) ^ int.from_bytes(data[crc_at : end - 1], "little")
    if syndrome == 0:
        wrong = data[end - 1] ^ END_BYTE
        return [_bit_at(end - 1, wrong)] if wrong.bit_count() == 1 else []
    if data[end - 1] != END_BYTE:
        return []  # that would be a second wrong bit
    found = [_bit_at(crc_at, syndrome)] if syndrome.bit_count() == 1 else []
    place = flip_in(syndrome, header.payload_bytes)
    if place is not None:
        found.append(Flip(offset + BATCH_HEADER_BYTES + place.offset, place.bit))
    return found


def _flips_in_batch_header(data: bytes | memoryview, offset: int) -> list[Flip]:
    magic = int.from_bytes(data[offset : offset + 4], "little") ^ int.from_bytes(BATCH_MAGIC, "little")
    covered = data[offset + 8 : offset + BATCH_HEADER_BYTES]
    stored = int.from_bytes(data[offset + _BATCH_CRC_AT : offset + 8], "little")
    syndrome = crc32(covered) ^ stored
    if magic:
        return [_bit_at(offset, magic)] if magic.bit_count() == 1 and syndrome == 0 else []
    found = [_bit_at(offset + _BATCH_CRC_AT, syndrome)] if syndrome.bit_count() == 1 else []
    place = flip_in(syndrome, len(covered)) if syndrome else None
    if place is not None:
        found.append(Flip(offset + 8 + place.offset, place.bit))
    return found


def _is_whole(data: bytes | memoryview, offset: int, flip: Flip) -> bool:
    """True if nothing else is wrong with the batch: its payload was summed up under the header that this makes."""
    front = Flip(flip.offset - offset, flip.bit).applied_to(data[offset : offset + BATCH_HEADER_BYTES])
    header = decode_batch_header(front, 0)
    if header is None or offset + header.total_bytes > len(data):
        return False
    end = offset + header.total_bytes
    payload = data[offset + BATCH_HEADER_BYTES : end - TRAILER_BYTES]
    stored = int.from_bytes(data[end - TRAILER_BYTES : end - 1], "little")
    return data[end - 1] == END_BYTE and crc32(payload, header.crc) == stored


def _bit_at(offset: int, mask: int) -> Flip:
    """The place of the lowest bit of `mask`, a little-endian integer that is stored at `offset`."""
    bit = (mask & -mask).bit_length() - 1
    return Flip(offset + bit // 8, bit % 8)


# -- the tables -------------------------------------------------------------------------------------------------------


@cache
def _table() -> tuple[int, ...]:
    """What CRC-32's register becomes by one byte, from zero."""
    return tuple(crc32(bytes((value,))) ^ crc32(b"\0") for value in range(256))


@cache
def _places() -> dict[int, Flip]:
    """Syndrome → (bytes behind it, bit) of each bit in the last 4096 bytes of a message."""
    table = _table()
    found = {}
    for bit in range(8):
        syndrome = table[1 << bit]
        for behind in range(_WINDOW_BYTES):
            found[syndrome] = Flip(behind, bit)
            syndrome = syndrome >> 8 ^ table[syndrome & 255]
    return found


@cache
def _back() -> tuple[tuple[int, ...], ...]:
    """Steps a syndrome back over 4096 zero bytes: linear, so one table for each of its four bytes."""
    table = _table()
    by_top = {value >> 24: index for index, value in enumerate(table)}
    columns = []
    for bit in range(32):
        syndrome = 1 << bit
        for _ in range(_WINDOW_BYTES):
            index = by_top[syndrome >> 24]
            syndrome = (syndrome ^ table[index]) << 8 & 0xFFFFFFFF | index
        columns.append(syndrome)
    tables = []
    for byte in range(4):
        values = [0] * 256
        for value in range(1, 256):
            low = value & -value
            values[value] = values[value ^ low] ^ columns[8 * byte + low.bit_length() - 1]
        tables.append(tuple(values))
    return tuple(tables)
