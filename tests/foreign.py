"""Foreign data directories for the tests to adopt: real SQLite files of two schemas, and what becomes of them."""

from __future__ import annotations

import hashlib
import sqlite3
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path

from journal.record import Record
from journal.storage import RealStorage
from recovery.adopt.stream import Adopted, Adoption
from replay import schema
from replay.memory import apply_records
from replay.validate import Validator

CAXTON = """
CREATE TABLE entities(
    id INTEGER PRIMARY KEY, name TEXT UNIQUE, entity_type TEXT, observations TEXT, confidence REAL, strength REAL,
    version INTEGER, created_at INTEGER, updated_at INTEGER, valid_from INTEGER, valid_to INTEGER, metadata TEXT
);
CREATE TABLE relations(
    id INTEGER PRIMARY KEY, from_entity_id INTEGER, to_entity_id INTEGER, relation_type TEXT, strength REAL,
    confidence REAL, created_at INTEGER, updated_at INTEGER, valid_from INTEGER, valid_to INTEGER, metadata TEXT
);
CREATE TABLE embeddings(entity_id INTEGER, embedding BLOB, model_version TEXT, created_at INTEGER);
"""
MS = 1_764_000_000_123


def entity(id: int, name: object, observations: object = "[]", **more: object) -> dict[str, object]:
    return {"id": id, "name": name, "entity_type": "company", "observations": observations, **more}


def relation(id: int, start: int, end: int, kind: str = "knows", **more: object) -> dict[str, object]:
    return {"id": id, "from_entity_id": start, "to_entity_id": end, "relation_type": kind, **more}


def build(path: Path, ddl: str, **tables: Sequence[dict[str, object]]) -> Path:
    """A real SQLite file with these rows."""
    with closing(sqlite3.connect(path)) as connection:
        connection.executescript(ddl)
        fill(connection, **tables)
    return path


def fill(connection: sqlite3.Connection, **tables: Sequence[dict[str, object]]) -> None:
    for table, rows in tables.items():
        for row in rows:
            marks = ", ".join("?" * len(row))
            connection.execute(f"INSERT INTO {table}({', '.join(row)}) VALUES ({marks})", tuple(row.values()))
    connection.commit()


def published(path: Path, **tables: Sequence[dict[str, object]]) -> Path:
    """A memory.db of the published schema, folded into one file; unique rules are left to the test's rows."""
    with closing(schema.connect(path)) as connection:
        schema.create(connection, indexes=False)
        connection.execute("PRAGMA foreign_keys=OFF")
        fill(connection, **tables)
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    return path


def adoption(memory: Path | None = None, agents: Path | None = None) -> Adoption:
    return Adoption(
        RealStorage(),
        memory_db=str(memory) if memory is not None else None,
        agents=str(agents) if agents is not None else None,
    )


def adopt(memory: Path | None = None, agents: Path | None = None) -> tuple[list[Adopted], list[str]]:
    with adoption(memory, agents) as opened:
        adopted = list(opened.events())
        assert sum(opened.report.counts.values()) == len(adopted)
        return adopted, opened.report.lines()


def apply(adopted: Sequence[Adopted], path: Path) -> sqlite3.Connection:
    """Appends as the journal would: each event is held against the state before it, and must be accepted."""
    connection = schema.connect(path)
    schema.create(connection)
    validator = Validator(connection, 0)
    for seq, (op_id, event, agent) in enumerate(adopted, 1):
        validator.check(event, seq)
        apply_records(connection, seq, [Record(0, seq, None, op_id, agent, None, None, event)])
        validator.settle(seq)
    return connection


def sides(path: Path) -> dict[str, str]:
    return {each.name: hashlib.sha256(each.read_bytes()).hexdigest() for each in path.iterdir() if each.is_file()}


def published_rows(**more: Sequence[dict[str, object]]) -> dict[str, Sequence[dict[str, object]]]:
    times = {"created_at": MS * 10**6}
    return {
        "entities": [
            {"id": number, "scope": scope, "name": "A", "entity_type": "t", "metadata": "{}", "confidence": 0.5,
             "updated_at": MS * 10**6, **times}
            for number, scope in ((3, "global"), (9, "workspace:sales"), (12, "agent:writer"))
        ],
        "observations": [
            {"id": 4, "entity_id": 9, "content": "x\0y", "text_sha256": bytes(32), "metadata": '{"k":1}',
             "agent": "sales", **times},
            {"id": 5, "entity_id": 3, "content": "z", "text_sha256": bytes(32), "metadata": "{}", "agent": None,
             **times},
        ],
        **more,
    }  # fmt: skip
