"""Lives of a server on a disk that fails, or that hands back other bytes than it was given. One seed is one life.

`fail`: operations fail, once or for good, or a sync fails and the next ones lie. What was acknowledged until then must
be there when the journal is opened again on the same machine, where the page cache still shows what was lost, and after
the power goes as well. `damage`: bytes change behind everybody's back. What is opened then keeps every promise, or the
error is a declared one that names the place.
"""

from __future__ import annotations

import errno
import random
from collections import Counter

from journal import segment
from journal.errors import DataError, Diverged, EnvironmentFault, JournalError, OutcomeUnknown, Poisoned
from journal.events import ObservationAdded
from journal.format import BATCH_HEADER_BYTES, decode_segment_header, encode_batch
from journal.reader import LogReader
from journal.scan import Batch
from journal.verify import verify
from tests.crash_lives import STEPS, Life, Walk
from tests.crash_promises import Promises, Reference
from tests.crash_server import LAYOUT, Clock, Known, Memory, Server
from tests.simdisk import SimDisk
from tests.simfaults import PowerCut
from tests.simnodes import SECTOR_BYTES, Mode

OPERATIONS = (
    "write", "write", "sync", "sync", "sync", "sync_dir", "rename", "create", "open", "read", "truncate", "lock",
)  # fmt: skip
ERRORS = (errno.EIO, errno.EIO, errno.ENOSPC, errno.EMFILE, errno.EACCES, errno.EROFS)
MODES: tuple[Mode, ...] = ("none", "torn")


def lived(walk: Walk) -> Life:
    """A life of a few steps on a disk that nothing happens to."""
    life = Life(walk, SimDisk(), Memory(Known()), Promises(Reference()), Clock())
    life.open()
    _steps(life, walk.rng.randint(0, 5))
    return life


def _steps(life: Life, count: int) -> None:
    steps, weights = zip(*STEPS, strict=True)
    for step in life.rng.choices(steps, weights, k=count):
        step(life)


# -- operations that fail ---------------------------------------------------------------------------------------------


def fail(seed: int) -> Counter[str]:
    """One life in which operations fail. Raises where a promise broke, or an error was not declared."""
    walk = Walk(seed)
    segment.FILL_BYTES_MIN, fill = 4096, segment.FILL_BYTES_MIN
    try:
        life, rng = lived(walk), walk.rng
        operation = rng.choice(OPERATIONS)
        fault = life.disk.fail(
            operation, nth=rng.choice((1, 1, 2, 3, 5)), times=rng.choice((1, 1, 3, None)), error=rng.choice(ERRORS),
            path=rng.choice(("", "segments/", "segments/", "agents/", "checkpoints/")),
            after_bytes=rng.choice((0, 1, 60, 512, 700)), lies=operation == "sync" and rng.random() < 0.7,
        )  # fmt: skip
        told = _go_on(life)
        life.disk.faults.clear()
        life.memory.forget()
        life.server.core.state.close()
        log, writes = life.server.core.log, life.disk.counts["write"]
        poisoned = log.poisoned
        log.close()
        assert poisoned is None or life.disk.counts["write"] == writes, "a poisoned log was closed as if it were clean"
        _hold_from_here(life, rng)
    finally:
        segment.FILL_BYTES_MIN = fill
    walk.counts["lives"] += 1
    walk.counts["faults met"] += bool(fault.fired)
    walk.counts.update(f"told as {name}" for name in told)
    return walk.counts


def _go_on(life: Life) -> list[str]:
    """Steps on the failing disk, on and on after each error, until the log takes nothing more. The errors' names."""
    told = []
    for _ in range(4):
        try:
            _steps(life, 1)
        except JournalError as error:
            told.append(type(error).__name__)
            log = life.server.core.log
            if log.poisoned is None and isinstance(error, OutcomeUnknown):
                raise AssertionError("in doubt, and the log goes on") from error
            if log.poisoned is not None:
                _refused_once_poisoned(life)
                break
            life.promises.reference = life.promises.reference.branch(log.next_seq - 1)  # the rest took no seq
    return told


def _refused_once_poisoned(life: Life) -> None:
    """What is sent to a poisoned log is not taken, and no sync is tried again."""
    syncs = life.disk.counts["sync"]
    try:
        life.server.hook.append(ObservationAdded("global", "Acme", "late"))
    except Poisoned:
        assert life.disk.counts["sync"] == syncs, "a sync was tried again"
        return
    raise AssertionError("a poisoned log takes events")


def _hold_from_here(life: Life, rng: random.Random) -> None:
    """Opened on the same boot, where the cache shows what the disk may not have; then after power cuts."""
    again = Server.open(life.disk, life.memory, life.clock, rng)
    life.promises.hold(again)
    promises = life.promises.branch(again.core.log.next_seq - 1)
    promises.opened(again)
    more = Life(life.walk, life.disk, life.memory, promises, life.clock)
    more.server = again
    if again.takeover is not None:
        more.say(again.takeover)
    more.write()
    life.walk.counts["opened again"] += 1
    for mode in MODES:
        memory = life.memory.after_cut(rng)
        promises.hold(Server.open(life.disk.crash(rng, mode), memory, life.clock, rng))
        memory.let_go()
        life.walk.counts["opened again"] += 1
    again.close()


# -- bytes that change ------------------------------------------------------------------------------------------------


def damage(seed: int) -> Counter[str]:
    """One life, and one damage to a file of its journal while nobody has it open."""
    walk = Walk(seed)
    segment.FILL_BYTES_MIN, fill = 4096, segment.FILL_BYTES_MIN
    try:
        life, rng = lived(walk), walk.rng
        before = life.disk.crash(rng, "all")
        _steps(life, 3)
        if rng.random() < 0.5:
            life.server.close()
        disk = life.disk.crash(rng, "all")
        life.memory.note()
        if rng.random() < 0.1:
            disk = _opened_and_killed(life, disk, rng)
        kind, path = _damage(disk, before, rng)
        walk.counts["damages"] += 1
        if rng.random() < 0.3:
            disk = _cut_while_opening(life, disk, rng)
        walk.counts[f"{kind}: {_judged(life, disk, path, kind)}"] += 1
        life.memory.let_go()
    finally:
        segment.FILL_BYTES_MIN = fill
    return walk.counts


def _damage(disk: SimDisk, before: SimDisk, rng: random.Random) -> tuple[str, str]:
    """One of the things that disks do; which, and to what file."""
    paths = [path for path in files(disk, LAYOUT.journal) if disk.size(path) and "/quarantine/" not in path]
    path = rng.choice(paths)
    size = disk.size(path)
    sectors = -(-size // SECTOR_BYTES)
    at = rng.randrange(sectors) * SECTOR_BYTES
    here = disk.read(path)[at : at + SECTOR_BYTES]
    kind = rng.choice(
        ("rot", "zeroed", "swapped", "stale", "misdirected", "unreadable", "short reads", "forged", "gone", "blanked")
    )
    if kind == "rot":
        heads = [batch.offset for holder, batch in _batches(disk) if holder == path]
        in_head = bool(heads) and rng.random() < 0.5  # few bytes of many; at 32 the epoch, which only a CRC guards
        within = rng.choice((rng.randrange(BATCH_HEADER_BYTES), 32))
        offset = rng.choice(heads) + within if in_head else rng.randrange(size)
        disk.poke(path, offset, bytes([disk.read(path)[offset] ^ 1 << rng.randrange(8)]))
    elif kind == "zeroed":
        disk.poke(path, at, bytes(len(here)))
    elif kind == "swapped":
        other = rng.randrange(sectors) * SECTOR_BYTES
        there = disk.read(path)[other : other + SECTOR_BYTES]
        length = min(len(here), len(there))
        disk.poke(path, at, there[:length])
        disk.poke(path, other, here[:length])
    elif kind == "stale" and path in files(before, LAYOUT.journal):
        old = before.read(path)[at : at + SECTOR_BYTES]
        disk.poke(path, at, old[: len(here)])
    elif kind == "misdirected":
        source = disk.read(rng.choice(paths))
        start = rng.randrange(-(-len(source) // SECTOR_BYTES)) * SECTOR_BYTES
        disk.poke(path, at, source[start : start + len(here)])
    elif kind == "unreadable":
        disk.damage(path, at)
    elif kind == "blanked" and (blanked := _blank(disk)):
        path = blanked
    elif kind == "gone":
        disk.remove(path)  # a manifest's absence cannot be told from a prune
    elif kind == "forged" and (forged := _forge(disk, rng)):
        path = forged
    else:
        kind = "short reads"
        disk.damage(path, at, short=True)
    return kind, path


def _batches(disk: SimDisk) -> list[tuple[str, Batch]]:
    """Every batch of the log with the file that holds it."""
    reader = LogReader(disk, LAYOUT.journal)
    found = []
    for batch in reader.batches():
        holder = max(each for each in reader.segments if each.first_seq <= batch.first_seq)
        found.append((holder.path, batch))
    return found


def _forge(disk: SimDisk, rng: random.Random) -> str | None:
    """A batch whose content was changed, with every CRC made right again; the file, or None where there is none.

    Not the last: what follows it says what it was.
    """
    batches = _batches(disk)[:-1]
    if not batches:
        return None
    path, batch = rng.choice(batches)
    payload = bytearray(batch.payload)
    payload[-1] ^= 1
    header, _ = decode_segment_header(disk.read(path), path)
    data = encode_batch(
        header, epoch=batch.epoch, flags=0, first_seq=batch.first_seq, count=batch.count, payload=bytes(payload),
        durable_seq=batch.durable_seq, previous_chain=batch.previous_chain, offset=batch.offset,
    )  # fmt: skip
    disk.poke(path, batch.offset, data)
    return path


def _blank(disk: SimDisk) -> str | None:
    """Zeros over the last batch, where only its segment's header says that it was synced; the file, or None.

    Such a batch was carried there by an open, which wrote nothing of its own.
    """
    batches = _batches(disk)
    if not batches:
        return None
    path, batch = batches[-1]
    header, _ = decode_segment_header(disk.read(path), path)
    if int(header.extra.get("durable_seq", 0)) < batch.last_seq:
        return None
    disk.poke(path, batch.offset, bytes(disk.size(path) - batch.offset))
    return path


def _opened_and_killed(life: Life, disk: SimDisk, rng: random.Random) -> SimDisk:
    """The disk after one more open, which was killed before it wrote: what it carried is in a segment of its own."""
    memory = Memory(life.memory.known, dict(life.memory.bases), {k: [v[-1]] for k, v in life.memory.images.items()})
    server = Server.open(disk, memory, life.clock, rng)
    life.promises.opened(server)
    life.memory.bases, life.memory.images = memory.bases, {
        path: [*life.memory.images.get(path, []), *images] for path, images in memory.images.items()
    }
    memory.let_go()
    return disk.crash(rng, "all")


def files(disk: SimDisk, path: str) -> list[str]:
    """Every file below a directory."""
    found: list[str] = []
    for name in disk.list(path):
        below = f"{path}/{name}"
        found += files(disk, below) if disk.kind(below) == "directory" else [below]
    return found


def _cut_while_opening(life: Life, disk: SimDisk, rng: random.Random) -> SimDisk:
    """The damaged disk after an open that was cut at some change, or went through."""
    memory = Memory(life.memory.known, dict(life.memory.bases), {k: [v[-1]] for k, v in life.memory.images.items()})
    disk.cut_at = disk.counts.changes + rng.randrange(1, 25)
    try:
        server = Server.open(disk, memory, life.clock, rng)
        server.core.log._lock.release()
    except (PowerCut, DataError, EnvironmentFault):
        pass
    finally:
        memory.let_go()
    return disk.crash(rng, "torn")


def _judged(life: Life, disk: SimDisk, path: str, kind: str) -> str:
    """`kept` where every promise holds, `named` where an error or `verify` says what is damaged."""
    if path.endswith(".manifest") and disk.kind(path) == "missing":
        life.promises.checkpoints.pop(int(path[-25:-9]), None)
    if path.endswith("/lock"):  # it says what epoch was taken; only one that wrote something may not come again
        life.promises.epoch = max((epoch for _, _, epoch in life.promises.batches.values()), default=0)
    at = 0 if kind in ("forged", "blanked") else -1  # the journal must tell, without what memory.db remembers
    memory = Memory(life.memory.known, dict(life.memory.bases), {k: [v[at]] for k, v in life.memory.images.items()})
    segments = disk.list(f"{LAYOUT.journal}/segments")
    try:
        server = Server.open(disk, memory, life.clock, life.rng)
    except (DataError, EnvironmentFault) as error:
        _nothing_set_aside(life, disk, segments)
        names_it = error.path is not None and error.path.startswith(LAYOUT.journal)
        return _named(
            error, path, names_it or isinstance(error, Diverged)
        )  # which names the seq where two histories part
    try:
        life.promises.holds_but_for_files(server)  # whatever else is damaged, what was opened is right
        try:
            report = verify(disk, LAYOUT.journal)
        except (DataError, EnvironmentFault) as error:
            return _named(error, path, error.path == path)
        if report.exit_code:
            named = [finding.path for finding in report.findings if finding.severity == "damage"]
            assert path in named, f"{named} are called damaged, where {path} is"
            return "named"
        life.promises.hold(server)
    finally:
        memory.let_go()
    return "kept"


def _nothing_set_aside(life: Life, disk: SimDisk, segments: list[str]) -> None:
    """An open that refused has not gone on in a new segment before the end that was acknowledged."""
    if disk.list(f"{LAYOUT.journal}/segments") == segments:
        return
    try:
        last_seq = LogReader(disk, LAYOUT.journal).last_seq
    except JournalError:
        return  # what it refused for lies in the past
    assert last_seq >= life.promises.reaches, f"the end was set aside from seq {last_seq + 1} on, and then refused"


def _named(error: JournalError, path: str, names_it: bool) -> str:
    if not names_it:
        raise AssertionError(f"{error!r}, where {path} is damaged") from error
    return "named"
