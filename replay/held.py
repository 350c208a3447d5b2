"""Which observations entities have, of those that were written to lately: asked of memory.db once, then known.

A bounded memory of what memory.db holds, always of whole entities, so that it also knows what is not there. Knows ids
and digests; must not know events, nor what is still pending. Whoever changes rows says so, or has all of it forgotten.

An entity's digests are the keys of a dictionary without values: a set is walked through by each full run of Python's
collector, and ten thousand of them keep every writer waiting for 14 to 35 ms.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable

READ_MAX = 256
"""An entity with more observations is asked for each of them by itself. Reading them all would keep a batch waiting: 32
entities of 4,000 take 40 ms, and where more are written to in turn than can be held, each batch would read them."""

ENTITY_MAX = 4096
"""So many are held of one that was known before it had as many."""

HELD_MAX = 200_000
"""So many digests are held in all; beyond, the entities that were read first are forgotten."""

_ALL = "SELECT text_sha256 FROM observations WHERE entity_id = ? LIMIT ?"
_ONE = "SELECT 1 FROM observations WHERE entity_id = ? AND text_sha256 = ?"
_OVERHEAD = 8  # what holding none weighs, in digests

Digests = dict[bytes, None]


class Held:
    """Digests are SHA-256 of the texts, 32 bytes. ``entities`` are those that are known, by id, each with all of its
    digests, or None: it has too many."""

    __slots__ = ("_weight", "entities")

    def __init__(self) -> None:
        self.entities: dict[int, Digests | None] = {}
        self._weight = 0

    def has(self, connection: sqlite3.Connection, entity_id: int, digest: bytes) -> bool:
        """Whether memory.db holds this observation. Raises sqlite3.Error."""
        held = self.entities.get(entity_id)
        if held is None:
            if entity_id not in self.entities:
                found = {row[0]: None for row in connection.execute(_ALL, (entity_id, READ_MAX + 1))}
                few = len(found) <= READ_MAX
                self._hold(entity_id, found if few else None)
                if few:
                    return digest in found
            return connection.execute(_ONE, (entity_id, bytearray(digest))).fetchone() is not None
        return digest in held

    def begins(self, entity_id: int) -> None:
        """This entity was just created: it has no observations yet."""
        if entity_id in self.entities:
            self._drop(entity_id)
        self._hold(entity_id, {})

    def note(self, changes: Iterable[tuple[tuple[int, bytes], bool]]) -> None:
        """These observations, by entity and digest, were added to memory.db (True) or removed from it."""
        for (entity_id, digest), there in changes:
            held = self.entities.get(entity_id)
            if held is None or (digest in held) is there:
                continue  # not known, or too many: then each is asked for, and still is when some of them go
            if not there:
                del held[digest]
                self._weight -= 1
            elif len(held) < ENTITY_MAX:
                held[digest] = None
                self._weight += 1
            else:
                self._drop(entity_id)
                self._hold(entity_id, None)
        if self._weight > HELD_MAX:
            self._forget_oldest()

    def forget(self) -> None:
        self.entities.clear()
        self._weight = 0

    def _hold(self, entity_id: int, digests: Digests | None) -> None:
        self.entities[entity_id] = digests
        self._weight += _OVERHEAD + len(digests or ())
        self._forget_oldest()

    def _drop(self, entity_id: int) -> None:
        self._weight -= _OVERHEAD + len(self.entities.pop(entity_id) or ())

    def _forget_oldest(self) -> None:
        while self._weight > HELD_MAX and self.entities:
            self._drop(next(iter(self.entities)))
