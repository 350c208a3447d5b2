"""The history goes to a backend: every event, with its own time, whatever the backend does meanwhile.

Each test has a real receiver on loopback, which decodes OTLP's protobuf; the journal is the oracle.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from journal.events import (
    ConfigWritten,
    EntityCreated,
    ObservationAdded,
    RecoveryCompleted,
    RecoveryStarted,
    RecoveryStepCompleted,
    StateRestored,
)
from recovery import open_server_sync
from recovery.data import Data
from recovery.records import Entry, entries
from tests.commands import ENVIRONMENT, SMALL, Command, arguments, process, small_history
from tests.holders import serving
from tests.otlp import Receiver, Told, grpc_receiver, http_receiver

PARENT = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"
SECRET = "hunter2-and-more"


@pytest.fixture
def data(tmp_path: Path) -> Path:
    small_history(tmp_path / "data")
    return tmp_path / "data"


@pytest.fixture
def journal(data: Path, capsys: pytest.CaptureFixture[str]) -> Command:
    return Command(data, capsys)


@pytest.fixture(params=["http", "grpc"])
def backend(request: pytest.FixtureRequest) -> Iterator[tuple[Receiver, list[str]]]:
    """A receiver, and the words that name it."""
    with http_receiver() if request.param == "http" else grpc_receiver() as receiver:
        yield receiver, ["--endpoint", receiver.url, "--protocol", request.param]


def records(data: Path) -> list[Entry]:
    reader = Data.at(data).reader()
    return list(entries(reader.batches()))


def attributes(span: Any) -> dict[str, Any]:
    return {each.key: getattr(each.value, each.value.WhichOneof("value")) for each in span.attributes}


def by_seq(receiver: Receiver) -> dict[int, Any]:
    """The spans of events, by their seqs."""
    return {told["journal.seq"]: span for span in receiver.spans if "journal.seq" in (told := attributes(span))}


def add(data: Path, *contents: str, **envelope: Any) -> None:
    with open_server_sync(data, background=False, check="quick") as hook:
        for content in contents:
            hook.append(ObservationAdded("global", "Acme", content), **envelope)


def test_every_event_is_a_span_at_its_own_time(
    data: Path, journal: Command, backend: tuple[Receiver, list[str]]
) -> None:
    receiver, words = backend
    told = journal.json("trace", "export", *words, "--header", "x-tenant=blue")
    found, written = by_seq(receiver), records(data)[:SMALL]
    assert told["spans"] == len(receiver.spans) == len(found) == SMALL
    assert told["cursor"] == SMALL
    for entry in written:
        span = found[entry.seq]
        assert span.start_time_unix_nano == span.end_time_unix_nano == entry.record.time
        about = attributes(span)
        assert about["journal.event.type"] == entry.record.event.type_name
        assert about["journal.op_id"] == entry.op_id
        assert about.get("journal.actor") == entry.record.actor
        assert len(span.trace_id) == 16
        assert len(span.span_id) == 8
    assert len({span.span_id for span in receiver.spans}) == SMALL
    group = {found[seq].trace_id for seq in (3, 4, 5)}
    assert len(group) == 1, "a group is one trace"
    assert found[3].parent_span_id == b""
    assert found[4].parent_span_id == found[5].parent_span_id == found[3].span_id
    assert len({span.trace_id for span in receiver.spans}) == SMALL - 2
    operations = Counter(attributes(span).get("gen_ai.operation.name") for span in receiver.spans)
    assert operations == {"create_memory": 6, "update_memory": 1, "delete_memory": 1, None: 2}
    made, updated = attributes(found[1]), attributes(found[9])
    assert made["gen_ai.memory.record.id"] == updated["gen_ai.memory.record.id"], "one memory, one id"
    assert attributes(found[10])["gen_ai.memory.store.id"] == "workspace:east"
    assert receiver.asked[0][1]["x-tenant"] == "blue"
    (resource,) = {str(request.resource_spans[0].resource) for request in receiver.requests}
    assert Data.at(data).journal_id() in resource
    assert "agent-journal" in resource


def test_nothing_that_was_written_leaves(data: Path, journal: Command, backend: tuple[Receiver, list[str]]) -> None:
    """No content, no name of a memory, and no config, in any field of any span."""
    receiver, words = backend
    assert journal("trace", "export", *words).code == 0
    sent = "".join(map(str, receiver.requests))
    for each in ("renewed", "cancelled", "Acme", "Bob", "Rome", "Writes letters", "too chatty"):
        assert each not in sent


def test_content_leaves_where_it_is_asked_for_and_redacted_even_then(
    data: Path, journal: Command, backend: tuple[Receiver, list[str]]
) -> None:
    (data / "journal.yaml").write_text("redact:\n  patterns: ['hunter2[-a-z]*']\n  fields: [password]\n")
    add(data, f"the key is {SECRET}", agent=f"sales-{SECRET}", op_id=SECRET)
    add(data, 'password: "swordfish"')
    with open_server_sync(data, background=False, check="quick") as hook:
        hook.append(ConfigWritten("binary", SECRET.encode() + b"\xff"))
        hook.append(EntityCreated("global", "Vault", "place", {"password": "swordfish", "city": "Rome"}))
    receiver, words = backend
    assert journal("trace", "export", *words, "--include-content").code == 0
    sent = "".join(request.SerializeToString().decode(errors="replace") for request in receiver.requests)
    assert "renewed in May" in sent
    assert "hunter2" not in sent
    assert "swordfish" not in sent
    assert "aHVudGVyM" not in sent, "nor as base64"
    vault = attributes(by_seq(receiver)[SMALL + 4])
    assert json.loads(vault["journal.content"])["metadata"] == {"password": "[redacted]", "city": "Rome"}


def test_a_recovery_is_a_span_with_a_child_a_step(
    data: Path, journal: Command, backend: tuple[Receiver, list[str]]
) -> None:
    (data / "memory.db").unlink()
    (data / "agents" / "writer.md").write_text("broken by hand")
    journal("recover", "all", "--yes")
    receiver, words = backend
    assert journal("trace", "export", *words).code == 0
    written = records(data)
    start = next(each for each in written if isinstance(each.record.event, RecoveryStarted))
    steps = [each for each in written if isinstance(each.record.event, RecoveryStepCompleted)]
    end = next(each for each in written if isinstance(each.record.event, RecoveryCompleted))
    (root,) = [span for span in receiver.spans if span.name == "recovery"]
    children = [span for span in receiver.spans if span.name == "recovery.step"]
    assert (root.start_time_unix_nano, root.end_time_unix_nano) == (start.record.time, end.record.time)
    assert root.parent_span_id == b""
    assert len(children) == len(steps) > 1
    for child, entry in zip(children, steps, strict=True):
        assert child.parent_span_id == root.span_id
        assert child.trace_id == root.trace_id
        assert child.end_time_unix_nano == entry.record.time
        took = entry.record.event.counts["milliseconds"] * 1_000_000
        assert child.start_time_unix_nano == max(start.record.time, entry.record.time - took)
        told = attributes(child)
        assert told["journal.recovery.component"] == entry.record.event.component
        assert told["journal.recovery.strategy"] == entry.record.event.strategy
        assert told["journal.recovery.outcome"] == "completed"
    told = {attributes(child)["journal.recovery.strategy"]: attributes(child) for child in children}
    rebuilt = told["rebuild_memory"]
    counts = next(each.record.event.counts for each in steps if each.record.event.strategy == "rebuild_memory")
    assert rebuilt["journal.recovery.events"] == counts["events"] > 0
    assert rebuilt["journal.recovery.rows"] == counts["rows"] > 0
    assert rebuilt["journal.recovery.bytes"] == counts["bytes"] > 0
    assert rebuilt["journal.recovery.checkpoint"] == counts["base_seq"]
    assert rebuilt["db.system.name"] == "sqlite"


def test_links_lead_to_the_request_and_to_what_a_restore_undid(
    data: Path, journal: Command, backend: tuple[Receiver, list[str]]
) -> None:
    add(data, "by a request", traceparent=PARENT)
    assert journal("replay", "--until", "6", "--in-place", "--yes").code == 0
    receiver, words = backend
    assert journal("trace", "export", *words).code == 0
    found = by_seq(receiver)
    (link,) = found[SMALL + 1].links
    assert (link.trace_id.hex(), link.span_id.hex()) == (PARENT[3:35], PARENT[36:52])
    restore = next(each for each in records(data) if isinstance(each.record.event, StateRestored))
    undone = {(link.trace_id, link.span_id) for link in found[restore.seq].links}
    assert undone == {(found[seq].trace_id, found[seq].span_id) for seq in (7, 8, 9, 10, 11)}
    assert attributes(found[restore.seq])["journal.restore.undone"] == 5
    assert journal("replay", "--until", str(restore.seq - 1), "--in-place", "--yes").code == 0
    assert journal("trace", "export", *words).code == 0
    again = [each for each in records(data) if isinstance(each.record.event, StateRestored)][-1]
    found = by_seq(receiver)
    assert [link.span_id for link in found[again.seq].links] == [found[restore.seq].span_id], "it undid the restore"


def test_a_second_export_goes_on_and_one_from_the_beginning_says_the_same(
    data: Path, journal: Command, backend: tuple[Receiver, list[str]]
) -> None:
    receiver, words = backend
    journal.json("trace", "export", *words)
    first = {span.span_id: span.SerializeToString() for span in receiver.spans}
    told = journal.json("trace", "export", *words)
    assert told["spans"] == 0, "its own cursor is nothing to export"
    size = Data.at(data).reader().last_seq
    add(data, "later")
    told = journal.json("trace", "export", *words)
    assert told["spans"] == 1
    receiver.requests.clear()
    told = journal.json("trace", "export", *words, "--since", "1")
    again = {span.span_id: span.SerializeToString() for span in receiver.spans}
    assert {key: again[key] for key in first} == first, "the same ids, times and attributes"
    assert len(again) == len(first) + 1
    assert told["cursor"] is None, "it stands behind that already"
    assert Data.at(data).reader().last_seq == size + 2


def test_bounds_and_agents_choose_what_goes_out(
    data: Path, journal: Command, backend: tuple[Receiver, list[str]]
) -> None:
    receiver, words = backend
    assert journal.json("trace", "export", *words, "--since", "4", "--until", "7")["cursor"] is None, "a gap before it"
    assert sorted(by_seq(receiver)) == [4, 5, 6, 7]
    found = by_seq(receiver)
    assert found[4].trace_id == found[5].trace_id, "the rest of a group still has the group's trace"
    receiver.requests.clear()
    told = journal.json("trace", "export", *words, "--agent", "ops")
    assert sorted(by_seq(receiver)) == [7, 9]
    assert told["cursor"] is not None
    receiver.requests.clear()
    assert journal.json("trace", "export", *words)["spans"] == SMALL, "another selection has a cursor of its own"


def test_a_dry_run_sends_nothing_and_remembers_nothing(data: Path, journal: Command) -> None:
    with http_receiver() as receiver:
        told = journal.json("trace", "export", "--endpoint", receiver.url, "--dry-run")
        assert (told["spans"], told["cursor"], told["dry_run"]) == (SMALL, None, True)
        assert receiver.asked == []


# -- backends that misbehave ------------------------------------------------------------------------------------------


def test_a_busy_backend_is_waited_for(data: Path, journal: Command, backend: tuple[Receiver, list[str]]) -> None:
    receiver, words = backend
    receiver.script = [Told(503), Told(429, retry_after="1"), Told(503, retry_after="0")]
    told = journal.json("trace", "export", *words)
    assert (told["spans"], told["retries"]) == (SMALL, 3)
    assert len(receiver.spans) == SMALL
    times = [when for when, _ in receiver.asked]
    assert times[2] - times[1] >= 1.0, "it came back no sooner than it was asked to"


def test_a_request_that_is_too_large_goes_in_halves(
    data: Path, journal: Command, backend: tuple[Receiver, list[str]]
) -> None:
    receiver, words = backend
    receiver.script = [Told(413), Told(), Told(413)]
    assert journal.json("trace", "export", *words)["spans"] == SMALL
    assert sorted(by_seq(receiver)) == list(range(1, SMALL + 1))


@pytest.mark.parametrize("status", [400, 401])
def test_a_backend_that_refuses_loses_nothing(
    data: Path, journal: Command, backend: tuple[Receiver, list[str]], status: int
) -> None:
    receiver, words = backend
    receiver.script = [Told(status)]
    ran = journal("trace", "export", *words, "--header", f"authorization=Bearer {SECRET}")
    assert ran.code == 1
    assert SECRET not in ran.out + ran.err
    assert len(receiver.asked) == 1, "what is refused for good is not sent again and again"
    assert Data.at(data).reader().last_seq == SMALL, "no cursor"
    assert journal.json("trace", "export", *words)["spans"] == SMALL


def test_what_a_backend_rejects_is_said(data: Path, journal: Command, backend: tuple[Receiver, list[str]]) -> None:
    receiver, words = backend
    receiver.script = [Told(reject=3)]
    ran = journal("trace", "export", *words, "--json")
    assert ran.code == 3
    assert (ran.json()["spans"], ran.json()["rejected"]) == (SMALL - 3, 3)
    assert "too old" in ran.err
    assert len(receiver.asked) == 1, "OTLP forbids to send it again"


def test_a_backend_that_is_down_costs_time_and_nothing_else(data: Path, journal: Command) -> None:
    with http_receiver() as receiver:
        url = receiver.url
    ran = journal("trace", "export", "--endpoint", url, "--patience", "0.4")
    assert ran.code == 1
    assert "connection refused" in ran.err
    assert Data.at(data).reader().last_seq == SMALL
    with http_receiver(int(url.rpartition(":")[2])) as receiver:
        receiver.script = [Told(hang_up=True)]
        assert journal.json("trace", "export", "--endpoint", url)["spans"] == SMALL


def test_a_slow_backend_gets_the_batch_again(data: Path, journal: Command) -> None:
    """It took the spans, and answers too late: they come twice, under the same ids."""
    with http_receiver() as receiver:
        late = threading.Event()
        receiver.script = [Told(hold=late)]
        words = ["--endpoint", receiver.url, "--timeout", "0.3"]
        told = journal.json("trace", "export", *words)
        late.set()
        assert (told["spans"], told["retries"]) == (SMALL, 1)
        receiver.wait_for(lambda it: len(it.spans) == 2 * SMALL)
        assert len({span.span_id for span in receiver.spans}) == SMALL


def grown(data: Path) -> int:
    """A history of several requests; returns its last seq."""
    with open_server_sync(data, background=False, check="quick") as hook:
        for part in range(6):
            hook.append_all([ObservationAdded("global", "Acme", f"fact {part} {n}") for n in range(250)])
        return hook.core.log.next_seq - 1


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


def test_a_redirect_is_not_followed_with_the_headers(data: Path, journal: Command) -> None:
    with http_receiver() as receiver:
        receiver.script = [Told(307)]
        ran = journal("trace", "export", "--endpoint", receiver.url)
        assert ran.code == 1
        assert "elsewhere.example" in ran.err
        assert "secret" not in ran.err


@pytest.mark.parametrize(
    ("words", "code"),
    [
        (["--endpoint", "127.0.0.1:4318"], 2),
        (["--endpoint", "http://127.0.0.1:1", "--header", "no-value"], 2),
        (["--endpoint", "http://127.0.0.1:1", "--header", "a=b\nc"], 2),
        (["--endpoint", "http://127.0.0.1:1", "--since", "99"], 2),
        (["--endpoint", "http://127.0.0.1:1", "--follow", "--until", "4"], 2),
        ([], 2),
    ],
)
def test_wrong_input_is_told_in_one_line(journal: Command, words: list[str], code: int) -> None:
    ran = journal("trace", "export", *words)
    assert ran.code == code
    assert len(ran.err.splitlines()) == 1


def test_the_path_is_appended_to_the_base(data: Path, journal: Command) -> None:
    with http_receiver() as receiver:
        for base in ("", "/", "/otel", "/otel/v1/traces"):
            journal.json("trace", "export", "--endpoint", receiver.url + base, "--since", "10")
        assert receiver.paths == ["/v1/traces", "/v1/traces", "/otel/v1/traces", "/otel/v1/traces"]


# -- beside a server --------------------------------------------------------------------------------------------------


def following(data: Path, *words: str) -> subprocess.Popen[str]:
    command = arguments(data, "trace", "export", "--follow", "--json", *words)
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=ENVIRONMENT)


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




@pytest.mark.parametrize("missing", ["opentelemetry.exporter.otlp.proto.common.trace_encoder", "requests", "grpc"])
def test_without_the_extra_the_line_says_what_to_install(data: Path, missing: str) -> None:
    program = f"import sys; sys.modules[{missing!r}] = None\n"
    program += "from recovery.cli.app import run; sys.exit(run(sys.argv[1:]))"
    words = ["--data", str(data), "trace", "export", "--endpoint", "http://127.0.0.1:1"]
    words += ["--protocol", "grpc"] if missing == "grpc" else []
    command = [sys.executable, "-c", program, *words]
    ran = subprocess.run(command, capture_output=True, text=True, env=ENVIRONMENT, timeout=60, check=False)
    assert (ran.returncode, ran.stdout) == (1, "")
    assert "pip install 'agent-journal[otlp]'" in ran.stderr
    assert len(ran.stderr.splitlines()) == 1
