"""Facts → decisions: pure, total tables. docs/recovery.md is made from them.

Of memory.db and of each agent file, the first line that holds decides, and the last one always does; the order is the
argument. What stops everything comes first, then what makes a file worthless as such, then what makes its content
wrong, and only then what is right but late. The lines about the directory as a whole are independent of each other.
"""

from __future__ import annotations

import shlex
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Generic, Literal, TypeVar

import msgspec

from recovery.facts import Facts, JournalFacts, MemoryFacts
from replay.agents import AgentFact
from replay.schema import PROJECTION_VERSION

Action = Literal[
    "none", "catch_up", "rebuild", "stop", "write", "remove", "set_aside", "set_aside_and_write", "keep", "tidy",
    "finish",
]  # fmt: skip
Health = Literal["healthy", "degraded", "failed"]
Fact = TypeVar("Fact")


class Decision(msgspec.Struct, frozen=True):
    """What to do about one component, and why. ``case`` is the table's line; ``exit_code`` is that of `check`."""

    component: str
    case: str
    action: Action
    health: Health
    reason: str
    hint: str = ""
    exit_code: int = 0


@dataclass(frozen=True, slots=True)
class Row(Generic[Fact]):
    """One line of a table: when it holds, in words and in code, and what follows. ``hint`` is what to run."""

    case: str
    when: str
    holds: Callable[[Fact], bool]
    action: Action
    health: Health
    exit_code: int
    reason: Callable[[Fact], str]
    hint: str = ""

    def decision(self, component: str, fact: Fact) -> Decision:
        return Decision(component, self.case, self.action, self.health, self.reason(fact), self.hint, self.exit_code)


_COMPARE = "compare with a backup; journal verify"
_MEMORY = "journal recover memory"
_AGENTS = "journal recover agents"

MEMORY: tuple[Row[MemoryFacts], ...] = (
    Row("missing", "the link, or the file that it names, is not there",
        lambda m: m.kind in ("missing", "dangling"), "rebuild", "failed", 1,
        lambda m: "memory.db is missing" if m.kind == "missing" else f"memory.db links to {m.path}, which is gone",
        _MEMORY),
    Row("not_a_generation", "something else has the name: a file, a directory, a link that leads elsewhere",
        lambda m: m.kind in ("foreign_link", "file", "other"), "rebuild", "failed", 1,
        lambda m: "memory.db is no link to a generation: " + (m.problem or "something else took its name"), _MEMORY),
    Row("unreadable", "SQLite cannot read it, or its tables are not ours",
        lambda m: not m.readable, "rebuild", "failed", 1,
        lambda m: f"memory.db cannot be read: {m.problem}", _MEMORY),
    Row("foreign", "it names another journal",
        lambda m: not m.ours, "rebuild", "failed", 1,
        lambda m: "memory.db belongs to another journal", _MEMORY),
    Row("damaged", "SQLite's integrity check fails",
        lambda m: m.integrity not in (None, "ok"), "rebuild", "failed", 1,
        lambda m: f"memory.db fails its integrity check: {m.integrity}", _MEMORY),
    Row("other_version", "another version of the projection made its rows",
        lambda m: m.projection_version != PROJECTION_VERSION, "rebuild", "healthy", 0,
        lambda m: f"memory.db has projection version {m.projection_version}, this program makes {PROJECTION_VERSION}"),
    Row("beyond", "its position lies behind the journal's end",
        lambda m: m.position_is == "beyond", "stop", "failed", 14,
        lambda m: f"memory.db is at seq {m.position}, beyond the journal's end: the journal lost events", _COMPARE),
    Row("other_history", "the journal has another chain at its position",
        lambda m: m.position_is == "other_history", "stop", "failed", 14,
        lambda m: f"memory.db at seq {m.position} was made by another history than the journal's", _COMPARE),
    Row("position_unknown", "its position is no seq",
        lambda m: m.position_is == "unknown", "rebuild", "failed", 1,
        lambda m: "memory.db does not say which seq it stands at", _MEMORY),
    Row("altered", "the digest of its rows is not the journal's at its position",
        lambda m: m.digest != m.expected, "rebuild", "failed", 1,
        lambda m: f"memory.db's rows are not those of the journal at seq {m.position}: they were changed behind it",
        _MEMORY),
    Row("restore_pending", "a restore was journaled after its position",
        lambda m: m.position_is == "restore_pending", "rebuild", "healthy", 0,
        lambda m: "a restore was journaled and waits for its application"),
    Row("behind", "it has not applied the last events",
        lambda m: m.position_is == "behind", "catch_up", "healthy", 0,
        lambda m: f"memory.db is {m.lag} events behind the journal"),
    Row("healthy", "none of these",
        lambda m: True, "none", "healthy", 0,
        lambda m: f"memory.db is at seq {m.position}" + ("" if m.digest is None else ", its digest is the journal's")),
)  # fmt: skip

AGENT: tuple[Row[AgentFact], ...] = (
    Row("refused", "its row cannot be made into a file: an unsafe name, or content with another sha256",
        lambda a: a.condition == "refused", "keep", "failed", 1,
        lambda a: "it is not made into a file" + _detail(a), _MEMORY),
    Row("unjournaled", "a file of no agent",
        lambda a: a.condition == "unjournaled", "none", "healthy", 0,
        lambda a: "the journal never saw this file", "journal adopt agents NAME"),
    Row("missing", "no file",
        lambda a: a.condition == "missing" and a.expected is not None, "write", "failed", 1,
        lambda a: "its file is missing", _AGENTS),
    Row("stale", "the bytes of an older journaled version",
        lambda a: a.condition == "stale" and a.expected is not None, "write", "healthy", 0,
        lambda a: "an older journaled version, renewed by the next open"),
    Row("removed", "the journaled bytes of an agent that was removed",
        lambda a: a.condition == "stale", "remove", "healthy", 0,
        lambda a: "the file of a removed agent, removed by the next open"),
    Row("damaged", "empty, NUL bytes, a link, a directory, a pipe, unreadable",
        lambda a: a.condition == "damaged" and a.expected is not None, "set_aside_and_write", "failed", 1,
        lambda a: "its file is damaged" + _detail(a), _AGENTS),
    Row("drift", "bytes that the journal never saw: a hand edit, broken YAML too",
        lambda a: a.condition == "drift" and a.expected is not None, "set_aside_and_write", "degraded", 3,
        lambda a: "it was edited by hand" + _detail(a), f"journal adopt agents NAME, or {_AGENTS}"),
    Row("drift_of_removed", "the same, where the agent was removed",
        lambda a: a.condition in ("drift", "damaged"), "set_aside", "degraded", 3,
        lambda a: "the agent was removed, and its file edited by hand" + _detail(a),
        f"journal adopt agents NAME, or {_AGENTS}"),
    Row("ok", "the journaled bytes", lambda a: True, "none", "healthy", 0, lambda a: "the journaled bytes"),
)  # fmt: skip

DIRECTORY: tuple[tuple[str, Row[Facts]], ...] = (
    ("checkpoint", Row("damaged", "a checkpoint's manifest cannot be read",
        lambda f: bool(f.journal.damaged_checkpoints), "none", "degraded", 3,
        lambda f: "; ".join(f.journal.damaged_checkpoints), "journal checkpoint create")),
    ("data", Row("read_only", "the data directory is not writable",
        lambda f: not f.writable, "none", "failed", 1,
        lambda f: "the data directory is not writable", "check the mount")),
    ("agents", Row("not_a_directory", "something else has the name of the agents directory",
        lambda f: f.agents_kind not in ("directory", "missing"), "set_aside", "failed", 1,
        lambda f: f"the agents directory is none, but a {f.agents_kind}", _AGENTS)),
    ("recovery", Row("interrupted", "recovery.json is there: a recovery was cut",
        lambda f: f.interrupted is not None, "finish", "healthy", 0,
        lambda f: "a recovery was cut", "journal recover all")),
    ("import", Row("unfinished", "import.json is there: an import runs or was cut, and no server opens before it ends",
        lambda f: f.importing, "none", "failed", 1,
        lambda f: "an import did not end: no server opens half a memory", "journal init --adopt")),
    ("files", Row("leftovers", "a half-built file, or an old generation that nobody holds any more",
        lambda f: bool(f.leftovers), "tidy", "healthy", 0,
        lambda f: f"left behind: {', '.join(path.rsplit('/', 1)[1] for path in f.leftovers)}")),
)  # fmt: skip


def _detail(fact: AgentFact) -> str:
    return f" ({fact.message or fact.detail})" if fact.detail else ""


def _first(table: Sequence[Row[Fact]], fact: Fact) -> Row[Fact]:
    return next(row for row in table if row.holds(fact))


def decide_memory(facts: MemoryFacts) -> Decision:
    return _first(MEMORY, facts).decision("memory", facts)


def decide_agent(fact: AgentFact) -> Decision:
    """What recovery does about one agent's file; a hand edit is health's concern only as long as nobody decided."""
    decision = _first(AGENT, fact).decision(f"agent {fact.name}", fact)
    case = f"damaged_{fact.detail}" if decision.case == "damaged" else decision.case
    return msgspec.structs.replace(decision, case=case, hint=decision.hint.replace("NAME", shlex.quote(fact.name)))


def decide_journal(facts: JournalFacts) -> Decision:
    """The log first: nothing is recovered from a journal that cannot be read."""
    if facts.error:
        hint = facts.error_hint or "journal verify"
        return Decision("journal", facts.error_code, "stop", "failed", facts.error, hint, facts.exit_code)
    tail = f", {facts.torn_bytes} torn bytes behind it" if facts.torn_bytes else ""
    return Decision("journal", "ok", "none", "healthy", f"readable to seq {facts.last_seq}{tail}")


def decide(facts: Facts) -> list[Decision]:
    """Every component's decision, the journal's first."""
    decisions = [decide_journal(facts.journal)]
    decisions += [row.decision(component, facts) for component, row in DIRECTORY if row.holds(facts)]
    if facts.journal.error:
        return decisions
    decisions.append(decide_memory(facts.memory))
    decisions += [decide_agent(fact) for fact in facts.agents]
    return decisions


def exit_code(decisions: list[Decision]) -> int:
    """Of `check`: a data error's own code, else 1 if something failed, 3 if something is degraded, 0."""
    codes = {decision.exit_code for decision in decisions}
    return next((code for code in (15, 12, 13, 14, 10) if code in codes), 1 if 1 in codes else 3 if 3 in codes else 0)
