"""When a checkpoint is due, and which ones may go: no seq is left farther from a checkpoint than promised."""

from __future__ import annotations

import os
from pathlib import Path

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from journal.checkpoint import KIND_MEMORY, CheckpointStore, Manifest, Part
from journal.errors import Locked, UsageError
from journal.retention import Branch, Policy, Tally, due, plan_prune, replay_costs
from journal.storage import RealStorage

LINE = [Branch(0, 10**9, None)]


def manifest(seq: int, state: str = "verified", parts: list[Part] | None = None) -> Manifest:
    fields = {
        "journal_id": "ab" * 16, "seq": seq, "chain": "cd" * 32, "epoch": 1, "time": 1, "digest": "ef" * 32,
        "digest_version": 1, "projection_version": 1, "state": state, "parts": parts or [],
    }  # fmt: skip
    return msgspec.convert(fields, Manifest)


def kept(seqs: list[int], head: int, branches: list[Branch] | None = None, **policy: object) -> list[int]:
    plan = plan_prune([manifest(seq) for seq in seqs], head, branches or [Branch(0, head, None)], Policy(**policy))
    return [each.seq for each in plan.keep]


# -- thinning ---------------------------------------------------------------------------------------------------------


def test_the_two_newest_always_stay():
    assert kept([1, 2, 3, 4], head=4) == [3, 4]
    assert kept([7], head=7) == [7]
    assert kept([], head=7) == []


def test_the_near_past_stays_dense_and_the_far_past_thins():
    seqs = list(range(50_000, 10_000_001, 50_000))
    stay = kept(seqs, head=10_000_000)
    gaps = [after - before for before, after in zip([0, *stay], stay, strict=False)]
    assert gaps[0] > 500_000
    assert gaps[-2] <= 100_000
    assert len(stay) < 50


@st.composite
def worlds(draw: st.DrawFn) -> tuple[list[Branch], list[int], int, Policy]:
    head = draw(st.integers(0, 60))
    cuts = sorted(draw(st.sets(st.integers(1, max(head, 1)), max_size=5)))
    cuts = [cut for cut in cuts if cut <= head]
    firsts, lasts = [0, *cuts], [*(cut - 1 for cut in cuts), head]
    parents = [None, *(draw(st.integers(0, cut - 1)) for cut in cuts)]
    branches = [Branch(*each) for each in zip(firsts, lasts, parents, strict=True)]
    seqs = sorted(draw(st.sets(st.integers(0, head), max_size=12)))
    policy = Policy(gap_events=draw(st.integers(1, 15)), gap_ratio=draw(st.sampled_from([0.0, 0.1, 0.5])))
    return branches, seqs, head, policy


def naive_cost(seq: int, bases: list[int], branches: list[Branch]) -> int:
    """Walks back one event at a time, over restores, to a base or to genesis."""
    cost = 0
    parents = {branch.first: branch.parent for branch in branches if branch.parent is not None}
    while seq not in bases and seq > 0:
        if seq in parents:
            seq = parents[seq]
        else:
            seq, cost = seq - 1, cost + 1
    return cost


@given(worlds())
def test_replay_costs_are_what_a_walk_back_counts(world: tuple[list[Branch], list[int], int, Policy]):
    branches, seqs, _, _ = world
    costs = replay_costs(seqs, branches)
    assert costs == {seq: naive_cost(seq, seqs, branches) for seq in costs}


@given(worlds())
def test_no_seq_ends_up_farther_from_a_checkpoint_than_promised(
    world: tuple[list[Branch], list[int], int, Policy],
):
    """Within the bound, or as far as it was before: pruning never makes a broken promise worse."""
    branches, seqs, head, policy = world
    plan = plan_prune([manifest(seq) for seq in seqs], head, branches, policy)
    stay = [each.seq for each in plan.keep]
    assert len(stay) >= min(2, len(seqs))
    for seq in range(head + 1):
        bound = max(policy.gap_events, policy.gap_ratio * (head - seq))
        after = naive_cost(seq, stay, branches)
        assert after <= bound or after == naive_cost(seq, seqs, branches)


@given(worlds())
def test_a_second_prune_finds_nothing_more(world: tuple[list[Branch], list[int], int, Policy]):
    branches, seqs, head, policy = world
    plan = plan_prune([manifest(seq) for seq in seqs], head, branches, policy)
    assert plan_prune(plan.keep, head, branches, policy).drop == []


def test_a_checkpoint_of_an_abandoned_timeline_keeps_that_timeline_near():
    """Seqs 1-1000, then back to 100: the last 900 can only be restored by way of the checkpoints in them."""
    branches = [Branch(0, 1000, None), Branch(1001, 3000, 100)]
    stay = kept([100, 500, 900, 1500, 2000, 2900, 2950], 3000, branches, gap_events=600, gap_ratio=0.0)
    assert 500 in stay or 900 in stay
    assert stay[-2:] == [2900, 2950]


def test_one_that_was_never_verified_goes_once_a_newer_one_is():
    plan = plan_prune([manifest(5, "written"), manifest(9), manifest(12, "written")], 12, LINE, Policy())
    assert [each.seq for each in plan.keep] == [9, 12]
    assert [each.seq for each, _ in plan.drop] == [5]


# -- the plan ---------------------------------------------------------------------------------------------------------


@pytest.fixture
def store(tmp_path: Path) -> CheckpointStore:
    store = CheckpointStore(RealStorage(), str(tmp_path / "checkpoints"))
    shared, _ = store.put_part(KIND_MEMORY, b"shared")
    for seq in (1, 2, 3):
        own, _ = store.put_part(KIND_MEMORY, b"own %d" % seq)
        store.publish(manifest(seq, parts=[shared, own]))
    return store


def test_a_plan_prints_and_changes_nothing(store: CheckpointStore):
    before = sorted(os.listdir(store.directory))
    plan = plan_prune(store.manifests(), 3, LINE, Policy())
    assert plan.lines()[0].startswith("drop 1: ")
    assert plan.lines()[1:] == ["keep 2 (verified)", "keep 3 (verified)"]
    assert plan.foreseen(store) == (1, len(b"own 1"))
    assert sorted(os.listdir(store.directory)) == before


def test_an_executed_plan_frees_what_only_the_dropped_ones_listed(store: CheckpointStore):
    plan = plan_prune(store.manifests(), 3, LINE, Policy())
    foreseen = plan.foreseen(store)
    assert plan.execute(store) == foreseen == (1, len(b"own 1"))
    assert [each.seq for each in store.manifests()] == [3, 2]
    assert all(store.check(each) == [] for each in store.manifests())


def test_a_plan_can_be_used_once(store: CheckpointStore):
    plan = plan_prune(store.manifests(), 3, LINE, Policy())
    plan.execute(store)
    with pytest.raises(UsageError):
        plan.execute(store)


def test_a_plan_waits_for_a_checkpoint_that_is_being_built(store: CheckpointStore):
    """Its parts are on disk and listed nowhere yet: sweeping them would publish a checkpoint without its parts."""
    plan = plan_prune(store.manifests(), 3, LINE, Policy())
    with store.exclusive(), pytest.raises(Locked):
        plan.execute(store)
    assert [each.seq for each in store.manifests()] == [3, 2, 1]
    plan.execute(store)


# -- the policy -------------------------------------------------------------------------------------------------------

POLICY = Policy(events=100, seconds=60, bytes=1000, agents={"ledger": "critical", "parrot": "stateless"})


def tally(agent: str | None, events: int, length: int = 1) -> Tally:
    total = Tally()
    for _ in range(events):
        total.add(POLICY, agent, length)
    return total


def test_nothing_written_is_never_due():
    assert due(POLICY, Tally(), 10**9) is None


@pytest.mark.parametrize(
    ("agent", "not_yet", "enough"), [("ledger", 24, 25), ("writer", 99, 100), (None, 99, 100), ("parrot", 990, 1001)]
)
def test_what_a_critical_agent_writes_weighs_more(agent: str | None, not_yet: int, enough: int):
    assert due(POLICY, tally(agent, not_yet, 0), 1) is None
    assert due(POLICY, tally(agent, enough, 0), 1) == "events"


def test_bytes_and_seconds_are_weighted_too():
    assert due(POLICY, tally("writer", 1, 999), 1) is None
    assert due(POLICY, tally("ledger", 1, 250), 1) == "bytes"
    assert due(POLICY, tally("ledger", 1), 14.9) is None
    assert due(POLICY, tally("ledger", 1), 15.0) == "seconds"
    assert due(POLICY, tally("parrot", 1), 599) is None


@pytest.mark.parametrize("wrong", [{"keep_min": 1}, {"events": 0}, {"gap_ratio": 2.0}, {"agents": {"a": "vital"}}])
def test_a_policy_that_breaks_its_promises_is_refused(wrong: dict[str, object]):
    with pytest.raises(msgspec.ValidationError):
        msgspec.convert(wrong, Policy)
