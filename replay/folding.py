"""Moving memory.db's write-ahead log into the file while others write: no sync of many pages under the writers' lock.

SQLite does it in one call, which syncs the log, copies the newest version of each page, and syncs the file. A second
connection that made that call beside the writer could take its time, but before SQLite 3.51.3 such a pair may corrupt
the file (its WAL-reset bug). So the one connection that writes makes several short calls, each between two commits, and
what the disk has to do is done between them:

    under the lock      a reader of our own begins: it sees what is committed now
    beside the writers  the log is synced
    under the lock      SQLite finds the log synced, and copies what the reader sees. Something younger is left in the
                        log, so none of it can be written over yet: SQLite does not sync the file

This is done whenever as much was added to the log as is copied in a few milliseconds. Of a long log, then

    beside the writers  the file is synced, and what was added to the log
    under the lock      without the reader: SQLite copies and syncs the little that is left. The log begins anew

The rules by which a power cut finds one whole state stay SQLite's own: what is synced beside only leaves it less to do.
But a sync that failed says so once, to whoever asked, and what it did not write can be read until the cache forgets it.
So after one that failed nothing is folded any more, and closing leaves the log where it is: the next to open memory.db
copies all of it again, also where a reader of another process kept SQLite's index of the log. Must not know what is in
the file.
"""

from __future__ import annotations

import os
import sqlite3
import threading
from bisect import bisect_left
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from time import sleep
from typing import NamedTuple

from journal.errors import Corrupt, EnvironmentFault
from journal.storage import File, Storage, write_out
from replay.holders import descriptors
from replay.logs import say
from replay.schema import connect
from replay.tracing import database_span

COPY_BYTES = 4 << 20  # of the log are copied at once: all writers wait for 3 ms meanwhile, or for 12 where it is 16 MiB
FOLD_BYTES = 16 << 20  # once the log has grown by so much, the file is synced, and the log begins anew
LITTLE_BYTES = 1 << 20  # of the log: SQLite may copy and sync it while all writers wait
STEP_BYTES = 4 << 20  # of the file, whose changed pages are written at once: more would hold up the journal's syncs
ROUNDS_MAX = 4  # then it may be more: the disk does not keep up with the writers
IDLE_PAUSES, PAUSE_SECONDS = 40, 0.005  # then nobody writes
PATIENCE_SECONDS = 1  # SQLite's own, of a writer, is 5
_sync = getattr(os, "fdatasync", os.fsync)
_HEADER_BYTES, _FRAME_HEADER_BYTES = 32, 24  # https://www.sqlite.org/fileformat2.html#walformat
_BACKFILLED_AT, _BACKFILLED_BYTES = 96, 4  # nBackfill: https://www.sqlite.org/walformat.html#the_wal_index_file_format


def _say_failed(error: Exception) -> None:
    say("warning", "memory", f"memory.db's write-ahead log is not folded: {error}", component="memory")


class _Length(NamedTuple):
    """How much of the log is of its present run, which its salts tell from what it is written over."""

    salts: bytes = b""
    bytes: int = 0


def _added(before: _Length, now: _Length) -> int:
    """Bytes; of a log that began anew meanwhile all that it has."""
    return now.bytes - (before.bytes if now.salts == before.salts else 0)


class Folding:
    """The write-ahead log of the memory.db at `path`, which `connection` alone writes.

    Its calls are made under the writers' lock, but for those that begin with ``sync``. ``failed`` says why this
    connection folds it no more.
    """

    def __init__(self, storage: Storage, connection: sqlite3.Connection, path: str) -> None:
        self.failed: str | None = None
        self._storage = storage
        self._connection = connection
        self._path = path
        self._reader: sqlite3.Connection | None = None
        self._log: File | None = None
        self._seen = self._copied = self._folded = _Length()  # as it was looked at, copied and to begin anew, last
        self._held: _Length | None = None  # as our reader sees it, while one reads
        self._thread: threading.Thread | None = None
        self._at_work = threading.Lock()  # held from before that thread is started until it has nothing left to do
        self._disk = threading.Lock()  # held while the disk works beside the writers: nothing is closed then
        self._closed = False
        connection.execute("PRAGMA wal_autocheckpoint=0")  # else every commit may fold, on whichever thread
        connection.execute(f"PRAGMA journal_size_limit={2 * FOLD_BYTES}")  # what a slow reader let it grow to goes

    def is_due(self) -> bool:
        """Whether enough was added to the log to be copied, and none of it is being copied.

        What was added to it since the last look may go to the disk from now on: all of it at once, later, would keep
        the journal's own syncs waiting.
        """
        if not self._is_open:
            return False
        length = self._length()
        added = _added(self._seen, length)
        if added > 0 and self._log is not None:
            self._log.start_sync(length.bytes - added, added)
        self._seen = length
        return _added(self._copied, length) > COPY_BYTES and not self._at_work.locked()

    def beside(self, lock: threading.Lock) -> None:
        """Begins to fold in a thread of its own, which takes the writers' lock for each short call.

        Where no thread is to be had, a later look tries again: what is called after a commit must not fail.
        """
        if not self._at_work.acquire(blocking=False):
            return
        self._thread = threading.Thread(target=self._run, args=(lock,), name="journal-fold", daemon=True)
        try:
            self._thread.start()
        except RuntimeError as error:
            self._thread = None
            self._at_work.release()
            _say_failed(error)

    def join(self) -> None:
        """Waits for that thread. Not for one who holds the lock."""
        with self._at_work:
            if self._thread is not None:
                self._thread.join()

    def _run(self, lock: threading.Lock) -> None:
        try:
            with database_span("fold"):
                self._fold(lock)
        except sqlite3.Error as error:  # the log only gets longer: a later look finds it so
            _say_failed(error)
        finally:
            self._at_work.release()

    def _fold(self, lock: threading.Lock) -> None:
        for rounds in range(ROUNDS_MAX, -1, -1):
            with lock:
                if not self._is_open:
                    return
                if not rounds or _added(self._copied, self._length()) <= LITTLE_BYTES or not self.hold():
                    self.copy()
                    return
            self.sync_log()
            if not self._copy_held(lock):
                return
            if rounds == ROUNDS_MAX:
                if _added(self._folded, self._copied) <= FOLD_BYTES:
                    return
                self._folded = self._copied
            self.sync_file()
            self.sync_log()

    def _copy_held(self, lock: threading.Lock) -> bool:
        """Copies what the reader sees once something is committed behind it: else SQLite would sync the file, with all
        that was copied into it since it last was. Where nobody writes, nobody waits for that either."""
        pauses = IDLE_PAUSES
        while True:
            with self._patiently(lock):
                if not pauses or not self._is_open or self._length() != self._held:
                    return self.copy()
            pauses -= 1
            sleep(PAUSE_SECONDS)

    @contextmanager
    def _patiently(self, lock: threading.Lock) -> Iterator[None]:
        """The lock; lets the reader go where it takes long to be had.

        Another program that folds by `RESTART` or `TRUNCATE` keeps SQLite's write lock while it waits for readers to
        go: for ours, which would wait for the writer here, who waits for that program.
        """
        if not lock.acquire(timeout=PATIENCE_SECONDS):
            with self._disk:
                if not self._closed:
                    self._release()
            lock.acquire()
        try:
            yield
        finally:
            lock.release()

    @property
    def _is_open(self) -> bool:
        return not self._closed and self.failed is None

    def hold(self) -> bool:
        """From here to the next `copy` a reader keeps SQLite from folding what is committed after this.

        False where none can be had: no descriptor is free, say, and then the log would grow for as long.
        """
        try:
            if self._is_open:
                self._begin_reading()
                self._held = self._length()
        except sqlite3.Error:
            self._release()
            return False
        return True

    def _begin_reading(self) -> None:
        if self._reader is None:
            self._reader = connect(self._path, read_only=True)
        self._release()
        self._reader.execute("BEGIN")
        self._reader.execute("SELECT seq FROM journal_position").fetchall()  # takes the snapshot

    def copy(self) -> bool:
        """Copies the log into the file as far as readers have no other use for either; whether something is left.

        A reader that is in a transaction is not waited for: all writers would wait, too. Where nothing is left, SQLite
        has synced the file, and the next commit begins the log anew.
        """
        if not self._is_open:
            return False
        try:
            busy, frames, copied = self._connection.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchone()
        except sqlite3.Error as error:
            self.note(error)
            raise
        finally:
            self._copied = self._held or self._length()  # or others read what is older: no sooner again
            self._release()
        return bool(busy or frames != copied)  # busy: another program folds, and SQLite says nothing of the log

    def sync_log(self) -> None:
        """What is in the log becomes durable: SQLite's own sync of it finds little to do."""
        with self._disk:
            if self._is_open and self._log is not None:
                try:
                    self._log.sync()
                except EnvironmentFault as error:
                    self.failed = str(error)

    def sync_file(self) -> None:
        """The same for the file, by SQLite's own descriptor: to close another one would drop SQLite's locks."""
        with self._disk:
            if self._is_open and (open_here := descriptors(self._path)):
                try:
                    for offset in range(0, os.fstat(open_here[0]).st_size, STEP_BYTES):
                        write_out(open_here[0], offset, STEP_BYTES)
                    _sync(open_here[0])
                except OSError as error:
                    self._file_failed(error)

    def note(self, error: sqlite3.Error) -> None:
        """Takes note of what a call raised that may have synced the file. Where that sync failed, SQLite copies again
        what the same call had copied, and nothing of what was copied before."""
        if getattr(error, "sqlite_errorcode", 0) == sqlite3.SQLITE_IOERR_FSYNC:
            self._file_failed(error)

    def _file_failed(self, error: Exception) -> None:
        """Takes back what SQLite believes to be in the file: it learned nothing of the sync that failed.

        It begins with nothing by itself when the first connection comes. But a reader of any process that stays while
        this one goes keeps the index of the log, and the number with it. Less than the truth is always right there.
        """
        self.failed = str(error)
        with suppress(OSError):
            for index in descriptors(f"{self._path}-shm")[:1]:  # SQLite's own, as for the file
                os.pwrite(index, bytes(_BACKFILLED_BYTES), _BACKFILLED_AT)

    def close(self) -> None:
        """Closes the connection, and all that was opened for folding."""
        self._closed = True
        with self._disk, suppress(sqlite3.Error):
            self._release()
            if self.failed is not None:
                self._begin_reading()  # a writer that goes while a reader is left leaves the log as it is
                self._connection.close()
            if self._reader is not None:
                self._reader.close()
        self._connection.close()
        if self._log is not None:
            self._log.close()

    def _release(self) -> None:
        self._held = None
        if self._reader is not None and self._reader.in_transaction:
            self._reader.execute("ROLLBACK")

    def _length(self) -> _Length:
        """Looks for the end of the run: behind it lies what it has not yet written over.

        Where the disk does not give that out, `failed` says so: who looks has committed, and must not fail.
        """
        try:
            log = self._log = self._log or self._storage.open(f"{self._path}-wal")
            header, size = log.read_at(0, _HEADER_BYTES), log.size()
            if len(header) < _HEADER_BYTES:
                return _Length()
            frame_bytes, salts = _FRAME_HEADER_BYTES + int.from_bytes(header[8:12]), header[16:24]

            def is_older(frame: int) -> bool:
                return log.read_at(_HEADER_BYTES + frame * frame_bytes + 8, 8) != salts

            frames = bisect_left(range((size - _HEADER_BYTES) // frame_bytes), True, key=is_older)
        except (FileNotFoundError, EnvironmentFault):  # nothing was written yet; or the next look finds it
            return _Length()
        except Corrupt as error:
            self.failed = str(error)
            return _Length()
        return _Length(salts, frames * frame_bytes)
