"""The tables of decisions are total and pure: every combination of facts that can be written down has one answer."""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Iterator
from itertools import combinations, product
from typing import Any, get_args

import msgspec
import pytest

from recovery.decide import decide, decide_agent, decide_memory, exit_code
from recovery.facts import Facts, JournalFacts, MemoryFacts, Rescue, Strategy, Try
from recovery.placing import MemoryKind, PositionIs
from recovery.plan import Kind, make_plan
from recovery.rows import Action, Decision, first
from recovery.tables.agents import AGENT
from recovery.tables.directory import DIRECTORY
from recovery.tables.memory import MEMORY
from recovery.tables.rescue import RESCUE
from replay.agents import AgentFact, Condition, Detail, action_for
from replay.schema import PROJECTION_VERSION

POSITIONS = get_args(PositionIs)
DIGESTS = [(None, None), ("a", "a"), ("a", "b"), ("a", None), (None, "a")]


def memories() -> Iterator[MemoryFacts]:
    """The full product of what a diagnosis may say of memory.db."""
    for kind, readable, ours, integrity, version, position, (digest, expected) in product(
        get_args(MemoryKind), (False, True), (False, True), (None, "ok", "row 3 missing from index"),
        (None, PROJECTION_VERSION, PROJECTION_VERSION + 1), POSITIONS, DIGESTS,
    ):  # fmt: skip
        yield MemoryFacts(
            kind=kind, path="/data/memory-000001.db", readable=readable, ours=ours, projection_version=version,
            position=7, position_is=position, integrity=integrity, digest=digest, expected=expected,
        )  # fmt: skip


def cases_of(m: MemoryFacts) -> list[str]:
    """Every case whose whole condition holds, said without an order: each names what the ones before it need."""
    database = m.kind == "generation" and m.readable and m.ours
    sound = database and m.integrity in (None, "ok")
    current = sound and m.projection_version == PROJECTION_VERSION
    placed = current and m.position_is in ("here", "behind", "restore_pending")
    true = placed and m.digest == m.expected
    conditions = {
        "missing": m.kind in ("missing", "dangling"),
        "not_a_generation": m.kind in ("foreign_link", "file", "other"),
        "unreadable": m.kind == "generation" and not m.readable,
        "foreign": m.kind == "generation" and m.readable and not m.ours,
        "damaged": database and not sound,
        "other_version": sound and not current,
        "beyond": current and m.position_is == "beyond",
        "other_history": current and m.position_is == "other_history",
        "position_unknown": current and m.position_is == "unknown",
        "altered": placed and not true,
        "restore_pending": true and m.position_is == "restore_pending",
        "behind": true and m.position_is == "behind",
        "healthy": true and m.position_is == "here",
    }
    return [case for case, holds in conditions.items() if holds]


def test_every_memory_db_has_exactly_one_case() -> None:
    seen = set()
    for facts in memories():
        decision = decide_memory(facts)
        assert cases_of(facts) == [decision.case], facts
        assert decide_memory(facts) == decision
        seen.add(decision.case)
    assert seen == {row.case for row in MEMORY}, "a line that nothing reaches"


def test_memory_db_is_left_as_it_is_only_where_it_is_proven_and_here() -> None:
    for facts in memories():
        decision = decide_memory(facts)
        if decision.action == "none":
            assert facts.kind == "generation"
            assert facts.position_is == "here"
            assert facts.integrity in (None, "ok")
            assert facts.digest == facts.expected
        if decision.action == "catch_up":
            assert (facts.position_is, facts.ours) == ("behind", True)
        if decision.action == "stop":
            assert (decision.exit_code, facts.ours) == (14, True)


def agents() -> Iterator[AgentFact]:
    for condition, detail, kind, expected, complaint in product(
        get_args(Condition), get_args(Detail), ("file", "missing", "link"), (None, "ab" * 32), ("", "line 3: no")
    ):
        yield AgentFact("wri ter", condition, detail, kind=kind, expected=expected, complaint=complaint)


def test_every_agent_file_has_one_case_and_the_action_that_is_then_taken() -> None:
    """What is planned is what `bring_current` does with the same fact, for what a diagnosis can find."""
    seen = set()
    for fact in agents():
        decision = decide_agent(fact)
        seen.add(decision.case.partition("_" + fact.detail)[0] if fact.detail else decision.case)
        wanted = fact.expected is not None
        if fact.complaint and (wanted or fact.condition == "unjournaled") and fact.condition != "refused":
            assert (decision.case, decision.action) == (
                "broken" if fact.condition == "unjournaled" else "invalid", "keep",
            ), "nothing was found that could take its place"  # fmt: skip
            continue
        possible = wanted or fact.condition in ("ok", "stale", "drift", "unjournaled", "refused")
        if possible and not (fact.condition == "unjournaled" and wanted):
            done = {"keep": "keep", "refuse": "keep"}.get(action_for(fact, drift="set_aside"))
            assert decision.action == (done or action_for(fact, drift="set_aside")), fact
        if not wanted:
            assert decision.action not in ("write", "set_aside_and_write"), "there is nothing to write"
    assert seen >= {row.case for row in AGENT} - {"damaged"}


def rescues() -> Iterator[Rescue]:
    """Every subset of the strategies gives something good; those before the good one are passed over."""
    order = get_args(Strategy)
    for good in (None, *order):
        before = order[: order.index(good)] if good else order
        for missing in range(len(before) + 1):
            tries = [Try(each, "there", "it is bad") for each in before[missing:]]
            yield Rescue("a", "it is empty", (*tries, *([Try(good, "there")] if good else [])))


def test_a_config_that_is_not_valid_gets_exactly_one_that_is() -> None:
    """The line is the first strategy that gave something, and what was passed over is told with it."""
    fact = AgentFact("a", "ok", expected="ab" * 32, complaint="it is empty")
    seen = set()
    for rescue in rescues():
        row = first(RESCUE, rescue)
        seen.add(row.case)
        assert [each.case for each in RESCUE if each.holds(rescue)] == list(dict.fromkeys((row.case, "none")))
        assert row.case == (rescue.chosen.strategy if rescue.chosen else "none")
        decision = decide_agent(fact, rescue)
        assert decision.action == ("rescue" if rescue.chosen else "keep")
        assert all(each in decision.reason for each in rescue.passed_over)
        for target in ("all", "agents", "memory"):
            steps = make_plan([decision], target=target, recovery_id="x").steps
            assert [step.kind for step in steps] == (
                ["rescue_agents"] if rescue.chosen and target != "memory" else []
            )
    assert seen == {row.case for row in RESCUE}


def test_the_next_command_can_be_pasted() -> None:
    hints = {decide_agent(fact).hint for fact in agents()}
    assert "journal adopt agents 'wri ter', or journal recover agents" in hints
    assert not any("NAME" in hint for hint in hints)


OF_THE_MODEL = {"restore_model", "drop_vectors", "embed"}  # see test_recovery_decide_model.py
OF_A_CRASH = {"set_cores_aside"}  # see test_recovery_surroundings.py
JOURNALS = [
    JournalFacts(last_seq=7),
    JournalFacts(last_seq=7, torn_bytes=100, clean=False),
    *(JournalFacts(error="bad", error_code=code, exit_code=number)
      for code, number in (("corrupt", 12), ("ambiguous_tail", 13), ("unsupported", 15))),
    JournalFacts(error="bad", error_code="corrupt", exit_code=12, repairs=("bit 3 of byte 9 was flipped",)),
]  # fmt: skip
HEALTHY = MemoryFacts(
    kind="generation", readable=True, ours=True, projection_version=PROJECTION_VERSION, position=7,
    position_is="here", integrity="ok", digest="a", expected="a",
)  # fmt: skip
AROUND: dict[str, dict[str, Any]] = {
    "checkpoint": {"journal": {"damaged_checkpoints": ("manifest 5",)}},
    "watermark": {"journal": {"damaged_watermark": "sector 1"}},
    "agents": {"agents_kind": "file"},
    "recovery": {"interrupted": ""},
    "import": {"importing": True},
    "files": {"leftovers": ("/data/memory-000001.db.building",)},
}


def with_(facts: Facts, *names: str) -> Facts:
    for name in names:
        changes = dict(AROUND[name])
        if "journal" in changes:
            changes["journal"] = msgspec.structs.replace(facts.journal, **changes["journal"])
        facts = msgspec.structs.replace(facts, **changes)
    return facts


def everything() -> Iterator[tuple[Facts, set[str]]]:
    """All facts of the directory, with each journal and a memory.db of each case; and the names of what is odd."""
    one_of_each = {decide_memory(facts).case: facts for facts in memories()}
    few = [AgentFact("a", condition, expected="ab" * 32) for condition in get_args(Condition)]
    for journal, memory in product(JOURNALS, one_of_each.values()):
        for count in range(len(AROUND) + 1):
            for names in combinations(AROUND, count):
                facts = Facts(journal=journal, memory=memory, agents=(few[count % len(few)], few[-count % len(few)]))
                yield with_(facts, *names), set(names)


def test_all_facts_together_give_one_decision_a_component() -> None:
    assert {component for component, _ in DIRECTORY} == set(AROUND)
    for facts, odd in everything():
        decisions = decide(facts)
        components = [each.component for each in decisions]
        state = {"memory", "agent a"} if not facts.journal.error else set()
        assert set(components) == {"journal", *odd, *state}
        assert len(set(components) - {"agent a"}) == len([each for each in components if each != "agent a"])
        assert components[0] == "journal"
        for each in decisions:
            assert each.action in get_args(Action)
            assert (each.health == "healthy") == (each.exit_code == 0), each
            assert each.hint or each.health == "healthy", f"{each} does not say what to run next"
        assert decide(facts) == decisions


def test_a_plan_follows_from_any_decisions() -> None:
    kinds_seen: set[str] = set()
    for facts, odd in everything():
        decisions = decide(facts)
        plans = {target: make_plan(decisions, target=target, recovery_id="x") for target in ("all", "memory", "agents")}
        stopped = any(each.action == "stop" for each in decisions)
        for target, plan in plans.items():
            assert bool(plan.stops) == stopped
            assert not (stopped and plan.steps)
            kinds = [step.kind for step in plan.steps]
            assert "tidy" not in kinds[: len(kinds) - kinds.count("tidy")], "what is left behind is tidied last"
            assert not {"rebuild_memory", "catch_up"} & set(kinds[1:]), "memory.db comes first, and once"
            if target == "memory":
                assert not {"restore_agents", "set_agents_aside"} & set(kinds)
        if not stopped:
            needed = {each.component for each in decisions if each.action not in ("none", "keep")}
            assert {step.component for step in plans["all"].steps} == needed
            assert plans["all"].is_repair == (
                any(each.health != "healthy" and each.component in needed for each in decisions) or "recovery" in odd
            )
        kinds_seen |= {step.kind for step in plans["all"].steps}
    asked_alone = {"bring_back", "rescue_agents", "rebuild_scope"} | OF_THE_MODEL | OF_A_CRASH
    assert kinds_seen | asked_alone == set(get_args(Kind)), "a kind of step that no decision asks for"


def test_only_what_is_still_a_state_is_told_that_it_was_superseded() -> None:
    for facts in memories():
        decision = decide_memory(facts)
        for step in make_plan([decision], target="all", recovery_id="x").steps:
            if step.mark:
                assert facts.readable
                assert facts.ours
                assert facts.integrity in (None, "ok")


def test_deciding_and_planning_look_at_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    looked: list[object] = []
    found = [facts for facts, _ in everything()][::50]
    with monkeypatch.context() as patches:
        patches.setattr("builtins.open", lambda *given, **more: looked.append(given))
        patches.setattr(sqlite3, "connect", lambda *given, **more: looked.append(given))
        for name in ("open", "stat", "lstat", "listdir", "scandir", "readlink"):
            patches.setattr(os, name, lambda *given, **more: looked.append(given))
        for facts in found:
            make_plan(decide(facts), target="all", recovery_id="x").lines()
    assert looked == []


def test_the_exit_code_is_that_of_the_worst() -> None:
    codes = (0, 1, 3, 10, 12, 13, 14, 15)
    order = (15, 12, 13, 14, 10, 1, 3, 0)
    for count in range(1, 5):
        for some in combinations(codes, count):
            decisions = [Decision("c", "x", "none", "failed", "", exit_code=code) for code in some]
            assert exit_code(decisions) == min(some, key=order.index)
    assert exit_code([]) == 0
