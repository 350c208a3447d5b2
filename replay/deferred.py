"""What a bulk load puts off until its rows are in: changes and removals, and the unique rules.

Knows rows by id and observations by key; must not know events. See `bulk` for why putting off is exact. What waits is
settled now and then, so that neither the memory nor the file grows with what came and went: pages that are freed early
are the next rows'.
"""

from __future__ import annotations

import sqlite3
from typing import Any

from replay.memory import ENTITY_CHANGES, RELATION_CHANGES
from replay.schema import create_indexes, settings

_REMOVED_PER_PAGE = 4  # to find a page's rows takes about as long as to remove so many
_SORT_KIB = 1 << 10  # SQLite's cache, which is also how much it sorts at once
_IN_FILES = 1  # of temp_store


class Deferred:
    """Gathers what waits; needs the rows that it speaks of to be in the tables, and no index on them yet."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._connection = connection
        self.entity_changes: list[tuple[Any, ...]] = []  # as in ENTITY_CHANGES, then the id
        self.relation_changes: list[tuple[Any, ...]] = []  # as in RELATION_CHANGES
        self.dead_entities: list[tuple[int]] = []
        self.dead_relations: list[tuple[int]] = []
        self.removals: list[tuple[int, bytes, int]] = []  # entity id, text_sha256, and the seq that removes it

    @property
    def changes(self) -> int:
        """How many wait that find their row by its id."""
        return len(self.entity_changes) + len(self.relation_changes) + len(self.dead_relations)

    @property
    def removed(self) -> int:
        """How many wait that `settle` reads all observations and relations for."""
        return len(self.dead_entities) + len(self.removals)

    def apply_changes(self) -> None:
        """Updates rows, oldest change first, and takes away relations. May be done at any time."""
        executemany = self._connection.executemany
        executemany(f"UPDATE entities SET {ENTITY_CHANGES} WHERE id = ?", self.entity_changes)
        executemany(f"UPDATE relations SET {RELATION_CHANGES} WHERE id = ?", self.relation_changes)
        executemany("DELETE FROM relations WHERE id = ?", self.dead_relations)
        for done in (self.entity_changes, self.relation_changes, self.dead_relations):
            done.clear()

    def is_worth_settling(self) -> bool:
        """Whether so much waits that reading every page for it is little."""
        (pages,) = self._connection.execute("PRAGMA page_count").fetchone()
        return self.removed > _REMOVED_PER_PAGE * int(pages)

    def settle(self) -> int:
        """Removes what was removed up to now. Returns how many events had no effect after all.

        May be done at any time too: of an observation that something removes at most one row is left, as there is in
        the state, and the story goes on from that.
        """
        idle = self._settle_removals()
        self._settle_deaths()
        return idle

    def _settle_removals(self) -> int:
        """Tells the story of each observation that something removes: which row was there when."""
        if not self.removals:
            return 0
        execute, executemany = self._connection.execute, self._connection.executemany
        told: dict[tuple[int, bytes], list[int]] = {}
        for entity_id, text_sha256, seq in self.removals:
            told.setdefault((entity_id, text_sha256), []).append(seq)
        self.removals.clear()
        execute("CREATE TEMP TABLE removed(entity_id INTEGER, text_sha256 BLOB, PRIMARY KEY(entity_id, text_sha256))")
        executemany("INSERT INTO removed VALUES (?, ?)", told)
        added: dict[tuple[int, bytes], list[int]] = {key: [] for key in told}
        rows = "SELECT id, entity_id, text_sha256 FROM observations"
        for row_id, *key in execute(f"{rows} WHERE (entity_id, text_sha256) IN (SELECT * FROM removed)"):
            added[key[0], key[1]].append(row_id)
        execute("DROP TABLE removed")
        idle = 0
        gone: list[tuple[int]] = []
        for key, row_ids in added.items():
            removals = set(told[key])
            there: int | None = None
            for seq in sorted((*row_ids, *removals)):
                if seq not in removals:
                    if there is None:
                        there = seq
                        continue
                    gone.append((seq,))  # added while it was there
                elif there is not None:
                    gone.append((there,))
                    there = None
                    continue
                idle += 1
        executemany("DELETE FROM observations WHERE id = ?", sorted(gone))
        return idle

    def _settle_deaths(self) -> None:
        """Deletes entities by id, and with each all that hangs from it, in one pass a table."""
        if not self.dead_entities:
            return
        execute = self._connection.execute
        execute("CREATE TEMP TABLE dead(id INTEGER PRIMARY KEY)")
        self._connection.executemany("INSERT INTO dead VALUES (?)", self.dead_entities)
        self.dead_entities.clear()
        execute("DELETE FROM observations WHERE entity_id IN dead")
        execute("DELETE FROM relations WHERE from_entity_id IN dead OR to_entity_id IN dead")
        execute("DELETE FROM entities WHERE id IN dead")
        execute("DROP TABLE dead")

    def make_indexes(self) -> int:
        """Makes the indexes, in a transaction of its own. Where rows break a unique rule the first of each key stands;
        returns how many do not.

        Entries are sorted in runs of a megabyte that stay in a core's cache, which takes half as long as one run in
        memory. The runs go to SQLite's temporary files; where there is no room for those, memory must do.
        """
        with settings(self._connection, cache_size=-_SORT_KIB, temp_store=_IN_FILES, threads=1):
            try:
                return self._in_one_transaction()
            except sqlite3.OperationalError:
                pass
        return self._in_one_transaction()

    def _in_one_transaction(self) -> int:
        execute = self._connection.execute
        execute("BEGIN")
        try:
            idle = self._make_indexes()
            execute("COMMIT")
        except BaseException:
            if self._connection.in_transaction:
                execute("ROLLBACK")
            raise
        return idle

    def _make_indexes(self) -> int:
        execute = self._connection.execute
        idle = 0
        execute("SAVEPOINT indexes")
        try:
            create_indexes(self._connection)
        except sqlite3.IntegrityError:
            execute("ROLLBACK TO indexes")
            for table, key in (("observations", "entity_id, text_sha256"), ("messages", "conversation_id, message_id")):
                numbered = f"SELECT id, row_number() OVER (PARTITION BY {key} ORDER BY id) AS nth FROM {table}"
                idle += execute(f"DELETE FROM {table} WHERE id IN (SELECT id FROM ({numbered}) WHERE nth > 1)").rowcount
            create_indexes(self._connection)
        execute("RELEASE indexes")
        return idle
