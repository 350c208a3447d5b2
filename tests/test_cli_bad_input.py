"""Wrong input, a hostile machine: one line with what, where and what to do next; the right exit code; nothing lost."""

from __future__ import annotations

import contextlib
import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from zlib import crc32

import pytest

from journal.holder import Holder
from journal.log import Log
from journal.reader import LogReader
from journal.storage import RealStorage
from recovery import open_server_sync
from recovery.setup import initialise
from tests.command import ENVIRONMENT, journal

ACME = {"event": {"type": "memory.entity_created", "scope": "global", "name": "Acme", "entity_type": "company"}}


@pytest.fixture
def data(tmp_path: Path) -> Path:
    initialise(tmp_path / "data")
    return tmp_path / "data"


def last_seq(data: Path) -> int:
    return LogReader(RealStorage(), str(data / "journal")).last_seq


def observation(content: str = "x", **fields: object) -> dict[str, object]:
    event = {"type": "memory.observation_added", "scope": "global", "entity": "Acme", "content": content}
    return {"event": {**event, **fields}}


def append(data: Path, *lines: object) -> tuple[int, list[dict]]:  # type: ignore[type-arg]
    text = "".join((line if isinstance(line, str) else json.dumps(line)) + "\n" for line in lines)
    done = journal("append", "--data", str(data), input=text)
    assert "Traceback" not in done.stderr
    return done.returncode, [json.loads(line) for line in done.stdout.splitlines()]


REFUSED = {
    "unknown type": ({"event": {"type": "memory.dreamt"}}, "unknown_type", "memory.dreamt"),
    "wrong field type": (observation(content=7), "invalid", "content"),
    "missing field": ({"event": {"type": "memory.entity_created", "scope": "global"}}, "invalid", "name"),
    "unknown field": (observation(colour="red"), "invalid", "colour"),
    "over-long name": ({"event": {**ACME["event"], "name": "x" * 513}}, "too_large", "512"),
    "over-long content": (observation("x" * ((256 << 10) + 1)), "too_large", "content"),
    "NUL in a name": ({"event": {**ACME["event"], "name": "a\0b"}}, "unsafe_name", "name"),
    "a path as agent name": (
        {"event": {"type": "agent.config_written", "name": "../../etc/passwd", "content": "x"}}, "unsafe_name", "path"),
    "a missing reference": (observation(entity="Nobody"), "not_found", "Nobody"),
    "created twice": (ACME, "already_exists", "Acme"),
    "no such scope": (observation(scope="everywhere"), "invalid", "everywhere"),
    "a number that is none": ('{"event": {"type": "memory.entity_created", "scope": "global", "name": "n", '
                              '"entity_type": "t", "confidence": 1e999}}', "invalid", ""),
    "metadata nested too deeply": (
        observation(metadata={"a": json.loads("[" * 40 + "]" * 40)}), "too_large", "metadata"),
    "a restore by append": ({"event": {"type": "state.restored", "to_seq": 0}}, "reserved_type", "state.restored"),
    "a wrong sha256": (
        {"event": {"type": "agent.config_written", "name": "w", "content": "x", "sha256": "0" * 64}}, "invalid",
        "sha256"),
    "a bad traceparent": ({**observation(), "traceparent": "00-1-2-3"}, "invalid", "traceparent"),
    "no JSON": ("{", "invalid", "JSON"),
    "no object": ("[]", "invalid", "object"),
    "an unknown key": ({**observation(), "extra": 1}, "invalid", "extra"),
    "an empty group": ({"events": []}, "invalid", "events"),
    "a deep line": ("[" * 100_000, "invalid", ""),
    "not UTF-8": ('{"event": "\udcff"}', "invalid", ""),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSED)
def test_a_refused_line_is_answered_in_its_place_and_the_others_go_on(data: Path, case: str) -> None:
    line, code, named = REFUSED[case]
    text = line if isinstance(line, str) else json.dumps(line)
    stdin = "\n".join([json.dumps(ACME), text, json.dumps(observation("after")), ""]).encode(errors="surrogateescape")
    done = journal("append", "--data", str(data), input=stdin, text=False)
    assert done.returncode == 3, done.stderr
    assert b"Traceback" not in done.stderr
    first, refused, after = [json.loads(each) for each in done.stdout.splitlines()]
    assert (first["seq"], after["seq"]) == (1, 2)
    error = refused["error"]
    assert (error["code"], error["line"]) == (code, 2)
    assert named in error["message"]
    assert "\n" not in error["message"]
    assert last_seq(data) == 2


def test_a_group_with_one_bad_event_leaves_nothing(data: Path) -> None:
    group = {"events": [ACME["event"], observation(entity="Nobody")["event"]]}
    code, answers = append(data, group)
    assert (code, answers[0]["error"]["code"]) == (3, "not_found")
    assert last_seq(data) == 0


def one_line(done: subprocess.CompletedProcess[str], code: int, *named: str) -> None:
    assert done.returncode == code, done.stdout + done.stderr
    assert done.stdout == ""
    assert len(done.stderr.splitlines()) == 1, done.stderr
    assert done.stderr.startswith("journal: ")
    for each in named:
        assert each in done.stderr


@pytest.mark.parametrize(
    ("until", "named"),
    [
        ("2026-05-01T12:00:00", ("2026-05-01T12:00:00Z", "zone")),
        ("tag:nowhere", ("nowhere",)),
        ("999", ("999",)),
        ("seq:-1", ()),
        ("yesterday-ish", ()),
        ("2026-13-01T00:00:00Z", ()),
        ("5 fortnights ago", ()),
        ("", ()),
    ],
)
def test_a_moment_that_is_none_is_usage(data: Path, until: str, named: tuple[str, ...]) -> None:
    one_line(journal("replay", "--until", until, "-o", str(data.parent / "out"), "--data", str(data)), 2, *named)
    assert not (data.parent / "out").exists()


@pytest.mark.parametrize("name", ["", "tag:good", "new\nline", "x" * 513])
def test_a_name_that_no_tag_can_have_is_usage(data: Path, name: str) -> None:
    one_line(journal("tag", name, "--data", str(data)), 2)
    assert last_seq(data) == 0


@pytest.mark.parametrize("place", ["file", "file/below", ""])
@pytest.mark.parametrize("verb", ["init", "status"])
def test_a_file_in_the_place_of_the_data_directory(tmp_path: Path, place: str, verb: str) -> None:
    (tmp_path / "file").write_text("mine")
    one_line(journal(verb, "--data", place and str(tmp_path / place)), 2, "--data", "name")
    assert (tmp_path / "file").read_text() == "mine"


def test_a_closed_stdin_is_told_of(data: Path) -> None:
    command = f"exec {shlex.quote(sys.executable)} -m recovery append --data {shlex.quote(str(data))} <&-"
    done = subprocess.run(
        ["sh", "-c", command], check=False, capture_output=True, text=True, env=ENVIRONMENT, timeout=60
    )
    one_line(done, 2, "stdin")


VERBS = ("append", "log", "status", "check", "verify", "recover", "adopt", "diff 0 now", "tag x", "checkpoint create",
         "backup {out}", "replay --until now -o {out}", "show 1")  # fmt: skip


@pytest.mark.parametrize("verb", VERBS)
def test_a_directory_that_is_no_journal_exits_10_and_is_left_as_it_was(tmp_path: Path, verb: str) -> None:
    (tmp_path / "some").mkdir()
    arguments = verb.format(out=tmp_path / "out").split()
    one_line(journal(*arguments, "--data", str(tmp_path / "some"), input=""), 10, "journal init")
    assert list((tmp_path / "some").iterdir()) == []


@pytest.mark.parametrize("verb", VERBS)
def test_a_newer_version_exits_15_and_is_never_called_corrupt(data: Path, tmp_path: Path, verb: str) -> None:
    append(data, ACME)
    for path in (data / "journal" / "segments").iterdir():
        newer = bytearray(path.read_bytes())
        newer[8:10] = (9).to_bytes(2, "little")
        length = int.from_bytes(newer[12:16], "little")
        newer[16:20] = crc32(newer[20:length], crc32(newer[:16])).to_bytes(4, "little")
        path.write_bytes(newer)
    before = {path: path.read_bytes() for path in (data / "journal" / "segments").iterdir()}
    done = journal(*verb.format(out=tmp_path / "out").split(), "--data", str(data), input="")
    assert done.returncode == 15, (done.stdout, done.stderr)
    assert "corrupt" not in (done.stdout + done.stderr).lower()
    assert "upgrade" in done.stdout + done.stderr
    assert {path: path.read_bytes() for path in (data / "journal" / "segments").iterdir()} == before


@pytest.mark.parametrize("verb", ["append", "recover --yes", "tag x", "checkpoint create", "adopt"])
def test_a_second_writer_is_told_who_holds_the_journal(data: Path, verb: str) -> None:
    """One that does not listen on a control socket: a program of its own over the log."""
    with open_server_sync(data, background=False) as hook:
        hook.agents.write("writer", "text")
    (data / "agents" / "writer.md").write_text("edited")
    (data / "agents" / "other.md").write_text("new")
    with contextlib.closing(Log.open(RealStorage(), str(data / "journal"), holder=Holder(pid=os.getpid()))):
        done = journal(*verb.split(), "--data", str(data), input="")
        done.stdout = done.stdout if not verb.startswith("recover") else ""  # the plan, before the lock was asked for
        one_line(done, 11, str(os.getpid()))
        assert journal("log", "--data", str(data)).returncode == 0  # reading takes no lock


def test_a_closed_pipe_ends_quietly(data: Path) -> None:
    append(data, ACME, *(observation(f"fact {number} " + "x" * 200) for number in range(3000)))
    command = [sys.executable, "-m", "recovery", "log", "--data", str(data)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=ENVIRONMENT) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.readline()
        process.stdout.close()
        assert process.stderr.read() == b""
    assert process.returncode == 0


@pytest.mark.parametrize("option", ["--no-color", "--json"])
def test_append_fails_where_nobody_takes_its_receipts(data: Path, option: str) -> None:
    """Exit code 0 would say that all the input was taken."""
    lines = [json.dumps(each) for each in (ACME, *(observation(f"fact {number}") for number in range(5000)))]
    command = [sys.executable, "-m", "recovery", "append", option, "--data", str(data)]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=ENVIRONMENT
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.close()
        with contextlib.suppress(BrokenPipeError):
            process.stdin.write("\n".join([*lines, ""]).encode())
            process.stdin.close()
        told = process.stderr.read().decode()
    assert process.returncode == 1
    assert len(told.splitlines()) == 1
    assert int(re.search(r"after line (\d+) ", told)[1]) == last_seq(data)  # type: ignore[index]


def test_an_endless_line_is_refused_and_the_next_is_taken(data: Path) -> None:
    line = b'{"event": "' + b"x" * (64 << 20) + b'"}\n'
    done = journal("append", "--data", str(data), input=line + json.dumps(ACME).encode() + b"\n", text=False)
    refused, receipt = [json.loads(each) for each in done.stdout.splitlines()]
    assert (done.returncode, refused["error"]["code"], refused["error"]["line"]) == (3, "too_large", 1)
    assert receipt["seq"] == 1


def test_ctrl_c_while_appending_exits_130_and_keeps_what_was_acknowledged(data: Path) -> None:
    command = [sys.executable, "-m", "recovery", "append", "--data", str(data)]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=ENVIRONMENT
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdin.write((json.dumps(ACME) + "\n").encode())
        process.stdin.flush()
        receipt = json.loads(process.stdout.readline())
        process.send_signal(signal.SIGINT)
        told = process.stderr.read().decode()
        process.wait(20)
    assert process.returncode == 130
    assert "Traceback" not in told
    assert receipt["seq"] == last_seq(data) == 1
    assert append(data, observation("again"))[1][0]["seq"] == 2


# -- the machine ------------------------------------------------------------------------------------------------------

needs_mount = pytest.mark.skipif(
    os.geteuid() != 0 or shutil.which("mount") is None, reason="needs root and mount: a real small disk is mounted"
)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 4 MiB."""
    disk = tmp_path / "disk"
    disk.mkdir()
    done = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=4m", "tmpfs", str(disk)], capture_output=True)
    if done.returncode:
        pytest.skip(f"cannot mount a small disk: {done.stderr.decode()}")
    try:
        yield disk
    finally:
        subprocess.run(["umount", "-l", str(disk)], check=True)


@needs_mount
def test_a_full_disk_refuses_loses_nothing_and_writing_resumes(small_disk: Path) -> None:
    data = small_disk / "data"
    data.mkdir()
    (data / "journal.yaml").write_text("disk:\n  reserve_bytes: 1000000\n")
    initialise(data)
    lines = [ACME, *(observation(f"fact {number} " + "x" * 20_000) for number in range(100))]
    code, answers = append(data, *lines)
    assert code == 3
    kept = [answer for answer in answers if "seq" in answer]
    refused = [answer["error"]["code"] for answer in answers if "error" in answer]
    assert 1 < len(kept) < 100
    assert set(refused) <= {"no_space", "journaled_not_applied", "not_found"}
    assert journal("verify", "--data", str(data)).returncode == 0
    assert journal("log", "--data", str(data)).returncode == 0
    assert last_seq(data) >= len(kept)
    subprocess.run(["mount", "-o", "remount,size=40m", str(small_disk)], check=True)
    code, answers = append(data, observation("there is room again"))
    assert code == 0, answers
    assert journal("check", "--data", str(data)).returncode == 0


@needs_mount
def test_a_read_only_disk_is_named_and_reading_goes_on(small_disk: Path) -> None:
    data = small_disk / "data"
    data.mkdir()
    (data / "journal.yaml").write_text("disk:\n  reserve_bytes: 0\n")
    initialise(data)
    append(data, ACME)
    subprocess.run(["mount", "-o", "remount,ro", str(small_disk)], check=True)
    try:
        one_line(journal("append", "--data", str(data), input=json.dumps(observation()) + "\n"), 1, "not writable")
        assert "Acme" in journal("log", "--data", str(data)).stdout
        assert journal("verify", "--data", str(data)).returncode == 0
        checked = journal("check", "--data", str(data))
        assert checked.returncode == 1
        assert "not writable" in checked.stdout
    finally:
        subprocess.run(["mount", "-o", "remount,rw", str(small_disk)], check=True)
    assert append(data, observation())[0] == 0
