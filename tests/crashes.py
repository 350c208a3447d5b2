"""A writer's whole life on a disk that loses power: what it promised, cut after cut, is held against what is there.

    python -m tests.crashes FIRST LAST [none|torn|all]

runs those seeds and names the first that breaks a promise; `tests/test_crash_mutations.py` calls it so on a copy.
"""

from __future__ import annotations

import errno
import random
import sys
from collections.abc import Sequence
from contextlib import suppress
from typing import Literal

from journal.commit import Committer, Receipt, Ticket, draft, ticket
from journal.errors import JournalError, NoSpace
from journal.events import Event, ObservationAdded
from journal.log import Appended, Log, create
from journal.reader import LogReader
from journal.record import Record
from journal.verify import verify
from journal.witness import prove
from tests.simdisk import SimDisk
from tests.simfaults import PowerCut

JOURNAL = "/data/journal"
LIVES = 4
Mode = Literal["none", "torn", "all"]


class Everything:
    """A state that takes every event: the log alone is on trial."""

    applied_seq = 1 << 62

    def check_all(self, events: Sequence[Event], seq: int) -> bool:
        return True

    def check(self, event: Event, seq: int) -> None: ...

    def mark(self) -> int:
        return 0

    def rollback(self, mark: int) -> None: ...

    def stage(self, appended: Appended, records: Sequence[Record]) -> None: ...

    def apply(self, appended: Appended, records: Sequence[Record]) -> None: ...


class Promises:
    """What was acknowledged, and the epochs that were in use, over all lives of one journal."""

    def __init__(self) -> None:
        self.receipts: dict[int, tuple[Receipt, str]] = {}
        self.epochs: list[int] = []
        self.quarantined: dict[str, bytes] = {}
        self.submitted: set[str] = set()

    def hold_in(self, disk: SimDisk, rng: random.Random) -> None:
        """Every promise, on a disk after a cut. Opens the journal, as a server does, and asserts."""
        if not self.receipts and not LogReaderOrNone(disk):
            return  # the cut came while the journal was created: nothing was promised yet
        log = open_log(disk, rng)
        assert log.epoch > max(self.epochs, default=0), f"epoch {log.epoch} was used before: {self.epochs}"
        self.epochs.append(log.epoch)
        if log.opening.quarantined:
            self.quarantined[log.opening.quarantined] = disk.read(log.opening.quarantined)
        reader = log.reader()
        found: dict[int, tuple[str, str, int]] = {}
        for batch in reader.batches():
            for seq, record in enumerate(batch.records(), batch.first_seq):
                assert seq == len(found) + 1, f"seq {seq} where {len(found) + 1} belongs"
                assert record.event.content in self.submitted, "an event that nobody sent"
                found[seq] = (record.event.content, batch.chain.hex(), batch.epoch)
        for seq, (receipt, content) in self.receipts.items():
            assert seq in found, f"acknowledged seq {seq} is lost; the journal ends at {len(found)}"
            assert found[seq] == (content, receipt.chain, receipt.epoch), f"acknowledged seq {seq} became another event"
        for seq in rng.sample(sorted(self.receipts), min(3, len(self.receipts))):
            prove(reader, self.receipts[seq][0])
        for path, data in self.quarantined.items():
            assert disk.read(path) == data, f"quarantine lost {path}"
        report = verify(disk, JOURNAL)
        assert report.exit_code == 0, report.findings
        log.close()


def LogReaderOrNone(disk: SimDisk) -> LogReader | None:
    try:
        return LogReader(disk, JOURNAL)
    except JournalError:
        return None


def open_log(disk: SimDisk, rng: random.Random) -> Log:
    return Log.open(
        disk, JOURNAL, segment_bytes_max=rng.choice((2048, 70_000, 200_000)), reserve_bytes=0, entropy=rng.randbytes
    )


def live(disk: SimDisk, rng: random.Random, promises: Promises, name: str) -> None:
    """One life of a writer: opens, appends batches of all sizes, retries, closes or not. Raises PowerCut at the cut."""
    if LogReaderOrNone(disk) is None:
        create(disk, JOURNAL, journal_id=bytes(16))
    log = open_log(disk, rng)
    promises.epochs.append(log.epoch)
    if log.opening.quarantined:
        promises.quarantined[log.opening.quarantined] = disk.read(log.opening.quarantined)
    committer = Committer(log, Everything())
    for number in range(rng.randrange(1, 40)):
        requests: list[Ticket] = []
        for index in range(rng.choice((1, 1, 3, 20))):
            size = rng.choice((1, 20, 200, 6000)) if index < 3 else 30
            contents = [f"{name}-{number}-{index}-{item} " + "x" * size for item in range(rng.choice((1, 1, 1, 3)))]
            promises.submitted.update(contents)
            events = [draft(ObservationAdded("global", "Acme", each), None, None, None) for each in contents]
            requests.append(ticket(events, f"op-{name}-{number}-{index}" if rng.random() < 0.3 else None))
        for request in requests:
            committer.submit(request)
        committer.run()
        for request in requests:
            try:
                receipts = request.result()
            except NoSpace:
                continue
            for receipt, item in zip(receipts, request.drafts, strict=True):
                assert isinstance(item.event, ObservationAdded)
                promises.receipts[receipt.seq] = (receipt, item.event.content)
    if rng.random() < 0.5:
        log.close()


def changes_of(seed: int) -> int:
    """How many places for a cut this seed's first life has: it is lived once without one."""
    disk = SimDisk()
    live(disk, random.Random(seed), Promises(), "0")
    return disk.counts.changes


def run(seed: int, mode: Mode) -> None:
    """Several lives of one journal, each ended by a power cut at a random change. AssertionError names what broke."""
    disk, promises, rng = SimDisk(), Promises(), random.Random(f"{seed}-{mode}")
    for number in range(LIVES):
        span = changes_of(seed) if number == 0 else rng.randrange(2, 200)
        disk.cut_at = disk.counts.changes + rng.randrange(1, span + 1)
        life = random.Random(seed if number == 0 else rng.random())
        with suppress(PowerCut):
            live(disk, life, promises, str(number))
        disk = disk.crash(rng, mode)
        disk.cut_at = rng.randrange(1, 12)  # the open after the cut is itself cut, then run to its end
        try:
            promises.hold_in(disk, rng)
        except PowerCut:
            disk = disk.crash(rng, mode)
            promises.hold_in(disk, rng)
        disk = disk.crash(rng, mode)  # what that open promised must hold as well
        promises.hold_in(disk, rng)


def run_full_when_synced() -> None:
    """A disk that takes writes and finds at the sync that it is full, as with delayed allocation.

    Zero-filling ahead meets it before any batch is touched: the event is refused, not in doubt, and writing goes on.
    """
    disk, rng = SimDisk(), random.Random(0)
    create(disk, JOURNAL, journal_id=bytes(16))
    log = Log.open(disk, JOURNAL, reserve_bytes=0, entropy=rng.randbytes)
    committer = Committer(log, Everything())

    def send(content: str) -> Ticket:
        request = ticket([draft(ObservationAdded("global", "Acme", content), None, None, None)], None)
        committer.submit(request)
        committer.run()
        return request

    assert send("small").result()[0].seq == 1
    fault = disk.fail("sync", path="segments/", error=errno.ENOSPC, times=2, lies=True)
    refused = send("x" * 100_000)
    assert fault.fired == 2
    assert isinstance(refused.error, NoSpace), f"in doubt instead of refused: {refused.error!r}"
    assert send("there is room again" * 10_000).result()[0].seq == 2
    log.close()
    after = disk.crash(rng, "none")
    assert LogReader(after, JOURNAL).last_seq == 2


def main() -> int:
    first, last = int(sys.argv[1]), int(sys.argv[2])
    try:
        run_full_when_synced()
    except (AssertionError, JournalError) as error:
        print(f"seed full: {type(error).__name__}: {error}")
        return 1
    modes: list[Mode] = [sys.argv[3]] if len(sys.argv) > 3 else ["none", "torn"]  # type: ignore[list-item]
    for seed in range(first, last):
        for mode in modes:
            try:
                run(seed, mode)
            except (AssertionError, JournalError, FileNotFoundError) as error:
                print(f"seed {seed} {mode}: {type(error).__name__}: {error}")
                return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
