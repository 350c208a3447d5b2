"""The reference digest, version 1, written out from its definition, MessagePack included.

Knows the canonical form and nothing else; shares no line with the digest of memory.db.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping, Sequence
from hashlib import sha256

TABLES = ("entities", "observations", "relations", "messages", "agents")
BUCKET_IDS = 1024


def state_digest(tables: Mapping[str, Sequence[tuple[int, tuple[object, ...]]]]) -> str:
    """SHA-256 over the tables, each given as (id, row) pairs; rows of the same id stay in their order."""
    whole = sha256(b"agent-journal state digest v1\n")
    for name in TABLES:
        buckets: dict[int, list[bytes]] = {}
        for row_id, row in sorted(tables[name], key=lambda pair: pair[0]):
            buckets.setdefault(row_id // BUCKET_IDS, []).append(packed(tuple(row)))
        table = sha256()
        for number in sorted(buckets):
            leaf = sha256(b"".join(buckets[number]))
            table.update(number.to_bytes(8, "little") + leaf.digest())
        whole.update(name.encode() + b"\0" + table.digest())
    return whole.hexdigest()


def packed(value: object) -> bytes:
    """MessagePack, each value in its shortest form; a float is always float64."""
    match value:
        case None:
            return b"\xc0"
        case int():
            for low, high, prefix, size in _INTEGERS:
                if low <= value <= high:
                    return prefix + value.to_bytes(size, "big", signed=low < 0)
            raise OverflowError(value)
        case float():
            return struct.pack(">Bd", 0xCB, value)
        case str():
            data = value.encode()
            return (bytes([0xA0 | len(data)]) if len(data) < 32 else _length(0xD9, len(data))) + data
        case bytes():
            return _length(0xC4, len(value)) + value
        case tuple():
            assert len(value) < 16
            return bytes([0x90 | len(value)]) + b"".join(map(packed, value))
    raise TypeError(type(value))


_INTEGERS = (
    (0, 0x7F, b"", 1),
    (-0x20, -1, b"", 1),
    (0, 0xFF, b"\xcc", 1),
    (0, 0xFFFF, b"\xcd", 2),
    (0, 0xFFFF_FFFF, b"\xce", 4),
    (0, 0xFFFF_FFFF_FFFF_FFFF, b"\xcf", 8),
    (-0x80, -1, b"\xd0", 1),
    (-0x8000, -1, b"\xd1", 2),
    (-0x8000_0000, -1, b"\xd2", 4),
    (-0x8000_0000_0000_0000, -1, b"\xd3", 8),
)


def _length(first_code: int, length: int) -> bytes:
    """The code and length of a str or bin: in one byte, two or four."""
    for step, size in enumerate((1, 2, 4)):
        if length < 1 << 8 * size:
            return bytes([first_code + step]) + length.to_bytes(size, "big")
    raise OverflowError(length)
