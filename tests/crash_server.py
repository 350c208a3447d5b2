"""A whole server on the simulated disk: log, hook, agent files, generations, checkpoints, backups.

Everything runs on the Storage protocol and is the product's own code, but for one thing: SQLite does its own input and
output, which no simulated disk sees. So memory.db is a real SQLite database in memory here, and what a power cut leaves
of its file is what SQLite promises of one in WAL mode that is not synced: the state after any of its commits since the
generation was swapped in (`Memory`). `crashes.files` takes that promise to real files.
"""

from __future__ import annotations

import random
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from functools import cache
from typing import Any
from unittest.mock import patch

from journal.checkpoint import CheckpointStore, Manifest, ladder
from journal.commit import Committer, Receipt, draft, ticket
from journal.delta import PAGE_BYTES
from journal.errors import EnvironmentFault
from journal.events import CheckpointCreated, EpochStarted, Event, StateRestored
from journal.log import Log, create
from journal.packing import pack_segments
from journal.reader import LogReader, list_segments
from journal.retention import Policy, plan_prune
from recovery.config.table import Config
from recovery.data import Data
from recovery.log.backup import back_up
from replay import memory_parts, page_delta, schema
from replay.agents import bring_current, inspect
from replay.background import Background
from replay.catchup import catch_up
from replay.core import Core
from replay.digest import DIGEST_VERSION, state_digest
from replay.generations import Generations
from replay.history import read_history
from replay.hook import SyncHook
from replay.layout import Layout
from replay.live import LiveState
from replay.memory import apply_records
from replay.memory_parts import assemble, cut
from replay.own_events import Unprojected
from replay.rebuild import journaled_versions
from replay.records import position_at, records_of
from replay.schema import PROJECTION_VERSION
from replay.timeline import branches, lineage_from
from tests.simdisk import SimDisk

LAYOUT = Layout.under("/data")
BACKUP = "/backup"
QUARANTINE = f"{LAYOUT.journal}/quarantine"
PART_BYTES = 8192
PRUNING = Policy(keep_min=2, gap_events=6, gap_ratio=0.0)


@cache
def _empty() -> bytes:
    """A database with the tables of memory.db, in pages so small that copying it costs little."""
    with closing(sqlite3.connect(":memory:", isolation_level=None)) as connection:
        connection.execute("PRAGMA page_size=512")
        schema.create(connection)
        return connection.serialize()


class _Noting(sqlite3.Connection):
    """Tells of every statement after which no transaction is open: what is there then is what a kill may leave."""

    committed: Callable[[], None] | None = None

    def execute(self, sql: str, *parameters: Any) -> sqlite3.Cursor:
        cursor = super().execute(sql, *parameters)
        if self.committed is not None and not self.in_transaction:
            self.committed()
        return cursor


class Known:
    """What was made once and is equal for equal bytes: idle connections that changed nothing, and digests."""

    IDLE_MAX = 16

    def __init__(self) -> None:
        self.idle: dict[bytes, _Noting] = {}
        self.digests: dict[bytes, str] = {}
        self.seqs: dict[bytes, int] = {}

    def connection(self, image: bytes) -> _Noting:
        """A connection of one's own to a database of these bytes."""
        connection = self.idle.pop(image, None)
        if connection is None:
            connection = sqlite3.connect(":memory:", isolation_level=None, check_same_thread=False, factory=_Noting)
            connection.deserialize(image)
            connection.execute("PRAGMA foreign_keys=ON")
        return connection

    def give_back(self, image: bytes, connection: _Noting) -> None:
        """Of a connection that is done with, and whose database is still these bytes."""
        if image in self.idle:
            connection.close()
            return
        if len(self.idle) >= self.IDLE_MAX:
            self.idle.pop(next(iter(self.idle))).close()
        self.idle[image] = connection


class Memory:
    """memory.db in memory, and what a cut may leave of each of its files.

    ``bases`` are the files as they were swapped in, ``images`` (oldest first) the states since that a cut may leave.
    """

    def __init__(
        self, known: Known, bases: dict[str, bytes] | None = None, images: dict[str, list[bytes]] | None = None
    ) -> None:
        self.known = known
        self.bases = bases or {}
        self.images = images or {}
        self.path = ""
        self.connection: _Noting | None = None
        self._image = b""  # what the connection shows, as of `_noted` changes
        self._noted = -1

    def load(self, path: str, image: bytes | None) -> sqlite3.Connection:
        """Connects to the database at `path` in this state; to one of empty tables without an image."""
        self.let_go()
        self._image = _empty() if image is None else image
        self.path, self.connection = path, self.known.connection(self._image)
        self._noted = self.connection.total_changes
        self.connection.committed = self.note
        return self.connection

    def make_current(self, path: str) -> bytes:
        """What is loaded was written to a file at `path`, whole and synced; returns its bytes."""
        self.path = path
        self.bases[path] = self.content()
        self.images[path] = [self.bases[path]]
        return self.bases[path]

    def content(self) -> bytes:
        """The bytes of the database as it was last committed."""
        assert self.connection is not None
        if self.connection.total_changes != self._noted:
            self._image, self._noted = self.connection.serialize(), self.connection.total_changes
        return self._image

    def digest(self) -> str:
        """The digest of what is loaded; equal bytes are scanned once."""
        assert self.connection is not None
        content = self.content()
        if content not in self.known.digests:
            self.known.digests[content] = state_digest(self.connection)
        return self.known.digests[content]

    def seq(self) -> int:
        """The position of what is loaded; of equal bytes it is read once."""
        assert self.connection is not None
        content = self.content()
        if content not in self.known.seqs:
            position = schema.read_position(self.connection)
            assert position is not None
            self.known.seqs[content] = position.seq
        return self.known.seqs[content]

    def note(self) -> None:
        """Keeps the image after a commit. Called after every statement outside of a transaction."""
        if self.connection is not None and self.path in self.images and not self.connection.in_transaction:
            content = self.content()
            if content is not self.images[self.path][-1]:
                self.images[self.path].append(content)

    def after_cut(self, rng: random.Random) -> Memory:
        """What one cut leaves of each file: often the last commit, else any."""
        found = {path: images[-1] if rng.random() < 0.5 else rng.choice(images) for path, images in self.images.items()}
        return Memory(self.known, dict(self.bases), {path: [image] for path, image in found.items()})

    def forget(self) -> None:
        """Somebody else closes the connection; what was committed stays."""
        if self.connection is not None:
            self.note()
            self.connection.committed = None
            self.connection = None

    def let_go(self) -> None:
        """Done with the connection; what was committed stays."""
        if self.connection is None:
            return
        self.note()
        connection, self.connection = self.connection, None
        connection.committed = None
        if connection.in_transaction:
            connection.close()
        else:
            self.known.give_back(self._image, connection)


class Clock:
    """UTC ns; stands still while a batch is committed, so that who sends it knows the time it gets."""

    def __init__(self, now: int = 1_764_000_000_000_000_000) -> None:
        self.now = now

    def __call__(self) -> int:
        return self.now


class Server:
    """One open server. `Server.open` is what a start does: settle, catch up or rebuild, agent files."""

    def __init__(self, disk: SimDisk, core: Core, memory: Memory, clock: Clock, rng: random.Random) -> None:
        self.disk = disk
        self.core = core
        self.memory = memory
        self.clock = clock
        self.rng = rng
        self.hook = SyncHook(core, Background(core, PRUNING, lambda: None, checkpoints=False, embeddings=False))
        self.checkpoints = CheckpointStore(disk, f"{LAYOUT.journal}/checkpoints")
        self.takeover: Event | None = None
        """What the open has to journal: that it took over from a writer that did not close."""
        self.reader: LogReader
        """Of the log as it was when the open returned."""

    @classmethod
    def open(
        cls, disk: SimDisk, memory: Memory, clock: Clock, rng: random.Random, *, accept_tail: bool = False
    ) -> Server:
        """Opens the journal on `disk`, or creates one; `memory` has what the cut left of each generation."""
        if not list_segments(disk, LAYOUT.journal):
            create(disk, LAYOUT.journal, journal_id=rng.randbytes(16), entropy=rng.randbytes)
        generations = Generations(disk, LAYOUT.memory_db, QUARANTINE)
        current = generations.current()
        assert current.kind in ("missing", "generation"), f"a cut left the link {current.kind}"
        connection, seq = None, 0
        if current.path is not None:
            assert disk.read(current.path) == memory.bases[current.path], f"{current.path} is not whole, and current"
            connection = memory.load(current.path, memory.images[current.path][-1])
            seq = memory.seq()
        store = CheckpointStore(disk, f"{LAYOUT.journal}/checkpoints")
        log = Log.open(
            disk, LAYOUT.journal, evidence_seq=max([seq, *(each.seq for each in store.manifests())]), reserve_bytes=0,
            segment_bytes_max=rng.choice((2500, 20_000, 1 << 20)), entropy=rng.randbytes,
            accept_tail=accept_tail,
        )  # fmt: skip
        try:
            reader = log.reader()
            path = current.path
            if connection is None or catch_up(connection, reader).restore is not None:
                path = rebuild(disk, memory, reader, rng)
            assert path is not None
            memory.note()
            generations.clean()
            assert memory.connection is not None
            state = LiveState(disk, LAYOUT, memory.connection, path)
            agents = {name: (sha, content) for name, sha, content in state.connection.execute(_AGENTS)}
            facts = inspect(disk, LAYOUT.agents, agents, journaled_versions(reader))
            for fact in facts:
                if fact.detail == "unreadable":
                    raise EnvironmentFault(fact.message, path=f"{LAYOUT.agents}/{fact.name}.md")
            odd = [fact for fact in facts if fact.condition not in ("ok", "missing", "stale")]
            assert not odd, f"an agent file that is no journaled version: {odd}"
            bring_current(
                disk, LAYOUT.agents, facts, agents, drift="set_aside", quarantine=QUARANTINE, time=clock.now, reason=""
            )
            core = Core(log, state)
            core.committer._clock = clock
        except BaseException:
            log.close()
            raise
        server = cls(disk, core, memory, clock, rng)
        server.reader = reader
        opening = log.opening
        if not opening.clean and (opening.carried or opening.torn_bytes):
            server.takeover = EpochStarted(log.epoch, opening.previous_epoch, len(opening.carried), opening.torn_bytes)
        return server

    def say(self, event: Event) -> Receipt:
        """Journals one of the journal's own events through the core."""
        request = ticket((draft(event, None, "journal", None),), None)
        with self.core.lock:
            self.core.committer.submit(request)
            self.core.commit()
        return request.result()[0]

    def checkpoint(self) -> tuple[Manifest, CheckpointCreated]:
        """A checkpoint of the state as it stands, published, read back and verified; its event is the caller's."""
        connection = self.core.state.connection
        position = schema.read_position(connection)
        assert position is not None
        store, digest, image = self.checkpoints, state_digest(connection), connection.serialize()
        work = f"{store.directory}/work"
        history = read_history(self.core.log.reader(), store, position.seq)
        with store.exclusive():
            store.remove([each for each in store.manifests() if each.state != "verified"])
            store.sweep()
            last = next(iter(store.manifests()), None)
            with small_parts():
                made = cut(store, _laid(self.disk, work, "next.db", image), last if self.rng.random() < 0.8 else None)
            manifest = Manifest(
                journal_id=position.journal_id, seq=position.seq, chain=position.chain, epoch=position.epoch,
                time=self.clock.now, digest=digest, digest_version=DIGEST_VERSION, parts=made.parts, whole=made.whole,
                projection_version=PROJECTION_VERSION, restores=[(each.seq, each.to_seq) for each in history.restores],
                tags=history.tags,
            )  # fmt: skip
            store.publish(manifest)
            assert _image(store, manifest) == image
            _clear(self.disk, work)
            verified = store.mark_verified(manifest, self.clock.now)
        return verified, CheckpointCreated(position.seq, digest, manifest=verified.fingerprint)

    def prunable(self) -> list[int]:
        """Seqs of the checkpoints that a prune now would take."""
        return [manifest.seq for manifest, _ in self._prune_plan().drop]

    def prune(self) -> None:
        self._prune_plan().execute(self.checkpoints)

    def _prune_plan(self):  # type: ignore[no-untyped-def]
        reader = self.core.log.reader()
        restores = read_history(reader, self.checkpoints).restores
        return plan_prune(self.checkpoints.manifests(), reader.last_seq, branches(restores, reader.last_seq), PRUNING)

    def restore(self, to_seq: int) -> Receipt:
        """A restore in place, as `replay.restore` orders it: journaled and synced, built beside, swapped in."""
        committer = Committer(self.core.log, Unprojected(), self.clock, remember_op_ids=False)
        request = ticket((draft(StateRestored(to_seq, ""), None, "journal", None),), None)
        committer.submit(request)
        committer.run()
        receipt = request.result()[0]
        try:
            self._apply_restore(receipt)
        except BaseException as error:  # as `Core.restore` has it: nothing can be checked any more
            self.core.log.poison(f"the restore at seq {receipt.seq} is journaled, but applying it failed: {error}")
            raise
        return receipt

    def _apply_restore(self, receipt: Receipt) -> None:
        self.memory.forget()
        self.core.state.close()
        reader = self.core.log.reader()
        path = rebuild(self.disk, self.memory, reader, self.rng)
        assert self.memory.connection is not None
        state = LiveState(self.disk, LAYOUT, self.memory.connection, path)
        agents = {name: (sha, content) for name, sha, content in state.connection.execute(_AGENTS)}
        facts = inspect(self.disk, LAYOUT.agents, agents, journaled_versions(reader))
        bring_current(
            self.disk, LAYOUT.agents, facts, agents, drift="set_aside", quarantine=QUARANTINE, time=receipt.time,
            reason="restore",
        )  # fmt: skip
        Generations(self.disk, LAYOUT.memory_db, QUARANTINE).retire()
        self.core.state = self.core.committer.machine = state

    def back_up(self) -> int:
        return back_up(Data(LAYOUT.root, Config(), self.disk), BACKUP).last_seq

    def pack(self) -> int:
        """Packs what is sealed, however short; returns how many segments that were."""
        return pack_segments(self.disk, LAYOUT.journal, bytes_min=1).segments

    def close(self) -> None:
        self.memory.forget()
        self.core.close()


_AGENTS = "SELECT name, sha256, content FROM agents"


def rebuild(disk: SimDisk, memory: Memory, reader: LogReader, rng: random.Random) -> str:
    """State(end) from the newest usable checkpoint, or from genesis, as the next generation, swapped in."""
    reader.raise_for_tail()
    store = CheckpointStore(disk, f"{LAYOUT.journal}/checkpoints")
    history = read_history(reader, store)
    target = reader.last_seq

    def unfit(manifest: Manifest) -> str | None:
        return None if lineage_from(history.restores, target, manifest.seq) is not None else "another timeline"

    rungs = ladder(store.manifests(), unfit, target)[0] if rng.random() < 0.7 else []
    image = _image(store, rungs[0]) if rungs else None
    connection = memory.load("", image)
    if rungs:
        assert state_digest(connection) == rungs[0].digest
    for first_seq, records in records_of(reader, lineage_from(history.restores, target, rungs[0].seq if rungs else 0)):  # type: ignore[arg-type]
        apply_records(connection, first_seq, records)
    connection.execute("BEGIN")
    schema.write_position(connection, position_at(reader, target))
    connection.execute("COMMIT")
    generations = Generations(disk, LAYOUT.memory_db, QUARANTINE)
    generations.clean()
    built = generations.building_path()
    path = built.removesuffix(".building")
    file = disk.open(built, write=True, create=True)
    try:
        file.write_at(0, memory.make_current(path))
        file.sync()
    finally:
        file.close()
    disk.sync_dir(LAYOUT.root)
    generations.swap(built, mark=False)
    return path


@contextmanager
def small_parts() -> Iterator[None]:
    """Pieces of 8 KiB, and deltas to them: a state of a few pages is cut as one of many MiB is. By one thread:
    two take turns as the machine likes, and no seed would be the same life again."""
    with (
        patch.object(memory_parts, "PART_BYTES", PART_BYTES),
        patch.object(page_delta, "PART_BYTES", PART_BYTES),
        patch.object(memory_parts, "BASE_BYTES_MIN", 0),
        patch.object(memory_parts, "_THREADS", 1),
    ):
        yield


def _laid(disk: SimDisk, directory: str, name: str, image: bytes) -> str:
    """The image as a file, filled up to whole pages."""
    _clear(disk, directory)
    disk.make_directory(directory)
    path = f"{directory}/{name}"
    file = disk.open(path, write=True, create=True)
    file.write_at(0, image.ljust(-(-len(image) // PAGE_BYTES) * PAGE_BYTES, b"\0"))
    file.close()
    return path


def _image(store: CheckpointStore, manifest: Manifest) -> bytes:
    """What a checkpoint's parts make. Its header says how many of its (small) pages are the database's."""
    work = f"{store.directory}/work"
    store.storage.make_directory(work)
    path = f"{work}/proof.db"
    if store.storage.kind(path) != "missing":
        store.storage.remove(path)
    with small_parts():
        assemble(store, manifest, path)
    data = store.storage.read(path)
    return data[: int.from_bytes(data[28:32], "big") * int.from_bytes(data[16:18], "big")]


def _clear(disk: SimDisk, directory: str) -> None:
    for name in disk.list(directory):
        disk.remove(f"{directory}/{name}")
