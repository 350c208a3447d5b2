"""What lies under the name memory.db, and where its position lies in the journal's history. Lean: `status` needs it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from journal.reader import LogReader
    from recovery.data import Data
    from replay.schema import Position

MemoryKind = Literal["generation", "missing", "dangling", "foreign_link", "file", "other"]
PositionIs = Literal["unknown", "here", "behind", "beyond", "other_history", "restore_pending"]


def place(data: Data, reader: LogReader, position: Position) -> PositionIs:
    """Where a position lies, by its seq and its chain: the same seq with another chain is another history."""
    if position.seq < 0:
        return "unknown"
    if position.seq > reader.last_seq:
        return "beyond"
    if reader.chain_at(position.seq).hex() != position.chain:
        return "other_history"
    if position.seq == reader.last_seq:
        return "here"
    from replay.history import History, extend, recorded_history  # seldom needed, and `status` starts without it

    known = recorded_history(reader, data.checkpoints.manifests(), reader.last_seq)
    behind = known if known.seq > position.seq else History(position.seq)  # what came before does not matter here
    restores = extend(behind, reader, reader.last_seq).restores
    return "restore_pending" if any(restore.seq > position.seq for restore in restores) else "behind"
