"""Rows on their way into a table, a hundred to a statement: half the time of a statement each.

Knows a table's name and columns; must not know what the rows mean. In ascending order of ids an insert only ever
appends to the table's tree.
"""

from __future__ import annotations

import sqlite3
from typing import Any

ROWS_PER_STATEMENT = 100


class Inserter:
    """Gathers rows in ``cells``, one after the other in one flat list, and writes them when it is told to."""

    __slots__ = ("_connection", "_full", "_insert", "_row", "_width", "cells")

    def __init__(self, connection: sqlite3.Connection, table: str, columns: str) -> None:
        self._connection = connection
        self._width = columns.count(",") + 1
        self._row = "(" + ", ".join("?" * self._width) + ")"
        self._insert = f"INSERT INTO {table}({columns}) VALUES "
        self._full = self._insert + ", ".join([self._row] * ROWS_PER_STATEMENT)
        self.cells: list[Any] = []

    def write_full(self) -> None:
        """Writes what fills whole statements; the rest waits for more."""
        step = ROWS_PER_STATEMENT * self._width
        end = len(self.cells) // step * step
        for start in range(0, end, step):
            self._connection.execute(self._full, self.cells[start : start + step])
        del self.cells[:end]

    def write_all(self) -> None:
        self.write_full()
        if self.cells:
            rows = len(self.cells) // self._width
            self._connection.execute(self._insert + ", ".join([self._row] * rows), self.cells)
            self.cells.clear()
