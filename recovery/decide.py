"""Facts → decisions: a pure, total table. One line a case, asked from the top; the first that holds decides.

The order is the argument: what stops everything comes first, then what makes memory.db worthless as a file, then what
makes its content wrong, and only then what is right but late.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal, NamedTuple

import msgspec

from recovery.facts import Facts, JournalFacts, MemoryFacts
from replay.agents import AgentFact
from replay.schema import PROJECTION_VERSION

Action = Literal["none", "catch_up", "rebuild", "stop", "write", "remove", "set_aside", "set_aside_and_write", "keep"]
Health = Literal["healthy", "degraded", "failed"]


class Decision(msgspec.Struct, frozen=True):
    """What to do about one component, and why. ``case`` is the table's line; ``exit_code`` is that of `check`."""

    component: str
    case: str
    action: Action
    health: Health
    reason: str
    hint: str = ""
    exit_code: int = 0


class Row(NamedTuple):
    """One line of the table: when it holds, and what follows."""

    case: str
    holds: Callable[[MemoryFacts], bool]
    action: Action
    health: Health
    exit_code: int
    reason: Callable[[MemoryFacts], str]


_REBUILD = "journal recover memory"

MEMORY: tuple[Row, ...] = (
    Row("missing", lambda m: m.kind in ("missing", "dangling"), "rebuild", "failed", 1,
        lambda m: "memory.db is missing" if m.kind == "missing" else f"memory.db links to {m.path}, which is gone"),
    Row("not_a_generation", lambda m: m.kind in ("foreign_link", "file", "other"), "rebuild", "failed", 1,
        lambda m: "memory.db is no link to a generation: " + (m.problem or "something else took its name")),
    Row("unreadable", lambda m: not m.readable, "rebuild", "failed", 1,
        lambda m: f"memory.db cannot be read: {m.problem}"),
    Row("foreign", lambda m: not m.ours, "rebuild", "failed", 1,
        lambda m: "memory.db belongs to another journal"),
    Row("damaged", lambda m: m.integrity not in (None, "ok"), "rebuild", "failed", 1,
        lambda m: f"memory.db fails its integrity check: {m.integrity}"),
    Row("other_version", lambda m: m.projection_version != PROJECTION_VERSION, "rebuild", "healthy", 0,
        lambda m: f"memory.db has projection version {m.projection_version}, this program makes {PROJECTION_VERSION}"),
    Row("beyond", lambda m: m.position_is == "beyond", "stop", "failed", 14,
        lambda m: f"memory.db is at seq {m.position}, beyond the journal's end: the journal lost events"),
    Row("other_history", lambda m: m.position_is == "other_history", "stop", "failed", 14,
        lambda m: f"memory.db at seq {m.position} was made by another history than the journal's"),
    Row("position_unknown", lambda m: m.position_is == "unknown", "rebuild", "failed", 1,
        lambda m: "memory.db does not say which seq it stands at"),
    Row("altered", lambda m: m.digest != m.expected, "rebuild", "failed", 1,
        lambda m: f"memory.db's rows are not those of the journal at seq {m.position}: they were changed behind it"),
    Row("restore_pending", lambda m: m.position_is == "restore_pending", "rebuild", "healthy", 0,
        lambda m: "a restore was journaled and waits for its application"),
    Row("behind", lambda m: m.position_is == "behind", "catch_up", "healthy", 0,
        lambda m: f"memory.db is {m.lag} events behind the journal"),
    Row("healthy", lambda m: True, "none", "healthy", 0,
        lambda m: f"memory.db is at seq {m.position}" + ("" if m.digest is None else ", its digest is the journal's")),
)  # fmt: skip


def decide_memory(facts: MemoryFacts) -> Decision:
    """The first line of `MEMORY` that holds; the last one always does."""
    row = next(row for row in MEMORY if row.holds(facts))
    hint = {"rebuild": _REBUILD, "stop": "compare with a backup; journal verify", "catch_up": ""}.get(row.action, "")
    if row.health == "healthy":
        hint = ""
    return Decision("memory", row.case, row.action, row.health, row.reason(facts), hint, row.exit_code)


def decide_agent(fact: AgentFact) -> Decision:
    """What recovery does about one agent's file; a hand edit is health's concern only as long as nobody decided."""
    wanted = fact.expected is not None
    name, detail = fact.name, f" ({fact.message or fact.detail})" if fact.detail else ""
    component = f"agent {name}"
    match fact.condition:
        case "ok":
            return Decision(component, "ok", "none", "healthy", "the journaled bytes")
        case "unjournaled":
            hint = f"journal adopt agents {name}"
            return Decision(component, "unjournaled", "none", "healthy", "the journal never saw this file", hint)
        case "missing":
            return Decision(component, "missing", "write", "failed", "its file is missing", "journal recover agents", 1)
        case "stale":
            action: Action = "write" if wanted else "remove"
            reason = "an older journaled version, renewed by the next open"
            return Decision(component, "stale", action, "healthy", reason)
        case "damaged":
            return Decision(
                component, f"damaged_{fact.detail}", "set_aside_and_write", "failed", f"its file is damaged{detail}",
                "journal recover agents", 1,
            )  # fmt: skip
        case "refused":
            reason = f"it is not made into a file{detail}"
            return Decision(component, "refused", "keep", "failed", reason, "journal recover memory", 1)
        case "drift":
            return Decision(
                component, "drift", "set_aside_and_write" if wanted else "set_aside", "degraded",
                f"it was edited by hand{detail}",
                f"journal adopt agents {name}, or journal recover agents", 3,
            )  # fmt: skip


def decide_journal(facts: JournalFacts) -> list[Decision]:
    """The log first: nothing is recovered from a journal that cannot be read."""
    decisions = []
    if facts.error:
        decisions.append(
            Decision("journal", facts.error_code, "stop", "failed", facts.error, "journal verify", facts.exit_code)
        )
    else:
        tail = f", {facts.torn_bytes} torn bytes behind it" if facts.torn_bytes else ""
        decisions.append(Decision("journal", "ok", "none", "healthy", f"readable to seq {facts.last_seq}{tail}"))
    for problem in facts.damaged_checkpoints:
        decisions.append(
            Decision("checkpoint", "damaged", "none", "degraded", problem, "journal checkpoint create", 3)
        )
    return decisions


def decide(facts: Facts) -> list[Decision]:
    """Every component's decision, the journal's first."""
    decisions = decide_journal(facts.journal)
    if not facts.writable:
        decisions.append(
            Decision("data", "read_only", "none", "failed", "the data directory is not writable", "check the mount", 1)
        )
    if facts.journal.error:
        return decisions
    decisions.append(decide_memory(facts.memory))
    decisions += [decide_agent(fact) for fact in facts.agents]
    return decisions


def exit_code(decisions: list[Decision]) -> int:
    """Of `check`: a data error's own code, else 1 if something failed, 3 if something is degraded, 0."""
    codes = {decision.exit_code for decision in decisions}
    return next((code for code in (15, 12, 13, 14, 10) if code in codes), 1 if 1 in codes else 3 if 3 in codes else 0)
