"""Packing on the simulated disk, beside a writer at work, and every disk that a cut at any moment of it leaves.

On each the log reads the same as before by every reader, `verify` finds no damage, a pack that stands alone has its
parity, the next opener goes on, and the next run of packing ends what was begun. Some of those runs are cut again, and
some of the ones after that.
"""

from __future__ import annotations

import random
from collections import Counter
from contextlib import suppress

from journal import segment
from journal.follow import Follower
from journal.log import Log, create
from journal.packing import pack_segments, packable
from journal.parity_store import ParityStore
from journal.reader import LogReader, list_segments
from journal.record import array_of
from journal.scrub import units
from journal.segment import is_packed, packed_path, plain_path
from journal.verify import verify
from tests.crash_lives import Broken
from tests.journals import START, record
from tests.simcuts import images
from tests.simdisk import SimDisk

JOURNAL = "/data/journal"
IMAGES = (12, 4, 3)  # at most so many of one cut, by how many cuts came before it
ENDED = 0.2  # the share of images on which packing is taken to its end
DEEPER = (0.1, 0.1)  # the share of these runs that are cut themselves
SEGMENT_BYTES = 2500
SHARE = 0.125


class Killed(BaseException):
    """The process that packs ends here, and the machine does not."""


class Walk:
    """One seed: what was sent and acknowledged, and the images that were seen."""

    def __init__(self, seed: int) -> None:
        self.rng = random.Random(seed)
        self.parity = self.rng.random() < 0.5
        self.sent: list[bytes] = []
        self.acknowledged = 0
        self.seen: set[int] = set()
        self.counts = Counter({"crash states": 0})
        self.broken: BaseException | None = None

    def append(self, log: Log) -> None:
        """One batch: it may be there from now on, and must be there once this returns."""
        count = self.rng.choice((1, 1, 3, 8))
        records = [record(log.next_seq + number, op_id=f"op-{self.rng.random()}") for number in range(count)]
        self.sent.append(array_of(records))
        log.append(records, START + (log.next_seq + count - 1) * 1000)
        self.acknowledged = len(self.sent)

    def opened(self, disk: SimDisk) -> Log:
        return Log.open(disk, JOURNAL, segment_bytes_max=SEGMENT_BYTES, reserve_bytes=0, entropy=self.rng.randbytes)

    def store(self, disk: SimDisk) -> ParityStore | None:
        return ParityStore(disk, JOURNAL, share=SHARE) if self.parity else None

    def pack(self, disk: SimDisk) -> int:
        return pack_segments(disk, JOURNAL, self.store(disk), bytes_min=1).segments

    # -- cuts ---------------------------------------------------------------------------------------------------------

    def cut(self, disk: SimDisk, depth: int) -> None:
        """Judges what a cut at this moment may leave, unless it was judged before."""
        for image in images(disk, self.rng, IMAGES[depth]):
            if image.number in self.seen:
                continue
            self.seen.add(image.number)
            try:
                self.judge(image.disk(), depth)
            except Exception as error:
                error.add_note(f"after a cut before change {disk.counts.changes + 1}, {depth} cuts before it")
                self.broken = error
                raise Broken(str(error)) from error
            self.counts["crash states"] += 1
            if depth:
                self.counts["of a run that was cut" if depth == 1 else "of one that was cut twice"] += 1

    def judge(self, disk: SimDisk, depth: int) -> None:
        self.holds(disk)
        if self.rng.random() >= ENDED:
            return
        if depth < len(DEEPER) and self.rng.random() < DEEPER[depth]:
            disk.before_change = lambda: self.cut(disk, depth + 1)
        self.pack(disk)
        disk.before_change = None
        self.ended(disk)
        sent, acknowledged = list(self.sent), self.acknowledged
        del self.sent[len(self.payloads(disk)) :]
        log = self.opened(disk)
        self.append(log)
        log.close()
        self.holds(disk)
        self.sent, self.acknowledged = sent, acknowledged

    def payloads(self, disk: SimDisk) -> list[bytes]:
        return [bytes(each.payload) for each in LogReader(disk, JOURNAL).batches()]

    def holds(self, disk: SimDisk) -> None:
        """What was acknowledged is there, nothing that was not sent is, and nothing is damaged."""
        found = self.payloads(disk)
        assert found == self.sent[: len(found)], "another history"
        assert len(found) >= self.acknowledged, f"batch {len(found)} of {self.acknowledged} is gone"
        report = verify(disk, JOURNAL)
        assert report.exit_code == 0, report.findings
        names = disk.list(f"{JOURNAL}/segments")
        store = self.store(disk)
        for name in names:
            if store is not None and is_packed(name) and plain_path(name) not in names:
                assert store.read(f"segments/{name}") is not None, f"{name} stands alone and has no parity"

    def ended(self, disk: SimDisk) -> None:
        """All that can be packed is, each segment is there once, and there is no parity of what is gone."""
        assert packable(disk, JOURNAL, 1) == []
        store = self.store(disk)
        if store is not None:
            store.fill()
        segments = list_segments(disk, JOURNAL)
        cut = ".seg.tmp"  # a segment that a writer was about to make
        names = [name for name in disk.list(f"{JOURNAL}/segments") if not name.endswith(cut)]
        assert names == [each.path.rsplit("/", 1)[1] for each in segments], "a file too many"
        if store is not None:
            packs = {name for name in names if is_packed(name)}
            protected = {name.removeprefix("segments/") for name in store.names()}
            assert packs <= protected
            assert not {packed_path(name) for name in protected if not is_packed(name)} & packs
        for unit in units(disk, JOURNAL, store or ParityStore(disk, JOURNAL)):
            assert unit.check() == [], unit.name
        self.holds(disk)


def run(seed: int) -> Counter[str]:
    """Packing a journal of some segments, and every cut of it. AssertionError where a promise breaks."""
    walk, disk = Walk(seed), SimDisk()
    fill, segment.FILL_BYTES_MIN = segment.FILL_BYTES_MIN, 4096
    try:
        return _run(walk, disk)
    except Broken:
        assert walk.broken is not None
        raise walk.broken from None
    finally:
        segment.FILL_BYTES_MIN = fill


def _run(walk: Walk, disk: SimDisk) -> Counter[str]:
    rng = walk.rng
    create(disk, JOURNAL, journal_id=rng.randbytes(16), entropy=rng.randbytes)
    for _ in range(rng.randint(1, 2)):
        log = walk.opened(disk)
        for _ in range(rng.randint(4, 10)):
            walk.append(log)
        log.close() if rng.random() < 0.5 else log._lock.release()
    log = walk.opened(disk)
    early, follower = LogReader(disk, JOURNAL), Follower(LogReader(disk, JOURNAL))
    followed = len(walk.sent)
    writing = False

    def between() -> None:
        """Before each change: the disk may be cut, the writer may write, and readers from before may read."""
        nonlocal writing, followed, killed_at
        walk.cut(disk, 0)
        if writing:
            return
        if disk.counts.changes == killed_at:
            killed_at = -1
            raise Killed
        if rng.random() < 0.2:
            writing = True
            try:
                walk.append(log)
            finally:
                writing = False
        if rng.random() < 0.2:
            assert [bytes(each.payload) for each in early.batches(1, early.last_seq)] == walk.sent[:behind]
        if rng.random() < 0.2:
            followed += len(list(follower.poll()))
            assert followed == len(walk.sent), "a follower missed what was written"

    behind = followed
    killed_at = disk.counts.changes + rng.randint(1, 12) if rng.random() < 0.5 else -1
    disk.before_change = between
    with suppress(Killed):  # and then it goes on in the same boot: what was not synced is still to be seen
        walk.counts["segments packed"] = walk.pack(disk)
    walk.counts["segments packed"] += walk.pack(disk)
    disk.before_change = None
    walk.cut(disk, 0)
    walk.pack(disk)  # what the writer sealed meanwhile
    log.close()
    walk.ended(disk)
    walk.counts["runs"] += 1
    return walk.counts
