"""One segment file: its name, its creation, the batches written into it, its clean close.

Knows one file at a time. Which segments make a log, and in which order, is `journal.log`'s.
"""

from __future__ import annotations

import re

from journal.errors import NoSpace
from journal.files import publish
from journal.format import SegmentHeader, clean_close, encode_segment_header
from journal.storage import File, Storage

FILL_BYTES_MIN = 64 << 10
FILL_BYTES_MAX = 1 << 20  # more takes longer a byte, and whoever waits for the batch waits for it
FILL_BATCHES = 128

_NAME = re.compile(r"(\d{16})-(\d{6,})(\.seg|\.pack)")
PLAIN, PACKED = ".seg", ".pack"


def segment_name(first_seq: int, epoch: int) -> str:
    """Named by first seq; the epoch tells a segment from the void one it replaces."""
    return f"{first_seq:016d}-{epoch:06d}.seg"


def parse_segment_name(name: str) -> tuple[int, int] | None:
    """(first seq, epoch), or None where the name is no segment's, plain or packed."""
    match = _NAME.fullmatch(name)
    return (int(match[1]), int(match[2])) if match else None


def segment_key(path: str) -> tuple[int, int]:
    """(first seq, epoch) of a segment's path. Raises ValueError for any other."""
    key = parse_segment_name(path.rsplit("/", 1)[1])
    if key is None:
        raise ValueError(f"{path} is no segment")
    return key


def is_packed(path: str) -> bool:
    """True for the name of a packed segment."""
    return path.endswith(PACKED)


def packed_path(path: str) -> str:
    """Where the pack of the segment at `path` lies."""
    return path.removesuffix(PLAIN) + PACKED


def plain_path(path: str) -> str:
    """Where the segment lay that was packed to `path`."""
    return path.removesuffix(PACKED) + PLAIN


class SegmentWriter:
    """The segment being written. ``offset`` is where the next batch goes, ``filled`` how far zeros are durable."""

    __slots__ = ("_file", "_storage", "filled", "header", "offset", "path", "start")

    def __init__(self, storage: Storage, path: str, file: File, header: SegmentHeader, start: int, filled: int) -> None:
        self._storage = storage
        self._file = file
        self.path = path
        self.header = header
        self.start = start
        self.offset = start
        self.filled = filled

    @classmethod
    def create(cls, storage: Storage, directory: str, header: SegmentHeader, carried: bytes = b"") -> SegmentWriter:
        """A new segment, zero-filled ahead, durable with its name before this returns.

        `carried` are batches encoded for this segment from its start on. Written under a temporary name and renamed
        when synced: a crash leaves no segment or a whole one, so a bad header is always damage.
        """
        path = f"{directory}/{segment_name(header.first_seq, header.epoch)}"
        temporary = f"{path}.tmp"
        front = encode_segment_header(header) + carried
        filled = max(FILL_BYTES_MIN, -(-len(front) // FILL_BYTES_MIN) * FILL_BYTES_MIN)
        publish(storage, temporary, path, front + bytes(filled - len(front)))
        storage.sync_dir(directory)
        file = storage.open(path, write=True)  # under its own name, so that errors name a file that is there
        writer = cls(storage, path, file, header, len(front) - len(carried), filled)
        writer.offset = len(front)
        return writer

    def reserve(self, length: int, reserve_bytes: int) -> None:
        """Makes sure that `length` bytes at `offset` are zero-filled and durable.

        The file grows by as much as it has, or as `FILL_BATCHES` of this length take, between 64 KiB and 1 MiB: a batch
        that waits for one more sync is to be rare. On a nearly full disk it grows by what is needed. Raises NoSpace,
        before any batch was touched, where even that cannot be had or would eat into `reserve_bytes`.
        """
        needed = self.offset + length - self.filled
        if needed <= 0:
            return
        wanted = max(needed, min(max(self.filled, FILL_BYTES_MIN, FILL_BATCHES * length), FILL_BYTES_MAX))
        free = self._storage.free_bytes(self.path)
        for grow in (-(-wanted // FILL_BYTES_MIN) * FILL_BYTES_MIN, -(-needed // 4096) * 4096):
            if free - grow < reserve_bytes:
                continue
            try:
                self._file.write_at(self.filled, bytes(grow))
                self._file.sync()
            except NoSpace:
                continue
            self.filled += grow
            return
        raise NoSpace(
            f"no space for {length} bytes beside a reserve of {reserve_bytes}",
            path=self.path,
            hint="nothing was written and reads go on; free some disk space and append again",
        )

    def begin(self, batch: bytes) -> None:
        """Writes a batch at `offset`; only `sync` makes it durable. Any error of either leaves its outcome unknown."""
        self._file.write_at(self.offset, batch)
        self._file.start_sync(self.offset, len(batch))

    def sync(self, length: int) -> None:
        """The batch of `length` bytes at `offset` is durable when this returns, and the next one goes behind it."""
        self._file.sync()
        self.offset += length

    def close_clean(self, next_seq: int, chain: bytes) -> None:
        """Ends the segment with an empty batch that says everything before it was synced, and drops the fill."""
        mark = clean_close(self.header, next_seq, chain)
        self.begin(mark)
        self.sync(len(mark))
        self.trim()
        self.close()

    def trim(self) -> None:
        """Cuts the zeros behind the last batch. Not synced: zeros that come back after a crash harm nothing."""
        self._file.truncate(self.offset)
        self.filled = self.offset

    def close(self) -> None:
        self._file.close()
