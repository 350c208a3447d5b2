"""Observations and their vectors in a real memory.db, for the tests of embeddings and search."""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from hashlib import sha256

from replay import embeddings
from replay.embeddings import Embedder, Row
from replay.encoder import Model


def key_of(text: str) -> bytes:
    return sha256(text.encode()).digest()


def observe(connection: sqlite3.Connection, texts: Sequence[str], *, entity: int = 1, scope: str = "global") -> None:
    """Observations of one entity, ids ascending as seqs are."""
    (last,) = connection.execute("SELECT coalesce(max(id), 1000) FROM observations").fetchone()
    connection.execute(
        "INSERT OR IGNORE INTO entities VALUES (?, ?, ?, 'thing', '{}', 1.0, 0, 0)", (entity, scope, f"entity {entity}")
    )
    connection.executemany(
        "INSERT INTO observations VALUES (?, ?, ?, ?, '{}', 'sales', 7)",
        [(last + number, entity, text, key_of(text)) for number, text in enumerate(texts, 1)],
    )


class Writer:
    """Stores what it is handed, as the owner of the writing connection does, and remembers it."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self.connection = connection
        self.batches: list[list[bytes]] = []

    def __call__(self, rows: Sequence[Row]) -> None:
        self.batches.append([row.text_sha256 for row in rows])
        embeddings.store(self.connection, rows)

    @property
    def keys(self) -> list[bytes]:
        return [key for batch in self.batches for key in batch]


def embed(model: Model, connection: sqlite3.Connection, **options: int) -> Writer:
    write = Writer(connection)
    Embedder(model, **options).run(connection, write)
    return write


def cosine(one: Sequence[float], other: Sequence[float]) -> float:
    dot = sum(a * b for a, b in zip(one, other, strict=True))
    return float(dot / (sum(a * a for a in one) * sum(b * b for b in other)) ** 0.5)
