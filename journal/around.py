"""A file as far as the disk gives it out: whoever can make good what is missing is not stopped by it.

Must not know what the bytes mean.
"""

from __future__ import annotations

from journal.errors import Unreadable
from journal.format import SECTOR_BYTES
from journal.storage import Storage

_PIECE_BYTES = 64 << 10


def read_around(storage: Storage, path: str) -> tuple[bytes, list[Unreadable]]:
    """All of a file, zeros where a sector cannot be read, and an error for each of these. FileNotFoundError."""
    try:
        return storage.read(path), []
    except Unreadable:
        pass
    file = storage.open(path)
    data, refused = bytearray(file.size()), list[Unreadable]()
    try:
        for at in range(0, len(data), _PIECE_BYTES):
            pieces = [(at, min(_PIECE_BYTES, len(data) - at))]
            while pieces:
                offset, length = pieces.pop()
                try:
                    data[offset : offset + length] = file.read_at(offset, length).ljust(length, b"\0")
                except Unreadable as error:
                    if length > SECTOR_BYTES:
                        half = length // 2 // SECTOR_BYTES * SECTOR_BYTES or SECTOR_BYTES
                        pieces += [(offset + half, length - half), (offset, half)]
                    else:
                        error.offset = offset
                        refused.append(error)
    finally:
        file.close()
    return bytes(data), refused
