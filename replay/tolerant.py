"""Rows of a table whose pages are partly unreadable: all that SQLite can give, walking around what it cannot.

Knows rowids and errors; must not know what the rows mean. Where a page is bad every seek that leads to it fails, so
the walk goes on behind it, at the first rowid whose row can be read again.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

ROWID_MIN, ROWID_MAX = -1 << 63, (1 << 63) - 1
_STEP = 16  # rowids: fewer than a page of our tables holds, so that no readable page between two bad ones is jumped
_CLOSE_PROBES = 10_000  # so many steps of that length; behind them, each is twice as long as the one before
_DAMAGE = (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB, sqlite3.SQLITE_IOERR)


class Gap(NamedTuple):
    """Rowids whose rows cannot be read, both ends included, and what SQLite says of them."""

    first: int
    last: int
    reason: str

    def __str__(self) -> str:
        first = "the beginning" if self.first == ROWID_MIN else str(self.first)
        last = "the end" if self.last == ROWID_MAX else str(self.last)
        return f"rowids from {first} to {last}: {self.reason}"


def is_damage(error: sqlite3.Error) -> bool:
    """SQLite's verdict on the pages, and not on the statement, a lock or the memory."""
    return (getattr(error, "sqlite_errorcode", 0) & 0xFF) in _DAMAGE


def walk(
    connection: sqlite3.Connection,
    table: str,
    columns: str,
    gaps: list[Gap],
    first: int = ROWID_MIN,
    last: int = ROWID_MAX,
) -> Iterator[tuple[Any, ...]]:
    """The rows with first <= rowid <= last that can be read, each with its rowid in front; `gaps` takes the rest.

    In the order of the tree, which is ascending where it is sound. `table` and `columns` are spliced into SQL. Raises
    sqlite3.Error for anything but damage.
    """
    sql = f"SELECT rowid, {columns} FROM {table} NOT INDEXED WHERE rowid >= ? ORDER BY rowid"
    at = first
    while at <= last:
        reason = ""
        try:
            for row in connection.execute(sql, (at,)):
                if row[0] > last:
                    return
                yield row
                at = max(at, row[0] + 1)
        except sqlite3.DatabaseError as error:
            if not is_damage(error):
                raise
            reason = str(error)
        if not reason:
            return
        if (row := _one(connection, sql, at)) is not None:  # the module steps ahead: an error costs the row in hand
            if not row or row[0][0] > last:
                return
            yield row[0]
            at = max(at, row[0][0]) + 1
            continue
        found = _next_readable(connection, sql, at, last)
        gaps.append(Gap(at, last if found is None else found - 1, reason))
        if found is None:
            return
        at = found


def _one(connection: sqlite3.Connection, sql: str, rowid: int) -> list[tuple[Any, ...]] | None:
    """The row at or behind `rowid`, none behind the last; None where it cannot be read."""
    try:
        return connection.execute(f"{sql} LIMIT 1", (rowid,)).fetchall()
    except sqlite3.DatabaseError as error:
        if not is_damage(error):
            raise
        return None


def _next_readable(connection: sqlite3.Connection, sql: str, after: int, last: int) -> int | None:
    """The first rowid above `after` from which the table can be read on, or None."""
    bad, step, probes = after, 1, 0
    while True:
        if bad >= last:
            return None
        probe = min(bad + step, last)
        if _can_read(connection, sql, probe):
            break
        bad, probes = probe, probes + 1
        if step < _STEP or probes > _CLOSE_PROBES:
            step *= 2
    while probe - bad > 1:
        middle = (bad + probe) // 2
        if _can_read(connection, sql, middle):
            probe = middle
        else:
            bad = middle
    return probe


def _can_read(connection: sqlite3.Connection, sql: str, rowid: int) -> bool:
    return _one(connection, sql, rowid) is not None


@contextmanager
def text_or_bytes(connection: sqlite3.Connection) -> Iterator[None]:
    """Inside, text that is no UTF-8 comes as bytes: damage is to be compared, not to be refused."""
    text_factory = connection.text_factory
    connection.text_factory = decoded
    try:
        yield
    finally:
        connection.text_factory = text_factory


def decoded(raw: bytes) -> str | bytes:
    try:
        return raw.decode()
    except UnicodeDecodeError:
        return raw
