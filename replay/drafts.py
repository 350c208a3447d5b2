"""The next checkpoint's file, made of the last one's by what the events after it change.

Of the last one's file nothing is proven before: hashing it takes as long as all the rest. It is made such that this can
be done afterwards, before what came of it counts. SQLite writes what changes to a write-ahead log, and the file stays
what it was; so the pages that changed are known, too, and no file is compared with another. Knows that log's format
(https://www.sqlite.org/fileformat2.html#the_write_ahead_log); must not know what is done with a checkpoint.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from hashlib import sha256
from struct import Struct

from msgspec import UNSET

from journal.checkpoint import KIND_PAGES, PART_BYTES, CheckpointStore, Manifest, Whole, whole_of
from journal.delta import PAGE_BYTES, decode_groups
from journal.errors import Corrupt
from journal.reader import LogReader
from journal.storage import File
from replay.bulk import collector_paused
from replay.engine import Progress
from replay.memory import apply_records
from replay.memory_parts import Cut, base_of, lay
from replay.page_delta import BasePages, Window, pack_delta
from replay.records import position_at, records_of
from replay.schema import Position, read_position, write_position
from replay.timeline import Range, event_count
from replay.working import connect_private, discard, is_loose

EVENTS_MAX = 100_000  # a page that changes again and again lies in the log as often: beyond, a draft does not pay

_HEADER, _FRAME = Struct(">8xI4x8s8x"), Struct(">II8s8x")  # page size, salt; page, pages in the file, salt
_MODE_AT, _ROLLBACK, _WRITE_AHEAD = 18, b"\x01\x01", b"\x02\x02"  # how the file is to be opened, in its header

_OF_THE_ENVIRONMENT = frozenset({
    sqlite3.SQLITE_FULL, sqlite3.SQLITE_IOERR, sqlite3.SQLITE_NOMEM, sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_READONLY,
    sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED, sqlite3.SQLITE_INTERRUPT,
})  # fmt: skip
"""Errors that say nothing of what is in a file."""


class Unfit(Exception):
    """The checkpoint was no base after all: a part of it is damaged, it stands elsewhere than it says, or what comes of
    it holds little but free pages."""


def can_draft(base: Manifest, ranges: Sequence[Range]) -> bool:
    """`ranges` are the events after it."""
    return bool(base_of(base)) and base.whole is not UNSET and event_count(ranges) <= EVENTS_MAX


class Draft:
    """A file that stays the base's, and the log of what changed. Private: thrown away whatever comes of it."""

    def __init__(self, checkpoints: CheckpointStore, base: Manifest, file: File, log: File) -> None:
        self._checkpoints, self._base, self._file = checkpoints, base, file
        self._pages, self._log = Window(file), Window(log)
        self._old_length = file.size()
        self._frames, length = _frames(self._log, log.size())
        self._length = length or self._old_length

    def cut(self) -> Cut:
        """The parts; of the whole only its length is known by now. Raises TooLarge, or Unfit."""
        base = base_of(self._base)
        pages = sorted(page for page in self._carried() | self._frames.keys() if page * PAGE_BYTES <= self._length)
        parts, written = pack_delta(self._checkpoints, base, self._differing(pages), self._page)
        return Cut([*base, *parts], Whole(self._length, ""), written)

    def _carried(self) -> set[int]:
        """Pages that differed from the base already."""
        checkpoints, carried = self._checkpoints, set[int]()
        for part in self._base.of_kind(KIND_PAGES):
            path = checkpoints.part_path(part)
            for group in decode_groups(checkpoints.storage.read(path), path):
                carried.update(entry.page for entry in group.entries)
        return carried

    def _differing(self, pages: Sequence[int]) -> Iterator[tuple[int, bytes, bytes]]:
        base = base_of(self._base)
        base_pages = sum(part.length for part in base) // PAGE_BYTES
        old = BasePages(self._checkpoints, base)
        for page in pages:
            now, before = self._page(page), old.read(page) if page <= base_pages else b""
            if now != before:
                yield page, now, before

    def _page(self, page: int) -> bytes:
        at = self._frames.get(page)
        data = self._pages.read((page - 1) * PAGE_BYTES, PAGE_BYTES) if at is None else self._log.read(at, PAGE_BYTES)
        return data[:_MODE_AT] + _ROLLBACK + data[_MODE_AT + 2 :] if page == 1 else data

    def prove(self) -> Whole:
        """What the whole is, once the file was seen to be what the base says. Raises Unfit."""
        before, after = list[bytes](), list[bytes]()
        pages_of = PART_BYTES // PAGE_BYTES
        changed: dict[int, list[int]] = {}
        for page in self._frames:
            changed.setdefault((page - 1) // pages_of, []).append(page)
        for index, offset in enumerate(range(0, max(self._old_length, self._length), PART_BYTES)):
            piece = bytearray(self._file.read_at(offset, PART_BYTES))
            if index == 0:
                piece[_MODE_AT : _MODE_AT + 2] = _ROLLBACK
            if piece:
                before.append(sha256(piece).digest())
            length = max(0, min(PART_BYTES, self._length - offset))
            if index not in changed and len(piece) == length:
                after.append(before[-1])
                continue
            piece = piece.ljust(length, b"\0")[:length]
            for page in changed.get(index, ()):
                at = (page - 1) * PAGE_BYTES - offset
                piece[at : at + PAGE_BYTES] = self._page(page)
            if piece:
                after.append(sha256(piece).digest())
        if whole_of(self._old_length, before) != self._base.whole:
            raise Unfit("its parts do not make the file that it says")
        return whole_of(self._length, after)


def _frames(log: Window, size: int) -> tuple[dict[int, int], int]:
    """Of each page the offset of its last committed version, and the length of the file then. Nobody else writes it."""
    found: dict[int, int] = {}
    open_frames: dict[int, int] = {}
    length = 0
    if size < _HEADER.size:
        return found, length
    page_bytes, salt = _HEADER.unpack(log.read(0, _HEADER.size))
    if page_bytes != PAGE_BYTES:
        raise Unfit(f"its file says that a page has {page_bytes} bytes")
    step = _FRAME.size + PAGE_BYTES
    for offset in range(_HEADER.size, size - step + 1, step):
        page, pages, own_salt = _FRAME.unpack(log.read(offset, _FRAME.size))
        if own_salt != salt:
            break
        open_frames[page] = offset + _FRAME.size
        if pages:
            found |= open_frames
            open_frames.clear()
            length = pages * PAGE_BYTES
    return found, length


@contextmanager
def drafted(
    checkpoints: CheckpointStore,
    base: Manifest,
    reader: LogReader,
    ranges: Sequence[Range],
    seq: int,
    path: str,
    progress: Progress | None = None,
) -> Iterator[Draft]:
    """The state at `seq` as a draft at `path`, made of a checkpoint and the events of `ranges`. Raises Unfit."""
    storage = checkpoints.storage
    try:
        lay(checkpoints, base, path)
        file = storage.open(path, write=True)
        try:
            file.write_at(_MODE_AT, _WRITE_AHEAD)  # here, so that SQLite does not do it and change more
        finally:
            file.close()
        connection = connect_private(path, "WAL")
        try:
            _apply(connection, base, reader, ranges, seq, progress or (lambda done, total: None))
            file, log = storage.open(path), storage.open(f"{path}-wal")
            try:
                yield Draft(checkpoints, base, file, log)
            finally:
                file.close()
                log.close()
        finally:
            connection.close()
    except (Corrupt, FileNotFoundError) as error:
        raise Unfit(str(error)) from error
    except sqlite3.Error as error:
        if getattr(error, "sqlite_errorcode", 0) & 0xFF in _OF_THE_ENVIRONMENT:
            raise
        # In what nobody proved, a bit that rotted may be an id or a table's name: any error may come of it, a foreign
        # key's as well. If it is not the base's fault, whoever builds instead is told of it, too.
        raise Unfit(str(error)) from error
    finally:
        discard(storage, path)


def _apply(
    connection: sqlite3.Connection,
    base: Manifest,
    reader: LogReader,
    ranges: Sequence[Range],
    seq: int,
    progress: Progress,
) -> None:
    """In one transaction, so that a page lies in the log once, as far as SQLite's cache goes."""
    if read_position(connection) != Position(base.seq, base.journal_id, base.epoch, base.chain):
        raise Unfit("its parts stand at another position than its manifest says")
    done, total = 0, event_count(ranges)
    connection.execute("BEGIN")
    with collector_paused():
        for first_seq, records in records_of(reader, ranges):
            apply_records(connection, first_seq, records)
            done += len(records)
            progress(done, total)
    write_position(connection, position_at(reader, seq))
    connection.execute("COMMIT")
    if is_loose(connection):
        raise Unfit("so many of its pages are free that it is better written anew")
