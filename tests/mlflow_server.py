"""A real MLflow server on loopback, in an environment of its own (`make backends`), and what its API gives back."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
from google.protobuf import json_format
from opentelemetry.proto.trace.v1.trace_pb2 import Span

from tests.command import ENVIRONMENT, ROOT
from tests.daemons import free_port

INSTALLED = ROOT / ".venv-mlflow"
MISSING = not (INSTALLED / ".ready").exists()
EXPERIMENT = "0"
HEADER = f"x-mlflow-experiment-id={EXPERIMENT}"
SECONDS = 400.0  # on a machine that does much else, its imports alone take minutes
_OURS = {"MLFLOW_DISABLE_TELEMETRY": "true", "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}


class MlflowServer:
    """One store in a directory, one port; what serves it may be killed and started again."""

    def __init__(self, store: Path) -> None:
        self.store = store
        self.log = store / "server.log"
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Returns once it answers."""
        command = [str(INSTALLED / "bin" / "mlflow"), "server", "--host", "127.0.0.1", "--port", str(self.port),
                   "--workers", "1", "--backend-store-uri", f"sqlite:///{self.store / 'mlflow.db'}",
                   "--artifacts-destination", str(self.store / "artifacts")]  # fmt: skip
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, cwd=self.store, env=ENVIRONMENT | _OURS,
                start_new_session=True,
            )  # fmt: skip
        until = time.monotonic() + SECONDS
        while not self._answers():
            assert self._process.poll() is None, self.log.read_text()
            assert time.monotonic() < until, self.log.read_text()
            time.sleep(0.1)

    def kill(self) -> None:
        """SIGKILL to the server and all that it started."""
        if self._process is not None:
            os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait(60)
            self._process = None

    def _answers(self) -> bool:
        try:
            return httpx.get(f"{self.url}/health", timeout=2).status_code == 200
        except httpx.TransportError:
            return False

    # -- what it has --------------------------------------------------------------------------------------------------

    def requests_taken(self) -> int:
        """How many export requests it has answered with 200 since it has this store, by its own log."""
        return self.log.read_text().count('"POST /v1/traces HTTP/1.1" 200')

    def wait_until_taken(self, count: int) -> None:
        until = time.monotonic() + SECONDS
        while self.requests_taken() < count:
            assert time.monotonic() < until, self.log.read_text()
            time.sleep(0.01)

    def spans(self) -> list[Span]:
        """Every span of every trace, as its API tells them; those that it has twice come twice."""
        with httpx.Client(base_url=f"{self.url}/api/3.0/mlflow/traces", timeout=60) as client:
            return [span for trace in self._traces(client) for span in self._read(client, trace)]

    def _traces(self, client: httpx.Client) -> Iterator[str]:
        place = {"type": "MLFLOW_EXPERIMENT", "mlflow_experiment": {"experiment_id": EXPERIMENT}}
        asked: dict[str, Any] = {"locations": [place], "max_results": 100}
        while True:
            answer = client.post("/search", json=asked).raise_for_status().json()
            yield from (trace["trace_id"] for trace in answer.get("traces", []))
            if not answer.get("next_page_token"):
                return
            asked["page_token"] = answer["next_page_token"]

    def _read(self, client: httpx.Client, trace: str) -> Iterator[Span]:
        answer = client.get("/get", params={"trace_id": trace}).raise_for_status().json()
        for told in answer["trace"]["spans"]:
            yield json_format.ParseDict(told, Span())


@contextmanager
def mlflow_server(store: Path) -> Iterator[MlflowServer]:
    store.mkdir()
    server = MlflowServer(store)
    try:
        server.start()
        yield server
    finally:
        server.kill()
