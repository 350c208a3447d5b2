"""Group commit: retries, groups, refusals, and what each caller is told when something fails."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest

from journal import commit
from journal.commit import Committer, Ticket, draft, ticket
from journal.errors import NoSpace, NotApplied, Refused
from journal.events import EntityCreated, Event, ObservationAdded, TagCreated
from journal.format import Record
from journal.log import Appended, Log
from journal.storage import RealStorage
from tests.journals import START, abandon, journal_in


class Names:
    """The smallest state there is: entity names, created once."""

    def __init__(self) -> None:
        self.names: list[str] = []
        self.applied_seq = 0
        self.fails = False

    def check(self, event: Event, seq: int) -> None:
        if isinstance(event, EntityCreated):
            if event.name in self.names:
                raise Refused("already_exists", f"{event.name} is there")
            self.names.append(event.name)

    def mark(self) -> int:
        return len(self.names)

    def rollback(self, mark: int) -> None:
        del self.names[mark:]

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
    committer, names = opened(tmp_path)
    first = request(entity("Acme"))
    commit_all(committer, first)
    again, ahead = request(entity("Acme"), op_id=first.result()[0].op_id), request(entity("Umbrella"), op_id="e2-9")
    commit_all(committer, again, ahead)
    assert again.result() == first.result()
    assert ahead.error is not None
    assert ahead.error.code == "invalid"
    committer.log.close()


def test_the_op_id_window_keeps_the_promised_number(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(commit, "OP_ID_WINDOW", 5)  # 100,000 as shipped: the rule is the same
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
    committer, names = opened(tmp_path)
    good = request(entity("a"), entity("b"))
    bad = request(entity("c"), entity("a"))
    after = request(entity("c"))
    commit_all(committer, good, bad, after)
    assert [receipt.seq for receipt in good.result()] == [1, 2]
    with pytest.raises(Refused, match="a is there"):
        bad.result()
    assert after.result()[0].seq == 3
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
