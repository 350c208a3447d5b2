"""The leaves of a finished file, read by two processes where it is large: SQLite hands over row by row, on one core.

Each half is read as a whole scan reads it, from the file, so what is found is what one process would find. A helper
that fails changes nothing but the time: its half is then read here, and what is wrong with the file is said here.
Knows files and halves; what a leaf is, is `digest`'s.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing, contextmanager

import msgspec

from replay.digest import BUCKET_BITS, ID_MAX, ID_MIN, Leaves, TableLeaves, table_leaves
from replay.schema import TABLES
from replay.working import connect_finished

SPLIT_BYTES_MIN = 64 << 20  # a smaller file is read sooner than a process starts

_WITH_ID = tuple(table for table in TABLES if table != "agents")


def file_leaves(path: str) -> Leaves:
    """All leaves of a file that nobody writes. Raises sqlite3.DatabaseError where a table cannot be read."""
    if os.stat(path).st_size < SPLIT_BYTES_MIN or (os.cpu_count() or 1) < 2:
        return _part_of(path, ID_MIN, ID_MAX) | _agents_of(path)
    middle = _middle_of(path)
    with _helper(path, middle) as helper:
        lower = _part_of(path, ID_MIN, middle - 1) | _agents_of(path)
        upper = _result_of(helper)
    if upper is None:
        upper = _part_of(path, middle, ID_MAX)
    return {table: lower[table] | upper.get(table, {}) for table in TABLES}


def _part_of(path: str, first_id: int, last_id: int) -> Leaves:
    with closing(connect_finished(path)) as connection:
        return {table: table_leaves(connection, table, first_id, last_id) for table in _WITH_ID}


def _agents_of(path: str) -> Leaves:
    with closing(connect_finished(path)) as connection:
        return {"agents": table_leaves(connection, "agents")}


def _middle_of(path: str) -> int:
    """The first id of a bucket, about in the middle: every event has an id, and most of them a row."""
    with closing(connect_finished(path)) as connection:
        last = max(connection.execute(f"SELECT max(rowid) FROM {table}").fetchone()[0] or 0 for table in _WITH_ID)
    return int(last) // 2 >> BUCKET_BITS << BUCKET_BITS


@contextmanager
def _helper(path: str, first_id: int) -> Iterator[subprocess.Popen[bytes] | None]:
    command = [sys.executable, "-P", "-m", "replay.scanning", path, str(first_id)]
    try:
        process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
        )
    except OSError:  # no more processes, or no interpreter there
        yield None
        return
    with process:
        try:
            yield process
        finally:
            process.kill()  # one that has ended does not mind


def _result_of(helper: subprocess.Popen[bytes] | None) -> Leaves | None:
    if helper is None:
        return None
    told, _ = helper.communicate()
    try:
        return msgspec.msgpack.decode(told, type=dict[str, TableLeaves]) if helper.returncode == 0 else None
    except msgspec.MsgspecError:  # what was started there is no Python
        return None


def main() -> None:
    path, first_id = sys.argv[1:]
    sys.stdout.buffer.write(msgspec.msgpack.encode(_part_of(path, int(first_id), ID_MAX)))


if __name__ == "__main__":
    main()
