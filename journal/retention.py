"""When a checkpoint is due, and which ones may go. Pure: decides, and touches no file until a plan is executed.

A timeline is given as branches: stretches of seqs in one line. The first begins at genesis (seq 0), each further one
where a restore made an earlier state current again. What a restore means is not known here.

Thinning keeps every seq close to a checkpoint on its own timeline: within ``gap_events`` events, or ``gap_ratio`` of
its distance to the head where that is more. So the near past restores quickly and the far past costs little disk.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from typing import Annotated, Literal, NamedTuple

import msgspec

from journal.checkpoint import CheckpointStore, Manifest, Swept
from journal.errors import UsageError

Criticality = Literal["critical", "normal", "stateless"]
WEIGHTS: dict[Criticality, float] = {"critical": 4.0, "normal": 1.0, "stateless": 0.1}

Positive = Annotated[int, msgspec.Meta(ge=1)]


class Policy(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """When to make a checkpoint and how many to keep.

    ``events``, ``seconds`` and ``bytes`` are counted since the last one. What a ``critical`` agent writes weighs four
    times, what a ``stateless`` one writes a tenth. ``agents`` names them, or a pattern (``*``, ``?``, ``[...]``): an
    exact name comes first, then patterns in their order; the others are normal.
    """

    events: Positive = 50_000
    seconds: Positive = 3600
    bytes: Positive = 128 << 20
    keep_min: Annotated[int, msgspec.Meta(ge=2)] = 2
    gap_events: Positive = 100_000
    gap_ratio: Annotated[float, msgspec.Meta(ge=0.0, le=1.0)] = 0.1
    agents: dict[str, Criticality] = {}
    weights: dict[Criticality, float] = msgspec.field(default_factory=WEIGHTS.copy)

    def criticality(self, agent: str | None) -> Criticality:
        if agent is None or not self.agents:
            return "normal"
        if agent in self.agents:
            return self.agents[agent]
        return next((level for pattern, level in self.agents.items() if fnmatchcase(agent, pattern)), "normal")

    def weight(self, agent: str | None) -> float:
        return self.weights[self.criticality(agent)]


@dataclass(slots=True)
class Tally:
    """What was written since the last checkpoint, weighted by who wrote it."""

    events: float = 0.0
    bytes: float = 0.0
    heaviest: float = 0.0

    def add(self, policy: Policy, agent: str | None, length: int) -> None:
        weight = policy.weight(agent)
        self.events += weight
        self.bytes += weight * length
        self.heaviest = max(self.heaviest, weight)


def due(policy: Policy, tally: Tally, seconds: float) -> Literal["events", "seconds", "bytes"] | None:
    """Which limit calls for a checkpoint, or None. Nothing written: never; the clock runs as fast as the heaviest."""
    if tally.events >= policy.events:
        return "events"
    if tally.bytes >= policy.bytes:
        return "bytes"
    if tally.heaviest and seconds * tally.heaviest >= policy.seconds:
        return "seconds"
    return None


class Branch(NamedTuple):
    """Seqs first..last in one line; the state at ``first`` is the state at ``parent``. The root has neither."""

    first: int
    last: int
    parent: int | None


@dataclass(slots=True)
class PrunePlan:
    """What stays, what goes and why. It prints, and can be executed once."""

    keep: list[Manifest]
    drop: list[tuple[Manifest, str]]
    _used: bool = field(default=False, repr=False)

    def lines(self) -> list[str]:
        rows = [(manifest.seq, f"keep {manifest.seq} ({manifest.state})") for manifest in self.keep]
        rows += [(manifest.seq, f"drop {manifest.seq}: {reason}") for manifest, reason in self.drop]
        return [line for _, line in sorted(rows)]

    def to_json(self) -> dict[str, object]:
        return {
            "keep": [manifest.seq for manifest in self.keep],
            "drop": [{"seq": manifest.seq, "reason": reason} for manifest, reason in self.drop],
        }

    def foreseen(self, store: CheckpointStore) -> Swept:
        """What goes with the manifests, as the store is now; nothing where none goes."""
        found = store.sweepable({manifest.seq for manifest, _ in self.drop}) if self.drop else {}
        return Swept(len(found), sum(found.values()))

    def execute(self, store: CheckpointStore) -> Swept:
        """Removes the manifests, then the parts that only they listed. Raises Locked while one is being built."""
        if self._used:
            raise UsageError("a prune plan can be used once", hint="make a new plan")
        with store.exclusive():
            self._used = True
            there = {manifest.seq for manifest in store.manifests()}
            store.remove(manifest for manifest, _ in self.drop if manifest.seq in there)
            return store.sweep()


def plan_prune(
    manifests: Iterable[Manifest],
    head_seq: int,
    branches: Sequence[Branch],
    policy: Policy,
    refused: Mapping[int, str] | None = None,
) -> PrunePlan:
    """Thins, oldest first. A checkpoint goes only where every seq that it served stays within its bound.

    `refused` are seqs of those that nothing will ever be restored from, and why: they serve no seq, and go.
    """
    reasons = dict(refused or {})
    everything = sorted(manifests, key=lambda manifest: manifest.seq)
    verified = [each.seq for each in everything if each.state == "verified" and each.seq not in reasons]
    kept = set(verified)
    for seq in verified[: -policy.keep_min]:
        if _may_go(seq, kept, head_seq, branches, policy):
            kept.discard(seq)
            reasons[seq] = "every seq near it stays within reach of another checkpoint"
    for manifest in everything:
        if manifest.state != "verified" and verified and manifest.seq < verified[-1]:
            reasons[manifest.seq] = "never verified, and a newer one is"
    keep = [manifest for manifest in everything if manifest.seq not in reasons]
    drop = [(manifest, reasons[manifest.seq]) for manifest in everything if manifest.seq in reasons]
    return PrunePlan(keep, drop)


def _may_go(seq: int, kept: set[int], head_seq: int, branches: Sequence[Branch], policy: Policy) -> bool:
    now = replay_costs(kept, branches)
    for end, cost in replay_costs(kept - {seq}, branches).items():
        # Bounds that are broken already (checkpoints were made too rarely) must not get worse.
        if cost > max(policy.gap_events, policy.gap_ratio * (head_seq - end)) and cost > now[end]:
            return False
    return True


def replay_costs(bases: Iterable[int], branches: Sequence[Branch]) -> dict[int, int]:
    """The last seq before each base and of each branch → events to replay to it from its nearest base.

    Between two bases the cost rises with the seq while the bound falls, so these seqs are the worst; the bases of
    `branches` must be ascending. Genesis is always a base.
    """
    ordered = sorted(bases)
    firsts = [branch.first for branch in branches]
    at_first: list[int] = []  # what the state at each branch's first seq costs
    costs: dict[int, int] = {}

    def cost(seq: int) -> int:
        index = bisect_right(firsts, seq) - 1
        below = bisect_right(ordered, seq) - 1
        if below >= 0 and ordered[below] >= firsts[index]:
            return seq - ordered[below]
        return seq - firsts[index] + at_first[index]

    for branch in branches:
        at_first.append(0 if branch.parent is None else cost(branch.parent))
        inside = ordered[bisect_right(ordered, branch.first) : bisect_right(ordered, branch.last)]
        for end in (*(base - 1 for base in inside), branch.last):
            costs[end] = cost(end)
    return costs
