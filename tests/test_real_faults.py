"""A real process, real files: it is killed before a system call, or one of its system calls fails.

Some of the faults, chosen by a seed; `python -m tests.realfaults kill SCENE` takes every call that changes something,
`fail SCENE` every errno of every call, and minutes. What must hold is in `tests.realjudge`; that each fault fired is
read from strace's log.
"""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.command import ENVIRONMENT, ROOT

SEED = "1"
SKIPPED = 77


def realfaults(place: Path, *arguments: str) -> str:
    done = subprocess.run(
        [sys.executable, "-m", "tests.realfaults", *arguments],
        cwd=ROOT, env={**ENVIRONMENT, "TMPDIR": str(place)}, capture_output=True, text=True, timeout=600,
    )  # fmt: skip
    if done.returncode == SKIPPED:
        pytest.skip(done.stderr.strip())
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def fired(told: str) -> int:
    found = re.search(r"(\d+) faults fired, 0 broken", told)
    assert found is not None, told
    return int(found[1])


@pytest.mark.parametrize(
    "scene",
    ["append_by_hook", "append_by_async_hook", "open_after_a_kill", "rotation", "fold", "checkpoint", "restore",
     "packing", "recover", "recover_beside_readers", "catch_up"],
)  # fmt: skip
def test_killed_before_a_system_call(tmp_path: Path, scene: str) -> None:
    assert fired(realfaults(tmp_path, "kill", scene, SEED, "6")) >= 5


@pytest.mark.parametrize(
    "scene", ["append_by_hook", "append_by_command", "rotation", "fold", "checkpoint", "restore", "backup", "recover"]
)
def test_a_system_call_fails(tmp_path: Path, scene: str) -> None:
    assert fired(realfaults(tmp_path, "fail", scene, SEED, "8")) >= 7
