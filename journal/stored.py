"""A segment as it is stored, plain or packed, read as the bytes that its writer synced.

Whoever reads segments does it through this, and need not know which of the two lies there: offsets and lengths are
those of the segment. Where a segment is packed while somebody reads, a name that was listed before still opens.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Iterator
from typing import NamedTuple

from journal.errors import Corrupt
from journal.format import PROLOGUE_BYTES, SegmentHeader, decode_segment_header
from journal.pack import HINT, SEGMENT_BYTES_LIMIT, Pack, damaged_ends, decode_pack, find_pack, header_length
from journal.scan import Batch, Scanner
from journal.segment import is_packed, packed_path
from journal.storage import File, Readable, Storage
from journal.unpack import decoder_of, framed, unpack, unpack_block

_HEADER_BYTES = 64 << 10
_FRONT_BYTES = 4 << 10  # nearly every header is under a KiB


class End(NamedTuple):
    """Where a segment ends by what its successor says: offset in the segment, the seq that comes next, the chain."""

    offset: int
    next_seq: int
    chain: bytes


class PackedFile:
    """A pack, open for reading, as if it were its segment. Keeps the block that was read last."""

    __slots__ = ("_decoder", "_file", "_known", "pack")

    def __init__(self, file: File, path: str) -> None:
        self._file = file
        self.pack = _read_header(file, path)
        self._decoder = decoder_of(self.pack)
        self._known: tuple[int, bytes] = (-1, b"")

    def read_at(self, offset: int, length: int) -> bytes:
        """As of the segment. Raises Corrupt where a block that is asked for is damaged."""
        pack, end = self.pack, min(offset + length, self.pack.end)
        parts = [pack.head[offset:end]]
        at, mark_at = max(offset, len(pack.head)), pack.end - len(pack.mark)
        while at < min(end, mark_at):
            number = pack.block_at(at)
            block = pack.blocks[number]
            parts.append(self._block(number)[at - block.start : end - block.start])
            at = block.end
        parts.append(pack.mark[max(offset - mark_at, 0) : max(end - mark_at, 0)])
        return b"".join(parts)

    def _block(self, number: int) -> bytes:
        if self._known[0] != number:
            self._known = (number, framed(self.pack, self.batches_of(number)))
        return self._known[1]

    def batches_of(self, number: int) -> list[Batch]:
        """The batches of one block. Raises Corrupt where it is damaged."""
        block = self.pack.blocks[number]
        return unpack_block(self.pack, block, self._file.read_at(block.offset, block.length), self._decoder)

    def damaged_ends(self) -> list[Corrupt]:
        """What is wrong with the two headers and the file's length; the blocks are not looked at."""
        at, size = self.pack.copy_at, self._file.size()
        front, behind = self._file.read_at(0, self.pack.header_bytes), self._file.read_at(at, max(size - at, 0))
        return damaged_ends(front, behind, self.pack)

    def size(self) -> int:
        return self.pack.end

    def close(self) -> None:
        self._file.close()


class PackedScanner:
    """As `journal.scan.Scanner`, of an open pack: its whole batches from the block that holds `from_seq` up to `end`.

    Blocks are proven as they are met. One that is damaged raises Corrupt, or is told and passed over where there is
    somebody to `tell`. Nothing of a pack is a bad region. Iterate once: that closes the file.
    """

    def __init__(
        self, file: PackedFile, end: int, from_seq: int = 1, tell: Callable[[Corrupt], None] | None = None
    ) -> None:
        blocks = file.pack.blocks
        self._file = file
        self._end = end
        self._tell = tell
        self._first = max(bisect_right(blocks, from_seq, key=lambda block: block.first_seq) - 1, 0)
        self.offset = blocks[self._first].start if blocks else len(file.pack.head)
        self.next_seq = blocks[self._first].first_seq if blocks else file.pack.next_seq
        self.chain = blocks[self._first].previous_chain if blocks else file.pack.chain

    def __iter__(self) -> Iterator[Batch]:
        try:
            for number, block in enumerate(self._file.pack.blocks[self._first :], self._first):
                if block.start >= self._end:
                    return
                for batch in self._batches_of(number):
                    if batch.offset >= self._end:
                        return
                    self.offset, self.next_seq, self.chain = batch.end, batch.last_seq + 1, batch.chain
                    yield batch
                if self.offset < block.end:  # damaged, and told
                    self.offset, self.next_seq, self.chain = block.end, block.last_seq + 1, block.chain
            if self._end >= self._file.pack.end:
                self.offset = self._file.pack.end  # behind a clean close, if there is one
        finally:
            self._file.close()

    def _batches_of(self, number: int) -> list[Batch]:
        try:
            return self._file.batches_of(number)
        except Corrupt as error:
            if self._tell is None:
                raise
            self._tell(error)
            return []

    def bad_region(self) -> None:
        return None


def _read_header(file: File, path: str) -> Pack:
    size = file.size()
    length = header_length(file.read_at(0, PROLOGUE_BYTES), size)
    try:
        return decode_pack(file.read_at(0, length or PROLOGUE_BYTES), path)
    except Corrupt:
        try:
            return find_pack(file.read_at(0, size), path)
        except Corrupt as error:
            error.hint = error.hint or HINT
            raise


def open_segment(storage: Storage, path: str) -> Readable:
    """The segment at `path`, for reading; its pack where it was packed since it was listed. FileNotFoundError."""
    if not is_packed(path):
        try:
            return storage.open(path)
        except FileNotFoundError:
            path = packed_path(path)
    file = storage.open(path)
    try:
        return PackedFile(file, path)
    except BaseException:
        file.close()
        raise


def read_segment_header(storage: Storage, path: str) -> tuple[SegmentHeader, int]:
    """The header of a segment, and where its batches begin. Raises Corrupt, Unsupported, FileNotFoundError."""
    file = open_segment(storage, path)
    try:
        if isinstance(file, PackedFile):
            return file.pack.header, len(file.pack.head)
        front = file.read_at(0, _FRONT_BYTES)
        if int.from_bytes(front[12:16], "little") > len(front):
            front = file.read_at(0, _HEADER_BYTES)
        return decode_segment_header(front, path)
    finally:
        file.close()


def stored_bytes(storage: Storage, path: str) -> int:
    """How many bytes of the disk the segment takes."""
    try:
        return storage.size(path)
    except FileNotFoundError:
        return storage.size(packed_path(path))


def unpacked_bytes(storage: Storage, path: str) -> int:
    """How many bytes the segment has unpacked, as its pack claims: for estimates. 0 for what cannot be read."""
    try:
        file = storage.open(path)
    except FileNotFoundError:
        return 0 if is_packed(path) else unpacked_bytes(storage, packed_path(path))
    try:
        if not is_packed(path):
            return file.size()
        claimed = int.from_bytes(file.read_at(PROLOGUE_BYTES, 8), "little")
        return claimed if claimed <= SEGMENT_BYTES_LIMIT else 0
    finally:
        file.close()


def is_whole(data: bytes, path: str, end: End) -> bool:
    """True if these bytes of the file at `path` are a segment, plain or packed, that is whole and ends there.

    Of a packed one, all of the file must be whole. Raises Unsupported.
    """
    try:
        if is_packed(path):
            data = unpack(data, path)
        header, start = decode_segment_header(data, path)
    except Corrupt:
        return False
    scanner = Scanner(memoryview(data)[: end.offset], start, header, path)
    for _ in scanner:
        pass
    return (scanner.offset, scanner.next_seq, scanner.chain) == end
