"""The watermark of strict mode: which seq was durable last, in a small file beside the log, synced after each batch.

    0          512        1024       1536
    | header   | sector 1 | sector 2 |        header = prologue, journal id 16, zeros
    sector     = CRC 4 | epoch 4 | seq 8 | chain 32 | zeros to 512

The two sectors take turns, so a write that is torn leaves the older one. The CRC covers the sector behind it and goes
on from the header's, so no sector passes under another journal's header. What the file says of a seq is evidence, as
memory.db's position is; where it is damaged it says nothing. Knows nothing of batches.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from zlib import crc32

from journal.errors import Corrupt, DataError, Unreadable
from journal.files import write_file
from journal.format import KIND_WATERMARK, SECTOR_BYTES, decode_header, encode_header
from journal.storage import File, Storage

NAME = "watermark"
_SECTOR = struct.Struct("<IIQ32s")
FILE_BYTES = 3 * SECTOR_BYTES
HINT = "it is no evidence any more; the next writer makes it anew"


@dataclass(frozen=True, slots=True)
class Mark:
    """Everything up to ``seq`` was durable; ``chain`` is the chain there, ``epoch`` the writer's who said so."""

    seq: int
    chain: bytes
    epoch: int


@dataclass(frozen=True, slots=True)
class Found:
    """What a watermark file says. ``mark`` is None where nothing in it can be believed; ``problems`` say why."""

    mark: Mark | None
    problems: tuple[DataError, ...] = ()


def _encode_header(journal_id: bytes) -> bytes:
    return encode_header(KIND_WATERMARK, journal_id).ljust(SECTOR_BYTES, b"\0")


def _encode_sector(mark: Mark, header: bytes) -> bytes:
    body = _SECTOR.pack(0, mark.epoch, mark.seq, mark.chain)[4:].ljust(SECTOR_BYTES - 4, b"\0")
    return crc32(body, crc32(header)).to_bytes(4, "little") + body


def encode(journal_id: bytes, mark: Mark) -> bytes:
    """A whole file, with the same mark in both sectors."""
    header = _encode_header(journal_id)
    return header + 2 * _encode_sector(mark, header)


def decode(data: bytes, journal_id: bytes, path: str) -> Found:
    """What the file says to the journal of this id. Damage is in the result, never raised."""
    try:
        body = decode_header(data, KIND_WATERMARK, path)
    except DataError as error:
        return Found(None, (error,))
    header = data[:SECTOR_BYTES]
    if header != _encode_header(body) or len(data) != FILE_BYTES:
        return Found(None, (Corrupt("the watermark has another length or form", path=path, hint=HINT),))
    if body != journal_id:
        return Found(None, (Corrupt(f"the watermark belongs to journal {body.hex()}", path=path, hint=HINT),))
    marks: list[Mark] = []
    problems: list[DataError] = []
    for sector in (1, 2):
        raw = data[sector * SECTOR_BYTES : (sector + 1) * SECTOR_BYTES]
        crc, epoch, seq, chain = _SECTOR.unpack_from(raw)
        if crc32(raw[4:], crc32(header)) == crc:
            marks.append(Mark(seq, chain, epoch))
        else:
            problems.append(
                Corrupt(
                    f"sector {sector} of the watermark does not match its CRC",
                    path=path, offset=sector * SECTOR_BYTES, hint=HINT,
                )
            )  # fmt: skip
    return Found(max(marks, key=lambda mark: mark.seq, default=None), tuple(problems))


def read_watermark(storage: Storage, directory: str, journal_id: bytes) -> Found:
    """The watermark of the journal under `directory`; one that is not there says nothing and is no problem."""
    path = f"{directory}/{NAME}"
    kind = storage.kind(path)
    if kind == "missing":
        return Found(None)
    if kind != "file" or storage.size(path) > 1 << 16:
        return Found(None, (Corrupt("the watermark is no regular small file", path=path, hint=HINT),))
    try:
        return decode(storage.read(path), journal_id, path)
    except FileNotFoundError:
        return Found(None)
    except Unreadable as error:
        return Found(None, (error,))


class Watermark:
    """The file of a strict writer: `advance` says that a seq is durable, and returns once that is durable too."""

    def __init__(self, storage: Storage, directory: str, journal_id: bytes, mark: Mark) -> None:
        """Makes the file anew, with `mark` in it."""
        path = f"{directory}/{NAME}"
        write_file(storage, path, encode(journal_id, mark))
        self._header = _encode_header(journal_id)
        self._file: File = storage.open(path, write=True)
        self._sector = 2

    def advance(self, mark: Mark) -> None:
        """One write of the older sector and one sync. Any error leaves its outcome unknown."""
        self._sector = 3 - self._sector
        self._file.write_at(self._sector * SECTOR_BYTES, _encode_sector(mark, self._header))
        self._file.sync()

    def close(self) -> None:
        self._file.close()
