"""What is known of an entity's observations is what memory.db holds, whatever was read, added, removed or forgotten."""

from __future__ import annotations

import gc
import random
import sqlite3
import sys
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


@pytest.mark.parametrize(
    ("read_max", "entity_max", "held_max"),
    [(4096, 4096, 200_000), (3, 8, 200_000), (3, 3, 200_000), (4096, 4096, 30), (2, 4, 30), (2, 2, 9), (0, 0, 0)],
)
@pytest.mark.parametrize("seed", range(4))
def test_it_answers_as_memory_db_would(
    connection: sqlite3.Connection, monkeypatch: pytest.MonkeyPatch, seed: int,
    read_max: int, entity_max: int, held_max: int,
) -> None:  # fmt: skip
    monkeypatch.setattr(held, "READ_MAX", read_max)
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
    monkeypatch.setattr(held, "READ_MAX", 4)
    for digest in DIGESTS[:5]:
        change(connection, 1, digest, True)
    known, statements = Held(), list[str]()
    connection.set_trace_callback(statements.append)
    assert [known.has(connection, 1, digest) for digest in DIGESTS] == [True] * 5 + [False] * 7
    assert len(statements) == 1 + len(DIGESTS)


def test_more_of_them_than_can_be_held_are_not_read_with_each_batch(
    connection: sqlite3.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Scenario: a few entities are written to in turn until all that is held of them is too much. What is forgotten of
    one is not read again, to be forgotten for the next."""
    monkeypatch.setattr(held, "READ_MAX", 4)
    monkeypatch.setattr(held, "HELD_MAX", 60)
    known, statements = Held(), list[str]()
    connection.set_trace_callback(statements.append)
    for digest in DIGESTS:
        for entity_id in ENTITIES:
            assert not known.has(connection, entity_id, digest)
            change(connection, entity_id, digest, True)
            known.note([((entity_id, digest), True)])
    grown = len(statements)
    for _ in range(10):
        assert all(known.has(connection, entity_id, digest) for digest in DIGESTS for entity_id in ENTITIES)
    rows = [int(statement.rpartition("LIMIT ")[2]) for statement in statements[grown:] if "LIMIT" in statement]
    assert sum(rows) <= 5 * len(ENTITIES)


@pytest.mark.skipif(sys.version_info >= (3, 14), reason="Python walks through all dictionaries from 3.14 on")
def test_pythons_collector_does_not_walk_through_it(connection: sqlite3.Connection) -> None:
    """Scenario: a server that knows ten thousand entities. Each full run would keep all writers waiting."""
    known = Held()
    change(connection, 1, DIGESTS[0], True)
    known.has(connection, 1, DIGESTS[0])
    known.begins(2)
    known.note([((entity_id, digest), True) for entity_id in (1, 2) for digest in DIGESTS])
    gc.collect()
    assert [len(each or ()) for each in known.entities.values()] == [len(DIGESTS)] * 2
    assert not any(gc.is_tracked(each) for each in known.entities.values())
