"""A database file in the making: private while it is built, compact, folded and synced when it is done.

Nobody else may see such a file, and after an error it is thrown away, so nothing is synced before the end. Knows files
and settings; must not know what is built.
"""

from __future__ import annotations

import os
import sqlite3
import stat
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager, suppress
from typing import Literal
from urllib.parse import quote

from journal.storage import FILE_MODE, Storage
from replay.holders import refuse_another
from replay.layout import COMPACT, SIDECARS
from replay.schema import PAGE_BYTES

JournalMode = Literal["wal", "delete"]
_CACHE_KIB = 64 << 10  # a larger cache makes building indexes slower
_FREED_AT_ONCE = 4 << 20
FREE_PAGES_MIN = 1024  # fewer are the next rows' soon
FREE_SHARE_MAX = 0.25  # of a file; what is written anew and what is carried along in vain then cost about the same


def connect_private(path: str, journal_mode: str = "MEMORY") -> sqlite3.Connection:
    """A connection to a file that is being built. A failed transaction can be taken back, a power cut cannot."""
    if not os.path.exists(path):
        os.close(os.open(path, os.O_CREAT | os.O_EXCL, FILE_MODE))  # SQLite would make it readable to all
    connection = sqlite3.connect(path, isolation_level=None, cached_statements=512)
    try:
        for setting in (f"page_size={PAGE_BYTES}", "locking_mode=EXCLUSIVE", "schema_version"):  # the last opens it
            connection.execute(f"PRAGMA {setting}")
        refuse_another(path)
        for setting in (
            f"journal_mode={journal_mode}", "synchronous=OFF", "wal_autocheckpoint=0", "foreign_keys=ON",
            "trusted_schema=OFF", "temp_store=MEMORY", f"cache_size=-{_CACHE_KIB}",
        ):  # fmt: skip
            connection.execute(f"PRAGMA {setting}")
    except BaseException:
        connection.close()
        raise
    return connection


def connect_finished(path: str) -> sqlite3.Connection:
    """For a scan of a folded file that nobody writes: takes no locks and leaves no sidecars."""
    return sqlite3.connect(f"file:{quote(path)}?mode=ro&immutable=1", uri=True, isolation_level=None)


def is_loose(connection: sqlite3.Connection) -> bool:
    """Whether so many of a file's pages are free that it is worth writing anew."""
    pages, free = (connection.execute(f"PRAGMA {name}").fetchone()[0] for name in ("page_count", "freelist_count"))
    return bool(free >= FREE_PAGES_MIN and free > pages * FREE_SHARE_MAX)


def compact(storage: Storage, path: str) -> None:
    """Leaves out the free pages of a file, where they are many. No connection to it is open.

    A state that shrank would be carried along at its greatest in every checkpoint and every copy. Where the disk has
    no room for both, the file stays as it is. Raises sqlite3.DatabaseError where it cannot be read.
    """
    beside = path + COMPACT
    with closing(connect_finished(path)) as connection:
        if not is_loose(connection):
            return
        discard(storage, beside)
        os.close(os.open(beside, os.O_CREAT | os.O_EXCL, FILE_MODE))  # as in `connect_private`
        try:
            connection.execute("VACUUM INTO ?", (beside,))
        except sqlite3.OperationalError as error:
            discard(storage, beside)
            if error.sqlite_errorcode != sqlite3.SQLITE_FULL:
                raise
            return
        except BaseException:
            discard(storage, beside)
            raise
    storage.replace(beside, path)


def finish(storage: Storage, path: str, journal_mode: JournalMode) -> None:
    """Sets the mode that the file will be opened in, and syncs it. No connection to it is open."""
    if journal_mode == "wal":  # a file that says so already needs nobody to be alone with it to switch
        with closing(sqlite3.connect(path, isolation_level=None)) as connection:
            connection.execute("PRAGMA schema_version")
            refuse_another(path)
            connection.execute("PRAGMA journal_mode=WAL")
    _sync(storage, path)
    storage.sync_dir(path.rsplit("/", 1)[0])


@contextmanager
def syncing(storage: Storage, path: str) -> Iterator[None]:
    """Syncs the file while the body writes on: the sync at the end then waits for little more than the body's writes.

    An error of it is raised here, behind the body: the kernel tells each error of writing once, and may tell it to us.
    """
    with ThreadPoolExecutor(1) as pool:
        early = pool.submit(_sync, storage, path)
        yield
        early.result()


def _sync(storage: Storage, path: str) -> None:
    file = storage.open(path, write=True)
    try:
        file.sync()
    finally:
        file.close()


def discard(storage: Storage, path: str) -> None:
    """Removes what is left of a build. No connection to it is open."""
    for suffix in ("", *SIDECARS, COMPACT):
        if storage.kind(path + suffix) != "missing":
            throw_away(storage, path + suffix)


def throw_away(storage: Storage, path: str) -> None:
    """Removes a file that nobody reads any more, a few MiB at a time: to free 270 MB at once keeps the journal's syncs
    waiting for 20 to 40 ms. Not for what has to be there whole or not at all after a cut."""
    with suppress(OSError):  # what is wrong with it, `remove` says
        fd = os.open(path, os.O_WRONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
        try:
            status = os.fstat(fd)
            if stat.S_ISREG(status.st_mode) and status.st_nlink == 1:  # what has another name may be somebody's
                for length in range(status.st_size - _FREED_AT_ONCE, 0, -_FREED_AT_ONCE):
                    os.ftruncate(fd, length)
        finally:
            os.close(fd)
    storage.remove(path)
