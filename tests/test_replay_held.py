"""What is known of an entity's observations is what memory.db holds, whatever was read, added, removed or forgotten."""

from __future__ import annotations

import random
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from hashlib import sha256

import pytest

from replay import held
from replay.held import Held
from replay.schema import connect, create

ENTITIES = range(1, 6)
DIGESTS = [sha256(bytes([number])).digest() for number in range(12)]


@pytest.fixture
def connection() -> Iterator[sqlite3.Connection]:
    with closing(connect(":memory:")) as made:
        create(made)
        for number in ENTITIES:
            made.execute(
                "INSERT INTO entities(id, scope, name, entity_type, metadata, created_at, updated_at)"
                " VALUES (?, 'global', ?, 't', '{}', 1, 1)", (number, f"e{number}"),
            )  # fmt: skip
        yield made


def change(connection: sqlite3.Connection, entity_id: int, digest: bytes, there: bool) -> None:
    if there:
        connection.execute(
            "INSERT OR IGNORE INTO observations(entity_id, content, text_sha256, metadata, created_at)"
            " VALUES (?, 'x', ?, '{}', 1)", (entity_id, digest),
        )  # fmt: skip
    else:
        connection.execute("DELETE FROM observations WHERE entity_id = ? AND text_sha256 = ?", (entity_id, digest))


def is_there(connection: sqlite3.Connection, entity_id: int, digest: bytes) -> bool:
    sql = "SELECT count(*) FROM observations WHERE entity_id = ? AND text_sha256 = ?"
    return bool(connection.execute(sql, (entity_id, digest)).fetchone()[0])


@pytest.mark.parametrize(("entity_max", "held_max"), [(4096, 200_000), (3, 200_000), (4096, 30), (2, 9), (0, 0)])
@pytest.mark.parametrize("seed", range(4))
def test_it_answers_as_memory_db_would(
    connection: sqlite3.Connection, monkeypatch: pytest.MonkeyPatch, entity_max: int, held_max: int, seed: int
) -> None:
    monkeypatch.setattr(held, "ENTITY_MAX", entity_max)
    monkeypatch.setattr(held, "HELD_MAX", held_max)
    rng, known = random.Random(seed), Held()
    for _ in range(600):
        entity_id, digest = rng.choice(ENTITIES), rng.choice(DIGESTS)
        if rng.random() < 0.6:
            there = rng.random() < 0.6
            change(connection, entity_id, digest, there)
            known.note([((entity_id, digest), there)])
        elif rng.random() < 0.02:
            known.forget()
        assert known.has(connection, entity_id, digest) is is_there(connection, entity_id, digest)
        assert known._weight == sum(8 + len(each or ()) for each in known.entities.values())
        assert known._weight <= held_max


def test_an_entity_is_read_once_and_one_that_was_just_created_never(connection: sqlite3.Connection) -> None:
    statements: list[str] = []
    known = Held()
    known.begins(2)
    connection.set_trace_callback(statements.append)
    for digest in DIGESTS:
        assert not known.has(connection, 1, digest)
        assert not known.has(connection, 2, digest)
    assert len(statements) == 1


def test_one_with_too_many_is_asked_for_each(connection: sqlite3.Connection, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(held, "ENTITY_MAX", 4)
    for digest in DIGESTS[:5]:
        change(connection, 1, digest, True)
    known, statements = Held(), list[str]()
    connection.set_trace_callback(statements.append)
    assert [known.has(connection, 1, digest) for digest in DIGESTS] == [True] * 5 + [False] * 7
    assert len(statements) == 1 + len(DIGESTS)
