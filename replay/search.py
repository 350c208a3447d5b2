"""Finding observations by meaning: exact cosine over all vectors, held in memory.

Knows what is in memory.db when it is asked; must not know the journal, nor compute vectors of observations. The first
search reads every vector once; each later one reads only the rows that came since. A generation that was swapped in
is another file, so it is read anew. Brute force on purpose: 100,000 vectors take some fifty milliseconds, an
approximate index would have to be proven after every recovery, and this one has nothing to recover.
"""

from __future__ import annotations

import sqlite3
import threading
from array import array
from collections.abc import Sequence
from math import sqrt
from typing import TYPE_CHECKING, NamedTuple

from journal.errors import UsageError
from replay.embeddings import Damaged, fault, is_text_of
from replay.encoder import MissingExtra, Model, is_available

if TYPE_CHECKING:
    from replay.encoder import Vectors

_BLOCK_ROWS = 16_384  # 25 MB at 384 numbers: growing never copies what is there


class Hit(NamedTuple):
    """An observation that was found; `score` is the cosine, 1.0 for the same text."""

    score: float
    observation_id: int
    entity: str
    scope: str
    content: str
    agent: str | None
    created_at: int


class SearchIndex:
    """The vectors of one model in one memory.db, as unit rows in blocks. Safe to share between threads."""

    def __init__(self, model: Model) -> None:
        self._model = model
        self._lock = threading.Lock()
        self.forget()

    def forget(self) -> None:
        """Drops everything that was read; the next search reads it again."""
        self._source: str | sqlite3.Connection | None = None
        self._blocks: list[Vectors] = []
        self._row_of: dict[bytes, int] = {}  # text_sha256 → row of the matrix
        self._damaged: dict[bytes, str] = {}
        self._last_vector: tuple[int, bytes | None] = (0, None)  # rowid and key of the last row taken over
        # The observations that have a vector, as parallel columns; a row of -1 marks one that is gone.
        self._ids = array("q")
        self._rows = array("q")
        self._scopes = array("q")
        self._scope_numbers: dict[str, int] = {}
        self._without: dict[bytes, list[tuple[int, str]]] = {}  # observations whose text has no vector yet
        self._last_id = 0

    @property
    def damaged(self) -> list[Damaged]:
        """Stored vectors that were passed over and not replaced since; what they stand for is not found."""
        return [Damaged(*item) for item in self._damaged.items()]

    def search(
        self,
        connection: sqlite3.Connection,
        query: str | Sequence[float] | Vectors,
        limit: int = 10,
        scope: str | None = None,
    ) -> list[Hit]:
        """The observations nearest to a text or a vector, best first, of one scope or of all.

        Raises MissingExtra, ModelDamaged or UsageError.
        """
        if not is_available(self._model.backend):
            raise MissingExtra(self._model.backend)
        if limit < 1:
            raise UsageError(f"limit is {limit}", hint="ask for at least one result")
        target = self._unit_vector(query)
        with self._lock:
            self._refresh(connection)
            return self._nearest(connection, target, limit, scope)

    def _unit_vector(self, query: str | Sequence[float] | Vectors) -> Vectors:
        import numpy

        vector: Vectors
        vector = self._model.encode([query])[0] if isinstance(query, str) else numpy.asarray(query, dtype="<f4")
        length = float(numpy.linalg.norm(vector))
        if vector.shape != (self._model.dimension,) or not 0.0 < length < float("inf"):
            raise UsageError(f"a query vector is {self._model.dimension} finite numbers, not all of them zero")
        return vector / numpy.float32(length)

    # -- keeping up ---------------------------------------------------------------------------------------------------

    def _refresh(self, connection: sqlite3.Connection) -> None:
        source = _source_of(connection)
        if source != self._source or self._lost_its_place(connection):
            self.forget()
            self._source = source
        self._read_vectors(connection)
        self._read_observations(connection)

    def _lost_its_place(self, connection: sqlite3.Connection) -> bool:
        """Whether the last row taken over is gone: SQLite may then give its rowid, already passed, to another."""
        rowid, key = self._last_vector
        if key is None:
            return False
        row = connection.execute("SELECT text_sha256 FROM embeddings WHERE rowid = ?", (rowid,)).fetchone()
        return row is None or row[0] != key

    def _read_vectors(self, connection: sqlite3.Connection) -> None:
        rows = connection.execute(
            "SELECT rowid, text_sha256, model, vector, checksum FROM embeddings WHERE rowid > ? ORDER BY rowid",
            (self._last_vector[0],),
        )
        for rowid, key, model, vector, checksum in rows:
            if model == self._model.fingerprint:
                reason = fault(vector, checksum, self._model.dimension)
                if reason is not None:  # the place stays before it: its rowid is reused if it was the last
                    self._damaged[key] = reason
                    continue
                self._damaged.pop(key, None)
                self._put(key, vector)
            self._last_vector = (rowid, key)

    def _put(self, key: bytes, vector: bytes) -> None:
        import numpy

        row = self._row_of.setdefault(key, len(self._row_of))
        if row == len(self._blocks) * _BLOCK_ROWS:
            self._blocks.append(numpy.zeros((_BLOCK_ROWS, self._model.dimension), dtype="<f4"))
        numbers = numpy.frombuffer(vector, dtype="<f4")
        self._blocks[row // _BLOCK_ROWS][row % _BLOCK_ROWS] = numbers / sqrt(numbers.dot(numbers))
        for observation_id, scope in self._without.pop(key, ()):
            self._link(observation_id, row, scope)

    def _read_observations(self, connection: sqlite3.Connection) -> None:
        """Ids only grow within a generation, so what is new lies above the last one seen."""
        rows = connection.execute(
            """SELECT o.id, o.text_sha256, e.scope FROM observations AS o JOIN entities AS e ON e.id = o.entity_id
            WHERE o.id > ? ORDER BY o.id""",
            (self._last_id,),
        )
        for observation_id, key, scope in rows:
            row = self._row_of.get(key)
            if row is None:
                self._without.setdefault(key, []).append((observation_id, scope))
            else:
                self._link(observation_id, row, scope)
            self._last_id = observation_id

    def _link(self, observation_id: int, row: int, scope: str) -> None:
        self._ids.append(observation_id)
        self._rows.append(row)
        self._scopes.append(self._scope_numbers.setdefault(scope, len(self._scope_numbers)))

    # -- looking ------------------------------------------------------------------------------------------------------

    def _nearest(self, connection: sqlite3.Connection, target: Vectors, limit: int, scope: str | None) -> list[Hit]:
        import numpy

        if not self._ids:
            return []
        scores: Vectors = numpy.concatenate([block @ target for block in self._blocks])
        wanted = limit
        while True:
            candidates = self._best(scores, wanted, scope)
            hits: list[Hit] = []
            for slot in candidates:
                hit = self._hit(connection, self._ids[slot], float(scores[self._rows[slot]]))
                if hit is None:
                    self._rows[slot] = -1
                else:
                    hits.append(hit)
                if len(hits) == limit:
                    return hits
            if len(candidates) < wanted:
                return hits
            wanted *= 4  # some were gone: look further down, so that even a cleared scope costs a few rounds only

    def _best(self, scores: Vectors, wanted: int, scope: str | None) -> list[int]:
        """Slots of the `wanted` best observations, best first; equal scores in the order they were written."""
        import numpy

        rows = numpy.array(self._rows)
        eligible = rows >= 0
        if scope is not None:
            eligible &= numpy.array(self._scopes) == self._scope_numbers.get(scope, -1)
        slots = numpy.flatnonzero(eligible)
        slot_scores = scores[rows[slots]]
        if len(slots) > wanted:
            top = numpy.argpartition(-slot_scores, wanted - 1)[:wanted]
            slots, slot_scores = slots[top], slot_scores[top]
        best: list[int] = slots[numpy.lexsort((numpy.array(self._ids)[slots], -slot_scores))].tolist()
        return best

    def _hit(self, connection: sqlite3.Connection, observation_id: int, score: float) -> Hit | None:
        """The observation as it is now; None if it was removed, or altered so that its vector speaks of another."""
        row = connection.execute(
            """SELECT e.name, e.scope, CAST(o.content AS BLOB), o.text_sha256, o.agent, o.created_at
            FROM observations AS o JOIN entities AS e ON e.id = o.entity_id WHERE o.id = ?""",
            (observation_id,),
        ).fetchone()
        if row is None or not is_text_of(row[3], row[2]):
            return None
        return Hit(score, observation_id, row[0], row[1], row[2].decode(), row[4], row[5])


def _source_of(connection: sqlite3.Connection) -> str | sqlite3.Connection:
    """What is read: the generation's real path (SQLite resolves the link), or the connection itself if in memory."""
    for _, name, path in connection.execute("PRAGMA database_list"):
        if name == "main" and path:
            return str(path)
    return connection
