"""How much a state held at moments of its past: rows by table, from states that are built one upon the other.

A later moment on the same timeline is reached by the events in between; where a restore lies between, it is built anew.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Sequence
from contextlib import closing

import msgspec

from journal.reader import LogReader
from recovery.data import Data
from replay.digest import COLUMNS
from replay.engine import build_state
from replay.extend import extend
from replay.history import read_history
from replay.scratch import scratch_directory
from replay.timeline import lineage_from
from replay.working import connect_finished, discard

Progress = Callable[[int, int], None]


class Held(msgspec.Struct, frozen=True):
    """What state(``seq``) holds: rows by table, and the bytes of the database file without its vectors."""

    seq: int
    rows: dict[str, int]
    bytes: int


def growth(data: Data, reader: LogReader, seqs: Sequence[int], progress: Progress | None = None) -> list[Held]:
    """What the states at these seqs held, which ascend; a seq that is given twice is counted once.

    Nothing is left behind. Raises as `build_state` does.
    """
    history = read_history(reader, data.checkpoints)
    found: list[Held] = []
    at: int | None = None
    with scratch_directory("growth") as scratch:
        path = f"{scratch}/state.db"
        for seq in dict.fromkeys(seqs):
            restores = history.restores_until(seq)
            between = lineage_from(restores, seq, at) if at is not None else None
            if between is not None:
                extend(reader, path, between, seq)
            else:
                discard(data.storage, path)
                build_state(
                    data.storage, data.layout.journal, reader, seq, path, history=history, embeddings=False,
                    journal_mode="delete",
                )  # fmt: skip
            at = seq
            with closing(connect_finished(path)) as connection:
                rows = {table: _count(connection, table) for table in COLUMNS}
            found.append(Held(seq, rows, data.storage.size(path)))
            if progress is not None:
                progress(seq, seqs[-1])
    return found


def _count(connection: sqlite3.Connection, table: str) -> int:
    return int(connection.execute(f"SELECT count(*) FROM {table}").fetchone()[0])
