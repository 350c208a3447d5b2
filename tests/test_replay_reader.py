"""Reading memory.db: what fails while rows are read is a declared error, and the next transaction works."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from journal.errors import Corrupt, Refused
from recovery import open_reader
from replay.schema import Position, connect, create, write_position

PAGE = 4096


@pytest.fixture
def memory_db(tmp_path: Path) -> Path:
    path = tmp_path / "memory.db"
    connection = connect(path)
    create(connection)
    rows = [(number, "global", f"entity {number}", "thing", "{}", 1.0, 1, 1) for number in range(2000)]
    connection.executemany("INSERT INTO entities VALUES (?, ?, ?, ?, ?, ?, ?, ?)", rows)
    write_position(connection, Position(2000, "00" * 16, 1, "00" * 32))
    connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    connection.close()
    return path


def test_a_page_that_turns_out_bad_while_rows_are_read(memory_db: Path):
    """Scenario: the transaction began well, and damage is met only behind its first rows."""
    whole = memory_db.read_bytes()
    with closing(sqlite3.connect(memory_db)) as connection:
        (root,) = connection.execute("SELECT rootpage FROM sqlite_schema WHERE name = 'entities'").fetchone()
    memory_db.write_bytes(whole[: (root - 1) * PAGE] + b"\xff" * PAGE + whole[root * PAGE :])
    with open_reader(memory_db) as reader:
        with pytest.raises(Corrupt, match="damaged"), reader.transaction() as db:
            db.execute("SELECT * FROM entities").fetchall()
        memory_db.write_bytes(whole)
        with reader.transaction() as db:
            assert db.execute("SELECT count(*) FROM entities").fetchone() == (2000,)


def test_a_mistake_in_the_callers_sql_is_not_called_damage(memory_db: Path):
    with open_reader(memory_db) as reader:
        with pytest.raises(sqlite3.OperationalError, match="no such table"), reader.transaction() as db:
            db.execute("SELECT * FROM entity")
        with pytest.raises(sqlite3.OperationalError, match="readonly"), reader.transaction() as db:
            db.execute("DELETE FROM entities")


def test_an_error_of_the_callers_own_leaves_no_transaction_open(memory_db: Path):
    """Scenario: an open one would keep memory.db's write-ahead log growing for as long as the reader lives."""
    with open_reader(memory_db) as reader:
        with pytest.raises(Refused), reader.transaction() as db:
            raise Refused("not_found", "no such thing")
        assert not db.in_transaction
