"""The leaves of a state's digest, kept with its checkpoint: what a digest costs then follows what changed.

A state is a base of which every byte is proven and the events after it. The rows that the events left alone have the
leaves that they had, so only the buckets that were touched are read again. Which ones those are is not asked of the
code that applies events but of SQLite itself, by triggers, which see what a foreign key takes along as well.

Nobody needs to trust a leaf: stored ones count only where they add up to the digest that a scan of the base proved.
Knows parts of a checkpoint and buckets; must not know events.
"""

from __future__ import annotations

import sqlite3
import struct
from collections.abc import Callable, Iterable

from journal.checkpoint import PART_BYTES, CheckpointStore, Manifest, Part
from journal.errors import Corrupt
from replay.digest import BUCKET_BITS, Leaf, Leaves, bucket_leaf, digest_of
from replay.schema import TABLES

KIND_LEAVES = "leaves"

# Entry of a part, in ascending order of table and bucket, each whole in its part:
#
#     table 1 (its place in TABLES) | bucket 8, signed | rows 4 | leaf 32

_ENTRY = struct.Struct("<BqI32s")


def save_leaves(checkpoints: CheckpointStore, leaves: Leaves) -> tuple[list[Part], int]:
    """Puts the parts; returns them and the bytes that no earlier checkpoint had."""
    entries = [
        _ENTRY.pack(number, bucket, *leaves[table][bucket])
        for number, table in enumerate(TABLES)
        for bucket in sorted(leaves[table])
    ]
    step = PART_BYTES // _ENTRY.size
    parts, written = list[Part](), 0
    for start in range(0, len(entries), step):
        part, new = checkpoints.put_part(KIND_LEAVES, b"".join(entries[start : start + step]))
        parts.append(part)
        written += part.length if new else 0
    return parts, written


def load_leaves(
    checkpoints: CheckpointStore, manifest: Manifest, lost: Callable[[str], None] = lambda _: None
) -> Leaves | None:
    """The leaves of a checkpoint's state; None where it has none, or none that can be used: `lost` is told why."""
    parts = manifest.of_kind(KIND_LEAVES)
    leaves: Leaves = {table: {} for table in TABLES}
    try:
        for part in parts:
            for number, bucket, rows, sha256 in _ENTRY.iter_unpack(checkpoints.read_part(part)):
                leaves[TABLES[number]][bucket] = Leaf(rows, sha256)
    except Corrupt as error:
        lost(str(error))
        return None
    except (struct.error, IndexError) as error:
        lost(f"the leaves of the checkpoint at seq {manifest.seq} cannot be decoded: {error}")
        return None
    if digest_of(leaves) == manifest.digest:
        return leaves
    if parts:
        lost(f"the leaves of the checkpoint at seq {manifest.seq} are not those of its digest")
    return None


def rows_by_table(leaves: Leaves) -> dict[str, int]:
    return {table: sum(leaf.rows for leaf in leaves[table].values()) for table in TABLES}


class Touched:
    """Which buckets a connection changes a row of from now on: in tables and triggers of its own, none of the file's.

    What is rolled back is forgotten with it.
    """

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._connection = connection
        connection.execute("CREATE TEMP TABLE touched(name TEXT, bucket INTEGER, PRIMARY KEY(name, bucket))")
        for table in TABLES:
            for change, rows in (("INSERT", ("NEW",)), ("UPDATE", ("OLD", "NEW")), ("DELETE", ("OLD",))):
                marks = "".join(_mark(table, row) for row in rows)
                name = f"temp.{table}_{change.lower()}"
                connection.execute(f"CREATE TRIGGER {name} AFTER {change} ON main.{table} BEGIN {marks}END")

    def buckets(self) -> list[tuple[str, int]]:
        """(table, bucket) of every row that was added, altered or removed."""
        return self._connection.execute("SELECT name, bucket FROM touched ORDER BY name, bucket").fetchall()


def _mark(table: str, row: str) -> str:
    bucket = "0" if table == "agents" else f"{row}.id >> {BUCKET_BITS}"
    # Without ON CONFLICT: within a trigger, that of the statement which fires it holds instead.
    marked = f"SELECT 1 FROM touched WHERE name = '{table}' AND bucket = {bucket}"
    return f"INSERT INTO touched SELECT '{table}', {bucket} WHERE NOT EXISTS ({marked}); "


def renewed(leaves: Leaves, connection: sqlite3.Connection, touched: Iterable[tuple[str, int]]) -> Leaves:
    """`leaves` with those of the touched buckets as this connection sees them now."""
    result = {table: dict(of_table) for table, of_table in leaves.items()}
    for table, bucket in touched:
        leaf = bucket_leaf(connection, table, bucket)
        if leaf is None:
            result[table].pop(bucket, None)
        else:
            result[table][bucket] = leaf
    return result
