"""The messages of one agent, rebuilt from the journal in the live memory.db while its server runs.

What they must be is built beside, outside the writer's lock; under the lock only the last events are added and the rows
exchanged. A scope is `Core.recover_scope`'s, and the whole of a broken file `recovery.execute`'s.
"""

from __future__ import annotations

from collections.abc import Sequence
from time import time_ns
from typing import Any

import msgspec

from journal.files import write_file
from journal.reader import LogReader
from recovery.data import Data
from replay.agent_quarantine import set_aside
from replay.core import Core
from replay.digest import COLUMNS
from replay.engine import build_state
from replay.extend import extend
from replay.history import read_history
from replay.messages import MessagesRebuilt, rebuild_messages
from replay.scratch import scratch_directory
from replay.timeline import lineage_from


def recover_messages(data: Data, core: Core, agent: str) -> MessagesRebuilt:
    """Makes an agent's messages what the journal says; no other row is touched."""
    with scratch_directory("messages") as scratch:
        reader = LogReader(data.storage, data.layout.journal)
        seq = reader.last_seq
        path = _build(data, reader, seq, f"{scratch}/{seq}.db")
        with core.lock:
            state = core.state
            reader = LogReader(data.storage, data.layout.journal)
            restores = read_history(reader, data.checkpoints).restores_until(state.applied_seq)
            between = lineage_from(restores, state.applied_seq, seq)
            if between is None:  # a restore came in between
                path = _build(data, reader, state.applied_seq, f"{scratch}/again.db")
            elif state.applied_seq != seq:
                extend(reader, path, between, state.applied_seq)
            rebuilt = state.change_rows(lambda connection: rebuild_messages(connection, path, agent))
        if rebuilt.replaced:
            _keep(data, rebuilt.replaced, f"{scratch}/messages.jsonl", f"messages of {agent} rebuilt from the journal")
        return rebuilt


def _keep(data: Data, rows: Sequence[tuple[Any, ...]], path: str, reason: str) -> None:
    """Nothing is deleted: the rows that were replaced go to quarantine, a JSON object a line."""
    names = COLUMNS["messages"].split(", ")
    spelled = [
        dict(zip(names, (repr(cell) if isinstance(cell, bytes) else cell for cell in row), strict=True)) for row in rows
    ]
    write_file(data.storage, path, b"".join(msgspec.json.encode(each) + b"\n" for each in spelled))
    set_aside(data.storage, path, data.quarantine, time=time_ns(), reason=reason)


def _build(data: Data, reader: LogReader, seq: int, path: str) -> str:
    build_state(data.storage, data.layout.journal, reader, seq, path, embeddings=False, journal_mode="delete")
    return path
