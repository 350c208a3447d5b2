"""One scope of a memory.db: which rows are its, their digest, and putting them right while all else stays as it is.

**What belongs to a scope**: its entities; the observations whose entity is one of them; the relations that start or end
at one of them. An event never joins two scopes, so a relation that does was written by another program, and lies in
both. Messages, agents and vectors belong to none.

**The digest of a scope**, version 1: SHA-256 over the ASCII bytes `agent-journal scope digest v1` and a line feed, the
scope as a MessagePack string, then for entities, observations and relations in this order the table's name in ASCII,
one zero byte, and the SHA-256 of the rows that belong, in ascending order of id, each encoded as for the digest of a
state.

**Putting it right** is done in a copy, in one transaction, and swapped in by the link, although SQLite could do it in
the live file. A process that should not be there may hold the live file; it may be damaged, and what is written into a
damaged tree lands where nobody looks; and a copy can be thrown away where the result is not what was promised. So the
live file stays as it is until the next one is proven: the scope's digest is the journal's, and every other row that
could be read before reads the same.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterable
from contextlib import closing
from dataclasses import dataclass, field
from hashlib import sha256
from typing import Any

import msgspec

from journal.errors import Corrupt
from journal.reader import LogReader
from journal.storage import Storage
from replay.deviation import Deviation
from replay.digest import COLUMNS
from replay.engine import build_state
from replay.faults import sqlite_fault
from replay.generations import Generations
from replay.layout import Layout
from replay.rebuild import check_space, generations_of
from replay.schema import connect, one_moment, read_position
from replay.scratch import scratch_directory
from replay.tolerant import Gap, is_damage, text_or_bytes, walk
from replay.tracing import database_span
from replay.working import connect_finished, connect_private, discard, finish

SCOPE_DIGEST_VERSION = 1
SCOPED = ("entities", "observations", "relations")
_OTHERS = {**{name: COLUMNS[name] for name in ("messages", "agents")}, "embeddings": "text_sha256, model, checksum"}

Row = tuple[Any, ...]
Rows = dict[str, dict[int, Row]]
"""Table → id → the row's cells in the order of the digest."""

_encode = msgspec.msgpack.Encoder().encode


@dataclass(slots=True)
class Part:
    """What a memory.db holds of a scope, or should. ``rest`` stands for every other row that can be read."""

    scope: str
    rows: Rows = field(default_factory=lambda: {table: {} for table in SCOPED})
    rest: str = ""
    gaps: dict[str, list[Gap]] = field(default_factory=dict)

    @property
    def digest(self) -> str:
        """Of the rows that belong to the scope by what they say themselves."""
        whole = sha256(b"agent-journal scope digest v%d\n" % SCOPE_DIGEST_VERSION + _encode(self.scope))
        for table, rows in self.belonging().items():
            encoded = sha256(b"".join(_encode(rows[row_id]) for row_id in sorted(rows)))
            whole.update(table.encode() + b"\x00" + encoded.digest())
        return whole.hexdigest()

    def belonging(self) -> Rows:
        entities = {row_id: row for row_id, row in self.rows["entities"].items() if row[1] == self.scope}
        observations = {row_id: row for row_id, row in self.rows["observations"].items() if row[1] in entities}
        relations = self.rows["relations"].items()
        joined = {row_id: row for row_id, row in relations if row[1] in entities or row[2] in entities}
        return {"entities": entities, "observations": observations, "relations": joined}


def read_part(connection: sqlite3.Connection, scope: str, *known: Part) -> Part:
    """The rows that lie in the scope, and those with an id that one of the `known` has, wherever they lie now.

    Tables are read without their indexes, around what cannot be read. Raises sqlite3.Error for what is no damage.
    """
    part = Part(scope)
    ids = {table: {row_id for each in known for row_id in each.rows[table]} for table in SCOPED}
    rest = sha256()
    with one_moment(connection), text_or_bytes(connection):
        entities = set(ids["entities"])

        def is_ours(table: str, row: Row) -> bool:
            if row[0] in ids[table]:
                return True
            if table == "entities":
                return bool(row[1] == scope)
            return row[1] in entities or (table == "relations" and row[2] in entities)

        for table in SCOPED:
            gaps = part.gaps[table] = []
            for _, *cells in walk(connection, table, COLUMNS[table], gaps):
                row = tuple(cells)
                if is_ours(table, row):
                    part.rows[table][row[0]] = row
                    if table == "entities":
                        entities.add(row[0])
                else:
                    rest.update(_encode(row))
            rest.update(table.encode())
        for table, columns in _OTHERS.items():
            gaps = part.gaps[table] = []
            for row in walk(connection, table, columns, gaps):
                rest.update(_encode(row))
            rest.update(table.encode())
    part.rest = rest.hexdigest()
    return part


def deviations(found: Part, expected: Part) -> dict[str, Deviation]:
    """The scope's rows against the journal's, by table."""
    return {table: _deviation(found.rows[table], expected.rows[table]) for table in SCOPED}


def _deviation(found: dict[int, Row], expected: dict[int, Row]) -> Deviation:
    altered = sum(_encode(row) != _encode(found.get(row_id, row)) for row_id, row in expected.items())
    return Deviation(
        len(expected), len(expected.keys() - found.keys()), altered, len(found.keys() - expected.keys())
    )


# -- putting right ----------------------------------------------------------------------------------------------------


class ScopeRebuilt(msgspec.Struct, frozen=True):
    """What was put right. ``rest_differs``: outside of the scope memory.db is not the journal's, and stays as it is."""

    scope: str
    seq: int
    digest: str
    tables: dict[str, Deviation]
    rest_differs: bool
    path: str


@database_span("rebuild_scope")
def rebuild_scope(
    storage: Storage,
    layout: Layout,
    reader: LogReader,
    scope: str,
    progress: Callable[[int, int], None] | None = None,
) -> ScopeRebuilt:
    """Makes the scope's rows what the journal says at memory.db's own position, in the next generation.

    The caller holds the log's lock, has no other connection to memory.db open, and knows that its position lies in this
    journal. A cut leaves the old generation or the new one. Raises Corrupt where the file is so damaged that it cannot
    be done without touching anything else, and NoSpace; then nothing was changed.
    """
    generations = generations_of(storage, layout)
    generations.clean()
    check_space(storage, layout, reader)
    path = generations.building_path()
    source = generations.current().path
    assert source is not None
    try:
        with closing(connect(source, read_only=True)) as connection:
            position = read_position(connection)
        assert position is not None
        with scratch_directory("scope") as scratch:
            wanted_path = f"{scratch}/expected.db"
            build_state(
                storage, layout.journal, reader, position.seq, wanted_path, progress, embeddings=False,
                journal_mode="delete",
            )  # fmt: skip
            _copy(storage, source, path)
            with closing(connect_finished(wanted_path)) as wanted:
                expected = read_part(wanted, scope)
                found, was_sound = _put_right(path, wanted, expected)
        finish(storage, path, "wal")
        _prove(path, found, expected, was_sound)
        return _swapped(generations, path, found, expected, position.seq, mark=was_sound)
    except sqlite3.Error as error:
        if is_damage(error) or isinstance(error, sqlite3.IntegrityError):
            raise _cannot(scope, source, error) from error
        raise sqlite_fault(error, path) from error
    finally:
        discard(storage, path)


def _copy(storage: Storage, source: str, path: str) -> None:
    """Page by page, with what is in the write-ahead log; damaged pages as they are."""
    storage.open(path, write=True, create=True).close()  # SQLite would make it readable to all
    with closing(connect(source, read_only=True)) as old, closing(sqlite3.connect(path)) as new:
        old.backup(new)


def _put_right(path: str, wanted: sqlite3.Connection, expected: Part) -> tuple[Part, bool]:
    """One transaction; what was found before it, and whether SQLite's check passed then."""
    with closing(connect_private(path)) as connection:
        connection.execute("PRAGMA foreign_keys=OFF")  # rows are put right by id: nothing cascades to what is not ours
        found = read_part(connection, expected.scope, expected)
        was_sound = _is_sound(connection)
        connection.execute("BEGIN IMMEDIATE")
        wrong = {table: _wrong(found.rows[table], expected.rows[table]) for table in SCOPED}
        for table in reversed(SCOPED):
            ids = ((row_id,) for row_id in wrong[table])
            connection.executemany(f"DELETE FROM {table} WHERE rowid = ?", ids)
        for table in SCOPED:
            _insert(connection, table, wrong[table], wanted, expected.rows[table])
        connection.execute("COMMIT")
    return found, was_sound


def _wrong(found: dict[int, Row], expected: dict[int, Row]) -> list[int]:
    """Ids of rows that are not what the journal says, whether it gives them to this scope, to another or to none."""
    return sorted(
        row_id
        for row_id in found.keys() | expected.keys()
        if row_id not in expected or _encode(found.get(row_id)) != _encode(expected[row_id])
    )


def _insert(
    connection: sqlite3.Connection, table: str, ids: Iterable[int], wanted: sqlite3.Connection, ours: dict[int, Row]
) -> None:
    """The journal's rows under these ids. One of another scope comes back where nothing has taken its name."""
    marks = ", ".join("?" * (COLUMNS[table].count(",") + 1))
    for row_id in ids:
        row = wanted.execute(f"SELECT {COLUMNS[table]} FROM {table} WHERE rowid = ?", (row_id,)).fetchone()
        if row is not None:
            verb = "INSERT" if row_id in ours else "INSERT OR IGNORE"
            connection.execute(f"{verb} INTO {table}({COLUMNS[table]}) VALUES ({marks})", row)


def _is_sound(connection: sqlite3.Connection) -> bool:
    try:
        return [row[0] for row in connection.execute("PRAGMA quick_check(1)")] == ["ok"]
    except sqlite3.DatabaseError:
        return False


def _prove(path: str, found: Part, expected: Part, was_sound: bool) -> None:
    """The finished file against what was promised. Raises Corrupt."""
    with closing(connect_finished(path)) as connection:
        after = read_part(connection, expected.scope, found, expected)
        sound = not was_sound or _is_sound(connection)
    if after.digest != expected.digest:
        raise _cannot(expected.scope, path, "its rows cannot be written where they belong")
    if after.rest != found.rest:
        raise _cannot(expected.scope, path, "writing them would change others")
    if not sound:
        raise _cannot(expected.scope, path, "the finished file fails its check")


def _cannot(scope: str, path: str, why: object) -> Corrupt:
    return Corrupt(
        f"scope {scope} cannot be put right by itself: {why}",
        path=path,
        hint="nothing was changed; rebuild all of it with: journal recover memory",
    )


def _swapped(
    generations: Generations, path: str, found: Part, expected: Part, seq: int, *, mark: bool
) -> ScopeRebuilt:
    swapped = generations.swap(path, mark=mark)
    with closing(connect(swapped.path, read_only=True)) as connection:
        after = read_part(connection, expected.scope)
    if after.digest != expected.digest:
        raise Corrupt("memory.db reads back differently than it was built", path=swapped.path, hint="check the disk")
    differs = after.rest != expected.rest or any(after.gaps.values())
    return ScopeRebuilt(expected.scope, seq, after.digest, deviations(found, expected), differs, swapped.path)
