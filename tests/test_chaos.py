"""Chaos: a hundred messages and a crash, kills while that is recovered, and one journal that went on in two places."""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import pytest

from journal.events import EntityCreated, ObservationAdded
from recovery import open_server_sync
from recovery.data import Data
from recovery.execute import recover
from tests.command import ENVIRONMENT, ROOT, journal
from tests.damage import tree
from tests.killing import KillingStorage, is_killed, start

COUNT = 100

WRITER = """
import os, signal, sys
from journal.events import MessageRecorded
from recovery import open_server_sync
with open_server_sync(sys.argv[1], background=False) as hook:
    for number in range(int(sys.argv[2])):
        receipt = hook.append(MessageRecorded("c", "test-agent", "user", f"text {number}", str(number)))
        print(receipt.seq, flush=True)
    os.kill(os.getpid(), signal.SIGKILL)
"""


def crashed(tmp_path: Path) -> tuple[Path, list[int]]:
    """A server that wrote a hundred messages and was killed; and the seqs that it had acknowledged."""
    root = tmp_path / "data"
    assert journal("init", "--data", str(root)).returncode == 0
    command = [sys.executable, "-c", WRITER, str(root), str(COUNT)]
    done = subprocess.run(command, env=ENVIRONMENT, cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert done.returncode == -signal.SIGKILL, done.stderr
    return root, [int(line) for line in done.stdout.split()]


def wreck(root: Path) -> None:
    """What a crash of the machine may do besides: memory.db's pages are overwritten, its write-ahead log is gone."""
    for path in root.glob("memory-*.db-*"):
        path.unlink()
    (database,) = root.glob("memory-*.db")
    pages = bytearray(database.read_bytes())
    for page in range(1, len(pages) // 4096):
        pages[page * 4096 : page * 4096 + 512] = random.Random(page).randbytes(512)
    database.write_bytes(pages)


def assert_consistent(root: Path, acknowledged: list[int]) -> None:
    assert len(acknowledged) == COUNT
    with closing(sqlite3.connect(root / "memory.db")) as connection:
        rows = connection.execute("SELECT id, message_id, content FROM messages ORDER BY id").fetchall()
    assert rows == [(seq, str(number), f"text {number}") for number, seq in enumerate(acknowledged)]
    assert journal("check", "--data", str(root)).returncode == 0
    assert journal("verify", "--deep", "--data", str(root)).returncode == 0


@pytest.mark.parametrize("also", [lambda root: None, wreck], ids=["killed", "killed and wrecked"])
def test_a_hundred_messages_survive_a_crash(tmp_path: Path, also) -> None:
    root, acknowledged = crashed(tmp_path)
    also(root)
    assert journal("recover", "all", "--yes", "--data", str(root)).returncode == 0
    assert_consistent(root, acknowledged)


def test_a_hundred_messages_survive_a_crash_and_kills_while_they_are_recovered(tmp_path: Path) -> None:
    """The recovery is killed again and again, each time a little later, until one run comes through."""
    root, acknowledged = crashed(tmp_path)
    wreck(root)
    kills, change = 0, 1
    while is_killed(start(lambda place: recover(Data.at(place), "all")[1](), root, KillingStorage(change))):
        kills, change = kills + 1, change + 4
    assert kills >= 5
    assert_consistent(root, acknowledged)


def write(root: Path, *texts: str) -> None:
    with open_server_sync(root, background=False) as hook:
        for text in texts:
            hook.append(ObservationAdded("global", "Acme", text))


def contents(root: Path) -> list[str]:
    with closing(sqlite3.connect(root / "memory.db")) as connection:
        return [text for (text,) in connection.execute("SELECT content FROM observations ORDER BY id")]


def test_two_copies_that_were_both_written_are_named_and_neither_wins(tmp_path: Path) -> None:
    """A directory is copied, as a failover does, and both sides take writes. No order of events fits both."""
    left, right = tmp_path / "left", tmp_path / "right"
    assert journal("init", "--data", str(left)).returncode == 0
    with open_server_sync(left, background=False) as hook:
        hook.append(EntityCreated("global", "Acme", "company"))
        fork = hook.append(ObservationAdded("global", "Acme", "known to both")).seq
    shutil.copytree(left, right, symlinks=True)
    write(left, "left one", "left two")
    write(right, "right one", "right two", "right three")
    before = tree(left), tree(right)
    answer = journal("verify", "--against", str(right), "--json", "--data", str(left))
    assert answer.returncode == 14, answer.stdout
    assert str(fork + 1) in answer.stdout
    other_way = journal("verify", "--against", str(left), "--data", str(right))
    assert other_way.returncode == 14
    assert (tree(left), tree(right)) == before, "naming it changes nothing"

    # A backup of the one does not take the other, and does not come back over it.
    backup = tmp_path / "backup"
    assert journal("backup", str(backup), "--data", str(left)).returncode == 0
    kept = tree(backup)
    assert journal("backup", str(backup), "--data", str(right)).returncode == 14
    assert journal("recover", "--from", str(backup), "--yes", "--data", str(right)).returncode in (2, 14)
    assert tree(backup) == kept

    # The state of the one beside the journal of the other: nothing is "recovered" by throwing one of them away.
    mixed = tmp_path / "mixed"
    shutil.copytree(left, mixed, symlinks=True)
    for path in mixed.glob("memory*"):
        path.unlink()
    for path in right.glob("memory*"):
        shutil.copy2(path, mixed / path.name, follow_symlinks=False)
    for verb in (("recover", "all", "--yes"), ("check",), ("append",)):
        assert journal(*verb, "--data", str(mixed), input="").returncode == 14, verb
    assert contents(left) == ["known to both", "left one", "left two"]
    assert contents(right) == ["known to both", "right one", "right two", "right three"]


def test_a_segment_of_the_other_copy_is_refused_and_named(tmp_path: Path) -> None:
    """Somebody merges the two directories with a file copy."""
    left, right = tmp_path / "left", tmp_path / "right"
    assert journal("init", "--data", str(left)).returncode == 0
    with open_server_sync(left, background=False) as hook:
        hook.append(EntityCreated("global", "Acme", "company"))
    shutil.copytree(left, right, symlinks=True)
    write(left, "left one")
    write(right, "right one", "right two")
    write(right, "right three")
    segments = Path("journal") / "segments"
    there = set(os.listdir(left / segments))
    for name in sorted(set(os.listdir(right / segments)) - there):
        shutil.copy2(right / segments / name, left / segments / name)
    before = tree(left)
    code = journal("recover", "all", "--yes", "--data", str(left)).returncode
    assert code in (12, 14)
    verified = journal("verify", "--json", "--data", str(left))
    assert verified.returncode in (12, 14)
    assert "segments/" in verified.stdout
    assert tree(left) == before


def test_the_same_message_sent_again_after_the_crash_is_taken_once(tmp_path: Path) -> None:
    """The client of a server that died does not know what arrived, and sends everything again."""
    root = tmp_path / "data"
    assert journal("init", "--data", str(root)).returncode == 0
    lines = [
        {"event": {"type": "conversation.message_recorded", "conversation_id": "c", "agent": "a", "role": "user",
                   "content": f"text {number}", "message_id": str(number)}, "op_id": f"send-{number}"}
        for number in range(COUNT)
    ]  # fmt: skip
    text = "".join(json.dumps(line) + "\n" for line in lines)
    half = "".join(json.dumps(line) + "\n" for line in lines[:57])
    assert journal("append", "--data", str(root), input=half).returncode == 0
    wreck(root)
    assert journal("recover", "all", "--yes", "--data", str(root)).returncode == 0
    again = journal("append", "--data", str(root), input=text)
    assert again.returncode == 0
    assert len(again.stdout.splitlines()) == COUNT
    with closing(sqlite3.connect(root / "memory.db")) as connection:
        assert connection.execute("SELECT count(*), count(DISTINCT message_id) FROM messages").fetchone() == (100, 100)
