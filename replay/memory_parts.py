"""memory.db as parts of a checkpoint: cut from a finished file, and put together again.

The first checkpoint of a state cuts the whole file into pieces. A later one names the same pieces, its *base*, and
adds a *delta*: the pages that differ, each told by what it came from. So it costs what changed, wherever in the file
that lies, and one base with one delta always make the file. Must not know which checkpoint may be a base.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from hashlib import sha256
from itertools import accumulate
from typing import NamedTuple

import msgspec
from msgspec import UNSET

from journal.checkpoint import KIND_MEMORY, KIND_PAGES, PART_BYTES, CheckpointStore, Manifest, Part, Whole, whole_of
from journal.delta import ENTRY_BYTES, PAGE_BYTES, decode_groups, decode_pages, sources_of
from journal.errors import Corrupt
from journal.storage import File
from replay.page_delta import TooLarge, pack_delta

BASE_BYTES_MIN = 4 << 20  # a smaller file is cut whole: what that costs is less than depending on a base is worth
_THREADS = 2


class Cut(NamedTuple):
    """`parts` make a file that is `whole`; `written` bytes of them are in no earlier checkpoint."""

    parts: list[Part]
    whole: Whole
    written: int


# -- cutting ----------------------------------------------------------------------------------------------------------


def base_of(manifest: Manifest | None) -> list[Part]:
    """The pieces that a delta can be to; none where the next file is to be cut whole."""
    pieces = manifest.of_kind(KIND_MEMORY) if manifest is not None else []
    length = sum(part.length for part in pieces)
    even = all(part.length == PART_BYTES for part in pieces[:-1]) and length % PAGE_BYTES == 0
    return pieces if even and length >= max(BASE_BYTES_MIN, PAGE_BYTES) else []


def cut(checkpoints: CheckpointStore, path: str, manifest: Manifest | None) -> Cut:
    """Puts the parts of a finished file, as a delta to the base of an earlier checkpoint where that pays.

    What the base's pieces hold is compared with, not proven: whoever puts the file together does that, by its `whole`.
    """
    file = checkpoints.storage.open(path)
    try:
        base = base_of(manifest)
        if base and file.size() >= sum(part.length for part in base) // 2 and file.size() % PAGE_BYTES == 0:
            try:
                compared = _Compared(checkpoints, file, base)
                parts, written = pack_delta(checkpoints, base, compared.pages(), lambda page: read_page(file, page))
                return Cut([*base, *parts], whole_of(file.size(), compared.digests), written)
            except TooLarge:
                pass
        return cut_whole(checkpoints, _pieces(file))
    finally:
        file.close()


def cut_whole(checkpoints: CheckpointStore, pieces: Iterable[bytes]) -> Cut:
    parts: list[Part] = []
    length = written = 0
    for data in pieces:
        part, new = checkpoints.put_part(KIND_MEMORY, data)
        parts.append(part)
        length += part.length
        written += part.length if new else 0
    return Cut(parts, whole_of(length, [bytes.fromhex(part.sha256) for part in parts]), written)


def read_page(file: File, page: int) -> bytes:
    return file.read_at((page - 1) * PAGE_BYTES, PAGE_BYTES)


def _pieces(file: File) -> Iterator[bytes]:
    offset = 0
    while data := file.read_at(offset, PART_BYTES):
        yield data
        offset += len(data)


class _Compared:
    """A file held against the pieces of a base: the pages that differ, and the digests of the file's own pieces."""

    def __init__(self, checkpoints: CheckpointStore, file: File, base: Sequence[Part]) -> None:
        self._checkpoints, self._file, self._base = checkpoints, file, base
        self.digests: list[bytes] = []

    def pages(self) -> Iterator[tuple[int, bytes, bytes]]:
        """Number, bytes and former bytes."""
        for index, data in enumerate(_pieces(self._file)):
            old = b""
            if index < len(self._base):
                part = self._base[index]
                old = self._checkpoints.storage.read(self._checkpoints.part_path(part))
                if data == old:
                    self.digests.append(bytes.fromhex(part.sha256))
                    continue
            self.digests.append(sha256(data).digest())
            now, before = memoryview(data), memoryview(old)
            first = index * (PART_BYTES // PAGE_BYTES) + 1
            for number, at in enumerate(range(0, len(data), PAGE_BYTES), first):
                end = at + PAGE_BYTES
                if now[at:end] != before[at:end]:
                    yield number, data[at:end], old[at:end]


# -- putting together -------------------------------------------------------------------------------------------------


def assemble(
    checkpoints: CheckpointStore, manifest: Manifest, path: str, notify: Callable[[int], None] = lambda _: None
) -> Whole:
    """Writes a checkpoint's database to a new file, each part proven on the way, and the whole at the end; `notify`
    counts the parts. Returns what it found the whole to be.

    Raises Corrupt where a part is damaged, or the parts do not make the file that the manifest says. Not synced.
    """
    file = checkpoints.storage.open(path, write=True, create=True)
    try:
        laid = _Laid(checkpoints, manifest, file)
        laid.lay(checkpoints.read_part, notify)
        return laid.prove()
    finally:
        file.close()


def lay(checkpoints: CheckpointStore, manifest: Manifest, path: str) -> None:
    """The same, with nothing proven: for who can do that later."""
    file = checkpoints.storage.open(path, write=True, create=True)
    try:
        _Laid(checkpoints, manifest, file).lay(lambda part: checkpoints.storage.read(checkpoints.part_path(part)))
    finally:
        file.close()


class _Laid:
    """The file of a checkpoint as its parts are written into it."""

    def __init__(self, checkpoints: CheckpointStore, manifest: Manifest, file: File) -> None:
        self.checkpoints, self.manifest, self.file = checkpoints, manifest, file
        self.where = checkpoints.manifest_path(manifest.seq)
        self.length = 0
        self.pieces: dict[int, tuple[bytes, int]] = {}  # index: digest and length of what a proven part laid there

    def lay(self, read: Callable[[Part], bytes], notify: Callable[[int], None] = lambda _: None) -> None:
        base, delta, whole = self.manifest.of_kind(KIND_MEMORY), self.manifest.of_kind(KIND_PAGES), self.manifest.whole
        _put_down(read, base, self.file, notify)
        for part in base:
            if self.length % PART_BYTES == 0:
                self.pieces[self.length // PART_BYTES] = bytes.fromhex(part.sha256), part.length
            self.length += part.length
        if whole is UNSET:
            if delta:
                raise Corrupt("it lists pages, and not of which file", path=self.where)
            return
        if whole.length > self.length + sum(part.length for part in delta) // ENTRY_BYTES * PAGE_BYTES:
            raise Corrupt(f"its parts cannot make {whole.length} bytes", path=self.where)
        patch = _Patch(self.file, self.length, whole.length)
        for count, part in enumerate(delta, len(base) + 1):
            patch.apply(read(part), self.checkpoints.part_path(part))
            notify(count)
        patch.end(self.where)
        self.length = whole.length
        for index in patch.touched:
            self.pieces.pop(index, None)

    def prove(self) -> Whole:
        """Raises Corrupt where the whole is not what the manifest says. One that is only written says the length."""
        found = whole_of(self.length, _digests(self.file, self.length, self.pieces))
        if self.manifest.whole not in (UNSET, found, msgspec.structs.replace(found, sha256="")):
            raise Corrupt("its parts make another file than it says", path=self.where)
        return found


def _put_down(read: Callable[[Part], bytes], parts: Sequence[Part], file: File, notify: Callable[[int], None]) -> None:
    """Writes parts one after the other. Reading, hashing and writing a part need no interpreter, so two threads do
    twice as much where there are two cores."""

    def put_down(offset: int, part: Part) -> None:
        file.write_at(offset, read(part))

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
            sources = b"".join(read_page(self.file, page) for page in sources_of(group.entries))
            pages = decode_pages(group, sources, path)
            for index, entry in enumerate(group.entries):
                offset = (entry.page - 1) * PAGE_BYTES
                self.file.write_at(offset, pages[index * PAGE_BYTES : (index + 1) * PAGE_BYTES])
                self.touched.add(offset // PART_BYTES)
                if offset >= self.base_length:
                    self.beyond.add(entry.page)

    def end(self, where: str) -> None:
        """No page may be missing: a hole would read as zeros."""
        if self.base_length + len(self.beyond) * PAGE_BYTES < self.length:
            raise Corrupt("pages are missing at the end of the file that its parts make", path=where)
        if self.base_length > self.length:
            self.file.truncate(self.length)
