"""Recovery, restore, init and adoption are killed with SIGKILL wherever they change something, and run again.

Whatever the moment: nothing that was acknowledged is lost, memory.db is never a mixture, and running it again ends in
the state that the reference projection gives the journal, with nothing left over. `tests.killing` has the judges. Here
only some of the changes have their turn; `python -m tests.killing recover` takes every single one, and minutes.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.command import ENVIRONMENT, ROOT


def kill(place: Path, *arguments: str) -> int:
    """How many kills there were; each was judged."""
    done = subprocess.run(
        [sys.executable, "-m", "tests.killing", *arguments],
        cwd=ROOT, env={**ENVIRONMENT, "TMPDIR": str(place)}, capture_output=True, text=True, timeout=600,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return int(done.stdout)


@pytest.mark.parametrize(
    ("scenario", "first", "step", "at_least"),
    [
        ("init", 1, 2, 12),
        ("adopt", 1, 3, 15),
        ("recover", 1, 5, 16),
        ("recover_after_a_kill", 2, 5, 16),
        ("open", 4, 5, 14),
        ("restore", 1, 3, 22),
    ],
)
def test_killed_before_a_change(tmp_path: Path, scenario: str, first: int, step: int, at_least: int) -> None:
    assert kill(tmp_path, scenario, str(first), str(step)) >= at_least


@pytest.mark.parametrize("scenario", ["adopt", "recover", "open", "restore", "restore_with_checkpoint"])
def test_killed_at_some_moment(tmp_path: Path, scenario: str) -> None:
    assert kill(tmp_path, scenario, "random", "1", "6") >= 3, "most ended before they were killed"
