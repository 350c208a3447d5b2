"""Rotel, a real OpenTelemetry Collector, on loopback: takes OTLP by gRPC and hands it on. In an environment of its own
(`make backends`).
"""

from __future__ import annotations

import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.command import ENVIRONMENT, ROOT
from tests.daemons import free_port

INSTALLED = ROOT / ".venv-rotel"
MISSING = not (INSTALLED / ".ready").exists()
SECONDS = 60.0


class RotelCollector:
    """One port; what listens there may be killed and started again. It hands on to `target` by OTLP over HTTP."""

    def __init__(self, place: Path, target: str, header: str = "") -> None:
        self.log = place / "rotel.log"
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self._target = target
        self._header = header
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Returns once it listens."""
        (agent,) = INSTALLED.glob("lib/python*/site-packages/rotel/rotel-agent")
        command = [str(agent), "start", "--otlp-grpc-endpoint", f"127.0.0.1:{self.port}",
                   "--otlp-http-endpoint", f"127.0.0.1:{free_port()}", "--exporter", "otlp",
                   "--otlp-exporter-endpoint", self._target, "--otlp-exporter-protocol", "http",
                   "--otlp-exporter-request-timeout", "30s"]  # fmt: skip
        if self._header:
            command += ["--otlp-exporter-custom-headers", self._header]
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=ENVIRONMENT
            )
        until = time.monotonic() + SECONDS
        while not self._listens():
            assert self._process.poll() is None, self.log.read_text()
            assert time.monotonic() < until, self.log.read_text()
            time.sleep(0.05)

    def kill(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait(60)
            self._process = None

    def _listens(self) -> bool:
        try:
            socket.create_connection(("127.0.0.1", self.port), 1).close()
        except OSError:
            return False
        return True


@contextmanager
def rotel_collector(place: Path, target: str, header: str = "") -> Iterator[RotelCollector]:
    collector = RotelCollector(place, target, header)
    try:
        collector.start()
        yield collector
    finally:
        collector.kill()
