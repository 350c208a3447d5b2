"""One value for the logical content of a state: equal digests mean the same state, and nothing else does.

Knows the canonical form of rows; must not know how rows came about. It depends on no page layout, row order, SQLite
version or index: only on what a reader of the tables would see. The embeddings (derived, and not always complete) and
the position (where the state stands, not what it is) are no part of it.

The canonical form, version 1, so that another program can compute the same value
---------------------------------------------------------------------------------

**Cell.** One MessagePack value in its shortest encoding:

- INTEGER: positive fixint, uint 8/16/32/64, negative fixint, int 8/16/32/64; the shortest that holds it, the unsigned
  ones for anything not negative;
- REAL: float 64, always, also where the value is whole;
- TEXT: fixstr, str 8/16/32 with the UTF-8 bytes as they are, never normalized;
- BLOB: bin 8/16/32; NULL: nil.

What counts is the value's own type (SQLite's `typeof`), not the column's declared one. TEXT that is no valid UTF-8 is
encoded as bin with its raw bytes.

**Row.** One MessagePack array (fixarray) of cells, the columns in this order:

    entities       id, scope, name, entity_type, metadata, confidence, created_at, updated_at
    observations   id, entity_id, content, text_sha256, metadata, agent, created_at
    relations      id, from_entity_id, to_entity_id, relation_type, strength, confidence, metadata, created_at
    messages       id, conversation_id, message_id, agent, role, content, created_at
    agents         name, sha256, status, reason, updated_at

An agent's content is in its row by its sha256. Where that is not so (the content is no BLOB, or the SHA-256 of its
bytes is not the lower-case hex in `sha256`) the content itself is appended to the row as a sixth cell, so altered
content alters the digest. No correct state has such a row.

**Leaf.** The rows of a table are cut into buckets: bucket b holds the rows whose id is in [1024 b, 1024 (b+1)), in
ascending order of id, b rounded towards negative infinity; all agents are in bucket 0, in ascending order of the UTF-8
bytes of their name. A bucket's leaf is the SHA-256 of its rows' encodings, one after the other with nothing between.

**Table.** SHA-256 over, for each bucket that holds a row, in ascending order of b: b as 8 bytes little-endian (two's
complement), then the leaf's 32 bytes. A table without rows: the SHA-256 of nothing.

**State.** SHA-256 over the ASCII bytes `agent-journal state digest v1` and a line feed, then for each table in the
order above: its name in ASCII, one zero byte, and the table's 32 bytes. Written as 64 lower-case hex digits.

The leaves allow two states to be compared by parts (`table_leaves`), and a digest to follow changes: `leaves`.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterator, Sequence
from hashlib import sha256
from typing import Any, NamedTuple, TypeVar

import msgspec

from replay.schema import TABLES, one_moment
from replay.tolerant import decoded
from replay.tracing import database_span

DIGEST_VERSION = 1
BUCKET_BITS = 10

COLUMNS = {
    "entities": "id, scope, name, entity_type, metadata, confidence, created_at, updated_at",
    "observations": "id, entity_id, content, text_sha256, metadata, agent, created_at",
    "relations": "id, from_entity_id, to_entity_id, relation_type, strength, confidence, metadata, created_at",
    "messages": "id, conversation_id, message_id, agent, role, content, created_at",
    "agents": "name, sha256, status, reason, updated_at, content",
}
ID_MIN, ID_MAX = -1 << 63, (1 << 63) - 1

_T = TypeVar("_T")

_encode = msgspec.msgpack.Encoder().encode


class Leaf(NamedTuple):
    """A bucket's rows: how many, and the SHA-256 of their encodings, which alone enters the digest."""

    rows: int
    sha256: bytes


TableLeaves = dict[int, Leaf]
"""Bucket to leaf, of the buckets that hold a row."""

Leaves = dict[str, TableLeaves]
"""Table to its leaves, of every table of `TABLES`."""


def state_digest(connection: sqlite3.Connection) -> str:
    """The digest, in hex, of what this connection sees at one moment.

    Raises sqlite3.DatabaseError where a table is missing or cannot be read.
    """
    return digest_of(state_leaves(connection))


@database_span("digest")
def state_leaves(connection: sqlite3.Connection) -> Leaves:
    """All leaves of what this connection sees at one moment. Raises sqlite3.DatabaseError as `state_digest` does."""
    with one_moment(connection):
        return {table: table_leaves(connection, table) for table in TABLES}


def digest_of(leaves: Leaves) -> str:
    """The state's digest, in hex, from its leaves."""
    state = sha256(b"agent-journal state digest v%d\n" % DIGEST_VERSION)
    for table in TABLES:
        state.update(table.encode() + b"\x00" + table_digest(leaves[table]))
    return state.hexdigest()


def table_digest(leaves: TableLeaves) -> bytes:
    """A table's 32 bytes, from its leaves."""
    table = sha256()
    for bucket in sorted(leaves):
        table.update(bucket.to_bytes(8, "little", signed=True) + leaves[bucket].sha256)
    return table.digest()


def table_leaves(
    connection: sqlite3.Connection, table: str, first_id: int = ID_MIN, last_id: int = ID_MAX
) -> TableLeaves:
    """A table's leaves: two states differ in it exactly in the buckets whose leaves differ.

    Of a table with ids those of the buckets from that of `first_id` to that of `last_id`.
    """
    with one_moment(connection):
        if table == "agents":
            # From the table itself: an index over it could be damaged where the table is not, and the other way round.
            rows = _tolerant(connection, _agent_rows, f"SELECT {COLUMNS[table]} FROM agents NOT INDEXED")
            return {0: Leaf(len(rows), sha256(b"".join(rows)).digest())} if rows else {}
        return dict(_leaves_by_id(connection, table, first_id, last_id))


def bucket_leaf(connection: sqlite3.Connection, table: str, bucket: int) -> Leaf | None:
    """The leaf of one bucket as this connection sees it; None where it holds no row."""
    if table == "agents":
        return table_leaves(connection, table).get(bucket)
    rows = _bucket_rows(connection, table, bucket)
    return _leaf(rows) if rows else None


# -- tables with an id -------------------------------------------------------------------------------------------------


def _leaves_by_id(
    connection: sqlite3.Connection, table: str, first_id: int, last_id: int
) -> Iterator[tuple[int, Leaf]]:
    """A query a bucket, so that no Python code runs for a row: fetched, encoded and hashed by the bucket.

    By rowid, which is the id in every table of ours and an integer in a foreign one too.
    """
    next_id = f"SELECT rowid FROM {table} WHERE rowid >= ? ORDER BY rowid LIMIT 1"
    start = first_id >> BUCKET_BITS << BUCKET_BITS
    while start <= last_id:
        rows = _bucket_rows(connection, table, start >> BUCKET_BITS)
        if rows:
            yield start >> BUCKET_BITS, _leaf(rows)
            start += 1 << BUCKET_BITS
            continue
        found = connection.execute(next_id, (start,)).fetchone()
        if found is None:
            return
        # A tree out of order could answer with a smaller id, and this loop would never end.
        if found[0] < start + (1 << BUCKET_BITS):
            raise sqlite3.DatabaseError(f"the rows of {table} are out of order at id {found[0]}")
        start = found[0] >> BUCKET_BITS << BUCKET_BITS


def _bucket_rows(connection: sqlite3.Connection, table: str, bucket: int) -> list[tuple[Any, ...]]:
    first = bucket << BUCKET_BITS
    sql = f"SELECT {COLUMNS[table]} FROM {table} WHERE rowid BETWEEN ? AND ? ORDER BY rowid"
    return _tolerant(connection, sqlite3.Cursor.fetchall, sql, (first, first | (1 << BUCKET_BITS) - 1))


def _leaf(rows: Sequence[tuple[Any, ...]]) -> Leaf:
    """Of the rows' encodings: those of the array of them all, behind its header."""
    count = len(rows)
    header_bytes = 1 if count < 1 << 4 else 3 if count < 1 << 16 else 5
    return Leaf(count, sha256(memoryview(_encode(rows))[header_bytes:]).digest())


# -- agents -----------------------------------------------------------------------------------------------------------


def _agent_rows(cursor: sqlite3.Cursor) -> list[bytes]:
    """The encoded rows in the order of their names; one content at a time is in memory."""
    return [encoded for _, encoded in sorted(map(_agent_row, cursor))]


def _agent_row(row: tuple[Any, ...]) -> tuple[bytes, bytes]:
    """Its name's bytes to sort by, and its encoding."""
    *cells, content = row
    name = cells[0]
    if not isinstance(content, bytes) or sha256(content).hexdigest() != cells[1]:
        cells.append(content)
    return name.encode() if isinstance(name, str) else name if isinstance(name, bytes) else b"", _encode(cells)


# -- reading ----------------------------------------------------------------------------------------------------------


def _tolerant(
    connection: sqlite3.Connection, take: Callable[[sqlite3.Cursor], _T], sql: str, parameters: tuple[int, ...] = ()
) -> _T:
    """What `take` makes of the query's rows, in which text that is no UTF-8 comes as bytes.

    Decoding in C is tried first, since a function of ours for every text would double the time.
    """
    cursor = connection.cursor()
    cursor.row_factory = None
    text_factory = connection.text_factory
    try:
        connection.text_factory = str
        return take(cursor.execute(sql, parameters))
    except sqlite3.OperationalError:
        connection.text_factory = decoded
        return take(cursor.execute(sql, parameters))
    finally:
        connection.text_factory = text_factory

