"""The digest: its canonical form written out by hand, what must change it, and what must not."""

from __future__ import annotations

import hashlib
import sqlite3
import struct
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from replay.digest import bucket_leaf, state_digest, table_digest, table_leaves
from replay.schema import TABLES, Position, connect, create, write_position


@pytest.fixture
def connection(tmp_path: Path) -> Iterator[sqlite3.Connection]:
    with closing(connect(tmp_path / "memory.db")) as connection:
        create(connection)
        fill(connection)
        yield connection


def fill(connection: sqlite3.Connection, *, backwards: bool = False) -> None:
    """A row or two in each table, ids on both sides of a bucket's edge."""
    content = b"---\nname: writer\n---\n"
    statements: list[tuple[str, tuple[Any, ...]]] = [
        ("INSERT INTO entities VALUES (?, ?, ?, ?, ?, ?, ?, ?)", (1, "global", "Acme", "company", "{}", 1.0, 5, 6)),
        ("INSERT INTO entities VALUES (?, ?, ?, ?, ?, ?, ?, ?)", (1023, "global", "été", "x", '{"k":1}', 0.25, 5, 6)),
        ("INSERT INTO entities VALUES (?, ?, ?, ?, ?, ?, ?, ?)", (1024, "global", "B", "x", "{}", None, 1 << 60, 6)),
        ("INSERT INTO observations VALUES (?, ?, ?, ?, ?, ?, ?)", (2, 1, "a \0 b", bytes(32), "{}", None, 7)),
        ("INSERT INTO observations VALUES (?, ?, ?, ?, ?, ?, ?)", (5000, 1, "x" * 300, b"\xff" * 32, "{}", "w", 7)),
        ("INSERT INTO relations VALUES (?, ?, ?, ?, ?, ?, ?, ?)", (3, 1, 1023, "knows", 0.5, 1.0, "{}", 8)),
        ("INSERT INTO messages VALUES (?, ?, ?, ?, ?, ?, ?)", (4, "c", "m", "writer", "user", "hi", 9)),
        ("INSERT INTO agents VALUES (?, ?, ?, ?, ?, ?)", ("b", sha(content), content, "active", "", 10)),
        ("INSERT INTO agents VALUES (?, ?, ?, ?, ?, ?)", ("B", sha(b""), b"", "failed", "why", 10)),
    ]
    connection.execute("PRAGMA foreign_keys=OFF")
    for sql, values in reversed(statements) if backwards else statements:
        connection.execute(sql, values)


def sha(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


# -- the canonical form, once more and by hand -------------------------------------------------------------------------


def cell(value: Any) -> bytes:
    """MessagePack of the values above, as docs/format.md describes it."""
    if value is None:
        return b"\xc0"
    if isinstance(value, float):
        return b"\xcb" + struct.pack(">d", value)
    if isinstance(value, int):
        for limit, front, form in ((0x80, b"", ">B"), (1 << 8, b"\xcc", ">B"), (1 << 16, b"\xcd", ">H")):
            if value < limit:
                return front + struct.pack(form, value)
        return b"\xce" + struct.pack(">I", value) if value < 1 << 32 else b"\xcf" + struct.pack(">Q", value)
    if isinstance(value, bytes):
        return b"\xc4" + bytes([len(value)]) + value
    text = value.encode()
    if len(text) < 32:
        return bytes([0xA0 | len(text)]) + text
    return (b"\xd9" + bytes([len(text)]) if len(text) < 256 else b"\xda" + struct.pack(">H", len(text))) + text


def row(*cells: Any) -> bytes:
    return bytes([0x90 | len(cells)]) + b"".join(map(cell, cells))


def test_the_digest_is_what_the_canonical_form_says(connection: sqlite3.Connection) -> None:
    content = b"---\nname: writer\n---\n"
    leaves: dict[str, dict[int, bytes]] = {
        "entities": {
            0: row(1, "global", "Acme", "company", "{}", 1.0, 5, 6)
            + row(1023, "global", "été", "x", '{"k":1}', 0.25, 5, 6),
            1: row(1024, "global", "B", "x", "{}", None, 1 << 60, 6),
        },
        "observations": {
            0: row(2, 1, "a \0 b", bytes(32), "{}", None, 7),
            4: row(5000, 1, "x" * 300, b"\xff" * 32, "{}", "w", 7),
        },
        "relations": {0: row(3, 1, 1023, "knows", 0.5, 1.0, "{}", 8)},
        "messages": {0: row(4, "c", "m", "writer", "user", "hi", 9)},
        "agents": {0: row("B", sha(b""), "failed", "why", 10) + row("b", sha(content), "active", "", 10)},
    }
    whole = b"agent-journal state digest v1\n"
    for table, buckets in leaves.items():
        hashed = b"".join(struct.pack("<q", b) + hashlib.sha256(rows).digest() for b, rows in buckets.items())
        whole += table.encode() + b"\0" + hashlib.sha256(hashed).digest()
        found = {b: leaf.sha256 for b, leaf in table_leaves(connection, table).items()}
        assert found == {b: hashlib.sha256(rows).digest() for b, rows in buckets.items()}
    assert state_digest(connection) == sha(whole)


def test_a_bucket_of_more_than_fifteen_rows_is_hashed_like_any_other(connection: sqlite3.Connection) -> None:
    """An array's header grows with its length; none of it may enter the leaf."""
    for count in (15, 16, 1024):
        connection.execute("DELETE FROM messages")
        values = [(n, "c", f"m{n}", "w", "user", "hi", n) for n in range(count)]
        connection.executemany("INSERT INTO messages VALUES (?, ?, ?, ?, ?, ?, ?)", values)
        expected = hashlib.sha256(b"".join(row(*each) for each in values)).digest()
        assert table_leaves(connection, "messages") == {0: (count, expected)}
        assert bucket_leaf(connection, "messages", 0) == (count, expected)


def test_the_empty_state_has_a_fixed_digest(tmp_path: Path) -> None:
    with closing(connect(tmp_path / "empty.db")) as connection:
        create(connection)
        tables = b"".join(name.encode() + b"\0" + hashlib.sha256().digest() for name in TABLES)
        assert state_digest(connection) == sha(b"agent-journal state digest v1\n" + tables)
        assert [table_leaves(connection, table) for table in TABLES] == [{}] * len(TABLES)
        assert table_digest({}) == hashlib.sha256().digest()


# -- what must not change it -------------------------------------------------------------------------------------------


def test_neither_order_nor_layout_nor_position_changes_it(connection: sqlite3.Connection, tmp_path: Path) -> None:
    before = state_digest(connection)
    write_position(connection, Position(9, "ab" * 16, 1, "cd" * 32))
    connection.execute("INSERT INTO embeddings VALUES (x'00', 'm', x'00', 0)")
    connection.execute("CREATE INDEX extra ON entities(entity_type)")
    connection.execute("ALTER TABLE entities ADD COLUMN added TEXT DEFAULT 'later'")
    connection.execute("VACUUM")
    assert state_digest(connection) == before
    with closing(sqlite3.connect(tmp_path / "other.db", isolation_level=None)) as other:
        other.execute("PRAGMA page_size=512")
        create(other)
        fill(other, backwards=True)
        assert state_digest(other) == before


def test_how_the_caller_reads_rows_changes_nothing(connection: sqlite3.Connection) -> None:
    before = state_digest(connection)
    connection.row_factory = sqlite3.Row
    connection.text_factory = bytes
    assert state_digest(connection) == before
    assert (connection.row_factory, connection.text_factory) == (sqlite3.Row, bytes)


def test_it_sees_one_moment_and_ends_no_transaction_of_the_caller(
    connection: sqlite3.Connection, tmp_path: Path
) -> None:
    before = state_digest(connection)
    assert not connection.in_transaction
    with closing(connect(tmp_path / "memory.db", read_only=True)) as reader:
        reader.execute("BEGIN")
        assert state_digest(reader) == before
        connection.execute("DELETE FROM agents")
        assert state_digest(reader) == before
        assert reader.in_transaction
        reader.execute("COMMIT")
        assert state_digest(reader) != before


# -- what must change it ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("table", TABLES)
def test_every_published_cell_counts(connection: sqlite3.Connection, table: str) -> None:
    before = state_digest(connection)
    leaves = {name: table_leaves(connection, name) for name in TABLES}
    columns = [name for (name,) in connection.execute("SELECT name FROM pragma_table_info(?)", (table,))]
    for column in columns:
        connection.execute("BEGIN")
        connection.execute(f"UPDATE {table} SET {column} = 77 WHERE rowid = (SELECT max(rowid) FROM {table})")
        assert state_digest(connection) != before, column
        changed = {name for name in TABLES if table_leaves(connection, name) != leaves[name]}
        assert changed == {table}
        connection.execute("ROLLBACK")
    connection.execute(f"DELETE FROM {table} WHERE rowid = (SELECT min(rowid) FROM {table})")
    assert state_digest(connection) != before


@pytest.mark.parametrize(
    "change",
    [
        "content = x'00'",
        "content = CAST(content AS TEXT)",
        "content = NULL",
        "sha256 = upper(sha256)",
        "sha256 = CAST(sha256 AS BLOB)",
    ],
)
def test_an_agent_that_is_not_what_its_sha256_says_has_another_digest(
    connection: sqlite3.Connection, change: str
) -> None:
    connection.executescript(
        "CREATE TABLE copy(name, sha256, content, status, reason, updated_at);"
        "INSERT INTO copy SELECT * FROM agents; DROP TABLE agents; ALTER TABLE copy RENAME TO agents;"
    )
    before = state_digest(connection)
    connection.execute(f"UPDATE agents SET {change} WHERE name = 'b'")
    assert state_digest(connection) != before


@pytest.mark.parametrize(
    ("one", "other"),
    [("1", "1.0"), ("1", "'1'"), ("'a'", "x'61'"), ("NULL", "''"), ("0", "NULL"), ("'e\u0301'", "'é'")],
)
def test_values_of_another_type_are_another_state(connection: sqlite3.Connection, one: str, other: str) -> None:
    connection.executescript(
        "CREATE TABLE copy(id INTEGER PRIMARY KEY, conversation_id, message_id, agent, role, content, created_at);"
        "DROP TABLE messages; ALTER TABLE copy RENAME TO messages; INSERT INTO messages(id) VALUES (1)"
    )
    digests = set()
    for value in (one, other):
        connection.execute(f"UPDATE messages SET content = {value}")
        digests.add(state_digest(connection))
    assert len(digests) == 2


# -- what others leave in a file ---------------------------------------------------------------------------------------


def test_text_that_is_no_utf8_is_hashed_as_its_bytes(connection: sqlite3.Connection) -> None:
    connection.execute("UPDATE messages SET content = CAST(x'61ff' AS TEXT)")
    connection.execute("UPDATE agents SET reason = CAST(x'ff' AS TEXT), name = CAST(x'fe' AS TEXT) WHERE name = 'b'")
    expected = hashlib.sha256(row(4, "c", "m", "writer", "user", b"a\xff", 9)).digest()
    assert table_leaves(connection, "messages") == {0: (1, expected)}
    assert len(state_digest(connection)) == 64
    assert connection.text_factory is str


def test_the_ends_of_the_range_of_ids_have_their_buckets(connection: sqlite3.Connection) -> None:
    connection.execute("DELETE FROM messages")
    for row_id in (-(1 << 63), -1, (1 << 63) - 1):
        connection.execute("INSERT INTO messages VALUES (?, 'c', ?, 'w', 'user', '', 0)", (row_id, str(row_id)))
    leaves = table_leaves(connection, "messages")
    assert list(leaves) == [-(1 << 53), -1, (1 << 53) - 1]
    assert leaves == {bucket: bucket_leaf(connection, "messages", bucket) for bucket in leaves}
    assert bucket_leaf(connection, "messages", 0) is None
    assert len(state_digest(connection)) == 64


def test_a_foreign_table_of_the_same_name_is_digested_or_named(connection: sqlite3.Connection) -> None:
    connection.executescript(
        "DROP TABLE messages; CREATE TABLE messages(id TEXT, conversation_id, message_id, agent, role, content,"
        " created_at); INSERT INTO messages VALUES ('x', 1, 2.5, x'00', NULL, 'y', 'z')"
    )
    assert len(state_digest(connection)) == 64
    connection.execute("DROP TABLE messages")
    with pytest.raises(sqlite3.OperationalError, match="no such table: messages"):
        state_digest(connection)
    assert not connection.in_transaction


def test_bytes_changed_inside_row_text_change_the_digest(connection: sqlite3.Connection, tmp_path: Path) -> None:
    """SQLite's own check passes such a file."""
    before = state_digest(connection)
    connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    connection.close()
    path = tmp_path / "memory.db"
    data = path.read_bytes()
    assert data.count(b"x" * 300) == 1
    path.write_bytes(data.replace(b"x" * 300, b"x" * 299 + b"y"))
    with closing(connect(path, read_only=True)) as damaged:
        assert damaged.execute("PRAGMA integrity_check").fetchone() == ("ok",)
        assert state_digest(damaged) != before
