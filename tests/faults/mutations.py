"""Whether the rig would notice: each bug of `tests.mutations` in a copy of the tree, where its check must break."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections import Counter
from functools import cache
from pathlib import Path

from tests.faults.frame import Check, Missing, Run
from tests.mutations import MUTATIONS, ROOT, Mutation

FOLDERS = ("journal", "replay", "recovery", "tests", "docs")
NO_PROOF = ("SyntaxError", "ImportError", "ModuleNotFoundError", "is not defined", "not associated", "has no attribute")


def survive(run: Run) -> Counter[str]:
    """Every bug of the list, or with a count so many from the seed on."""
    chosen = MUTATIONS if run.count is None else [MUTATIONS[at % len(MUTATIONS)] for at in _turns(run)]
    run.seconds = None  # each has its turn
    return run.each(
        noticed, chosen, lambda one: f"python -m tests.faults mutations --seed {MUTATIONS.index(one)} --count 1"
    )


def _turns(run: Run) -> range:
    assert run.count is not None
    return range(run.seed, run.seed + run.count)


def noticed(mutation: Mutation) -> Counter[str]:
    """Raises AssertionError where the bug goes unnoticed."""
    with tempfile.TemporaryDirectory(prefix="journal-mutation-") as place:
        if mutation.by.startswith("tests/"):
            return _fails(Path(place), mutation)
        said = judged(Path(place), mutation)
    message = said["checks"][0].get("message", "")
    if said["ok"]:
        raise AssertionError(f"{mutation.name}: {mutation.count} seeds of {mutation.by} do not notice it")
    if not message or any(each in message for each in NO_PROOF):
        raise AssertionError(f"{mutation.name}: not a broken promise, but {message or 'nothing'}")
    return Counter({"bugs noticed": 1})


def _fails(place: Path, mutation: Mutation) -> Counter[str]:
    """As `noticed`, where it is a test that must fail: by an assertion or a declared error, not for want of a name."""
    _passes_without(mutation.by)
    _copy(place, mutation)
    done = _tested(place, mutation.by)
    if done.returncode == 0:
        raise AssertionError(f"{mutation.name}: {mutation.by} does not notice it")
    if done.returncode != 1 or any(each in done.stdout for each in NO_PROOF):
        raise AssertionError(f"{mutation.name}: not a broken promise, but {done.stdout[-500:]}{done.stderr[-500:]}")
    return Counter({"bugs noticed": 1})


@cache
def _passes_without(by: str) -> None:
    """Else its failure would prove nothing. Raises Missing where this machine lacks what the test needs."""
    with tempfile.TemporaryDirectory(prefix="journal-mutation-") as place:
        _copy(Path(place), None)
        done = _tested(Path(place), by)
    if done.returncode != 0:
        raise AssertionError(f"{by} fails without any bug: {done.stdout[-500:]}{done.stderr[-500:]}")
    if "passed" not in done.stdout:
        raise Missing(f"{by} is skipped on this machine: {done.stdout[-200:]}")


def _tested(place: Path, by: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", by]
    return subprocess.run(command, cwd=place, env=_environment(place), capture_output=True, text=True, check=False)


def _copy(place: Path, mutation: Mutation | None) -> None:
    for folder in FOLDERS:
        shutil.copytree(
            ROOT / folder, place / folder, ignore=shutil.ignore_patterns("__pycache__", "golden", "fixtures")
        )
    if mutation is not None:
        (place / mutation.path).write_text(mutation.source())


def _environment(place: Path) -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": str(place), "PYTHONDONTWRITEBYTECODE": "1"}


def judged(place: Path, mutation: Mutation | None, by: str = "", count: int = 0) -> dict:  # type: ignore[type-arg]
    """What the check says of a copy of the tree with this bug; without one, of the tree as it is."""
    _copy(place, mutation)
    if mutation is not None:
        by, count = mutation.by, mutation.count
    command = [sys.executable, "-m", "tests.faults", by, "--seed", "0", "--count", str(count), "--workers", "1"]
    done = subprocess.run(command, cwd=place, env=_environment(place), capture_output=True, text=True, check=False)
    try:
        return json.loads(done.stdout.splitlines()[-1])  # type: ignore[no-any-return]
    except (IndexError, json.JSONDecodeError):
        raise AssertionError(f"the check did not end: {done.stdout[-500:]}{done.stderr[-500:]}") from None


CHECKS = (
    Check(
        "mutations",
        f"The rig itself is not blind: of {len(MUTATIONS)} seeded durability bugs (a sync, a check or an order left "
        "out, an epoch used twice, a failed sync tried again, …) it notices every one.",
        "each bug is made in a copy of the tree, by an exact edit that must fit, and the check that should notice it "
        "must call a promise broken there",
        survive,
        None,
    ),
)
