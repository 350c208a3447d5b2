"""A checkpoint in a process of its own: its result, its errors and its death all reach the parent as what they are."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from journal.errors import Corrupt, EnvironmentFault, Locked
from replay.layout import Layout
from replay.shadow import run_shadow
from tests.worlds import World, flip, world_in

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture
def world(tmp_path: Path) -> World:
    world = world_in(tmp_path, seed=2)
    world.grow(60)
    world.go_live()
    return world


def test_a_child_makes_and_verifies_the_checkpoint(world: World):
    seen: list[tuple[int, int]] = []
    made = run_shadow(world.layout, lambda done, total: seen.append((done, total)))
    assert (made.seq, made.digest, made.drift) == (60, world.digest_at(60), False)
    assert [manifest.state for manifest in world.checkpoints.manifests()] == ["verified"]
    assert seen[-1] == (60, 60)


_PRIORITY = """
import os
from replay.child import answer
try:
    os.sched_setscheduler(0, os.SCHED_RR, os.sched_param(1))
except PermissionError:
    raise SystemExit(77)
raise SystemExit(answer(lambda: [os.sched_getscheduler(0) == os.SCHED_OTHER, os.nice(0)], 3))
"""


@pytest.mark.skipif(not hasattr(os, "sched_setscheduler"), reason="no real-time priority here")
def test_the_child_of_a_real_time_server_is_not_real_time():
    """Scenario: a server under `chrt`, or a unit with CPUSchedulingPolicy=. What it starts would inherit that, and no
    niceness counts then: the kernel's own threads would wait for both, and every sync of the writers for them."""
    niceness = os.nice(0)
    ran = subprocess.run([sys.executable, "-c", _PRIORITY], capture_output=True, text=True, cwd=ROOT, check=False)
    if ran.returncode == 77:
        pytest.skip("real-time priority is not permitted")
    assert (ran.returncode, ran.stdout) == (0, f"[true,{min(niceness + 3, 19)}]\n"), ran.stderr


def test_it_does_not_matter_where_the_parent_stands(world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """A folder called `replay` or `journal` in the current directory is not the package."""
    for name in ("replay", "journal"):
        (tmp_path / "elsewhere" / name).mkdir(parents=True)
        (tmp_path / "elsewhere" / name / "__init__.py").write_text("raise SystemExit('the wrong package')")
    monkeypatch.chdir(tmp_path / "elsewhere")
    assert run_shadow(world.layout).seq == 60


def test_an_error_of_the_child_is_raised_as_what_it_is(world: World):
    damaged = max(world.reader().segments, key=lambda segment: os.path.getsize(segment.path)).path
    flip(damaged, 2000)
    with pytest.raises(Corrupt) as caught:
        run_shadow(world.layout)
    assert caught.value.path == damaged
    assert caught.value.offset is not None


def test_a_second_one_is_told_of_the_first(world: World):
    with world.checkpoints.exclusive(), pytest.raises(Locked) as caught:
        run_shadow(world.layout)
    assert caught.value.exit_code == 11


def test_a_directory_without_a_journal_is_named(tmp_path: Path):
    with pytest.raises(EnvironmentFault, match="no journal here") as caught:
        run_shadow(Layout.under(str(tmp_path / "empty")))
    assert caught.value.exit_code == 10


def test_a_killed_child_is_an_error_and_leaves_no_rung(world: World):
    """Stopped at its first line of progress, then killed: the events are being replayed."""
    stopped = threading.Event()

    def kill(_done: int, _total: int) -> None:
        if not stopped.is_set():
            stopped.set()
            for child in children_of(os.getpid()):
                os.kill(child, signal.SIGKILL)

    world.grow(20_000, together=500)
    with pytest.raises(EnvironmentFault, match="killed by signal 9"):
        run_shadow(world.layout, kill)
    assert [manifest.state for manifest in world.checkpoints.manifests()] in ([], ["written"])
    assert run_shadow(world.layout).seq == 60


def children_of(pid: int) -> list[int]:
    found = []
    for name in os.listdir("/proc"):
        try:
            stat = Path("/proc", name, "stat").read_text() if name.isdecimal() else ""
        except OSError:
            continue
        if stat and int(stat.rsplit(")", 1)[1].split()[1]) == pid:
            found.append(int(name))
    return found


OWN_EVENTS = """
from journal.events import Event, register

@register("example.note_taken")
class NoteTaken(Event, tag=900, tag_field="type"):
    text: str
"""

SERVER = """
import sys
from own_events import NoteTaken
from journal.record import Record, encode_record
from journal.log import Log
from journal.storage import RealStorage
from replay.layout import Layout
from replay.shadow import run_shadow

layout = Layout.under(sys.argv[1])
log = Log.open(RealStorage(), layout.journal)
log.append([encode_record(Record(0, 2_000_000_000_000_000_000, None, None, None, None, None, NoteTaken("hi")))], 1)
log.close()
import os; os.unlink(layout.memory_db)
print(run_shadow(layout).seq)
"""


def test_the_child_knows_the_event_types_of_the_program(world: World, tmp_path: Path):
    """Types are registered, not hard-wired: without the program's own module the child could not read its journal."""
    (tmp_path / "own_events.py").write_text(OWN_EVENTS)
    environment = {**os.environ, "PYTHONPATH": f"{tmp_path}{os.pathsep}{ROOT}"}
    command = [sys.executable, "-c", SERVER, world.layout.root]
    result = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert (result.stdout, result.returncode) == ("61\n", 0), result.stderr


def test_a_parent_that_dies_does_not_stop_the_child(world: World):
    """Its progress and its result have no reader any more; the checkpoint is made all the same."""
    code = "import sys; from replay.layout import Layout; from replay.shadow import run_shadow; import os, signal; " \
           "run_shadow(Layout.under(sys.argv[1]), lambda *_: os.kill(os.getpid(), signal.SIGKILL))"  # fmt: skip
    world.grow(20_000, together=500)
    os.unlink(world.layout.memory_db)
    parent = subprocess.run([sys.executable, "-c", code, world.layout.root], cwd=ROOT, check=False)
    assert parent.returncode == -signal.SIGKILL
    for _ in range(600):
        if [manifest.state for manifest in world.checkpoints.manifests()] == ["verified"]:
            break
        time.sleep(0.1)
    else:
        pytest.fail("no checkpoint appeared")
    assert world.checkpoints.manifests()[0].seq == 20_060
