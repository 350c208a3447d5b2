"""Brings the messages of one agent in a live memory.db back to what the journal makes of them.

In one transaction, on the one writing connection: readers see them as they were or as they must be. Messages belong to
no scope and nothing hangs from them, so no other row is touched. Must not know why they are wrong.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple
from urllib.parse import quote

from replay.digest import COLUMNS

_COLUMNS = COLUMNS["messages"]


class MessagesRebuilt(NamedTuple):
    """Messages that the agent has now, how many of them were missing or altered before, and the rows that were
    replaced, in the order of `digest.COLUMNS`: what no event made, and what an altered row was."""

    rows: int
    missing: int
    replaced: list[tuple[Any, ...]]


def rebuild_messages(connection: sqlite3.Connection, expected: str, agent: str) -> MessagesRebuilt:
    """Gives `agent` its messages back, from the finished file `expected`, which stands at the same seq."""
    given = {"agent": agent}
    with _attached(connection, expected):
        connection.execute("BEGIN IMMEDIATE")
        try:
            missing = len(_only_in("expected", "main", connection, agent))
            replaced = _only_in("main", "expected", connection, agent)
            if missing or replaced:
                # A row under an id that the journal gave to one of these is none of the journal's, whosever it claims
                # to be.
                wanted = "SELECT id FROM expected.messages WHERE agent = :agent"
                connection.execute(f"DELETE FROM main.messages WHERE agent = :agent OR id IN ({wanted})", given)
                connection.execute(
                    f"INSERT INTO main.messages({_COLUMNS}) SELECT {_COLUMNS} FROM expected.messages "
                    "WHERE agent = :agent",
                    given,
                )
            (rows,) = connection.execute("SELECT count(*) FROM main.messages WHERE agent = :agent", given).fetchone()
            connection.execute("COMMIT")
        except BaseException:
            if connection.in_transaction:
                connection.execute("ROLLBACK")
            raise
    return MessagesRebuilt(rows, missing, replaced)


def _only_in(one: str, other: str, connection: sqlite3.Connection, agent: str) -> list[tuple[Any, ...]]:
    """Rows that are in one of the two schemas and not, or not so, in the other."""
    return connection.execute(
        f"SELECT {_COLUMNS} FROM {one}.messages WHERE agent = :agent "
        f"EXCEPT SELECT {_COLUMNS} FROM {other}.messages WHERE agent = :agent",
        {"agent": agent},
    ).fetchall()


@contextmanager
def _attached(connection: sqlite3.Connection, path: str) -> Iterator[None]:
    connection.execute("ATTACH ? AS expected", (f"file:{quote(path)}?mode=ro&immutable=1",))
    try:
        yield
    finally:
        connection.execute("DETACH expected")
