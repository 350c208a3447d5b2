"""Lives of a server on the simulated disk, and every disk that a cut at any moment of them leaves.

A life is a seeded run of everything that a server does. Before each change on its disk the possible images of a cut
are counted out (`simcuts`); each is opened as a server opens it, settled, and held against every promise. Some of these
recoveries are themselves cut at each of their changes, and some of those once more.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable, Sequence

from journal import segment
from journal.commit import Draft, Receipt, Ticket, draft, ticket
from journal.errors import AmbiguousTail, NotApplied, OutcomeUnknown, Refused
from journal.events import ConfigWritten, EntityCreated, Event, ObservationAdded, StateRestored
from tests.crash_known import remembering
from tests.crash_promises import Promises, Reference
from tests.crash_server import LAYOUT, Clock, Known, Memory, Server
from tests.histories import SeededSource, next_event
from tests.simcuts import images
from tests.simdisk import SimDisk
from tests.simnodes import SECTOR_BYTES

IMAGES = (24, 6, 4)  # at most so many of one cut, by how many cuts came before it
DEEPER = (0.04, 0.03)  # the share of recoveries that are cut themselves


class Broken(BaseException):
    """A promise broke on an image, in the midst of a life; `Walk.broken` says which. No handler may take it for an
    error of the disk."""


class Walk:
    """One seed: its choices, the images that were seen, and what was counted."""

    def __init__(self, seed: int) -> None:
        self.rng = random.Random(seed)
        self.source = SeededSource(seed)
        self.seen: set[int] = set()
        self.counts = Counter({"crash states": 0})  # the first is told as a rate
        self.broken: BaseException | None = None

    def cut(self, disk: SimDisk, memory: Memory, promises: Promises, now: int, depth: int) -> None:
        """Judges what a cut at this moment may leave, unless it was judged before."""
        for image in images(disk, self.rng, IMAGES[depth]):
            found = memory.after_cut(self.rng)
            key = hash((image.number, *(each[0] for each in found.images.values())))
            if key in self.seen:
                continue
            self.seen.add(key)
            try:
                self.judge(image.disk(), found, promises, now, depth)
            except Exception as error:
                error.add_note(f"after a cut before change {disk.counts.changes + 1}, {depth} cuts before it")
                self.broken = error
                raise Broken(str(error)) from error
            self.counts["crash states" if image.has_bytes else "without a byte"] += 1
            if depth:
                self.counts["of a recovery that was cut" if depth == 1 else "of one that was cut twice"] += 1

    def judge(self, disk: SimDisk, memory: Memory, promises: Promises, now: int, depth: int) -> None:
        deep = depth < len(DEEPER) and self.rng.random() < DEEPER[depth]
        clock = Clock(now)
        try:
            if not deep:
                promises.hold(self.opened(disk, memory, clock, promises))
                return
            inner = promises.branch()
            disk.before_change = lambda: self.cut(disk, memory, inner, clock.now, depth + 1)
            server = self.opened(disk, memory, clock, promises)
            promises.hold(server)
            self.go_on(server, inner)
        finally:
            memory.let_go()

    def opened(self, disk: SimDisk, memory: Memory, clock: Clock, promises: Promises) -> Server:
        """Opens it; where the last batch is ambiguous, on its owner's word that it was never acknowledged.

        Equal journals are opened with equal choices: what comes of them is equal, and verified once.
        """
        rng = random.Random(disk.checksum_below(LAYOUT.journal))
        try:
            return Server.open(disk, memory, clock, rng)
        except AmbiguousTail as ambiguous:
            self.counts["ambiguous tails"] += 1
            seq = ambiguous.seq or 0
            if seq <= promises.reaches:
                raise AssertionError("an acknowledged batch is called ambiguous") from ambiguous
            if not any(bytes(SECTOR_BYTES) in content_of(event) for _, _, event in promises.reference.sent[seq - 1 :]):
                raise AssertionError("torn, and ambiguous although no sector is blank by content") from ambiguous
            return Server.open(disk, memory, clock, rng, accept_tail=True)

    def go_on(self, server: Server, promises: Promises) -> None:
        """After a recovery: it tells of the takeover, takes a write, and is cut at each change of that as well."""
        depth_cut = server.disk.before_change
        assert depth_cut is not None
        branched = promises.branch(server.core.log.next_seq - 1)
        promises.__dict__.update(branched.__dict__)  # the cuts to come look at the same promises
        promises.opened(server)
        life = Life(self, server.disk, server.memory, promises, server.clock)
        life.server = server
        if server.takeover is not None:
            life.say(server.takeover)
        life.write()
        depth_cut()


def _took_no_seq(request: Ticket) -> bool:
    return request.error is not None and not isinstance(request.error, NotApplied | OutcomeUnknown)


def content_of(event: Event) -> bytes:
    """The bytes of an event that may hold zeros."""
    content = getattr(event, "content", "")  # of a config, accepted or rejected, it is bytes
    return content if isinstance(content, bytes) else content.encode()


class Life:
    """What one server does, one seeded step after the other; its promises grow with it."""

    def __init__(self, walk: Walk, disk: SimDisk, memory: Memory, promises: Promises, clock: Clock) -> None:
        self.walk = walk
        self.rng = walk.rng
        self.disk = disk
        self.memory = memory
        self.promises = promises
        self.clock = clock
        self.server: Server
        self.op_ids: dict[str, tuple[Sequence[Draft], list[Receipt]]] = {}

    def open(self) -> None:
        self.server = Server.open(self.disk, self.memory, self.clock, self.rng)
        self.promises.opened(self.server)

    def reopen(self) -> None:
        """A restart, after which a retry must still be known for one."""
        self.server.close()
        self.open()
        if self.op_ids:
            op_id = self.rng.choice(sorted(self.op_ids))
            request = ticket(self.op_ids[op_id][0], op_id)
            self.server.hook.settle([request])
            assert request.result() == self.op_ids[op_id][1], "a retry after a restart has another receipt"

    def say(self, event: Event) -> None:
        self.tick()
        self.promises.reference.send(self.time(), None, event)
        self.promises.acknowledged([self.server.say(event)])

    def tick(self) -> None:
        self.clock.now += self.rng.choice((0, 1, 1_000, 1_000_000_007))

    def time(self) -> int:
        return max(self.clock.now, self.server.core.log.last_time)

    def write(self) -> None:
        """One batch: single events, groups, a retry, one that is refused."""
        reference = self.promises.reference
        self.tick()
        sent: list[Ticket] = []
        requests, retried = [], []
        for _ in range(self.rng.choice((1, 1, 1, 2, 5))):
            size = self.rng.choice((1, 1, 1, 3))
            items, first = [], len(reference.sent) + 1
            for _ in range(size):
                item = draft(self.event(len(reference.sent) + 1), "sales", None, None)
                reference.send(self.time(), "sales", item.event)
                items.append(item)
            if size > 1:
                reference.groups[first] = first + size - 1
            op_id = f"op-{first}-{self.rng.random()}" if self.rng.random() < 0.3 else None
            request = ticket(items, op_id)
            sent.append(request)
            requests.append((request, first))
        if self.op_ids and self.rng.random() < 0.3:
            op_id = self.rng.choice(sorted(self.op_ids))
            request = ticket(self.op_ids[op_id][0], op_id)
            sent.append(request)
            retried.append((request, op_id))
        entities = reference.model.state.entities
        refused = None
        if entities and self.rng.random() < 0.2:
            scope, name = next(iter(entities))
            refused = ticket([draft(EntityCreated(scope, name, "again"), "sales", None, None)], None)
            sent.append(refused)
        self.server.hook.settle(sent)
        if any(_took_no_seq(request) for request, _ in requests):
            requests = self._without_refused(requests)
        for request, first in requests:
            if isinstance(request.error, NotApplied):  # "it is safe" is a promise too
                self.promises.reaches = max(self.promises.reaches, first + len(request.drafts) - 1)
            made = request.result()
            assert [receipt.seq for receipt in made] == list(range(first, first + len(made))), "another seq"
            self.promises.acknowledged(made)
            if request.op_id is not None:
                self.op_ids[request.op_id] = (request.drafts, made)
        for request, op_id in retried:
            assert request.result() == self.op_ids[op_id][1], "a retry has another receipt"
        assert refused is None or isinstance(refused.error, Refused)

    def _without_refused(self, requests: list[tuple[Ticket, int]]) -> list[tuple[Ticket, int]]:
        """The tickets with their first seqs, where the disk failed for some of them before a byte was written.

        Those took no seq, so the others of the batch have theirs, and the reference is told again what was sent. The
        first failed one comes last, for its error to be raised after the others' receipts were taken for a promise.
        """
        before, start = self.promises.reference, requests[0][1]
        reference = self.promises.reference = before.branch(start - 1)
        kept = []
        for request, first in requests:
            if _took_no_seq(request):
                continue
            now = len(reference.sent) + 1
            for time, agent, event in before.sent[first - 1 : first - 1 + len(request.drafts)]:
                reference.send(time, agent, event)
            if len(request.drafts) > 1:
                reference.groups[now] = len(reference.sent)
            kept.append((request, now))
        return [*kept, next(each for each in requests if _took_no_seq(each[0]))]

    def event(self, seq: int) -> Event:
        model = self.promises.reference.model
        size = self.rng.choice((0, 0, 0, 400, 1200, 5000))
        if size and self.rng.random() < 0.5:
            return ConfigWritten(f"agent-{self.rng.randrange(3)}", self.rng.randbytes(size))
        entities = list(model.state.entities)
        if size and entities:
            return ObservationAdded(*self.rng.choice(entities), f"{seq} {self.rng.random()} " + "x" * size)
        return next_event(self.walk.source, model, seq)

    def checkpoint(self) -> None:
        if self.promises.reference.sent and len(self.promises.reference.sent) not in self.promises.checkpoints:
            manifest, event = self.server.checkpoint()
            self.promises.checkpoints[manifest.seq] = manifest
            self.say(event)

    def prune(self) -> None:
        for seq in self.server.prunable():
            self.promises.checkpoints.pop(seq, None)
        self.server.prune()

    def restore(self) -> None:
        event = StateRestored(self.rng.randint(0, len(self.promises.reference.sent)), "")
        self.tick()
        self.promises.reference.send(self.time(), None, event)
        self.promises.acknowledged([self.server.restore(event.to_seq)])

    def back_up(self) -> None:
        self.promises.backup_seq = self.server.back_up()

    def pack(self) -> None:
        self.walk.counts["segments packed"] += self.server.pack()


STEPS: tuple[tuple[Callable[[Life], None], int], ...] = (
    (Life.write, 12), (Life.reopen, 2), (Life.checkpoint, 3), (Life.prune, 1), (Life.restore, 1), (Life.back_up, 1),
    (Life.pack, 1),
)  # fmt: skip
LATE: tuple[tuple[Callable[[Life], None], int], ...] = (
    (Life.prune, 4), (Life.checkpoint, 2), (Life.restore, 1), (Life.back_up, 1), (Life.pack, 2),
)  # fmt: skip


def run(seed: int) -> Counter[str]:
    """One life and every cut of it. AssertionError, or a declared error, says which promise broke and where."""
    with remembering():
        return _run(seed)


def _run(seed: int) -> Counter[str]:
    walk = Walk(seed)
    disk, memory, clock = SimDisk(), Memory(Known()), Clock()
    life = Life(walk, disk, memory, Promises(Reference()), clock)
    fill = segment.FILL_BYTES_MIN
    segment.FILL_BYTES_MIN = fill if seed % 8 == 0 else 4096  # zeros to read and compare cost more than all the rest
    housekeeping = seed % 4 == 3
    try:
        if housekeeping:  # it takes a while until there is something to prune, and that was cut in other lives
            life.open()
            for _ in range(3):
                life.write()
                life.checkpoint()
        disk.before_change = lambda: walk.cut(disk, memory, life.promises, clock.now, 0)
        if not housekeeping:
            life.open()
        steps, weights = zip(*(LATE if housekeeping else STEPS), strict=True)
        for step in walk.rng.choices(steps, weights, k=walk.rng.randint(1, 2 if housekeeping else 6)):
            step(life)
        disk.before_change()
    except Broken:
        assert walk.broken is not None
        raise walk.broken from None
    finally:
        memory.let_go()
        segment.FILL_BYTES_MIN = fill
    walk.counts["lives"] += 1
    return walk.counts
