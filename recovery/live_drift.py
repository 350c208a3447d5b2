"""Drift of the live memory.db: what another program wrote into it, held against the journal, and what is done about it.

The journal is right by definition: what it does not have is not part of the state. As `watch.memory` says, drift is
only reported; or the file is rebuilt beside and swapped, with the drifted one in quarantine; and then what was changed
may be journaled, as far as events can express it.
"""

from __future__ import annotations

import sqlite3
from contextlib import closing
from typing import Literal

import msgspec

from journal.reader import LogReader
from recovery.adopt.drift import Drift, find_drift
from recovery.data import Data
from replay.core import Core
from replay.deviation import counts, deviations, words
from replay.digest import state_digest
from replay.engine import build_state
from replay.schema import connect, read_position
from replay.scratch import scratch_directory
from replay.working import connect_finished


class MemoryDrift(msgspec.Struct, frozen=True):
    """What differed, in rows by table and in words; what was done; where in quarantine the drifted file lies."""

    action: Literal["reported", "reverted", "adopted"]
    words: str
    counts: dict[str, int]
    kept: str = ""


def settle_drift(data: Data, core: Core) -> MemoryDrift | None:
    """Compares a snapshot of memory.db with the journal at the same seq, and does what is configured; None where not a
    row differs. Writers go on while it compares. Raises sqlite3.Error where the file cannot be read."""
    with (
        scratch_directory("drift") as scratch,
        closing(connect(core.state.generation, read_only=True)) as connection,
    ):
        connection.execute("BEGIN")
        position = read_position(connection)
        if position is None:
            raise sqlite3.DatabaseError("memory.db has no position")
        reader = LogReader(data.storage, data.layout.journal)
        path = f"{scratch}/expected.db"
        build_state(
            data.storage, data.layout.journal, reader, position.seq, path, embeddings=False, journal_mode="delete"
        )
        with closing(connect_finished(path)) as expected:
            tables = deviations(connection, expected)
            adopts = data.config.watch.memory == "adopt"
            drift = find_drift(connection, expected) if adopts else Drift()
            source = f"memory.db with digest {state_digest(connection)}" if adopts else ""
    if not any(each.wrong for each in tables.values()):
        return None
    if data.config.watch.memory == "report":
        return MemoryDrift("reported", words(tables), counts(tables))
    kept = core.rebuild()
    place = kept[0] if kept else ""
    if not adopts:
        return MemoryDrift("reverted", words(tables), counts(tables), place)
    from recovery.adopt.memory import journal_drift  # it opens servers itself

    adopted = journal_drift(core, drift, source)
    left = f"; left out: {'; '.join(adopted.left_out)}" if adopted.left_out else ""
    told = f"{words(tables)}: {len(adopted.events)} events{left}"
    return MemoryDrift("adopted", told, counts(tables), place)
