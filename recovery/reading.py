"""Reads a memory.db that may be damaged, foreign or in use, and leaves no trace of it.

SQLite makes side files even to read a database in WAL mode, and plays a rollback journal back into it. So what nobody
holds is never opened where it lies with more than its own bytes to go by.
"""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from urllib.parse import quote

from replay.holders import holders
from replay.schema import Position, connect, read_position

_SPEAKING = ("-wal", "-journal")  # side files that change what the database says; a -shm is only an index

Identity = tuple[tuple[int, int, int] | None, ...]
"""Inode, size and time of change of a database and of its side files: while they stay, so does what was read."""


@contextmanager
def reading(path: str) -> Iterator[sqlite3.Connection]:
    """A read-only connection, in one snapshot.

    A file that surely no process holds is opened as immutable; one with a write-ahead log left by a kill is read from a
    copy, since reading it in place would recover it. One with a rollback journal that wants to be played back is
    unreadable. Raises sqlite3.Error, or OSError where there is no file.
    """
    if not os.path.isfile(path):
        raise FileNotFoundError(path)
    beside = [suffix for suffix in _SPEAKING if os.path.exists(path + suffix) and os.path.getsize(path + suffix)]
    if holders([path]) != []:  # where nobody can tell, somebody may be writing
        with _snapshot(connect(path, read_only=True)) as connection:
            yield connection
    elif beside:
        import shutil

        from replay.scratch import scratch_directory

        with scratch_directory("read") as scratch:
            copy = f"{scratch}/memory.db"
            for suffix in ("", *beside):
                shutil.copyfile(path + suffix, copy + suffix)
            with _snapshot(connect(copy, read_only=True)) as connection:
                yield connection
    else:
        uri = f"file:{quote(path)}?mode=ro&immutable=1"
        with _snapshot(sqlite3.connect(uri, uri=True, isolation_level=None)) as connection:
            yield connection


@contextmanager
def _snapshot(connection: sqlite3.Connection) -> Iterator[sqlite3.Connection]:
    """Position, rows and digest are read at one moment, whatever a server writes meanwhile."""
    with closing(connection):
        connection.execute("BEGIN")
        yield connection


def peek_position(path: str) -> Position | None:
    """Where a database file stands, if it can be read at all."""
    try:
        with reading(path) as connection:
            return read_position(connection)
    except (sqlite3.Error, OSError):
        return None


def identity(path: str) -> Identity:
    """See `Identity`; asked before the file is read."""
    found: list[tuple[int, int, int] | None] = []
    for suffix in ("", *_SPEAKING):
        try:
            status = os.stat(path + suffix)
        except OSError:
            found.append(None)
        else:
            found.append((status.st_ino, status.st_size, status.st_mtime_ns))
    return tuple(found)
