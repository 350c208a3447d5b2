"""The frame of the fault runs: what breaks is told with the seed that shows it again, and no check passes unrun."""

from __future__ import annotations

import json
import os
from collections import Counter
from pathlib import Path

import pytest

from tests.faults import __main__ as command
from tests.faults import record, registry
from tests.faults.frame import Broken, Check, Missing, Run


def holds(seed: int) -> Counter[str]:
    return Counter({"seeds": 1, "sum": seed})


def breaks_at_seven(seed: int) -> Counter[str]:
    assert seed != 7, "seq 3 is lost"
    return Counter({"seeds": 1})


def dies(seed: int) -> Counter[str]:
    os._exit(9)


def lacks(seed: int) -> Counter[str]:
    raise Missing("strace is not installed")


@pytest.mark.parametrize("workers", [1, 2])
def test_seeds_are_judged_once_each_and_summed(workers: int) -> None:
    assert Run("a.b", seed=3, count=4, workers=workers).seeds(holds) == {"seeds": 4, "sum": 3 + 4 + 5 + 6}


@pytest.mark.parametrize("workers", [1, 2])
def test_a_broken_promise_names_its_seed(workers: int) -> None:
    with pytest.raises(Broken, match="seq 3 is lost") as caught:
        Run("a.b", seed=5, count=10, workers=workers).seeds(breaks_at_seven)
    assert caught.value.replay == "python -m tests.faults a.b --seed 7 --count 1"


def test_a_worker_that_is_killed_does_not_pass_for_one_that_found_nothing() -> None:
    with pytest.raises(Broken, match="terminated abruptly"):
        Run("a.b", count=2, workers=2).seeds(dies)


@pytest.mark.parametrize("workers", [1, 2])
def test_when_time_is_up_no_new_seed_begins(workers: int) -> None:
    assert 1 <= Run("a.b", seconds=0.0001, workers=workers).seeds(holds)["seeds"] < 1000


# -- the command ------------------------------------------------------------------------------------------------------


@pytest.fixture
def rig(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """A rig of three checks in place of the real ones; results go to the file that is returned."""
    found = [
        Check("rig.holds", "It holds.", "by seeds", lambda run: run.seeds(holds), 0.001),
        Check("rig.breaks", "It holds, too.", "by seeds", lambda run: run.seeds(breaks_at_seven), 0.001),
        Check("rig.lacks", "As well.", "by strace", lambda run: run.seeds(lacks), 0.001),
        Check("rig.fails", "It has a bug.", "by luck", lambda run: Counter({"seeds": 1 // 0}), None),
        Check("rig.idle", "It does nothing.", "by sleeping", lambda run: Counter(), None),
    ]
    monkeypatch.setattr(registry, "import_module", lambda name: type("rig", (), {"CHECKS": tuple(found)}))
    monkeypatch.setattr(registry, "RIGS", ("rig",))
    monkeypatch.setattr(record.record, "__defaults__", (tmp_path / "results.json",))
    return tmp_path / "results.json"


def last_line(capsys: pytest.CaptureFixture[str]) -> dict[str, object]:
    found: dict[str, object] = json.loads(capsys.readouterr().out.splitlines()[-1])
    return found


def test_the_last_line_is_for_machines(rig: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert command.main(["rig.holds", "--seed", "2", "--count", "2", "--workers", "1"]) == 0
    told = last_line(capsys)
    assert told["ok"] is True
    (check,) = told["checks"]
    assert check["counts"] == {"seeds": 2, "sum": 5}
    assert check["command"] == "python -m tests.faults rig.holds --seed 2 --count 2"
    assert not rig.exists()


def test_a_broken_promise_exits_1_and_prints_the_replay(rig: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert command.main(["rig", "--seed", "0", "--count", "9", "--workers", "1", "--record"]) == 1
    said = capsys.readouterr().out
    assert "rig.breaks: to see it again: python -m tests.faults rig.breaks --seed 7 --count 1" in said
    assert "rig.lacks: SKIPPED: strace is not installed" in said
    assert json.loads(said.splitlines()[-1])["broken"] == ["rig.breaks", "rig.fails", "rig.idle"]
    kept = json.loads(rig.read_text())
    assert {name: result["outcome"] for name, result in kept.items()} == {
        "rig.holds": "held", "rig.breaks": "broken", "rig.fails": "broken", "rig.idle": "broken",
    }  # fmt: skip


def test_recording_one_check_keeps_the_others(rig: Path) -> None:
    rig.write_text('{"other.check": {"outcome": "held"}}')
    command.main(["rig.holds", "--count", "1", "--workers", "1", "--record"])
    assert set(json.loads(rig.read_text())) == {"other.check", "rig.holds"}


def test_an_unknown_check_is_a_usage_error(rig: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        command.main(["rig.hold"])
    assert caught.value.code == 2
    assert "no such check: rig.hold" in capsys.readouterr().err


# -- the real registry ------------------------------------------------------------------------------------------------


def test_every_check_has_a_name_of_its_own_under_its_rig() -> None:
    names = [check.name for check in registry.checks()]
    assert len(set(names)) == len(names)
    assert {name.split(".")[0] for name in names} == set(registry.RIGS)


def test_results_are_kept_of_checks_that_are_there() -> None:
    assert set(record.results()) <= {check.name for check in registry.checks()}
