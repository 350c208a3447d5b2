"""What the agents are, or were at any moment: their configs, status and history, and what the validator says of them.

Read-only. Must not know how any of it is printed, or what recovery would do about it.
"""

from __future__ import annotations

import hashlib
import sqlite3
from collections.abc import Callable, Iterable, Iterator
from contextlib import closing
from typing import NamedTuple

import msgspec

from journal.events import (
    ConfigRejected,
    ConfigRemoved,
    ConfigWritten,
    Event,
    RecoveryStepCompleted,
    StateRestored,
    StatusChanged,
)
from journal.reader import LogReader
from journal.record import Record
from recovery.data import Data
from recovery.reading import reading
from replay.agent_format import SCHEMAS, Verdict, validate
from replay.engine import build_state
from replay.schema import connect, read_position
from replay.scratch import scratch_directory

Progress = Callable[[int, int], None]


class AgentRow(NamedTuple):
    """An agent in one state. Times are UTC ns."""

    name: str
    sha256: str
    content: bytes
    status: str
    reason: str
    updated_at: int


def agents_at(data: Data, reader: LogReader, seq: int, progress: Progress | None = None) -> dict[str, AgentRow]:
    """The agents of state(seq): from memory.db where it stands there, else from a state that is built beside."""
    if seq == reader.last_seq and (path := data.generations.current().path) is not None:
        try:
            with reading(path) as connection:
                position = read_position(connection)
                if position and (position.seq, position.chain) == (seq, reader.last_chain.hex()):
                    return _rows(connection)
        except (sqlite3.Error, OSError):
            pass  # damage is `check`'s to tell; the journal has them all the same
    with scratch_directory("agents") as scratch:
        path = f"{scratch}/state.db"
        build_state(
            data.storage, data.layout.journal, reader, seq, path, progress, embeddings=False, journal_mode="delete"
        )
        with closing(connect(path, read_only=True)) as connection:
            return _rows(connection)


def _rows(connection: sqlite3.Connection) -> dict[str, AgentRow]:
    found = connection.execute("SELECT name, sha256, content, status, reason, updated_at FROM agents ORDER BY name")
    return {row[0]: AgentRow(*row) for row in found}


def judgement(data: Data, name: str, content: bytes) -> Verdict:
    """What the configured schema says of a config, in full, whatever the mode is."""
    return validate(name, content, "strict", schema=SCHEMAS[data.config.agents.schema])


# -- history ----------------------------------------------------------------------------------------------------------


class Change(msgspec.Struct, frozen=True, kw_only=True):
    """One thing that happened to an agent. ``kind`` is written, removed, rejected, active, suspended, failed or
    restored; ``sha256`` and ``bytes`` are of the version that it brought, ``valid`` is the validator's word on it.
    ``reason`` is that of a status or a recovery, the first error of a rejected config, or what was restored."""

    seq: int
    time: int
    kind: str
    agent: str | None = None
    actor: str | None = None
    origin: str = ""
    sha256: str | None = None
    bytes: int | None = None
    valid: bool | None = None
    reason: str = ""


def history_of(data: Data, reader: LogReader, name: str) -> list[Change]:
    """Everything that the journal has of one agent, oldest first; a restore counts where it changed the agent."""
    changes: list[Change] = []
    versions: list[tuple[int, Change | None]] = []  # from which seq on, on any timeline: which version, or none
    for seq, record in _records(reader):
        event = record.event
        base = Change(seq=seq, time=record.time, kind="", agent=record.agent, actor=record.actor)
        if isinstance(event, StateRestored):
            was, now = (_version_at(versions, each) for each in (seq - 1, event.to_seq))
            if (was and was.sha256) != (now and now.sha256):
                sha256, size, valid = (now.sha256, now.bytes, now.valid) if now is not None else (None, None, None)
                reason = f"the state of seq {event.to_seq}" + ("" if now is not None else ", which had no such agent")
                changes.append(
                    msgspec.structs.replace(
                        base, kind="restored", sha256=sha256, bytes=size, valid=valid, reason=reason
                    )
                )
            versions.append((seq, now))
        elif isinstance(event, RecoveryStepCompleted):
            if event.component == f"agent {name}" and changes and changes[-1].seq == seq - 1:
                changes[-1] = msgspec.structs.replace(changes[-1], reason=f"{event.strategy}: {event.reason}")
                versions[-1] = (versions[-1][0], changes[-1])
        elif isinstance(event, _OF_AGENTS) and event.name == name:
            change = _change(data, event, base)
            changes.append(change)
            if isinstance(event, ConfigWritten | ConfigRemoved):
                versions.append((seq, change if isinstance(event, ConfigWritten) else None))
    return changes


_OF_AGENTS = (ConfigWritten, ConfigRemoved, ConfigRejected, StatusChanged)


def _records(reader: LogReader) -> Iterator[tuple[int, Record]]:
    for batch in reader.batches():
        yield from enumerate(batch.records(), batch.first_seq)


def _version_at(versions: Iterable[tuple[int, Change | None]], seq: int) -> Change | None:
    found = None
    for since, version in versions:
        if since > seq:
            break
        found = version
    return found


def _change(data: Data, event: Event, base: Change) -> Change:
    replaced = msgspec.structs.replace
    if isinstance(event, ConfigWritten | ConfigRejected):
        base = replaced(
            base, sha256=hashlib.sha256(event.content).hexdigest(), bytes=len(event.content),
            valid=judgement(data, event.name, event.content).accepted,
        )  # fmt: skip
    match event:
        case ConfigWritten():
            return replaced(base, kind="written", origin=event.origin)
        case ConfigRemoved():
            return replaced(base, kind="removed", origin=event.origin)
        case ConfigRejected():
            return replaced(base, kind="rejected", reason="; ".join(event.errors))
        case StatusChanged():
            return replaced(base, kind=event.status, reason=event.reason)
    raise AssertionError(event)
