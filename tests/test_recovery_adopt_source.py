"""A foreign memory.db as a file: links, logs left beside it, damage, schemas nobody knows. It is never changed."""

from __future__ import annotations

import json
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from journal.errors import Corrupt, IOFault, Unsupported
from recovery.adopt.source import open_foreign
from replay import schema
from tests.foreign import (
    CAXTON,
    adopt,
    adoption,
    apply,
    build,
    entity,
    fill,
    published,
    published_rows,
    relation,
    sides,
)


def test_a_database_in_wal_mode_is_read_without_making_files_beside_it(tmp_path: Path) -> None:
    memory = published(tmp_path / "memory.db", **published_rows())
    before = sides(tmp_path)
    assert before.keys() == {"memory.db"}
    adopt(memory)
    assert sides(tmp_path) == before


def test_rows_that_are_only_in_the_wal_are_taken_and_the_wal_stays(tmp_path: Path) -> None:
    """As a kill leaves it: the last transactions are in memory.db-wal alone."""
    live = tmp_path / "live"
    live.mkdir()
    with closing(schema.connect(live / "memory.db")) as writer:
        schema.create(writer)
        fill(writer, **published_rows())
        for name in ("memory.db", "memory.db-wal"):
            (tmp_path / name).write_bytes((live / name).read_bytes())
    before = sides(tmp_path)
    adopted, _ = adopt(tmp_path / "memory.db")
    assert len(adopted) == 5
    after = sides(tmp_path)
    after.pop("memory.db-shm", None)  # SQLite's own index of the -wal: it is made anew at any opening
    assert after == before


def test_a_link_is_opened_with_the_wal_of_its_target(tmp_path: Path) -> None:
    with closing(schema.connect(tmp_path / "memory-000001.db")) as writer:
        schema.create(writer)
        (tmp_path / "memory.db").symlink_to("memory-000001.db")
        fill(writer, **published_rows())
        assert len(adopt(tmp_path / "memory.db")[0]) == 5


@pytest.mark.parametrize("mode", [b"\x01\x01", b"\x02\x02"], ids=["rollback", "leaving WAL"])
def test_a_hot_rollback_journal_is_not_overlooked(tmp_path: Path, mode: bytes) -> None:
    """Killed in mid-transaction: pages of it are in the file, and only the -journal says so."""
    live = tmp_path / "live"
    live.mkdir()
    memory = build(
        live / "memory.db", CAXTON, entities=[entity(n, f"E{n}", '["' + "x" * 500 + '"]') for n in range(1, 99)]
    )
    with closing(sqlite3.connect(memory, isolation_level=None)) as writer:
        writer.execute("PRAGMA cache_size=1")  # spills pages into the file before the commit
        writer.execute("BEGIN")
        writer.execute("UPDATE entities SET entity_type = 'torn'")
        for name in ("memory.db", "memory.db-journal"):
            (tmp_path / name).write_bytes((live / name).read_bytes())
    with (tmp_path / "memory.db").open("r+b") as file:
        file.seek(18)
        file.write(mode)
    before = sides(tmp_path)
    assert b"torn" in (tmp_path / "memory.db").read_bytes()
    with pytest.raises(IOFault, match="cannot be read") as caught:
        adopt(tmp_path / "memory.db")
    assert caught.value.hint == "stop its server, or adopt a copy"
    assert sides(tmp_path) == before


def test_an_index_that_hides_rows_hides_none_of_them(tmp_path: Path) -> None:
    """Rows that an index lacks: quick_check does not see it, and a query that uses the index skips them."""
    memory = published(tmp_path / "memory.db", **published_rows())
    with closing(sqlite3.connect(memory, isolation_level=None)) as connection:
        connection.execute("CREATE INDEX partial_view ON observations(entity_id, content) WHERE entity_id = 3")
        connection.execute("PRAGMA writable_schema=ON")
        connection.execute(
            "UPDATE sqlite_master SET sql = 'CREATE INDEX partial_view ON observations(entity_id, content)'"
            " WHERE name = 'partial_view'"
        )
    with closing(sqlite3.connect(memory)) as connection:
        assert connection.execute("SELECT count(*) FROM observations WHERE entity_id = 9").fetchone() == (0,)
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    assert len(adopt(memory)[0]) == 5


@pytest.mark.parametrize(
    "content", [b"", b"not a database, but long enough to be taken for one" * 9, b"SQLite format 3\0"]
)
def test_a_file_that_is_no_memory_is_not_taken_for_one_and_left_as_it_is(tmp_path: Path, content: bytes) -> None:
    memory = tmp_path / "memory.db"
    memory.write_bytes(content)
    with pytest.raises((Corrupt, Unsupported)) as caught:
        open_foreign(str(memory))
    assert caught.value.hint is not None
    assert memory.read_bytes() == content


@pytest.mark.parametrize(("offset", "damage"), [(4096 * 9, bytes(4096)), (36, b"\0\0\0\5")])
def test_damage_is_seen_before_anything_is_read(tmp_path: Path, offset: int, damage: bytes) -> None:
    """A page of zeros cannot be read; a free list that is shorter than the header says is only found by a check."""
    rows = [entity(number, f"E{number}", json.dumps(["x" * 900])) for number in range(1, 200)]
    memory = build(tmp_path / "memory.db", CAXTON, entities=rows)
    data = bytearray(memory.read_bytes())
    data[offset : offset + len(damage)] = damage
    memory.write_bytes(data)
    with pytest.raises(Corrupt, match="damaged"):
        open_foreign(str(memory))


@pytest.mark.parametrize(
    ("ddl", "complaint"),
    [
        ("CREATE TABLE users(id, mail); CREATE TABLE posts(id)", "found posts(id), users(id, mail)"),
        (
            "CREATE TABLE entities(id, label)",
            "entities has no column entity_type, name; found",
        ),
        (
            "CREATE TABLE entities(id, name, entity_type); CREATE TABLE observations(entity_id, body)",
            "content, observation",
        ),
        ("CREATE TABLE entities(id, name, entity_type); CREATE TABLE relations(id, source, target)", "from_entity_id"),
    ],
)
def test_an_unknown_schema_is_named_table_by_table(tmp_path: Path, ddl: str, complaint: str) -> None:
    with pytest.raises(Unsupported, match="unknown schema") as caught:
        adoption(build(tmp_path / "memory.db", ddl))
    assert complaint in caught.value.message


def test_tables_that_have_no_place_are_named(tmp_path: Path) -> None:
    memory = build(
        tmp_path / "memory.db",
        CAXTON + "CREATE TABLE audit(x); INSERT INTO audit VALUES (1), (2); CREATE VIRTUAL TABLE words USING fts5(a);"
        "INSERT INTO words VALUES ('x');",
    )
    with closing(sqlite3.connect(memory, isolation_level=None)) as connection:
        connection.execute("PRAGMA writable_schema=ON")  # a table of an extension that is not loaded here
        sql = "CREATE VIRTUAL TABLE vectors USING vec0(a)"
        connection.execute("INSERT INTO sqlite_master VALUES ('table', 'vectors', 'vectors', 0, ?)", (sql,))
    left_out = adopt(memory)[1]
    assert "table audit, 2 rows: no event has a place for this table" in left_out
    assert "table words, 1 rows: no event has a place for this table" in left_out
    assert "table vectors, rows that cannot be counted: no event has a place for this table" in left_out


def test_ids_may_be_text(tmp_path: Path) -> None:
    memory = build(
        tmp_path / "memory.db",
        CAXTON.replace("id INTEGER PRIMARY KEY", "id TEXT PRIMARY KEY").replace("_id INTEGER", "_id TEXT"),
        entities=[{**entity(0, "A", '["one"]'), "id": "u-1"}, {**entity(0, "B"), "id": "u-2"}],
        relations=[{**relation(0, 0, 0), "id": "r-1", "from_entity_id": "u-1", "to_entity_id": "u-2"}],
    )
    adopted, left_out = adopt(memory)
    apply(adopted, tmp_path / "new.db").close()
    assert len(adopted) == 4
    assert left_out == []
