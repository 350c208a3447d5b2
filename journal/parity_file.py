"""Writing a parity file, reading it back, and what it restores: block by block, so that memory stays small.

Knows one protected file and one parity file; must not know which files are protected. The caller proves the protected
bytes before parity is made of them, and what was restored counts only with the SHA-256 that the header has.
"""

from __future__ import annotations

import hashlib
from array import array
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from zlib import crc32

from journal.errors import Corrupt, DataError
from journal.files import publishing
from journal.format import HEADER_BYTES_MAX, PROLOGUE_BYTES
from journal.parity import (
    TAIL_BYTES,
    ParityHeader,
    Shape,
    decode_parity_header,
    encode_parity_header,
    header_bytes,
    shape_for,
)
from journal.parity_code import shards
from journal.storage import File, Storage

Read = Callable[[int, int], bytes]
"""Bytes from an offset on, shorter only at the end."""

_SLAB_BYTES = 32 << 10  # of each shard at a time
_CHUNK_BYTES = 1 << 20
HINT = "journal scrub makes it anew"


@dataclass(frozen=True, slots=True)
class Parity:
    """A parity file that could be read: its header, and where the first parity shard begins."""

    path: str
    header: ParityHeader
    start: int


@dataclass(frozen=True, slots=True)
class Restoration:
    """What parity makes of a protected file: (offset, bytes) to put in place, and the offsets of what stays lost."""

    patches: tuple[tuple[int, bytes], ...]
    lost: tuple[int, ...]

    @property
    def bytes(self) -> int:
        return sum(len(data) for _, data in self.patches)


# -- making -----------------------------------------------------------------------------------------------------------


def write_parity(
    storage: Storage,
    path: str,
    read: Read,
    length: int,
    *,
    name: str,
    journal_id: bytes,
    share: float,
    last_seq: int = 0,
) -> int:
    """Makes the parity file of `length` bytes, durable but for its name; returns its bytes.

    Reads them twice: once in order for their SHA-256 and the CRCs, once across. Raises Corrupt where the two differ.
    """
    shape = shape_for(length, share)
    digest, crcs = _sums(read, shape)
    folder, base = path.rsplit("/", 1)
    if storage.kind(folder) == "missing":
        storage.make_directory(folder)
    temporary = f"{folder}/.{base}.tmp"
    start = header_bytes(name, shape)
    with publishing(storage, temporary, path) as file:
        for row, count, made in _rows(read, shape, crcs, name):
            for number, data in made.items():
                file.write_at(start + shape.offset_of(number, row), data)
                for index in range(count):
                    block = data[index * shape.block_bytes : (index + 1) * shape.block_bytes]
                    crcs[number * shape.rows + row + index] = crc32(block)
        header = encode_parity_header(ParityHeader(journal_id, digest, name, last_seq, shape, crcs))
        end = start + shape.parity_shards * shape.shard_bytes
        file.write_at(0, header)
        file.write_at(end, header + len(header).to_bytes(TAIL_BYTES, "little"))
    return end + len(header) + TAIL_BYTES


def _sums(read: Read, shape: Shape) -> tuple[bytes, array[int]]:
    """SHA-256 of the protected bytes, and the CRCs of the data blocks; those of the parity blocks are still 0."""
    digest, crcs = hashlib.sha256(), array("I", bytes(4 * shape.blocks))
    block, number = shape.block_bytes, 0
    for offset in range(0, shape.length, _CHUNK_BYTES // block * block):
        chunk = read(offset, min(_CHUNK_BYTES // block * block, shape.length - offset))
        digest.update(chunk)
        for at in range(0, len(chunk), block):
            crcs[number] = crc32(chunk[at : at + block].ljust(block, b"\0"))
            number += 1
    blank = crc32(bytes(block))
    for index in range(number, shape.data_shards * shape.rows):
        crcs[index] = blank
    return digest.digest(), crcs


def _rows(read: Read, shape: Shape, crcs: array[int], name: str) -> Iterator[tuple[int, int, dict[int, bytes]]]:
    """(first row, rows, parity shard → its blocks) of one slab after the other."""
    block = shape.block_bytes
    step = max(1, _SLAB_BYTES // block)
    wanted = range(shape.data_shards, shape.shards)
    for row in range(0, shape.rows, step):
        count = min(step, shape.rows - row)
        known = {}
        for shard in range(shape.data_shards):
            data = _data_of(read, shape, shard, row, count)
            for index in range(count):
                if crc32(data[index * block : (index + 1) * block]) != crcs[shard * shape.rows + row + index]:
                    raise Corrupt("it reads differently the second time", path=name, offset=shape.offset_of(shard, row))
            known[shard] = data
        yield row, count, shards(known, wanted)


def _data_of(read: Read, shape: Shape, shard: int, row: int, count: int = 1) -> bytes:
    """Blocks of a data shard; what lies beyond the protected length, or is not there, counts as zeros."""
    offset, length = shape.offset_of(shard, row), count * shape.block_bytes
    return read(offset, max(0, min(length, shape.length - offset))).ljust(length, b"\0")


# -- reading ----------------------------------------------------------------------------------------------------------


def read_parity(storage: Storage, path: str) -> Parity:
    """The parity file at `path`, by its header or by the copy at its end. Raises Corrupt, Unsupported."""
    kind = storage.kind(path)
    if kind != "file":
        raise Corrupt("parity is missing" if kind == "missing" else "parity is no regular file", path=path, hint=HINT)
    file = storage.open(path)
    try:
        size = file.size()
        try:
            header = decode_parity_header(_header_at(file, 0, size), path)
        except DataError as error:
            copy = int.from_bytes(file.read_at(size - TAIL_BYTES, TAIL_BYTES), "little") if size > TAIL_BYTES else 0
            if not PROLOGUE_BYTES <= copy <= min(HEADER_BYTES_MAX, size - TAIL_BYTES):
                raise
            try:
                header = decode_parity_header(file.read_at(size - TAIL_BYTES - copy, copy), path)
            except DataError:
                raise error from None
    finally:
        file.close()
    return Parity(path, header, header_bytes(header.name, header.shape))


def _header_at(file: File, offset: int, size: int) -> bytes:
    front = file.read_at(offset, PROLOGUE_BYTES)
    length = int.from_bytes(front[12:16], "little")
    return front if length > min(HEADER_BYTES_MAX, size) else file.read_at(offset, length)


def check_parity(storage: Storage, parity: Parity) -> list[Corrupt]:
    """Reads all of the file: what is wrong with its two headers and its blocks."""
    shape, header = parity.header.shape, encode_parity_header(parity.header)
    end = parity.start + shape.parity_shards * shape.shard_bytes
    whole = end + len(header) + TAIL_BYTES
    found = []
    file = storage.open(parity.path)
    try:
        size = file.size()
        if size != whole:
            found.append(_wrong(parity, f"parity has {size} bytes where {whole} belong", min(size, whole)))
        if file.read_at(0, len(header)) != header:
            found.append(_wrong(parity, "the header is damaged; its copy at the end is whole", 0))
        if file.read_at(end, len(header) + TAIL_BYTES) != header + len(header).to_bytes(TAIL_BYTES, "little"):
            found.append(_wrong(parity, "the copy of the header is damaged", end))
        for shard in range(shape.data_shards, shape.shards):
            for row in range(shape.rows):
                if not _is_good(parity, shard, row, _parity_block(file, parity, shard, row)):
                    at = parity.start + shape.offset_of(shard, row)
                    found.append(_wrong(parity, "a block does not match its CRC", at))
    finally:
        file.close()
    return found


def _wrong(parity: Parity, message: str, offset: int) -> Corrupt:
    return Corrupt(message, path=parity.path, offset=offset, hint=HINT)


def _parity_block(file: File, parity: Parity, shard: int, row: int) -> bytes:
    return file.read_at(parity.start + parity.header.shape.offset_of(shard, row), parity.header.shape.block_bytes)


def _is_good(parity: Parity, shard: int, row: int, block: bytes) -> bool:
    return crc32(block) == parity.header.crc_of(shard, row) and len(block) == parity.header.shape.block_bytes


def protects(parity: Parity, read: Read) -> bool:
    """True if the bytes are those that the parity was made of."""
    digest, length = hashlib.sha256(), parity.header.shape.length
    for offset in range(0, length, _CHUNK_BYTES):
        digest.update(read(offset, min(_CHUNK_BYTES, length - offset)))
    return digest.digest() == parity.header.sha256


# -- restoring --------------------------------------------------------------------------------------------------------


def restore(storage: Storage, parity: Parity, read: Read) -> Restoration:
    """What is to be changed in the protected file, which `read` gives as it is now (nothing at all, if it is gone)."""
    shape = parity.header.shape
    patches: list[tuple[int, bytes]] = []
    lost: list[int] = []
    file = storage.open(parity.path)
    try:
        for row in range(shape.rows):
            known: dict[int, bytes] = {}
            bad: list[int] = []
            for shard in range(shape.data_shards):
                block = _data_of(read, shape, shard, row)
                if _is_good(parity, shard, row, block):
                    known[shard] = block
                else:
                    bad.append(shard)
            for shard in range(shape.data_shards, shape.shards) if bad else ():
                block = _parity_block(file, parity, shard, row)
                if len(known) < shape.data_shards and _is_good(parity, shard, row, block):
                    known[shard] = block
            if bad and len(known) < shape.data_shards:
                lost += [shape.offset_of(shard, row) for shard in bad]
                continue
            for shard, block in shards(known, bad).items() if bad else ():
                offset = shape.offset_of(shard, row)
                patches.append((offset, block[: shape.length - offset]))
    finally:
        file.close()
    return Restoration(tuple(sorted(patches)), tuple(sorted(lost)))


def restored(parity: Parity, damaged: bytes, restoration: Restoration) -> bytes | None:
    """The protected file put together again, or None unless its SHA-256 is the header's.

    What lies behind the protected length is kept as it is: void bytes, which mean nothing.
    """
    length = parity.header.shape.length
    data = bytearray(damaged[:length].ljust(length, b"\0"))
    for offset, block in restoration.patches:
        data[offset : offset + len(block)] = block
    if restoration.lost or hashlib.sha256(data).digest() != parity.header.sha256:
        return None
    return bytes(data) + damaged[length:]
