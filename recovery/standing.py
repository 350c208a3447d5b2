"""Where a data directory stands, looked up rather than computed: no digest, no replay, no lock.

Knows what each part says of itself; whether it is right is `diagnose`'s to find out. Nothing is changed.
"""

from __future__ import annotations

import os
import sqlite3

import msgspec

from journal.checkpoint import Damaged, Manifest
from journal.errors import DataError, NotAJournal
from journal.files import read_bounded
from journal.holder import LOCK_BYTES_MAX, read_holder
from journal.reader import LogReader
from journal.stored import stored_bytes
from recovery.data import Data
from recovery.landmarks import Drill, JournaledModel, landmarks
from recovery.placing import MemoryKind, PositionIs, place
from recovery.reading import reading
from recovery.rto import estimate
from recovery.tables.rto import Estimate
from replay.embeddings import pending
from replay.encoder import EXTRAS, Model, NoModel, is_available
from replay.holders import holders
from replay.model_files import ModelDamaged
from replay.schema import TABLES, Position, read_position


class Writer(msgspec.Struct, frozen=True):
    """The process that holds the journal's lock."""

    pid: int
    command: str


class Log(msgspec.Struct, frozen=True, kw_only=True):
    """``closed``: the last writer closed, so the log ends where it says. ``problem`` is what stops reading it.

    ``unsettled`` counts events of a writer that is gone whose sync nobody vouches for: the next open settles them.
    ``carried_from`` to ``carried_to`` are those that the last opener carried over, whatever their callers were told.
    """

    journal_id: str = ""
    last_seq: int | None = None
    last_time: int | None = None
    segments: int = 0
    bytes: int = 0
    closed: bool = False
    torn_bytes: int = 0
    unsettled: int = 0
    carried_from: int | None = None
    carried_to: int | None = None
    epoch: int = 0
    writer: Writer | None = None
    problem: str | None = None
    exit_code: int = 0


class Memory(msgspec.Struct, frozen=True, kw_only=True):
    """memory.db. ``lag`` counts the events that it does not hold yet; ``rows`` are counts by table."""

    kind: MemoryKind
    path: str | None = None
    generation: int | None = None
    position: int | None = None
    position_is: PositionIs = "unknown"
    lag: int | None = None
    rows: dict[str, int] = {}
    problem: str | None = None


class Embeddings(msgspec.Struct, frozen=True, kw_only=True):
    """``pending``: texts without a vector of the model, or of any model where there is none; None if unknown.

    ``extra`` is the one that the configured backend needs.
    """

    extra_installed: bool
    extra: str
    model: str | None
    pending: int | None = None


class Checkpoints(msgspec.Struct, frozen=True, kw_only=True):
    """``proven_at`` is when one last proved restorable, UTC ns."""

    count: int
    verified: int
    damaged: int
    bytes: int
    newest_seq: int | None
    newest_time: int | None
    proven_at: int | None
    proven_seconds_ago: float | None


class Quarantine(msgspec.Struct, frozen=True):
    files: int
    bytes: int


class Standing(msgspec.Struct, frozen=True, kw_only=True):
    """``model`` and ``drill`` are what the journal last said of them from ``looked_from_seq`` on: what was before, no
    checkpoint tells."""

    data: str
    time: int
    journal: Log
    memory: Memory
    agents: int | None
    embeddings: Embeddings
    checkpoints: Checkpoints
    quarantine: Quarantine
    model: JournaledModel | None
    drill: Drill | None
    looked_from_seq: int
    recovery: Estimate | None
    interrupted_recovery: str | None
    importing: bool


def standing(data: Data, now: int) -> Standing:
    """Looks once at everything. Raises NotAJournal where there is none; other trouble is in the result."""
    manifests, damaged = data.checkpoints.scan()
    model = _model(data)
    memory, position, pending_texts = _memory(data, model)
    log, reader = _log(data, manifests, position)
    if reader is not None and position is not None:
        log, memory = _placed(data, reader, position, log, memory)
    plan = data.interrupted_plan()
    marks = landmarks(data, reader)
    return Standing(
        data=data.root, time=now, journal=log, memory=memory, agents=memory.rows.get("agents"),
        embeddings=Embeddings(
            extra_installed=is_available(data.config.embeddings.backend), extra=EXTRAS[data.config.embeddings.backend],
            model=str(model.path) if model is not None else None, pending=pending_texts,
        ),
        checkpoints=_checkpoints(manifests, damaged, now), quarantine=_quarantine(data.quarantine),
        model=marks.model, drill=marks.drill, looked_from_seq=marks.from_seq,
        recovery=estimate(data, reader, manifests, marks.drill) if reader is not None and not log.problem else None,
        interrupted_recovery=plan.decode(errors="replace") if plan is not None else None,
        importing=data.is_importing,
    )  # fmt: skip


# -- the journal ------------------------------------------------------------------------------------------------------


def _log(data: Data, manifests: list[Manifest], position: Position | None) -> tuple[Log, LogReader | None]:
    """The reader is None where the log cannot be read at all."""
    lock = f"{data.layout.journal}/lock"
    has_lock = data.storage.kind(lock) == "file"
    claim = read_holder(read_bounded(data.storage, lock, LOCK_BYTES_MAX) if has_lock else b"")
    held = holders([lock]) if has_lock else []
    writer = Writer(held[0].pid, held[0].command) if held else None
    if writer is not None and writer.pid == claim.pid:
        writer = Writer(claim.pid, claim.command or writer.command)
    try:
        reader = data.reader()
    except NotAJournal:
        raise
    except DataError as error:
        return Log(writer=writer, epoch=claim.epoch, problem=str(error), exit_code=error.exit_code), None
    known = [manifest.seq for manifest in manifests if manifest.journal_id == reader.journal_id.hex()]
    if position is not None and position.journal_id == reader.journal_id.hex():
        known.append(position.seq)
    reader.evidence_seq = max([reader.evidence_seq, *known])
    problem, exit_code = None, 0
    try:
        reader.raise_for_end()
    except DataError as error:
        problem, exit_code = str(error), error.exit_code
    tail = reader.tail
    carried = reader.carried()
    log = Log(
        journal_id=reader.journal_id.hex(), last_seq=reader.last_seq, last_time=reader.last_time or None,
        segments=len(reader.segments), bytes=sum(stored_bytes(data.storage, each.path) for each in reader.segments),
        closed=tail.closed and tail.region is None, torn_bytes=tail.region.length if tail.region is not None else 0,
        unsettled=0 if tail.closed or writer is not None else tail.last_seq - tail.durable_seq,
        carried_from=carried[0] if carried else None, carried_to=carried[1] if carried else None,
        epoch=max(claim.epoch, tail.epoch), writer=writer, problem=problem, exit_code=exit_code,
    )  # fmt: skip
    return log, reader


# -- the state --------------------------------------------------------------------------------------------------------


def _model(data: Data) -> Model | None:
    try:
        model = data.model()
        return model if model.fingerprint else None
    except (NoModel, ModelDamaged, OSError):
        return None


def _memory(data: Data, model: Model | None) -> tuple[Memory, Position | None, int | None]:
    """What one look into memory.db tells: its position, its row counts and the texts without a vector."""
    current = data.generations.current()
    memory = Memory(kind=current.kind, path=current.path, generation=current.number)
    if current.path is None or current.kind not in ("generation", "file"):
        problem = {"missing": "missing", "dangling": "its generation is missing"}.get(current.kind, "not a database")
        return msgspec.structs.replace(memory, problem=problem), None, None
    try:
        with reading(current.path) as connection:
            position = read_position(connection)
            rows = {table: int(connection.execute(f"SELECT count(*) FROM {table}").fetchone()[0]) for table in TABLES}
            pending_texts = pending(connection, model.fingerprint if model is not None else None)
    except (sqlite3.Error, OSError) as error:
        return msgspec.structs.replace(memory, problem=f"cannot be read: {error}"), None, None
    problems = ["a regular file, not a link to a generation"] if current.kind == "file" else []
    problems += ["it has no position"] if position is None else []
    seq = position.seq if position is not None else None
    memory = msgspec.structs.replace(memory, position=seq, rows=rows, problem=", ".join(problems) or None)
    return memory, position, pending_texts


def _placed(data: Data, reader: LogReader, position: Position, log: Log, memory: Memory) -> tuple[Log, Memory]:
    """Where memory.db lies in the journal; damage that is met on the way is the log's."""
    if position.journal_id != log.journal_id:
        return log, msgspec.structs.replace(memory, problem=f"it belongs to journal {position.journal_id}")
    try:
        where = place(data, reader, position)
    except DataError as error:
        return msgspec.structs.replace(log, problem=str(error), exit_code=error.exit_code), memory
    lag = max(0, reader.last_seq - position.seq)
    return log, msgspec.structs.replace(memory, position_is=where, lag=lag)


# -- what lies beside -------------------------------------------------------------------------------------------------


def _checkpoints(manifests: list[Manifest], damaged: list[Damaged], now: int) -> Checkpoints:
    proven = max((each.verified_at for each in manifests if each.verified_at is not None), default=None)
    parts = {part for manifest in manifests for part in manifest.parts}
    return Checkpoints(
        count=len(manifests), verified=sum(each.state == "verified" for each in manifests), damaged=len(damaged),
        bytes=sum(part.length for part in parts), newest_seq=manifests[0].seq if manifests else None,
        newest_time=manifests[0].time if manifests else None, proven_at=proven,
        proven_seconds_ago=max(0, now - proven) / 1e9 if proven is not None else None,
    )  # fmt: skip


def _quarantine(path: str) -> Quarantine:
    files = size = 0
    for directory, _, names in os.walk(path):
        for name in names:
            try:
                size += os.lstat(f"{directory}/{name}").st_size
            except FileNotFoundError:
                continue  # retired since it was listed
            files += 1
    return Quarantine(files, size)
