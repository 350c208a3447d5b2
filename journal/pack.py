"""Bytes of a packed segment: the batches of a sealed one in compressed blocks. Pure; `docs/format.md` is the norm.

A pack holds the bytes of its segment up to the valid end, nothing more and nothing less: unpacking gives them back one
by one. What follows from the rest is left out (journal id, salt, chains, CRCs, end bytes) and made again. A block is
proven by itself: its CRC first, then the chain, from what the header says stands before it to what stands behind.

    pack    =  header  frame*  header again  header length (4 bytes)
    header  =  prologue of kind 6  fixed part  segment header  block entry*
    frame   =  zstd( count of batches  batch entry*  payload* )

The header stands at both ends, since without it no block can be found. Knows bytes; not where they lie.
"""

from __future__ import annotations

import struct
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple
from zlib import crc32

from journal.errors import Corrupt, DataError, Unsupported
from journal.format import (
    BATCH_RECORDS_MAX,
    HEADER_BYTES_MAX,
    KIND_PACK,
    KIND_SEGMENT,
    PAYLOAD_BYTES_MAX,
    PROLOGUE_BYTES,
    SEQ_MAX,
    SegmentHeader,
    clean_close,
    decode_header,
    decode_segment_body,
    decode_segment_header,
    encode_header,
)
from journal.scan import Batch, Scanner

# Fixed part, after the prologue:
#
#     0           8          16      48                    52       56      60
#     | valid end | next seq | chain | segment header bytes | blocks | flags | segment header | block entries
#     |     8     |    8     |  32   |          4           |   4    |   4   |
#
# `next seq` and `chain` are those at the valid end. The one flag: a clean close lies before it.

_FIXED = struct.Struct("<QQ32sIII")
_CLOSED = 1

# Block entry; where a block begins, in the pack and in the segment, follows from those before it:
#
#     0             4            8         12              16          20             52
#     | frame bytes | body bytes | records | segment bytes | frame CRC | chain before |
#     |      4      |     4      |    4    |       4       |     4     |      32      |

_ENTRY = struct.Struct("<IIIII32s")

# A block's body, and in it a batch entry; `lag` is first seq - 1 - durable seq:
#
#     | batches 4 | batch entries 20 each | payloads |          | records 4 | payload bytes 4 | epoch 4 | lag 8 |

COUNT = struct.Struct("<I")
BATCH = struct.Struct("<IIIQ")

TAIL_BYTES = 4  # the header's length, as the last thing of the file
BLOCK_RECORDS = 1000
BLOCK_PAYLOAD_BYTES = 256 << 10
BODY_BYTES_MAX = PAYLOAD_BYTES_MAX + (2 << 20)  # a batch of the greatest length, or a table of the most batches
SEGMENT_BYTES_LIMIT = 5 << 28  # as no file of a journal is longer
LEVEL = 12  # zstd's: 15 takes twice the time for 3 %

HINT = "journal verify --repair restores it where it can; journal recover --from DIR brings a backup back"


class Block(NamedTuple):
    """One block: `offset` and `length` in the pack; its seqs, bytes and chains in the segment."""

    offset: int
    length: int
    body_bytes: int
    crc: int
    first_seq: int
    last_seq: int
    start: int
    end: int
    previous_chain: bytes
    chain: bytes


@dataclass(frozen=True, slots=True)
class Pack:
    """What the header of a pack says; ``encoded`` is the header itself.

    ``head`` are the segment's bytes up to its first batch, ``mark`` those of a clean close behind the last; ``end``,
    ``next_seq`` and ``chain`` are those of its valid end.
    """

    path: str
    header: SegmentHeader
    head: bytes
    end: int
    next_seq: int
    chain: bytes
    blocks: tuple[Block, ...]
    encoded: bytes
    mark: bytes

    @property
    def header_bytes(self) -> int:
        return len(self.encoded)

    @property
    def copy_at(self) -> int:
        """Where the header's copy begins: behind the last block."""
        return self.blocks[-1].offset + self.blocks[-1].length if self.blocks else self.header_bytes

    def block_at(self, offset: int) -> int:
        """Index of the block that holds this offset of the segment, which lies behind `head` and before the end."""
        return bisect_right(self.blocks, offset, key=lambda block: block.start) - 1


# -- packing ----------------------------------------------------------------------------------------------------------


def encode_pack(data: bytes | memoryview, path: str) -> bytes:
    """The pack of a segment's bytes up to its valid end. Raises DataError unless whole batches fill them to there."""
    import zstandard

    header, start = decode_segment_header(data, path)
    scanner = Scanner(data, start, header, path)
    compress = zstandard.ZstdCompressor(level=LEVEL, write_checksum=False).compress
    entries, frames = [], []
    for run in _runs(scanner):
        body = _body_of(run)
        frame = compress(body)
        records, length = sum(batch.count for batch in run), run[-1].end - run[0].offset
        entries.append(_ENTRY.pack(len(frame), len(body), records, length, crc32(frame), run[0].previous_chain))
        frames.append(frame)
    if scanner.offset != len(data):
        raise Corrupt("what is no batch cannot be packed", path=path, offset=scanner.offset)
    head, flags = bytes(data[PROLOGUE_BYTES:start]), _CLOSED if scanner.closed else 0
    fixed = _FIXED.pack(len(data), scanner.next_seq, scanner.chain, len(head), len(entries), flags)
    front = encode_header(KIND_PACK, fixed + head + b"".join(entries))
    return b"".join((front, *frames, front, len(front).to_bytes(TAIL_BYTES, "little")))


def _runs(batches: Iterator[Batch] | Scanner) -> Iterator[list[Batch]]:
    """Batches, as many as a block takes. A batch that is longer has one for itself."""
    run: list[Batch] = []
    records = length = 0
    for batch in batches:
        if run and (records + batch.count > BLOCK_RECORDS or length + len(batch.payload) > BLOCK_PAYLOAD_BYTES):
            yield run
            run, records, length = [], 0, 0
        run.append(batch)
        records, length = records + batch.count, length + len(batch.payload)
    if run:
        yield run


def _body_of(run: Sequence[Batch]) -> bytes:
    table = [
        BATCH.pack(each.count, len(each.payload), each.epoch, (each.first_seq - 1 - each.durable_seq) % (1 << 64))
        for each in run
    ]
    return b"".join((COUNT.pack(len(run)), *table, *(each.payload for each in run)))


# -- the header -------------------------------------------------------------------------------------------------------


def decode_pack(data: bytes | memoryview, path: str) -> Pack:
    """The header of a pack, from its first bytes or from those of its copy. Raises Corrupt or Unsupported."""
    body = decode_header(data, KIND_PACK, path)
    if len(body) < _FIXED.size:
        raise Corrupt("header of the pack is too short", path=path, offset=PROLOGUE_BYTES)
    end, next_seq, chain, head_bytes, count, flags = _FIXED.unpack_from(body)
    if flags & ~_CLOSED:
        raise Unsupported("a flag of the pack is not known to this version", path=path, hint="upgrade agent-journal")
    at = _FIXED.size + head_bytes
    if len(body) != at + count * _ENTRY.size:
        raise Corrupt("header of the pack has another length than it says", path=path, offset=PROLOGUE_BYTES)
    segment = body[_FIXED.size : at]
    header = decode_segment_body(segment, path)
    blocks = tuple(_blocks(body[at:], header, len(body) + PROLOGUE_BYTES, PROLOGUE_BYTES + head_bytes, chain))
    encoded = bytes(data[: PROLOGUE_BYTES + len(body)])
    if not (end <= SEGMENT_BYTES_LIMIT and 0 < next_seq <= SEQ_MAX):
        raise Corrupt("a number in the header of the pack is out of bounds", path=path, offset=PROLOGUE_BYTES)
    mark = clean_close(header, next_seq, chain) if flags else b""
    pack = Pack(path, header, encode_header(KIND_SEGMENT, segment), end, next_seq, chain, blocks, encoded, mark)
    last = blocks[-1] if blocks else None
    ends = (last.end, last.last_seq + 1) if last else (len(pack.head), header.first_seq)
    if (end - len(mark), next_seq) != ends:
        raise Corrupt("header of the pack contradicts itself", path=path, offset=PROLOGUE_BYTES)
    if any(not _is_possible(block) for block in blocks):
        raise Corrupt("a number in the header of the pack is out of bounds", path=path, offset=PROLOGUE_BYTES)
    return pack


def _blocks(entries: bytes, header: SegmentHeader, offset: int, start: int, chain: bytes) -> Iterator[Block]:
    found = list(_ENTRY.iter_unpack(entries))
    chains = [*(each[-1] for each in found[1:]), chain]
    first_seq = header.first_seq
    for (length, body_bytes, records, segment_bytes, crc, before), after in zip(found, chains, strict=False):
        end, last_seq = start + segment_bytes, first_seq + records - 1
        yield Block(offset, length, body_bytes, crc, first_seq, last_seq, start, end, before, after)
        offset, start, first_seq = offset + length, end, last_seq + 1


def _is_possible(block: Block) -> bool:
    records = block.last_seq - block.first_seq + 1
    return 0 < records <= BATCH_RECORDS_MAX and block.length > 0 and 0 < block.body_bytes <= BODY_BYTES_MAX


def header_length(front: bytes | memoryview, size: int) -> int:
    """How many bytes the header that begins so claims, where a file of `size` bytes has room for it twice; else 0."""
    if len(front) < PROLOGUE_BYTES:
        return 0
    length = int.from_bytes(front[12:16], "little")
    return length if PROLOGUE_BYTES <= length <= min(HEADER_BYTES_MAX, (size - TAIL_BYTES) // 2) else 0


def find_pack(data: bytes | memoryview, path: str) -> Pack:
    """The header of a whole file, or its copy where the header is damaged. Raises what the header itself raises."""
    try:
        return decode_pack(data, path)
    except DataError as error:
        length = int.from_bytes(data[-TAIL_BYTES:], "little")
        at = len(data) - TAIL_BYTES - length
        if not PROLOGUE_BYTES <= length <= at:
            raise
        try:
            return decode_pack(data[at:-TAIL_BYTES], path)
        except DataError:
            raise error from None


def damaged_ends(front: bytes, behind: bytes, pack: Pack) -> list[Corrupt]:
    """What is wrong with the header and with what lies behind the last block of a file in which `pack` was found."""
    found = []
    copy = pack.encoded + pack.header_bytes.to_bytes(TAIL_BYTES, "little")
    if front != pack.encoded:
        told = "the header of the pack is damaged; its copy at the end is whole"
        found.append(Corrupt(told, path=pack.path, offset=0, hint=HINT))
    if behind[: len(copy)] != copy:
        told = "the copy of the pack's header at its end is damaged"
        found.append(Corrupt(told, path=pack.path, offset=pack.copy_at, hint=HINT))
    if len(behind) > len(copy):
        told = f"{len(behind) - len(copy)} bytes follow the end of the pack"
        found.append(Corrupt(told, path=pack.path, offset=pack.copy_at + len(copy), hint=HINT))
    return found
