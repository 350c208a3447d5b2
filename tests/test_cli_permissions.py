"""The directory is somebody else's, or cannot be written: that is told as what it is, and never as damage.

Root is held to no permissions, so a run as root goes without the capabilities that make it so.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.commands import ENVIRONMENT, arguments, small_history

HELD = ("setpriv", "--bounding-set=-dac_override,-dac_read_search")

pytestmark = pytest.mark.skipif(
    os.geteuid() == 0 and shutil.which("setpriv") is None, reason="root without setpriv is held to no permissions"
)


def run(data: Path, *words: str) -> subprocess.CompletedProcess[str]:
    command = [*(HELD if os.geteuid() == 0 else ()), *arguments(data, *words)]
    return subprocess.run(command, env=ENVIRONMENT, capture_output=True, text=True, timeout=120, check=False)


@pytest.fixture
def data(tmp_path: Path) -> Iterator[Path]:
    """Closed, with a checkpoint, and not to be written."""
    root = tmp_path / "data"
    small_history(root)
    assert run(root, "checkpoint", "create").returncode == 0
    paths = [path for path in (root, *root.rglob("*")) if not path.is_symlink()]
    for path in paths:
        path.chmod(path.stat().st_mode & ~0o222)
    yield root
    for path in paths:
        path.chmod(path.stat().st_mode | 0o200)


def test_a_checkpoint_that_cannot_be_written_down_is_not_damaged(data: Path) -> None:
    done = run(data, "checkpoint", "verify", "--json")
    assert (done.returncode, json.loads(done.stdout)["error"]["code"]) == (1, "read_only")
    assert "DAMAGED" not in run(data, "checkpoint", "verify").stdout


def test_a_rehearsal_that_cannot_be_journaled_is_told_all_the_same(data: Path) -> None:
    done = run(data, "drill", "--json")
    result = json.loads(done.stdout)
    assert (done.returncode, result["ok"], result["journaled_seq"]) == (0, True, None)
    assert result["not_journaled"] == "not journaled: not allowed: Permission denied"


@pytest.mark.parametrize(
    "words",
    [
        ("log",), ("show", "1"), ("status",), ("verify",), ("verify", "--deep"), ("head",), ("diff", "1", "now"),
        ("timeline",), ("agents", "list"), ("checkpoint", "list"), ("compact",), ("recover", "all", "--yes"),
        ("checkpoint", "prune", "--dry-run"), ("scrub",), ("replay", "--until", "3", "--dry-run"), ("export", "mcp"),
    ],
)  # fmt: skip
def test_what_only_reads_reads(data: Path, words: tuple[str, ...]) -> None:
    done = run(data, *words)
    assert done.returncode == 0, done


@pytest.mark.parametrize(
    "words", [("tag", "now"), ("checkpoint", "create"), ("agents", "resume", "writer"), ("watch", "--once")]
)
def test_what_writes_says_who_may(data: Path, words: tuple[str, ...]) -> None:
    done = run(data, *words)
    assert done.returncode == 1
    assert "not allowed: Permission denied" in done.stderr
    assert "check who owns it" in done.stderr


@pytest.mark.parametrize("named", ["", "journal.yaml", "journal", "journal/segments"])
def test_a_directory_that_may_not_be_read_is_no_damage(tmp_path: Path, named: str) -> None:
    """Of each verb that only reads: the exit code is that of the environment, and no event is called lost."""
    root = tmp_path / "data"
    small_history(root)
    (root / "journal.yaml").write_text("segment_bytes_max: 65536\n")
    closed = root / named
    mode = closed.stat().st_mode
    closed.chmod(0)
    try:
        for words in ("status", "log", "verify", "check", "compact"):
            done = run(root, *words.split(), "--json")
            error = json.loads(done.stdout.splitlines()[0]).get("error", {})
            assert (words, done.returncode, error.get("code")) == (words, 1, "read_only"), done
    finally:
        closed.chmod(mode)
