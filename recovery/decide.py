"""Facts → decisions, by the tables in `recovery.tables`: pure and total.

Of memory.db and of each agent file, the first line that holds decides, and the last one always does. The lines about
the directory as a whole are independent of each other.
"""

from __future__ import annotations

import shlex
from collections.abc import Sequence

import msgspec

from recovery.facts import (
    CrashFacts,
    Facts,
    JournalFacts,
    MemoryFacts,
    ModelFacts,
    Rescue,
    RoomFacts,
    VectorFacts,
)
from recovery.rows import Decision, Health, first
from recovery.tables.agents import AGENT
from recovery.tables.directory import DIRECTORY
from recovery.tables.memory import MEMORY
from recovery.tables.model import MODEL, VECTORS
from recovery.tables.rescue import RESCUE
from recovery.tables.rto import RTO
from recovery.tables.severity import grade
from recovery.tables.surroundings import CORES, DATA, DISK, FILE_SYSTEM, OPEN_FILES, SERVER_LOG
from replay.agents import AgentFact
from replay.deviation import counts
from replay.deviation import words as deviation_words


def decide_memory(facts: MemoryFacts) -> Decision:
    """What to do about memory.db, and how bad its state is: the second never changes the first."""
    decision = first(MEMORY, facts).decision("memory", facts)
    found = grade(facts)
    reason = decision.reason
    if decision.health != "healthy" and decision.action == "rebuild" and found.severity != "unknown":
        rows = deviation_words(facts.tables or {})
        rows = rows or ("every row is the journal's" if found.case == "index_only" else "")
        reason += f" ({found.severity}: {rows})" if rows else f" ({found.severity})"
    return msgspec.structs.replace(
        decision, reason=reason, severity=found.severity, counts=counts(facts.tables or {})
    )


def decide_agent(fact: AgentFact, rescue: Rescue | None = None) -> Decision:
    """What recovery does about one agent's file; a hand edit is health's concern only as long as nobody decided.

    `rescue` says what can take the place of a config that is not valid.
    """
    decision = first(AGENT, fact).decision(f"agent {fact.name}", fact)
    if decision.action == "rescue":
        row = first(RESCUE, rescue or Rescue(fact.name, fact.complaint))
        reason = row.reason(rescue) if rescue is not None else "nothing can take its place"
        decision = msgspec.structs.replace(decision, action=row.action, reason=f"{decision.reason}; {reason}")
    case = f"damaged_{fact.detail}" if decision.case == "damaged" else decision.case
    name = shlex.quote(fact.name)
    plain = f"-- {name}" if fact.name.startswith("-") else name  # else the name is taken for an option
    hint = decision.hint.replace("--agent NAME", f"--agent {name}").replace("NAME", plain)
    return msgspec.structs.replace(decision, case=case, hint=hint)


def decide_model(facts: ModelFacts) -> Decision:
    return first(MODEL, facts).decision("model", facts)


def decide_vectors(facts: VectorFacts) -> Decision:
    return first(VECTORS, facts).decision("vectors", facts)


def decide_room(facts: RoomFacts) -> list[Decision]:
    """What the state has room for."""
    tables = {"data": DATA, "disk": DISK, "open files": OPEN_FILES}
    return [first(table, facts).decision(component, facts) for component, table in tables.items()]


def decide_crash(facts: CrashFacts) -> list[Decision]:
    """What a crash left. Of it only core files are moved; the rest is told."""
    tables = {"core files": CORES, "server log": SERVER_LOG, "file system": FILE_SYSTEM}
    return [first(table, facts).decision(component, facts) for component, table in tables.items()]


def decide_journal(facts: JournalFacts) -> Decision:
    """The log first: nothing is recovered from a journal that cannot be read."""
    if facts.error and facts.repairs:
        reason = f"{facts.error}; it can be put right: {'; '.join(facts.repairs)}"
        return Decision("journal", facts.error_code, "repair", "failed", reason, "journal recover all", facts.exit_code)
    if facts.error:
        hint = facts.error_hint or "journal verify"
        return Decision("journal", facts.error_code, "stop", "failed", facts.error, hint, facts.exit_code)
    tail = f", {facts.torn_bytes} torn bytes behind it" if facts.torn_bytes else ""
    open_by = f"open: {facts.writer} writes" if facts.writer else "not closed by its last writer"
    end = "closed" if facts.clean else open_by
    return Decision("journal", "ok", "none", "healthy", f"readable to seq {facts.last_seq}, {end}{tail}")


def decide(facts: Facts) -> list[Decision]:
    """Every component's decision, the journal's first."""
    decisions = [decide_journal(facts.journal)]
    decisions += decide_room(facts.room) if facts.room is not None else []
    decisions += decide_crash(facts.crash) if facts.crash is not None else []
    decisions += [row.decision(component, facts) for component, row in DIRECTORY if row.holds(facts)]
    if facts.journal.error:
        return decisions
    if facts.recovery is not None:
        decisions.append(first(RTO, facts.recovery).decision("recovery time", facts.recovery))
    decisions.append(decide_memory(facts.memory))
    rescues = {each.name: each for each in facts.rescues}
    decisions += [decide_agent(fact, rescues.get(fact.name)) for fact in facts.agents]
    decisions += [decide_model(facts.model)] if facts.model is not None else []
    decisions += [decide_vectors(facts.vectors)] if facts.vectors is not None else []
    return decisions


def exit_code(decisions: list[Decision]) -> int:
    """Of `check`: a data error's own code, else 1 if something failed, 3 if something is degraded, 0."""
    codes = {decision.exit_code for decision in decisions}
    return next((code for code in (15, 12, 13, 14, 10) if code in codes), 1 if 1 in codes else 3 if 3 in codes else 0)


def states_of(decisions: Sequence[Decision]) -> dict[str, Health]:
    """The state of each component: the worst that was found of it. Agents are one component."""
    order: tuple[Health, ...] = ("healthy", "degraded", "failed")
    states: dict[str, Health] = {}
    for each in decisions:
        name = "agents" if each.component.startswith("agent ") else each.component.replace(" ", "_")
        states[name] = max(states.get(name, "healthy"), each.health, key=order.index)
    return states
