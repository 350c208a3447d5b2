"""memory.db as parts of a checkpoint: cut from a finished file, and put together again.

The first checkpoint of a state cuts the whole file into pieces. A later one names the same pieces, its *base*, and
adds a *delta*: the pages that differ, each told by what it came from. So it costs what changed, wherever in the file
that lies, and one base with one delta always make the file. Knows pages, and SQLite's trees as far as to guess where
a page's content was before; must not know what a row is, nor which checkpoint may be a base.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from hashlib import sha256
from itertools import accumulate, pairwise
from typing import NamedTuple

from msgspec import UNSET

from journal.checkpoint import (
    KIND_MEMORY,
    KIND_PAGES,
    PART_BYTES,
    CheckpointStore,
    Manifest,
    Part,
    Whole,
    whole_of,
)
from journal.delta import (
    ENTRY_BYTES,
    GROUP_PAGES_MAX,
    PAGE_BYTES,
    Entry,
    decode_groups,
    decode_pages,
    encode_group,
    sources_of,
)
from journal.errors import Corrupt
from journal.storage import File

BASE_BYTES_MIN = 4 << 20  # a smaller file is cut whole: what that costs is less than depending on a base is worth
DELTA_SHARE_MAX = 0.25  # of its base; a larger delta would be written again and again: a new base is cut
_HOPS_MAX = 64
_THREADS = 2


class Cut(NamedTuple):
    """`parts` make a file that is `whole`; `written` bytes of them are in no earlier checkpoint."""

    parts: list[Part]
    whole: Whole
    written: int


# -- cutting ----------------------------------------------------------------------------------------------------------


def cut(checkpoints: CheckpointStore, path: str, base: Manifest | None) -> Cut:
    """Puts the parts of a finished file, as a delta to the base of `base` where that pays.

    What the base's pieces hold is compared with, not proven: whoever puts the file together does that, by its `whole`.
    """
    file = checkpoints.storage.open(path)
    try:
        pieces = base.of_kind(KIND_MEMORY) if base is not None else []
        length = sum(part.length for part in pieces)
        even = all(part.length == PART_BYTES for part in pieces[:-1]) and length % PAGE_BYTES == 0
        if even and length >= BASE_BYTES_MIN and file.size() >= length // 2 and file.size() % PAGE_BYTES == 0:
            try:
                return _Delta(checkpoints, file, pieces).cut()
            except _TooLarge:
                pass  # its parts are listed by nobody; the next sweep takes them
        return _cut_whole(checkpoints, file)
    finally:
        file.close()


def _cut_whole(checkpoints: CheckpointStore, file: File) -> Cut:
    parts: list[Part] = []
    length = written = 0
    for data in _pieces(file):
        part, new = checkpoints.put_part(KIND_MEMORY, data)
        parts.append(part)
        length += part.length
        written += part.length if new else 0
    return Cut(parts, whole_of(length, [bytes.fromhex(part.sha256) for part in parts]), written)


def _pieces(file: File) -> Iterator[bytes]:
    offset = 0
    while data := file.read_at(offset, PART_BYTES):
        yield data
        offset += len(data)


class _TooLarge(Exception):
    """The delta grew beyond its share of the base."""


class _Delta:
    """The pages of `file` that differ from those of a base's pieces.

    A page that is beyond the base's end is most often half of one that was full: its left sibling in the tree tells
    most of it. Such pages come first, so that a source still has the base's bytes when the group is unpacked in place.
    """

    def __init__(self, checkpoints: CheckpointStore, file: File, base: Sequence[Part]) -> None:
        self.checkpoints = checkpoints
        self.file = file
        self.base = base
        length = sum(part.length for part in base)
        self.pages = length // PAGE_BYTES
        self.left = length * DELTA_SHARE_MAX
        self.written = 0
        self.siblings: dict[int, int] = {}  # a page beyond the base: its left neighbour in the tree

    def cut(self) -> Cut:
        """Raises _TooLarge."""
        digests: list[bytes] = []
        changed, new = _Packed(self), list[int]()
        length = 0
        for index, data in enumerate(_pieces(self.file)):
            length += len(data)
            old = self._base_piece(index)
            if data == old:
                digests.append(bytes.fromhex(self.base[index].sha256))
                continue
            digests.append(sha256(data).digest())
            for page, now, before in _changed(index, data, old):
                self._note_children(page, now)
                if page > self.pages:
                    new.append(page)
                else:
                    changed.add(Entry(page, page), now, before)
        moved = _Packed(self)
        with _BasePages(self) as base_pages:
            for source, page in sorted((self._source(page), page) for page in new):
                now = self.file.read_at((page - 1) * PAGE_BYTES, PAGE_BYTES)
                moved.add(Entry(page, source), now, base_pages.read(source) if source else b"")
        # What is left of both goes into one part: two files would be two syncs.
        parts = [*self.base, *moved.parts, *moved.last_part(changed), *changed.parts]
        return Cut(parts, whole_of(length, digests), self.written)

    def _base_piece(self, index: int) -> bytes:
        if index >= len(self.base):
            return b""
        file = self.checkpoints.storage.open(self.checkpoints.part_path(self.base[index]))
        try:
            return file.read_at(0, PART_BYTES)
        finally:
            file.close()

    def put(self, data: bytes) -> Part:
        self.left -= len(data)
        if self.left < 0:
            raise _TooLarge
        part, new = self.checkpoints.put_part(KIND_PAGES, data)
        self.written += part.length if new else 0
        return part

    def _note_children(self, page: int, data: bytes) -> None:
        """Of an interior page of a tree (https://www.sqlite.org/fileformat2.html#b_tree_pages): a guess that costs
        bytes where it is wrong, and nothing else."""
        start = 100 if page == 1 else 0
        if data[start] not in _INTERIOR:
            return
        count, at = int.from_bytes(data[start + 3 : start + 5], "big"), start + 12
        cells = [int.from_bytes(data[at + 2 * cell : at + 2 * cell + 2], "big") for cell in range(count)]
        children = [int.from_bytes(data[cell : cell + 4], "big") for cell in (*cells, start + 8)]
        for left, right in pairwise(children):
            if right > self.pages:
                self.siblings[right] = left

    def _source(self, page: int) -> int:
        for _ in range(_HOPS_MAX):
            if page <= self.pages:
                return page
            page = self.siblings.get(page, 0)
        return 0


_INTERIOR = frozenset({2, 5})  # of an index, of a table


def _changed(index: int, data: bytes, old: bytes) -> Iterator[tuple[int, bytes, bytes]]:
    """Number, bytes and former bytes of each page of a piece that differs."""
    first = index * (PART_BYTES // PAGE_BYTES) + 1
    now, before = memoryview(data), memoryview(old)
    for number, at in enumerate(range(0, len(data), PAGE_BYTES), first):
        end = at + PAGE_BYTES
        if now[at:end] != before[at:end]:
            yield number, data[at:end], old[at:end]


class _Packed:
    """Groups of pages, and parts of groups."""

    def __init__(self, delta: _Delta) -> None:
        self._delta = delta
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
        """Of the groups that are in no part yet, those of `other` behind the own ones."""
        groups = b"".join([*self._rest(), *other._rest()])
        return [self._delta.put(groups)] if groups else []

    def _rest(self) -> list[bytes]:
        if self._entries:
            self._close_group()
        return self._groups

    def _close_group(self) -> None:
        sources = b"".join(self._sources[page] for page in sources_of(self._entries))
        group = encode_group(self._entries, b"".join(self._pages), sources)
        if self._groups and self._length + len(group) > PART_BYTES:
            self.parts.append(self._delta.put(b"".join(self._groups)))
            self._groups, self._length = [], 0
        self._groups.append(group)
        self._length += len(group)
        self._entries, self._pages, self._sources = [], [], {}


class _BasePages:
    """Single pages of the base, asked for in ascending order: one piece is open at a time."""

    def __init__(self, delta: _Delta) -> None:
        self._delta = delta
        self._index = -1
        self._file: File | None = None

    def __enter__(self) -> _BasePages:
        return self

    def __exit__(self, *_: object) -> None:
        if self._file is not None:
            self._file.close()

    def read(self, page: int) -> bytes:
        index, at = divmod((page - 1) * PAGE_BYTES, PART_BYTES)
        if index != self._index or self._file is None:
            self.__exit__()
            checkpoints = self._delta.checkpoints
            self._file = checkpoints.storage.open(checkpoints.part_path(self._delta.base[index]))
            self._index = index
        return self._file.read_at(at, PAGE_BYTES)


# -- putting together -------------------------------------------------------------------------------------------------


def assemble(
    checkpoints: CheckpointStore, manifest: Manifest, path: str, notify: Callable[[int], None] = lambda _: None
) -> None:
    """Writes a checkpoint's database to a new file, each part proven on the way, and the whole at the end; `notify`
    counts the parts.

    Raises Corrupt where a part is damaged, or the parts do not make the file that the manifest says. Not synced.
    """
    where = checkpoints.manifest_path(manifest.seq)
    file = checkpoints.storage.open(path, write=True, create=True)
    try:
        pieces: dict[int, tuple[bytes, int]] = {}  # index: digest and length of what is proven to lie there
        offset = 0
        base, delta = manifest.of_kind(KIND_MEMORY), manifest.of_kind(KIND_PAGES)
        _put_down(checkpoints, base, file, notify)
        for part in base:
            if offset % PART_BYTES == 0:
                pieces[offset // PART_BYTES] = bytes.fromhex(part.sha256), part.length
            offset += part.length
        if manifest.whole is UNSET:
            if delta:
                raise Corrupt("it lists pages, and not of which file", path=where)
            return
        if manifest.whole.length > offset + sum(part.length for part in delta) // ENTRY_BYTES * PAGE_BYTES:
            raise Corrupt(f"its parts cannot make {manifest.whole.length} bytes", path=where)
        patch = _Patch(file, offset, manifest.whole.length)
        for count, part in enumerate(delta, len(base) + 1):
            patch.apply(checkpoints.read_part(part), checkpoints.part_path(part))
            notify(count)
        patch.end(where)
        for index in patch.touched:
            pieces.pop(index, None)
        found = whole_of(manifest.whole.length, _digests(file, manifest.whole.length, pieces))
        if found != manifest.whole:
            raise Corrupt("its parts make another file than it says", path=where)
    finally:
        file.close()


def _put_down(checkpoints: CheckpointStore, parts: Sequence[Part], file: File, notify: Callable[[int], None]) -> None:
    """Writes parts one after the other, each proven. Reading, hashing and writing a part need no interpreter, so two
    threads do twice as much where there are two cores."""

    def put_down(offset: int, part: Part) -> None:
        file.write_at(offset, checkpoints.read_part(part))

    offsets = accumulate((part.length for part in parts), initial=0)
    pool = ThreadPoolExecutor(_THREADS)
    try:
        for count, _ in enumerate(pool.map(put_down, offsets, parts), 1):
            notify(count)
    finally:
        pool.shutdown(cancel_futures=True)


def _digests(file: File, length: int, proven: dict[int, tuple[bytes, int]]) -> Iterator[bytes]:
    for index, offset in enumerate(range(0, length, PART_BYTES)):
        digest, covered = proven.get(index, (b"", -1))
        if covered != min(PART_BYTES, length - offset):
            digest = sha256(file.read_at(offset, min(PART_BYTES, length - offset))).digest()
        yield digest


class _Patch:
    """Unpacks groups into a file that holds the base, `base_length` bytes of it, and is to have `length`."""

    def __init__(self, file: File, base_length: int, length: int) -> None:
        self.file = file
        self.base_length = base_length
        self.length = length
        self.beyond: set[int] = set()
        self.touched: set[int] = set()  # indexes of pieces

    def apply(self, data: bytes, path: str) -> None:
        for group in decode_groups(data, path):
            for entry in group.entries:
                if entry.page * PAGE_BYTES > self.length:
                    raise Corrupt(f"page {entry.page} is beyond the file", path=path, offset=group.offset)
                if entry.source * PAGE_BYTES > self.base_length:
                    raise Corrupt(f"page {entry.source} is not in the base", path=path, offset=group.offset)
            sources = b"".join(self._read(page) for page in sources_of(group.entries))
            pages = decode_pages(group, sources, path)
            for index, entry in enumerate(group.entries):
                offset = (entry.page - 1) * PAGE_BYTES
                self.file.write_at(offset, pages[index * PAGE_BYTES : (index + 1) * PAGE_BYTES])
                self.touched.add(offset // PART_BYTES)
                if offset >= self.base_length:
                    self.beyond.add(entry.page)

    def _read(self, page: int) -> bytes:
        return self.file.read_at((page - 1) * PAGE_BYTES, PAGE_BYTES)

    def end(self, where: str) -> None:
        """No page may be missing: a hole would read as zeros."""
        if self.base_length + len(self.beyond) * PAGE_BYTES < self.length:
            raise Corrupt("pages are missing at the end of the file that its parts make", path=where)
        if self.base_length > self.length:
            self.file.truncate(self.length)
