"""Decisions → an ordered plan that prints as text or JSON. A dry run is: build it and stop.

Pure. The order is that of need: the journal is settled before anything is read from it, memory.db is rebuilt before
the agents that are materialised from it, and what is left behind is tidied last.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from typing import Literal

import msgspec

from recovery.rows import Decision

Kind = Literal[
    "bring_back", "repair_journal", "rebuild_memory", "rebuild_scope", "catch_up", "set_agents_aside", "rescue_agents",
    "restore_agents", "drop_vectors", "restore_model", "embed", "set_cores_aside", "tidy",
]  # fmt: skip


class Step(msgspec.Struct, frozen=True):
    """One thing to do: what, to which names, why, in words."""

    kind: Kind
    component: str
    reason: str
    words: str
    names: tuple[str, ...] = ()
    repair: bool = True  # False for what is only late: it is not journaled as a recovery
    mark: bool = False  # what is replaced is still a state of this journal, and is told that it was superseded
    severity: str = ""  # how bad it was found to be, and the rows that were not the journal's
    counts: dict[str, int] = {}


class Plan(msgspec.Struct, frozen=True):
    """What a recovery will do. ``stops`` are decisions that forbid it; then ``steps`` is empty. ``left`` is not as it
    should be, and nothing is done about it unless somebody asks for more."""

    recovery_id: str
    target: str
    steps: tuple[Step, ...] = ()
    stops: tuple[Decision, ...] = ()
    resumed: bool = False
    scope: str = ""  # the only one that is put right; empty for all
    left: tuple[Decision, ...] = ()

    @property
    def strategy(self) -> str:
        """As it is journaled."""
        return f"replay of scope {self.scope}" if self.scope else "replay"

    @property
    def is_repair(self) -> bool:
        """True if something was wrong. Catching up is no repair, and is not journaled as one."""
        return any(step.repair for step in self.steps)

    @property
    def swaps_memory(self) -> bool:
        """True if another file takes the place of memory.db."""
        return any(step.kind in ("rebuild_memory", "rebuild_scope") for step in self.steps)

    @property
    def repairs_log(self) -> bool:
        """True if the log's own files are put right before anything else; then a new plan is made."""
        return any(step.kind == "repair_journal" for step in self.steps)

    def lines(self) -> list[str]:
        """The plan as text, a line a step."""
        if self.stops:
            return [f"stop: {each.component}: {each.reason}" for each in self.stops]
        steps = [f"{number}. {step.words}: {step.reason}" for number, step in enumerate(self.steps, 1)]
        left = [f"left as it is: {each.component}: {each.reason} - {each.hint}" for each in self.left]
        return [*(steps or ["nothing to do"]), *left]


COMPONENTS = ("all", "memory", "agents", "model", "journal")

_STILL_A_STATE = ("altered", "restore_pending", "other_version")
_AGENT_WORDS = {
    "write": "write the journaled version",
    "remove": "remove the file of a removed agent",
    "set_aside": "move the file to quarantine",
    "set_aside_and_write": "move the file to quarantine and write the journaled version",
}


def make_plan(
    decisions: Sequence[Decision], *, target: str, recovery_id: str, names: Collection[str] = (), resumed: bool = False
) -> Plan:
    """The steps for `target` (all, memory, agents, model), limited to the agents in `names` where given."""
    stops = tuple(decision for decision in decisions if decision.action == "stop")
    if stops:
        return Plan(recovery_id, target, (), stops, resumed)
    steps = [step for decision in decisions for step in _steps(decision, target, names)]
    if target == "model" and any(step.kind in ("restore_model", "drop_vectors") for step in steps):
        words = "compute the vectors that are pending"
        steps.append(Step("embed", "vectors", "texts may wait for their vectors", words))
    steps.sort(key=lambda step: _ORDER.index(step.kind))
    left = (each for each in decisions if each.action == "keep" and each.health != "healthy")
    asked = tuple(each for each in left if _is_asked(each.component, target, names))
    return Plan(recovery_id, target, tuple(steps), (), resumed, left=asked)


def _is_asked(component: str, target: str, names: Collection[str]) -> bool:
    part, _, name = component.partition(" ")
    if part == "agent":
        return target in ("all", "agents") and (not names or name in names)
    return target == "all" or part == target


_ORDER: tuple[Kind, ...] = (
    "bring_back", "repair_journal", "rebuild_memory", "rebuild_scope", "catch_up", "set_agents_aside", "rescue_agents",
    "restore_agents", "drop_vectors", "restore_model", "embed", "set_cores_aside", "tidy",
)  # fmt: skip
_OF_THE_MODEL = ("model", "vectors", "recovery", "files")


def _steps(decision: Decision, target: str, names: Collection[str]) -> Iterator[Step]:
    """What one decision asks for. Agents are made from memory.db, so that comes with them."""
    part, _, name = decision.component.partition(" ")
    action, reason, repair = decision.action, decision.reason, decision.health != "healthy"
    if part == "journal" and action == "repair":
        yield Step("repair_journal", part, reason, "put the log right in new files, then look at all else")
    elif target == "model" and part not in _OF_THE_MODEL:
        return
    elif part == "memory" and action == "rebuild":
        words = "rebuild memory.db beside, verify it, swap the link"
        mark = decision.case in _STILL_A_STATE
        yield Step("rebuild_memory", part, reason, words, (), repair, mark, decision.severity, decision.counts)
    elif part == "scope" and action == "rebuild_scope":
        words = f"put scope {name} right in a copy, verify it, swap the link"
        yield Step("rebuild_scope", "memory", reason, words, (name,), repair, counts=decision.counts)
    elif part == "memory" and action == "catch_up":
        yield Step("catch_up", part, reason, "apply the rest of the journal", (), repair)
    elif decision.component == "core files" and action == "set_aside" and target == "all":
        yield Step("set_cores_aside", "core files", reason, "move the core files to quarantine")
    elif part == "recovery" and action == "finish":
        yield Step("tidy", part, reason, "finish the recovery that was cut")
    elif part == "files" and action == "tidy":
        yield Step("tidy", part, reason, "remove or set aside what was left behind", (), repair)
    elif part == "vectors" and action == "drop" and target in ("all", "model"):
        yield Step("drop_vectors", part, reason, "drop the bad vectors: their texts are pending again")
    elif part == "model" and action == "restore" and _may_restore(decision, target):
        words = "restore the model: what is good of it, a mirror, the hub; verify it, put it in place"
        yield Step("restore_model", part, reason, words)
    elif target in ("all", "agents") and part == "agents" and action == "set_aside":
        yield Step("set_agents_aside", part, reason, "move what has the directory's name to quarantine")
    elif target in ("all", "agents") and part == "agent" and action == "rescue" and (not names or name in names):
        words = f"agent {name}: journal another version, and write it"
        yield Step("rescue_agents", decision.component, reason, words, (name,), repair)
    elif target in ("all", "agents") and part == "agent" and action in _AGENT_WORDS and (not names or name in names):
        words = f"agent {name}: {_AGENT_WORDS[action]}"
        yield Step("restore_agents", decision.component, reason, words, (name,), repair)


def _may_restore(decision: Decision, target: str) -> bool:
    """A model that the journal never saw is fetched only for those who ask for it: nothing says what it must be."""
    return target == "model" or (target == "all" and decision.case != "unusable")
