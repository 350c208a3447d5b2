"""A real Prometheus scrapes a real `journal serve`, token and all, and its queries have answers."""

from __future__ import annotations

import re
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from recovery.telemetry.metrics import METRICS
from tests.commands import process, small_history
from tests.holders import serving

pytestmark = pytest.mark.skipif(shutil.which("prometheus") is None, reason="prometheus is not installed")

CONFIG = """
global: {{scrape_interval: 1s}}
scrape_configs:
  - job_name: journal
    authorization: {{credentials_file: {token}}}
    static_configs: [{{targets: ["{target}"]}}]
"""


@pytest.fixture(scope="module")
def prometheus(tmp_path_factory: pytest.TempPathFactory) -> Iterator[httpx.Client]:
    """One that has scraped a server with a recovery and a checkpoint behind it."""
    root = tmp_path_factory.mktemp("prometheus")
    data = root / "data"
    small_history(data)
    (data / "memory.db").unlink()
    assert process(data, "recover", "all", "--yes").returncode == 0
    assert process(data, "checkpoint", "create").returncode == 0
    with serving(data, "--http", "127.0.0.1:0") as (_, line):
        target = re.search(r"http://(127\.0\.0\.1:\d+)", line)
        assert target is not None
        config = root / "prometheus.yml"
        config.write_text(CONFIG.format(token=data / "journal" / "token", target=target[1]))
        with socket.create_server(("127.0.0.1", 0)) as free:
            address = f"127.0.0.1:{free.getsockname()[1]}"
        command = ["prometheus", f"--config.file={config}", f"--storage.tsdb.path={root / 'tsdb'}",
                   f"--web.listen-address={address}", "--log.level=error"]  # fmt: skip
        with (
            subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True) as running,
            httpx.Client(base_url=f"http://{address}", timeout=10) as client,
        ):
            try:
                _wait_until_scraped(client, running)
                yield client
            finally:
                running.terminate()
                running.communicate(timeout=60)


def _wait_until_scraped(client: httpx.Client, running: subprocess.Popen[str]) -> None:
    """Polls; a Prometheus says nothing when it is done with its first scrape."""
    until = time.monotonic() + 60
    while time.monotonic() < until and running.poll() is None:
        try:
            if query(client, "up") == [1.0]:
                return
        except (httpx.TransportError, ValueError):  # not listening yet, or 503 while it starts
            pass
        time.sleep(0.2)
    raise AssertionError(f"nothing was scraped: {client.get('/api/v1/targets').text}")


def query(client: httpx.Client, text: str) -> list[float]:
    answer: Any = client.get("/api/v1/query", params={"query": text}).json()
    assert answer["status"] == "success", answer
    return [float(each["value"][1]) for each in answer["data"]["result"]]


def test_every_metric_that_has_a_value_is_there(prometheus: httpx.Client) -> None:
    not_yet = {"journal.scrub_age", "journal.drill_age", "journal.drill_ok", "journal.export_lag",
               "journal.refused_appends", "journal.append_duration", "journal.sync_duration",
               "journal.batch_size"}  # fmt: skip
    for metric in METRICS:
        suffix = "_count" if metric.kind == "histogram" else ""
        assert bool(query(prometheus, metric.prometheus + suffix)) == (metric.name not in not_yet), metric.name


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("histogram_quantile(0.95, sum by (le) (journal_recovery_time_seconds_bucket)) > 0", None),
        ("sum(journal_recovery_attempts_total) - sum(journal_failed_recoveries_total)", 1.0),
        ("increase(journal_data_loss_events_total[1h]) or journal_data_loss_events_total", 0.0),
        ("journal_checkpoint_size_bytes_sum / journal_checkpoint_size_bytes_count > 0", None),
        ("journal_writable", 1.0),
        ("journal_proven_age_seconds < 3600", None),
    ],
)
def test_the_panels_of_a_dashboard_have_data(prometheus: httpx.Client, text: str, value: float | None) -> None:
    (found,) = query(prometheus, text)
    assert value is None or found == value
