"""The embeddings table: which texts have no vector yet, computing them, and proving the stored ones.

A vector belongs to a text and a model: its key is SHA-256 of the text's UTF-8 and the model's fingerprint, so equal
texts share one, it outlives the observation that asked for it, and no state digest covers it. A text is *pending*
while an observation holds it and no row has its key; losing rows, or the whole table, only makes texts pending again.

Knows observations and embeddings; must not open, lock or swap a database. Reads go to the connection it is given,
writes to the caller, who owns the one writing connection. Needs neither numpy nor torch until a text is encoded.
"""

from __future__ import annotations

import sqlite3
import sys
from array import array
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from hashlib import sha256
from math import isfinite
from typing import NamedTuple
from zlib import crc32

from replay.encoder import Model

_NUMBER_BYTES = 4


class Row(NamedTuple):
    """A row of the embeddings table."""

    text_sha256: bytes
    model: str
    vector: bytes
    checksum: int


class PendingText(NamedTuple):
    text_sha256: bytes
    content: str


@dataclass(frozen=True, slots=True)
class Page:
    """Some pending texts, each once. The next page starts after `last_id`; the last one is not full.

    `altered` are ids of observations whose content is not the text that their text_sha256 names. They get no vector:
    it would be stored, and carried into checkpoints, under the key of the text that was really written.
    """

    texts: list[PendingText]
    last_id: int
    altered: list[int]


class Bad(NamedTuple):
    """A row that must not be used, whatever its model, and why. Its key may be part of the damage."""

    rowid: int
    reason: str


class Damaged(NamedTuple):
    """A stored vector that must not be used, and why."""

    text_sha256: bytes
    reason: str


@dataclass(frozen=True, slots=True)
class Embedded:
    """What one run did: vectors written, observations passed over as altered, and whether it was stopped early.

    Everything up to the observation `last_id` is done: a later run on the same generation may start after it.
    """

    done: int
    altered: list[int]
    last_id: int
    stopped: bool


# -- reading ----------------------------------------------------------------------------------------------------------


def pending(connection: sqlite3.Connection, fingerprint: str | None) -> int:
    """How many distinct texts have no vector of this model.

    A fingerprint of None asks for texts without a vector of any model: what can be said where no model is installed.
    Two scans and a set: a probe for each text, in random order, takes twice as long over a million.
    """
    lacking = {key for (key,) in connection.execute("SELECT text_sha256 FROM observations")}
    lacking.difference_update(
        key
        for (key,) in connection.execute(
            "SELECT text_sha256 FROM embeddings WHERE :model IS NULL OR model = :model", {"model": fingerprint}
        )
    )
    return len(lacking)


def pending_texts(connection: sqlite3.Connection, fingerprint: str, after: int, limit: int) -> Page:
    """The next `limit` pending texts of observations with an id above `after`, in id order.

    Walks the table from there and stops: no sort, and no second look at what an earlier page has passed. Contents are
    read as bytes, since a damaged one may be no UTF-8.
    """
    texts: dict[bytes, str] = {}
    altered: list[int] = []
    last_id = after
    cursor = connection.execute(
        """SELECT o.id, o.text_sha256, CAST(o.content AS BLOB) FROM observations AS o WHERE o.id > ? AND NOT EXISTS (
            SELECT 1 FROM embeddings AS e WHERE e.text_sha256 = o.text_sha256 AND e.model = ?) ORDER BY o.id""",
        (after, fingerprint),
    )
    try:
        for row_id, key, content in cursor:
            last_id = row_id
            if not is_text_of(key, content):
                altered.append(row_id)
            else:
                texts[key] = content.decode()
                if len(texts) == limit:
                    break
    finally:
        cursor.close()  # an unfinished SELECT would hold its read transaction, and the WAL, open
    return Page([PendingText(*item) for item in texts.items()], last_id, altered)


def is_text_of(text_sha256: object, content: object) -> bool:
    """Whether these bytes are the text that the key names, and are text at all."""
    if not isinstance(content, bytes) or sha256(content).digest() != text_sha256:
        return False
    try:
        content.decode()
    except UnicodeDecodeError:
        return False
    return True


def fault(vector: object, checksum: object, dimension: int | None) -> str | None:
    """Why a stored vector must not be used, or None. A dimension of None is one that nobody knows."""
    if not isinstance(vector, bytes):
        return f"the vector is a {type(vector).__name__}, not bytes"
    if dimension is None and (not vector or len(vector) % _NUMBER_BYTES):
        return f"the vector has {len(vector)} bytes, which are no numbers"
    if dimension is not None and len(vector) != dimension * _NUMBER_BYTES:
        return f"the vector has {len(vector)} bytes, {dimension * _NUMBER_BYTES} expected"
    if crc32(vector) != checksum:
        return "the checksum does not match"
    numbers = array("f", vector)
    if sys.byteorder == "big":
        numbers.byteswap()
    if not isfinite(sum(numbers)):  # one NaN or infinity makes the sum one; finite float32s cannot overflow a float
        return "a number is not finite"
    if not any(numbers):
        return "all numbers are zero"
    return None


def damaged(connection: sqlite3.Connection, fingerprint: str, dimension: int) -> Iterator[Damaged]:
    """Every vector of this model that must not be used. Reads them all."""
    for key, vector, checksum in connection.execute(
        "SELECT text_sha256, vector, checksum FROM embeddings WHERE model = ?", (fingerprint,)
    ):
        reason = fault(vector, checksum, dimension)
        if reason is not None:
            yield Damaged(key, reason)


def bad_rows(connection: sqlite3.Connection, dimensions: Mapping[str, int]) -> Iterator[Bad]:
    """Every row of the table that must not be used, of all models. Reads them all.

    `dimensions` gives the size of a vector by fingerprint; of a model that is not in it, sizes are not judged.
    """
    rows = connection.execute("SELECT rowid, text_sha256, model, vector, checksum FROM embeddings")
    for rowid, key, model, vector, checksum in rows:
        if not isinstance(key, bytes) or len(key) != 32 or not isinstance(model, str):
            yield Bad(rowid, "its key is none")
            continue
        reason = fault(vector, checksum, dimensions.get(model))
        if reason is not None:
            yield Bad(rowid, reason)


# -- writing: on the writing connection, inside the caller's transaction ----------------------------------------------


def store(connection: sqlite3.Connection, rows: Sequence[Row]) -> None:
    connection.executemany(
        "INSERT OR REPLACE INTO embeddings (text_sha256, model, vector, checksum) VALUES (?, ?, ?, ?)", rows
    )


def drop(connection: sqlite3.Connection, fingerprint: str, keys: Sequence[bytes]) -> None:
    """Removes vectors; the texts that are still observed are pending again."""
    connection.executemany(
        "DELETE FROM embeddings WHERE text_sha256 = ? AND model = ?", [(key, fingerprint) for key in keys]
    )


def drop_rows(connection: sqlite3.Connection, bad: Sequence[Bad]) -> None:
    """Removes the rows; the texts that are still observed are pending again."""
    connection.executemany("DELETE FROM embeddings WHERE rowid = ?", [(each.rowid,) for each in bad])


# -- computing --------------------------------------------------------------------------------------------------------


class Embedder:
    """Computes the vectors of pending texts, one batch at a time.

    A window of texts is sorted by length before it is cut into batches, since every text of a batch costs as much as
    its longest. What was handed to `write` is done: a run that was stopped or killed goes on from there.
    """

    def __init__(self, model: Model, *, batch: int = 32, window: int = 1024) -> None:
        self._model = model
        self._batch = batch
        self._window = window

    def run(
        self,
        connection: sqlite3.Connection,
        write: Callable[[Sequence[Row]], None],
        *,
        after: int = 0,
        progress: Callable[[int, int], None] | None = None,
        stop: Callable[[], bool] | None = None,
    ) -> Embedded:
        """Until nothing above the observation `after` is pending, or `stop()` says so between two batches.

        `connection` is only read, and is not inside a statement while a batch is encoded or written. `progress` is
        called with (done, total) texts at the start and after each batch; texts that arrive meanwhile raise total.
        """
        fingerprint = self._model.fingerprint
        total = pending(connection, fingerprint) if progress is not None else 0  # looks at every text
        done = 0
        altered: list[int] = []
        if progress is not None:
            progress(done, total)
        while True:
            page = pending_texts(connection, fingerprint, after, self._window)
            texts = sorted(page.texts, key=lambda text: len(text.content))
            for start in range(0, len(texts), self._batch):
                if stop is not None and stop():
                    return Embedded(done, altered, after, stopped=True)
                batch = texts[start : start + self._batch]
                write(self._encode(batch))
                done += len(batch)
                if progress is not None:
                    total = max(total, done)
                    progress(done, total)
            altered += page.altered
            after = page.last_id
            if len(texts) < self._window:
                if progress is not None and done < total:
                    progress(done, done)  # the rest lies before `after`, or is altered: what could be done is done
                return Embedded(done, altered, after, stopped=False)

    def verify(self, connection: sqlite3.Connection, drop: Callable[[Sequence[bytes]], None]) -> list[Damaged]:
        """Proves every stored vector of this model, and hands the keys of the bad ones to `drop`.

        Dropped is pending: the next run from the start computes them anew. Returns what was wrong, to be reported.
        """
        bad = list(damaged(connection, self._model.fingerprint, self._model.dimension))
        if bad:
            drop([each.text_sha256 for each in bad])
        return bad

    def _encode(self, texts: Sequence[PendingText]) -> list[Row]:
        vectors = self._model.encode([text.content for text in texts], batch=self._batch)
        stored = [vector.tobytes() for vector in vectors]
        return [
            Row(text.text_sha256, self._model.fingerprint, vector, crc32(vector))
            for text, vector in zip(texts, stored, strict=True)
        ]
