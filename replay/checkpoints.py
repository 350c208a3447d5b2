"""Making a checkpoint from the journal, and proving that one restores.

Knows the order of steps that a kill at any point must leave harmless; must not know who asked, nor append anything:
that a checkpoint was made is journaled by its caller. memory.db is compared with what the journal says, never copied.
Only its vectors are taken, each by its own checksum: they are derived, and no digest covers them.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass, replace
from time import perf_counter

import msgspec

from journal.checkpoint import KIND_EMBEDDINGS, CheckpointStore, Manifest, Part, PassedOver, Whole
from journal.errors import Corrupt, DataError, EnvironmentFault, NoSpace
from journal.reader import LogReader
from journal.storage import Storage
from replay.catchup import check_position
from replay.digest import DIGEST_VERSION, Leaves, digest_of, state_digest, state_leaves
from replay.drafts import Unfit, can_draft, drafted
from replay.embedding_parts import save_embeddings
from replay.engine import Progress, build_state
from replay.faults import sqlite_fault
from replay.history import History, read_history
from replay.latest import read_latest
from replay.layout import Layout
from replay.leaves import KIND_LEAVES, rows_by_table, save_leaves
from replay.memory_parts import Cut, assemble, cut
from replay.page_delta import TooLarge
from replay.records import RememberingReader, position_at
from replay.schema import PROJECTION_VERSION, Position, read_position
from replay.snapshot import snapshot
from replay.timeline import event_count, lineage_from
from replay.vouching import refusal
from replay.working import connect_finished, discard, throw_away


class Shadow(msgspec.Struct, frozen=True, kw_only=True):
    """A checkpoint that was made and verified, and how the live memory.db compares with it.

    ``manifest`` is its fingerprint: nothing uses the checkpoint before the journal has it, in `checkpoint.created`.
    ``drift``: the live state at the same seq is not what the journal says, or cannot be read; ``live_problem`` says
    why where its digest alone does not. ``new_bytes`` were written, the other parts are shared with earlier ones.
    """

    seq: int
    digest: str
    manifest: str
    bytes: int
    new_bytes: int
    parts: int
    base_seq: int
    events: int
    drift: bool
    live_digest: str | None = None
    live_problem: str | None = None
    embeddings_parts: int = 0
    parity_files: int = 0  # made, of this checkpoint and of segments that were sealed since the last
    parity_bytes: int = 0
    index_files: int = 0  # made, of segments that were sealed since the last
    index_problem: str | None = None  # why some is missing: lookups take longer, and that is all
    parity_problem: str | None = None  # why some is missing: the checkpoint is none the worse
    passed_over: list[PassedOver] = []
    written_seconds: float = 0.0  # until its bytes were durable; the rest is proof
    seconds: float = 0.0


class _Live(msgspec.Struct):
    """What a look at memory.db found, at one moment, which lasts until the look is over."""

    vectors: list[Part]
    claims: int = 0  # the position it states, right or wrong
    seq: int | None = None  # the same, once it is known to lie in this journal's history
    new_bytes: int = 0
    digest: str | None = None
    problem: str | None = None
    missing: bool = False


def make_checkpoint(
    storage: Storage, layout: Layout, clock: Callable[[], int], progress: Progress | None = None
) -> Shadow:
    """Builds, publishes and verifies a checkpoint at memory.db's position (at the journal's end without one).

    Each step leaves nothing that a later run does not clean: files in `work`, parts that nobody lists, a manifest that
    stays `written` and so on no ladder. Raises Locked while another is at it, Corrupt where the journal is damaged or
    the parts read back differently than they were built.
    """
    started = perf_counter()
    reader = RememberingReader(storage, layout.journal)  # before anything is made: there may be no journal here
    checkpoints = CheckpointStore(storage, f"{layout.journal}/checkpoints")
    with checkpoints.exclusive(), _work_directory(checkpoints) as work:
        checkpoints.remove([manifest for manifest in checkpoints.manifests() if manifest.state != "verified"])
        checkpoints.sweep()
        verified = checkpoints.manifests()
        last = next((each for each in verified if refusal(each, reader, verified) is None), None)
        before = last.of_kind(KIND_EMBEDDINGS) if last is not None else []
        with _look_at(reader, layout, checkpoints, before, f"{work}/live.db") as (live, scan_live):
            ours = reader.journal_id.hex()
            reader.evidence_seq = max(live.claims, *(each.seq for each in verified if each.journal_id == ours), 0)
            reader.raise_for_end()  # a checkpoint that ends where the damage begins would pass for the journal's end
            target_seq = reader.last_seq if live.seq is None else live.seq
            history = read_history(reader, checkpoints, target_seq)
            making = _Making(checkpoints, reader, history, target_seq, live.vectors, verified, work, clock, progress)
            made = making.by_draft(last, scan_live) or making.by_build(storage, layout)
            scan_live()
        try:
            leaves, whole = _prove(checkpoints, made.manifest, f"{work}/proof.db")
        except Corrupt:
            if not made.drafted:
                raise
            making.withdraw(made)  # what it was made of had rotted where only its pages were packed against
            made = making.by_build(storage, layout)
            leaves, whole = _prove(checkpoints, made.manifest, f"{work}/proof.db")
        manifest, base, seq = made.manifest, made.base, made.manifest.seq
        digest = digest_of(leaves)
        if base is not None and base.seq == seq and digest != base.digest:
            raise _unproven(checkpoints, manifest, f"the checkpoint reads back with digest {digest}")
        of_leaves, new_bytes = save_leaves(checkpoints, leaves)
        manifest = msgspec.structs.replace(
            manifest, digest=digest, counts=rows_by_table(leaves), parts=[*manifest.parts, *of_leaves], whole=whole
        )
        manifest = checkpoints.mark_verified(manifest, clock())
        checkpoints.sweep()  # what was begun and given up
        differs = live.digest is not None and live.digest != digest
        return Shadow(
            seq=seq, digest=digest, manifest=manifest.fingerprint, bytes=manifest.bytes,
            new_bytes=live.new_bytes + made.new_bytes + new_bytes, parts=len(manifest.parts),
            base_seq=base.seq if base is not None else 0, events=made.events,
            drift=differs or (live.problem is not None and not live.missing),
            live_digest=live.digest, live_problem=live.problem, embeddings_parts=len(live.vectors),
            passed_over=made.passed_over, written_seconds=made.written - started, seconds=perf_counter() - started,
        )  # fmt: skip


@dataclass(frozen=True, slots=True)
class _Made:
    """A checkpoint that is written, and what it was made of; `written` is when that was, by `perf_counter`."""

    manifest: Manifest
    base: Manifest | None
    events: int
    new_bytes: int
    passed_over: list[PassedOver]
    written: float
    drafted: bool = False


@dataclass(frozen=True, slots=True)
class _Making:
    """The two ways to a checkpoint: a draft on the last one, or a build by `engine` on whatever holds."""

    checkpoints: CheckpointStore
    reader: LogReader
    history: History
    target_seq: int
    vectors: list[Part]
    verified: Sequence[Manifest]
    work: str
    clock: Callable[[], int]
    progress: Progress | None

    def by_draft(self, base: Manifest | None, meanwhile: Callable[[], None]) -> _Made | None:
        """None where `base` does not serve; `meanwhile` is done between written and proven."""
        if base is None or (base.projection_version, base.digest_version) != (PROJECTION_VERSION, DIGEST_VERSION):
            return None
        restores = self.history.restores_until(self.target_seq)
        ranges = lineage_from(restores, self.target_seq, base.seq) if base.seq <= self.target_seq else None
        if ranges is None or not can_draft(base, ranges):
            return None
        made: _Made | None = None
        try:
            with drafted(
                self.checkpoints, base, self.reader, ranges, self.target_seq, f"{self.work}/draft.db", self.progress
            ) as draft:
                made = self._publish(draft.cut(), base, event_count(ranges), [])
                meanwhile()
                whole = draft.prove()
        except (Unfit, TooLarge):
            if made is not None:
                self.withdraw(made)
            return None
        return replace(made, manifest=msgspec.structs.replace(made.manifest, whole=whole), drafted=True)

    def withdraw(self, made: _Made) -> None:
        """Its own parts are listed by nobody then: a sweep takes them."""
        if made.base is None or made.base.seq != made.manifest.seq:
            self.checkpoints.remove([made.manifest])

    def by_build(self, storage: Storage, layout: Layout) -> _Made:
        built = build_state(
            storage, layout.journal, self.reader, self.target_seq, f"{self.work}/next.db", self.progress,
            history=self.history, embeddings=False, draft=True,
        )  # fmt: skip
        base = next((each for each in self.verified if each.seq == built.base_seq), None)
        made = self._publish(cut(self.checkpoints, built.path, base), base, built.events, list(built.passed_over))
        discard(storage, built.path)
        return made

    def _publish(self, made: Cut, base: Manifest | None, events: int, passed_over: list[PassedOver]) -> _Made:
        position = position_at(self.reader, self.target_seq)
        manifest = Manifest(
            journal_id=position.journal_id, seq=position.seq, chain=position.chain, epoch=position.epoch,
            time=self.clock(), digest="", digest_version=DIGEST_VERSION, projection_version=PROJECTION_VERSION,
            restores=[(each.seq, each.to_seq) for each in self.history.restores], tags=self.history.tags,
            latest=read_latest(self.reader, self.checkpoints, position.seq), parts=[*made.parts, *self.vectors],
            whole=made.whole,
        )  # fmt: skip
        if base is None or base.seq != position.seq:
            self.checkpoints.publish(manifest)  # else one of this seq is on the ladder, and stays until replaced
        return _Made(manifest, base, events, made.written, passed_over, perf_counter())


def verify_checkpoint(checkpoints: CheckpointStore, manifest: Manifest, clock: Callable[[], int]) -> Manifest:
    """Proves once more that a checkpoint restores, by a scan of its parts as they lie on disk.

    Raises Corrupt, and FileNotFoundError where it was pruned meanwhile: to publish it again would bring it back.
    """
    with checkpoints.exclusive(), _work_directory(checkpoints) as work:
        checkpoints.encoded(checkpoints.manifest_path(manifest.seq))
        leaves, _ = _prove(checkpoints, manifest, f"{work}/proof.db")
        digest = digest_of(leaves)
        if digest != manifest.digest:
            raise _unproven(checkpoints, manifest, f"the checkpoint reads back with digest {digest}")
        for part in (*manifest.of_kind(KIND_LEAVES), *manifest.of_kind(KIND_EMBEDDINGS)):
            checkpoints.read_part(part)
        return checkpoints.mark_verified(manifest, clock())


@contextmanager
def _work_directory(checkpoints: CheckpointStore) -> Iterator[str]:
    """An empty directory for files in the making. What a killed run left in it goes first."""
    storage, work = checkpoints.storage, f"{checkpoints.directory}/work"

    def clear() -> None:
        for name in storage.list(work):
            throw_away(storage, f"{work}/{name}")

    clear()
    storage.make_directory(work)
    try:
        yield work
    finally:
        clear()
        storage.remove_directory(work)


@contextmanager
def _look_at(
    reader: LogReader, layout: Layout, checkpoints: CheckpointStore, before: Sequence[Part], path: str
) -> Iterator[tuple[_Live, Callable[[], None]]]:
    """The live state at one moment: where it stands, the parts of its vectors, and on demand its digest.

    All of a copy at `path`, so that the digest is that of the position, and nobody waits for it.
    """
    live = _Live([], missing=reader.storage.kind(layout.memory_db) == "missing")

    @contextmanager
    def noted() -> Iterator[None]:
        try:
            yield
        except sqlite3.Error as error:
            live.problem = str(sqlite_fault(error, layout.memory_db))
        except NoSpace:
            raise  # for the copy: that says nothing of the live state
        except (DataError, EnvironmentFault) as error:
            live.problem = str(error)

    with ExitStack() as stack:
        connection: sqlite3.Connection | None = None
        with noted():
            connection = stack.enter_context(snapshot(reader.storage, layout.memory_db, path))
            stated = read_position(connection)
            live.claims = stated.seq if stated is not None and stated.journal_id == reader.journal_id.hex() else 0
            reader.refresh()  # what memory.db holds was in the journal before
            position = check_position(connection, reader)
            live.vectors, live.new_bytes = save_embeddings(connection, checkpoints, before)
            live.seq = position.seq
        if live.seq is None:  # nothing came of it: what the last checkpoint had is carried on, as far as it is whole
            live.vectors = [part for part in before if checkpoints.is_whole(part)]

        def scan() -> None:
            nonlocal connection
            if connection is not None and live.seq is not None:
                with noted():
                    live.digest = state_digest(connection)
            connection = None
            stack.close()

        yield live, scan


def _prove(checkpoints: CheckpointStore, manifest: Manifest, path: str) -> tuple[Leaves, Whole]:
    """Assembles the parts from disk and scans them: the leaves, and the whole.

    Raises Corrupt unless they make the file, and stand at the position, that the manifest says.
    """
    discard(checkpoints.storage, path)
    whole = assemble(checkpoints, manifest, path)
    try:
        with closing(connect_finished(path)) as connection:
            leaves, position = state_leaves(connection), read_position(connection)
    except sqlite3.Error as error:
        raise _unproven(checkpoints, manifest, f"the checkpoint is no sound database: {error}") from error
    if position != Position(manifest.seq, manifest.journal_id, manifest.epoch, manifest.chain):
        raise _unproven(checkpoints, manifest, "the checkpoint reads back with another position")
    return leaves, whole


def _unproven(checkpoints: CheckpointStore, manifest: Manifest, why: str) -> Corrupt:
    hint = "it is on no ladder; check the disk, then run: journal checkpoint create"
    return Corrupt(why, path=checkpoints.manifest_path(manifest.seq), hint=hint)
