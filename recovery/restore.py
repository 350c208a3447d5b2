"""Restoring a past moment on a user's behalf: beside the live state, in its place, or only in words."""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Callable, Sequence
from contextlib import closing
from time import time_ns
from typing import TYPE_CHECKING

import msgspec

from journal.errors import UsageError
from journal.events import ConfigRemoved, ConfigWritten, Event, StatusChanged
from journal.reader import LogReader
from recovery.control.writer import commit_events, open_writer
from recovery.data import Data
from recovery.places import lies_on_live_data, place_of
from replay.agents import write_files
from replay.engine import build_state
from replay.restore import Restored
from replay.schema import connect
from replay.scratch import scratch_directory

if TYPE_CHECKING:
    from replay.diff import StateDiff

Progress = Callable[[int, int], None]


class Copy(msgspec.Struct):
    """A standalone copy of one state: what it is, where it lies, how it was made."""

    seq: int
    path: str
    digest: str
    base_seq: int
    events: int
    agents: int
    passed_over: list[tuple[int, str]] = []
    moved_aside: str | None = None


def restore_beside(
    data: Data,
    reader: LogReader,
    seq: int,
    output: str,
    *,
    agents: Sequence[str] = (),
    force: bool = False,
    progress: Progress | None = None,
) -> Copy:
    """Writes state(seq) as a standalone memory.db without side files and agents/ into `output`.

    Built in a directory beside it and renamed when it is whole and synced, so that a cut leaves nothing under the
    name. Raises UsageError if something is there, unless `force` moves it aside; what is live is never moved.
    """
    storage = data.storage
    path = place_of(output, "-o")
    if lies_on_live_data(data, path):
        raise UsageError("the live data lies there", path=path, hint="name another directory, or use --in-place")
    occupied = bool(storage.list(path))
    if occupied and not force:
        raise UsageError(f"{path} is not empty", hint="name a new directory, or add --force to move it aside")
    parent = os.path.dirname(path)
    storage.make_directory(parent)
    with scratch_directory("replay", parent) as building:
        built = build_state(
            storage, data.layout.journal, reader, seq, f"{building}/memory.db", progress, journal_mode="delete"
        )
        with closing(connect(f"{building}/memory.db", read_only=True)) as connection:
            rows = dict(connection.execute("SELECT name, content FROM agents"))
        wanted = {name: content for name, content in rows.items() if not agents or name in agents}
        for name in agents:
            if name not in rows:
                raise UsageError(f"there is no agent {name!r} at seq {seq}", seq=seq)
        write_files(storage, f"{building}/agents", sorted(wanted.items()))
        storage.make_directory(f"{building}/agents")
        aside = None
        if storage.kind(path) == "directory" and not storage.list(path):
            storage.remove_directory(path)
        elif occupied:
            aside = f"{path}.{time_ns()}"
            storage.replace(path, aside)
        storage.replace(building, path)
        storage.sync_dir(parent)
    passed_over = [(each.seq, each.reason) for each in built.passed_over]
    return Copy(seq, path, built.digest, built.base_seq, built.events, len(wanted), passed_over, aside)


def restore_live(data: Data, seq: int, reason: str, progress: Progress | None = None) -> Restored:
    """The in-place restore: checkpoint, journal `state.restored`, build, swap, all by the one writer."""
    with open_writer(data, check="full") as writer:
        return writer.restore(seq, reason, progress)


class AgentsRestored(msgspec.Struct):
    """What bringing agents back journaled, and the seqs of the group; none where nothing differed."""

    to_seq: int
    written: list[str] = []
    removed: list[str] = []
    status: list[str] = []
    seqs: list[int] = []


def compare_agents(
    data: Data, reader: LogReader, seq: int, names: Sequence[str], progress: Progress | None = None
) -> AgentsRestored:
    """What `restore_agents` would journal, against the journal's end. Takes no lock and changes nothing."""
    then, now = (_agents_at(data, reader, each, progress) for each in (seq, reader.last_seq))
    return _undone(seq, names, then, now)[0]


def restore_agents(
    data: Data, reader: LogReader, seq: int, names: Sequence[str], progress: Progress | None = None
) -> AgentsRestored:
    """Makes agents what they were at `seq`, by one group of events; everything else stays.

    Only a whole restore jumps: this one adds what undoes the difference. Raises UsageError for a name that no agent
    had then or has now.
    """
    then = _agents_at(data, reader, seq, progress)
    with open_writer(data, check="full") as writer:
        with closing(connect(data.layout.memory_db, read_only=True)) as connection:
            now = _agents(connection)
        result, events = _undone(seq, names, then, now)
        result.seqs = [receipt.seq for receipt in commit_events(writer, events)]
    return result


AgentRows = dict[str, tuple[bytes, str, str]]  # name → content, status, reason


def _agents(connection: sqlite3.Connection) -> AgentRows:
    return {name: tuple(row) for name, *row in connection.execute("SELECT name, content, status, reason FROM agents")}


def _agents_at(data: Data, reader: LogReader, seq: int, progress: Progress | None) -> AgentRows:
    with scratch_directory("replay") as scratch:
        path = f"{scratch}/state.db"
        build_state(data.storage, data.layout.journal, reader, seq, path, progress, journal_mode="delete")
        with closing(connect(path, read_only=True)) as connection:
            return _agents(connection)


def _undone(seq: int, names: Sequence[str], then: AgentRows, now: AgentRows) -> tuple[AgentsRestored, list[Event]]:
    """The events that make the agents what they were, and what they do. Raises UsageError for a name of none."""
    result, events = AgentsRestored(seq), list[Event]()
    for name in dict.fromkeys(names):
        if name not in then and name not in now:
            raise UsageError(f"there is no agent {name!r}, at seq {seq} or now", seq=seq, hint="see agents/ for names")
        if name not in then:
            result.removed.append(name)
            events.append(ConfigRemoved(name, origin="recovery"))
            continue
        content, status, reason = then[name]
        if name not in now or now[name][0] != content:
            result.written.append(name)
            events.append(ConfigWritten(name, content, origin="recovery"))
        if (status, reason) != (now[name][1:] if name in now else ("active", "")):
            result.status.append(name)
            events.append(StatusChanged(name, status, reason))
    return result, events


def compare_with_end(data: Data, reader: LogReader, seq: int, progress: Progress | None = None) -> StateDiff:
    """What a restore of state(seq) would change, against the journal's end."""
    from replay.diff import diff

    with scratch_directory("replay") as scratch:
        paths = []
        for number, target in enumerate((reader.last_seq, seq)):
            paths.append(f"{scratch}/{number}.db")
            build_state(data.storage, data.layout.journal, reader, target, paths[-1], progress, journal_mode="delete")
        with closing(connect(paths[0], read_only=True)) as now, closing(connect(paths[1], read_only=True)) as then:
            return diff(now, then)
