"""Which events make state(seq), restores included. Pure: seqs in, ranges out.

A restore at seq R to an earlier seq K means state(R) = state(K); what follows builds on that. So the events of a state
are ranges of the log, ascending, with holes where a restore left a timeline. Nothing leaves the log: a hole is only
not on *this* state's way, and a later restore may go back into it.

A restore to its own seq, to a later one or below zero cannot be written; found in a log, it is no restore.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from typing import NamedTuple

from journal.retention import Branch


class Restore(NamedTuple):
    """The event at ``seq`` made state(``to_seq``) current again."""

    seq: int
    to_seq: int

    @property
    def jumps(self) -> bool:
        return 0 <= self.to_seq < self.seq


class Range(NamedTuple):
    """The events with ``after`` < seq <= ``last``."""

    after: int
    last: int


def lineage(restores: Sequence[tuple[int, int]], target: int) -> list[Range]:
    """The ranges, ascending, whose events make state(target); `restores` are ascending by seq."""
    return [each for each in _spans(restores, target) if each.after < each.last]


def lineage_from(restores: Sequence[tuple[int, int]], target: int, base: int) -> list[Range] | None:
    """The ranges that remain from state(base) to state(target); None if base is not on target's timeline.

    Between K and R of a restore nothing is, beyond R.
    """
    spans = _spans(restores, target)
    for index, span in enumerate(spans):
        if span.after <= base <= span.last:
            rest = [Range(base, span.last), *spans[index + 1 :]]
            return [each for each in rest if each.after < each.last]
    return None


def event_count(ranges: Sequence[Range]) -> int:
    return sum(each.last - each.after for each in ranges)


def branches(restores: Sequence[tuple[int, int]], head: int) -> list[Branch]:
    """The whole log up to `head` as straight stretches, ascending: from genesis, and from each restore."""
    jumps = [jump for jump in _jumps(restores) if jump.seq <= head]
    firsts = [0, *(jump.seq for jump in jumps)]
    parents: list[int | None] = [None, *(jump.to_seq for jump in jumps)]
    lasts = [*(jump.seq - 1 for jump in jumps), head]
    return [Branch(*each) for each in zip(firsts, lasts, parents, strict=True)]


def _jumps(restores: Sequence[tuple[int, int]]) -> list[Restore]:
    return [restore for restore in (Restore(*pair) for pair in restores) if restore.jumps]


def _spans(restores: Sequence[tuple[int, int]], target: int) -> list[Range]:
    """As `lineage`, but with the empty ranges: state(R) itself is a point on the way, though no event leads to it."""
    jumps = _jumps(restores)
    seqs = [jump.seq for jump in jumps]
    spans: list[Range] = []
    last = target
    while (index := bisect_right(seqs, last) - 1) >= 0:
        spans.append(Range(seqs[index], last))
        last = jumps[index].to_seq
    spans.append(Range(0, last))
    spans.reverse()
    return spans
