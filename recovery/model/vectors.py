"""Vectors that outlive their memory.db: what a file that is about to be replaced holds and can be proven.

A vector belongs to a text and a model, whatever state it lies in, so a damaged file's are as good as their checksums.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator

from recovery.data import Data
from recovery.reading import reading
from replay.embeddings import Row, fault, pending
from replay.encoder import NoModel
from replay.tolerant import Gap, walk

_KEY_BYTES = 32
_NUMBER_BYTES = 4


def good_vectors(path: str) -> Iterator[Row]:
    """Every vector of the file whose checksum holds; nothing where it cannot be read. Changes nothing."""
    gaps: list[Gap] = []
    try:
        with reading(path) as connection:
            for _, *cells in walk(connection, "embeddings", "text_sha256, model, vector, checksum", gaps):
                if _is_good(*cells):
                    yield Row(*cells)
    except (sqlite3.Error, OSError):
        return  # whatever keeps them from being read: they are derived, and computed again


def pending_vectors(data: Data) -> int:
    """Texts of the current memory.db without a vector: of the configured model, or of any where there is none."""
    path = data.generations.current().path
    if path is None:
        return 0
    try:
        fingerprint: str | None = data.model().fingerprint
    except NoModel:
        fingerprint = None
    with reading(path) as connection:
        return pending(connection, fingerprint)


def _is_good(key: object, model: object, vector: object, checksum: object) -> bool:
    if not (isinstance(key, bytes) and len(key) == _KEY_BYTES and isinstance(model, str) and isinstance(vector, bytes)):
        return False
    dimension, rest = divmod(len(vector), _NUMBER_BYTES)
    return dimension > 0 and rest == 0 and fault(vector, checksum, dimension) is None
