"""State from the journal: the newest usable checkpoint, then the events after it, up to any seq.

Knows that a checkpoint is a base and which ranges of the log remain; what an event does is `memory`'s, which ranges
make a state is `timeline`'s. No memory.db is trusted for content: a state is made of proven parts and proven events.
Builds beside; what makes a state current is `generations`.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, closing, nullcontext
from dataclasses import dataclass
from time import perf_counter

from journal.checkpoint import KIND_EMBEDDINGS, CheckpointStore, Manifest, PassedOver, ladder
from journal.errors import Corrupt, UsageError
from journal.reader import LogReader
from journal.record import Record
from journal.storage import Storage
from replay.bulk import BulkLoader, collector_paused
from replay.digest import DIGEST_VERSION, Leaves, digest_of
from replay.embedding_parts import load_embeddings
from replay.embeddings import Row
from replay.faults import sqlite_fault
from replay.history import History, extend, recorded_history
from replay.leaves import Touched, load_leaves, renewed, rows_by_table
from replay.memory import Applied, apply_records
from replay.memory_parts import assemble
from replay.records import jump_in, position_at, records_of, total_of
from replay.scanning import file_leaves
from replay.schema import PROJECTION_VERSION, Position, read_position, write_position
from replay.timeline import Range, event_count, lineage_from
from replay.tracing import DATABASE, span
from replay.vouching import refusal
from replay.working import JournalMode, compact, connect_finished, connect_private, discard, finish, syncing

Progress = Callable[[int, int], None]
"""Called with (done, total) in events; a part of a checkpoint counts as `PART_EVENTS`."""

Vectors = Callable[[], Iterable[Row]]
"""Gives vectors that were computed before, each with a checksum that holds; called once for each attempt."""

PART_EVENTS = 1000
EVENTS_PER_COMMIT = 20_000  # bounds what a transaction holds in memory


@dataclass(frozen=True, slots=True)
class Built:
    """A state as one closed, synced file without sidecars, and how it came about.

    ``base_seq`` is the checkpoint it was built on, 0 for genesis; ``passed_over`` are those that were not used, each
    with its reason. ``events`` were applied after the base, and made ``rows`` or were ``no_ops``. ``counts`` are rows
    by table. ``rows_scanned`` were read back from the finished file for ``digest``: all, or those of the buckets that
    the events touched. ``embeddings`` were taken from a checkpoint, or from what the caller gave. ``parts_lost`` says
    which parts of a checkpoint were damaged that the state could do without: its embeddings, its leaves.
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
    rows_scanned: int
    embeddings: int
    parts_lost: tuple[str, ...]
    bytes: int
    seconds: float


class _Unusable(Exception):
    """A checkpoint turned out to be no base; the next rung is tried."""


class _RestoreAhead(Exception):
    """A restore that was not known of lies on the way: other events make this state."""


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
    vectors: Vectors | None = None,
    journal_mode: JournalMode = "wal",
    draft: bool = False,
    scan: bool = False,
) -> Built:
    """Makes state(target_seq) in a new file at `destination`, with the digest of what the finished file holds.

    The digest is that of a scan of the file. Where it was made on a checkpoint that has its leaves, rows that no event
    touched are not read again: each of their bytes was proven when the checkpoint was put together. `scan` reads them
    all the same. A `draft` is neither scanned nor synced: it has no digest and no counts, and whoever takes its pages
    has to prove them.

    `directory` is the journal's. `embeddings` takes vectors from a checkpoint, where one has any, and those that
    `vectors` gives; of both, only vectors of texts that the state holds. `journal_mode` is what the file will be opened
    in: "wal" for a generation, "delete" for a copy that stands alone. Raises UsageError beyond the journal's end,
    Corrupt where events that are needed are damaged, NoSpace; then nothing is left at `destination`.
    """
    if not 0 <= target_seq <= reader.last_seq:
        raise UsageError(f"seq {target_seq} is not in this journal, which ends at {reader.last_seq}", seq=target_seq)
    told = DATABASE | {"journal.replay.seq": target_seq, "db.operation.name": "rebuild"}
    with span("journal.replay", told) as live:
        built = _build_state(storage, directory, reader, target_seq, destination, progress, use_checkpoints, history,
                             embeddings, vectors, journal_mode, draft, scan)  # fmt: skip
        live.set(journal__replay__events=built.events, journal__recovery__checkpoint=built.base_seq)
    return built


def _build_state(
    storage: Storage,
    directory: str,
    reader: LogReader,
    target_seq: int,
    destination: str,
    progress: Progress | None,
    use_checkpoints: bool,
    history: History | None,
    embeddings: bool,
    vectors: Vectors | None,
    journal_mode: JournalMode,
    draft: bool,
    scan: bool,
) -> Built:
    started = perf_counter()
    checkpoints = CheckpointStore(storage, f"{directory}/checkpoints")
    manifests, damaged = checkpoints.scan() if use_checkpoints else ([], [])
    known = history or recorded_history(reader, manifests, target_seq)
    while True:
        passed_over = [PassedOver(each.seq or 0, str(each.error)) for each in damaged if (each.seq or 0) <= target_seq]
        build = _Build(checkpoints, reader, known, manifests, target_seq, destination, progress, embeddings, vectors,
                       draft, scan)  # fmt: skip
        try:
            result = build.climb(passed_over)
            if not draft:
                finish(storage, destination, journal_mode)
        except _RestoreAhead:
            discard(storage, destination)
            known = extend(known, reader, target_seq)
            continue
        except BaseException as error:
            discard(storage, destination)
            if isinstance(error, sqlite3.Error):
                raise sqlite_fault(error, destination) from error
            raise
        return Built(
            destination, position_at(reader, target_seq), result.digest, result.base_seq, tuple(passed_over),
            result.applied.events, result.applied.rows, result.applied.no_ops, result.counts,
            result.rows_scanned, result.embeddings, tuple(result.lost), storage.size(destination),
            perf_counter() - started,
        )  # fmt: skip


@dataclass(slots=True)
class _Result:
    base_seq: int
    applied: Applied
    counts: dict[str, int]
    rows_scanned: int
    embeddings: int
    lost: list[str]
    digest: str


class _Build:
    """Attempts at a state, rung by rung.

    The restores after `known.seq` are not known yet. They are looked for in what is applied, which saves reading the
    log twice; the rare one that is found raises _RestoreAhead, and the build begins again with all of them.
    """

    def __init__(
        self,
        checkpoints: CheckpointStore,
        reader: LogReader,
        known: History,
        manifests: Sequence[Manifest],
        target_seq: int,
        path: str,
        progress: Progress | None,
        embeddings: bool,
        vectors: Vectors | None,
        draft: bool,
        scan: bool,
    ) -> None:
        self.checkpoints = checkpoints
        self.reader = reader
        self.known = known
        self.restores = known.restores_until(target_seq)
        self.manifests = manifests
        self.target_seq = target_seq
        self.path = path
        self.progress = progress or (lambda done, total: None)
        self.embeddings = embeddings
        self.vectors = vectors
        self.draft = draft
        self.scan = scan

    def climb(self, passed_over: list[PassedOver]) -> _Result:
        """The state on the first rung that holds; those that do not are added to `passed_over`."""
        rungs, unfit = ladder(self.manifests, self._unfit, self.target_seq)
        passed_over += unfit
        for base in rungs:
            try:
                return self._run(base)
            except _Unusable as problem:
                discard(self.checkpoints.storage, self.path)
                passed_over.append(PassedOver(base.seq, str(problem)))
        return self._run(None)

    def _unfit(self, manifest: Manifest) -> str | None:
        """Why a checkpoint is no base for the state, as far as its manifest tells; None if it is one."""
        made_by = (manifest.projection_version, manifest.digest_version)
        if made_by != (PROJECTION_VERSION, DIGEST_VERSION):
            return f"made by version {made_by[0]} of the projection and {made_by[1]} of the digest"
        if lineage_from(self.restores, self.target_seq, manifest.seq) is None:
            return "on a timeline that a restore left"
        return None

    def _run(self, base: Manifest | None) -> _Result:
        """Raises _Unusable where the base is at fault."""
        ranges = lineage_from(self.restores, self.target_seq, base.seq if base else 0)
        assert ranges is not None
        before = len(base.memory_parts) * PART_EVENTS if base else 0
        total = before + event_count(ranges)
        if base is not None:
            self._take_parts(base, total)
        lost: list[str] = []
        known = None
        if base is not None and not self.draft and not self.scan:
            known = load_leaves(self.checkpoints, base, lost.append)
        sources = self.manifests if self.embeddings else ()
        vectors = next(
            (
                found
                for each in sources
                if (found := each.of_kind(KIND_EMBEDDINGS)) and refusal(each, self.reader, sources) is None
            ),
            [],
        )
        records = self._records(ranges, before, total)
        try:
            with self._writing_on(base), closing(connect_private(self.path)) as connection:
                touched = Touched(connection) if known is not None else None
                applied = _load(connection, records) if base is None else _apply(connection, base, records)
                connection.execute("BEGIN")
                write_position(connection, position_at(self.reader, self.target_seq))
                given = self.vectors() if self.vectors is not None else ()
                embeddings = load_embeddings(connection, self.checkpoints, vectors, lost.append, given)
                connection.execute("COMMIT")
                buckets = touched.buckets() if touched is not None else []
            compact(self.checkpoints.storage, self.path)
            if self.draft:
                return _Result(base.seq if base else 0, applied, {}, 0, embeddings, lost, "")
            if known is None:
                with syncing(self.checkpoints.storage, self.path):
                    leaves = file_leaves(self.path)
            else:
                with closing(connect_finished(self.path)) as connection:
                    leaves = renewed(known, connection, buckets)
        except sqlite3.DatabaseError as error:
            damaged = getattr(error, "sqlite_errorcode", 0) & 0xFF in (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB)
            if base is None or not damaged:
                raise
            raise _Unusable(f"its parts make no sound database: {error}") from error
        digest, counts = digest_of(leaves), rows_by_table(leaves)
        if base is not None and not ranges and digest != base.digest:
            raise _Unusable(f"its parts have digest {digest}, its manifest says {base.digest}")
        scanned = sum(counts.values()) if known is None else _rows_in(leaves, buckets)
        return _Result(base.seq if base else 0, applied, counts, scanned, embeddings, lost, digest)

    def _writing_on(self, base: Manifest | None) -> AbstractContextManager[None]:
        return nullcontext() if base is None or self.draft else syncing(self.checkpoints.storage, self.path)

    def _take_parts(self, base: Manifest, total: int) -> None:
        reason = refusal(base, self.reader, self.manifests)
        if reason is not None:
            raise _Unusable(reason)
        try:
            assemble(self.checkpoints, base, self.path, lambda count: self.progress(count * PART_EVENTS, total))
        except Corrupt as error:
            raise _Unusable(str(error)) from error

    def _records(self, ranges: Sequence[Range], done: int, total: int) -> Iterator[tuple[int, list[Record]]]:
        for first_seq, records in records_of(self.reader, ranges):
            if first_seq + len(records) > self.known.seq:
                jump = jump_in(first_seq, records)
                if jump is not None and jump.seq > self.known.seq:
                    raise _RestoreAhead
            yield first_seq, records
            done += len(records)
            self.progress(done, total)


def _load(connection: sqlite3.Connection, runs: Iterator[tuple[int, list[Record]]]) -> Applied:
    """Into an empty file."""
    loader = BulkLoader(connection)
    with collector_paused():  # around the decoding of the runs too
        for first_seq, records in runs:
            loader.add(first_seq, records)
        return loader.finish()


def _apply(connection: sqlite3.Connection, base: Manifest, runs: Iterator[tuple[int, list[Record]]]) -> Applied:
    """Onto a checkpoint's state."""
    if read_position(connection) != Position(base.seq, base.journal_id, base.epoch, base.chain):
        raise _Unusable("its parts stand at another position than its manifest says")
    applied = Applied()
    waiting = 0
    connection.execute("BEGIN")
    for first_seq, records in runs:
        applied = total_of(applied, apply_records(connection, first_seq, records))
        waiting += len(records)
        if waiting >= EVENTS_PER_COMMIT:
            connection.execute("COMMIT")
            connection.execute("BEGIN")
            waiting = 0
    connection.execute("COMMIT")
    return applied


def _rows_in(leaves: Leaves, buckets: Iterable[tuple[str, int]]) -> int:
    return sum(leaves[table][bucket].rows for table, bucket in buckets if bucket in leaves[table])
