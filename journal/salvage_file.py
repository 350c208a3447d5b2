"""One segment file of a damaged log, as far as it can be read: around sectors that the disk refuses, and around the
blocks of a packed one that are damaged.

What cannot be read is zeros in what is given out, and told of. Must not know what the bytes mean beyond that.
"""

from __future__ import annotations

import msgspec

from journal.around import read_around
from journal.errors import Corrupt
from journal.format import SECTOR_BYTES, SegmentHeader, decode_segment_header
from journal.pack import find_pack
from journal.reader import SegmentRef
from journal.segment import is_packed, packed_path
from journal.storage import Storage
from journal.unpack import unpack_what_is_whole


class Spot(msgspec.Struct, frozen=True):
    """Bytes in which no whole batch could be found, or a segment that is not there (length 0). Offsets are the
    file's."""

    path: str
    offset: int
    length: int
    reason: str


class SalvagedFile:
    """One segment file as it can be read, and its header if it has one.

    ``sealed_seq`` is the last seq that a packed one held, and so was durable; 0 for a plain one.
    """

    def __init__(self, storage: Storage, ref: SegmentRef) -> None:
        self.storage = storage
        self.ref = ref
        self.is_packed = is_packed(ref.path)
        self.header: SegmentHeader | None = None
        self.start = 0
        self.sealed_seq = 0
        self.problem = ""
        try:
            self._read_header()
        except Corrupt as error:
            self.problem = error.message

    def _read_header(self) -> None:
        data, _ = self._stored()
        if self.is_packed:
            pack = find_pack(data, self.ref.path)
            self.header, self.start, self.sealed_seq = pack.header, len(pack.head), pack.next_seq - 1
        else:
            self.header, self.start = decode_segment_header(data[: 64 << 10], self.ref.path)

    def order(self) -> tuple[int, int]:
        """Where it belongs, as its header says; its name may be another's."""
        header = self.header
        return (header.first_seq, header.epoch) if header is not None else (self.ref.first_seq, self.ref.epoch)

    def read(self) -> tuple[bytes, list[Spot]]:
        """The segment's bytes; of what cannot be read, zeros and the spots."""
        data, spots = self._stored()
        if not self.is_packed:
            return data, spots
        path = self.ref.path
        try:
            segment, wounds = unpack_what_is_whole(data, path)
        except Corrupt as error:
            return b"", [*spots, Spot(path, 0, len(data), error.message)]
        told = [Spot(path, each.offset, each.length, each.error.message) for each in wounds if each.block is not None]
        return segment, spots + told

    def _stored(self) -> tuple[bytes, list[Spot]]:
        """The file's bytes; what the disk refuses reads as zeros."""
        path = self.ref.path
        try:
            data, refused = read_around(self.storage, path)
        except FileNotFoundError:
            if self.is_packed:
                raise
            self.ref, self.is_packed = self.ref._replace(path=packed_path(path)), True  # since it was listed
            return self._stored()
        ends = [min((error.offset or 0) + SECTOR_BYTES, len(data)) for error in refused]
        return data, [
            Spot(path, error.offset or 0, end - (error.offset or 0), error.message)
            for error, end in zip(refused, ends, strict=True)
        ]
