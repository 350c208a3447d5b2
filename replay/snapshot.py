"""A copy of a live memory.db as of one moment, to be read for as long as it takes.

A read transaction would do as well, but while one is open SQLite's write-ahead log cannot begin anew: it grows by what
others write, and whoever folds it then holds them all up. So the file and its log are copied, which takes a tenth of a
second for 250 MB, and only for that long a transaction keeps both from being written anew. Knows SQLite's files; must
not know what is in them.
"""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager, suppress

from journal.storage import Storage
from replay.reader import open_reader
from replay.working import discard

_CHUNK_BYTES = 1 << 20
_LOG_HEADER_BYTES = 32  # with salts that are new each time the log begins anew


@contextmanager
def snapshot(storage: Storage, memory_db: str, path: str) -> Iterator[sqlite3.Connection]:
    """A connection to a copy at `path` of what the current memory.db holds; the copy goes at the end.

    Not for a process that has memory.db open otherwise: closing the copied files would drop the locks of it, too.
    Raises what `Reader.transaction` does, and sqlite3.Error where the copy cannot be read.
    """
    try:
        _copy(storage, memory_db, path)
        with closing(sqlite3.connect(path, isolation_level=None)) as connection:
            connection.execute("PRAGMA synchronous=OFF")  # closing folds the copy's log, and would sync all of the copy
            yield connection
    finally:
        discard(storage, path)


def _copy(storage: Storage, memory_db: str, path: str) -> None:
    """While the transaction lasts, what it sees is folded at most, and nothing of it in the log is written over.

    A page that is being folded may be copied half, but is in the log as well, where SQLite looks first. What is
    appended to the log meanwhile is a later commit, and whole by its checksums, or no commit yet. Where all that it
    sees is in the file, the log may begin anew.
    """
    # What is opened is closed last: closing any descriptor of a file drops SQLite's locks on it.
    with ExitStack() as opened, open_reader(memory_db) as memory, memory.transaction() as connection:
        live = next(file for _, name, file in connection.execute("PRAGMA database_list") if name == "main")
        for suffix in ("-wal", ""):
            with suppress(FileNotFoundError):
                source = os.open(live + suffix, os.O_RDONLY | os.O_CLOEXEC)
                opened.callback(os.close, source)
                while True:
                    header = os.pread(source, _LOG_HEADER_BYTES, 0)
                    _copy_file(storage, source, path + suffix)
                    if not suffix or os.pread(source, _LOG_HEADER_BYTES, 0) == header:
                        break
                    storage.remove(path + suffix)  # the first half of one log and the second of another: older pages


def _copy_file(storage: Storage, source: int, path: str) -> None:
    file = storage.open(path, write=True, create=True)
    try:
        offset = 0
        while data := os.pread(source, _CHUNK_BYTES, offset):
            file.write_at(offset, data)
            offset += len(data)
    finally:
        file.close()
