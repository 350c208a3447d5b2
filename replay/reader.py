"""Reading memory.db from any process, across swaps: each transaction sees one whole generation, the current one.

A connection belongs to one file, and after a swap that file is the past. So every transaction first asks whether the
link still names its file, and whether that file was marked superseded. Takes no lock but SQLite's own for a reader.
"""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from types import TracebackType

from journal.errors import Diverged, EnvironmentFault
from replay.faults import sqlite_fault
from replay.schema import connect

_ATTEMPTS = 20
_OF_THE_FILE = frozenset(
    {
        sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB, sqlite3.SQLITE_IOERR, sqlite3.SQLITE_CANTOPEN,
        sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED,
    }
)  # fmt: skip


class Reader:
    """A read-only view of memory.db. Not for two threads at once; each takes its own."""

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = os.path.abspath(path)
        self._target: str | None = None
        self._connection: sqlite3.Connection | None = None

    def __enter__(self) -> Reader:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    @contextmanager
    def transaction(self) -> Iterator[sqlite3.Connection]:
        """A read transaction on the current generation: everything read in it is of one seq.

        Raises EnvironmentFault where there is no memory.db to read, Diverged if the current one says it is not, and
        Corrupt, IOFault or Locked where reading it fails on the way. A mistake in the caller's SQL stays sqlite3's.
        """
        connection = self._begin()
        try:
            yield connection
        except sqlite3.Error as error:
            self.close()  # with its transaction; the next one looks at the file anew
            if getattr(error, "sqlite_errorcode", sqlite3.SQLITE_ERROR) & 0xFF in _OF_THE_FILE:
                raise sqlite_fault(error, self.path) from error
            raise
        finally:
            if self._connection is connection and connection.in_transaction:
                connection.execute("ROLLBACK")

    def _begin(self) -> sqlite3.Connection:
        superseded: str | None = None
        for _ in range(_ATTEMPTS):
            connection = self._connect()
            if connection is None:
                continue
            try:
                connection.execute("BEGIN")
                row = connection.execute("SELECT superseded_by FROM journal_position").fetchone()  # takes the snapshot
            except sqlite3.Error as error:
                self.close()
                raise sqlite_fault(error, self.path) from error
            superseded = row[0] if row is not None else None
            if superseded is None and self._resolve() == self._target:
                return connection
            connection.execute("ROLLBACK")
            self.close()
        if superseded is None:
            raise EnvironmentFault("memory.db cannot be opened", path=self.path, hint="run: journal check")
        raise Diverged(f"memory.db says that {superseded} took its place", path=self.path, hint="run: journal recover")

    def _resolve(self) -> str | None:
        """The file that the link names now; the path itself where it is a standalone file; None if nothing is there."""
        try:
            return os.path.join(os.path.dirname(self.path), os.readlink(self.path))
        except OSError:
            return self.path if os.path.isfile(self.path) else None

    def _connect(self) -> sqlite3.Connection | None:
        target = self._resolve()
        if self._connection is None and target is not None and os.path.isfile(target):
            try:
                self._connection = connect(target, read_only=True)
                self._target = target
            except sqlite3.OperationalError:
                return None  # retired between the look at the link and the open
        return self._connection

    def close(self) -> None:
        connection, self._connection, self._target = self._connection, None, None
        if connection is not None:
            connection.close()


def open_reader(path: str | os.PathLike[str]) -> Reader:
    """A reader of the memory.db at `path`; `with open_reader("data/memory.db") as r, r.transaction() as db: ...`"""
    return Reader(path)
