"""`journal serve` and the command send live spans and metrics where OTEL_* variables say so, and only there."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import httpx
import pytest

from recovery.data import Data
from recovery.records import entries
from recovery.telemetry.metrics import METRICS
from recovery.telemetry.sdk import entry_point_of, exporters_of
from tests.commands import ENVIRONMENT, SMALL, process, small_history
from tests.holders import serving
from tests.otlp import Receiver, http_receiver

CLIENT = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"
ADDED = {"type": "memory.observation_added", "scope": "global", "entity": "Acme", "content": "over HTTP"}


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


EMBEDDED = """
import json, sys, anyio
from opentelemetry import metrics
from opentelemetry.exporter.otlp.proto.http.metric_exporter import OTLPMetricExporter
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader, PeriodicExportingMetricReader
from opentelemetry.sdk.resources import Resource
from journal.events import *
from recovery import open_server, open_server_sync
from recovery.worker import open_worker

reader = InMemoryMetricReader()
sending = PeriodicExportingMetricReader(OTLPMetricExporter(sys.argv[1] + "/v1/metrics"), 3_600_000)
provider = MeterProvider([reader, sending], resource=Resource.create({"service.name": "the-application"}))
metrics.set_meter_provider(provider)

def told():
    found = {}
    for of_resource in reader.get_metrics_data().resource_metrics:
        for of_scope in of_resource.scope_metrics:
            for metric in of_scope.metrics:
                for point in metric.data.data_points:
                    value = point.count if hasattr(point, "count") else point.value
                    key = "|".join([metric.name, *map(str, dict(point.attributes).values())])
                    assert key not in found, "two points of one journal"
                    found[key] = value
    return found

def one(path, number):
    with open_server_sync(path, background=False) as hook:
        for each in range(number):
            hook.append(ObservationAdded("global", "Acme", f"{number} {each}"))
        hook.checkpoint()
        found = told()
        provider.force_flush()
        return found

async def other(path):
    async with open_server(path, background=False) as hook:
        await hook.append(ObservationAdded("global", "Acme", "by a task"))
        return await anyio.to_thread.run_sync(told)

def elected(path):
    with open_worker(path) as worker:
        worker.append(ObservationAdded("global", "Acme", "by a worker"))
        return told()

first, second = sys.argv[2:]
runs = [one(first, 3), told(), one(first, 4), anyio.run(other, second), elected(second)]
print(json.dumps(runs))
provider.shutdown()
"""


def test_a_server_that_embeds_it_measures_through_its_own_provider(tmp_path: Path) -> None:
    """The application's MeterProvider, in-process and over OTLP; a journal that is opened again, and another one."""
    first, second = tmp_path / "first", tmp_path / "second"
    small_history(first)
    (first / "memory.db").unlink()
    assert process(first, "recover", "all", "--yes").returncode == 0
    assert process(second, "init").returncode == 0
    acme = {"event": {"type": "memory.entity_created", "scope": "global", "name": "Acme", "entity_type": "company"}}
    assert process(second, "append", input=json.dumps(acme) + "\n").returncode == 0
    ids = {path: Data.at(path).reader().journal_id.hex() for path in (first, second)}
    with http_receiver() as receiver:
        command = [sys.executable, "-c", EMBEDDED, receiver.url, str(first), str(second)]
        ran = subprocess.run(command, capture_output=True, text=True, env=ENVIRONMENT, timeout=120, check=False)
        assert (ran.returncode, ran.stderr) == (0, ""), "no warning of an instrument that is made twice"
        opened, closed, again, another, worked = json.loads(ran.stdout)
        sent = {metric.name: metric for request in receiver.metrics
                for metric in request.resource_metrics[0].scope_metrics[0].metrics}  # fmt: skip
        assert "the-application" in str(receiver.metrics[0].resource_metrics[0].resource)

    def of(run: dict[str, float], name: str, *labels: str, journal: Path = first) -> float | None:
        return run.get("|".join([f"journal.{name}", ids[journal], *labels]))

    assert of(opened, "appended_events") == 3, "the checkpoint's own record is no caller's"
    assert of(opened, "recovery_time", "completed") == of(opened, "recovery_attempts", "all") == 1
    assert (of(opened, "writable"), of(opened, "position_lag")) == (1, 0)
    assert of(closed, "appended_events") is None, "nobody can say where a closed journal stands"
    assert of(again, "appended_events") == 3 + 4, "it goes on counting: a counter does not go back"
    assert of(again, "append_duration") == 3 + 4
    assert of(again, "recovery_time", "completed") == 1, "the history is not told twice"
    assert of(again, "checkpoint_size") == 2
    assert of(another, "appended_events", journal=second) == 1
    assert of(another, "appended_events") is None
    assert of(worked, "appended_events", journal=second) == 2, "and who is elected of several workers"
    known = {metric.name: metric for metric in METRICS}
    assert set(sent) <= set(known)
    assert len(sent) > 20
    for name, metric in sent.items():
        assert (metric.unit, metric.description) == (known[name].unit or "1", known[name].words)


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
