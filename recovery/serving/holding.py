"""Who uses the data directory: the process that holds the journal's lock, and those that may write memory.db.

A reader is nobody's concern: it follows the link to the next generation at its next transaction.
"""

from __future__ import annotations

import os
from time import monotonic, sleep

from journal.errors import Locked
from recovery.data import Data
from replay.holders import Holder, holders, writers

_LOOK_SECONDS = 0.05


def users_of(data: Data) -> list[Holder]:
    """Other processes that hold the journal's lock, or have memory.db open for writing. Empty where nobody can tell."""
    found = {each.pid: each for each in [*lock_holders(data), *memory_writers(data)]}
    return [found[pid] for pid in sorted(found)]


def lock_holders(data: Data) -> list[Holder]:
    return _others(holders([f"{data.layout.journal}/lock"]))


def memory_writers(data: Data) -> list[Holder]:
    """By the database file itself: SQLite opens its write-ahead log for writing for readers, too."""
    return _others(writers([data.generations.current().path or data.layout.memory_db]))


def refuse_beside_writer(data: Data) -> None:
    """Before memory.db is swapped: what a process that opened it by itself wrote from then on, nobody would read.

    Raises Locked. The one that holds the journal is another matter: it recovers by itself, through its control socket.
    """
    ours = {each.pid for each in lock_holders(data)}
    writing = [each for each in memory_writers(data) if each.pid not in ours]
    if writing:
        raise Locked(
            f"{writing[0]} has memory.db open for writing, and would go on with the one that is replaced",
            path=data.layout.memory_db,
            hint="stop it, or let recovery stop it: server.control in journal.yaml",
        )


def wait_until_free(data: Data, seconds: float) -> list[Holder]:
    """Waits until nobody uses the data directory; returns who still does after so many seconds."""
    until = monotonic() + seconds
    while (left := users_of(data)) and monotonic() < until:
        sleep(_LOOK_SECONDS)
    return left


def _others(found: list[Holder] | None) -> list[Holder]:
    return [each for each in found or () if each.pid != os.getpid()]
