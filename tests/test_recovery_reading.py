"""A memory.db that a server may hold is read under SQLite's locks: folding its log changes no row below that."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from recovery.reading import reading


@pytest.mark.parametrize("held", [True, None])
def test_where_somebody_may_hold_it_the_rows_stand_still(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, held: bool | None
) -> None:
    """None: nobody can tell. Taken for nobody, the file would be read as immutable, without a lock."""
    path = str(tmp_path / "memory.db")
    monkeypatch.setattr("recovery.reading.holders", lambda paths: ["a server"] if held else None)
    with closing(sqlite3.connect(path, isolation_level=None)) as server:
        server.execute("PRAGMA journal_mode=WAL")
        server.execute("CREATE TABLE t (x)")
        server.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        with reading(path) as connection:
            assert connection.execute("SELECT count(*) FROM t").fetchone() == (0,)
            server.executemany("INSERT INTO t VALUES (?)", [("x" * 4000,)] * 50)
            busy, *_ = server.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
            assert busy == 1
            assert connection.execute("SELECT count(*) FROM t").fetchone() == (0,)
