"""Group commit: retries, groups, refusals, and what each caller is told when something fails."""

from __future__ import annotations

import errno
import sys
from collections.abc import Sequence
from pathlib import Path
from types import FrameType
from typing import Any

import pytest

from journal import op_ids
from journal.commit import Committer, Ticket, draft, ticket
from journal.errors import Corrupt, IOFault, NoSpace, NotApplied, OutcomeUnknown, Poisoned, Refused
from journal.events import EntityCreated, Event, ObservationAdded, TagCreated
from journal.log import Appended, Log
from journal.reader import LogReader
from journal.record import Record
from journal.storage import RealStorage
from tests.journals import START, abandon, journal_in, segment_files
from tests.simdisk import SimDisk


class Names:
    """The smallest state there is: entity names, created once."""

    def __init__(self) -> None:
        self.names: list[str] = []
        self.applied_seq = 0
        self.fails = False

    def check_all(self, events: Sequence[Event], seq: int) -> bool:
        mark = self.mark()
        try:
            for event in events:
                self.check(event, seq)
        except Refused:
            self.rollback(mark)
            return False
        return True

    def check(self, event: Event, seq: int) -> None:
        if isinstance(event, EntityCreated):
            if event.name in self.names:
                raise Refused("already_exists", f"{event.name} is there")
            self.names.append(event.name)

    def mark(self) -> int:
        return len(self.names)

    def rollback(self, mark: int) -> None:
        del self.names[mark:]

    def stage(self, appended: Appended, records: Sequence[Record]) -> None: ...

    def apply(self, appended: Appended, records: Sequence[Record]) -> None:
        if self.fails:
            raise OSError("memory.db is gone")
        assert len(records) == appended.count
        self.applied_seq = appended.first_seq + appended.count - 1


class Clock:
    def __init__(self) -> None:
        self.now = START

    def __call__(self) -> int:
        self.now += 1000
        return self.now


def opened(path: Path, **options: int) -> tuple[Committer, Names]:
    if not (path / "journal").exists():
        journal_in(path)
    log = Log.open(RealStorage(), str(path / "journal"), **options)
    names = Names()
    return Committer(log, names, Clock()), names


def entity(name: str) -> EntityCreated:
    return EntityCreated("global", name, "person")


def request(*events: Event, op_id: str | None = None) -> Ticket:
    return ticket([draft(event, None, None, None) for event in events], op_id)


def commit_all(committer: Committer, *requests: Ticket) -> None:
    for each in requests:
        committer.submit(each)
    while len(committer):
        committer.run()


def test_what_queued_together_is_one_batch_with_one_chain(tmp_path: Path) -> None:
    committer, _ = opened(tmp_path)
    requests = [request(entity(f"e{number}")) for number in range(10)]
    commit_all(committer, *requests)
    receipts = [each.result()[0] for each in requests]
    assert [receipt.seq for receipt in receipts] == list(range(1, 11))
    assert len({receipt.chain for receipt in receipts}) == 1
    assert [receipt.op_id for receipt in receipts] == [f"e2-{seq}" for seq in range(1, 11)]
    assert committer.log.reader().batch_of(7).count == 10
    committer.log.close()


def test_a_retried_create_returns_its_first_receipt_and_writes_nothing(tmp_path: Path) -> None:
    committer, _ = opened(tmp_path)
    first, again = request(entity("Acme"), op_id="crm-1"), request(entity("Acme"), op_id="crm-1")
    commit_all(committer, first)
    commit_all(committer, again)
    assert again.result() == first.result()
    assert committer.log.next_seq == 2
    committer.log.close()


def test_a_retry_of_one_in_flight_joins_its_waiter(tmp_path: Path) -> None:
    committer, _ = opened(tmp_path)
    first, again = request(entity("Acme"), op_id="crm-1"), request(entity("Acme"), op_id="crm-1")
    commit_all(committer, first, again)
    assert again.result() == first.result()
    assert committer.log.next_seq == 2
    committer.log.close()


@pytest.mark.parametrize("together", [True, False])
def test_the_same_op_id_with_another_event_is_refused(tmp_path: Path, together: bool) -> None:
    committer, _ = opened(tmp_path)
    first, other = request(entity("Acme"), op_id="crm-1"), request(entity("Umbrella"), op_id="crm-1")
    if together:
        commit_all(committer, first, other)
    else:
        commit_all(committer, first)
        commit_all(committer, other)
    with pytest.raises(Refused) as caught:
        other.result()
    assert caught.value.code == "op_id_reused"
    assert committer.log.next_seq == 2
    committer.log.close()


@pytest.mark.parametrize("together", [True, False])
def test_an_event_that_only_python_takes_for_the_same_is_another_one(tmp_path: Path, together: bool) -> None:
    committer, _ = opened(tmp_path)
    first, other, again = (
        request(EntityCreated("global", "Acme", "company", metadata), op_id="crm-1")
        for metadata in ({"a": 1, "b": 2}, {"a": True, "b": 2}, {"b": 2, "a": 1})
    )
    if together:
        commit_all(committer, first, other, again)
    else:
        commit_all(committer, first)
        commit_all(committer, other)
        commit_all(committer, again)
    with pytest.raises(Refused, match="different event"):
        other.result()
    assert again.result() == first.result()
    committer.log.close()


@pytest.mark.parametrize("killed", [True, False])
def test_op_ids_survive_a_restart(tmp_path: Path, killed: bool) -> None:
    committer, _ = opened(tmp_path)
    first = request(entity("Acme"), entity("Umbrella"), op_id="crm-1")
    commit_all(committer, request(entity("Initech")), first)
    if killed:
        abandon(committer.log)
    else:
        committer.log.close()
    committer, names = opened(tmp_path)
    names.applied_seq = 3
    again, single = request(entity("Acme"), entity("Umbrella"), op_id="crm-1"), request(entity("Acme"), op_id="crm-1")
    commit_all(committer, again, single)
    assert again.result() == first.result()
    assert single.error is not None
    assert single.error.code == "op_id_reused"
    committer.log.close()


def test_a_generated_op_id_can_be_retried_and_never_taken_in_advance(tmp_path: Path) -> None:
    committer, _ = opened(tmp_path)
    first = request(entity("Acme"))
    commit_all(committer, first)
    again, ahead = request(entity("Acme"), op_id=first.result()[0].op_id), request(entity("Umbrella"), op_id="e2-9")
    commit_all(committer, again, ahead)
    assert again.result() == first.result()
    assert ahead.error is not None
    assert ahead.error.code == "invalid"
    committer.log.close()


def test_a_generated_op_id_whose_event_was_lost_is_not_answered_by_what_took_its_seq(tmp_path: Path) -> None:
    """An epoch told its caller outcome_unknown, the batch did not survive, and the next epoch gave that seq to an event
    of somebody else, which is the same by chance."""
    committer, _ = opened(tmp_path)
    other = request(entity("Acme"))
    commit_all(committer, other)
    assert other.result()[0].op_id == "e2-1"
    committer.machine = Names()
    retry = request(entity("Acme"), op_id="e1-1")
    commit_all(committer, retry)
    assert retry.result()[0].seq == 2
    committer.log.close()


def test_the_op_id_window_keeps_the_promised_number(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(op_ids, "OP_ID_WINDOW", 5)  # 100,000 as shipped: the rule is the same
    committer, names = opened(tmp_path)
    requests = [request(entity(f"e{number}"), op_id=f"op-{number}") for number in range(20)]
    for each in requests:
        commit_all(committer, each)
    retry = request(entity("e15"), op_id="op-15")
    commit_all(committer, retry)
    assert retry.result() == requests[15].result()
    committer.log.close()
    committer, names = opened(tmp_path)
    names.applied_seq = 20
    retry = request(entity("e15"), op_id="op-15")
    commit_all(committer, retry)
    assert retry.result() == requests[15].result()
    committer.log.close()


def test_a_group_is_taken_whole_or_not_at_all(tmp_path: Path) -> None:
    committer, _ = opened(tmp_path)
    good = request(entity("a"), entity("b"))
    bad = request(entity("c"), entity("a"))
    after = request(entity("c"))
    commit_all(committer, good, bad, after)
    assert [receipt.seq for receipt in good.result()] == [1, 2]
    with pytest.raises(Refused, match="a is there"):
        bad.result()
    assert after.result()[0].seq == 3
    committer.log.close()


def test_a_batch_of_new_events_of_which_one_is_refused_gives_the_others_what_they_would_get_alone(
    tmp_path: Path,
) -> None:
    committer, names = opened(tmp_path)
    commit_all(committer, request(entity("a"), op_id="op-a"))
    tickets = [request(entity(name), op_id=f"op-{at}") for at, name in enumerate("bacb")]
    commit_all(committer, *tickets)
    assert [each.error.code if each.error else each.result()[0].seq for each in tickets] == [
        2, "already_exists", 3, "already_exists",
    ]  # fmt: skip
    assert names.names == ["a", "b", "c"]
    retry = request(entity("c"), op_id="op-2")
    names.applied_seq = 3
    commit_all(committer, retry, request(entity("d"), op_id="op-2x"))
    assert retry.result() == tickets[2].result()
    committer.log.close()


def test_times_never_decrease_and_the_clock_is_kept(tmp_path: Path) -> None:
    committer, _ = opened(tmp_path)
    clock = committer._clock
    assert isinstance(clock, Clock)
    commit_all(committer, request(entity("a")))
    clock.now -= 10**18
    commit_all(committer, request(entity("b")))
    clock.now += 2 * 10**18
    commit_all(committer, request(entity("c")))
    records = [record for batch in committer.log.reader().batches() for record in batch.records()]
    assert [record.time for record in records] == sorted(record.time for record in records)
    assert records[0].clock is None
    assert records[1].time == records[0].time
    assert records[1].clock == START + 2000 - 10**18
    clock.now -= 10**18
    commit_all(committer, *(request(entity(name)) for name in "def"))
    records = [record for batch in committer.log.reader().batches() for record in batch.records()]
    assert [record.time for record in records[3:]] == [records[2].time] * 3
    assert all(record.clock is not None and record.clock < record.time for record in records[3:])
    committer.log.close()


def test_a_full_disk_gives_nothing_a_seq(tmp_path: Path) -> None:
    committer, names = opened(tmp_path)
    commit_all(committer, request(entity("a")))
    committer.log._reserve_bytes = 1 << 60
    big = [request(ObservationAdded("global", "a", "x" * 100_000)), request(entity("b"))]
    commit_all(committer, *big)
    for each in big:
        with pytest.raises(NoSpace):
            each.result()
    assert names.names == ["a"]
    committer.log._reserve_bytes = 0
    after = request(entity("b"))
    commit_all(committer, after)
    assert after.result()[0].seq == 2
    committer.log.close()


def test_a_failed_apply_says_journaled_with_the_seq_and_a_duplicate_waits(tmp_path: Path) -> None:
    committer, names = opened(tmp_path)
    names.fails = True
    first = request(entity("a"), op_id="once")
    commit_all(committer, first)
    with pytest.raises(NotApplied, match="journaled at seq 1"):
        first.result()
    again = request(entity("a"), op_id="once")
    commit_all(committer, again)
    with pytest.raises(NotApplied, match="not applied yet"):
        again.result()
    names.applied_seq = 1
    later = request(entity("a"), op_id="once")
    commit_all(committer, later)
    assert later.result()[0].seq == 1
    assert committer.log.next_seq == 2
    committer.log.close()


def test_an_empty_group_is_refused_and_never_becomes_an_empty_batch(tmp_path: Path) -> None:
    with pytest.raises(Refused, match="at least one event"):
        ticket([], None)


def test_the_op_id_window_counts_a_group_as_one_operation_after_a_restart_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(op_ids, "OP_ID_WINDOW", 10)
    committer, names = opened(tmp_path, segment_bytes_max=1000)

    def group(number: int) -> Ticket:
        return request(*(TagCreated(f"{number}-{part}", 0) for part in range(5)), op_id=f"op-{number}")

    groups = [group(number) for number in range(10)]
    for each in groups:
        commit_all(committer, each)
    for restarted in (False, True):
        if restarted:
            committer.log.close()
            assert len(segment_files(f"{tmp_path}/journal")) > 3
            committer, names = opened(tmp_path)
            names.applied_seq = 50
        for number, first in enumerate(groups):
            again = group(number)
            commit_all(committer, again)
            assert again.result() == first.result()
    committer.log.close()


def test_a_ticket_is_answered_only_once_its_batch_is_applied(tmp_path: Path) -> None:
    """A thread that finds receipts before that would read a memory.db without its row, or never hear of NotApplied."""
    committer, names = opened(tmp_path)
    first = request(entity("a"), entity("b"))
    seen: list[object] = []
    apply = names.apply

    def watched(appended: Appended, records: Sequence[Record]) -> None:
        seen.extend((first.receipts, first.error, first.done))
        apply(appended, records)

    names.apply = watched  # type: ignore[method-assign]
    commit_all(committer, first)
    assert seen == [[], None, False]
    assert first.done
    assert len(first.result()) == 2
    committer.log.close()


@pytest.mark.parametrize("segment_bytes_max", [1, 1 << 20])
def test_damage_in_the_past_answers_the_retry_that_meets_it_and_nobody_else(
    tmp_path: Path, segment_bytes_max: int
) -> None:
    """In a segment that was sealed, and in the one that is being written."""
    committer, _ = opened(tmp_path, segment_bytes_max=segment_bytes_max)
    for name in "abc":
        commit_all(committer, request(entity(name), op_id=f"op-{name}"))
    path = segment_files(f"{tmp_path}/journal")[1]
    data = bytearray(path.read_bytes())
    data[data.index(b"op-a")] ^= 1
    path.write_bytes(data)
    retry, other = request(entity("a"), op_id="op-a"), request(entity("d"))
    commit_all(committer, retry, other)
    with pytest.raises(Corrupt):
        retry.result()
    assert other.result()[0].seq == 4
    committer.log.close()


def test_a_batch_that_no_segment_could_be_made_for_leaves_no_trace_in_the_validator() -> None:
    storage = SimDisk()
    storage.make_directory("/data")
    _, directory = journal_in(Path("/data"), storage)
    committer = Committer(Log.open(storage, directory, segment_bytes_max=1, reserve_bytes=0), Names(), Clock())
    commit_all(committer, request(entity("a")))
    fault = storage.fail("create", error=errno.EMFILE)
    refused, again = request(entity("b")), request(entity("b"))
    commit_all(committer, refused)
    with pytest.raises(IOFault):
        refused.result()
    assert fault.fired
    commit_all(committer, again)
    assert again.result()[0].seq == 2
    committer.log.close()
    assert LogReader(storage, directory).last_seq == 2


def test_a_poisoned_log_answers_nothing_else(tmp_path: Path) -> None:
    """What the validator counted in for the batch that failed is no reason to say `already_exists`."""
    committer, _ = opened(tmp_path)
    commit_all(committer, request(entity("a")))
    committer.log.poison("a test")
    again = request(entity("a"))
    commit_all(committer, again)
    with pytest.raises(Poisoned, match="a test"):
        again.result()
    committer.log.close()


INTERRUPTS = 400


@pytest.mark.parametrize("kind", ["mixed", "new"])
def test_an_interrupt_at_any_line_leaves_every_ticket_with_the_truth(kind: str) -> None:
    """Ctrl-C between any two lines of a commit; then the same committer goes on, as the next thread would. Of a batch
    with retries, a group and a refusal, and of one of new events alone."""
    reached = 0
    for at in range(1, INTERRUPTS):
        storage = SimDisk()
        storage.make_directory("/data")
        _, directory = journal_in(Path("/data"), storage)
        committer = Committer(Log.open(storage, directory, reserve_bytes=0), Names(), Clock())
        commit_all(committer, request(entity("before"), op_id="before"))
        tickets = [request(entity("a"), op_id="a"), request(entity("a"), op_id="a"), request(entity("b"), entity("c"))]
        tickets += [request(entity("before"), op_id="before"), request(entity("before"))]
        sent = [["a"], ["a"], ["b", "c"]]
        if kind == "new":
            tickets, sent = [request(entity("a"), op_id="a"), request(entity("b")), request(entity("c"))], [*"abc"]
        for each in tickets:
            committer.submit(each)
        if not _interrupted(committer, at):
            break
        reached = at
        while len(committer):
            committer.run()
        assert all(each.done for each in tickets)
        assert kind == "new" or tickets[0].receipts == tickets[1].receipts
        journaled = [
            record.event.name for batch in committer.log.reader().batches() for record in batch.records()
        ]  # fmt: skip
        assert len(set(journaled)) == len(journaled)
        for each, names in zip(tickets[:3], sent, strict=True):
            assert bool(each.receipts) != bool(each.error)
            if each.receipts:
                assert [journaled[receipt.seq - 1] for receipt in each.receipts] == [*names]
            elif isinstance(each.error, NotApplied):
                assert each.error.seq is not None
                assert journaled[each.error.seq - 1] == names[0]
            elif not isinstance(each.error, OutcomeUnknown):
                assert isinstance(each.error, Poisoned)
                assert names[0] not in journaled
        committer.log.close()
    assert 50 < reached < INTERRUPTS - 1


def _interrupted(committer: Committer, at: int) -> bool:
    """Runs one batch and raises KeyboardInterrupt at the `at`-th line of the committer or the log that it comes to."""
    count = 0

    def trace(frame: FrameType, event: str, argument: object) -> Any:
        nonlocal count
        if not frame.f_code.co_filename.endswith(("journal/commit.py", "journal/op_ids.py", "journal/log.py")):
            return None
        if event == "line":
            count += 1
            if count == at:
                raise KeyboardInterrupt
        return trace

    sys.settrace(trace)
    try:
        committer.run()
    except KeyboardInterrupt:
        pass
    finally:
        sys.settrace(None)
    return count >= at


def test_an_event_that_the_codec_cannot_store_is_refused_before_it_queues() -> None:
    for event in (
        TagCreated("t", -1),
        ObservationAdded("global", "a", "\ud800"),
        ObservationAdded("nowhere", "a", "b"),
        entity("with\0nul"),
        EntityCreated("global", "a", "t", {"x": float("nan")}),
    ):
        with pytest.raises(Refused):
            draft(event, None, None, None)
