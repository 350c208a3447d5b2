"""Which events make state(seq): held against a reference that follows the definition one event at a time."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from replay.timeline import Range, branches, event_count, lineage, lineage_from

HEAD_MAX = 30


@st.composite
def histories(draw: st.DrawFn, valid: bool = True) -> tuple[list[tuple[int, int]], int]:
    """Restores (seq, to_seq) of a log with `head` events; invalid ones jump to themselves, ahead or below zero."""
    head = draw(st.integers(0, HEAD_MAX))
    seqs = sorted(draw(st.sets(st.integers(1, max(head, 1)), max_size=8)))
    low, high = (0, -1) if valid else (-2, 5)
    return [(seq, draw(st.integers(low, seq + high))) for seq in seqs if seq <= head], head


def naive(restores: list[tuple[int, int]], head: int) -> list[tuple[int, ...]]:
    """The events behind each state, by the definition: a restore takes over the list, anything else adds to it."""
    jumps = {seq: to for seq, to in restores if 0 <= to < seq}
    states: list[tuple[int, ...]] = [()]
    for seq in range(1, head + 1):
        states.append(states[jumps[seq]] if seq in jumps else (*states[-1], seq))
    return states


def events_of(ranges: list[Range]) -> tuple[int, ...]:
    return tuple(seq for each in ranges for seq in range(each.after + 1, each.last + 1))


@given(histories())
def test_lineage_is_what_the_definition_says(history: tuple[list[tuple[int, int]], int]):
    restores, head = history
    for target, events in enumerate(naive(restores, head)):
        assert events_of(lineage(restores, target)) == events


@given(histories(valid=False))
def test_restores_that_cannot_be_are_none(history: tuple[list[tuple[int, int]], int]):
    restores, head = history
    for target, events in enumerate(naive(restores, head)):
        assert events_of(lineage(restores, target)) == events


@given(histories())
def test_a_base_serves_exactly_the_states_that_build_on_it(history: tuple[list[tuple[int, int]], int]):
    """Base and rest give the target's events; a base on another timeline is refused, whatever it contains."""
    restores, head = history
    states = naive(restores, head)
    points = way_points(restores, head)
    for target in range(head + 1):
        for base in range(head + 1):
            rest = lineage_from(restores, target, base)
            assert (rest is not None) == (base in points[target])
            if rest is not None:
                assert states[base] + events_of(rest) == states[target]


def way_points(restores: list[tuple[int, int]], head: int) -> list[set[int]]:
    """The seqs whose states the target's timeline passes through, restores themselves among them."""
    jumps = dict(restores)
    points: list[set[int]] = [{0}]
    for seq in range(1, head + 1):
        points.append((points[jumps[seq]] if seq in jumps else points[-1]) | {seq})
    return points


@given(histories())
def test_branches_cover_the_log_once(history: tuple[list[tuple[int, int]], int]):
    restores, head = history
    found = branches(restores, head)
    assert [seq for branch in found for seq in range(branch.first, branch.last + 1)] == list(range(head + 1))
    assert [(branch.first, branch.parent) for branch in found] == [(0, None), *restores]


def test_a_restore_can_be_undone_by_another():
    restores = [(10, 4), (15, 9)]
    assert lineage(restores, 12) == [(0, 4), (10, 12)]
    assert lineage(restores, 16) == [(0, 9), (15, 16)]


def test_a_checkpoint_between_a_restore_and_its_aim_is_no_base_beyond_it():
    restores = [(10, 4)]
    assert [base for base in range(13) if lineage_from(restores, 12, base) is not None] == [0, 1, 2, 3, 4, 10, 11, 12]
    assert lineage_from(restores, 9, 7) is not None  # the timeline that was left can still be restored


def test_an_empty_state_has_no_events():
    assert lineage([], 0) == []
    assert lineage([(3, 0)], 3) == []
    assert event_count(lineage([(3, 0)], 5)) == 2
