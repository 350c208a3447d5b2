"""The difference of two states, given as two memory databases.

Knows the tables and what makes a row the same thing in both; must not know moments or how the states were built. What
is found is told in words by `replay.diff_words`.

Only buckets whose digest leaves differ are read. A row is first compared with the row of its id, which is the event
that made it. A row without a partner is then looked up by what it is about, since an entity that was deleted and
written again is for its user the same entity: equal in content it counts as *rewritten*, else as *changed*.
"""

from __future__ import annotations

import hashlib
import json
import sqlite3
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Literal

from replay.agent_format import MARKDOWN
from replay.digest import BUCKET_BITS, table_leaves
from replay.schema import TABLES

Row = dict[str, Any]
Kind = Literal["added", "removed", "changed", "rewritten"]

LISTED_MAX = 20
_COLUMNS = {
    "entities": ("id", "scope", "name", "entity_type", "metadata", "confidence", "created_at", "updated_at"),
    "observations": ("id", "entity_id", "content", "text_sha256", "metadata", "agent", "created_at"),
    "relations": (
        "id", "from_entity_id", "to_entity_id", "relation_type", "strength", "confidence", "metadata", "created_at"
    ),
    "messages": ("id", "conversation_id", "message_id", "agent", "role", "content", "created_at"),
}  # fmt: skip
_REFERENCES = {"entity_id", "from_entity_id", "to_entity_id"}
_WHEN_AND_WHICH = {"id", "created_at", "updated_at", *_REFERENCES}  # differ in every row that was written again
_ENTITIES_CACHED_MAX = 100_000


@dataclass(frozen=True, slots=True)
class Change:
    """One row that differs. ``about`` says which, ``parts`` what of it changed."""

    kind: Kind
    about: dict[str, Any]
    parts: tuple[str, ...] = ()


@dataclass(slots=True)
class TableDiff:
    """Counts, and the first few changes of a table. ``changes`` is bounded, the counts are not."""

    table: str
    added: int = 0
    removed: int = 0
    changed: int = 0
    rewritten: int = 0
    changes: list[Change] = field(default_factory=list)

    @property
    def total(self) -> int:
        return self.added + self.removed + self.changed + self.rewritten


@dataclass(frozen=True, slots=True)
class StateDiff:
    tables: dict[str, TableDiff]

    @property
    def same(self) -> bool:
        return not any(table.total for table in self.tables.values())


def diff(before: sqlite3.Connection, after: sqlite3.Connection, *, limit: int = LISTED_MAX) -> StateDiff:
    """What it takes to come from one state to the other. At most ``limit`` changes a table are listed, all are counted.

    Raises sqlite3.DatabaseError where a table is missing or cannot be read.
    """
    with ExitStack() as stack:
        for connection in {id(each): each for each in (before, after)}.values():
            stack.enter_context(_reading(connection))
        sides = _Sides(before, after)
        found = {table: _table(sides, table, limit) for table in TABLES if table != "agents"}
        found["agents"] = _agents(before, after, limit)
    return StateDiff(found)


@contextmanager
def _reading(connection: sqlite3.Connection) -> Iterator[None]:
    """One moment, and text as it is: what is no UTF-8 in a damaged file is compared, not refused."""
    text_factory, row_factory = connection.text_factory, connection.row_factory
    owned = not connection.in_transaction
    if owned:
        connection.execute("BEGIN")
    connection.text_factory = lambda raw: raw.decode(errors="surrogateescape")
    connection.row_factory = None
    try:
        yield
    finally:
        connection.text_factory, connection.row_factory = text_factory, row_factory
        if owned and connection.in_transaction:
            connection.execute("ROLLBACK")


# -- tables with ids --------------------------------------------------------------------------------------------------


def _table(sides: _Sides, table: str, limit: int) -> TableDiff:
    result = TableDiff(table)
    before, after = table_leaves(sides.before, table), table_leaves(sides.after, table)
    for bucket in sorted(before.keys() | after.keys()):
        if before.get(bucket) == after.get(bucket):
            continue
        old = _rows(sides.before, table, bucket)
        new = _rows(sides.after, table, bucket)
        for row_id in sorted(old.keys() | new.keys()):
            _compare(result, sides, old.get(row_id), new.get(row_id), limit)
    return result


def _compare(result: TableDiff, sides: _Sides, old: Row | None, new: Row | None, limit: int) -> None:
    table = result.table
    if old == new:
        return
    if old is not None and new is not None:
        parts = [name for name in old if old[name] != new[name]]
        telling = [name for name in parts if name != "updated_at"]
        _add(result, "changed", lambda: sides.about(table, new, sides.after), telling or parts, limit)
    elif old is not None:
        again = sides.find_after(table, old)
        if again is None:
            _add(result, "removed", lambda: sides.about(table, old, sides.before), (), limit)
            return
        parts = [name for name in old if name not in _WHEN_AND_WHICH and old[name] != again[name]]
        _add(result, "changed" if parts else "rewritten", lambda: sides.about(table, again, sides.after), parts, limit)
    elif new is not None and sides.find_before(table, new) is None:  # else it was met from the other side
        _add(result, "added", lambda: sides.about(table, new, sides.after), (), limit)


def _add(result: TableDiff, kind: Kind, about: Callable[[], Row], parts: Iterable[str], limit: int) -> None:
    setattr(result, kind, getattr(result, kind) + 1)
    if len(result.changes) < limit:
        result.changes.append(Change(kind, about(), tuple(parts)))


def _rows(connection: sqlite3.Connection, table: str, bucket: int) -> dict[int, Row]:
    columns = _COLUMNS[table]
    first = bucket << BUCKET_BITS
    found = connection.execute(
        f"SELECT {', '.join(columns)} FROM {table} WHERE rowid BETWEEN ? AND ?", (first, first | (1 << BUCKET_BITS) - 1)
    )
    return {row[0]: dict(zip(columns, row, strict=True)) for row in found}


class _Sides:
    """The two databases, and lookups from one into the other by what a row is about."""

    def __init__(self, before: sqlite3.Connection, after: sqlite3.Connection) -> None:
        self.before = before
        self.after = after
        self._entities: dict[tuple[bool, int], int | None] = {}  # (looked up in after?, id in the other) -> id

    def find_after(self, table: str, row: Row) -> Row | None:
        return self._find(table, row, self.before, self.after)

    def find_before(self, table: str, row: Row) -> Row | None:
        return self._find(table, row, self.after, self.before)

    def _find(self, table: str, row: Row, here: sqlite3.Connection, there: sqlite3.Connection) -> Row | None:
        """The row of the other database that is about the same thing."""
        match table:
            case "entities":
                key = {"scope": row["scope"], "name": row["name"]}
            case "observations":
                entity = self._entity_there(row["entity_id"], here, there)
                key = {"entity_id": entity, "text_sha256": row["text_sha256"]}
            case "relations":
                start = self._entity_there(row["from_entity_id"], here, there)
                end = self._entity_there(row["to_entity_id"], here, there)
                key = {"from_entity_id": start, "to_entity_id": end, "relation_type": row["relation_type"]}
            case _:
                key = {"conversation_id": row["conversation_id"], "message_id": row["message_id"]}
        if None in key.values():
            return None
        return _one(there, table, key)

    def _entity_there(self, entity_id: int, here: sqlite3.Connection, there: sqlite3.Connection) -> int | None:
        cached = (there is self.after, entity_id)
        if cached not in self._entities:
            entity = _one(here, "entities", {"id": entity_id})
            other = _one(there, "entities", {"scope": entity["scope"], "name": entity["name"]}) if entity else None
            if len(self._entities) >= _ENTITIES_CACHED_MAX:
                self._entities.clear()
            self._entities[cached] = other["id"] if other else None
        return self._entities[cached]

    def about(self, table: str, row: Row, here: sqlite3.Connection) -> Row:
        """What a person calls the row; its id is the seq of the event that wrote it."""
        match table:
            case "entities":
                names = {"scope": row["scope"], "name": row["name"], "entity_type": row["entity_type"]}
            case "observations":
                names = {**_entity_names(here, row["entity_id"], "entity"), "content": row["content"]}
            case "relations":
                start = _entity_names(here, row["from_entity_id"], "from_entity")
                end = _entity_names(here, row["to_entity_id"], "to_entity")
                names = {**end, **start, "relation_type": row["relation_type"]}
            case _:
                names = {name: row[name] for name in ("conversation_id", "message_id", "agent", "content")}
        return {**names, "id": row["id"]}


def _one(connection: sqlite3.Connection, table: str, key: Row) -> Row | None:
    columns = _COLUMNS[table]
    where = " AND ".join(f"{name} = ?" for name in key)
    row = connection.execute(f"SELECT {', '.join(columns)} FROM {table} WHERE {where}", tuple(key.values())).fetchone()
    return dict(zip(columns, row, strict=True)) if row else None


def _entity_names(connection: sqlite3.Connection, entity_id: int, label: str) -> Row:
    entity = _one(connection, "entities", {"id": entity_id})
    return {"scope": entity["scope"], label: entity["name"]} if entity else {"scope": None, label: f"id {entity_id}"}


# -- agents -----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Agent:
    sha256: str
    content_sha256: bytes  # as it really is
    status: str
    reason: str
    updated_at: int


def _agents(before: sqlite3.Connection, after: sqlite3.Connection, limit: int) -> TableDiff:
    result = TableDiff("agents")
    old, new = _agent_rows(before), _agent_rows(after)
    for name in sorted(old.keys() | new.keys(), key=str):
        one, other = old.get(name), new.get(name)
        if one == other:
            continue
        parts: list[str] = []
        kind: Kind = "added" if one is None else "removed"
        if one is not None and other is not None:
            if one.content_sha256 != other.content_sha256:
                parts += _content_parts(_agent_content(before, name), _agent_content(after, name))
            elif one.sha256 != other.sha256:
                parts.append("sha256")  # of the same bytes: one of them is wrong
            parts += [part for part in ("status", "reason") if getattr(one, part) != getattr(other, part)]
            kind = "changed" if parts else "rewritten"
        _add(result, kind, partial(dict, name=name), parts, limit)
    return result


def _agent_rows(connection: sqlite3.Connection) -> dict[str, _Agent]:
    """All agents by name, without holding their contents."""
    rows = connection.execute("SELECT name, sha256, content, status, reason, updated_at FROM agents NOT INDEXED")
    return {name: _Agent(sha256, _hash(content), *rest) for name, sha256, content, *rest in rows}


def _agent_content(connection: sqlite3.Connection, name: str) -> object:
    return connection.execute("SELECT content FROM agents WHERE name = ?", (name,)).fetchone()[0]


def _hash(content: object) -> bytes:
    return hashlib.sha256(content if isinstance(content, bytes) else repr(content).encode(errors="replace")).digest()


def _content_parts(old: object, new: object) -> list[str]:
    """The frontmatter's keys whose values differ, then `body`; `formatting` where only the bytes do."""
    if not isinstance(old, bytes) or not isinstance(new, bytes):
        return ["content"]
    one, other = MARKDOWN.parse(old), MARKDOWN.parse(new)
    names = [*one.metadata, *(name for name in other.metadata if name not in one.metadata)]
    parts = [name for name in names if _canonical(one.metadata, name) != _canonical(other.metadata, name)]
    if one.body != other.body:
        parts.append("body")
    return parts or ["formatting"]


def _canonical(metadata: dict[str, Any], name: str) -> str | None:
    """A value as text: 1, 1.0 and true are three values here, and NaN is itself."""
    if name not in metadata:
        return None
    try:
        return json.dumps(metadata[name], sort_keys=True, default=repr)
    except (TypeError, ValueError):  # keys of several types, or a value that holds itself
        return repr(metadata[name])
