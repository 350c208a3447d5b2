"""How far a memory.db is from the state that it must hold: rows missing, altered and extra, counted by table.

Knows tables and their leaves; must not know why they differ, nor what is done about it. Rows are read only in buckets
whose leaves differ; in a table that is damaged, every bucket is read row by row, around what cannot be read.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import msgspec

from replay.digest import BUCKET_BITS, COLUMNS, TableLeaves, table_leaves
from replay.schema import TABLES, one_moment
from replay.tolerant import Gap, is_damage, text_or_bytes, walk


class Deviation(msgspec.Struct, frozen=True):
    """One table against what the journal makes of it, in rows. ``expected`` counts the journal's.

    A row that cannot be read is ``missing``; ``altered`` has the id of a journaled row and other content; ``extra`` has
    an id that no event gave. In a damaged table, extra rows are counted only among the ids that the journal knows.
    """

    expected: int = 0
    missing: int = 0
    altered: int = 0
    extra: int = 0

    @property
    def wrong(self) -> int:
        return self.missing + self.altered + self.extra


def deviations(found: sqlite3.Connection, expected: sqlite3.Connection) -> dict[str, Deviation]:
    """Every table of `found` against `expected`. Damage of `found` is counted; that of `expected` is raised."""
    with one_moment(found), one_moment(expected), text_or_bytes(found), text_or_bytes(expected):
        return {table: _deviation(found, expected, table) for table in TABLES}


def counts(tables: Mapping[str, Deviation]) -> dict[str, int]:
    """As one flat dict of what is not zero: ``observations_missing`` → rows."""
    return {
        f"{table}_{kind}": count
        for table, each in tables.items()
        for kind in ("missing", "altered", "extra")
        if (count := getattr(each, kind))
    }


def words(tables: Mapping[str, Deviation]) -> str:
    """`3 of 812 observations missing, 1 of 40 entities altered, 2 messages extra`; empty where nothing differs."""
    told = []
    for table, each in tables.items():
        for kind in ("missing", "altered"):
            if count := getattr(each, kind):
                told.append(f"{count:,} of {each.expected:,} {table} {kind}")
        if each.extra:
            told.append(f"{each.extra:,} {table} extra")
    return ", ".join(told)


Rows = dict[Any, bytes]
"""What identifies a row → its content, encoded with the types of its values."""

_encode = msgspec.msgpack.Encoder().encode


def _deviation(found: sqlite3.Connection, expected: sqlite3.Connection, table: str) -> Deviation:
    (total,) = expected.execute(f"SELECT count(*) FROM {table}").fetchone()
    if table == "agents":
        return _compared(total, _agents(found), _agents(expected))
    wanted = table_leaves(expected, table)
    leaves = _leaves(found, table)
    buckets = wanted.keys() if leaves is None else wanted.keys() | leaves.keys()
    missing = altered = extra = 0
    for bucket in sorted(buckets):
        if leaves is None or leaves.get(bucket) != wanted.get(bucket):
            part = _compared(0, _bucket(found, table, bucket), _bucket(expected, table, bucket))
            missing, altered, extra = missing + part.missing, altered + part.altered, extra + part.extra
    return Deviation(total, missing, altered, extra)


def _compared(total: int, found: Rows, expected: Rows) -> Deviation:
    altered = sum(content != found.get(key, content) for key, content in expected.items())
    return Deviation(total, len(expected.keys() - found.keys()), altered, len(found.keys() - expected.keys()))


def _leaves(connection: sqlite3.Connection, table: str) -> TableLeaves | None:
    """None where the table is damaged, or not there as it should be."""
    try:
        return table_leaves(connection, table)
    except sqlite3.DatabaseError:
        return None


def _bucket(connection: sqlite3.Connection, table: str, bucket: int) -> Rows:
    first = bucket << BUCKET_BITS
    found = _read(connection, table, COLUMNS[table], first, first | (1 << BUCKET_BITS) - 1)
    return {row[0]: _encode(row[1:]) for row in found}


def _agents(connection: sqlite3.Connection) -> Rows:
    return {row[1]: _encode(row[2:]) for row in _read(connection, "agents", COLUMNS["agents"])}


def _read(connection: sqlite3.Connection, table: str, columns: str, *between: int) -> Iterable[tuple[Any, ...]]:
    gaps: list[Gap] = []
    try:
        yield from walk(connection, table, columns, gaps, *between)
    except sqlite3.DatabaseError as error:
        if not is_damage(error) and "no such" not in str(error):  # a table or a column that somebody dropped
            raise


def differing(found: sqlite3.Connection, expected: sqlite3.Connection) -> dict[str, set[Any]]:
    """Table → ids (of agents: names) of the rows that are not alike in two sound files."""
    with one_moment(found), one_moment(expected), text_or_bytes(found), text_or_bytes(expected):
        return {table: set(_differing(found, expected, table)) for table in TABLES}


def _differing(found: sqlite3.Connection, expected: sqlite3.Connection, table: str) -> Iterator[Any]:
    if table == "agents":
        yield from _unlike(_agents(found), _agents(expected))
        return
    one, other = table_leaves(found, table), table_leaves(expected, table)
    for bucket in one.keys() | other.keys():
        if one.get(bucket) != other.get(bucket):
            yield from _unlike(_bucket(found, table, bucket), _bucket(expected, table, bucket))


def _unlike(one: Rows, other: Rows) -> Iterator[Any]:
    return (key for key in one.keys() | other.keys() if one.get(key) != other.get(key))
