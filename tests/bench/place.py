"""The long journal that the sections of reading share, the rows that it makes, and their plain load."""

from __future__ import annotations

import gc
import os
import shutil
import sqlite3
from contextlib import closing
from pathlib import Path

from journal.packing import pack_segments
from journal.reader import LogReader
from journal.storage import RealStorage
from replay.digest import state_digest
from replay.layout import Layout
from replay.schema import create as create_tables
from replay.schema import create_indexes
from replay.working import connect_finished
from tests.bench.history import Rows, Shape, write_history
from tests.bench.timing import CountMismatch, Sample, Watch

TOGETHER = 1000
MORE = 10_000
INSERTS = {
    "entities": "INSERT INTO entities(id, scope, name, entity_type, metadata, confidence, created_at, updated_at)"
    " VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
    "observations": "INSERT INTO observations(id, entity_id, content, text_sha256, metadata, agent, created_at)"
    " VALUES (?, ?, ?, ?, ?, ?, ?)",
    "relations": "INSERT INTO relations(id, from_entity_id, to_entity_id, relation_type, strength, confidence,"
    " metadata, created_at) VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
}


class Place:
    """A long journal under `root`, the rows that it makes, and the digest of their plain load."""

    def __init__(self, root: Path, *, quick: bool) -> None:
        self.root = root
        self.shape = Shape(100 if quick else 100_000)
        self.more = 50 if quick else MORE
        self.storage = RealStorage()
        self.layout = Layout.under(f"{root}/long")
        self.rows = write_history(self.layout.journal, self.shape, TOGETHER)
        gc.freeze()  # millions of tuples that no run made: the collector need not walk them in any
        self._digest: str | None = None

    def reader(self, journal: str | None = None) -> LogReader:
        return LogReader(self.storage, journal or self.layout.journal)

    def packed(self) -> str:
        """A copy of the journal, made once, of which every segment is packed that can be."""
        path = f"{self.root}/packed"
        if not os.path.exists(path):
            shutil.copytree(self.layout.journal, path)
            pack_segments(self.storage, path, run_bytes=None)
        return path

    def source(self) -> str:
        """A database of the rows, made once."""
        path = f"{self.root}/source.db"
        if not os.path.exists(path):
            plain_load(path, self.rows)
        return path

    def check(self, digest: str) -> None:
        """Raises CountMismatch where a state is not that of the plain rows."""
        if self._digest is None:
            with closing(connect_finished(self.source())) as connection:
                self._digest = state_digest(connection)
        if digest != self._digest:
            raise CountMismatch("the rebuilt state is not that of the plain rows")


def plain_load(path: str, rows: Rows) -> float:
    """Loads rows into a new file, which is durable at the end. Returns the seconds."""
    with Watch() as watch:
        with closing(sqlite3.connect(path, isolation_level=None)) as connection:
            for setting in ("page_size=4096", "journal_mode=OFF", "synchronous=OFF"):
                connection.execute(f"PRAGMA {setting}")
            create_tables(connection, indexes=False)
            connection.execute("BEGIN")
            for table, insert in INSERTS.items():
                connection.executemany(insert, getattr(rows, table))
            create_indexes(connection)
            connection.execute("COMMIT")
        sync(path)
    return watch.seconds


def sync(path: str) -> None:
    fd = os.open(path, os.O_RDWR)
    os.fsync(fd)
    os.close(fd)


def counted(path: str, events: int, seconds: float) -> Sample:
    """The sample of a run that made the database at `path`, which is removed."""
    with closing(connect_finished(path)) as connection:
        counts = (connection.execute(f"SELECT count(*) FROM {table}").fetchone()[0] for table in INSERTS)
        found = sum(counts)
    remove(path)
    return Sample(events, seconds, found)


def remove(path: str) -> None:
    for name in (path, f"{path}-wal", f"{path}-shm"):
        if os.path.exists(name):
            os.unlink(name)
