"""The table of bad regions: each combination of facts has exactly one decision, and it is the designed one."""

from __future__ import annotations

from itertools import product

import pytest

from journal.regions import TABLE, Action, Verdict, decide

FACTS = [dict(zip(("followed", "covered", "incomplete", "one_bit"), facts, strict=True))
         for facts in product((False, True), repeat=4)]  # fmt: skip


def designed(facts: dict[str, bool]) -> tuple[Verdict, Action]:
    """The design's table, asked in its order, written once more."""
    if facts["followed"] or facts["covered"]:
        return Verdict.CORRUPTION, Action.REPAIR if facts["one_bit"] else Action.STOP
    if facts["incomplete"]:
        return Verdict.TORN_TAIL, Action.SET_ASIDE
    return Verdict.AMBIGUOUS, Action.REPAIR if facts["one_bit"] else Action.ASK


@pytest.mark.parametrize("facts", FACTS, ids=lambda facts: " ".join(name for name in facts if facts[name]) or "none")
def test_each_case_has_exactly_one_decision(facts: dict[str, bool]) -> None:
    acknowledged = facts["followed"] or facts["covered"]
    matching = [case for case in TABLE if case.holds(acknowledged, facts["incomplete"], facts["one_bit"])]
    assert len(matching) == 1
    assert decide(**facts) == designed(facts)


def test_no_line_of_the_table_is_dead() -> None:
    assert {decide(**facts) for facts in FACTS} == {case.decision for case in TABLE}


def test_what_was_acknowledged_is_never_set_aside_and_never_asked_about() -> None:
    for facts in FACTS:
        if facts["followed"] or facts["covered"]:
            assert decide(**facts).action in (Action.REPAIR, Action.STOP)
