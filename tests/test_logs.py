"""Logs as JSON, one object a line whatever is in them: of the command, of `serve`, of a server that embeds it."""

from __future__ import annotations

import json
import logging
import os
import re
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

from recovery.logs import JsonFormatter
from recovery.redact import Redactor
from tests.commands import ENVIRONMENT, SMALL, arguments, process
from tests.holders import serving
from tests.otlp import http_receiver

TIME = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z")
JSON = ("--log-format", "json")


def records(text: str) -> list[dict[str, Any]]:
    """Each line is one object, with what every record has."""
    found = [json.loads(line) for line in text.split("\n")[:-1]]
    assert text == "" or text.endswith("\n")
    for each in found:
        assert TIME.fullmatch(each["time"]), each
        assert each["level"] in ("DEBUG", "INFO", "WARNING", "ERROR")
        assert list(each)[:4] == ["time", "level", "logger", "message"]
    return found


def alter_a_row(data: Path) -> None:
    with closing(sqlite3.connect(data / "memory.db", isolation_level=None)) as another:
        another.execute("UPDATE observations SET content = 'not so' WHERE id = 2")


# -- the command ------------------------------------------------------------------------------------------------------


def test_an_error_is_a_record_with_its_facts(data: Path) -> None:
    ran = process(data, "show", "99", *JSON)
    assert (ran.returncode, ran.stdout) == (2, "")
    (told,) = records(ran.stderr)
    assert (told["level"], told["code"], told["exit_code"]) == ("ERROR", "usage", 2)
    assert "\n" not in process(data, "show", "99").stderr[:-1], "text stays one line for people"


@pytest.mark.parametrize(
    ("words", "variable", "configured", "is_json"),
    [
        ((), None, None, False),
        (JSON, None, None, True),
        ((), "json", None, True),
        ((), None, "json", True),
        (("--log-format=text",), "json", "json", False),
        (("--nope", *JSON), None, None, True),
        ((), "text", "json", False),
    ],
)
def test_the_option_comes_before_the_variable_and_that_before_the_file(
    data: Path, words: tuple[str, ...], variable: str | None, configured: str | None, is_json: bool
) -> None:
    if configured is not None:
        (data / "journal.yaml").write_text(f"log: {{format: {configured}}}\n")
    environment = ENVIRONMENT if variable is None else {**ENVIRONMENT, "JOURNAL_LOG_FORMAT": variable}
    ran = process(data, "show", "99", *words, env=environment)
    assert ran.returncode == 2
    assert ran.stderr.startswith("{") == is_json
    assert ran.stderr.startswith("journal: ") != is_json


def test_a_configuration_that_is_wrong_is_told_in_the_format_that_it_asks_for(data: Path) -> None:
    (data / "journal.yaml").write_text("log: {format: json}\nnope: 1\n")
    ran = process(data, "status")
    assert ran.returncode == 2
    (told,) = records(ran.stderr)
    assert "unknown key" in told["message"]


def test_json_of_a_verb_stays_on_stdout_alone(data: Path) -> None:
    ran = process(data, "show", "99", "--json", *JSON)
    assert (json.loads(ran.stdout)["error"]["code"], ran.stderr) == ("usage", "")


def test_what_a_name_holds_stays_on_its_line(tmp_path: Path) -> None:
    """Newlines, controls, a separator that some readers take for a line's end, and bytes that are no text."""
    name = os.fsdecode("a\nb\u2028\x1b[2Jé".encode() + b"\xff")
    ran = process(tmp_path / name, "status", *JSON, encoding="utf-8")
    assert ran.returncode == 10
    (told,) = records(ran.stderr)
    assert told["path"] == f"{tmp_path}/{name}/journal", "the surrogate of the byte comes back as it was"


def test_secrets_stay_out_of_records(data: Path) -> None:
    (data / "journal.yaml").write_text("redact: {patterns: ['s3cr\\w+'], fields: [path]}\n")
    ran = process(data, "show", "--entity", "s3cretly", *JSON)
    assert ran.returncode != 0
    (told,) = records(ran.stderr)
    assert "s3cr" not in ran.stderr
    assert "[redacted]" in told["message"]
    assert TIME.fullmatch(told["time"])


def test_a_question_is_not_asked_where_stderr_is_for_machines(data: Path) -> None:
    alter_a_row(data)
    ran = process(data, "recover", "memory", *JSON, input="y\n")
    assert ran.returncode == 2
    assert "--yes" in str(records(ran.stderr)[-1])


BROKEN = """
import sys
from recovery.cli import app
from recovery.data import Data
Data.at = classmethod(lambda *_: 1 / 0)
sys.exit(app.run(sys.argv[1:]))
"""


def test_a_fault_of_the_program_is_one_record_with_its_traceback(data: Path) -> None:
    command = [sys.executable, "-c", BROKEN, "--data", str(data), "status", *JSON]
    ran = subprocess.run(command, capture_output=True, text=True, env=ENVIRONMENT, check=False, timeout=60)
    assert (ran.returncode, ran.stdout) == (1, "")
    (told,) = records(ran.stderr)
    assert told["message"] == "ZeroDivisionError: division by zero"
    assert told["exception"].startswith("Traceback (most recent call last):\n")
    assert "1 / 0" in told["exception"] or "<lambda>" in told["exception"]


def test_nobody_reads_stderr_and_the_work_is_done(data: Path) -> None:
    alter_a_row(data)
    reading, writing = os.pipe()
    os.close(reading)
    for words in (JSON, ("--log-format", "text")):
        event = {"type": "memory.observation_added", "scope": "global", "entity": "Acme", "content": words[1]}
        with subprocess.Popen(
            arguments(data, "append", *words), stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=writing, text=True,
            env=ENVIRONMENT,
        ) as running:  # fmt: skip
            out, _ = running.communicate(json.dumps({"event": event}) + "\n", timeout=60)
        assert (running.returncode, "seq" in out) == (0, True), "opening repaired memory.db, and could not say so"
    os.close(writing)


# -- journal serve ----------------------------------------------------------------------------------------------------


@contextmanager
def served(data: Path, *words: str, env: dict[str, str] = ENVIRONMENT) -> Iterator[tuple[httpx.Client, list[str]]]:
    """`journal serve` with JSON logs: a client, and where its lines are once it has ended."""
    lines: list[str] = []
    transport = httpx.HTTPTransport(uds=str(data / "journal" / "control.sock"))
    with httpx.Client(transport=transport, base_url="http://journal", timeout=60) as client:
        with serving(data, *JSON, *words, env=env) as (running, line):
            yield client, lines
            running.send_signal(signal.SIGTERM)
            assert running.stderr is not None
            lines += [line, *running.stderr.readlines()]
        assert running.returncode == 0


def test_serve_logs_what_it_does(data: Path) -> None:
    with served(data) as (client, lines):
        assert client.post("/v1/checkpoint", json={}).status_code == 200
        alter_a_row(data)
        added = {"type": "memory.observation_added", "scope": "global", "entity": "Acme", "content": "secret plan"}
        assert client.post("/v1/append", json={"event": added}).status_code == 201
        assert client.post("/v1/checkpoint", json={}).status_code == 200
    told = records("".join(lines))
    messages = {each["message"].partition(" at seq")[0]: each for each in told}
    assert messages["a checkpoint"]["seq"] == SMALL + 2
    drift = messages["memory.db is not what the journal says"]
    assert (drift["level"], drift["logger"], drift["component"]) == ("WARNING", "agent-journal.checkpoints", "memory")
    assert messages["closed"]["logger"] == "agent-journal.command"
    assert "secret plan" not in "".join(lines)


def test_records_of_a_request_carry_the_ids_of_its_trace(data: Path) -> None:
    """A checkpoint below a real SDK's span, and a failure below a client's."""
    trace, parent = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
    with http_receiver() as backend:
        settings = {**ENVIRONMENT, "OTEL_EXPORTER_OTLP_ENDPOINT": backend.url, "OTEL_METRICS_EXPORTER": "none"}
        with served(data, env=settings) as (client, lines):
            assert client.post("/v1/checkpoint", json={}).status_code == 200
            os.replace(data / "journal" / "segments", data / "journal" / "elsewhere")
            answer = client.get("/v1/log", headers={"traceparent": f"00-{trace}-{parent}-01"})
            assert answer.status_code >= 500, answer.text
            os.replace(data / "journal" / "elsewhere", data / "journal" / "segments")
        spans = {span.span_id.hex(): span for span in backend.spans}
    told = records("".join(lines))
    (made,) = [each for each in told if each["message"].startswith("a checkpoint at")]
    assert spans[made["span_id"]].name == "journal.checkpoint"
    assert spans[made["span_id"]].trace_id.hex() == made["trace_id"]
    (failed,) = [each for each in told if each["logger"] == "agent-journal.control"]
    assert (failed["trace_id"], failed["span_id"], failed["status"]) == (trace, parent, answer.status_code)
    closed = told[-1]
    assert spans[closed["span_id"]].name == "journal serve", "the command is a span, too"


def test_text_stays_for_people(data: Path) -> None:
    alter_a_row(data)
    with serving(data) as (running, line):
        running.send_signal(signal.SIGTERM)
        assert running.stderr is not None
        lines = [line, *running.stderr.readlines()]
    assert all(each.startswith("journal: ") for each in lines), lines


# -- a server that embeds it ------------------------------------------------------------------------------------------

EMBEDDED = """
import logging, sys
from opentelemetry import trace
from opentelemetry.sdk.trace import TracerProvider
from recovery import open_server_sync
from recovery.logs import JsonFormatter
if "handler" in sys.argv:
    handler = logging.StreamHandler()
    handler.setFormatter(JsonFormatter())
    logging.getLogger("agent-journal").addHandler(handler)
    logging.getLogger("agent-journal").setLevel("INFO")
trace.set_tracer_provider(TracerProvider())
with trace.get_tracer("app").start_as_current_span("request") as span:
    print(f"{span.get_span_context().trace_id:032x}")
    with open_server_sync(sys.argv[1], background=False) as hook:
        hook.checkpoint()
"""


def embedded(data: Path, *words: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", EMBEDDED, str(data), *words]
    return subprocess.run(command, capture_output=True, text=True, env=ENVIRONMENT, check=True, timeout=60)


def test_an_embedded_server_says_what_it_repaired_to_who_listens(data: Path) -> None:
    alter_a_row(data)
    (data / "agents" / "writer.md").write_text("an edit by hand")
    ran = embedded(data, "handler")
    told = records(ran.stderr)
    assert {each["trace_id"] for each in told} == {ran.stdout.strip()}
    (repaired,) = [each for each in told if each["message"].startswith("recovered: ")]
    assert (repaired["level"], len(repaired["recovery_id"])) == ("WARNING", 16)
    (kept,) = [each for each in told if each.get("case") == "drift"]
    assert kept["component"] == "agent writer"
    assert [each["seq"] for each in told if each["message"].startswith("a checkpoint")]


def test_who_does_not_listen_hears_nothing(data: Path) -> None:
    """Python prints warnings that nobody handles: a library must not let it."""
    alter_a_row(data)
    assert embedded(data).stderr == ""


def test_records_of_others_are_records_too() -> None:
    """A foreign library's extras, an argument that cannot be formatted as JSON, an exception with a secret in it."""
    formatter = JsonFormatter(Redactor(patterns=(r"hunter\d",), fields=("password",)))
    try:
        raise ValueError("hunter2 is wrong")
    except ValueError:
        record = logging.LogRecord("uvicorn.error", logging.ERROR, "f.py", 1, "took %s\nof %r", ("é\ud800", {1}),
                                   sys.exc_info())  # fmt: skip
    record.password, record.ratio, record.when, record.many = "x", float("nan"), object, {"a": [1, {"password": "y"}]}
    line = formatter.format(record)
    assert "\n" not in line
    line.encode()
    told = json.loads(line)
    assert told["message"] == "took é\ud800\nof {1}"
    assert (told["password"], told["ratio"]) == ("[redacted]", "nan")
    assert told["many"] == {"a": [1, {"password": "[redacted]"}]}
    assert "[redacted] is wrong" in told["exception"]
    assert "hunter2" not in line
