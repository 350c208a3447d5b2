"""A second reader of parity files, written from docs/format.md alone: slow, and by plain arithmetic.

Shares no code with the project's: what both restore, the text describes.
"""

from __future__ import annotations

import hashlib
import struct
import zlib
from itertools import islice

from tests.second_reader import Wrong, read_body


def restore(parity: bytes, damaged: bytes) -> tuple[str, bytes]:
    """The name of the protected file, and its protected bytes put together again."""
    header_length = int.from_bytes(parity[12:16], "little")
    body = read_body(parity[:header_length], 4)
    sha256, length, _last_seq, k, m, block, name_bytes = struct.unpack_from("<32sQQHHIH", body, 16)
    name = body[74 : 74 + name_bytes].decode()
    rows = -(-length // (k * block))
    crcs = [each for (each,) in struct.iter_unpack("<I", body[74 + name_bytes :])]
    if len(crcs) != (k + m) * rows:
        raise Wrong("the header has another number of CRCs")
    if parity[-4:] != struct.pack("<I", header_length) or parity[-4 - header_length : -4] != parity[:header_length]:
        raise Wrong("the header is not repeated at the end")
    protected = damaged[:length].ljust(k * rows * block, b"\0")
    protected += parity[header_length : header_length + m * rows * block]
    shards = [bytearray(protected[at * rows * block : (at + 1) * rows * block]) for at in range(k + m)]
    for row in range(rows):
        low, high = row * block, (row + 1) * block
        good = [each for each in range(k + m) if zlib.crc32(shards[each][low:high]) == crcs[each * rows + row]]
        if len(good) < k:
            raise Wrong("too much is lost")
        known = list(islice(good, k))
        for lost in set(range(k)) - set(good):
            factors = [_factor(known, at, lost) for at in known]
            for offset in range(low, high):
                value = 0
                for shard, factor in zip(known, factors, strict=True):
                    value ^= _times(shards[shard][offset], factor)
                shards[lost][offset] = value
    restored = b"".join(shards[:k])[:length]
    if hashlib.sha256(restored).digest() != sha256:
        raise Wrong("the SHA-256 is another")
    return name, restored


def _factor(known: list[int], mine: int, wanted: int) -> int:
    """Lagrange: what shard `mine` is multiplied by, for the polynomial through `known` at the point of `wanted`."""
    result = 1
    for other in known:
        if other != mine:
            result = _times(result, _times(_point(wanted) ^ _point(other), _inverse(_point(mine) ^ _point(other))))
    return result


def _point(shard: int) -> int:
    value = 1 if shard else 0
    for _ in range(shard - 1):
        value = _times(value, 2)
    return value


def _times(one: int, two: int) -> int:
    """In GF(256) modulo 0x11d, bit by bit."""
    product = 0
    while two:
        if two & 1:
            product ^= one
        one, two = one << 1, two >> 1
        if one & 0x100:
            one ^= 0x11D
    return product


def _inverse(value: int) -> int:
    return next(each for each in range(1, 256) if _times(value, each) == 1)
