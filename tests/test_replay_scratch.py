"""Directories of a replay beside: a process that is killed leaves one, and the next run takes it away."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from replay.scratch import scratch_directory
from tests.commands import ENVIRONMENT, ROOT, process, small_history

HOLD = """
import sys
from replay.scratch import scratch_directory
with scratch_directory("check") as scratch:
    open(f"{scratch}/state.db", "w").close()
    print(scratch, flush=True)
    sys.stdin.readline()
"""


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The system's temporary directory, as this process and its children see it."""
    made = tmp_path / "temporary"
    made.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(made))
    return made


def holder(place: Path) -> tuple[subprocess.Popen[str], str]:
    """A process at work in a directory."""
    child = subprocess.Popen(
        [sys.executable, "-c", HOLD], env={**ENVIRONMENT, "TMPDIR": str(place)}, cwd=ROOT, text=True,
        stdin=subprocess.PIPE, stdout=subprocess.PIPE,
    )  # fmt: skip
    assert child.stdout is not None
    return child, child.stdout.readline().strip()


def end(child: subprocess.Popen[str]) -> None:
    child.communicate("\n")


def test_it_is_gone_when_the_block_ends_in_an_error(place: Path) -> None:
    work = scratch_directory("check")
    scratch = work.__enter__()
    Path(scratch, "state.db").touch()
    assert os.stat(scratch).st_mode & 0o777 == 0o700
    assert not work.__exit__(KeyboardInterrupt, KeyboardInterrupt(), None)
    assert os.listdir(place) == []


def test_what_a_killed_process_left_goes_with_the_next_one_and_nothing_else_does(place: Path) -> None:
    """Beside it: a process that is at work, what another program made, and a link under such a name."""
    killed, abandoned = holder(place)
    working, held = holder(place)
    killed.send_signal(signal.SIGKILL)
    killed.communicate()
    others = {"agent-journal-notes", "journal-check-abcdefgh", "agent-journal-check-abcdefgh.d"}
    for name in others:
        (place / name).mkdir()
    target = place / "elsewhere"
    target.mkdir()
    (target / "kept").touch()
    (place / "agent-journal-check-lllllllk").symlink_to(target)
    assert os.path.isfile(f"{abandoned}/state.db")
    with scratch_directory("diff") as scratch:
        there = set(os.listdir(place))
        assert there == {*others, "elsewhere", "agent-journal-check-lllllllk", *map(os.path.basename, (held, scratch))}
    assert os.path.isfile(f"{held}/state.db")
    assert (target / "kept").exists()
    end(working)


def test_one_that_is_swept_before_it_is_locked_is_made_again(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Between making a directory and locking it another process may find it unlocked."""
    made, make = [], tempfile.mkdtemp

    def swept(**settings: str) -> str:
        path = make(**settings)
        made.append(path)
        if len(made) == 1:
            with scratch_directory("check"):
                assert not os.path.exists(path)
        return path

    monkeypatch.setattr(tempfile, "mkdtemp", swept)
    with scratch_directory("diff") as scratch:
        assert os.path.isdir(scratch)
        assert scratch != made[0]


def test_each_verb_that_replays_beside_leaves_nothing(tmp_path: Path) -> None:
    """And sweeps: a directory of a killed run lies there before each."""
    data, place = tmp_path / "data", tmp_path / "temporary"
    small_history(data)
    place.mkdir()
    left = place / "agent-journal-check-deadbeef"
    for words in (
        ("check",), ("verify", "--deep"), ("diff", "1", "now"), ("show", "--entity", "Acme"), ("drill",),
        ("report", "-o", str(tmp_path / "report.html")), ("agents", "show", "writer", "--at", "7"),
        ("replay", "--until", "3", "--dry-run"), ("check", "--scope", "global"), ("recover", "all", "--yes"),
    ):  # fmt: skip
        left.mkdir()
        done = process(data, *words, env={**ENVIRONMENT, "TMPDIR": str(place)})
        assert done.returncode == 0, (words, done)
        assert os.listdir(place) == [], words


def test_a_replay_that_is_killed_leaves_its_place_to_the_next(tmp_path: Path) -> None:
    """`replay -o` builds beside the directory that it writes, and renames: its leftovers lie there, not in /tmp."""
    data = tmp_path / "data"
    small_history(data)
    left = tmp_path / ".agent-journal-replay-deadbeef"
    left.mkdir()
    (left / "memory.db").touch()
    assert process(data, "replay", "--until", "3", "-o", str(tmp_path / "past")).returncode == 0
    assert sorted(os.listdir(tmp_path)) == ["data", "past"]
