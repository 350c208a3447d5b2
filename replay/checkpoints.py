"""Making a checkpoint from the journal, and proving that one restores.

Knows the order of steps that a kill at any point must leave harmless; must not know who asked, nor append anything:
that a checkpoint was made is journaled by its caller. memory.db is compared with what the journal says, never copied.
Only its vectors are taken, each by its own checksum: they are derived, and no digest covers them.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from time import perf_counter

import msgspec

from journal.checkpoint import KIND_EMBEDDINGS, KIND_MEMORY, PART_BYTES, CheckpointStore, Manifest, Part, PassedOver
from journal.errors import Corrupt, DataError, EnvironmentFault
from journal.reader import LogReader
from journal.storage import Storage
from replay.catchup import check_position
from replay.digest import DIGEST_VERSION, state_digest
from replay.embedding_parts import save_embeddings
from replay.engine import Progress, build_state
from replay.faults import sqlite_fault
from replay.history import read_history
from replay.latest import read_latest
from replay.layout import Layout
from replay.reader import open_reader
from replay.schema import PROJECTION_VERSION, Position, read_position
from replay.vouching import refusal
from replay.working import assemble, connect_finished, discard


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
    parity_problem: str | None = None  # why some is missing: the checkpoint is none the worse
    passed_over: list[PassedOver] = []
    seconds: float = 0.0


class _Live(msgspec.Struct):
    """What a look at memory.db found, at one moment."""

    claims: int = 0  # the position it states, right or wrong
    seq: int | None = None  # the same, once it is known to lie in this journal's history
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
    reader = LogReader(storage, layout.journal)  # before anything is made: there may be no journal here
    checkpoints = CheckpointStore(storage, f"{layout.journal}/checkpoints")
    with checkpoints.exclusive(), _work_directory(checkpoints) as work:
        checkpoints.remove([manifest for manifest in checkpoints.manifests() if manifest.state != "verified"])
        checkpoints.sweep()
        verified = checkpoints.manifests()
        last = next((each for each in verified if refusal(each, reader, verified) is None), None)
        before = last.of_kind(KIND_EMBEDDINGS) if last is not None else []
        live, vectors, new_bytes = _look_at(reader, layout, checkpoints, before)
        ours = reader.journal_id.hex()
        reader.evidence_seq = max(live.claims, *(each.seq for each in verified if each.journal_id == ours), 0)
        reader.raise_for_end()  # a checkpoint that ends where the damage begins would pass for the journal's end
        target_seq = reader.last_seq if live.seq is None else live.seq
        history = read_history(reader, checkpoints, target_seq)
        built = build_state(
            storage, layout.journal, reader, target_seq, f"{work}/next.db", progress,
            history=history, embeddings=False, journal_mode="delete",
        )  # fmt: skip
        parts, written = _cut(checkpoints, built.path)
        seq = built.position.seq
        manifest = Manifest(
            journal_id=built.position.journal_id, seq=seq, chain=built.position.chain, epoch=built.position.epoch,
            time=clock(), digest=built.digest, digest_version=DIGEST_VERSION, projection_version=PROJECTION_VERSION,
            restores=[(restore.seq, restore.to_seq) for restore in history.restores], tags=history.tags,
            latest=read_latest(reader, checkpoints, seq), counts=built.counts, parts=[*parts, *vectors],
        )  # fmt: skip
        if built.base_seq != seq or all(each.seq != seq for each in verified):
            checkpoints.publish(manifest)  # else one of this seq is on the ladder, and stays there until replaced
        _prove(checkpoints, manifest, f"{work}/proof.db")
        checkpoints.mark_verified(manifest, clock())
        differs = live.digest is not None and live.digest != built.digest
        return Shadow(
            seq=seq, digest=built.digest, manifest=manifest.fingerprint, bytes=manifest.bytes,
            new_bytes=new_bytes + written, parts=len(manifest.parts), base_seq=built.base_seq, events=built.events,
            drift=differs or (live.problem is not None and not live.missing), live_digest=live.digest,
            live_problem=live.problem, embeddings_parts=len(vectors), passed_over=list(built.passed_over),
            seconds=perf_counter() - started,
        )  # fmt: skip


def verify_checkpoint(checkpoints: CheckpointStore, manifest: Manifest, clock: Callable[[], int]) -> Manifest:
    """Proves once more that a checkpoint restores, by a scan of its parts as they lie on disk. Raises Corrupt."""
    with checkpoints.exclusive(), _work_directory(checkpoints) as work:
        _prove(checkpoints, manifest, f"{work}/proof.db")
        for part in manifest.of_kind(KIND_EMBEDDINGS):
            checkpoints.read_part(part)
        return checkpoints.mark_verified(manifest, clock())


@contextmanager
def _work_directory(checkpoints: CheckpointStore) -> Iterator[str]:
    """An empty directory for files in the making. What a killed run left in it goes first."""
    storage, work = checkpoints.storage, f"{checkpoints.directory}/work"

    def clear() -> None:
        for name in storage.list(work):
            storage.remove(f"{work}/{name}")

    clear()
    storage.make_directory(work)
    try:
        yield work
    finally:
        clear()
        storage.remove_directory(work)


def _look_at(
    reader: LogReader, layout: Layout, checkpoints: CheckpointStore, before: Sequence[Part]
) -> tuple[_Live, list[Part], int]:
    """The live state at one moment: where it stands, its digest, and the parts of its vectors.

    All in one read transaction, which ends before the long work begins: an open one keeps the write-ahead log growing.
    """
    live = _Live(missing=reader.storage.kind(layout.memory_db) == "missing")
    try:
        with open_reader(layout.memory_db) as memory, memory.transaction() as connection:
            stated = read_position(connection)
            live.claims = stated.seq if stated is not None and stated.journal_id == reader.journal_id.hex() else 0
            reader.refresh()  # what memory.db holds was in the journal before
            position = check_position(connection, reader)
            live.digest = state_digest(connection)
            parts, written = save_embeddings(connection, checkpoints, before)
            live.seq = position.seq
            return live, parts, written
    except sqlite3.Error as error:
        live.problem = str(sqlite_fault(error, layout.memory_db))
    except (DataError, EnvironmentFault) as error:
        live.problem = str(error)
    live.digest = None
    return live, list(before), 0


def _cut(checkpoints: CheckpointStore, path: str) -> tuple[list[Part], int]:
    """Puts the file's parts; returns them and the bytes that no earlier checkpoint had."""
    parts: list[Part] = []
    written = 0
    file = checkpoints.storage.open(path)
    try:
        while data := file.read_at(len(parts) * PART_BYTES, PART_BYTES):
            part, new = checkpoints.put_part(KIND_MEMORY, data)
            parts.append(part)
            written += part.length if new else 0
    finally:
        file.close()
    return parts, written


def _prove(checkpoints: CheckpointStore, manifest: Manifest, path: str) -> None:
    """Assembles the parts from disk and scans them. Raises Corrupt unless digest and position are the manifest's."""
    where = checkpoints.manifest_path(manifest.seq)
    hint = "it is on no ladder; check the disk, then run: journal checkpoint create"
    discard(checkpoints.storage, path)
    assemble(checkpoints, manifest, path)
    try:
        with closing(connect_finished(path)) as connection:
            digest, position = state_digest(connection), read_position(connection)
    except sqlite3.Error as error:
        raise Corrupt(f"the checkpoint is no sound database: {error}", path=where, hint=hint) from error
    if digest != manifest.digest:
        raise Corrupt(f"the checkpoint reads back with digest {digest}", path=where, hint=hint)
    if position != Position(manifest.seq, manifest.journal_id, manifest.epoch, manifest.chain):
        raise Corrupt("the checkpoint reads back with another position", path=where, hint=hint)
