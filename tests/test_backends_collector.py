"""A history with a crash and a recovery goes by gRPC to a real OpenTelemetry Collector, and from there on.

`make test-backends` installs the collector and runs these; elsewhere they are skipped. Behind it stands a receiver that
decodes what the collector sends, or MLflow.
"""

from __future__ import annotations

import json
import subprocess
import time
from pathlib import Path
from typing import Any

import pytest

from tests import mlflow_server as mlflow
from tests import rotel_collector as rotel
from tests.commands import ENVIRONMENT, arguments
from tests.daemons import free_port
from tests.incident import documented, exported, incident, leaving
from tests.mlflow_server import HEADER, mlflow_server
from tests.otlp import Receiver, http_receiver
from tests.rotel_collector import RotelCollector, rotel_collector
from tests.span_facts import assert_same
from tests.test_backends_mlflow import ADDED, DROPPED

pytestmark = [
    pytest.mark.backends,
    pytest.mark.skipif(rotel.MISSING, reason="Rotel is not installed beside the project: make test-backends"),
    pytest.mark.xdist_group("rotel"),
]


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("incident") / "data"
    incident(path, groups=4)
    return path


@pytest.fixture(scope="module")
def sent(data: Path) -> list[Any]:
    return leaving(data)


def by_grpc(collector: RotelCollector) -> list[str]:
    return [*documented("A collector, and what is behind it", collector.url), "--since", "1"]


def wait_for_all(receiver: Receiver, count: int) -> None:
    """The collector answers first and delivers afterwards."""
    receiver.wait_for(lambda it: len(it.spans) >= count)


def test_every_byte_of_every_span_passes_through(data: Path, sent: list[Any], tmp_path: Path) -> None:
    with http_receiver() as receiver, rotel_collector(tmp_path, receiver.url) as collector:
        assert exported(data, *by_grpc(collector))["spans"] == len(sent)
        wait_for_all(receiver, len(sent))
        assert_same(receiver.spans, sent)
        assert sorted(span.SerializeToString() for span in receiver.spans) == sorted(
            span.SerializeToString() for span in sent
        )
        (resource,) = {str(each.resource) for request in receiver.requests for each in request.resource_spans}
        assert "service.instance.id" in resource
        receiver.requests.clear()
        assert exported(data, *by_grpc(collector))["spans"] == len(sent)
        wait_for_all(receiver, len(sent))
        assert_same(receiver.spans, sent)  # the same ids again


def test_a_collector_that_comes_late_costs_time_and_nothing_else(
    data: Path, sent: list[Any], tmp_path: Path
) -> None:
    with http_receiver() as receiver:
        collector = RotelCollector(tmp_path, receiver.url)
        command = arguments(data, "trace", "export", "--json", *by_grpc(collector), "--patience", "120")
        piped = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
        with subprocess.Popen(command, env=ENVIRONMENT, **piped) as run:
            assert run.stderr is not None
            assert "UNAVAILABLE" in run.stderr.readline()
            try:
                collector.start()
                out, err = run.communicate(timeout=120)
                assert run.returncode == 0, err
                told = json.loads(out)
                assert (told["spans"], told["retries"] > 0) == (len(sent), True)
                wait_for_all(receiver, len(sent))
            finally:
                collector.kill()
        assert_same(receiver.spans, sent)


def test_what_a_collector_took_and_lost_is_sent_again_by_since(data: Path, sent: list[Any], tmp_path: Path) -> None:
    """A collector that keeps its queue in memory says yes before it has delivered: killed then, it has lost spans that
    the cursor counts as taken. The journal still has them."""
    port = free_port()
    with rotel_collector(tmp_path, f"http://127.0.0.1:{port}") as collector:
        assert exported(data, *by_grpc(collector))["spans"] == len(sent)
        collector.kill()
        with http_receiver(port) as receiver:
            collector.start()
            assert exported(data, *by_grpc(collector)[:-2])["spans"] == 0, "as far as anyone could tell, it has all"
            assert exported(data, *by_grpc(collector))["spans"] == len(sent)
            wait_for_all(receiver, len(sent))
            assert_same(receiver.spans, sent)


@pytest.mark.skipif(mlflow.MISSING, reason="MLflow is not installed beside the project: make test-backends")
def test_by_grpc_through_a_collector_into_mlflow(data: Path, sent: list[Any], tmp_path: Path) -> None:
    """The way that docs/telemetry.md shows for a backend that speaks no gRPC itself."""
    with (
        mlflow_server(tmp_path / "store") as server,
        rotel_collector(tmp_path, server.url, header=HEADER) as collector,
    ):
        assert exported(data, *by_grpc(collector))["spans"] == len(sent)
        until = time.monotonic() + 120
        while len(got := server.spans()) < len(sent) and time.monotonic() < until:
            time.sleep(0.5)
        assert_same(got, sent, changed=DROPPED | ADDED)
