"""The delta of one file to the pieces of another: which page is told by which, and the parts that come of it.

A page that was there is told by what it was. One beyond the base's end is most often half of a leaf that was full: its
left sibling in the tree tells most of it. Knows pages, and SQLite's trees as far as that guess needs; must not know
how changed pages are found.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from itertools import pairwise

from journal.checkpoint import KIND_PAGES, PART_BYTES, CheckpointStore, Part
from journal.delta import GROUP_PAGES_MAX, PAGE_BYTES, Entry, encode_group, sources_of
from journal.storage import File

DELTA_SHARE_MAX = 0.25  # of its base; a larger delta would be written again and again
WINDOW_BYTES, _NEAR_BYTES = 1 << 20, 1 << 16
_HOPS_MAX = 64
_INTERIOR = frozenset({2, 5})  # the first byte of such a page, of an index and of a table


class TooLarge(Exception):
    """The delta grew beyond its share of the base. What parts were put are listed by nobody: the next sweep's."""


def pack_delta(
    checkpoints: CheckpointStore,
    base: Sequence[Part],
    pages: Iterable[tuple[int, bytes, bytes]],
    read: Callable[[int], bytes],
) -> tuple[list[Part], int]:
    """Puts the parts of a delta to `base`; returns them and the bytes that no earlier checkpoint had.

    `pages` are number, bytes and bytes in the base of each page that differs; `read` gives a page beyond the base once
    more. Raises TooLarge.
    """
    length = sum(part.length for part in base)
    base_pages = length // PAGE_BYTES
    out = _Out(checkpoints, length * DELTA_SHARE_MAX)
    siblings = _Siblings(base_pages)
    changed, new = _Packed(out), list[int]()
    for page, now, before in pages:
        siblings.note(page, now)
        if page > base_pages:
            new.append(page)
        else:
            changed.add(Entry(page, page), now, before)
    # These come first, so that a source still has the base's bytes when the delta is unpacked in place.
    moved = _Packed(out)
    sources = BasePages(checkpoints, base)
    for source, page in sorted((siblings.source(page), page) for page in new):
        moved.add(Entry(page, source), read(page), sources.read(source) if source else b"")
    last = moved.last_part(changed)  # before the full ones are listed: its groups may fill one more
    return [*moved.parts, *last, *changed.parts], out.written


class Window:
    """Reads of few bytes from a file: while they go on from one another, a MiB at a time lies ready."""

    def __init__(self, file: File) -> None:
        self._file = file
        self._start = self._end = 0
        self._data = b""

    def read(self, offset: int, length: int) -> bytes:
        at = offset - self._start
        if at < 0 or at + length > len(self._data):
            goes_on = 0 <= offset - self._end < _NEAR_BYTES
            self._data = self._file.read_at(offset, WINDOW_BYTES if goes_on else length)
            self._start, at = offset, 0
        self._end = offset + length
        return self._data[at : at + length]


class BasePages:
    """Single pages of a base, asked for in ascending order: one piece lies ready. They are not proven here."""

    def __init__(self, checkpoints: CheckpointStore, base: Sequence[Part]) -> None:
        self._checkpoints, self._base = checkpoints, base
        self._index = -1
        self._piece = b""

    def read(self, page: int) -> bytes:
        index, at = divmod((page - 1) * PAGE_BYTES, PART_BYTES)
        if index != self._index:
            self._piece = self._checkpoints.storage.read(self._checkpoints.part_path(self._base[index]))
            self._index = index
        return self._piece[at : at + PAGE_BYTES]


class _Siblings:
    """The left neighbours of pages beyond the base. A guess that costs bytes where it is wrong, and nothing else."""

    def __init__(self, base_pages: int) -> None:
        self._base_pages = base_pages
        self._left: dict[int, int] = {}

    def note(self, page: int, data: bytes) -> None:
        """Takes in the children of an interior page (https://www.sqlite.org/fileformat2.html#b_tree_pages)."""
        start = 100 if page == 1 else 0
        if data[start] not in _INTERIOR:
            return
        count, at = int.from_bytes(data[start + 3 : start + 5], "big"), start + 12
        cells = [int.from_bytes(data[at + 2 * cell : at + 2 * cell + 2], "big") for cell in range(count)]
        children = [int.from_bytes(data[cell : cell + 4], "big") for cell in (*cells, start + 8)]
        for left, right in pairwise(children):
            if right > self._base_pages:
                self._left[right] = left

    def source(self, page: int) -> int:
        """The nearest neighbour that is in the base, 0 if none is known."""
        for _ in range(_HOPS_MAX):
            if page <= self._base_pages:
                return page
            page = self._left.get(page, 0)
        return 0


class _Out:
    """Puts parts, up to a limit."""

    def __init__(self, checkpoints: CheckpointStore, limit: float) -> None:
        self._checkpoints = checkpoints
        self._left = limit
        self.written = 0

    def put(self, data: bytes) -> Part:
        self._left -= len(data)
        if self._left < 0:
            raise TooLarge
        part, new = self._checkpoints.put_part(KIND_PAGES, data)
        self.written += part.length if new else 0
        return part


class _Packed:
    """Groups of pages, and parts of groups."""

    def __init__(self, out: _Out) -> None:
        self._out = out
        self._entries: list[Entry] = []
        self._pages: list[bytes] = []
        self._sources: dict[int, bytes] = {}
        self._groups: list[bytes] = []
        self._length = 0
        self.parts: list[Part] = []  # that are full

    def add(self, entry: Entry, page: bytes, source: bytes) -> None:
        self._entries.append(entry)
        self._pages.append(page)
        if entry.source:
            self._sources[entry.source] = source
        if len(self._entries) == GROUP_PAGES_MAX:
            self._close_group()

    def last_part(self, other: _Packed) -> list[Part]:
        """Of the groups that are in no part yet, those of `other` behind the own ones: two files would be two syncs."""
        groups = b"".join([*self._rest(), *other._rest()])
        return [self._out.put(groups)] if groups else []

    def _rest(self) -> list[bytes]:
        if self._entries:
            self._close_group()
        return self._groups

    def _close_group(self) -> None:
        sources = b"".join(self._sources[page] for page in sources_of(self._entries))
        group = encode_group(self._entries, b"".join(self._pages), sources)
        if self._groups and self._length + len(group) > PART_BYTES:
            self.parts.append(self._out.put(b"".join(self._groups)))
            self._groups, self._length = [], 0
        self._groups.append(group)
        self._length += len(group)
        self._entries, self._pages, self._sources = [], [], {}
