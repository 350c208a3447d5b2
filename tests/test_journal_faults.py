"""The disk fails under a batch: nothing is acknowledged any more, no sync is retried, and the next open settles it."""

from __future__ import annotations

import errno
import random

import pytest

from journal.commit import Committer, Ticket, draft, ticket
from journal.errors import IOFault, JournalError, OutcomeUnknown, Poisoned
from journal.events import ObservationAdded
from journal.log import Log, create
from journal.reader import LogReader
from journal.verify import verify
from journal.witness import prove
from tests.crashes import JOURNAL, Everything
from tests.simdisk import SimDisk


def opened(disk: SimDisk, seed: int = 0) -> Committer:
    if not disk.list(f"{JOURNAL}/segments"):
        create(disk, JOURNAL, journal_id=bytes(16))
    log = Log.open(disk, JOURNAL, reserve_bytes=0, entropy=random.Random(seed).randbytes)
    return Committer(log, Everything())


def send(committer: Committer, content: str, op_id: str | None = None) -> Ticket:
    request = ticket([draft(ObservationAdded("global", "Acme", content), None, None, None)], op_id)
    committer.submit(request)
    committer.run()
    return request


FAULTS = {
    "the sync fails": {"operation": "sync"},
    "the sync fails and the next ones lie": {"operation": "sync", "lies": True},
    "the write fails": {"operation": "write"},
    "the write stops short": {"operation": "write", "after_bytes": 60},
}


@pytest.mark.parametrize("case", FAULTS)
def test_a_failed_batch_poisons_the_log_and_its_callers_are_told_the_op_id(case: str) -> None:
    disk = SimDisk()
    committer = opened(disk)
    first = send(committer, "one").result()[0]
    fault = disk.fail(**FAULTS[case], path="segments/")
    failed = send(committer, "two", op_id="crm-2")
    assert fault.fired == 1
    assert isinstance(failed.error, OutcomeUnknown)
    assert failed.error.op_id == "crm-2"
    syncs = disk.counts["sync"]
    later = [send(committer, content).error for content in ("three", "four")]
    assert all(isinstance(each, Poisoned) for each in later)
    for error in (failed.error, *later):
        assert isinstance(error, JournalError)
        assert str(error).endswith(f" - {error.hint}")
        assert str(error).count(" - ") == 1, "one thing to do next, not the inner error's as well"
    assert disk.counts["sync"] == syncs, "a sync was retried: the kernel would call it good"
    committer.log.close()
    assert disk.counts["sync"] == syncs, "a poisoned log was closed as if it were clean"

    # The same boot: the page cache may still show the batch. What the open finds it must make durable before it counts.
    again = opened(disk, 1)
    retried = send(again, "two", op_id="crm-2").result()[0]
    again.log.close()
    after = disk.crash(random.Random(2), "none")
    reader = LogReader(after, JOURNAL)
    contents = [record.event.content for batch in reader.batches() for record in batch.records()]
    assert contents == ["one", "two"]
    for receipt in (first, retried):
        prove(reader, receipt)
    assert verify(after, JOURNAL).exit_code == 0


def test_what_survived_a_failed_sync_is_reported_by_op_id_at_the_next_open() -> None:
    disk = SimDisk()
    committer = opened(disk)
    send(committer, "one")
    disk.fail("sync", path="segments/", lies=True)
    send(committer, "two", op_id="crm-2")
    committer.log.close()
    log = Log.open(disk, JOURNAL, reserve_bytes=0)
    assert not log.opening.clean
    assert (2, "crm-2") in log.opening.carried
    log.close()


def test_a_clean_close_whose_sync_failed_is_nothing_to_build_on() -> None:
    """Scenario: the sync of the close fails, the cache still shows the close, the next writer goes on, power goes."""
    disk = SimDisk()
    committer = opened(disk)
    first = send(committer, "one").result()[0]
    disk.fail("sync", path="segments/", lies=True)
    with pytest.raises(IOFault):
        committer.log.close()
    again = opened(disk, 1)
    assert again.log.opening.clean, "the page cache shows the clean close"
    second = send(again, "two").result()[0]
    after = disk.crash(random.Random(2), "none")
    reader = LogReader(after, JOURNAL)
    for receipt in (first, second):
        prove(reader, receipt)
    assert verify(after, JOURNAL).exit_code == 0


@pytest.mark.parametrize("operation", ["create", "write", "sync", "rename", "sync_dir", "truncate"])
@pytest.mark.parametrize("nth", range(1, 5))
def test_any_one_failure_while_opening_or_rotating_loses_nothing(operation: str, nth: int) -> None:
    disk = SimDisk()
    committer = opened(disk)
    receipts = [send(committer, f"kept {number}").result()[0] for number in range(5)]
    committer.log._lock.release()  # killed
    fault = disk.fail(operation, nth=nth, error=errno.EIO)
    try:
        log = Log.open(disk, JOURNAL, segment_bytes_max=2048, reserve_bytes=0)
        committer = Committer(log, Everything())
        for number in range(20):
            request = send(committer, f"later {number} " + "x" * 300)
            if request.error is None:
                receipts += request.receipts
        log.close()
    except JournalError:
        pass
    if not fault.fired:
        pytest.skip(f"there is no {operation} number {nth}")
    for mode in ("none", "torn", "all"):
        after = disk.crash(random.Random(nth), mode)
        log = Log.open(after, JOURNAL, reserve_bytes=0)
        reader = log.reader()
        for receipt in receipts:
            prove(reader, receipt)
        log.close()
        assert verify(after, JOURNAL).exit_code == 0
