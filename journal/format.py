"""Bytes of a segment: constants, byte diagrams, encode and decode. Pure; `docs/format.md` is the norm.

All integers are little-endian. The order of checks is the same everywhere: magic, CRC, version, fields; a length is
bounded before anything is read or allocated by it.

    segment  =  prologue  segment header  batch*  (a clean close, or zeros to the end of the file)
    batch    =  batch header  payload  CRC  end byte
    payload  =  an array of records: `journal.record`
"""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any
from zlib import crc32

import msgspec

from journal.errors import Corrupt, Unsupported
from journal.events import type_dictionary

# Prologue, frozen for all versions of all files:
#
#     0        8         10      12              16          20
#     | magic  | version | kind  | header length | header CRC |
#     |   8    |    2    |   2   |      4        |     4      |
#
# The header length counts from offset 0. The CRC covers bytes 0-16 and 20-header length.

MAGIC = b"\x89AJ\r\n\x1a\n\x00"
VERSION = 1
KIND_SEGMENT = 1
KIND_MANIFEST = 2
KIND_PLAN = 3
KIND_WATERMARK = 5
KIND_PACK = 6
KIND_INDEX = 7
_PROLOGUE = struct.Struct("<8sHHII")
PROLOGUE_BYTES = _PROLOGUE.size
HEADER_BYTES_MAX = 1 << 26

# Segment header, after the prologue:
#
#     journal id 16 | salt 8 | epoch 4 | reserved 4 | first seq 8
#     previous: first seq 8 | epoch 4 | reserved 4 | valid end 8 | chain 32
#     a MessagePack map: {"types": {name: tag}, ...}

_SEGMENT = struct.Struct("<16s8sII Q QII Q 32s".replace(" ", ""))

# Batch header, 96 bytes:
#
#     0       4     8            24     32      36      40          48      52              56            64       96
#     | magic | CRC | journal id | salt | epoch | flags | first seq | count | payload bytes | durable seq | chain |
#     |   4   |  4  |     16     |  8   |   4   |   4   |     8     |   4   |       4       |      8      |  32   |
#
# CRC covers bytes 8-96. `chain` is the previous batch's. After the payload: its CRC (seeded with the header's, so a
# payload never passes under another header) and the end byte, which no unwritten sector can show.

BATCH_MAGIC = b"\xabJB\x01"
_BATCH = struct.Struct("<4sI16s8sIIQIIQ32s")
BATCH_HEADER_BYTES = _BATCH.size
_TRAILER = struct.Struct("<IB")
TRAILER_BYTES = _TRAILER.size
END_BYTE = 0xA5
SECTOR_BYTES = 512

SEQ_MAX = (1 << 63) - 1  # what a column of SQLite holds
PAYLOAD_BYTES_MAX = 1 << 26
BATCH_RECORDS_MAX = 1 << 16

FLAG_CLEAN_CLOSE = 1  # an empty batch: everything up to durable seq was synced, and the writer closed
FLAG_ZERO_SECTORS = 2  # some aligned sector of this batch is blank by its content: zeros prove no tear
BATCH_FLAGS_KNOWN = FLAG_CLEAN_CLOSE | FLAG_ZERO_SECTORS

CHAIN_GENESIS = bytes(32)

@dataclass(frozen=True, slots=True)
class SegmentHeader:
    """What a segment says of itself and of the one before it.

    ``previous_end`` is the offset where the previous segment's valid bytes end; what lies past it is void for ever.
    """

    journal_id: bytes
    salt: bytes
    epoch: int
    first_seq: int
    previous_first_seq: int
    previous_epoch: int
    previous_end: int
    previous_chain: bytes
    types: Mapping[str, int] = field(default_factory=type_dictionary)
    extra: dict[str, Any] = field(default_factory=dict)


class BatchHeader(msgspec.Struct, frozen=True, gc=False):  # one a batch: a frozen dataclass is 20 times as slow
    """One batch's header. ``previous_chain`` is the chain before it, ``durable_seq`` the last seq known synced."""

    journal_id: bytes
    salt: bytes
    epoch: int
    flags: int
    first_seq: int
    count: int
    payload_bytes: int
    durable_seq: int
    previous_chain: bytes
    crc: int

    @property
    def last_seq(self) -> int:
        return self.first_seq + self.count - 1

    @property
    def total_bytes(self) -> int:
        """Header, payload and trailer."""
        return BATCH_HEADER_BYTES + self.payload_bytes + TRAILER_BYTES


def next_chain(previous: bytes, first_seq: int, count: int, payload: bytes | memoryview) -> bytes:
    """SHA-256 over previous chain, first seq, count and the canonical records. 32 bytes.

    Logical bytes only: an empty batch leaves the chain as it is, and framing or compression never enter it.
    """
    if count == 0:
        return previous
    digest = hashlib.sha256(previous)
    digest.update(_CHAIN.pack(first_seq, count))
    digest.update(payload)
    return digest.digest()


_CHAIN = struct.Struct("<QI")


# -- prologue ---------------------------------------------------------------------------------------------------------


def encode_header(kind: int, body: bytes) -> bytes:
    """Prologue and body, as the start of a file."""
    length = PROLOGUE_BYTES + len(body)
    front = _PROLOGUE.pack(MAGIC, VERSION, kind, length, 0)[:16]
    return front + crc32(body, crc32(front)).to_bytes(4, "little") + body


def decode_header(data: bytes | memoryview, kind: int, path: str) -> bytes:
    """The body behind a prologue. Raises Corrupt, or Unsupported for a newer version or another kind."""
    return bytes(view_header(data, kind, path))


def view_header(data: bytes | memoryview, kind: int, path: str) -> memoryview:
    """As `decode_header`, where a body is long and need not be copied."""
    if len(data) < PROLOGUE_BYTES:
        raise Corrupt("file is shorter than its prologue", path=path, offset=len(data))
    magic, version, found_kind, length, crc = _PROLOGUE.unpack_from(data)
    if magic != MAGIC:
        raise Corrupt("magic is wrong: not a file of this journal", path=path, offset=0)
    if not PROLOGUE_BYTES <= length <= min(HEADER_BYTES_MAX, len(data)):
        raise Corrupt(f"header length {length} is out of bounds", path=path, offset=12)
    body = memoryview(data)[PROLOGUE_BYTES:length]
    if crc32(body, crc32(data[:16])) != crc:
        raise Corrupt("header CRC does not match", path=path, offset=16)
    if version > VERSION:
        raise Unsupported(
            f"format version {version} is newer than {VERSION}", path=path, hint="upgrade agent-journal"
        )
    if version < 1 or found_kind != kind:
        raise Corrupt(f"version {version}, kind {found_kind} where kind {kind} belongs", path=path, offset=8)
    return body


def decode_file(data: bytes | memoryview, kind: int, path: str) -> bytes:
    """As `decode_header`, of a file that is nothing but prologue and body: what follows them is damage."""
    return bytes(view_file(data, kind, path))


def view_file(data: bytes | memoryview, kind: int, path: str) -> memoryview:
    """As `decode_file`, where a body is long and need not be copied."""
    body = view_header(data, kind, path)
    end = PROLOGUE_BYTES + len(body)
    if len(data) != end:
        raise Corrupt(f"{len(data) - end} bytes follow the end of the file's content", path=path, offset=end)
    return body


# -- segment header ---------------------------------------------------------------------------------------------------


def encode_segment_header(header: SegmentHeader) -> bytes:
    fixed = _SEGMENT.pack(
        header.journal_id,
        header.salt,
        header.epoch,
        0,
        header.first_seq,
        header.previous_first_seq,
        header.previous_epoch,
        0,
        header.previous_end,
        header.previous_chain,
    )
    return encode_header(KIND_SEGMENT, fixed + msgspec.msgpack.encode({"types": header.types, **header.extra}))


def decode_segment_header(data: bytes | memoryview, path: str) -> tuple[SegmentHeader, int]:
    """The header and the offset where batches begin. Raises Corrupt or Unsupported."""
    body = decode_header(data, KIND_SEGMENT, path)
    return decode_segment_body(body, path), PROLOGUE_BYTES + len(body)


def decode_segment_body(body: bytes, path: str) -> SegmentHeader:
    """The header that follows a segment's prologue, or that a packed segment carries. Raises Corrupt."""
    if len(body) < _SEGMENT.size:
        raise Corrupt("segment header is too short", path=path, offset=PROLOGUE_BYTES)
    journal_id, salt, epoch, _, first, prev_first, prev_epoch, _, prev_end, prev_chain = _SEGMENT.unpack_from(body)
    try:
        extra = msgspec.msgpack.decode(body[_SEGMENT.size :], type=dict[str, Any])
        types = msgspec.convert(extra.pop("types"), dict[str, int])
        durable_seq = msgspec.convert(extra.get("durable_seq", 0), int)
    except (msgspec.MsgspecError, KeyError, RecursionError, ValueError, TypeError) as error:
        raise Corrupt(f"segment header cannot be decoded: {error}", path=path, offset=PROLOGUE_BYTES) from error
    if not (0 < first <= SEQ_MAX and prev_first <= SEQ_MAX and prev_end <= SEQ_MAX and 0 <= durable_seq <= SEQ_MAX):
        raise Corrupt("a number in the segment header is out of bounds", path=path, offset=PROLOGUE_BYTES)
    return SegmentHeader(
        journal_id, salt, epoch, first, prev_first, prev_epoch, prev_end, prev_chain, types, extra
    )


# -- batch ------------------------------------------------------------------------------------------------------------


def encode_batch(
    segment: SegmentHeader,
    *,
    epoch: int,
    flags: int,
    first_seq: int,
    count: int,
    payload: bytes | memoryview,
    durable_seq: int,
    previous_chain: bytes,
    offset: int,
) -> bytes:
    """A whole batch as it goes to the disk at `offset` of its segment."""
    header = _BATCH.pack(
        BATCH_MAGIC, 0, segment.journal_id, segment.salt, epoch, flags, first_seq, count, len(payload), durable_seq,
        previous_chain,
    )  # fmt: skip
    if has_blank_sector(offset + BATCH_HEADER_BYTES, payload):
        header = _BATCH.pack(
            BATCH_MAGIC, 0, segment.journal_id, segment.salt, epoch, flags | FLAG_ZERO_SECTORS, first_seq, count,
            len(payload), durable_seq, previous_chain,
        )  # fmt: skip
    crc = crc32(memoryview(header)[8:])
    return b"".join(
        (header[:4], crc.to_bytes(4, "little"), header[8:], payload, _TRAILER.pack(crc32(payload, crc), END_BYTE))
    )


def clean_close(segment: SegmentHeader, next_seq: int, chain: bytes) -> bytes:
    """The empty batch that ends a segment: everything before it was synced."""
    return encode_batch(
        segment, epoch=segment.epoch, flags=FLAG_CLEAN_CLOSE, first_seq=next_seq, count=0, payload=b"",
        durable_seq=next_seq - 1, previous_chain=chain, offset=0,
    )  # fmt: skip


def decode_batch_header(data: bytes | memoryview, offset: int) -> BatchHeader | None:
    """The batch header at `offset`, or None where its magic, CRC or bounds are wrong."""
    if len(data) - offset < BATCH_HEADER_BYTES or data[offset : offset + 4] != BATCH_MAGIC:
        return None
    (_, crc, journal_id, salt, epoch, flags, first_seq, count, payload_bytes, durable_seq, chain) = (
        _BATCH.unpack_from(data, offset)
    )
    if crc32(data[offset + 8 : offset + BATCH_HEADER_BYTES]) != crc:
        return None
    if payload_bytes > PAYLOAD_BYTES_MAX or count > BATCH_RECORDS_MAX or first_seq + count > SEQ_MAX:
        return None
    return BatchHeader(
        journal_id, salt, epoch, flags, first_seq, count, payload_bytes, durable_seq, chain, crc
    )


def trailer_matches(header: BatchHeader, payload: memoryview, trailer: bytes | memoryview) -> bool:
    """True if the payload is the one that was written under this header."""
    crc, end = _TRAILER.unpack(trailer)
    return bool(end == END_BYTE and crc32(payload, header.crc) == crc)


# A blank sector has at most one byte that is not zero, so one flipped bit may turn it into zeros. Of two runs of zeros
# around that byte the longer has this many, the CRC's part of the sector not counted.
_BLANK_RUN = bytes((SECTOR_BYTES - 1 - 4) // 2)


def has_blank_sector(offset: int, payload: bytes | memoryview) -> bool:
    """True if some sector between header and end byte of a batch is blank; its payload begins at `offset`.

    The CRC, which is not known yet, counts as zeros.
    """
    payload = bytes(payload)
    if payload.find(_BLANK_RUN) < 0:
        return False
    data = payload + bytes(4)
    sectors = range(-offset % SECTOR_BYTES, len(data) - SECTOR_BYTES + 1, SECTOR_BYTES)
    return any(data.count(0, sector, sector + SECTOR_BYTES) >= SECTOR_BYTES - 1 for sector in sectors)
