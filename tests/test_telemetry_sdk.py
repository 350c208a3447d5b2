"""`journal serve` and the command send live spans and metrics where OTEL_* variables say so, and only there."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import httpx
import pytest

from recovery.data import Data
from recovery.records import entries
from recovery.telemetry.sdk import entry_point_of, exporters_of
from tests.commands import ENVIRONMENT, SMALL, process, small_history
from tests.holders import serving
from tests.otlp import Receiver, http_receiver

CLIENT = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"
ADDED = {"type": "memory.observation_added", "scope": "global", "entity": "Acme", "content": "over HTTP"}


@pytest.fixture
def data(tmp_path: Path) -> Path:
    small_history(tmp_path / "data")
    return tmp_path / "data"


def asking(receiver: Receiver, **more: str) -> dict[str, str]:
    return {**ENVIRONMENT, "OTEL_EXPORTER_OTLP_ENDPOINT": receiver.url, "OTEL_METRIC_EXPORT_INTERVAL": "200", **more}


def by_socket(data: Path) -> httpx.Client:
    transport = httpx.HTTPTransport(uds=str(data / "journal" / "control.sock"))
    return httpx.Client(transport=transport, base_url="http://journal", timeout=60)


def points(receiver: Receiver, name: str) -> list[Any]:
    """Of the last time that this metric was sent."""
    found: list[Any] = []
    for request in list(receiver.metrics):
        for metric in request.resource_metrics[0].scope_metrics[0].metrics:
            if metric.name == name:
                data = getattr(metric, metric.WhichOneof("data"))
                found = list(data.data_points)
    return found


def test_serve_sends_spans_below_its_clients_and_metrics(data: Path) -> None:
    (data / "memory.db").unlink()
    assert process(data, "recover", "all", "--yes").returncode == 0
    with http_receiver() as receiver:
        with serving(data, env=asking(receiver)), by_socket(data) as client:
            for number in range(3):
                event = {"event": {**ADDED, "content": f"number {number}"}}
                answer = client.post("/v1/append", json=event, headers={"traceparent": CLIENT})
                assert answer.status_code == 201
            assert client.post("/v1/append", json={"event": ADDED}, headers={"traceparent": "junk"}).status_code == 201
            receiver.wait_for(lambda it: any(each.as_int == 4 for each in points(it, "journal.appended_events")))
        (recovery,) = points(receiver, "journal.recovery_time")
        assert (recovery.count, len(recovery.explicit_bounds)) == (1, 15), "the history with it, in buckets that fit"
        (lag,), (writable,) = points(receiver, "journal.position_lag"), points(receiver, "journal.writable")
        assert writable.as_int in (0, 1)
        assert lag.as_int == 0
        appends = [span for span in receiver.spans if span.name == "create_memory"]
        of_client = [span for span in appends if span.trace_id.hex() == CLIENT[3:35]]
        assert (len(appends), len(of_client)) == (4, 3)
        assert {span.parent_span_id.hex() for span in of_client} == {CLIENT[36:52]}
        resource = str(receiver.requests[0].resource_spans[0].resource)
        assert "agent-journal" in resource
    written = [entry.record for entry in entries(Data.at(data).reader().batches()) if entry.seq > SMALL]
    added = [record.traceparent for record in written if record.event.type_name == ADDED["type"]]
    assert added[:3] == [CLIENT] * 3, "what came with the request is journaled"
    assert added[3] != "junk"


def test_a_recovery_by_the_command_is_a_trace(data: Path) -> None:
    (data / "memory.db").unlink()
    with http_receiver() as receiver:
        ran = process(data, "recover", "all", "--yes", env=asking(receiver, OTEL_SERVICE_NAME="night shift"))
        assert ran.returncode == 0, ran.stderr
        spans = {span.name: span for span in receiver.spans}
        root, recovery, step = (spans[f"journal{name}"] for name in (" recover", ".recovery", ".recovery.step"))
        assert recovery.parent_span_id == root.span_id
        assert step.parent_span_id == recovery.span_id
        assert "night shift" in str(receiver.requests[0].resource_spans[0].resource)


def test_a_backend_that_is_not_there_costs_no_recovery(data: Path) -> None:
    (data / "memory.db").unlink()
    with http_receiver() as receiver:
        pass
    settings = asking(receiver, OTEL_EXPORTER_OTLP_TIMEOUT="1", OTEL_TRACES_EXPORTER="otlp,zipkin")
    ran = process(data, "recover", "all", "--yes", env=settings)
    assert ran.returncode == 0
    assert "no traces go to 'zipkin'" in ran.stderr
    assert "Traceback (most" not in ran.stderr
    assert process(data, "check").returncode == 0


@pytest.mark.parametrize(
    ("environment", "traces"),
    [
        ({}, []),
        ({"OTEL_SERVICE_NAME": "x"}, []),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": "http://b"}, ["otlp"]),
        ({"OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": "http://b"}, ["otlp"]),
        ({"OTEL_EXPORTER_OTLP_METRICS_ENDPOINT": "http://b"}, []),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": "http://b", "OTEL_TRACES_EXPORTER": "none"}, []),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": "http://b", "OTEL_SDK_DISABLED": "TRUE"}, []),
        ({"OTEL_TRACES_EXPORTER": "console, otlp"}, ["console", "otlp"]),
    ],
)
def test_the_variables_say_what_is_sent(environment: dict[str, str], traces: list[str]) -> None:
    assert exporters_of("traces", environment) == traces


def test_the_protocol_of_a_signal_holds_over_the_general_one() -> None:
    environment = {"OTEL_EXPORTER_OTLP_PROTOCOL": "grpc", "OTEL_EXPORTER_OTLP_TRACES_PROTOCOL": "http/protobuf"}
    assert entry_point_of("otlp", "traces", environment) == "otlp_proto_http"
    assert entry_point_of("otlp", "metrics", environment) == "otlp_proto_grpc"
