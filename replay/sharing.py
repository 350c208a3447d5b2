"""A generation that has another name elsewhere, of a backup made of hard links, is copied before it is written.

SQLite writes in place: what the next event changes would change in the backup, too, half of it in a -wal that the
backup does not follow. Agent files, manifests and parts are new files behind each rename, and the log begins a new
segment with each opener, so only memory.db needs this.
"""

from __future__ import annotations

import os
import sqlite3
from contextlib import closing

from journal.errors import Corrupt
from journal.storage import Storage
from replay.faults import sqlite_fault
from replay.layout import Layout
from replay.rebuild import generations_of
from replay.schema import connect
from replay.working import connect_private, discard, finish


def unshare(storage: Storage, layout: Layout) -> str | None:
    """Gives memory.db a file of its own; returns its path, None where it has one already. Under the log's lock.

    The other name keeps the bytes it has: the old generation is not even told that it was superseded. One that cannot
    be read is left to recovery, which makes a new one. Raises NoSpace where the copy does not fit.
    """
    generations = generations_of(storage, layout)
    current = generations.current()
    if current.kind != "generation" or current.path is None or not _is_shared(current.path):
        return None
    generations.clean()
    path = generations.building_path()
    try:
        with closing(connect(current.path, read_only=True)) as old, closing(connect_private(path)) as new:
            old.backup(new)
        finish(storage, path, "wal")
    except sqlite3.Error as error:
        discard(storage, path)
        fault = sqlite_fault(error, current.path)
        if isinstance(fault, Corrupt):
            return None
        raise fault from error
    except BaseException:
        discard(storage, path)
        raise
    return generations.swap(path, mark=False).path


def _is_shared(path: str) -> bool:
    for name in (path, f"{path}-wal"):
        try:
            if os.stat(name).st_nlink > 1:
                return True
        except FileNotFoundError:
            continue
    return False
