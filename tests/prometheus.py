"""A real Prometheus (Debian's package) on loopback, set up as docs/dashboards/README.md says, and what it answers."""

from __future__ import annotations

import re
import shutil
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml

from tests.commands import ROOT

DASHBOARDS = ROOT / "docs" / "dashboards"
NEEDED = pytest.mark.skipif(
    shutil.which("prometheus") is None or shutil.which("promtool") is None,
    reason="prometheus is not installed (apt install prometheus)",
)
SECONDS = 60.0
SCRAPE = "2s"  # and a scrape that takes longer has failed
SETTLED_SECONDS = 5.0
"""No scrape of so long ago is under way: what there was then stays, however slow the machine is."""


def configuration(token: Path, target: str) -> dict[str, Any]:
    """The block of the documents, with this token and this target, and seconds for minutes."""
    text = (DASHBOARDS / "README.md").read_text(encoding="utf-8")
    found = re.search(r"^```yaml\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
    assert found is not None
    parsed: dict[str, Any] = yaml.safe_load(found[1])
    (job,) = parsed["scrape_configs"]
    job["authorization"]["credentials_file"] = str(token)
    job["static_configs"][0]["targets"] = [target]
    return {**parsed, "rule_files": [str(DASHBOARDS / "alerts.yml")],
            "global": {"scrape_interval": SCRAPE, "evaluation_interval": "1s"}}  # fmt: skip


class Prometheus:
    def __init__(self, client: httpx.Client, running: subprocess.Popen[str]) -> None:
        self._client = client
        self._running = running
        self._at: float | None = None

    def ask(self, path: str, **params: str) -> Any:
        answer = self._client.get(f"/api/v1/{path}", params=params).json()
        assert answer["status"] == "success", f"{params}: {answer}"
        return answer["data"]

    def series(self, query: str) -> list[tuple[dict[str, str], float]]:
        """Labels and value of each series that the query has now, or had at the moment that `settle` found."""
        moment = {} if self._at is None else {"time": str(self._at)}
        found = self.ask("query", query=query, **moment)["result"]
        return [(each["metric"], float(each["value"][1])) for each in found]

    def settle(self, query: str) -> None:
        """Asks everything from here on of one moment at which the query had a value."""
        until, self._at = time.monotonic() + SECONDS, time.time() - SETTLED_SECONDS
        while not self.series(query):
            assert time.monotonic() < until, f"{query} has no value; targets: {self.ask('targets')}"
            time.sleep(0.2)
            self._at = time.time() - SETTLED_SECONDS

    def wait_for(self, query: str, *, found: Callable[[float], bool] = bool) -> None:
        """Polls: a Prometheus does not say when it has scraped."""
        until, seen = time.monotonic() + SECONDS, None
        while time.monotonic() < until and self._running.poll() is None:
            try:
                seen = self.series(query)
                if seen and all(found(value) for _, value in seen):
                    return
            except (httpx.TransportError, ValueError):  # not listening yet, or 503 while it starts
                pass
            time.sleep(0.2)
        raise AssertionError(f"{query} is {seen} still; targets: {self._client.get('/api/v1/targets').text}")


@contextmanager
def prometheus(place: Path, token: Path, target: str) -> Iterator[Prometheus]:
    """One that scrapes `target` each second, with the rules of docs/dashboards."""
    config = place / "prometheus.yml"
    config.write_text(yaml.safe_dump(configuration(token, target)))
    with socket.create_server(("127.0.0.1", 0)) as free:
        address = f"127.0.0.1:{free.getsockname()[1]}"
    command = ["prometheus", f"--config.file={config}", f"--storage.tsdb.path={place / 'tsdb'}",
               f"--web.listen-address={address}", "--log.level=error"]  # fmt: skip
    with (
        subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True) as running,
        httpx.Client(base_url=f"http://{address}", timeout=10) as client,
    ):
        try:
            yield Prometheus(client, running)
        finally:
            running.terminate()
            running.communicate(timeout=60)
