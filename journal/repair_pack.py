"""The bytes that a damaged pack had: from the header that stands at both ends, and bit by bit in its blocks.

Pure: bytes in, bytes or nothing out. A block counts with its CRC and its chain, the whole with what the successor says.
"""

from __future__ import annotations

from zlib import crc32

from journal.errors import Corrupt, DataError
from journal.pack import TAIL_BYTES, Block, Pack, damaged_ends, decode_pack, find_pack, header_length
from journal.repair_segment import Mended, Step
from journal.stored import End, is_whole
from journal.syndrome import flip_in, flips_in_header
from journal.unpack import decoder_of, unpack_block


def mend_pack(data: bytes, path: str, wanted: tuple[int, int], end: End | None) -> Mended | None:
    """The pack with its headers and blocks whole, or None. `wanted` is (first seq, epoch) as the file's name has them;
    `end` is what the successor says, None where there is none."""
    found = mend_pack_header(data, path, wanted)
    if found is None:
        return None
    pack, steps = found
    frames = []
    for block in pack.blocks:
        mended = _block(data, pack, block)
        if mended is None:
            return None
        frame, step = mended
        frames.append(frame)
        steps += [step] if step is not None else []
    whole = b"".join((pack.encoded, *frames, pack.encoded, pack.header_bytes.to_bytes(TAIL_BYTES, "little")))
    if not is_whole(whole, path, end or End(pack.end, pack.next_seq, pack.chain)):
        return None
    return Mended(whole, tuple(steps))


def mend_pack_header(data: bytes, path: str, wanted: tuple[int, int]) -> tuple[Pack, list[Step]] | None:
    """The header of the pack, and how the bytes at either end are put right; None where neither can be read."""
    try:
        pack = find_pack(data, path)
    except Corrupt:
        flipped = _flipped_header(data, path)
        if flipped is None:
            return None
        pack, steps = flipped
    else:
        front, behind = data[: pack.header_bytes], data[pack.copy_at :]
        steps = [_copied(pack, error.offset or 0) for error in damaged_ends(front, behind, pack)]
    return (pack, steps) if (pack.header.first_seq, pack.header.epoch) == wanted else None


def _copied(pack: Pack, offset: int) -> Step:
    return Step("copy", offset, pack.header_bytes)


def _flipped_header(data: bytes, path: str) -> tuple[Pack, list[Step]] | None:
    """The header one bit away from what stands at the front, where the copy is damaged as well."""
    for flip in flips_in_header(data):
        tried = flip.applied_to(data)
        try:
            pack = decode_pack(tried[: header_length(tried, len(tried))], path)
        except DataError:
            continue
        return pack, [Step("one bit", flip.offset, 1, flip.bit), _copied(pack, pack.copy_at)]
    return None


def _block(data: bytes, pack: Pack, block: Block) -> tuple[bytes, Step | None] | None:
    """A block's frame, whole as it is or with one bit put right; None where neither is so."""
    frame, decoder = data[block.offset : block.offset + block.length], decoder_of(pack)
    try:
        unpack_block(pack, block, frame, decoder)
        return frame, None
    except Corrupt:
        syndrome = crc32(frame) ^ block.crc
    flip = flip_in(syndrome, block.length) if syndrome and len(frame) == block.length else None
    if flip is None:
        return None
    frame = flip.applied_to(frame)
    try:
        unpack_block(pack, block, frame, decoder)
    except Corrupt:
        return None
    return frame, Step("one bit", block.offset + flip.offset, 1, flip.bit, block.first_seq, block.last_seq)
