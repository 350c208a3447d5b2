"""memory.db as a file: how it is opened, what it holds from the start, and what a position survives."""

from __future__ import annotations

import datetime
import json
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from replay import schema
from replay.schema import (
    Position,
    connect,
    create,
    metadata_text,
    read_position,
    read_projection_version,
    write_position,
)

POSITION = Position(7, "ab" * 16, 2, "cd" * 32)


@pytest.fixture
def connection(tmp_path: Path) -> Iterator[sqlite3.Connection]:
    with closing(connect(tmp_path / "memory.db")) as connection:
        create(connection)
        yield connection


def test_the_published_columns_are_there(connection: sqlite3.Connection) -> None:
    published = {
        "entities": "id scope name entity_type metadata confidence created_at updated_at",
        "observations": "id entity_id content text_sha256 metadata agent created_at",
        "relations": "id from_entity_id to_entity_id relation_type strength confidence metadata created_at",
        "embeddings": "text_sha256 model vector checksum",
        "messages": "id conversation_id message_id agent role content created_at",
        "agents": "name sha256 content status reason updated_at",
        "journal_position": "id seq journal_id epoch chain projection_version superseded_by",
    }
    for table, columns in published.items():
        found = [name for (name,) in connection.execute("SELECT name FROM pragma_table_info(?)", (table,))]
        assert found[: len(columns.split())] == columns.split()


def test_a_new_file_is_in_wal_mode_and_says_whose_it_is(connection: sqlite3.Connection) -> None:
    def pragma(name: str) -> Any:
        return connection.execute(f"PRAGMA {name}").fetchone()[0]

    assert (pragma("journal_mode"), pragma("synchronous"), pragma("foreign_keys")) == ("wal", 1, 1)
    assert (pragma("page_size"), pragma("application_id"), pragma("user_version")) == (4096, 0x414A4D44, 1)


@pytest.mark.parametrize("name", ["memory ?#%41.db", "été.db", "a&mode=ro.db"])
def test_any_path_is_opened_as_it_is_spelled(tmp_path: Path, name: str) -> None:
    with closing(connect(tmp_path / name)) as connection:
        create(connection)
    assert (tmp_path / name).exists()
    with closing(connect(str(tmp_path / name), read_only=True)) as connection:
        assert connection.execute("SELECT count(*) FROM entities").fetchone() == (0,)


def test_a_reader_cannot_write_and_makes_no_file(tmp_path: Path, connection: sqlite3.Connection) -> None:
    with closing(connect(tmp_path / "memory.db", read_only=True)) as reader, pytest.raises(sqlite3.OperationalError):
        reader.execute("DELETE FROM entities")
    with pytest.raises(sqlite3.OperationalError):
        connect(tmp_path / "missing.db", read_only=True)
    assert not (tmp_path / "missing.db").exists()


def test_a_file_that_is_no_database_is_refused_and_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "memory.db"
    path.write_bytes(b"not a database, and longer than a header " * 100)
    with pytest.raises(sqlite3.DatabaseError):
        connect(path)
    assert path.read_bytes().startswith(b"not a database")


def test_creating_twice_changes_nothing(connection: sqlite3.Connection) -> None:
    write_position(connection, POSITION)
    with pytest.raises(sqlite3.OperationalError, match="already exists"):
        create(connection)
    assert not connection.in_transaction
    assert read_position(connection) == POSITION


def test_indexes_that_come_last_are_the_same(tmp_path: Path, connection: sqlite3.Connection) -> None:
    with closing(connect(tmp_path / "other.db")) as other:
        create(other, indexes=False)
        assert other.execute("SELECT count(*) FROM sqlite_master WHERE sql LIKE 'CREATE%INDEX%'").fetchone() == (0,)
        schema.create_indexes(other)
        everything = "SELECT type, name, sql FROM sqlite_master ORDER BY name"
        assert other.execute(everything).fetchall() == connection.execute(everything).fetchall()


def test_no_foreign_key_is_left_without_an_index(connection: sqlite3.Connection) -> None:
    """A cascade over a table without one reads it whole, for every row that goes."""
    for table, column in (
        ("observations", "entity_id"),
        ("relations", "from_entity_id"),
        ("relations", "to_entity_id"),
    ):
        plan = connection.execute(f"EXPLAIN QUERY PLAN SELECT 1 FROM {table} WHERE {column} = 1").fetchall()
        assert "USING" in plan[0][3]
        assert "INDEX" in plan[0][3]


# -- position ---------------------------------------------------------------------------------------------------------


def test_a_position_is_one_row_that_moves(connection: sqlite3.Connection) -> None:
    assert read_position(connection) is None
    assert read_projection_version(connection) is None
    write_position(connection, Position(1, "00" * 16, 1, "00" * 32))
    write_position(connection, POSITION)
    assert read_position(connection) == POSITION
    assert read_projection_version(connection) == schema.PROJECTION_VERSION
    assert connection.execute("SELECT count(*) FROM journal_position").fetchone() == (1,)


def test_a_position_belongs_to_the_transaction_of_its_rows(connection: sqlite3.Connection) -> None:
    write_position(connection, POSITION)
    connection.execute("BEGIN")
    write_position(connection, Position(8, POSITION.journal_id, 2, "ef" * 32))
    connection.execute("ROLLBACK")
    assert read_position(connection) == POSITION


def test_moving_the_position_keeps_the_mark_of_a_superseded_file(connection: sqlite3.Connection) -> None:
    write_position(connection, POSITION)
    connection.execute("UPDATE journal_position SET superseded_by = 'memory-000002.db'")
    write_position(connection, POSITION)
    assert connection.execute("SELECT superseded_by FROM journal_position").fetchone() == ("memory-000002.db",)


@pytest.mark.parametrize(
    "sql",
    [
        "DROP TABLE journal_position",
        "DELETE FROM journal_position",
        "ALTER TABLE journal_position DROP COLUMN chain",
        "UPDATE journal_position SET chain = x'00'",
        "UPDATE journal_position SET seq = 'seven'",
        "DROP TABLE journal_position; CREATE VIEW journal_position AS SELECT 1 AS seq",
    ],
)
def test_a_position_that_cannot_be_read_as_one_is_none(connection: sqlite3.Connection, sql: str) -> None:
    write_position(connection, POSITION)
    connection.executescript(sql)
    assert read_position(connection) is None


# -- metadata ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("metadata", "text"),
    [
        ({}, "{}"),
        ({"b": 1, "a": [1.0, None, True]}, '{"b":1,"a":[1.0,null,true]}'),
        ({"é\0\n\u2028": "😀"}, '{"é\\u0000\\n\u2028":"😀"}'),
        ({"n": 1e16, "m": 1 << 63}, '{"n":1e+16,"m":9223372036854775808}'),
    ],
)
def test_metadata_is_compact_json_in_its_own_order(metadata: dict[str, Any], text: str) -> None:
    assert metadata_text(metadata) == text


@pytest.mark.parametrize(
    "value", [b"\xff", float("nan"), datetime.datetime(2026, 1, 1, tzinfo=datetime.UTC), {b"k": 1}], ids=repr
)
def test_metadata_that_json_does_not_have_is_kept_in_another_spelling(value: Any) -> None:
    assert list(json.loads(metadata_text({"k": value}))) == ["messagepack_base64"]


def test_metadata_deeper_than_the_stack_still_has_a_text() -> None:
    deep: dict[str, Any] = {}
    for _ in range(5000):
        deep = {"k": deep}
    assert metadata_text(deep) == '{"nested_too_deeply":true}'
