"""The dashboard and the alert rules say something true of a real history, to a real Prometheus that scraped it.

One server lives through it all: appends, a drill that passes, a kill, a recovery that fails and one that does not, a
loss that is accepted, another program in memory.db, a drill that fails, a checkpoint that rotted.
"""

from __future__ import annotations

import json
import math
import re
import shutil
import signal
import sqlite3
import subprocess
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml

from docs.dashboards.panels import ROWS, Panel
from journal import errors
from recovery import open_server_sync
from recovery.agents.failures import ReloadFailed
from recovery.telemetry.metrics import METRICS
from tests.commands import CONFIG, ROOT, process
from tests.daemons import free_port
from tests.holders import serving
from tests.journals import segment_files
from tests.otlp import http_receiver
from tests.prometheus import DASHBOARDS, NEEDED, Prometheus, prometheus

pytestmark = pytest.mark.xdist_group("prometheus")  # one worker lives through it, not each
RULES: list[dict[str, Any]] = [
    rule for group in yaml.safe_load((DASHBOARDS / "alerts.yml").read_text())["groups"] for rule in group["rules"]
]
PANELS = [panel for _, panels in ROWS for panel in panels]
LOST = "the fact that cannot be read again"
ADDED = {"type": "memory.observation_added", "scope": "global", "entity": "Acme"}


def of_registry() -> dict[str, set[str]]:
    """Every series that the code can make, with its labels."""
    made: dict[str, set[str]] = {}
    for metric in METRICS:
        suffixes = ("_bucket", "_sum", "_count") if metric.kind == "histogram" else ("",)
        for suffix in suffixes:
            more = {"le"} if suffix == "_bucket" else set()
            made[metric.prometheus + suffix] = {*metric.labels, *more, "job", "instance"}
    return made


def metrics_in(query: str) -> set[str]:
    return set(re.findall(r"\bjournal_\w+", query))


# -- the history ------------------------------------------------------------------------------------------------------


class Server:
    """`journal serve` at one address, however often it is started."""

    def __init__(self, client: httpx.Client) -> None:
        self._client = client

    def append(self, *contents: str) -> None:
        for content in contents:
            answer = self._post("/v1/append", {"event": {**ADDED, "content": content}})
            assert answer.status_code == 201, answer.text

    def checkpoint(self) -> None:
        answer = self._post("/v1/checkpoint", {})
        assert answer.status_code == 200, answer.text

    def refuse(self) -> None:
        event = {"event": {**ADDED, "entity": "Nobody", "content": "x"}}
        assert self._post("/v1/append", event).status_code == 404

    def _post(self, path: str, body: object) -> httpx.Response:
        return self._client.post(path, json=body)


def made(data: Path) -> None:
    assert process(data, "init").returncode == 0
    (data / "journal.yaml").write_text("segment_bytes_max: 65536\nparity: {share: 0}\n")
    created = {"type": "memory.entity_created", "scope": "global", "name": "Acme", "entity_type": "company"}
    config = {"type": "agent.config_written", "name": "writer", "content": CONFIG.decode()}
    batches = [[created, config], [{**ADDED, "content": LOST}],
               [{**ADDED, "content": f"{number} " + "x" * 1000} for number in range(200)]]  # fmt: skip
    for events in batches:
        ran = process(data, "append", input="".join(json.dumps({"event": each}) + "\n" for each in events))
        assert ran.returncode == 0, ran.stderr


def recovered(data: Path) -> None:
    with (data / "memory.db").resolve().open("r+b") as file:
        file.seek(8192)
        file.write(b"\xee" * 20_000)
    (data / "agents" / "writer.md").write_text("broken by hand")
    ran = process(data, "recover", "all", "--yes")
    assert ran.returncode == 0, ran.stderr


def not_recovered(data: Path) -> None:
    """The server loads no config, whatever is tried."""

    def load(name: str, content: bytes) -> None:
        raise OSError("out of order")

    with open_server_sync(data, background=False) as hook:
        hook.agents.on_reload(load)
        with pytest.raises(ReloadFailed, match="its status is failed"):
            hook.agents.reload("writer", CONFIG + b"more\n")


def loss_accepted(data: Path) -> None:
    (segment,) = [each for each in segment_files(str(data / "journal")) if LOST.encode() in each.read_bytes()]
    content = bytearray(segment.read_bytes())
    at = content.index(LOST.encode())
    content[at : at + 30] = b"\xee" * 30
    segment.write_bytes(content)
    ran = process(data, "recover", "journal", "--accept-loss", "--yes")
    assert ran.returncode == 0, ran.stderr + ran.stdout


def rotten_checkpoint(data: Path) -> None:
    part = max((data / "journal" / "checkpoints" / "parts").iterdir(), key=lambda each: each.stat().st_size)
    content = bytearray(part.read_bytes())
    content[100:140] = b"\xee" * 40
    part.write_bytes(content)


@pytest.fixture(scope="module")
def watched(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Prometheus]:
    root = tmp_path_factory.mktemp("dashboards")
    data, address = root / "data", f"127.0.0.1:{free_port()}"
    made(data)
    token = root / "token"
    token.write_text("a-token-that-the-two-of-them-share")
    headers = {"authorization": f"Bearer {token.read_text()}"}
    words = ("--http", address, "--token-file", str(token))
    with (
        prometheus(root, token, address) as seen,
        httpx.Client(base_url=f"http://{address}", timeout=60, headers=headers) as client,
        http_receiver() as backend,
    ):
        server = Server(client)
        with serving(data, *words) as (running, _):
            server.append(*(f"first {number}" for number in range(20)))
            server.checkpoint()
            assert process(data, "trace", "export", "--endpoint", backend.url).returncode == 0
            ran = process(data, "drill")
            assert ran.returncode == 0, ran.stdout + ran.stderr
            seen.wait_for("journal_drill_ok == 1")
            running.send_signal(signal.SIGKILL)
            running.wait()
        recovered(data)
        not_recovered(data)
        loss_accepted(data)
        with serving(data, *words):
            server.append(*(f"second {number}" for number in range(10)))
            seen.wait_for("journal_data_loss_events_total > 0")
            server.append(*(f"third {number}" for number in range(10)))
            server.refuse()
            with closing(sqlite3.connect(data / "memory.db", isolation_level=None, timeout=30)) as another:
                another.execute("UPDATE observations SET content = 'not so' WHERE id = 9")
            server.checkpoint()
            assert process(data, "drill").returncode == 1
            rotten_checkpoint(data)
            assert process(data, "scrub").returncode == 12
            seen.wait_for("journal_scrub_ok == bool 0")
            server.append(*(f"fourth {number}" for number in range(5)))
            server.refuse()
            seen.settle(
                "up == 1 and journal_scrub_ok == 0 and journal_appended_events_total >= 25 "
                "and count_over_time(journal_scrub_ok[1m]) > 2 "
                'and on () ALERTS{alertname="JournalScrubFinding", alertstate="firing"}'
            )
            yield seen


# -- what is asked of it ----------------------------------------------------------------------------------------------

EXPECTED: dict[str, tuple[float, float]] = {
    "Writer": (1, 1), "Proven Restorable": (0, 600), "Last Drill": (0, 0), "Last Scrub": (0, 0), "Events Lost": (1, 1),
    "Last Seq": (240, 300), "Recovery Time (p95)": (0.01, 60), "Recovery Success Rate": (0.3, 0.9),
    "Data Loss Events": (0.9, 1.5), "Checkpoint Sizes": (4096, 1 << 22), "Recoveries by Component": (0, 3),
    "Failed Recoveries": (0, 1), "Recoveries by Outcome": (0, 4), "Replay Speed": (10, 1e7),
    "Append Rate": (0.001, 100), "Refused Appends": (0.0001, 10), "Append Latency": (1e-5, 10),
    "Sync Latency": (1e-5, 10), "Batch Size": (0.5, 8), "Position Lag": (0, 0), "Journal Size": (200_000, 1 << 24),
    "Disk": (200_000, 1e16),
    "Pending Embeddings": (200, 300), "Checkpoint Age": (0, 600), "Events since a Checkpoint": (1, 20),
    "Proven Restorable Age": (0, 600), "Drill Age": (0, 600), "Failed Drills": (1, 1), "Scrub Age": (0, 600),
    "Scrub Findings": (1, 3), "Takeovers, Restores, Drift": (0, 2), "Export Lag": (20, 100), "Server": (1, 1),
}  # fmt: skip


@NEEDED
@pytest.mark.parametrize("panel", PANELS, ids=lambda panel: panel.title)
def test_each_query_of_the_dashboard_has_a_value_that_is_true(watched: Prometheus, panel: Panel) -> None:
    low, high = EXPECTED[panel.title]
    for query in panel.queries:
        text = query.expr.replace("$__rate_interval", "10m").replace("$__range", "1h")
        found = watched.series(text.replace("$job", "journal|node").replace("$instance", ".*"))
        assert found, f"{query.expr} has no series"
        for labels, value in found:
            assert math.isfinite(value), query.expr
            assert low <= value <= high, f"{query.expr} of {labels} is {value}"
            for label in re.findall(r"{{(\w+)}}", query.legend):
                assert labels[label], f"the legend names {label}, which the series lack"


@NEEDED
def test_every_metric_of_the_code_is_there(watched: Prometheus) -> None:
    for name in of_registry():
        assert watched.series(name), name


@NEEDED
def test_the_rules_fire_for_what_happened_and_for_nothing_else(watched: Prometheus) -> None:
    told = watched.ask("rules")["groups"]
    rules = {rule["name"]: rule for group in told for rule in group["rules"]}
    assert set(rules) == {rule["alert"] for rule in RULES}
    assert {name: rule.get("lastError", "") for name, rule in rules.items() if rule["health"] != "ok"} == {}
    firing = watched.series('ALERTS{alertstate="firing"}')
    assert {labels["alertname"] for labels, _ in firing} == {
        "JournalDataLoss", "JournalRecoveryFailed", "JournalRecovered", "JournalDrillFailed", "JournalScrubFinding",
        "JournalDrift",
    }  # fmt: skip
    for alert in watched.ask("alerts")["alerts"]:
        words = " ".join(alert["annotations"].values())
        assert "{{" not in words
        assert "<no value>" not in words
        assert "error executing template" not in words
    (lost,) = rules["JournalDataLoss"]["alerts"]
    assert lost["annotations"]["summary"] == "agents-1 lost 1 events"


@NEEDED
@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule["alert"])
def test_no_rule_is_quiet_because_it_asks_for_nothing(watched: Prometheus, rule: dict[str, Any]) -> None:
    """Scenario: a metric is renamed, and the alert on it never fires again."""
    names = metrics_in(rule["expr"]) or {"up"}
    for name in names:
        assert watched.series(name), name
    comparison = re.compile(r" (==|>=|>|<) (bool )?[\d.* ]+")
    assert comparison.search(rule["expr"]), "each has a threshold"


# -- without a Prometheus ---------------------------------------------------------------------------------------------


def test_metrics_and_labels_are_those_of_the_code() -> None:
    """A metric or label that is renamed in the code fails here, by name."""
    known = of_registry()
    queries = [query.expr for panel in PANELS for query in panel.queries] + [rule["expr"] for rule in RULES]
    asked = {name for query in queries for name in metrics_in(query)}
    assert asked <= set(known)
    shown = {name for panel in PANELS for query in panel.queries for name in metrics_in(query.expr)}
    unseen = {each.prometheus for each in METRICS if not any(name.startswith(each.prometheus) for name in shown)}
    assert unseen == set(), "an operator sees every metric"
    for query in queries:
        labels = {label for name in metrics_in(query) or {"journal_last_seq"} for label in known[name]}
        for grouped in re.findall(r"\b(?:by|on) \(([\w, ]+)\)", query):
            assert set(grouped.split(", ")) <= labels, query
        for matched in re.findall(r"(\w+)\s*=~?\s*\"", query):
            assert matched in labels, query


def test_the_codes_of_the_servers_own_faults_are_codes() -> None:
    codes = {kind.code for kind in vars(errors).values() if isinstance(kind, type) and issubclass(kind, Exception)
             if hasattr(kind, "code")}  # fmt: skip
    (rule,) = [rule for rule in RULES if rule["alert"] == "JournalRefusesWrites"]
    found = re.search(r'code=~"([^"]+)"', rule["expr"])
    assert found is not None
    assert set(found[1].split("|")) <= codes


def test_each_alert_says_how_bad_it_is_and_what_to_run() -> None:
    headings = re.findall(r"^### (\w+)$", (ROOT / "docs" / "runbook.md").read_text(), re.MULTILINE)
    for rule in RULES:
        name, told = rule["alert"], rule["annotations"]
        assert rule["labels"]["severity"] in ("critical", "warning", "info"), name
        assert set(told) == {"summary", "description", "runbook_url"}, name
        assert "$labels.instance" in told["summary"] + told["description"], name
        assert "`journal " in told["description"], f"{name} names no command"
        assert told["runbook_url"] == f"docs/runbook.md#{name.lower()}"
        assert name in headings, f"{name} is not in the runbook"


def test_the_commands_that_alerts_and_runbook_name_are_there() -> None:
    from recovery.cli.verbs import VERBS

    runbook = (ROOT / "docs" / "runbook.md").read_text().partition("## Alerts")[2].replace("\n", " ")
    text = runbook + " ".join(rule["annotations"]["description"] for rule in RULES)
    named = re.findall(r"`journal ([a-z]+)", text)
    assert len(named) > 40
    assert set(named) <= set(VERBS)


def test_an_import_of_the_dashboard_asks_for_nothing() -> None:
    """What Grafana needs to draw it: unique ids and names, a place on the grid that nothing overlaps, a data source."""
    dashboard = json.loads((DASHBOARDS / "journal.json").read_text())
    assert dashboard["schemaVersion"] == 42
    assert "id" not in dashboard, "it would overwrite another one"
    assert "__inputs" not in dashboard
    variables = {each["name"] for each in dashboard["templating"]["list"]}
    assert variables == {"datasource", "job", "instance"}
    panels = dashboard["panels"]
    assert len({each["id"] for each in panels}) == len(panels)
    taken: set[tuple[int, int]] = set()
    for each in panels:
        place = each["gridPos"]
        cells = {(x, y) for x in range(place["x"], place["x"] + place["w"])
                 for y in range(place["y"], place["y"] + place["h"])}  # fmt: skip
        assert place["x"] + place["w"] <= 24
        assert not cells & taken, each["title"]
        taken |= cells
        if each["type"] == "row":
            continue
        assert each["datasource"]["uid"] == "${datasource}"
        assert each["description"].endswith((".", "`.")), each["title"]
        assert each["fieldConfig"]["defaults"]["unit"], each["title"]
        refs = [target["refId"] for target in each["targets"]]
        assert len(set(refs)) == len(refs)
        used = {name for target in each["targets"] for name in re.findall(r"\$(\w+)", target["expr"])}
        assert used <= variables | {"__rate_interval", "__range"}
    assert set(EXPECTED) == {panel.title for panel in PANELS}
    titles = [each["title"] for each in panels]
    for title in ("Recovery Time (p95)", "Recovery Success Rate", "Data Loss Events", "Checkpoint Sizes"):
        assert title in titles


@NEEDED
def test_promtool_takes_the_rules_and_their_tests_hold(tmp_path: Path) -> None:
    for name in ("alerts.yml", "alerts_test.yml"):
        shutil.copy(DASHBOARDS / name, tmp_path)
    ran = subprocess.run(["promtool", "check", "rules", "alerts.yml"], cwd=tmp_path, capture_output=True, text=True)
    assert (ran.returncode, f"{len(RULES)} rules found" in ran.stdout) == (0, True), ran.stderr
    ran = subprocess.run(["promtool", "test", "rules", "alerts_test.yml"], cwd=tmp_path, capture_output=True, text=True)
    assert ran.returncode == 0, ran.stdout + ran.stderr


def test_each_alert_is_tested_to_fire_and_each_test_has_one_that_must_not() -> None:
    tests = yaml.safe_load((DASHBOARDS / "alerts_test.yml").read_text())["tests"]
    fired = {
        name for test in tests for asked in test["promql_expr_test"] for sample in asked["exp_samples"]
        for name in re.findall(r'alertname="(\w+)"', sample["labels"])
    }  # fmt: skip
    assert fired == {rule["alert"] for rule in RULES}
    for test in tests:
        quiet = [asked for asked in test["promql_expr_test"] if not asked["exp_samples"]]
        others = [each for each in test["input_series"] if 'instance="good"' in each["series"]]
        assert quiet or others, test["name"]
