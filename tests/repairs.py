"""A small journal with everything that a repair may meet, and what a repair must come to, bit by bit.

On the simulated disk: segments that were closed, killed, carried from, rotated; checkpoints that share parts; parity of
all that is sealed. Used by `tests/test_journal_repair.py` and by the long runs in `tests/faults/repairs.py`.
"""

from __future__ import annotations

import random
from dataclasses import dataclass

from journal.checkpoint import KIND_EMBEDDINGS, KIND_MEMORY, CheckpointStore, Manifest
from journal.events import StateRestored, TagCreated
from journal.format import CHAIN_GENESIS, SegmentHeader, encode_segment_header
from journal.log import Log, create
from journal.parity_store import ParityStore
from journal.reader import LogReader
from journal.repair import execute_repairs, plan_repairs
from journal.repaired import Repair
from journal.verify import verify
from tests.journals import START, abandon, append, record
from tests.simdisk import SimDisk

JOURNAL = "/data/journal"
FRONT_BYTES = len(encode_segment_header(SegmentHeader(bytes(16), bytes(8), 1, 1, 0, 0, 0, CHAIN_GENESIS)))


@dataclass
class Subject:
    """A disk with the journal, every file's bytes, and where the padding of each segment begins."""

    disk: SimDisk
    files: dict[str, bytes]
    padding: dict[str, int]

    def places(self, *, parity: bool = True) -> list[tuple[str, int]]:
        """Data files and how many bytes of each count."""
        return [
            (path, self.padding.get(path, len(data)))
            for path, data in sorted(self.files.items())
            if not path.endswith("/lock") and (parity or "/parity/" not in path)
        ]

    def reset(self) -> None:
        """Every file as it was, and none besides."""
        for path, data in files_in(self.disk).items():
            if path not in self.files:
                self.disk.remove(path)
                self.disk.sync_dir(path.rsplit("/", 1)[0])  # what is pending is gone through at each later sync
            elif data != self.files[path]:
                put(self.disk, path, self.files[path])
        for path, data in self.files.items():
            if self.disk.kind(path) == "missing":
                put(self.disk, path, data)

    def changed(self) -> list[str]:
        """Files that differ from what they were, but for padding and what a repair leaves."""
        now = files_in(self.disk)
        kept = {path: data for path, data in now.items() if "/quarantine/" not in path and "repairs.json" not in path}
        differ = [path for path in {*kept, *self.files} if kept.get(path) != self.files.get(path)]
        return sorted(path for path in differ if not path.endswith("/lock"))


def put(disk: SimDisk, path: str, data: bytes) -> None:
    """The file has these bytes, durably, without the program's doing."""
    if disk.kind(path) != "missing":
        disk.remove(path)
    disk.make_directory(path.rsplit("/", 1)[0])
    file = disk.open(path, write=True, create=True)
    file.write_at(0, data)
    file.sync()
    file.close()
    disk.sync_dir(path.rsplit("/", 1)[0])


def files_in(disk: SimDisk, folder: str = JOURNAL) -> dict[str, bytes]:
    found: dict[str, bytes] = {}
    for name in disk.list(folder):
        path = f"{folder}/{name}"
        if disk.kind(path) == "directory":
            found |= files_in(disk, path)
        else:
            found[path] = disk.read(path)
    return found


def build(*, parity: bool = True, closed: bool = True, part_bytes: int = 1500, events: int = 1) -> Subject:
    """The journal: three lives, the second one killed with batches to carry. `events` is how many a batch has."""
    rng, disk, number = random.Random(1), SimDisk(), 1
    create(disk, JOURNAL, journal_id=bytes(range(16)))
    for life, batches in enumerate((2, 3, 4)):
        size = FRONT_BYTES + 450 * events
        log = Log.open(disk, JOURNAL, segment_bytes_max=size, reserve_bytes=0, entropy=rng.randbytes)
        for _ in range(batches):
            append(log, number, events)
            number += events
        if life == 0:
            marks = (TagCreated("before", 1), StateRestored(1))
            log.append([record(number + at, event) for at, event in enumerate(marks)], START + (number + 1) * 1000)
            number += 2
        if life == 1 or (life == 2 and not closed):
            abandon(log)
        else:
            log.close()
    add_checkpoints(disk, rng, part_bytes)
    store = ParityStore(disk, JOURNAL)
    if parity:
        store.fill()
    reader = LogReader(disk, JOURNAL)
    ends = {f"{JOURNAL}/{each.name}": each.length for each in store.sealed()}
    return Subject(disk, files_in(disk), ends | {reader.tail.path: reader.tail.offset})


def add_checkpoints(disk: SimDisk, rng: random.Random, part_bytes: int) -> None:
    checkpoints, reader = CheckpointStore(disk, f"{JOURNAL}/checkpoints"), LogReader(disk, JOURNAL)
    shared = checkpoints.put_part(KIND_MEMORY, rng.randbytes(part_bytes))[0]
    for seq in (3, 6):
        own = checkpoints.put_part(KIND_EMBEDDINGS, rng.randbytes(part_bytes // 3))[0]
        marks = reader.batch_of(seq)
        manifest = Manifest(
            journal_id=reader.journal_id.hex(), seq=seq, chain=marks.chain.hex(), time=START, epoch=marks.epoch,
            digest="ab" * 32, digest_version=1, projection_version=1, restores=restores(reader, seq),
            tags={"before": 1} if seq > 2 else {}, parts=[shared, own],
        )  # fmt: skip
        checkpoints.publish(manifest)
        checkpoints.mark_verified(manifest, START)


def restores(reader: LogReader, until: int) -> list[tuple[int, int]]:
    found = []
    for batch in reader.batches(1, until):
        for seq, each in enumerate(batch.records(), batch.first_seq):
            if isinstance(each.event, StateRestored) and seq <= until:
                found.append((seq, each.event.to_seq))
    return found


def repair(disk: SimDisk) -> list[Repair]:
    """What `journal verify --repair` does."""
    store = ParityStore(disk, JOURNAL)
    plan = plan_repairs(disk, JOURNAL, store)
    return execute_repairs(disk, JOURNAL, store, plan) if not plan.is_empty else []


def damage_of(disk: SimDisk) -> list[str]:
    """Paths that `verify` calls damaged, parity included."""
    report = verify(disk, JOURNAL)
    return [each.path for each in report.findings if each.severity == "damage"]


def judge_flip(subject: Subject, path: str, offset: int, bit: int) -> str:
    """One flipped bit is detected and named, and a repair ends in the exact bytes; or it raises."""
    before = subject.files[path]
    subject.disk.poke(path, offset, bytes([before[offset] ^ 1 << bit]))
    try:
        assert path in damage_of(subject.disk), "not detected, or not named"
        done = repair(subject.disk)
        assert subject.changed() == [], [each.words() for each in done]
        assert done[0].quarantined is not None
        assert subject.disk.read(done[0].quarantined)[offset] == before[offset] ^ 1 << bit
        assert damage_of(subject.disk) == []
        assert repair(subject.disk) == [], "a second run found something to do"
        return done[0].method
    finally:
        subject.reset()
