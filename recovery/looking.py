"""How memory.db and the agent files compare with a journal that can be read. Changes nothing.

integrity_check is not an oracle: bytes changed inside a row's text pass it. So the content of memory.db is compared by
digest with what the journal makes at its position, built beside it in a temporary directory.
"""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Callable
from contextlib import closing
from time import sleep

import msgspec

from journal.reader import LogReader
from journal.storage import Kind
from recovery.data import Data
from recovery.facts import MemoryFacts
from recovery.known import Known, Scan
from recovery.placing import place
from recovery.reading import identity, reading
from replay.agents import AgentFact, Agents, inspect
from replay.deviation import Deviation, deviations
from replay.digest import state_digest
from replay.engine import build_state
from replay.generations import Current
from replay.holders import holders
from replay.rebuild import journaled_versions
from replay.schema import APPLICATION_ID, Position, connect, read_position, read_projection_version
from replay.tracing import database_span

Progress = Callable[[str, int, int], None]
"""Called with a step's name, done and total."""

_WRITER_SECONDS = 0.1  # a writer journals a config first, and writes its file a moment later


class Look:
    """One look at the state, beside a journal that can be read."""

    def __init__(
        self, data: Data, reader: LogReader, scratch: str, deep: bool, progress: Progress | None, known: Known
    ) -> None:
        self.data = data
        self.reader = reader
        self.scratch = scratch
        self.deep = deep
        self.progress = progress
        self.known = known

    @database_span("check")
    def at_memory(self) -> MemoryFacts:
        current = self.data.generations.current()
        held = tuple(str(each) for each in (holders([current.path]) or [])) if current.path else ()
        facts = MemoryFacts(kind=current.kind, path=current.path, held_by=held)
        if current.kind != "generation" or current.path is None:
            return msgspec.structs.replace(facts, problem=_what(current))
        try:
            with reading(current.path) as connection:
                return self._read(connection, current.path, facts)
        except (sqlite3.Error, OSError) as error:
            size = os.path.getsize(current.path) if os.path.exists(current.path) else 0
            return msgspec.structs.replace(facts, problem="the file is empty" if size == 0 else str(error))

    def _read(self, connection: sqlite3.Connection, path: str, facts: MemoryFacts) -> MemoryFacts:
        (application_id,) = connection.execute("PRAGMA application_id").fetchone()
        position = read_position(connection)
        if position is None:
            problem = "its tables are not ours" if application_id != APPLICATION_ID else "it has no position"
            return msgspec.structs.replace(facts, problem=problem)
        reader = self.reader
        if position.seq > reader.last_seq:
            reader.refresh()  # a writer at work: what was applied was durable before
        ours = position.journal_id == reader.journal_id.hex()
        where = place(self.data, reader, position) if ours else "unknown"
        integrity = digest = expected = tables = None
        if self.deep and ours:
            comparable = where in ("here", "behind", "restore_pending")
            integrity, digest = self._scan(connection, path, comparable)
            if comparable:
                expected = self._expected(position)
                if integrity != "ok" or digest != expected:
                    tables = self._deviations(connection, path, position)
        return msgspec.structs.replace(
            facts, readable=True, ours=ours, position=position.seq, position_is=where,
            projection_version=read_projection_version(connection), lag=max(0, reader.last_seq - position.seq),
            integrity=integrity, digest=digest, expected=expected, tables=tables,
        )  # fmt: skip

    def _scan(self, connection: sqlite3.Connection, path: str, comparable: bool) -> Scan:
        key = identity(path)
        scan = self.known.scans.get(key)
        if scan is None or (scan.integrity == "ok" and comparable and scan.digest is None):
            integrity = _cut_short(connection, path) or _integrity(connection)
            scan = Scan(integrity, state_digest(connection) if integrity == "ok" and comparable else None)
            self.known.scans[key] = scan
        return scan

    def _deviations(self, connection: sqlite3.Connection, path: str, position: Position) -> dict[str, Deviation]:
        """How many rows, by table, are not what the journal makes at this position."""
        key = (identity(path), position.seq, position.chain)
        if key not in self.known.tables:
            with closing(connect(self._build(position.seq)[0], read_only=True)) as expected:
                self.known.tables[key] = deviations(connection, expected)
        return self.known.tables[key]

    def _expected(self, position: Position) -> str:
        """The digest of the state at a place in this journal's history."""
        key = (position.seq, position.chain)
        if key not in self.known.expected:
            self.known.expected[key] = self._build(position.seq)[1]
        return self.known.expected[key]

    def _build(self, seq: int) -> tuple[str, str]:
        """A file that holds state(seq), and its digest."""
        path = f"{self.scratch}/{seq}.db"
        if os.path.exists(path):
            with closing(connect(path, read_only=True)) as connection:
                return path, state_digest(connection)
        progress = self.progress
        tick = None if progress is None else lambda done, total: progress("replay", done, total)
        return path, build_state(self.data.storage, self.data.layout.journal, self.reader, seq, path, tick).digest

    # -- agents -------------------------------------------------------------------------------------------------------

    def at_agents(self, memory: MemoryFacts, kind: Kind) -> list[AgentFact]:
        """How every agent file compares with the state at the journal's end."""
        expected = self.expected_agents(memory)
        if kind not in ("directory", "missing"):  # none of them can be there
            return [AgentFact(name, "missing", expected=sha256) for name, (sha256, _) in sorted(expected.items())]
        facts = self._inspect(expected)
        if memory.held_by and any(fact.condition not in ("ok", "unjournaled") for fact in facts):
            sleep(_WRITER_SECONDS)
            self.reader.refresh()
            facts = self._inspect(self.expected_agents(memory))
        return facts

    def _inspect(self, expected: Agents) -> list[AgentFact]:
        """The journal is scanned for old versions only if a file differs."""
        return inspect(self.data.storage, self.data.layout.agents, expected, journaled_versions(self.reader))

    def expected_agents(self, memory: MemoryFacts) -> Agents:
        """From memory.db where it was proven to hold the state at the journal's end, else from one built beside."""
        reader = self.reader
        key = (reader.last_seq, reader.last_chain.hex())
        if key not in self.known.agents:
            agents = None
            if memory.path is not None and memory.position == reader.last_seq and memory.position_is == "here":
                agents = self._proven_agents(memory)
            if agents is None:
                with closing(connect(self._build(reader.last_seq)[0], read_only=True)) as connection:
                    agents = _agents_in(connection)
            self.known.agents[key] = agents
        return self.known.agents[key]

    def _proven_agents(self, memory: MemoryFacts) -> Agents | None:
        """memory.db's agents, if its digest is the journal's, or nobody asked for digests and they can be read."""
        if memory.path is None or memory.digest != memory.expected or memory.integrity not in (None, "ok"):
            return None
        try:
            with reading(memory.path) as connection:
                position = read_position(connection)
                if position is None or position.seq != memory.position:
                    return None  # a writer went on
                agents = _agents_in(connection)
        except (sqlite3.Error, OSError):
            return None
        cells = [(type(name), type(sha256), type(content)) for name, (sha256, content) in agents.items()]
        return agents if all(types == (str, str, bytes) for types in cells) else None


def _what(current: Current) -> str:
    """What has memory.db's name and is no generation."""
    if current.kind == "foreign_link":
        return f"a link to {current.path}"
    return {"file": "a regular file", "other": "a directory or a special file"}.get(current.kind, current.kind)


def _cut_short(connection: sqlite3.Connection, path: str) -> str | None:
    """SQLite reads a page that the file ends in as if zeros followed. A -wal may hold the whole page still."""
    (page_bytes,) = connection.execute("PRAGMA page_size").fetchone()
    excess = os.path.getsize(path) % page_bytes
    if not excess or os.path.exists(f"{path}-wal"):
        return None
    return f"the file ends {page_bytes - excess} bytes before its last page does"


@database_span("integrity_check")
def _integrity(connection: sqlite3.Connection) -> str:
    """SQLite's own verdict: "ok", or the first thing that it found."""
    try:
        lines = [line for (text,) in connection.execute("PRAGMA integrity_check(3)") for line in str(text).split("\n")]
        return next((line for line in lines if not line.startswith("***")), lines[0])
    except sqlite3.Error as error:
        return str(error)


def _agents_in(connection: sqlite3.Connection) -> Agents:
    """name → (sha256, content) of the agents in a state."""
    rows = connection.execute("SELECT name, sha256, content FROM agents")
    return {name: (sha256, content) for name, sha256, content in rows}
