"""A crash left something behind, or there is no room: said by `check`, moved aside where it is a core file."""

from __future__ import annotations

import os
import resource
import subprocess
import sys
from itertools import product
from pathlib import Path

import pytest
import yaml

from recovery import surroundings
from recovery.data import Data
from recovery.facts import CrashFacts, LogMatch, RoomFacts
from recovery.plan import make_plan
from recovery.rows import first
from recovery.surroundings import core_files, look_at_crash, look_at_room
from recovery.tables.surroundings import CORES, DATA, DISK, FILE_SYSTEM, OPEN_FILES, SERVER_LOG
from tests.commands import ENVIRONMENT, Command, arguments, small_history
from tests.loopdisk import missing, tmpfs


@pytest.fixture
def journal(tmp_path, capsys):
    small_history(tmp_path / "data")
    return Command(tmp_path / "data", capsys)


def components(journal: Command, *options: str) -> dict[str, dict[str, object]]:
    return {each["component"]: each for each in journal("check", "--quick", "--json", *options).json()["components"]}


def dump_core(directory: Path, name: str) -> Path:
    """What begins as a core file does, elf(5): what is one is told by its first bytes alone."""
    path = directory / name
    head = b"\x7fELF\x02\x01\x01" + bytes(9) + (4).to_bytes(2, "little") + (62).to_bytes(2, "little")
    path.write_bytes(head + bytes(1 << 16))
    return path


def test_a_healthy_directory_says_what_was_looked_at(journal):
    found = components(journal)
    assert {found[each]["case"] for each in ("data", "disk", "open files", "core files", "server log")} == {"ok"}
    assert journal("check").code == 0
    assert journal("check", "--json").json()["states"]["open_files"] == "healthy"
    assert "closed" in found["journal"]["reason"]


def test_core_files_go_to_quarantine_and_what_only_has_the_name_stays(journal):
    """Scenario: the server dumped core into its data directory; somebody keeps notes in a file called core.txt."""
    core = dump_core(journal.data, "core.4711")
    (journal.data / "core.txt").write_text("core ideas\n")
    (journal.data / "core").symlink_to("core.4711")
    ran = journal("check", "--json")
    assert ran.code == 3
    assert ran.json()["states"]["core_files"] == "degraded"
    assert core_files(Data.at(journal.data)) == [str(core)]
    body = core.read_bytes()
    told = journal("recover", "all", "--yes", "--json")
    assert told.code == 0, told
    assert not core.exists()
    (kept,) = [place for place in told.json()["result"]["quarantined"] if "core.4711" in place]
    assert (Path(kept) / "core.4711").read_bytes() == body
    assert (journal.data / "core.txt").exists()
    assert journal("check").code == 0
    assert "set_cores_aside" in journal("log", "--type", "recovery.step_completed", "--json").out


def test_the_end_of_the_log_is_scanned_and_no_more(journal):
    log = journal.data / "server.log"
    (journal.data / "journal.yaml").write_text(yaml.safe_dump({"crash": {"log": "server.log", "log_bytes": 2000}}))
    log.write_text("PANIC long ago\n" + "all is well\n" * 500 + "thread 'main' panicked at src/x.rs\n")
    facts = look_at_crash(Data.at(journal.data))
    assert [(each.count, each.last) for each in facts.matches] == [(1, "thread 'main' panicked at src/x.rs")]
    decision = components(journal)["server log"]
    assert decision["case"] == "crash_words"
    assert journal("check").code == 0, "what a log says is told, and is no damage"


def test_a_pipe_under_the_logs_name_hangs_nothing(journal):
    os.mkfifo(journal.data / "server.log")
    (journal.data / "journal.yaml").write_text(yaml.safe_dump({"crash": {"log": "server.log"}}))
    assert look_at_crash(Data.at(journal.data)).matches == ()


def test_too_few_open_files_are_said(journal):
    """A real limit, on a process of its own."""
    ran = subprocess.run(
        arguments(journal.data, "check", "--quick", "--json"), env=ENVIRONMENT, capture_output=True, text=True,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_NOFILE, (64, 64)), check=False,
    )  # fmt: skip
    assert ran.returncode == 3, ran.stderr
    assert "64 files may be open, 256 are needed" in ran.stdout


def test_what_a_server_and_its_recovery_need_fits_into_the_limit(tmp_path):
    """A server that appends, makes a checkpoint, is read and asked over its socket, under just that limit."""
    small_history(tmp_path / "data")
    program = f"""
import resource
resource.setrlimit(resource.RLIMIT_NOFILE, ({surroundings.OPEN_FILES_NEEDED},) * 2)
from journal.events import ObservationAdded
from recovery import open_reader, open_server_sync
from recovery.data import Data
from recovery.serving.health import SocketHealth
with open_server_sync({str(tmp_path / "data")!r}) as hook:
    hook.append(ObservationAdded("global", "Acme", "one more"))
    readers = [open_reader({str(tmp_path / "data" / "memory.db")!r}) for _ in range(16)]
    for reader in readers:
        with reader.__enter__().transaction() as db:
            db.execute("SELECT count(*) FROM entities").fetchone()
    hook.checkpoint()
    assert SocketHealth(Data.at({str(tmp_path / "data")!r})).ask()["status"] == "healthy"
"""
    ran = subprocess.run([sys.executable, "-c", program], env=ENVIRONMENT, capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stderr


@pytest.mark.skipif(missing("tmpfs") is not None, reason=str(missing("tmpfs")))
def test_a_read_only_remount_and_a_full_disk_are_told_and_nothing_is_repaired(tmp_path, capsys):
    """Scenario: the kernel found an error and remounted the file system read-only."""
    with tmpfs(tmp_path, "size=24m") as disk:
        small_history(disk / "data")
        journal = Command(disk / "data", capsys)
        (disk / "filler").write_bytes(bytes(12 << 20))
        found = components(journal)
        assert found["disk"]["case"] == "reserve"
        assert journal("check", "--quick").code == 3
        (disk / "filler").unlink()
        subprocess.run(["mount", "-o", "remount,ro", str(disk)], check=True)
        try:
            found = components(journal)
            assert found["file system"]["case"] == "read_only"
            assert str(disk) in str(found["file system"]["reason"])
            assert journal("check", "--quick").code == 1
        finally:
            subprocess.run(["mount", "-o", "remount,rw", str(disk)], check=True)
        assert components(journal)["file system"]["case"] == "ok"


def test_the_mount_that_holds_a_path_is_the_longest_and_last(tmp_path):
    table = tmp_path / "mounts"
    table.write_text(
        f"/dev/a / ext4 rw 0 0\n/dev/b {tmp_path} ext4 rw 0 0\n/dev/c {tmp_path}x ext4 ro 0 0\n"
        f"/dev/d {tmp_path} ext4 ro,relatime 0 0\n"
    )
    assert surroundings._mount_of(str(tmp_path / "x"), str(table)) == ("/dev/d", str(tmp_path), True)
    assert surroundings._mount_of(str(tmp_path), str(tmp_path / "none")) is None


def test_the_tables_are_total():
    rooms = [
        RoomFacts(writable=writable, free_bytes=free, reserve_bytes=50, rebuild_bytes=70, open_files=files,
                  open_files_needed=256)
        for writable, free, files in product((False, True), (10, 60, 100), (None, 64, 1024))
    ]  # fmt: skip
    crashes = [
        CrashFacts(cores=cores, matches=matches, mount="/", mounted_read_only=read_only, errors=errors)
        for cores, matches, read_only, errors in product(
            ((), ("/d/core",)), ((), (LogMatch("x", 1, "x"),)), (False, True), (None, 0, 3)
        )
    ]
    for table, facts in ((DATA, rooms), (DISK, rooms), (OPEN_FILES, rooms), (CORES, crashes), (SERVER_LOG, crashes),
                         (FILE_SYSTEM, crashes)):  # fmt: skip
        decisions = [first(table, each).decision("x", each) for each in facts]  # type: ignore[arg-type, var-annotated]
        assert {each.case for each in decisions} == {row.case for row in table}
        assert all(each.hint for each in decisions if each.health != "healthy")
        assert all((each.exit_code == 0) == (each.health == "healthy") for each in decisions)
    found = first(CORES, crashes[-1]).decision("core files", crashes[-1])
    assert [step.kind for step in make_plan([found], target="all", recovery_id="x").steps] == ["set_cores_aside"]
    assert not make_plan([found], target="memory", recovery_id="x").steps


def test_a_rebuild_is_estimated_as_it_is_checked(journal):
    room = look_at_room(Data.at(journal.data))
    segments = sum(path.stat().st_size for path in (journal.data / "journal" / "segments").iterdir())
    assert room.rebuild_bytes == 2 * segments
    assert room.free_bytes > room.rebuild_bytes
