"""SQLite's errors as the declared ones: whose fault it was is told by the error's code, never by its text."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager

from journal.errors import Corrupt, IOFault, JournalError, Locked, NoSpace, ReadOnly
from journal.filesystems import os_fault

_HINT = "run: journal check"


@contextmanager
def declared(path: str) -> Iterator[None]:
    """Around what a server calls: errors of SQLite and of the system come out as the declared ones, naming `path`."""
    try:
        yield
    except sqlite3.Error as error:
        raise sqlite_fault(error, path) from error
    except OSError as error:
        raise os_fault(error, error.filename if isinstance(error.filename, str) else path) from error


def sqlite_fault(error: sqlite3.Error, path: str) -> JournalError:
    """What to raise instead of `error`. A statement of ours that a file cannot take means that the file is not ours."""
    code = getattr(error, "sqlite_errorcode", sqlite3.SQLITE_ERROR)
    if code == sqlite3.SQLITE_IOERR_SHMSIZE:  # the -shm file could not grow: what a full disk says before all else
        code = sqlite3.SQLITE_FULL
    match code & 0xFF:  # the primary code
        case sqlite3.SQLITE_FULL:
            return NoSpace(f"no space: {error}", path=path, hint="free some disk space, then try again")
        case sqlite3.SQLITE_READONLY | sqlite3.SQLITE_CANTOPEN | sqlite3.SQLITE_PERM:
            return ReadOnly(f"cannot be opened or written: {error}", path=path, hint="check the mount and the owner")
        case sqlite3.SQLITE_BUSY | sqlite3.SQLITE_LOCKED:
            return Locked(f"another process holds the database: {error}", path=path, hint="stop it, then try again")
        case sqlite3.SQLITE_IOERR | sqlite3.SQLITE_NOMEM | sqlite3.SQLITE_INTERRUPT:
            return IOFault(f"input/output failed: {error}", path=path, hint="check the disk (dmesg, smartctl)")
        case sqlite3.SQLITE_CORRUPT | sqlite3.SQLITE_NOTADB:
            return Corrupt(f"the database is damaged: {error}", path=path, hint=_HINT)
        case _:
            return Corrupt(f"no database of this journal: {error}", path=path, hint=_HINT)
