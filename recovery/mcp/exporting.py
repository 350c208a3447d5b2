"""One scope of memory.db as the lines of the MCP memory server, and what such lines cannot hold."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterator

from journal.errors import EnvironmentFault
from recovery.data import Data
from recovery.mcp.lines import entity_line, relation_line
from recovery.reading import reading

Told = Callable[[str], None]

_NOT_HELD = (
    ("SELECT count(*) FROM entities WHERE scope <> :scope", "{} entities of other scopes"),
    (
        "SELECT count(*) FROM entities WHERE scope = :scope AND (metadata <> '{}' OR confidence <> 1.0)",
        "metadata or confidence of {} entities",
    ),
    (
        "SELECT count(*) FROM observations AS o JOIN entities AS e ON e.id = o.entity_id"
        " WHERE e.scope = :scope AND o.metadata <> '{}'",
        "metadata of {} observations",
    ),
    (
        "SELECT count(*) FROM relations AS r JOIN entities AS e ON e.id = r.from_entity_id WHERE e.scope = :scope"
        " AND (r.metadata <> '{}' OR r.confidence <> 1.0 OR r.strength <> 1.0)",
        "metadata, strength or confidence of {} relations",
    ),
    ("SELECT count(*) FROM messages", "{} messages"),
    ("SELECT count(*) FROM agents", "{} agents"),
)


def export_mcp(data: Data, scope: str, not_held: Told) -> Iterator[str]:
    """Lines without their ends: entities in the order of their creation, then relations in theirs.

    All of one moment, beside a writer. `not_held` is told, last, what has no place in the format. Raises
    EnvironmentFault where there is no memory.db to read.
    """
    current = data.generations.current()
    if current.path is None or current.kind != "generation":
        raise EnvironmentFault("there is no memory.db to export", path=data.layout.memory_db, hint="journal recover")
    with reading(current.path) as connection:
        yield from _entities(connection, scope)
        yield from _relations(connection, scope)
        for sql, words in _NOT_HELD:
            (count,) = connection.execute(sql, {"scope": scope}).fetchone()
            if count:
                not_held(words.format(count))


def _entities(connection: sqlite3.Connection, scope: str) -> Iterator[str]:
    sql = "SELECT id, name, entity_type FROM entities WHERE scope = ? ORDER BY id"
    for entity_id, name, entity_type in connection.execute(sql, (scope,)):
        contents = connection.execute("SELECT content FROM observations WHERE entity_id = ? ORDER BY id", (entity_id,))
        yield entity_line(name, entity_type, [content for (content,) in contents])


def _relations(connection: sqlite3.Connection, scope: str) -> Iterator[str]:
    sql = """SELECT a.name, b.name, r.relation_type FROM relations AS r JOIN entities AS a ON a.id = r.from_entity_id
        JOIN entities AS b ON b.id = r.to_entity_id WHERE a.scope = ? ORDER BY r.id"""
    for start, end, relation_type in connection.execute(sql, (scope,)):
        yield relation_line(start, end, relation_type)
