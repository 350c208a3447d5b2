"""An export that is killed, stopped, doubled or held up, over a journal that changes under it, and one that follows.

Each is a process of its own beside a real receiver; whatever happens, nothing is lost, and the cursor tells the truth.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import threading
from pathlib import Path
from resource import RLIMIT_FSIZE, setrlimit

import pytest

from journal.events import ObservationAdded
from journal.packing import pack_segments
from journal.storage import RealStorage
from recovery import open_server_sync
from recovery.data import Data
from tests.commands import ENVIRONMENT, SMALL, Command, arguments, process
from tests.exporting import add, by_seq, following, grown
from tests.holders import serving
from tests.otlp import Told, http_receiver


def test_a_run_that_is_killed_in_the_middle_loses_nothing(data: Path, journal: Command) -> None:
    """Nothing in flight was remembered: the next run sends it again, and each event arrives, under one id."""
    last = grown(data)
    with http_receiver() as receiver:
        receiver.script = [Told(), Told(hold=threading.Event())]
        command = arguments(data, "trace", "export", "--endpoint", receiver.url)
        with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=ENVIRONMENT) as killed:
            receiver.wait_for(lambda it: len(it.asked) == 2)
            killed.kill()
        assert Data.at(data).reader().last_seq == last, "it had no time to move the cursor"
        assert journal.json("trace", "export", "--endpoint", receiver.url)["cursor"] == last
        found = by_seq(receiver)
        assert sorted(found) == list(range(1, last + 1))
        assert len({span.span_id for span in receiver.spans}) == last
        assert max(len(request.resource_spans[0].scope_spans[0].spans) for request in receiver.requests) <= 512


def test_ctrl_c_keeps_what_was_taken(data: Path, journal: Command) -> None:
    last = grown(data)
    with http_receiver() as receiver:
        held = threading.Event()
        receiver.script = [Told(), Told(), Told(hold=held)]
        command = arguments(data, "trace", "export", "--endpoint", receiver.url)
        settings = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True, "env": ENVIRONMENT}
        with subprocess.Popen(command, **settings) as cut:
            receiver.wait_for(lambda it: len(it.asked) == 3)
            cut.send_signal(signal.SIGINT)
            _, err = cut.communicate(timeout=60)
        held.set()
        assert (cut.returncode, len(err.splitlines())) == (130, 1), err
        told = journal.json("trace", "export", "--endpoint", receiver.url)
        assert 1 < told["from_seq"] <= 1025, "it goes on where the backend had everything"
        assert sorted(by_seq(receiver)) == list(range(1, last + 1))


def test_a_run_that_is_told_to_end_has_not_exported_all(data: Path, journal: Command) -> None:
    """SIGTERM in the middle: what it says, and its exit code, are those of a run that was cut."""
    grown(data)
    with http_receiver() as receiver:
        held = threading.Event()
        receiver.script = [Told(), Told(hold=held)]
        command = arguments(data, "trace", "export", "--endpoint", receiver.url)
        settings = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True, "env": ENVIRONMENT}
        with subprocess.Popen(command, **settings) as cut:
            receiver.wait_for(lambda it: len(it.asked) == 2)
            cut.terminate()
            out, _ = cut.communicate(timeout=60)
        held.set()
        assert (cut.returncode, out) == (130, "")


def test_a_cursor_that_cannot_be_moved_costs_another_export_and_no_more(data: Path, journal: Command) -> None:
    """No file may grow, as on a full disk: the backend has everything, and the run says what it could not remember."""
    with http_receiver() as receiver:
        words = ["trace", "export", "--json", "--endpoint", receiver.url]
        ran = process(data, *words, preexec_fn=lambda: setrlimit(RLIMIT_FSIZE, (1000, 1000)))
        assert ran.returncode == 0, ran.stderr
        assert (json.loads(ran.stdout)["spans"], json.loads(ran.stdout)["cursor"]) == (SMALL, None)
        assert "the cursor was not moved" in ran.stderr
        assert len(ran.stderr.splitlines()) == 1
        assert journal.json("trace", "export", "--endpoint", receiver.url)["cursor"] == SMALL
        assert len({span.span_id for span in receiver.spans}) == SMALL


def test_several_exports_at_once_each_remember(data: Path, journal: Command) -> None:
    """Each has the lock for a moment when it moves its cursor; one that meets another's waits."""
    with http_receiver() as receiver:
        held = threading.Event()
        receiver.script = [Told(hold=held) for _ in range(4)]
        settings = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True, "env": ENVIRONMENT}
        runs = [
            subprocess.Popen(
                arguments(data, "trace", "export", "--json", "--cursor", name, "--endpoint", receiver.url), **settings
            )
            for name in ("a", "b", "c", "d")
        ]
        receiver.wait_for(lambda it: len(it.asked) == 4)
        held.set()  # all of them go to their cursors now
        for run in runs:
            out, err = run.communicate(timeout=60)
            assert (run.returncode, err, json.loads(out)["cursor"]) == (0, "", SMALL)
    for name in ("a", "b", "c", "d"):
        told = journal.json("trace", "export", "--endpoint", "http://127.0.0.1:1", "--cursor", name)
        assert told["from_seq"] > SMALL


def test_segments_may_be_packed_under_an_export_that_waits(data: Path, journal: Command) -> None:
    """The backend holds it up at the first request; when it goes on, the segments that it reads are other files."""
    for part in range(4):
        add(data, *(f"part {part} {n}" for n in range(200)))
    last = Data.at(data).reader().last_seq
    with http_receiver() as receiver:
        held = threading.Event()
        receiver.script = [Told(hold=held)]
        settings = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True, "env": ENVIRONMENT}
        command = arguments(data, "trace", "export", "--json", "--timeout", "60", "--endpoint", receiver.url)
        with subprocess.Popen(command, **settings) as run:
            receiver.wait_for(lambda it: len(it.asked) == 1)
            packed = pack_segments(RealStorage(), str(data / "journal"), bytes_min=1, run_bytes=None)
            assert packed.segments > 2
            held.set()
            out, err = run.communicate(timeout=60)
        assert (run.returncode, err, json.loads(out)["spans"]) == (0, "", last)
        assert sorted(by_seq(receiver)) == list(range(1, last + 1))
        receiver.requests.clear()
        assert journal.json("trace", "export", "--endpoint", receiver.url, "--since", "1")["spans"] == last


def test_what_is_whole_before_damage_goes_out_and_the_damage_is_told(data: Path, journal: Command) -> None:
    last = grown(data)
    (data / "journal.yaml").write_text("parity:\n  share: 0\n")
    segment = max((data / "journal" / "segments").iterdir(), key=lambda path: path.stat().st_size)
    content = bytearray(segment.read_bytes())
    for offset in range(len(content) // 3, len(content) // 3 + 64):
        content[offset] ^= 0xFF
    segment.write_bytes(content)
    with http_receiver() as receiver:
        ran = journal("trace", "export", "--endpoint", receiver.url)
        assert ran.code == 12, ran
        assert SMALL < len(receiver.spans) < last
        assert sorted(by_seq(receiver)) == list(range(1, len(receiver.spans) + 1))


# -- followers --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 0)])
def test_a_follower_ships_what_a_live_server_writes_and_remembers_where_it_was(
    data: Path, journal: Command, number: int, code: int
) -> None:
    with http_receiver() as receiver, serving(data):
        with following(data, "--endpoint", receiver.url) as follower:
            receiver.wait_for(lambda it: len(it.spans) == SMALL)
            event = {"type": "memory.entity_created", "scope": "global", "name": "Zoe", "entity_type": "person"}
            line = json.dumps({"event": event})
            assert process(data, "append", input=line).returncode == 0
            assert follower.stdout is not None
            assert json.loads(follower.stdout.readline())["spans"] == SMALL + 1
            os.kill(follower.pid, number)
            _, err = follower.communicate(timeout=60)
        assert follower.returncode == code, err
        assert "Traceback" not in err
        told = journal.json("trace", "export", "--endpoint", receiver.url)
        assert told["from_seq"] == SMALL + 2, "the cursor went through the server that holds the lock"
        assert told["spans"] == 0


def test_a_follower_outlives_its_backend(data: Path) -> None:
    """The backend is away, comes, refuses, and takes what it gets in the end: everything arrives."""
    with http_receiver() as receiver:
        port = int(receiver.url.rpartition(":")[2])
    with following(data, "--endpoint", f"http://127.0.0.1:{port}") as follower:
        assert follower.stderr is not None
        assert "connection refused" in follower.stderr.readline()
        with http_receiver(port) as receiver:
            receiver.script = [Told(401), Told(400), Told(reject=1)]
            receiver.wait_for(lambda it: len(it.spans) == SMALL)
            add(data, "while it ships")
            receiver.wait_for(lambda it: len(it.spans) == SMALL + 1)
            follower.send_signal(signal.SIGTERM)
            follower.communicate(timeout=60)


def test_a_follower_ends_where_its_journal_is_succeeded_by_another(data: Path, journal: Command) -> None:
    """What the successor holds has other ids. Under those of its parent, two events would share one, and a cursor in
    the successor would count as sent what never was."""
    last = grown(data)
    (data / "journal.yaml").write_text("parity:\n  share: 0\n")
    with http_receiver() as receiver, following(data, "--endpoint", receiver.url) as follower:
        receiver.wait_for(lambda it: len(it.spans) == last)
        follower.send_signal(signal.SIGSTOP)  # else it may meet the damage itself, and end by that
        segment = max((data / "journal" / "segments").iterdir(), key=lambda path: path.stat().st_size)
        content = bytearray(segment.read_bytes())
        middle = len(content.rstrip(b"\0")) // 2
        content[middle : middle + 64] = bytes(each ^ 0xFF for each in content[middle : middle + 64])
        segment.write_bytes(content)
        assert process(data, "recover", "journal", "--accept-loss", "--yes").returncode == 0
        follower.send_signal(signal.SIGCONT)
        out, _ = follower.communicate(timeout=60)
        assert follower.returncode == 14
        assert json.loads(out.splitlines()[-1])["error"]["code"] == "diverged"
        assert len(receiver.spans) == last, "nothing of the successor under the parent's ids"
        told = journal.json("trace", "export", "--endpoint", receiver.url)
        assert told["from_seq"] == 1, "and nothing of it counts as sent"
        lost = [span for span in receiver.spans if span.name == "journal.event_lost"]
        assert lost
        assert len({span.span_id for span in receiver.spans}) == last + told["spans"]


def test_what_is_not_synced_is_not_told(data: Path, journal: Command, tmp_path: Path) -> None:
    """A batch that a dead writer left behind, vouched for by nobody: a power cut may take it, and give its seq away."""
    with open_server_sync(data, background=False, check="quick") as hook:
        hook.append(ObservationAdded("global", "Acme", "on its way"))
        copy = tmp_path / "copy"
        subprocess.run(["cp", "-a", str(data), str(copy)], check=True)
    for path in (*copy.glob("memory*"),):
        path.unlink()
    with http_receiver() as receiver:
        told = Command(copy, journal.capsys).json("trace", "export", "--endpoint", receiver.url)
        assert (told["unsettled"], sorted(by_seq(receiver))) == (1, list(range(1, SMALL + 1)))
        told = Command(copy, journal.capsys).json("trace", "export", "--endpoint", receiver.url)
        assert told["unsettled"] == 0
        assert SMALL + 1 in by_seq(receiver), "moving the cursor opened the journal, which settled it"
