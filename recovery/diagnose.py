"""Facts about a data directory, read-only: nothing under it is changed, not even SQLite's side files.

integrity_check is not an oracle: bytes changed inside a row's text pass it. So the content of memory.db is compared by
digest with what the journal makes at its position, built beside it in a temporary directory.
"""

from __future__ import annotations

import os
import shutil
import sqlite3
import tempfile
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager

import msgspec

from journal.errors import DataError, NotAJournal
from journal.format import decode_segment_header
from journal.reader import LogReader, list_segments
from recovery.data import Data
from recovery.facts import Facts, JournalFacts, MemoryFacts, PositionIs
from replay.agents import AgentFact, Agents, inspect
from replay.digest import state_digest
from replay.engine import build_state
from replay.generations import Current
from replay.history import read_history
from replay.holders import holders
from replay.rebuild import journaled_versions
from replay.schema import APPLICATION_ID, Position, connect, read_position, read_projection_version

Progress = Callable[[str, int, int], None]
"""Called with a step's name, done and total."""


def diagnose(data: Data, *, deep: bool = True, progress: Progress | None = None) -> Facts:
    """Observes journal, memory.db and agents. With `deep`, digests are computed: a full scan and a replay.

    Raises NotAJournal where there is none; any other trouble is a fact.
    """
    evidence = evidence_seq(data)
    reader, journal = _journal(data, evidence)
    plan = data.interrupted_plan()
    facts = Facts(
        journal=journal,
        memory=_unjudged(data),
        writable=os.access(data.root, os.W_OK),
        free_bytes=data.storage.free_bytes(data.root),
        sqlite_version=sqlite3.sqlite_version,
        interrupted=plan.decode(errors="replace") if plan is not None else None,
    )
    if reader is None:
        return facts
    with tempfile.TemporaryDirectory(prefix="journal-check-") as scratch:
        memory = _memory(data, reader, scratch, deep, progress)
        agents: tuple[AgentFact, ...] = ()
        if not journal.error:
            agents = tuple(inspect_agents(data, reader, expected_agents(data, reader, memory, scratch, progress)))
    return msgspec.structs.replace(facts, memory=memory, agents=agents)


def evidence_seq(data: Data) -> int:
    """The last seq that something outside the log knows to have been durable: checkpoints, and memory.db's position.

    Only what belongs to this journal is evidence: a memory.db of another one says nothing of this log's end.
    """
    ours = _journal_id(data)
    seqs = [manifest.seq for manifest in data.checkpoints.manifests() if ours in (None, manifest.journal_id)]
    current = data.generations.current()
    if current.path is not None and current.kind in ("generation", "file"):
        position = peek_position(current.path)
        if position is not None and ours in (None, position.journal_id):
            seqs.append(position.seq)
    return max(seqs, default=0)


def _journal_id(data: Data) -> str | None:
    """As the first segment says that can tell."""
    for segment in list_segments(data.storage, data.layout.journal):
        try:
            file = data.storage.open(segment.path)
            try:
                return decode_segment_header(file.read_at(0, 64 << 10), segment.path)[0].journal_id.hex()
            finally:
                file.close()
        except (DataError, FileNotFoundError):
            continue
    return None


def peek_position(path: str) -> Position | None:
    """Where a database file stands, if it can be read at all; it is not changed."""
    try:
        with reading(path) as connection:
            return read_position(connection)
    except (sqlite3.Error, OSError):
        return None


@contextmanager
def reading(path: str) -> Iterator[sqlite3.Connection]:
    """A read-only connection that leaves no trace beside the file.

    SQLite makes side files even to read a database in WAL mode. A file that no process holds is opened as immutable;
    one with a write-ahead log left by a kill is read from a copy, since reading it in place would recover it.
    """
    wal = f"{path}-wal"
    has_wal = os.path.exists(wal) and os.path.getsize(wal) > 0
    if not os.path.isfile(path):
        raise FileNotFoundError(path)
    if holders([path]):
        with closing(connect(path, read_only=True)) as connection:
            yield connection
    elif has_wal:
        with tempfile.TemporaryDirectory(prefix="journal-read-") as scratch:
            copy = f"{scratch}/memory.db"
            shutil.copyfile(path, copy)
            shutil.copyfile(wal, f"{copy}-wal")
            with closing(connect(copy, read_only=True)) as connection:
                yield connection
    else:
        uri = f"file:{path.replace('%', '%25').replace('?', '%3f').replace('#', '%23')}?mode=ro&immutable=1"
        with closing(sqlite3.connect(uri, uri=True, isolation_level=None)) as connection:
            yield connection


# -- the journal ------------------------------------------------------------------------------------------------------


def _journal(data: Data, evidence: int) -> tuple[LogReader | None, JournalFacts]:
    manifests, damaged = data.checkpoints.scan()
    proven = [manifest.verified_at for manifest in manifests if manifest.verified_at is not None]
    facts = JournalFacts(
        checkpoints=len(manifests),
        newest_checkpoint=manifests[0].seq if manifests else 0,
        proven_at=max(proven, default=None),
        damaged_checkpoints=tuple(str(each.error) for each in damaged),
    )
    try:
        reader = data.reader(evidence)
        tail = reader.tail
        facts = msgspec.structs.replace(
            facts, journal_id=reader.journal_id.hex(), last_seq=reader.last_seq, last_time=reader.last_time,
            segments=len(reader.segments), clean=tail.closed and tail.region is None,
            torn_bytes=tail.region.length if tail.region else 0,
        )  # fmt: skip
        reader.raise_for_tail()
    except NotAJournal:
        raise
    except DataError as error:
        return None, msgspec.structs.replace(
            facts, error=str(error), error_code=error.code, exit_code=error.exit_code
        )
    return reader, facts


# -- memory.db --------------------------------------------------------------------------------------------------------


def _unjudged(data: Data) -> MemoryFacts:
    current = data.generations.current()
    return MemoryFacts(kind=current.kind, path=current.path, problem="the journal cannot be read, so it is not judged")


def _memory(
    data: Data, reader: LogReader, scratch: str, deep: bool, progress: Progress | None
) -> MemoryFacts:
    current = data.generations.current()
    held = tuple(str(each) for each in (holders([current.path]) or [])) if current.path else ()
    if current.kind != "generation":
        problem = "a regular file" if current.kind == "file" else current.kind.replace("_", " ")
        return MemoryFacts(kind=current.kind, path=current.path, held_by=held, problem=problem)
    assert current.path is not None
    try:
        with reading(current.path) as connection:
            return _read_memory(data, reader, connection, current, held, scratch, deep, progress)
    except (sqlite3.Error, OSError) as error:
        size = os.path.getsize(current.path) if os.path.exists(current.path) else 0
        problem = "the file is empty" if size == 0 else str(error)
        return MemoryFacts(kind=current.kind, path=current.path, held_by=held, problem=problem)


def _read_memory(
    data: Data,
    reader: LogReader,
    connection: sqlite3.Connection,
    current: Current,
    held: tuple[str, ...],
    scratch: str,
    deep: bool,
    progress: Progress | None,
) -> MemoryFacts:
    (application_id,) = connection.execute("PRAGMA application_id").fetchone()
    position = read_position(connection)
    if position is None:
        problem = "its tables are not ours" if application_id != APPLICATION_ID else "it has no position"
        return MemoryFacts(kind=current.kind, path=current.path, held_by=held, problem=problem)
    ours = position.journal_id == reader.journal_id.hex()
    where = place(data, reader, position) if ours else "unknown"
    integrity = digest = expected = None
    if deep and ours:
        integrity = _integrity(connection)
        if integrity == "ok" and where in ("here", "behind", "restore_pending"):
            digest = state_digest(connection)
            expected = expected_digest(data, reader, position.seq, scratch, progress)
    return MemoryFacts(
        kind=current.kind, path=current.path, readable=True, ours=ours, position=position.seq, position_is=where,
        projection_version=read_projection_version(connection), lag=max(0, reader.last_seq - position.seq),
        integrity=integrity, digest=digest, expected=expected, held_by=held,
    )  # fmt: skip


def place(data: Data, reader: LogReader, position: Position) -> PositionIs:
    """Where a position lies, by its seq and its chain: the same seq with another chain is another history."""
    if position.seq > reader.last_seq:
        return "beyond"
    if reader.chain_at(position.seq).hex() != position.chain:
        return "other_history"
    if position.seq == reader.last_seq:
        return "here"
    restores = read_history(reader, data.checkpoints).restores
    return "restore_pending" if any(restore.seq > position.seq for restore in restores) else "behind"


def _integrity(connection: sqlite3.Connection) -> str:
    """SQLite's own verdict: "ok", or the first thing that it found."""
    try:
        lines = [line for (text,) in connection.execute("PRAGMA integrity_check(3)") for line in str(text).split("\n")]
        return next((line for line in lines if not line.startswith("***")), lines[0])
    except sqlite3.Error as error:
        return str(error)


def expected_digest(data: Data, reader: LogReader, seq: int, scratch: str, progress: Progress | None) -> str:
    """The digest of state(seq), built from the journal."""
    path = f"{scratch}/expected-{seq}.db"
    if os.path.exists(path):
        with closing(connect(path, read_only=True)) as connection:
            return state_digest(connection)
    return build_state(data.storage, data.layout.journal, reader, seq, path, _named(progress, "replay")).digest


def _named(progress: Progress | None, step: str) -> Callable[[int, int], None] | None:
    return None if progress is None else lambda done, total: progress(step, done, total)


# -- agents -----------------------------------------------------------------------------------------------------------


def expected_agents(
    data: Data, reader: LogReader, memory: MemoryFacts, scratch: str, progress: Progress | None
) -> Agents:
    """The agents of the state at the journal's end: from memory.db where it holds that state, else built beside.

    Its digest was compared, or the caller asked not to.
    """
    if memory.path is not None and memory.position_is == "here" and memory.digest == memory.expected:
        with reading(memory.path) as connection:
            return agents_in(connection)
    path = f"{scratch}/expected-{reader.last_seq}.db"
    if not os.path.exists(path):
        build_state(data.storage, data.layout.journal, reader, reader.last_seq, path, _named(progress, "replay"))
    with closing(connect(path, read_only=True)) as connection:
        return agents_in(connection)


def agents_in(connection: sqlite3.Connection) -> Agents:
    """name → (sha256, content) of the agents in a state."""
    rows = connection.execute("SELECT name, sha256, content FROM agents")
    return {name: (sha256, content) for name, sha256, content in rows}


def inspect_agents(data: Data, reader: LogReader, agents: Agents) -> list[AgentFact]:
    """How the agent files compare with `agents`; the journal is scanned for old versions only if a file differs."""
    return inspect(data.storage, data.layout.agents, agents, journaled_versions(reader))
