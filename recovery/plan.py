"""Decisions → an ordered plan that prints as text or JSON. A dry run is: build it and stop.

Pure. The order is that of need: the journal is settled before anything is read from it, memory.db is rebuilt before
the agents that are materialised from it.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Literal

import msgspec

from recovery.decide import Decision

Kind = Literal["rebuild_memory", "catch_up", "restore_agents"]


class Step(msgspec.Struct, frozen=True):
    """One thing to do: what, to which names, why, in words."""

    kind: Kind
    component: str
    reason: str
    words: str
    names: tuple[str, ...] = ()
    repair: bool = True  # False for what is only late: it is not journaled as a recovery


class Plan(msgspec.Struct, frozen=True):
    """What a recovery will do. ``stops`` are decisions that forbid it; then ``steps`` is empty."""

    recovery_id: str
    target: str
    steps: tuple[Step, ...] = ()
    stops: tuple[Decision, ...] = ()
    resumed: bool = False

    @property
    def is_repair(self) -> bool:
        """True if something was wrong. Catching up is no repair, and is not journaled as one."""
        return any(step.repair for step in self.steps)

    def lines(self) -> list[str]:
        """The plan as text, a line a step."""
        if self.stops:
            return [f"stop: {each.component}: {each.reason}" for each in self.stops]
        return [f"{number}. {step.words}: {step.reason}" for number, step in enumerate(self.steps, 1)] or [
            "nothing to do"
        ]


COMPONENTS = ("all", "memory", "agents", "journal")


def make_plan(
    decisions: Sequence[Decision], *, target: str, recovery_id: str, names: Collection[str] = (), resumed: bool = False
) -> Plan:
    """The steps for `target` (all, memory, agents), limited to the agents in `names` where given."""
    stops = tuple(decision for decision in decisions if decision.action == "stop")
    if stops:
        return Plan(recovery_id, target, (), stops, resumed)
    steps: list[Step] = []
    for decision in decisions:
        if decision.component == "memory" and target in ("all", "memory", "agents"):
            repair = decision.health != "healthy"
            if decision.action == "rebuild":
                words = "rebuild memory.db beside, verify it, swap the link"
                steps.append(Step("rebuild_memory", "memory", decision.reason, words, (), repair))
            elif decision.action == "catch_up":
                steps.append(Step("catch_up", "memory", decision.reason, "apply the rest of the journal", (), repair))
    if target in ("all", "agents"):
        steps += _agent_steps(decisions, names)
    return Plan(recovery_id, target, tuple(steps), (), resumed)


_WORDS = {
    "write": "write the journaled version",
    "remove": "remove the file of a removed agent",
    "set_aside": "move the file to quarantine",
    "set_aside_and_write": "move the file to quarantine and write the journaled version",
}


def _agent_steps(decisions: Sequence[Decision], names: Collection[str]) -> list[Step]:
    steps = []
    for decision in decisions:
        kind, _, name = decision.component.partition(" ")
        if kind == "agent" and decision.action in _WORDS and (not names or name in names):
            words = f"agent {name}: {_WORDS[decision.action]}"
            repair = decision.health != "healthy"
            steps.append(Step("restore_agents", decision.component, decision.reason, words, (name,), repair))
    return steps
