"""`journal status`: where things stand, beside a live writer, after a kill, and where parts are missing or damaged."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from journal.events import EntityCreated, ObservationAdded
from journal.storage import RealFile
from recovery import open_server_sync
from recovery.setup import initialise
from tests.commands import ENVIRONMENT, SMALL, Command, process, small_history
from tests.journals import segment_files


@pytest.fixture
def journal(tmp_path, capsys):
    small_history(tmp_path / "data")
    return Command(tmp_path / "data", capsys)


def test_a_closed_journal(journal):
    found = journal.json("status")
    log, memory = found["journal"], found["memory"]
    assert len(log["journal_id"]) == 32
    assert (log["last_seq"], log["epoch"], log["closed"], log["writer"]) == (SMALL, 2, True, None)
    assert log["last_time"] == journal.json("show", "now")["time"]
    assert log["segments"] == 2
    assert log["bytes"] == sum(path.stat().st_size for path in segment_files(str(journal.data / "journal")))
    assert (memory["generation"], memory["position"], memory["position_is"], memory["lag"]) == (1, SMALL, "here", 0)
    assert memory["rows"] == {"entities": 2, "observations": 2, "relations": 1, "messages": 0, "agents": 1}
    assert found["agents"] == 1
    assert found["checkpoints"]["count"] == 0
    assert found["quarantine"] == {"files": 0, "bytes": 0}
    assert found["interrupted_recovery"] is None


def test_an_empty_journal(tmp_path, capsys):
    initialise(str(tmp_path / "data"))
    found = Command(tmp_path / "data", capsys).json("status")
    assert (found["journal"]["last_seq"], found["journal"]["last_time"]) == (0, None)
    assert (found["memory"]["position"], found["memory"]["lag"]) == (0, 0)
    assert Command(tmp_path / "data", capsys)("status").code == 0


def test_the_text_names_every_part(journal):
    out = journal("status").out
    for part in ("10 events", "2 segments", "closed", "none, epoch 2", "generation 1, at seq 10", "2 observations",
                 "2 pending", "none: a rebuild replays", "quarantine   empty"):  # fmt: skip
        assert part in out, out


@contextmanager
def writing(data: Path) -> Iterator[subprocess.Popen[str]]:
    """A server that appended one more event, and waits."""
    program = f"""
import sys
from journal.events import EntityCreated, ObservationAdded
from journal.storage import RealFile
from recovery import open_server_sync
with open_server_sync({str(data)!r}, background=False) as hook:
    hook.append(ObservationAdded("global", "Acme", "while it is open"))
    print("ready", flush=True)
    sys.stdin.read()
"""
    child = subprocess.Popen(
        [sys.executable, "-c", program], stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=ENVIRONMENT, text=True
    )
    try:
        assert child.stdout.readline() == "ready\n"
        yield child
    finally:
        child.kill()
        child.wait()
        child.stdin.close()
        child.stdout.close()


def test_beside_a_live_writer_it_names_the_writer_and_does_not_disturb_it(journal):
    with writing(journal.data) as child:
        found = journal.json("status")
        assert found["journal"]["writer"]["pid"] == child.pid
        assert (found["journal"]["epoch"], found["journal"]["closed"]) == (3, False)
        assert (found["journal"]["last_seq"], found["memory"]["position"]) == (SMALL + 1, SMALL + 1)
        assert f"process {child.pid}" in journal("status").out
        child.stdin.close()
        assert child.wait(30) == 0
    assert journal.json("status")["journal"]["writer"] is None


def test_after_a_kill_the_lock_file_names_nobody(journal):
    with writing(journal.data) as child:
        child.send_signal(signal.SIGKILL)
        child.wait()
        before = {path: path.lstat().st_mtime_ns for path in journal.data.rglob("*")}
        found = journal.json("status")
        assert {path: path.lstat().st_mtime_ns for path in journal.data.rglob("*")} == before
    assert (found["journal"]["writer"], found["journal"]["closed"]) == (None, False)
    assert found["memory"]["position"] == SMALL + 1  # it lies in the write-ahead log only
    assert "not closed by its last writer" in journal("status").out


def test_a_memory_db_that_lags(journal, tmp_path):
    """Scenario: a power cut took memory.db's last transactions; the journal has them."""
    old = tmp_path / "old"
    small_history(old)
    with open_server_sync(journal.data, background=False) as hook:
        hook.append_all([ObservationAdded("global", "Acme", f"more {number}") for number in range(3)])
    (journal.data / "memory-000001.db").write_bytes((old / "memory-000001.db").read_bytes())
    memory = journal.json("status")["memory"]
    assert (memory["position"], memory["position_is"], memory["lag"]) == (SMALL, "behind", 3)
    assert "3 events behind" in journal("status").out


@pytest.mark.parametrize(
    ("wreck", "problem"),
    [
        (lambda data: (data / "memory.db").unlink(), "missing"),
        (lambda data: (data / "memory-000001.db").unlink(), "its generation is missing"),
        (lambda data: (data / "memory-000001.db").write_bytes(b""), "cannot be read"),
        (lambda data: (data / "memory-000001.db").write_bytes(b"x" * 8192), "cannot be read"),
    ],
)
def test_a_wrecked_memory_db_is_said_and_the_rest_is_told(journal, wreck, problem):
    wreck(journal.data)
    found = journal.json("status")
    assert problem in found["memory"]["problem"]
    assert found["agents"] is None
    assert found["journal"]["last_seq"] == SMALL
    assert "journal recover memory" in journal("status").out


def test_a_memory_db_of_another_journal(journal, tmp_path):
    initialise(str(tmp_path / "other"))
    (journal.data / "memory-000001.db").write_bytes((tmp_path / "other" / "memory-000001.db").read_bytes())
    assert "belongs to journal" in journal.json("status")["memory"]["problem"]


def test_a_memory_db_beyond_the_journals_end_is_damage_of_the_journal(journal, tmp_path):
    """Scenario: somebody put an older copy of the journal back."""
    old = tmp_path / "old"
    small_history(old)
    with open_server_sync(journal.data, background=False) as hook:
        hook.append(ObservationAdded("global", "Acme", "more"))
    for segment in segment_files(str(journal.data / "journal")):
        segment.unlink()
    for segment in segment_files(str(old / "journal")):
        (journal.data / "journal" / "segments" / segment.name).write_bytes(segment.read_bytes())
    ran = journal("status", "--json")
    assert (ran.code, ran.json()["memory"]["position_is"]) == (14, "beyond")
    assert "seq 11 was durable" in ran.json()["journal"]["problem"]
    assert "BEYOND" in journal("status").out


def test_a_journal_that_cannot_be_read_has_its_exit_code(journal):
    segment = segment_files(str(journal.data / "journal"))[-1]
    data = segment.read_bytes()
    segment.write_bytes(data[: data.rindex(b"research") - 10])
    ran = journal("status", "--json")
    assert ran.code == 12
    found = ran.json()
    assert "event 10" in found["journal"]["problem"]
    assert found["memory"]["position"] == SMALL
    ran = journal("status")
    assert ran.code == 12
    assert "DAMAGE" in ran.out
    segment.write_bytes(b"\x89AJ" + data[3:200])
    assert journal("status").code == 12


def test_checkpoints_and_when_one_last_proved_restorable(journal):
    before = time.time_ns()
    with open_server_sync(journal.data, background=False) as hook:
        made = hook.checkpoint()
    found = journal.json("status")["checkpoints"]
    assert (found["count"], found["verified"], found["damaged"], found["newest_seq"]) == (1, 1, 0, made.seq)
    assert before <= found["proven_at"] <= time.time_ns()
    assert 0 <= found["proven_seconds_ago"] < 600
    assert "last proven restorable" in journal("status").out
    (manifest,) = (journal.data / "journal" / "checkpoints").glob("*.manifest")
    manifest.write_bytes(manifest.read_bytes()[:-1])
    assert journal.json("status")["checkpoints"]["damaged"] == 1


def test_without_a_checkpoint_the_last_segments_are_read_and_not_the_history(tmp_path, capsys, monkeypatch):
    """Scenario: a server without background work, and a million events; here as many segments of the least length."""
    data = tmp_path / "data"
    journal = Command(data, capsys)
    initialise(str(data))
    (data / "journal.yaml").write_text("segment_bytes_max: 65536\nembeddings: {model: models/none}\n")
    reads: list[int] = []
    read_at = RealFile.read_at

    def counted(file, offset, length):
        found = read_at(file, offset, length)
        reads.append(len(found))
        return found

    monkeypatch.setattr(RealFile, "read_at", counted)

    def grow(name: str, facts: int) -> int:
        with open_server_sync(data, background=False) as hook:
            hook.append(EntityCreated("global", name, "thing"))
            for number in range(facts):
                hook.append(ObservationAdded("global", name, f"{number} " + "x" * 4000))
        reads.clear()
        journal.json("status")
        return sum(reads)

    few, many = grow("few", 60), grow("many", 240)
    assert len(segment_files(str(data / "journal"))) > 16
    assert many < few + 65536, "the last segment: its end, where memory.db stands, and what it tells"
    assert many < 7 * 65536
    first, found = journal.json("show", "now"), journal.json("status")
    assert 1 < found["looked_from_seq"] <= first["seq"]
    assert found["drill"] is None
    told = journal("status").out
    assert f"none since seq {found['looked_from_seq']}; what was before, a checkpoint would tell" in told

    assert journal("drill", "--scratch", str(tmp_path)).code == 0
    drilled = journal.json("status")["drill"]
    assert drilled["ok"] is True, "the last segment tells of it"
    grow("more", 60)
    assert journal.json("status")["drill"] is None
    assert journal("checkpoint", "create").code == 0
    found = journal.json("status")
    assert (found["drill"], found["looked_from_seq"]) == (drilled, 1)


def test_the_size_of_the_quarantine(journal):
    place = journal.data / "journal" / "quarantine" / "x"
    place.mkdir(parents=True)
    (place / "file").write_bytes(b"x" * 1000)
    os.symlink("/nowhere", place / "link")
    assert journal.json("status")["quarantine"]["files"] == 2
    assert "2 files" in journal("status").out


def test_no_journal(tmp_path):
    ran = process(tmp_path, "status", "--json")
    assert ran.returncode == 10
    assert json.loads(ran.stdout)["error"]["code"] == "not_a_journal"
