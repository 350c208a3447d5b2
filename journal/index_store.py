"""The index files of one journal, `index/FIRST_SEQ-EPOCH.idx` for each sealed segment that is worth one.

What is wrong with an index is never an error to whoever looks something up: he reads the segment instead. `verify`
tells of it. Knows names and bytes; which segment an index is of, and whether it still is, its reader asks.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager

from journal.errors import DataError, EnvironmentFault, NoSpace
from journal.files import exclusive, is_half_written, read_bounded, write_file
from journal.format import HEADER_BYTES_MAX
from journal.index import SegmentIndex, decode_index, encode_index
from journal.storage import Storage

FOLDER = "index"
SPARE_BYTES = 64 << 20  # what is derived leaves the disk so much: appending and recovery come first
_NAME = re.compile(r"(\d{16})-(\d{6,})\.idx")

Key = tuple[int, int]
"""First seq and epoch of a segment."""


class IndexStore:
    """Reading takes no lock; `exclusive` is for those who write or remove."""

    def __init__(self, storage: Storage, journal: str) -> None:
        self.storage = storage
        self.directory = f"{journal}/{FOLDER}"

    def path_of(self, key: Key) -> str:
        return f"{self.directory}/{key[0]:016d}-{key[1]:06d}.idx"

    def listed(self) -> list[Key]:
        """Of the segments that have an index, damaged or not. Raises EnvironmentFault.

        Where something else has the directory's name there are none.
        """
        if self.storage.kind(self.directory) in ("file", "other"):
            return []
        found = (_NAME.fullmatch(name) for name in self.storage.list(self.directory))
        return [(int(match[1]), int(match[2])) for match in found if match]

    def load(self, key: Key) -> SegmentIndex:
        """Raises Corrupt, Unsupported, EnvironmentFault, FileNotFoundError."""
        path = self.path_of(key)
        return decode_index(read_bounded(self.storage, path, HEADER_BYTES_MAX), path)

    def find(self, key: Key) -> SegmentIndex | None:
        """None where there is none that can be read, for whatever reason."""
        try:
            return self.load(key)
        except (FileNotFoundError, DataError, EnvironmentFault):
            return None

    @contextmanager
    def exclusive(self) -> Iterator[None]:
        """Two that wrote one file at a time would publish half of it. Raises Locked, EnvironmentFault."""
        with exclusive(self.storage, self.directory, "making indexes", "it makes them all"):
            yield

    def write(self, index: SegmentIndex) -> int:
        """Puts it in place, whole and synced, over the one that is there; returns its bytes. Call under `exclusive`.

        Raises NoSpace before the disk is nearly full.
        """
        data = encode_index(index)
        if self.storage.free_bytes(self.directory) < len(data) + SPARE_BYTES:
            raise NoSpace("no space to spare for an index", path=self.directory, hint="lookups read segments instead")
        write_file(self.storage, self.path_of((index.first_seq, index.epoch)), data)
        return len(data)

    def sweep(self, there: set[Key]) -> list[str]:
        """Removes what no segment `there` has any use for, and what a cut left half written. Under `exclusive`."""
        removed = []
        for name in self.storage.list(self.directory):
            match = _NAME.fullmatch(name)
            orphan = match is not None and (int(match[1]), int(match[2])) not in there
            path = f"{self.directory}/{name}"
            if (orphan or is_half_written(name)) and self.storage.kind(path) == "file":
                self.storage.remove(path)
                removed.append(path)
        return removed
