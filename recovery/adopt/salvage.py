"""Saving what can be read of a damaged memory.db that no journal knows: table by table, into a sound file beside.

First what SQLite gives, by ranges of rowids around the pages that it cannot read; then, for what is missing, the rows
on leaves that no tree leads to. Knows pages and tables; what a row becomes, and which break the journal's rules, is
`adopt_rows`'. The damaged file is only read. `sqlite3`'s own .recover is not needed: it is not built in everywhere.
"""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Iterable, Iterator
from contextlib import closing
from dataclasses import dataclass, field
from typing import Any

from recovery.adopt.salvage_pages import PageRow, Shape, rows_on_pages, shape_of
from recovery.adopt.source import TABLES, connect_foreign, quoted
from replay.tolerant import Gap, walk

Row = tuple[Any, ...]


@dataclass(slots=True)
class Salvaged:
    """Rows by table, how many of them came from pages alone, and what could not be read, each with its reason."""

    rows: dict[str, int] = field(default_factory=dict)
    from_pages: int = 0
    lost: list[tuple[str, str]] = field(default_factory=list)

    @property
    def is_empty(self) -> bool:
        return not any(self.rows.values())

    def __str__(self) -> str:
        if self.is_empty:
            return "no row of it can be read"
        told = ", ".join(f"{count:,} {table}" for table, count in self.rows.items() if count)
        pages = f"; {self.from_pages:,} of them from pages alone: deleted rows may be among them"
        return f"read {told}" + (pages if self.from_pages else "")


def salvage(path: str, destination: str) -> Salvaged:
    """Writes every row that can be read of the tables that can be adopted to a new file.

    Raises OSError where the file cannot be read at all.
    """
    result = Salvaged()
    with open(os.path.realpath(path), "rb") as file:
        data = file.read()
    with closing(sqlite3.connect(destination, isolation_level=None)) as target:
        target.execute("PRAGMA journal_mode=OFF")
        target.execute("BEGIN")
        gaps = _from_trees(path, target, result)
        if gaps is None or any(gaps.values()):
            _from_pages(data, target, result, gaps)
        target.execute("COMMIT")
    return result


# -- what SQLite gives ------------------------------------------------------------------------------------------------


def _from_trees(path: str, target: sqlite3.Connection, result: Salvaged) -> dict[str, list[Gap]] | None:
    """The rows that the trees lead to, and the gaps between them by table; None where not even the schema is there."""
    try:
        with closing(connect_foreign(path)) as source:
            names = [name for (name,) in source.execute("SELECT name FROM sqlite_master WHERE type = 'table'")]
            gaps: dict[str, list[Gap]] = {}
            for table in names:
                if table in TABLES:
                    gaps[table] = []
                    result.rows[table] = _copy_table(source, target, table, gaps[table])
            for table, found in gaps.items():
                result.lost += ((f"table {table}, {str(gap).partition(': ')[0]}", gap.reason) for gap in found)
            return gaps if "entities" in gaps else None
    except sqlite3.DatabaseError as error:
        result.lost.append(("the schema of memory.db", str(error)))
        return None


def _copy_table(source: sqlite3.Connection, target: sqlite3.Connection, table: str, gaps: list[Gap]) -> int:
    columns = [row[1] for row in source.execute(f"PRAGMA table_info({quoted(table)})")]
    names = ", ".join(map(quoted, columns))
    target.execute(f"CREATE TABLE {quoted(table)}({names})")
    return _insert(target, table, columns, (row[1:] for row in walk(source, quoted(table), names, gaps)))


def _insert(target: sqlite3.Connection, table: str, columns: Iterable[str], rows: Iterable[Row]) -> int:
    names = list(columns)
    marks = ", ".join("?" * len(names))
    sql = f"INSERT INTO {quoted(table)}({', '.join(map(quoted, names))}) VALUES ({marks})"
    return target.executemany(sql, (tuple(map(_stored, row)) for row in rows)).rowcount


def _stored(value: Any) -> Any:
    """Text that is no UTF-8 goes in as its bytes: the row is left out later, with that reason."""
    if isinstance(value, str):
        try:
            value.encode()
        except UnicodeEncodeError:
            return value.encode(errors="surrogateescape")
    return value


# -- what lies on pages -----------------------------------------------------------------------------------------------


def _from_pages(
    data: bytes, target: sqlite3.Connection, result: Salvaged, gaps: dict[str, list[Gap]] | None
) -> None:
    """Rows of leaves, by their shape: all where there is no schema, else those whose rowids lie in a gap."""
    if gaps is None:
        for (table,) in target.execute("SELECT name FROM sqlite_master WHERE type = 'table'").fetchall():
            target.execute(f"DROP TABLE {quoted(table)}")
        result.rows.clear()
    found: dict[Shape, dict[int, PageRow]] = {}
    for row in rows_on_pages(data):
        shape = shape_of(row.values)
        if shape is not None and (gaps is None or _is_missing(row.rowid, gaps.get(shape.table, ()))):
            found.setdefault(shape, {})[row.rowid] = row  # a later page is the likelier one to be current
    for shape, rows in _one_schema(found):
        if gaps is None:
            real = dict.fromkeys(shape.real, " REAL")
            columns = ", ".join(quoted(column) + real.get(column, "") for column in shape.columns)
            target.execute(f"CREATE TABLE {quoted(shape.table)}({columns})")
        elif set(shape.columns) - _columns(target, shape.table):
            continue
        values = (_with_id(shape, rows[rowid]) for rowid in sorted(rows))
        count = _insert(target, shape.table, shape.columns, values)
        result.rows[shape.table] = result.rows.get(shape.table, 0) + count
        result.from_pages += count


def _is_missing(rowid: int, gaps: Iterable[Gap]) -> bool:
    return any(gap.first <= rowid <= gap.last for gap in gaps)


def _columns(target: sqlite3.Connection, table: str) -> set[str]:
    return {row[1] for row in target.execute(f"PRAGMA table_info({quoted(table)})")}


def _one_schema(found: dict[Shape, dict[int, PageRow]]) -> Iterator[tuple[Shape, dict[int, PageRow]]]:
    """Of two shapes of one table, the one with more rows."""
    for table in TABLES:
        shapes = [shape for shape in found if shape.table == table]
        if shapes:
            shape = max(shapes, key=lambda each: len(found[each]))
            yield shape, found[shape]


def _with_id(shape: Shape, row: PageRow) -> Row:
    """An INTEGER PRIMARY KEY is stored as NULL, and is the rowid."""
    return (row.rowid, *row.values[1:]) if shape.columns[0] == "id" else row.values


