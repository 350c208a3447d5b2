"""The drill: a rehearsal that must tell a state that can be recovered from one that cannot, and leave no trace."""

from __future__ import annotations

import json
import os
import signal
import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import pytest

from journal.errors import NoSpace
from journal.events import ConfigWritten, DrillCompleted, EntityCreated, Event, MessageRecorded, ObservationAdded
from journal.storage import RealStorage
from recovery import open_server_sync
from recovery.data import Data
from recovery.drill.rehearsal import drill
from tests.command import ENVIRONMENT, ROOT, journal
from tests.damage import tree


def events(count: int, first: int = 0) -> list[Event]:
    made: list[Event] = [EntityCreated("global", f"E{number}", "thing") for number in range(first, first + count)]
    made += [ObservationAdded("global", f"E{number}", f"fact {number}") for number in range(first, first + count)]
    return [*made, ConfigWritten(f"agent{first}", b"---\nname: a\n---\nbody\n")]


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A data directory with a checkpoint and events behind it."""
    assert journal("init", "--data", str(tmp_path / "data")).returncode == 0
    with open_server_sync(tmp_path / "data", background=False) as hook:
        hook.append_all(events(50))
        hook.checkpoint()
        hook.append_all(events(50, 50))
    (tmp_path / "scratch").mkdir()
    return tmp_path / "data"


def drilled(root: Path, *arguments: str) -> tuple[int, dict]:
    scratch = root.parent / "scratch"
    done = journal("drill", "--json", "--data", str(root), "--scratch", str(scratch), *arguments)
    assert os.listdir(scratch) == [], "it cleans up after itself"
    assert done.stdout, done.stderr
    return done.returncode, json.loads(done.stdout)


def last_drill(root: Path) -> dict | None:
    return json.loads(journal("status", "--json", "--data", str(root)).stdout)["drill"]


def test_a_sound_state_passes_and_the_result_is_journaled(root: Path) -> None:
    assert last_drill(root) is None
    code, result = drilled(root)
    assert (code, result["ok"], result["memory"]["verdict"], result["agents"]["verdict"]) == (0, True, "same", "same")
    assert [step["name"] for step in result["steps"]] == [
        "bring the journal", "recover memory and agents", "compare", "model",
    ]  # fmt: skip
    reader = Data.at(root).reader()
    record = reader.batch_of(result["journaled_seq"]).records()[0]
    assert record.event == DrillCompleted(result["seq"], True, result["seconds"], result["digest"])
    told = last_drill(root)
    assert told is not None
    assert (told["ok"], told["seq"], told["seconds"]) == (True, result["seq"], result["seconds"])
    assert "passed" in journal("status", "--data", str(root)).stdout
    lines = journal("drill", "--data", str(root)).stdout.splitlines()
    assert lines[-1].startswith(f"the state at seq {result['journaled_seq']} can be recovered, in ")


def test_nothing_that_is_live_is_changed(root: Path) -> None:
    before = tree(root)
    drill(Data.at(root), scratch=str(root.parent / "scratch"))
    assert tree(root) == before


def test_beside_a_writer_it_runs_without_the_lock_and_is_journaled_by_it(root: Path) -> None:
    """The writer goes on all the while, so that memory.db, the journal and the copy are at three different seqs."""
    source = """
import sys
from journal.events import MessageRecorded
from recovery import open_server_sync
with open_server_sync(sys.argv[1], background=False) as hook:
    number = 0
    while True:
        hook.append(MessageRecorded("c", "a", "user", "text", str(number)))
        number += 1
        if number == 20:
            print("writing", flush=True)
"""
    writer = subprocess.Popen(
        [sys.executable, "-c", source, str(root)], env=ENVIRONMENT, cwd=ROOT, stdout=subprocess.PIPE, text=True
    )
    try:
        assert writer.stdout is not None
        assert writer.stdout.readline() == "writing\n"
        code, result = drilled(root)
        assert writer.poll() is None, "it was not disturbed"
    finally:
        writer.kill()
        writer.wait()
    assert (code, result["ok"], result["memory"]["verdict"]) == (0, True, "same"), result
    assert result["not_journaled"] is None
    told = last_drill(root)
    assert told is not None


def test_a_live_memory_db_that_was_altered_is_told(root: Path) -> None:
    with closing(sqlite3.connect(root / "memory.db", isolation_level=None)) as connection:
        connection.execute("UPDATE observations SET content = 'another' WHERE id = (SELECT min(id) FROM observations)")
    done = journal("drill", "--json", "--data", str(root))
    result = json.loads(done.stdout)
    assert (done.returncode, result["ok"], result["memory"]["verdict"]) == (1, False, "different")
    told = last_drill(root)
    assert told is not None
    assert told["ok"] is False


def test_without_a_live_memory_db_recovery_is_rehearsed_all_the_same(root: Path) -> None:
    for path in root.glob("memory*"):
        path.unlink()
    result = drill(Data.at(root), scratch=str(root.parent / "scratch"))
    assert (result.ok, result.memory.verdict, result.agents.verdict) == (True, "not compared", "same")


def test_a_damaged_journal_fails_with_its_own_code_and_leaves_nothing(root: Path) -> None:
    segment = sorted((root / "journal" / "segments").iterdir())[1]
    data = bytearray(segment.read_bytes())
    data[len(data) // 3] ^= 0xFF
    data[len(data) // 3 + 1] ^= 0xFF
    segment.write_bytes(data)
    code, result = drilled(root)
    assert (code, result["error"]["code"]) == (12, "corrupt")


def test_a_backup_is_rehearsed_and_says_what_it_lacks(root: Path, tmp_path: Path) -> None:
    assert journal("backup", str(tmp_path / "backup"), "--data", str(root)).returncode == 0
    with open_server_sync(root, background=False) as hook:
        hook.append(MessageRecorded("c", "a", "user", "text", "1"))
        hook.append(MessageRecorded("c", "a", "user", "text", "2"))
    code, result = drilled(root, "--from", str(tmp_path / "backup"))
    assert (code, result["ok"], result["behind"], result["memory"]["verdict"]) == (0, True, 2, "same")
    segment = sorted((tmp_path / "backup" / "journal" / "segments").iterdir())[1]
    segment.write_bytes(segment.read_bytes()[:-4096] + bytes(4096))
    data = bytearray(segment.read_bytes())
    data[400] ^= 0xFF
    data[401] ^= 0xFF
    segment.write_bytes(data)
    code, result = drilled(root, "--from", str(tmp_path / "backup"))
    assert (code, result["error"]["code"]) == (12, "corrupt")
    code, result = drilled(root, "--from", str(tmp_path / "nowhere"))
    assert (code, "journal backup" in result["error"]["hint"]) == (10, True)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_interrupted_it_leaves_nothing(root: Path, number: signal.Signals) -> None:
    """In the midst of it, when the scratch directory is at its fullest."""
    source = f"""
import os, sys
from recovery.drill import rehearsal as drill
from recovery.cli import main
def interrupted(*arguments, **settings):
    os.kill(os.getpid(), {int(number)})
    raise AssertionError("the signal did not come")
drill.compare = interrupted
sys.argv[1:] = {["drill", "--data", str(root), "--scratch", str(root.parent / "scratch")]!r}
main()
"""
    done = subprocess.run([sys.executable, "-c", source], env=ENVIRONMENT, cwd=ROOT, capture_output=True, timeout=60)
    assert done.returncode == 130, done.stderr
    assert os.listdir(root.parent / "scratch") == []
    assert last_drill(root) is None


class FullDisk(RealStorage):
    def free_bytes(self, path: str) -> int:
        return 10_000


def test_a_disk_without_room_is_told_before_anything_is_copied(root: Path) -> None:
    data = Data(str(root), storage=FullDisk())
    with pytest.raises(NoSpace, match="a drill needs about"):
        drill(data, scratch=str(root.parent / "scratch"))
    assert os.listdir(root.parent / "scratch") == []


def test_a_scratch_directory_inside_the_live_data_is_refused(root: Path) -> None:
    for place in (root / "journal", root / "agents", root):
        done = journal("drill", "--data", str(root), "--scratch", str(place))
        assert (done.returncode, "the live data lies there" in done.stderr) == (2, True), done


def test_a_configuration_with_absolute_paths_is_not_followed_into_the_live_data(root: Path, tmp_path: Path) -> None:
    """Else the rehearsal would swap its own memory.db in for the live one."""
    (root / "journal.yaml").write_text(f"paths:\n  memory_db: {root}/memory.db\n  agents: {root}/agents\n")
    before = tree(root)
    assert drill(Data.at(root), scratch=str(tmp_path / "scratch")).ok
    assert tree(root) == before
