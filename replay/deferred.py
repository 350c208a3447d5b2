"""What a bulk load puts off until its rows are in: changes and removals, and the unique rules.

Knows rows by id and observations by key; must not know events. See `bulk` for why putting off is exact.
"""

from __future__ import annotations

import sqlite3
from typing import Any

from replay.memory import ENTITY_CHANGES, RELATION_CHANGES
from replay.schema import create_indexes, settings

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
        self.removals: dict[tuple[int, bytes], list[int]] = {}  # (entity id, text_sha256): the seqs that remove it

    def apply_changes(self) -> None:
        """Updates rows, oldest change first. May be done at any time, which bounds what waits."""
        self._connection.executemany(f"UPDATE entities SET {ENTITY_CHANGES} WHERE id = ?", self.entity_changes)
        self._connection.executemany(f"UPDATE relations SET {RELATION_CHANGES} WHERE id = ?", self.relation_changes)
        self.entity_changes.clear()
        self.relation_changes.clear()

    def settle(self) -> int:
        """Removes what was removed. Returns how many events had no effect after all."""
        idle = self._settle_removals()
        self._settle_deaths()
        return idle

    def _settle_removals(self) -> int:
        """Tells the story of each observation that something removes: which row was there when."""
        if not self.removals:
            return 0
        execute, executemany = self._connection.execute, self._connection.executemany
        execute("CREATE TEMP TABLE removed(entity_id INTEGER, text_sha256 BLOB, PRIMARY KEY(entity_id, text_sha256))")
        executemany("INSERT INTO removed VALUES (?, ?)", self.removals)
        added: dict[tuple[int, bytes], list[int]] = {key: [] for key in self.removals}
        rows = "SELECT id, entity_id, text_sha256 FROM observations"
        for row_id, *key in execute(f"{rows} WHERE (entity_id, text_sha256) IN (SELECT * FROM removed)"):
            added[key[0], key[1]].append(row_id)
        execute("DROP TABLE removed")
        idle = 0
        gone: list[tuple[int]] = []
        for key, row_ids in added.items():
            removals = set(self.removals[key])
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
        """Deletes relations and entities by id, and with an entity all that hangs from it, in one pass a table."""
        execute, executemany = self._connection.execute, self._connection.executemany
        executemany("DELETE FROM relations WHERE id = ?", self.dead_relations)
        if not self.dead_entities:
            return
        execute("CREATE TEMP TABLE dead(id INTEGER PRIMARY KEY)")
        executemany("INSERT INTO dead VALUES (?)", self.dead_entities)
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
