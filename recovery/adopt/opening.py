"""The memory.db to adopt, or the best that there is of it: whole, salvaged, a backup, or nothing, in this order.

Every way that was tried is an attempt with its outcome, for the report: what an import began with is never silent.
"""

from __future__ import annotations

import os
from typing import NamedTuple

from journal.errors import Corrupt
from recovery.adopt.salvage import Salvaged, salvage
from recovery.adopt.source import ForeignDatabase, open_foreign


class Attempt(NamedTuple):
    """One way to a memory.db, and what came of it. ``counts`` are rows by table, where any were read."""

    strategy: str  # whole, salvage, backup, backup salvage, fresh
    path: str
    outcome: str
    counts: dict[str, int] = {}

    def __str__(self) -> str:
        return f"{self.strategy}: {self.outcome}"


class Opened(NamedTuple):
    """``lost``: what could not be read, and why. ``attempts`` ends with the one that was taken."""

    database: ForeignDatabase | None
    attempts: list[Attempt]
    lost: list[tuple[str, str]]


def open_best(memory_db: str | None, backup: str | None, scratch: str) -> Opened:
    """Opens the first that gives anything. `backup` is a memory.db, or a directory that holds one; `scratch` is empty.

    Raises Unsupported for one of another schema, and IOFault for one that cannot be read now.
    """
    attempts: list[Attempt] = []
    for name, path in (("", memory_db), ("backup", _database_in(backup))):
        if path is None:
            continue
        opened = _open(name, path, f"{scratch}/{name or 'memory'}.db", attempts)
        if opened is not None:
            return opened
    if attempts:
        attempts.append(Attempt("fresh", "", "an empty memory: no row could be read anywhere"))
    return Opened(None, attempts, [])


def _database_in(backup: str | None) -> str | None:
    if backup is not None and os.path.isdir(backup):
        return os.path.join(backup, "memory.db")
    return backup


def _open(name: str, path: str, saved: str, attempts: list[Attempt]) -> Opened | None:
    try:
        database = open_foreign(path)
        attempts.append(Attempt(name or "whole", path, f"{path} is sound"))
        return Opened(database, attempts, [])
    except Corrupt as error:
        attempts.append(Attempt(name or "whole", path, f"not taken: {error.message}"))
    found = _saved(path, saved)
    attempt = Attempt(f"{name} salvage".strip(), path, str(found), found.rows)
    attempts.append(attempt)
    if found.is_empty:
        return None
    database = open_foreign(saved)
    database.path = path  # what it is made of: its fingerprint, and what errors name
    return Opened(database, attempts, found.lost)


def _saved(path: str, destination: str) -> Salvaged:
    try:
        return salvage(path, destination)
    except OSError:
        return Salvaged()
