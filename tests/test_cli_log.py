"""`journal log`: order, filters, the newest N, following a live writer, and what damage and a closed pipe do to it."""

from __future__ import annotations

import json
import os
import pty
import select
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from journal.events import EntityCreated, ObservationAdded, type_dictionary, type_named
from journal.reader import LogReader
from recovery import open_server_sync
from recovery.cli.words import told
from recovery.setup import initialise
from tests.commands import ENVIRONMENT, SMALL, Command, arguments, process, small_history
from tests.journals import segment_files


@pytest.fixture
def journal(tmp_path, capsys):
    small_history(tmp_path / "data")
    return Command(tmp_path / "data", capsys)


def seqs(journal: Command, *words: str) -> list[int]:
    ran = journal("log", *words, "--json")
    assert ran.code == 0, ran
    return [line["seq"] for line in ran.json_lines()]


# -- what is printed --------------------------------------------------------------------------------------------------


def test_every_record_oldest_first_without_limit(journal):
    assert seqs(journal) == list(range(1, SMALL + 1))


def test_a_json_line_is_one_flat_object(journal):
    first, second, third, fourth = journal("log", "--json", "--until", "4").json_lines()
    assert list(first) == ["seq", "time", "op_id", "agent", "actor", "traceparent", "type", "event"]
    assert (first["op_id"], first["agent"], first["actor"], first["traceparent"]) == ("crm-1", "sales", None, None)
    assert first["type"] == "memory.entity_created"
    assert first["event"] == {
        "type": "memory.entity_created", "scope": "global", "name": "Acme", "entity_type": "company",
        "metadata": {"city": "Rome"}, "confidence": 1.0,
    }  # fmt: skip
    assert second["actor"] == "ann"
    assert third["op_id"] == "batch-1"
    assert fourth["op_id"] == f"e2-{fourth['seq']}"  # generated, as in the receipt
    assert isinstance(first["time"], int)
    assert first["time"] <= second["time"] <= third["time"] == fourth["time"]


def test_its_events_can_be_appended_again(journal, tmp_path):
    lines = [{key: line[key] for key in ("event", "agent")} for line in journal("log", "--json").json_lines()]
    initialise(str(tmp_path / "copy"))
    text = "\n".join(map(json.dumps, lines))
    assert process(tmp_path / "copy", "append", input=text).returncode == 0
    again = process(tmp_path / "copy", "log", "--json").stdout.splitlines()
    assert [json.loads(line)["event"] for line in again] == [line["event"] for line in lines]


def test_a_config_that_is_no_text_is_printed_as_base64(journal):
    with open_server_sync(journal.data, background=False) as hook:
        hook.agents.write("odd", b"\xff\0")
    (line,) = journal("log", "-n", "1", "--json").json_lines()
    assert line["event"]["content_base64"] == "/wA="


def test_the_human_form_says_when_which_who_and_what(journal):
    ran = journal("log")
    lines = ran.out.splitlines()
    assert len(lines) == SMALL
    assert 'observed of Acme: "renewed in May"' in lines[1]
    time_, seq, agent = lines[1].split()[:3]
    assert time_.endswith("Z")
    assert (seq, agent) == ("2", "sales")
    assert "(ann)" in lines[5]
    assert "config of agent writer written" in lines[5]
    assert 'suspended: "too chatty"' in lines[7]


def test_contents_cannot_move_the_cursor_nor_add_lines(journal):
    with open_server_sync(journal.data, background=False) as hook:
        hook.append(ObservationAdded("global", "Acme", "\x1b[2Jgone\nforged line \u202e"))
    ran = journal("log", "-n", "1")
    assert len(ran.out.splitlines()) == 1
    assert "\x1b" not in ran.out
    assert "\u202e" not in ran.out


def test_on_a_terminal_days_are_headings_and_lines_fit(journal):
    master, slave = pty.openpty()
    environment = {**ENVIRONMENT, "COLUMNS": "60", "TERM": "xterm"}
    words = arguments(journal.data, "log", "--no-color")
    child = subprocess.Popen(words, stdout=slave, stderr=subprocess.PIPE, env=environment)
    os.close(slave)
    shown = read_all(master)
    assert child.wait(30) == 0, child.stderr.read()
    child.stderr.close()
    lines = shown.replace("\r", "").splitlines()
    assert lines[0].endswith("(UTC)")
    assert len(lines) == SMALL + 1
    assert all(len(line) <= 60 for line in lines)
    assert lines[4].startswith(" " * 12)  # continues the group of the line above


def read_all(descriptor: int) -> str:
    data = b""
    while True:
        try:
            part = os.read(descriptor, 65536)
        except OSError:  # the other side of the terminal is closed
            part = b""
        if not part:
            os.close(descriptor)
            return data.decode()
        data += part


@pytest.mark.parametrize("name", type_dictionary())
def test_every_type_of_event_is_told_in_one_line(name):
    samples = {int: 7, str: "x\ny", bytes: b"ab", bool: True, float: 0.5}
    cls = type_named(name)
    hints = cls.__annotations__
    values = {
        field: next(
            (value for kind, value in samples.items() if str(hints[field]).split(" |")[0] == kind.__name__),
            {"k": 1} if "dict" in str(hints[field]) else [],
        )
        for field in cls.__struct_fields__
    }
    words = told(cls(**values))
    assert words
    assert "\n" not in words


# -- bounds and filters -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["-n", "3"], [8, 9, 10]),
        (["-n", "0"], []),
        (["-n", "99"], list(range(1, 11))),
        (["-n", "2", "--until", "5"], [4, 5]),
        (["-n", "9", "--since", "9"], [9, 10]),
        (["-n", "2", "--agent", "sales"], [1, 2]),
        (["--since", "4", "--until", "seq:6"], [4, 5, 6]),
        (["--since", "0", "--until", "1"], [1]),
        (["--since", "now"], []),
        (["--since", "1 hour ago"], list(range(1, 11))),
        (["--until", "1 hour ago"], []),
        (["--since", "9", "--until", "2"], []),
        (["--agent", "sales"], [1, 2]),
        (["--agent", "sales", "--agent", "ops"], [1, 2, 7, 9]),
        (["--agent", "sales", "--actor", "ann"], [2]),
        (["--actor", "ann"], [2, 6, 8]),
        (["--type", "memory.entity_created"], [1, 3, 4]),
        (["--type", "agent.*"], [6, 8]),
        (["--entity", "Bob"], [4, 5]),
        (["--entity", "Acme"], [1, 2, 3, 5, 7, 9, 10]),
        (["--entity", "Acme", "--scope", "workspace:east"], [3, 10]),
        (["--entity", "writer"], []),
        (["--op-id", "batch-1"], [3, 4, 5]),
        (["--op-id", "e2-2"], [2]),
        (["--op-id", "nobody's"], []),
    ],
)
def test_bounds_and_filters(journal, words, expected):
    assert seqs(journal, *words) == expected


def test_a_time_bounds_to_the_nanosecond(journal):
    times = {line["seq"]: line["time"] for line in journal("log", "--json").json_lines()}

    def spelt(ns: int) -> str:
        return time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(ns // 10**9)) + f".{ns % 10**9:09}Z"

    assert seqs(journal, "--since", spelt(times[7]))[0] == 7
    assert seqs(journal, "--since", spelt(times[7] + 1))[0] == 8
    assert seqs(journal, "--until", spelt(times[7]))[-1] == 7
    assert seqs(journal, "--until", spelt(times[7] - 1))[-1] == 6
    assert seqs(journal, "--until", spelt(times[3]))[-1] == 5  # a group has one time


def many_segments(data: Path) -> None:
    """A journal of several segments; the last is rotated at the least size that journal.yaml takes."""
    initialise(str(data))
    (data / "journal.yaml").write_text("segment_bytes_max: 65536\n")
    with open_server_sync(data, background=False) as hook:
        hook.append(EntityCreated("global", "x", "thing"))
        for number in range(12):
            hook.append_all([ObservationAdded("global", "x", f"{number} {index} " + "y" * 900) for index in range(20)])
    assert len(segment_files(str(data / "journal"))) > 4


def test_the_newest_few_are_found_near_the_end(tmp_path, capsys, monkeypatch):
    """Scenario: `log -n 5` on a journal of many segments must not read them all."""
    many_segments(tmp_path / "data")
    read: set[int] = set()
    scan = LogReader.scan
    monkeypatch.setattr(LogReader, "scan", lambda self, index, *seqs: read.add(index) or scan(self, index, *seqs))
    assert seqs(Command(tmp_path / "data", capsys), "-n", "5") == [237, 238, 239, 240, 241]
    assert len(read) <= 2


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (["-n", "-1"], 2, "-1"),
        (["-n", "many"], 2, "many"),
        (["--since", "yesterday"], 2, "is no moment"),
        (["--until", "2026-05-01T12:00:00"], 2, "has no zone"),
        (["--until", "tag:nowhere"], 2, "no tag"),
        (["--until", "11"], 2, "beyond the end, 10"),
        (["--type", "memory.entity_make"], 2, "did you mean memory.entity_"),
        (["--scope", "everywhere"], 2, "is no scope"),
        (["--follow", "--until", "now"], 2, "leave out --until"),
    ],
)
def test_wrong_input_is_one_line_that_says_what_to_write(journal, words, code, said):
    ran = journal("log", *words)
    assert (ran.code, ran.out) == (code, "")
    assert said in ran.err
    assert len(ran.err.splitlines()) == 1
    error = journal("log", *words, "--json").json()["error"]
    assert error["code"] == "usage"


def test_a_directory_that_is_no_journal(tmp_path):
    (tmp_path / "empty").mkdir()
    ran = process(tmp_path / "empty", "log")
    assert (ran.returncode, ran.stdout) == (10, "")
    assert "no journal here" in ran.stderr
    assert "Traceback" not in ran.stderr


# -- damage -----------------------------------------------------------------------------------------------------------


def test_what_is_whole_is_printed_before_the_damage_is_named(journal):
    segment = segment_files(str(journal.data / "journal"))[-1]
    data = segment.read_bytes()
    at = data.index(b"cancelled in June")
    segment.write_bytes(data[:at] + b"C" + data[at + 1 :])
    for words in ([], ["-n", "3", "--agent", "sales"]):
        ran = journal("log", *words, "--json")
        lines = ran.json_lines()
        assert ran.code == 12
        assert [line["seq"] for line in lines[:-1]] == ([1, 2, 3, 4, 5, 6] if not words else [1, 2])
        assert lines[-1]["error"]["path"] == str(segment)
        assert lines[-1]["error"]["seq"] == 7


def test_an_acknowledged_batch_without_its_end_is_no_torn_tail(journal):
    """Scenario: the last sectors were lost after memory.db had applied them: its position is the evidence."""
    segment = segment_files(str(journal.data / "journal"))[-1]
    data = segment.read_bytes()
    segment.write_bytes(data[: data.rindex(b"research") - 10])
    ran = journal("log")
    assert len(ran.out.splitlines()) == 9
    assert ran.code == 12
    assert "event 10" in ran.err
    assert journal("log", "--until", "now").code == 12
    assert journal("log", "--until", "10").code == 12  # not "beyond the end": it was there
    assert seqs(journal, "--until", "9") == list(range(1, 10))


# -- streams ----------------------------------------------------------------------------------------------------------


def test_a_closed_pipe_ends_it_quietly(tmp_path):
    data = tmp_path / "data"
    many_segments(data)
    child = subprocess.Popen(
        arguments(data, "log", "--json"), stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=ENVIRONMENT
    )
    child.stdout.readline()
    child.stdout.close()
    assert child.wait(60) == 0
    assert child.stderr.read() == b""
    child.stderr.close()


@contextmanager
def following(data: Path, *words: str) -> Iterator[subprocess.Popen[bytes]]:
    child = subprocess.Popen(
        arguments(data, "log", "--follow", "--json", *words),
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=ENVIRONMENT, bufsize=0,
    )  # fmt: skip
    try:
        yield child
    finally:
        child.kill()
        child.wait()
        child.stdout.close()
        child.stderr.close()


def next_line(child: subprocess.Popen[bytes]) -> dict:
    ready, _, _ = select.select([child.stdout], [], [], 30)
    assert ready, "nothing came"
    return json.loads(child.stdout.readline())


def test_following_prints_each_record_once_across_writers_and_segments(tmp_path):
    """Scenario: a writer works in one batch after the other, rotates, closes, and another takes over."""
    data = tmp_path / "data"
    many_segments(data)
    with following(data, "-n", "1") as child:
        assert next_line(child)["seq"] == 241
        with open_server_sync(data, background=False) as hook:
            hook.append(ObservationAdded("global", "x", "first"), agent="sales")
            assert next_line(child)["event"]["content"] == "first"
            for number in range(5):
                hook.append_all([ObservationAdded("global", "x", f"n{number} {i} " + "z" * 900) for i in range(40)])
        with open_server_sync(data, background=False) as hook:
            hook.append(ObservationAdded("global", "x", "last"))
        assert [next_line(child)["seq"] for _ in range(201)] == list(range(243, 444))
        child.send_signal(signal.SIGINT)
        assert child.wait(30) == 130


def test_following_within_a_segment_that_stays_open(tmp_path):
    """Scenario: one batch at a time while the writer goes on; then one longer than a poll reads at once."""
    data = tmp_path / "data"
    small_history(data)
    with following(data, "-n", "1") as child, open_server_sync(data, background=False) as hook:
        assert next_line(child)["seq"] == SMALL
        for seq in range(11, 15):
            hook.append(ObservationAdded("global", "Acme", f"fact {seq}"))
            assert next_line(child)["seq"] == seq
        hook.append_all([ObservationAdded("global", "Acme", f"{number}" + "x" * 250_000) for number in range(6)])
        assert [next_line(child)["seq"] for _ in range(6)] == list(range(15, 21))
        hook.append(ObservationAdded("global", "Acme", "last"))
        assert next_line(child)["seq"] == 21


def test_following_a_writer_that_was_killed_and_its_successor(tmp_path):
    """Scenario: the successor copies what lay past the last durable seq: those records come once, not twice."""
    data = tmp_path / "data"
    small_history(data)
    program = f"""
import os
from journal.events import ObservationAdded
from recovery import open_server_sync
with open_server_sync({str(data)!r}, background=False) as hook:
    for number in range(3):
        hook.append(ObservationAdded("global", "Acme", f"before {{number}}"))
    os.kill(os.getpid(), 9)
"""
    with following(data, "-n", "1") as child:
        assert next_line(child)["seq"] == SMALL
        ended = subprocess.run([sys.executable, "-c", program], env=ENVIRONMENT, check=False, timeout=60)
        assert ended.returncode == -9
        assert [next_line(child)["seq"] for _ in range(3)] == [11, 12, 13]
        with open_server_sync(data, background=False) as hook:
            last = hook.append(ObservationAdded("global", "Acme", "after"))
        found = []
        while not found or found[-1]["seq"] < last.seq:
            found.append(next_line(child))
        assert [line["seq"] for line in found] == list(range(14, last.seq + 1))


def test_following_filters_and_ends_when_its_reader_does(tmp_path):
    data = tmp_path / "data"
    small_history(data)
    with following(data, "--agent", "ops", "-n", "1") as child:
        assert next_line(child)["seq"] == 9
        with open_server_sync(data, background=False) as hook:
            hook.append(ObservationAdded("global", "Acme", "not wanted"), agent="sales")
            hook.append(ObservationAdded("global", "Acme", "wanted"), agent="ops")
        assert next_line(child)["seq"] == 12
        child.stdout.close()
        assert child.wait(30) == 0  # though nothing more was appended
