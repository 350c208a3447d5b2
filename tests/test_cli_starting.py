"""What a verb imports before it answers: counted, since the time depends on the machine.

Scenario: a supervisor asks `journal status` every second, a shell completes with `journal --help` behind it. One import
that pulls in the rebuild or a tokenizer makes either of them three times as slow, and nobody sees
which commit it was.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.commands import ENVIRONMENT, small_history

SLOW = {
    "anyio", "asyncio", "email", "concurrent", "frontmatter", "http", "logging", "multiprocessing", "numpy",
    "opentelemetry", "rich", "secrets", "sentence_transformers", "sqlite_utils", "subprocess", "tempfile", "torch",
    "transformers", "watchfiles", "yaml", "zipfile",
}  # fmt: skip
"""None of them has anything to do with looking something up."""

BUILDING = {
    "journal.commit", "journal.log", "journal.opening", "journal.repair_segment", "replay.agents", "replay.bulk",
    "replay.core", "replay.digest", "replay.engine", "replay.hook", "replay.live", "replay.memory", "replay.validate",
    "recovery.decide", "recovery.diagnose", "recovery.execute", "recovery.looking", "recovery.plan", "recovery.server",
}  # fmt: skip
"""Writing, replaying, judging: a verb that only looks needs none of it."""

RESTORES = {"journal.retention", "replay.history", "replay.timeline"}
"""What a tag means: who asks for the newest few, or for a seq, names none."""


def loaded_by(directory: Path, *arguments: str) -> set[str]:
    listed = "import sys; from recovery.cli.app import run; run(sys.argv[1:]); print(*sys.modules, file=sys.stderr)"
    done = subprocess.run(
        [sys.executable, "-c", listed, "--data", str(directory), *arguments],
        capture_output=True, text=True, env=ENVIRONMENT, check=True, timeout=60,
    )  # fmt: skip
    assert done.stdout
    return set(done.stderr.split())


def ours(loaded: set[str]) -> set[str]:
    return {name for name in loaded if name.split(".")[0] in ("journal", "replay", "recovery")}


def test_help_imports_the_frame_alone(tmp_path):
    loaded = loaded_by(tmp_path, "--help")
    assert (SLOW | {"msgspec", "sqlite3"}) & loaded == set()
    assert len(ours(loaded)) <= 10, sorted(ours(loaded))


@pytest.mark.parametrize(
    "arguments", [("status",), ("status", "--json"), ("log", "-n", "20"), ("log", "--agent", "sales"), ("show", "1")]
)
def test_a_verb_that_looks_something_up_imports_nothing_that_builds(tmp_path, arguments):
    small_history(tmp_path / "data")
    loaded = loaded_by(tmp_path / "data", *arguments)
    assert (SLOW | BUILDING) & loaded == set()
    assert len(ours(loaded)) <= 64, sorted(ours(loaded))
    if "status" not in arguments:
        assert (RESTORES | {"pathlib"}) & loaded == set()
