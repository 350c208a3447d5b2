"""The history goes to a backend: every event, with its own time, whatever the backend does meanwhile.

Each test has a real receiver on loopback, which decodes OTLP's protobuf; the journal is the oracle.
"""

from __future__ import annotations

import json
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
from opentelemetry.proto.trace.v1.trace_pb2 import SPAN_FLAGS_CONTEXT_IS_REMOTE_MASK

from journal.events import (
    ConfigWritten,
    EntityCreated,
    RecoveryCompleted,
    RecoveryStarted,
    RecoveryStepCompleted,
    StateRestored,
)
from recovery import open_server_sync
from recovery.data import Data
from tests.commands import ENVIRONMENT, SMALL, Command
from tests.exporting import add, attributes, by_seq, records
from tests.otlp import Receiver, Told, grpc_receiver, http_receiver

PARENT = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"
SECRET = "hunter2-and-more"


@pytest.fixture(params=["http", "grpc"])
def backend(request: pytest.FixtureRequest) -> Iterator[tuple[Receiver, list[str]]]:
    """A receiver, and the words that name it."""
    with http_receiver() if request.param == "http" else grpc_receiver() as receiver:
        yield receiver, ["--endpoint", receiver.url, "--protocol", request.param]


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
    assert link.flags & SPAN_FLAGS_CONTEXT_IS_REMOTE_MASK, "it came over the wire"
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


def test_what_takes_four_bytes_a_character_still_goes_in_requests_that_a_backend_takes(
    data: Path, journal: Command
) -> None:
    """gRPC servers take 4 MiB by default: a size that counted characters would let 4 MiB and more through."""
    add(data, *(f"{n}" + "🦉" * 60_000 for n in range(40)))
    with grpc_receiver() as receiver:
        words = ["--endpoint", receiver.url, "--protocol", "grpc", "--include-content"]
        told = journal.json("trace", "export", *words)
        assert (told["spans"], told["retries"]) == (SMALL + 40, 0)
        assert max(request.ByteSize() for request in receiver.requests) < 2 << 20
        assert len(receiver.asked) == len(receiver.requests), "and none was too large"


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
        (["--endpoint", "http://127.0.0.1:1", "--since", "7", "--until", "4"], 2),
        (["--endpoint", "http://127.0.0.1:1", "--agent", ""], 2),
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
