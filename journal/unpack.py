"""Packed blocks → batches, and the bytes that they had in their segment. Pure.

The only decoder of blocks. What it gives out was proven: by the CRC of the frame, and by the chain, which is computed
over every payload and must be what the header says stands behind the block. Nothing is allocated by what a frame
claims of itself.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple
from zlib import crc32

from journal.errors import Corrupt
from journal.format import (
    BATCH_HEADER_BYTES,
    BATCH_RECORDS_MAX,
    PAYLOAD_BYTES_MAX,
    TRAILER_BYTES,
    encode_batch,
    next_chain,
)
from journal.pack import BATCH, BODY_BYTES_MAX, COUNT, HINT, Block, Pack, damaged_ends, find_pack
from journal.record import RecordDecoder
from journal.scan import Batch

_FRAMING_BYTES = BATCH_HEADER_BYTES + TRAILER_BYTES


class Wound(NamedTuple):
    """A part of a pack that cannot be read: where it lies in the file, and why. ``block`` is None for a header."""

    offset: int
    length: int
    error: Corrupt
    block: Block | None


# -- unpacking --------------------------------------------------------------------------------------------------------


def unpack_block(pack: Pack, block: Block, frame: bytes | memoryview, decoder: RecordDecoder) -> list[Batch]:
    """The batches of a block, proven by its CRC and by the chain. Raises Corrupt, which names its seqs."""
    if len(frame) != block.length:
        raise damage(pack, block, "the file ends inside it")
    if crc32(frame) != block.crc:
        raise damage(pack, block, "it does not match its CRC")
    body = memoryview(_decompressed(pack, block, frame))
    count = COUNT.unpack_from(body)[0] if len(body) >= COUNT.size else 0
    at = COUNT.size + count * BATCH.size
    if not 0 < count <= block.last_seq - block.first_seq + 1 or at > len(body):
        raise damage(pack, block, "its table of batches is out of bounds")
    batches = []
    first_seq, chain, offset = block.first_seq, block.previous_chain, block.start
    for records, length, epoch, lag in BATCH.iter_unpack(body[COUNT.size : at]):
        payload = body[at : at + length]
        possible = 0 < records <= BATCH_RECORDS_MAX and len(payload) == length <= PAYLOAD_BYTES_MAX
        if not possible or epoch > pack.header.epoch:
            raise damage(pack, block, "a batch in it is out of bounds")
        before, chain = chain, next_chain(chain, first_seq, records, payload)
        durable_seq, end = (first_seq - 1 - lag) % (1 << 64), offset + length + _FRAMING_BYTES
        batches.append(Batch(first_seq, records, epoch, durable_seq, before, chain, payload, offset, end, decoder))
        first_seq, at, offset = first_seq + records, at + length, end
    if (at, first_seq, offset) != (len(body), block.last_seq + 1, block.end):
        raise damage(pack, block, "its batches are not those that the header names")
    if chain != block.chain:
        raise damage(pack, block, "the chain does not continue")
    return batches


def _decompressed(pack: Pack, block: Block, frame: bytes | memoryview) -> bytes:
    """The frame's content, of the length that the header says. A frame that claims another is not decompressed."""
    import zstandard

    try:
        claimed = zstandard.get_frame_parameters(frame)
        if claimed.content_size != block.body_bytes or claimed.dict_id or claimed.window_size > BODY_BYTES_MAX:
            raise damage(pack, block, "its frame claims another length")
        return zstandard.ZstdDecompressor().decompress(
            frame, max_output_size=block.body_bytes, read_across_frames=False, allow_extra_data=False
        )
    except zstandard.ZstdError as error:
        raise damage(pack, block, f"it cannot be decompressed ({error})") from None


def damage(pack: Pack, block: Block, reason: str) -> Corrupt:
    """The error for a block that cannot be read: names the file, the offset in it and the events."""
    many = block.last_seq > block.first_seq
    events = f"events {block.first_seq}-{block.last_seq}" if many else f"event {block.first_seq}"
    return Corrupt(
        f"a block of {block.length} bytes is damaged: {reason}; {events} cannot be read",
        path=pack.path, offset=block.offset, seq=block.first_seq, hint=HINT,
    )  # fmt: skip


def framed(pack: Pack, batches: Sequence[Batch]) -> bytes:
    """The bytes that these batches have in the segment."""
    return b"".join(
        encode_batch(
            pack.header, epoch=each.epoch, flags=0, first_seq=each.first_seq, count=each.count, payload=each.payload,
            durable_seq=each.durable_seq, previous_chain=each.previous_chain, offset=each.offset,
        )
        for each in batches
    )  # fmt: skip


def decoder_of(pack: Pack) -> RecordDecoder:
    """For all blocks of a pack."""
    return RecordDecoder(pack.header.types, pack.path)


def unpack(data: bytes | memoryview, path: str) -> bytes:
    """The segment's bytes up to its valid end. Raises Corrupt for any damage, Unsupported for a newer version."""
    segment, problems = unpack_what_is_whole(data, path)
    if problems:
        raise problems[0].error
    return segment


def unpack_what_is_whole(data: bytes | memoryview, path: str) -> tuple[bytes, list[Wound]]:
    """The segment's bytes with zeros where a block is damaged, and all that is wrong with the file.

    Raises Corrupt where neither header can be read, Unsupported for a newer version.
    """
    view = memoryview(data)
    pack = find_pack(view, path)
    wrong = damaged_ends(bytes(view[: pack.header_bytes]), bytes(view[pack.copy_at :]), pack)
    wounds = [Wound(error.offset or 0, pack.header_bytes, error, None) for error in wrong]
    decoder, parts = decoder_of(pack), [pack.head]
    for block in pack.blocks:
        try:
            batches = unpack_block(pack, block, view[block.offset : block.offset + block.length], decoder)
            parts.append(framed(pack, batches))
        except Corrupt as error:
            wounds.append(Wound(block.offset, block.length, error, block))
            parts.append(bytes(block.end - block.start))
    return b"".join((*parts, pack.mark)), wounds
