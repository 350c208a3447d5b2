"""memory.db as a file: its tables, how it is opened, and the position it stands at.

Knows the published schema; must not know what events mean. The tables are a public contract, since servers read them:
columns may be added, never renamed or removed. Ids are the seq of the event that made the row, times are integer UTC
nanoseconds, metadata is JSON text.
"""

from __future__ import annotations

import base64
import json
import os
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from hashlib import sha256
from typing import Any, Final
from urllib.parse import quote

import msgspec

PROJECTION_VERSION = 1
APPLICATION_ID = 0x414A4D44  # "AJMD": names the file as ours before any table is read
PAGE_BYTES = 4096
_CACHE_KIB = 16 << 10  # each new row dirties a page of an index at random: SQLite's 2 MiB spill them again and again

TABLES = ("entities", "observations", "relations", "messages", "agents")
"""The tables that make up a state, in the order of its digest."""

# embeddings keeps its rowid: without one, a vector of 1.5 KB would spill each row onto a page of its own (2.2 times
# the file, four times the loading).
_TABLES = """
CREATE TABLE entities(
    id INTEGER PRIMARY KEY, scope TEXT NOT NULL, name TEXT NOT NULL, entity_type TEXT NOT NULL,
    metadata TEXT NOT NULL, confidence REAL, created_at INTEGER NOT NULL, updated_at INTEGER NOT NULL
);
CREATE TABLE observations(
    id INTEGER PRIMARY KEY, entity_id INTEGER NOT NULL REFERENCES entities(id) ON DELETE CASCADE,
    content TEXT NOT NULL, text_sha256 BLOB NOT NULL, metadata TEXT NOT NULL, agent TEXT, created_at INTEGER NOT NULL
);
CREATE TABLE relations(
    id INTEGER PRIMARY KEY, from_entity_id INTEGER NOT NULL REFERENCES entities(id) ON DELETE CASCADE,
    to_entity_id INTEGER NOT NULL REFERENCES entities(id) ON DELETE CASCADE, relation_type TEXT NOT NULL,
    strength REAL, confidence REAL, metadata TEXT NOT NULL, created_at INTEGER NOT NULL
);
CREATE TABLE embeddings(
    text_sha256 BLOB NOT NULL, model TEXT NOT NULL, vector BLOB NOT NULL, checksum INTEGER NOT NULL,
    PRIMARY KEY(text_sha256, model)
);
CREATE TABLE messages(
    id INTEGER PRIMARY KEY, conversation_id TEXT NOT NULL, message_id TEXT NOT NULL, agent TEXT NOT NULL,
    role TEXT NOT NULL, content TEXT NOT NULL, created_at INTEGER NOT NULL
);
CREATE TABLE agents(
    name TEXT PRIMARY KEY NOT NULL, sha256 TEXT NOT NULL, content BLOB NOT NULL, status TEXT NOT NULL,
    reason TEXT NOT NULL, updated_at INTEGER NOT NULL
);
CREATE TABLE journal_position(
    id INTEGER PRIMARY KEY CHECK(id = 1), seq INTEGER NOT NULL, journal_id TEXT NOT NULL, epoch INTEGER NOT NULL,
    chain TEXT NOT NULL, projection_version INTEGER NOT NULL, superseded_by TEXT
);
"""

# The unique rules are indexes of their own, so that a bulk load can make them last. That of the observations also
# serves their foreign key, that of the relations its `from` end.
_INDEXES = (
    "CREATE UNIQUE INDEX entities_by_name ON entities(scope, name)",
    "CREATE UNIQUE INDEX observations_by_entity ON observations(entity_id, text_sha256)",
    "CREATE UNIQUE INDEX relations_by_ends ON relations(from_entity_id, to_entity_id, relation_type)",
    "CREATE INDEX relations_by_to ON relations(to_entity_id)",
    "CREATE UNIQUE INDEX messages_by_conversation ON messages(conversation_id, message_id)",
    "CREATE INDEX messages_by_id ON messages(message_id)",
)


def connect(path: str | os.PathLike[str], *, read_only: bool = False) -> sqlite3.Connection:
    """Opens memory.db; without `read_only` it is created where missing and written in WAL mode.

    The journal is what makes a write durable, so NORMAL is enough: after a power cut the file may lag, never lie.
    Transactions are the caller's (`BEGIN`, `COMMIT`); the connection may move between threads, one at a time.
    """
    mode = "ro" if read_only else "rwc"
    connection = sqlite3.connect(
        f"file:{quote(os.fspath(path))}?mode={mode}",
        uri=True,
        isolation_level=None,
        check_same_thread=False,
        cached_statements=512,
    )
    try:
        connection.execute("PRAGMA foreign_keys=ON")
        connection.execute("PRAGMA trusted_schema=OFF")  # the file may be foreign: its views call no functions here
        if not read_only:
            connection.execute(f"PRAGMA page_size={PAGE_BYTES}")
            connection.execute("PRAGMA journal_mode=WAL")
            connection.execute("PRAGMA synchronous=NORMAL")
            connection.execute(f"PRAGMA cache_size=-{_CACHE_KIB}")
    except BaseException:
        connection.close()
        raise
    return connection


def create(connection: sqlite3.Connection, *, indexes: bool = True) -> None:
    """Makes the empty tables, in one transaction. Without `indexes` the unique rules wait for `create_indexes`."""
    connection.execute("BEGIN IMMEDIATE")
    try:
        connection.execute(f"PRAGMA application_id={APPLICATION_ID}")
        connection.execute(f"PRAGMA user_version={PROJECTION_VERSION}")
        for statement in _TABLES.split(";\n"):
            connection.execute(statement)
        if indexes:
            create_indexes(connection)
        connection.execute("COMMIT")
    except BaseException:
        if connection.in_transaction:  # a full disk ended it already, and its error is the one to tell
            connection.execute("ROLLBACK")
        raise


def create_indexes(connection: sqlite3.Connection) -> None:
    """Makes the indexes. Raises sqlite3.IntegrityError where the rows break a unique rule."""
    for statement in _INDEXES:
        connection.execute(statement)


@contextmanager
def one_moment(connection: sqlite3.Connection) -> Iterator[None]:
    """One read transaction around several statements, unless the caller has a transaction open."""
    if connection.in_transaction:
        yield
        return
    connection.execute("BEGIN")
    try:
        yield
    finally:
        if connection.in_transaction:  # an I/O error may have ended it
            connection.execute("ROLLBACK")


@contextmanager
def settings(connection: sqlite3.Connection, **wanted: int) -> Iterator[None]:
    """Pragmas of a connection, for as long as the body runs. No transaction is open."""
    before = {name: connection.execute(f"PRAGMA {name}").fetchone()[0] for name in wanted}
    try:
        for name, value in wanted.items():
            connection.execute(f"PRAGMA {name}={value}")
        yield
    finally:
        for name, value in before.items():
            connection.execute(f"PRAGMA {name}={value}")


NULL: Final = float("nan")
"""Binds as NULL, sooner than None does: see `text_digest`."""


def text_digest(text: str) -> bytearray:
    """The SHA-256 of a text, as a parameter of a statement.

    The sqlite3 module sends bytes and None through its adapters, 0.3 µs a cell; bytearrays and floats go straight in.
    """
    return bytearray(sha256(text.encode()).digest())


def metadata_text(metadata: dict[str, Any]) -> str:
    """Metadata as it stands in a column: compact JSON, keys in their own order.

    Total, because apply is: what JSON does not have (bytes, NaN) keeps the whole of it as MessagePack in base64. No
    event that was admitted comes to that.
    """
    if not metadata:
        return "{}"
    try:
        return _to_json(metadata)
    except (TypeError, ValueError):
        packed = msgspec.msgpack.encode(metadata)
        return _to_json({"messagepack_base64": base64.b64encode(packed).decode()})
    except RecursionError:
        return _to_json({"nested_too_deeply": True})


_to_json = json.JSONEncoder(ensure_ascii=False, separators=(",", ":"), allow_nan=False).encode


# -- position ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Position:
    """The last seq that a projection holds, and whose history it is; ``journal_id`` and ``chain`` are hex."""

    seq: int
    journal_id: str
    epoch: int
    chain: str


def read_position(connection: sqlite3.Connection) -> Position | None:
    """Where this file stands, or None if it does not say: it is empty, foreign, or the row is unreadable as one.

    A damaged file raises sqlite3.DatabaseError.
    """
    if not _has_position(connection):
        return None
    row = connection.execute("SELECT seq, journal_id, epoch, chain FROM journal_position WHERE id = 1").fetchone()
    if row is None or [type(cell) for cell in row] != [int, str, int, str]:
        return None
    return Position(*row)


def read_projection_version(connection: sqlite3.Connection) -> int | None:
    """The version of the rules that made these rows, or None as in `read_position`."""
    if not _has_position(connection):
        return None
    row = connection.execute("SELECT projection_version FROM journal_position WHERE id = 1").fetchone()
    return row[0] if row is not None and isinstance(row[0], int) else None


def _has_position(connection: sqlite3.Connection) -> bool:
    columns = {name for (name,) in connection.execute("SELECT name FROM pragma_table_info('journal_position')")}
    return columns >= {"id", "seq", "journal_id", "epoch", "chain", "projection_version"}


def write_position(connection: sqlite3.Connection, position: Position) -> None:
    """Moves the position; belongs into the transaction of the rows that it accounts for."""
    connection.execute(
        "INSERT INTO journal_position(id, seq, journal_id, epoch, chain, projection_version) VALUES (1, ?, ?, ?, ?, ?)"
        " ON CONFLICT(id) DO UPDATE SET seq = excluded.seq, journal_id = excluded.journal_id, epoch = excluded.epoch,"
        " chain = excluded.chain, projection_version = excluded.projection_version",
        (position.seq, position.journal_id, position.epoch, position.chain, PROJECTION_VERSION),
    )
