"""Bytes of a parity file: its header, and which bytes of the protected file stand in which shard. Pure.

    parity file  =  header  parity shards  header again  header length (4)

The protected file is cut into k data shards of equal length, each a run of consecutive bytes; m parity shards are made
of them, row by row of one block a shard. Every block has a CRC-32 in the header, so it is known which are bad, and of
the k + m blocks of a row any m may be. Shards are runs and rows go across, so a run of up to m/k of the file may be
lost, or m blocks of each row wherever they lie. `docs/format.md` is the norm.
"""

from __future__ import annotations

import struct
from array import array
from dataclasses import dataclass
from math import ceil
from sys import byteorder

from journal.errors import Corrupt
from journal.format import HEADER_BYTES_MAX, PROLOGUE_BYTES, decode_header, encode_header
from journal.parity_code import SHARDS_MAX

KIND_PARITY = 4
SHARE = 0.125
BLOCK_BYTES = 4096
BLOCK_BYTES_MAX = 1 << 16
SECTOR_BYTES = 512
DATA_SHARDS_MAX = 16  # of what this program writes
NAME_BYTES_MAX = 255
FILE_BYTES_MAX = 1 << 36

# Body of the header:
#
#     journal id 16 | SHA-256 of the protected bytes 32 | their length 8 | last seq 8 | data shards 2 | parity shards 2
#     block bytes 4 | name bytes 2 | name | CRC-32 of each block, shard by shard, 4 each

_BODY = struct.Struct("<16s32sQQHHIH")
TAIL_BYTES = 4


@dataclass(frozen=True, slots=True)
class Shape:
    """How `length` protected bytes are cut: k data shards and m parity shards of `rows` blocks each."""

    length: int
    data_shards: int
    parity_shards: int
    block_bytes: int

    @property
    def rows(self) -> int:
        return ceil(self.length / (self.data_shards * self.block_bytes))

    @property
    def shard_bytes(self) -> int:
        return self.rows * self.block_bytes

    @property
    def shards(self) -> int:
        return self.data_shards + self.parity_shards

    @property
    def blocks(self) -> int:
        return self.shards * self.rows

    def offset_of(self, shard: int, row: int) -> int:
        """Where a data shard's block begins in the protected file, or a parity shard's behind the header."""
        number = shard if shard < self.data_shards else shard - self.data_shards
        return number * self.shard_bytes + row * self.block_bytes


@dataclass(frozen=True, slots=True)
class ParityHeader:
    """What a parity file says of itself. ``name`` is the protected file's, relative to the journal's directory.

    ``last_seq`` is the last seq that a protected segment holds, or held before it; 0 for other files. ``crcs`` has one
    entry a block: that of shard s and row r at ``s * rows + r``. Bytes beyond the protected length count as zeros.
    """

    journal_id: bytes
    sha256: bytes
    name: str
    last_seq: int
    shape: Shape
    crcs: array[int]

    def crc_of(self, shard: int, row: int) -> int:
        return self.crcs[shard * self.shape.rows + row]


def shape_for(length: int, share: float = SHARE) -> Shape:
    """The shape for a file of `length` bytes (at least 1), of which `share` (0 to 1, rounded up) may be lost.

    A block is what a disk loses at once: a page of 4 KiB, in a shorter file its sectors. So a small file has few
    shards, and one of a single block is simply there twice.
    """
    block = BLOCK_BYTES if length >= BLOCK_BYTES else ceil(length / SECTOR_BYTES) * SECTOR_BYTES
    data = min(DATA_SHARDS_MAX, ceil(length / block))
    parity = max(1, ceil(share * data - 1e-9))
    return Shape(length, data, parity, block)


def encode_parity_header(header: ParityHeader) -> bytes:
    """Prologue and body."""
    name, shape = header.name.encode(), header.shape
    fixed = _BODY.pack(
        header.journal_id, header.sha256, shape.length, header.last_seq, shape.data_shards, shape.parity_shards,
        shape.block_bytes, len(name),
    )  # fmt: skip
    return encode_header(KIND_PARITY, fixed + name + _swapped(header.crcs).tobytes())


def header_bytes(name: str, shape: Shape) -> int:
    """How long the header of such a file is."""
    return PROLOGUE_BYTES + _BODY.size + len(name.encode()) + 4 * shape.blocks


def decode_parity_header(data: bytes, path: str) -> ParityHeader:
    """Raises Corrupt, or Unsupported for a newer version; lengths are bounded before anything is made by them."""
    body = decode_header(data, KIND_PARITY, path)
    if len(body) < _BODY.size:
        raise Corrupt("parity header is too short", path=path, offset=PROLOGUE_BYTES)
    journal_id, sha256, length, last_seq, k, m, block, name_bytes = _BODY.unpack_from(body)
    shape = Shape(length, k, m, block)
    if not (
        1 <= length <= FILE_BYTES_MAX
        and k >= 1
        and m >= 1
        and k + m <= SHARDS_MAX
        and SECTOR_BYTES <= block <= BLOCK_BYTES_MAX
        and block % SECTOR_BYTES == 0
        and name_bytes <= NAME_BYTES_MAX
        and len(body) == _BODY.size + name_bytes + 4 * shape.blocks <= HEADER_BYTES_MAX
    ):
        raise Corrupt("parity header is out of bounds", path=path, offset=PROLOGUE_BYTES)
    try:
        name = body[_BODY.size : _BODY.size + name_bytes].decode()
    except UnicodeDecodeError:
        raise Corrupt("the name in the parity header is no text", path=path, offset=PROLOGUE_BYTES) from None
    crcs = array("I")
    crcs.frombytes(body[_BODY.size + name_bytes :])
    return ParityHeader(journal_id, sha256, name, last_seq, shape, _swapped(crcs))


def _swapped(crcs: array[int]) -> array[int]:
    """Between the machine's order of bytes and the file's, which is little-endian."""
    if byteorder == "big":
        crcs = crcs[:]
        crcs.byteswap()
    return crcs
