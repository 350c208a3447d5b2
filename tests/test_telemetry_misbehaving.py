"""Backends that are none, or say odd things, and what an export makes of it: one line that helps, and nothing lost.

Each test has a real server on loopback, most of them one that answers with raw bytes.
"""

from __future__ import annotations

import shutil
import socket
import ssl
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

import grpc
import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceResponse
from opentelemetry.proto.collector.trace.v1.trace_service_pb2_grpc import (
    TraceServiceServicer,
    add_TraceServiceServicer_to_server,
)

from recovery.data import Data
from tests.commands import SMALL, Command, process
from tests.otlp import Told, grpc_receiver, http_receiver
from tests.raw_server import answer, certificate, raw_server

SECRET = "hunter2-and-more"
TAKEN = answer(ExportTraceServiceResponse().SerializeToString())
needs_openssl = pytest.mark.skipif(shutil.which("openssl") is None, reason="openssl is not installed")


def has_cursor(data: Path) -> bool:
    return Data.at(data).reader().last_seq > SMALL


@pytest.mark.parametrize("protocol", ["http", "grpc"])
@pytest.mark.parametrize(
    "url",
    ["http://127.0.0.1:99999", "http://127.0.0.1:port", "http://127.0.0.1:0", "http://[::1", "http://" + "a" * 64,
     "http://..", "http://a b", "http://127.0.0.1:1\n", "ftp://127.0.0.1", "http://", ""],
)  # fmt: skip
def test_an_address_that_is_none_is_told_in_one_line(journal: Command, url: str, protocol: str) -> None:
    ran = journal("trace", "export", "--endpoint", url, "--protocol", protocol)
    assert (ran.code, len(ran.err.splitlines())) == (2, 1)
    assert "--endpoint takes" in ran.err


@pytest.mark.parametrize(
    ("said", "told"),
    [
        (answer(b"<!doctype html><p>Welcome!</p>", kind="text/html; charset=utf-8"), "web page"),
        (answer(b"\xff\xff\xff\xff"), "not OTLP's"),
        (answer(b"not JSON", kind="application/json"), "not OTLP's"),
        (answer(b"no gzip", more="Content-Encoding: gzip\r\n"), "garbled"),
        (b"SSH-2.0-OpenSSH_9.2\r\n", "no HTTP"),
        (answer(status="404 Not Found"), "404"),
    ],
)
def test_a_server_that_is_no_backend_takes_nothing(data: Path, journal: Command, said: bytes, told: str) -> None:
    """Each says 200, or nothing of HTTP: were it believed, the history would be gone from view without a word."""
    with raw_server(said) as (place, heads):
        ran = journal("trace", "export", "--endpoint", f"http://{place}")
        assert (ran.code, len(ran.err.splitlines()), len(heads)) == (1, 1, 1)
    assert told in ran.err
    assert not has_cursor(data)


def test_http_where_grpc_is_spoken_and_the_other_way_round(data: Path, journal: Command) -> None:
    with grpc_receiver() as receiver:
        ran = journal("trace", "export", "--endpoint", receiver.url, "--patience", "0")
        assert (ran.code, "--protocol grpc" in ran.err) == (1, True), ran.err
    with raw_server(answer(status="400 Bad Request")) as (place, _):
        ran = journal("trace", "export", "--endpoint", f"http://{place}", "--protocol", "grpc", "--patience", "0")
        assert ran.code == 1
    assert not has_cursor(data)


@pytest.mark.parametrize("kind", ["application/json", "application/json; charset=utf-8"])
def test_an_answer_in_json_counts_as_well(journal: Command, kind: str) -> None:
    said = answer(b'{"partialSuccess": {"rejectedSpans": "3", "errorMessage": "too\\nold"}, "other": 1}', kind=kind)
    with raw_server(said) as (place, _):
        ran = journal("trace", "export", "--endpoint", f"http://{place}", "--json")
    assert (ran.code, ran.json()["spans"], ran.json()["rejected"]) == (3, SMALL - 3, 3)
    assert len(ran.err.splitlines()) == 1
    assert "too old" in ran.err


@pytest.mark.parametrize("said", [answer(), answer(b"ok", kind="text/plain"), answer(b"{}", kind="application/json"),
                                  b"HTTP/1.1 204 No Content\r\n\r\n"])  # fmt: skip
def test_a_yes_is_a_yes_in_whatever_form(data: Path, journal: Command, said: bytes) -> None:
    with raw_server(said) as (place, _):
        assert journal.json("trace", "export", "--endpoint", f"http://{place}")["spans"] == SMALL
    assert has_cursor(data)


def test_a_warning_of_a_backend_that_took_all_is_passed_on(journal: Command) -> None:
    warning = ExportTraceServiceResponse()
    warning.partial_success.error_message = "attribute x is deprecated"
    with raw_server(answer(warning.SerializeToString())) as (place, _):
        ran = journal("trace", "export", "--endpoint", f"http://{place}")
    assert ran.code == 0
    assert "attribute x is deprecated" in ran.err


def test_what_an_error_says_is_told_without_the_token_that_it_repeats(journal: Command) -> None:
    said = b'{"detail": [{"msg": "header x-mlflow-experiment-id is missing, got Bearer %s \\u001b[31m"}]}'
    refusal = answer(said % SECRET.encode(), status="422 Unprocessable Entity", kind="application/json")
    with raw_server(refusal) as (place, _):
        words = ["--endpoint", f"http://{place}", "--header", f"authorization=Bearer {SECRET}"]
        ran = journal("trace", "export", *words)
    assert ran.code == 1
    assert "422" in ran.err
    assert "header x-mlflow-experiment-id is missing" in ran.err
    assert SECRET not in ran.err
    assert "\x1b" not in ran.err


def test_an_answer_that_drips_in_is_given_up(journal: Command) -> None:
    """Each byte comes in time, and the whole never would: what waits for the end waits for ever."""
    hung_up = threading.Event()

    def drip(connection: socket.socket) -> None:
        connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 600\r\n\r\n")
        with suppress(OSError):
            for _ in range(600):
                connection.sendall(b"x")
                if hung_up.wait(0.1):
                    return
            return
        hung_up.set()

    with raw_server(drip) as (place, _):
        ran = journal("trace", "export", "--endpoint", f"http://{place}", "--timeout", "0.5", "--patience", "0")
        assert ran.code == 1
        assert "does not end" in ran.err
        assert hung_up.wait(60), "the connection was left before the answer was whole"


@pytest.mark.parametrize("cut", [b"", b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nabc",
                                 b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nab"])  # fmt: skip
def test_an_answer_that_is_cut_off_is_none(data: Path, journal: Command, cut: bytes) -> None:
    with raw_server(cut, TAKEN) as (place, heads):
        told = journal.json("trace", "export", "--endpoint", f"http://{place}")
    assert (told["spans"], told["retries"], len(heads)) == (SMALL, 1, 2)


@pytest.mark.parametrize("protocol", ["http", "grpc"])
def test_a_backend_to_which_everything_is_too_large_has_not_rejected_it(
    data: Path, journal: Command, protocol: str
) -> None:
    """A limit of nothing, or a quota: were each span counted as rejected, the cursor would pass them all."""
    with http_receiver() if protocol == "http" else grpc_receiver() as receiver:
        receiver.script = [Told(413) for _ in range(100)]
        ran = journal("trace", "export", "--endpoint", receiver.url, "--protocol", protocol)
        assert (ran.code, len(ran.err.splitlines())) == (1, 1)
        assert len(receiver.asked) < 6
        assert not has_cursor(data)
        receiver.script = []
        told = journal.json("trace", "export", "--endpoint", receiver.url, "--protocol", protocol)
        assert told["spans"] == SMALL


# -- who we are, and whom we trust ------------------------------------------------------------------------------------


def test_a_netrc_does_not_take_the_place_of_a_header(
    journal: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    netrc = tmp_path / "netrc"
    netrc.write_text("machine 127.0.0.1 login eve password other\n")
    netrc.chmod(0o600)
    monkeypatch.setenv("NETRC", str(netrc))
    with raw_server(TAKEN) as (place, heads):
        journal.json("trace", "export", "--endpoint", f"http://{place}", "--header", f"Authorization=Bearer {SECRET}")
        journal.json("trace", "export", "--endpoint", f"http://{place}", "--since", "1")
        journal.json("trace", "export", "--endpoint", f"http://ann:p%40ss@{place}", "--since", "1")
    first, second, third = (head.decode().lower() for head in heads)
    assert f"authorization: bearer {SECRET}" in first
    assert "authorization" not in second
    assert "authorization: basic yw5uonbac3m=" in third, "what the URL names is sent"


@needs_openssl
def test_a_certificate_that_does_not_hold_is_refused_at_once_and_one_can_be_trusted(
    data: Path, journal: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trusted, key = certificate(tmp_path, "server")
    other, _ = certificate(tmp_path, "other")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(trusted, key)
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(other))
    with raw_server(TAKEN, tls=context) as (place, heads):
        ran = journal("trace", "export", "--endpoint", f"https://{place}")
        assert (ran.code, len(ran.err.splitlines()), len(heads)) == (1, 1, 0)
        assert "OTEL_EXPORTER_OTLP_CERTIFICATE" in ran.err
        assert not has_cursor(data)
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_CERTIFICATE", str(trusted))
        assert journal.json("trace", "export", "--endpoint", f"https://{place}")["spans"] == SMALL
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_TRACES_CERTIFICATE", str(tmp_path / "missing.pem"))
        ran = journal("trace", "export", "--endpoint", f"https://{place}")
        assert (ran.code, "missing.pem" in ran.err) == (2, True)


@needs_openssl
@pytest.mark.parametrize("protocol", ["http", "grpc"])
def test_a_backend_that_asks_who_we_are_is_shown_our_certificate(
    journal: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, protocol: str
) -> None:
    trusted, key = certificate(tmp_path, "server")
    ours, our_key = certificate(tmp_path, "client")
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_CERTIFICATE", str(trusted))
    if protocol == "http":
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(trusted, key)
        context.load_verify_locations(ours)
        context.verify_mode = ssl.CERT_REQUIRED
        with raw_server(TAKEN, tls=context) as (place, _):
            _shown(journal, place, protocol, ours, our_key, monkeypatch)
        return

    class Service(TraceServiceServicer):
        def Export(self, request: object, context: object) -> ExportTraceServiceResponse:
            return ExportTraceServiceResponse()

    server = grpc.server(ThreadPoolExecutor(2))
    add_TraceServiceServicer_to_server(Service(), server)
    credentials = grpc.ssl_server_credentials([(key.read_bytes(), trusted.read_bytes())], ours.read_bytes(), True)
    port = server.add_secure_port("127.0.0.1:0", credentials)
    server.start()
    try:
        _shown(journal, f"127.0.0.1:{port}", protocol, ours, our_key, monkeypatch)
    finally:
        server.stop(0).wait()


def _shown(
    journal: Command, place: str, protocol: str, ours: Path, our_key: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = ["trace", "export", "--endpoint", f"https://{place}", "--protocol", protocol]
    assert journal(*words, "--patience", "0").code == 1, "without one it takes nothing"
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_CLIENT_CERTIFICATE", str(ours))
    assert journal(*words).code == 2, "and no key"
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_CLIENT_KEY", str(our_key))
    assert journal.json(*words)["spans"] == SMALL


@needs_openssl
def test_grpc_says_that_a_certificate_does_not_hold_and_nothing_besides(data: Path, tmp_path: Path) -> None:
    trusted, key = certificate(tmp_path, "server")
    server = grpc.server(ThreadPoolExecutor(2))
    port = server.add_secure_port(
        "127.0.0.1:0", grpc.ssl_server_credentials([(key.read_bytes(), trusted.read_bytes())])
    )
    server.start()
    try:
        ran = process(data, "trace", "export", "--endpoint", f"https://127.0.0.1:{port}", "--protocol", "grpc")
    finally:
        server.stop(0).wait()
    assert ran.returncode == 1
    assert "OTEL_EXPORTER_OTLP_CERTIFICATE" in ran.stderr
    assert len(ran.stderr.splitlines()) == 1, "the library's own lines are not ours"


def test_the_standard_variables_choose_protocol_and_compression(
    journal: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OTEL_TRACES_EXPORTER", "none")
    monkeypatch.setenv("OTEL_METRICS_EXPORTER", "none")
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_COMPRESSION", "gzip")
    with grpc_receiver() as receiver:
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", receiver.url)
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_PROTOCOL", "grpc")
        assert journal.json("trace", "export")["spans"] == SMALL
        assert len(receiver.spans) == SMALL
    with http_receiver() as receiver:
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", receiver.url)
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_PROTOCOL", "http/protobuf")
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_HEADERS", "x-tenant=green,x-site=a%20b")
        assert journal.json("trace", "export", "--header", "X-Tenant=blue")["spans"] == SMALL
        headers = receiver.asked[0][1]
        assert (headers["content-encoding"], headers["x-tenant"], headers["x-site"]) == ("gzip", "blue", "a b")
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_COMPRESSION", "zip")
    assert journal("trace", "export").code == 2
