"""The tables about the model and its vectors are total: every combination of facts has exactly one line."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import product
from typing import get_args

import pytest

from journal.storage import Kind
from recovery.decide import decide_model, decide_vectors
from recovery.facts import ModelFacts, VectorFacts, Works
from recovery.plan import make_plan
from recovery.tables.model import MODEL, VECTORS


def models() -> Iterator[ModelFacts]:
    names: tuple[tuple[str, ...], ...] = ((), ("config.json",))
    for kind, seq, missing, altered, extra, fault, works, hashed in product(
        get_args(Kind), (0, 7), names, names, names, ("", "config.json: not JSON"), get_args(Works), (False, True)
    ):
        yield ModelFacts(
            name="m", path="/data/models/m", kind=kind, journaled_seq=seq, missing=missing, altered=altered,
            extra=extra, fault=fault, works=works, hashed=hashed,
        )  # fmt: skip


def cases_of(m: ModelFacts) -> list[str]:
    """Every case whose whole condition holds, said without an order."""
    there, known = m.kind == "directory", m.journaled_seq > 0
    differs = bool(m.missing or m.altered or m.extra or m.fault)
    conditions = {
        "absent": m.kind == "missing" and not known,
        "missing": m.kind == "missing" and known,
        "not_a_directory": m.kind not in ("missing", "directory"),
        "damaged": there and known and differs,
        "failing": there and known and not differs and m.works == "no",
        "ok": there and known and not differs and m.works != "no",
        "unusable": there and not known and (bool(m.fault) or m.works == "no"),
        "unjournaled": there and not known and not m.fault and m.works != "no",
    }
    return [case for case, holds in conditions.items() if holds]


def test_every_model_has_exactly_one_case() -> None:
    seen = set()
    for facts in models():
        decision = decide_model(facts)
        assert cases_of(facts) == [decision.case], facts
        assert (decision.health == "healthy") == (decision.exit_code == 0)
        assert decision.health != "failed", "without a model writes go on"
        assert decision.hint or decision.health == "healthy"
        assert decision.reason
        seen.add(decision.case)
    assert seen == {row.case for row in MODEL}, "a line that nothing reaches"


def test_a_model_that_nobody_knows_is_fetched_only_for_who_asks_for_it() -> None:
    """`recover all` runs before every start of a server: it must not download what no hash can be held against."""
    for facts in models():
        decision = decide_model(facts)
        kinds = {
            target: [step.kind for step in make_plan([decision], target=target, recovery_id="x").steps]
            for target in ("all", "memory", "agents", "model")
        }
        assert kinds["memory"] == kinds["agents"] == []
        restores = decision.action == "restore"
        assert kinds["model"] == (["restore_model", "embed"] if restores else [])
        assert kinds["all"] == (["restore_model"] if restores and decision.case != "unusable" else [])


@pytest.mark.parametrize(("bad", "case", "steps"), [(0, "ok", []), (2, "bad", ["drop_vectors"])])
def test_bad_vectors_are_dropped(bad: int, case: str, steps: list[str]) -> None:
    decision = decide_vectors(VectorFacts(stored=5, bad=bad, reasons={"the checksum does not match": bad}))
    assert decision.case == case
    assert case in {row.case for row in VECTORS}
    assert [step.kind for step in make_plan([decision], target="all", recovery_id="x").steps] == steps
    embeds = ["embed"] if bad else []
    assert [step.kind for step in make_plan([decision], target="model", recovery_id="x").steps] == [*steps, *embeds]
