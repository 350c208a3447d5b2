"""A memory.db that something else wrote, opened so that not a byte of it changes, and recognised by its columns.

Knows SQLite files and the two schemas that can be adopted; must not know events. Introspection is sqlite-utils' work.
"""

from __future__ import annotations

import hashlib
import os
import sqlite3
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal
from urllib.parse import quote

from journal.errors import Corrupt, IOFault, Unsupported

Row = dict[str, Any]
Schema = Literal["published", "caxton"]

TABLES = ("entities", "observations", "relations", "messages", "agents")
TEXT_COLUMNS = ("content", "observation", "text")  # of observations: the published name, then what others call it

_NEEDED = {
    "entities": {"id", "name", "entity_type"},
    "observations": {"entity_id"},
    "relations": {"from_entity_id", "to_entity_id", "relation_type"},
    "messages": {"conversation_id", "message_id", "agent", "role", "content"},
    "agents": {"name", "content"},
}
_WAL_MODE = b"\x02\x02"  # at offset 18 of the file: its read and write version
_SAMPLE_BYTES = 1 << 20


@dataclass(slots=True)
class ForeignDatabase:
    """An open foreign memory.db: its schema, and the columns of each table. Close it after use."""

    path: str
    connection: sqlite3.Connection
    schema: Schema
    columns: dict[str, tuple[str, ...]]

    def close(self) -> None:
        self.connection.close()

    def has(self, table: str) -> bool:
        """Whether a table can be adopted: it is there under a known name, with the columns that it needs."""
        return table in TABLES and table in self.columns

    def rows(self, table: str, *order: str) -> Iterator[Row]:
        """Every row, ordered by `order` and then by the row's own key: the same order each time.

        Tables are scanned without their indexes. A damaged index hides rows, and the check at the opening has not
        looked at it. Raises Corrupt where the file cannot be read on.
        """
        keys = ", ".join(map(quoted, (*order, self.key_of(table))))
        at = 0
        try:
            cursor = self.connection.execute(f"SELECT * FROM {quoted(table)} NOT INDEXED ORDER BY {keys}")
            names = [column[0] for column in cursor.description]
            for row in cursor:
                at += 1
                yield dict(zip(names, row, strict=True))
        except sqlite3.DatabaseError as error:
            raise _damaged(self.path, f"table {table}, after {at} rows: {error}") from error

    def key_of(self, table: str) -> str:
        for column in ("id", "name"):
            if column in self.columns[table]:
                return column
        return "rowid"

    def count(self, table: str) -> int | None:
        """Rows in a table; None where SQLite cannot say, as for a virtual table whose module is not loaded."""
        try:
            count: int = self.connection.execute(f"SELECT count(*) FROM {quoted(table)}").fetchone()[0]
        except sqlite3.OperationalError:
            return None
        return count

    def fingerprint(self) -> str:
        """SHA-256 of what the file and its write-ahead log hold: tells whether it is the same source as before."""
        digest = hashlib.sha256()
        for path in (os.path.realpath(self.path), os.path.realpath(self.path) + "-wal"):
            if os.path.exists(path):
                with open(path, "rb") as file:
                    while data := file.read(_SAMPLE_BYTES):
                        digest.update(data)
        return digest.hexdigest()


def open_foreign(path: str) -> ForeignDatabase:
    """Opens and checks a foreign memory.db.

    Raises Corrupt for what is no sound database, Unsupported for one of another schema, naming the tables found.
    """
    connection = connect_foreign(path)
    try:
        findings = [row[0] for row in connection.execute("PRAGMA quick_check(3)")]
        if findings != ["ok"]:
            raise _damaged(path, str(findings[0]).replace("\n", " "))
        connection.execute("BEGIN")  # one snapshot, although a server may be writing still
        columns = _columns(connection)
    except sqlite3.DatabaseError as error:
        connection.close()
        if isinstance(error, sqlite3.OperationalError):  # locked, a hot journal, no room for the -shm
            raise IOFault(f"cannot be read: {error}", path=path, hint="stop its server, or adopt a copy") from error
        raise _damaged(path, str(error)) from error
    except BaseException:
        connection.close()
        raise
    complaint = _complaint(columns)
    if complaint is not None:
        connection.close()
        found = ", ".join(f"{table}({', '.join(names)})" for table, names in sorted(columns.items())) or "no tables"
        raise Unsupported(
            f"unknown schema: {complaint}; found {found}", path=path, hint="move it aside to begin with an empty memory"
        )
    schema: Schema = "published" if "scope" in columns["entities"] and "observations" in columns else "caxton"
    return ForeignDatabase(path, connection, schema, columns)


def connect_foreign(path: str) -> sqlite3.Connection:
    """A read-only connection.

    Without a -wal, a database in WAL mode is opened as immutable, or SQLite would create one beside it. A hot rollback
    journal must be seen, though: immutable would ignore it and show half a transaction.
    """
    real = os.path.realpath(path)  # SQLite puts its side files beside the target of a link
    try:
        with open(real, "rb") as file:
            header = file.read(20)
    except OSError as error:
        raise IOFault(f"cannot be read: {error.strerror}", path=path) from error
    side_files = any(os.path.exists(real + suffix) for suffix in ("-wal", "-journal"))
    immutable = "&immutable=1" if header[18:20] == _WAL_MODE and not side_files else ""
    connection = sqlite3.connect(f"file:{quote(real)}?mode=ro{immutable}", uri=True, isolation_level=None)
    connection.text_factory = lambda data: data.decode(errors="surrogateescape")
    return connection


def _columns(connection: sqlite3.Connection) -> dict[str, tuple[str, ...]]:
    from sqlite_utils import Database  # here: it takes longer to import than most commands take to run

    database = Database(connection)
    tables = [name for name in database.table_names() if not name.startswith("sqlite_")]
    return {
        name: tuple(column.name for column in database[name].columns)
        if database[name].virtual_table_using is None
        else ()  # its module may be missing here, and it is never one of ours
        for name in tables
    }


def _complaint(columns: dict[str, tuple[str, ...]]) -> str | None:
    """What keeps the tables from being a memory that can be adopted, or None."""
    if "entities" not in columns:
        return "there is no table entities"
    for table, needed in _NEEDED.items():
        missing = needed - set(columns.get(table, needed))
        if missing:
            return f"table {table} has no column {', '.join(sorted(missing))}"
    if "observations" in columns and not set(TEXT_COLUMNS) & set(columns["observations"]):
        return f"table observations has none of the columns {', '.join(TEXT_COLUMNS)}"
    return None


def _damaged(path: str, what: str) -> Corrupt:
    return Corrupt(
        f"memory.db is damaged or no SQLite database: {what}",
        path=path,
        hint="adopt a backup, or what `sqlite3 memory.db .recover` can save of it, or move it aside",
    )


def quoted(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'
