"""State from the journal: the newest usable checkpoint, then the events after it, up to any seq.

Knows that a checkpoint is a base and which ranges of the log remain; what an event does is `memory`'s, which ranges
make a state is `timeline`'s. No memory.db is trusted for content: a state is made of proven parts and proven events.
Builds beside; what makes a state current is `generations`.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import dataclass
from time import perf_counter

from journal.checkpoint import KIND_EMBEDDINGS, KIND_MEMORY, CheckpointStore, Manifest, PassedOver, ladder
from journal.errors import Corrupt, UsageError
from journal.reader import LogReader
from journal.storage import Storage
from replay.bulk import BulkLoader
from replay.digest import DIGEST_VERSION, state_digest
from replay.embedding_parts import load_embeddings
from replay.faults import sqlite_fault
from replay.history import History, belongs, read_history
from replay.memory import Applied, apply_records
from replay.records import position_at, records_of, total_of
from replay.schema import PROJECTION_VERSION, TABLES, Position, read_position, write_position
from replay.timeline import Range, Restore, event_count, lineage_from
from replay.working import JournalMode, assemble, connect_finished, connect_private, discard, finish

Progress = Callable[[int, int], None]
"""Called with (done, total) in events; a part of a checkpoint counts as `PART_EVENTS`."""

PART_EVENTS = 1000
EVENTS_PER_COMMIT = 20_000  # bounds what a transaction holds in memory


@dataclass(frozen=True, slots=True)
class Built:
    """A state as one closed, synced file without sidecars, and how it came about.

    ``base_seq`` is the checkpoint it was built on, 0 for genesis; ``passed_over`` are those that were not used, each
    with its reason. ``events`` were applied after the base, and made ``rows`` or were ``no_ops``. ``counts`` are rows
    by table. ``embeddings`` were taken from a checkpoint; ``embeddings_lost`` names damaged parts of them.
    """

    path: str
    position: Position
    digest: str
    base_seq: int
    passed_over: tuple[PassedOver, ...]
    events: int
    rows: int
    no_ops: int
    counts: dict[str, int]
    embeddings: int
    embeddings_lost: tuple[str, ...]
    bytes: int
    seconds: float


class _Unusable(Exception):
    """A checkpoint turned out to be no base; the next rung is tried."""


def build_state(
    storage: Storage,
    directory: str,
    reader: LogReader,
    target_seq: int,
    destination: str,
    progress: Progress | None = None,
    *,
    use_checkpoints: bool = True,
    history: History | None = None,
    embeddings: bool = True,
    journal_mode: JournalMode = "wal",
) -> Built:
    """Makes state(target_seq) in a new file at `destination`, with the digest of a scan of the finished file.

    `directory` is the journal's. `embeddings` takes vectors from a checkpoint, where one has any. `journal_mode` is
    what the file will be opened in: "wal" for a generation, "delete" for a copy that stands alone. Raises UsageError
    beyond the journal's end, Corrupt where events that are needed are damaged, NoSpace; then nothing is left at
    `destination`.
    """
    if not 0 <= target_seq <= reader.last_seq:
        raise UsageError(f"seq {target_seq} is not in this journal, which ends at {reader.last_seq}", seq=target_seq)
    started = perf_counter()
    checkpoints = CheckpointStore(storage, f"{directory}/checkpoints")
    manifests, damaged = checkpoints.scan() if use_checkpoints else ([], [])
    if history is None:
        history = read_history(reader, checkpoints if use_checkpoints else None, target_seq)
    restores = history.restores_until(target_seq)
    rungs, passed_over = ladder(manifests, lambda manifest: _unfit(manifest, restores, target_seq), target_seq)
    passed_over += [PassedOver(each.seq or 0, str(each.error)) for each in damaged if (each.seq or 0) <= target_seq]
    for base in (*rungs, None):
        ranges = lineage_from(restores, target_seq, base.seq if base else 0)
        assert ranges is not None
        build = _Build(checkpoints, reader, base, ranges, target_seq, destination, progress)
        try:
            built = build.run(manifests if embeddings else ())
            finish(storage, destination, journal_mode)
        except _Unusable as problem:
            discard(storage, destination)
            assert base is not None
            passed_over.append(PassedOver(base.seq, str(problem)))
            continue
        except BaseException as error:
            discard(storage, destination)
            if isinstance(error, sqlite3.Error):
                raise sqlite_fault(error, destination) from error
            raise
        return Built(
            destination, position_at(reader, target_seq), built.digest, base.seq if base else 0, tuple(passed_over),
            built.applied.events, built.applied.rows, built.applied.no_ops, built.counts, built.embeddings,
            tuple(built.lost), storage.size(destination), perf_counter() - started,
        )  # fmt: skip
    raise AssertionError("genesis is always a base")


def _unfit(manifest: Manifest, restores: Sequence[Restore], target_seq: int) -> str | None:
    """Why a checkpoint is no base for the state at `target_seq`, as far as its manifest tells."""
    made_by = (manifest.projection_version, manifest.digest_version)
    if made_by != (PROJECTION_VERSION, DIGEST_VERSION):
        return f"made by version {made_by[0]} of the projection and {made_by[1]} of the digest"
    if lineage_from(restores, target_seq, manifest.seq) is None:
        return "on a timeline that a restore left"
    return None


@dataclass(slots=True)
class _Result:
    applied: Applied
    counts: dict[str, int]
    embeddings: int
    lost: list[str]
    digest: str


class _Build:
    """One attempt at a state, on one rung."""

    def __init__(
        self,
        checkpoints: CheckpointStore,
        reader: LogReader,
        base: Manifest | None,
        ranges: Sequence[Range],
        target_seq: int,
        path: str,
        progress: Progress | None,
    ) -> None:
        self.checkpoints = checkpoints
        self.reader = reader
        self.base = base
        self.ranges = ranges
        self.target_seq = target_seq
        self.path = path
        self.before = len(base.of_kind(KIND_MEMORY)) * PART_EVENTS if base else 0
        self.total = self.before + event_count(ranges)
        self.progress = progress or (lambda done, total: None)

    def run(self, manifests: Sequence[Manifest]) -> _Result:
        """Raises _Unusable where the base is at fault. `manifests` are asked for vectors, which fit any state."""
        base = self.base
        if base is not None:
            self._take_parts(base)
        lost: list[str] = []
        vectors = next((found for each in manifests if (found := each.of_kind(KIND_EMBEDDINGS))), [])
        try:
            with closing(connect_private(self.path)) as connection:
                applied = self._load(connection) if base is None else self._apply(connection, base)
                connection.execute("BEGIN")
                write_position(connection, position_at(self.reader, self.target_seq))
                embeddings = load_embeddings(connection, self.checkpoints, vectors, lost.append)
                connection.execute("COMMIT")
                counts = {table: _count(connection, table) for table in TABLES}
            with closing(connect_finished(self.path)) as connection:
                digest = state_digest(connection)
        except sqlite3.DatabaseError as error:
            raise self._blame(error) from error
        if base is not None and not self.ranges and digest != base.digest:
            raise _Unusable(f"its parts have digest {digest}, its manifest says {base.digest}")
        return _Result(applied, counts, embeddings, lost, digest)

    def _take_parts(self, base: Manifest) -> None:
        if not belongs(base, self.reader):
            raise _Unusable("the journal tells another history at its seq")
        try:
            assemble(self.checkpoints, base, self.path, lambda count: self.progress(count * PART_EVENTS, self.total))
        except Corrupt as error:
            raise _Unusable(str(error)) from error

    def _blame(self, error: sqlite3.DatabaseError) -> Exception:
        """Proven parts that make no sound database mean that the checkpoint was made wrong: the next rung may do."""
        damaged = getattr(error, "sqlite_errorcode", 0) & 0xFF in (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB)
        return _Unusable(f"its parts make no sound database: {error}") if self.base is not None and damaged else error

    def _load(self, connection: sqlite3.Connection) -> Applied:
        loader = BulkLoader(connection)
        done = self.before
        for first_seq, records in records_of(self.reader, self.ranges):
            loader.add(first_seq, records)
            done += len(records)
            self.progress(done, self.total)
        return loader.finish()

    def _apply(self, connection: sqlite3.Connection, base: Manifest) -> Applied:
        if read_position(connection) != Position(base.seq, base.journal_id, base.epoch, base.chain):
            raise _Unusable("its parts stand at another position than its manifest says")
        applied = Applied()
        pending = 0
        connection.execute("BEGIN")
        for first_seq, records in records_of(self.reader, self.ranges):
            applied = total_of(applied, apply_records(connection, first_seq, records))
            pending += len(records)
            if pending >= EVENTS_PER_COMMIT:
                connection.execute("COMMIT")
                connection.execute("BEGIN")
                pending = 0
            self.progress(self.before + applied.events, self.total)
        connection.execute("COMMIT")
        return applied


def _count(connection: sqlite3.Connection, table: str) -> int:
    (count,) = connection.execute(f"SELECT count(*) FROM {table}").fetchone()
    return int(count)
