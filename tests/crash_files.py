"""Lives of a server on real files, with real SQLite, and the directories that a cut at any moment of them may leave.

The product is driven as a server drives it: `open_core`, a hook, checkpoints, restores in place. `mirror` follows each
change; before each, some of the disks that a cut may leave are laid out as directories of their own and held against
the promises: memory.db, before anything repairs it, is one whole state of the journal's history, the state before or
after; the open then ends at the journal's, with every receipt. Some of these recoveries are cut as well, and theirs.
The choices are the seed's; clock and salts are the product's own.
"""

from __future__ import annotations

import os
import random
import shutil
import sqlite3
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import Executor, Future
from contextlib import closing, contextmanager
from time import time_ns
from typing import Any, NamedTuple
from unittest.mock import patch

from journal import segment
from journal.commit import Receipt, draft, ticket
from journal.events import CheckpointCreated, ConfigWritten, EpochStarted, Event, StateRestored
from journal.reader import LogReader
from journal.storage import RealStorage
from journal.verify import verify
from recovery.config.table import Config
from recovery.data import Data
from recovery.opening import Opened, background_of, open_core
from recovery.setup import initialise
from replay import holders, memory_parts, working
from replay.checkpoints import make_checkpoint
from replay.digest import state_digest
from replay.hook import SyncHook
from replay.model import Model, State
from replay.schema import connect, read_position
from tests.crash_known import remembering
from tests.crash_lives import Broken
from tests.histories import SeededSource, next_event
from tests.mirror import Mirror, lay_out
from tests.simcuts import images
from tests.simdisk import SimDisk

IMAGES = (4, 2, 2)  # at most so many of one cut, by how many cuts came before it
DEEPER = (0.02, 0.04)  # the share of recoveries that are cut themselves
TMPFS = "/dev/shm"


class Moment(NamedTuple):
    """A state of the journal's history."""

    seq: int
    state: State
    digest: str


class Histories:
    """The states that journals tell of, by the plain-dict projection; equal histories are folded once."""

    def __init__(self) -> None:
        self._known: dict[str, Moment] = {}

    def of(self, reader: LogReader) -> dict[str, Moment]:
        """After each batch, by its chain; under 64 zeros the state before the first."""
        batches = list(reader.batches())
        if any(batch.chain.hex() not in self._known for batch in batches):
            model = Model()
            for batch in batches:
                for seq, record in enumerate(batch.records(), batch.first_seq):
                    model.apply(seq, record.time, record.agent, record.event)
                state = model.state.copy()
                self._known[batch.chain.hex()] = Moment(batch.last_seq, state, state.digest())
        nothing = State()
        told = {bytes(32).hex(): Moment(0, nothing, nothing.digest())}
        return told | {batch.chain.hex(): self._known[batch.chain.hex()] for batch in batches}


class Promised:
    """What a server said until now: receipts, the seq that an open found, the epoch in use."""

    def __init__(self) -> None:
        self.receipts: list[Receipt] = []
        self.reaches = 0
        self.epoch = 0
        self.sent: list[Event] = []

    def branch(self) -> Promised:
        other = Promised()
        other.receipts, other.sent = list(self.receipts), list(self.sent)
        other.reaches, other.epoch = self.reaches, self.epoch
        return other

    def opened(self, opened: Opened) -> None:
        self.epoch = opened.core.log.epoch
        self.reaches = max(self.reaches, opened.core.log.next_seq - 1)


class Walk:
    """One seed: its choices, the images that were seen, and what was counted."""

    def __init__(self, seed: int, place: str) -> None:
        self.rng = random.Random(seed)
        self.source = SeededSource(seed)
        self.place = place
        self.histories = Histories()
        self.seen: set[int] = set()
        self.counts = Counter({"crash states": 0})  # the first is told as a rate
        self.broken: BaseException | None = None
        self._directories = 0

    def new_path(self) -> str:
        self._directories += 1
        return f"{self.place}/{self._directories}"

    def cut(self, disk: SimDisk, promised: Promised, depth: int) -> None:
        """Judges what a cut at this moment may leave, unless it was judged before."""
        for image in images(disk, self.rng, IMAGES[depth]):
            if image.number in self.seen:
                continue
            self.seen.add(image.number)
            path = self.new_path()
            try:
                self.judge(image.disk(), path, promised, depth)
            except Exception as error:
                error.add_note(f"after a cut before change {disk.counts.changes + 1}, {depth} cuts before it")
                self.broken = error
                raise Broken(str(error)) from error
            finally:
                shutil.rmtree(path, ignore_errors=True)
            self.counts["crash states"] += 1
            if depth:
                self.counts["of a recovery that was cut" if depth == 1 else "of one that was cut twice"] += 1

    def judge(self, disk: SimDisk, path: str, promised: Promised, depth: int) -> None:
        lay_out(disk, path)
        self.holds_whole_state(path)
        if depth >= len(DEEPER) or self.rng.random() >= DEEPER[depth]:
            self.hold(open_core(Data(path, Config())), path, promised)
            return
        mirror, inner = Mirror(path, disk), promised.branch()
        mirror.arm(lambda: self.cut(disk, inner, depth + 1))
        opened = open_core(Data(path, Config(), mirror))
        self.hold(opened, path, promised, close=False)
        inner.opened(opened)
        life = Life(self, path, mirror, inner)
        life.take(opened)
        life.write()
        life.close()

    def holds_whole_state(self, path: str) -> None:
        """memory.db as the cut left it, read by SQLite from a copy: one state of the journal's history."""
        generation = Data(path, Config()).generations.current()
        assert generation.kind == "generation", f"a cut left the link {generation.kind}"
        assert generation.path is not None
        copy = self.new_path()
        os.mkdir(copy)
        try:
            for suffix in ("", "-wal"):
                if os.path.exists(generation.path + suffix):
                    shutil.copyfile(generation.path + suffix, f"{copy}/memory.db{suffix}")
            try:
                with closing(connect(f"{copy}/memory.db")) as connection:
                    (integrity,) = connection.execute("PRAGMA integrity_check(1)").fetchone()
                    position, digest = read_position(connection), state_digest(connection)
            except sqlite3.Error as error:
                raise AssertionError(f"a cut left a memory.db that cannot be read: {error}") from error
        finally:
            shutil.rmtree(copy)
        assert integrity == "ok", f"a cut left memory.db broken: {integrity}"
        assert position is not None, "a cut left memory.db without a position"
        reader = LogReader(RealStorage(), f"{path}/journal")
        there = self.histories.of(reader).get(position.chain)
        assert there is not None, f"memory.db is at seq {position.seq}, which the journal does not tell of"
        assert (there.seq, there.digest) == (position.seq, digest), f"memory.db at seq {position.seq} is a mixture"
        self.counts["with memory.db behind the journal"] += position.seq < reader.last_seq

    def hold(self, opened: Opened, path: str, promised: Promised, *, close: bool = True) -> None:
        """Every promise, on a directory that was just opened."""
        core = opened.core
        try:
            assert core.log.epoch > promised.epoch, f"epoch {core.log.epoch} was used before"
            assert not opened.kept, f"what a cut left passes for somebody's edit: {opened.kept}"
            reader = core.log.reader()
            told = self.histories.of(reader)
            for receipt in promised.receipts:
                assert receipt.chain in told, f"acknowledged seq {receipt.seq} is lost"
            assert reader.last_seq >= promised.reaches, f"seq {promised.reaches} was found once, and is lost"
            for batch in reader.batches():
                for record in batch.records():
                    known = record.event in promised.sent or isinstance(record.event, EpochStarted)
                    assert known or type(record.event).__name__.startswith("Recovery"), f"never sent: {record.event}"
            now = told[reader.last_chain.hex()]
            assert core.state.applied_seq == now.seq, f"memory.db is at {core.state.applied_seq}, not {now.seq}"
            assert state_digest(core.state.connection) == now.digest, f"the state at seq {now.seq} is not the events'"
            agents = {f"{agent.name}.md": agent.content for agent in now.state.agents.values()}
            found = {name for name in os.listdir(f"{path}/agents") if name.endswith(".md")}
            assert found == set(agents), f"agent files {sorted(found)} where {sorted(agents)} belong"
            for name, content in agents.items():
                assert RealStorage().read(f"{path}/agents/{name}") == content, f"{name} is not its journaled version"
            report = verify(RealStorage(), f"{path}/journal")
            assert report.exit_code == 0, report.findings
        finally:
            if close:
                core.close()


class Life:
    """What one server does on its real directory, one seeded step after the other."""

    def __init__(self, walk: Walk, path: str, mirror: Mirror, promised: Promised) -> None:
        self.walk = walk
        self.rng = walk.rng
        self.path = path
        self.mirror = mirror
        self.promised = promised
        self.data = Data(path, Config(), mirror)

    def open(self) -> None:
        opened = open_core(self.data)
        self.promised.opened(opened)
        self.take(opened)

    def take(self, opened: Opened) -> None:
        self.core = opened.core
        self.hook = SyncHook(self.core, background_of(self.data, self.core))

    def close(self) -> None:
        self.mirror.about_to_fold()
        self.core.close()

    def reopen(self) -> None:
        self.close()
        self.open()

    def fold(self) -> None:
        self.mirror.about_to_fold()
        self.core.state.folding.copy()
        self.mirror.follow()

    def fold_in_part(self) -> None:
        """Beside writers: what is committed after the reader came stays in the log, and the file is not synced."""
        folding = self.core.state.folding
        folding.hold()
        self.write()
        self.mirror.about_to_fold("in part")
        assert folding.copy(), "something is left in the log"
        self.mirror.follow()

    def write(self) -> None:
        """A batch of events that the state accepts, some of them agents."""
        reader = self.core.log.reader()
        model = Model()
        for batch in reader.batches():
            for seq, record in enumerate(batch.records(), batch.first_seq):
                model.apply(seq, record.time, record.agent, record.event)
        events: list[Event] = []
        for _ in range(self.rng.choice((1, 1, 3))):
            seq = reader.last_seq + len(events) + 1
            if self.rng.random() < 0.3:
                event: Event = ConfigWritten(f"agent-{self.rng.randrange(3)}", self.rng.randbytes(500).hex().encode())
            else:
                event = next_event(self.walk.source, model, seq)
            model.apply(seq, time_ns(), "sales", event)
            events.append(draft(event, None, None, None).event)
        self.promised.sent += events
        self.acknowledged(self.hook.append_all(events, agent="sales"))

    def acknowledged(self, receipts: list[Receipt]) -> None:
        self.promised.receipts += receipts
        self.promised.reaches = max(self.promised.reaches, *(receipt.seq for receipt in receipts))

    def checkpoint(self) -> None:
        with patch.object(memory_parts, "BASE_BYTES_MIN", 0):  # deltas, as of a large file
            made = make_checkpoint(self.mirror, self.data.layout, time_ns)
        assert not made.drift
        event = CheckpointCreated(made.seq, made.digest, made.bytes, made.drift, made.manifest)
        self.promised.sent.append(event)
        request = ticket((draft(event, None, "journal", None),), None)
        with self.core.lock:
            self.core.committer.commit_now(request)
        self.acknowledged(list(request.result()))

    def restore_on_checkpoint(self) -> None:
        """What is replayed on its pages is written beside their sync."""
        self.checkpoint()
        self.write()
        self.restore(self.core.log.next_seq - 1)

    def restore_anywhere(self) -> None:
        self.restore(self.rng.randint(0, self.core.log.next_seq - 1))

    def restore(self, to_seq: int) -> None:
        self.promised.sent.append(StateRestored(to_seq, "back"))
        self.mirror.about_to_fold()
        done = self.core.restore(to_seq, "back")
        self.promised.reaches = max(self.promised.reaches, done.seq)


STEPS = (
    (Life.write, 8), (Life.fold, 3), (Life.fold_in_part, 3), (Life.reopen, 2), (Life.checkpoint, 2),
    (Life.restore_anywhere, 2), (Life.restore_on_checkpoint, 2),
)  # fmt: skip


class AtOnce(Executor):
    """A pool without threads. An early sync in it covers nothing of what is written beside it."""

    def __init__(self, workers: int) -> None:
        pass

    def submit(self, work: Callable[..., Any], /, *arguments: Any, **named: Any) -> Future[Any]:
        done: Future[Any] = Future()
        done.set_result(work(*arguments, **named))
        return done


@contextmanager
def alone(place: str) -> Iterator[None]:
    """What depends on the machine and not on the images costs little: the scratch of checks lies at `place` too, short
    segments are filled ahead, and only this process is asked for the files that it holds: no other knows of them.
    What other threads do beside is done at once: as early as it may be, and the same for a seed."""
    with (
        patch.object(segment, "FILL_BYTES_MIN", 4096),
        patch.object(tempfile, "tempdir", place),
        patch.object(holders, "_pids", lambda: [os.getpid()]),
        patch.object(working, "ThreadPoolExecutor", AtOnce),
        patch.object(memory_parts, "ThreadPoolExecutor", AtOnce),
    ):
        yield


def run(seed: int) -> Counter[str]:
    """One life on real files, and cuts of it. AssertionError, or a declared error, says which promise broke."""
    top = TMPFS if os.access(TMPFS, os.W_OK) else None
    with tempfile.TemporaryDirectory(prefix="journal-crashes-", dir=top) as place, alone(place), remembering():
        walk = Walk(seed, place)
        try:
            _live(walk)
        except Broken:
            assert walk.broken is not None
            raise walk.broken from None
    walk.counts["lives"] += 1
    return walk.counts


def _live(walk: Walk) -> None:
    path = walk.new_path()
    initialise(path)
    mirror, promised = Mirror(path), Promised()
    reader = LogReader(RealStorage(), f"{path}/journal")
    promised.sent += [record.event for batch in reader.batches() for record in batch.records()]
    mirror.arm(lambda: walk.cut(mirror.disk, promised, 0))
    life = Life(walk, path, mirror, promised)
    life.open()
    life.write()
    steps, weights = zip(*STEPS, strict=True)
    for step in walk.rng.choices(steps, weights, k=walk.rng.randint(1, 5)):
        step(life)
    life.close()
    walk.cut(mirror.disk, promised, 0)
