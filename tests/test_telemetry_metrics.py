"""What an operator's Prometheus sees: of the journal, over restarts, and of the process that writes."""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import combinations
from pathlib import Path

import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families

from journal.events import (
    CheckpointCreated,
    CursorMoved,
    DrillCompleted,
    EpochStarted,
    Event,
    JournalEventLost,
    RecoveryCompleted,
    RecoveryFailed,
    RecoveryStarted,
    RecoveryStepCompleted,
    ScrubCompleted,
    StateRestored,
)
from journal.log import Log, create
from journal.storage import RealStorage
from recovery.data import Data
from recovery.telemetry.folded import Folded
from recovery.telemetry.metrics import METRICS
from replay.own_events import journal_events
from tests.commands import process
from tests.holders import serving
from tests.otlp import http_receiver

Samples = dict[tuple[str, tuple[tuple[str, str], ...]], float]


@contextmanager
def server(data: Path) -> Iterator[httpx.Client]:
    with serving(data, "--http", "127.0.0.1:0") as (_, line):
        found = re.search(r"http://127\.0\.0\.1:\d+", line)
        assert found is not None
        token = (data / "journal" / "token").read_text().strip()
        headers = {"authorization": f"Bearer {token}"}
        with httpx.Client(base_url=found[0], headers=headers, timeout=60) as client:
            yield client


def scrape(client: httpx.Client) -> Samples:
    answer = client.get("/metrics")
    assert answer.status_code == 200, answer.text
    assert answer.headers["content-type"].startswith("text/plain; version=0.0.4")
    return {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for family in text_string_to_metric_families(answer.text)
        for sample in family.samples
        if not sample.name.endswith("_created")
    }


def value(samples: Samples, name: str, **labels: str) -> float:
    return samples[name, tuple(sorted(labels.items()))]


def test_a_scrape_says_what_the_journal_says(data: Path) -> None:
    (data / "memory.db").unlink()
    (data / "agents" / "writer.md").write_text("broken by hand")
    assert process(data, "recover", "all", "--yes").returncode == 0
    with server(data) as client:
        added = {"type": "memory.observation_added", "scope": "global", "entity": "Acme"}
        for number in range(3):
            event = {**added, "content": f"number {number}"}
            assert client.post("/v1/append", json={"event": event}).status_code == 201
        client.post("/v1/append", json={"event": {**added, "entity": "Nobody", "content": "x"}})
        client.post("/v1/append", json={"events": [{**added, "content": f"{n} of a group"} for n in range(4)]})
        assert client.post("/v1/checkpoint", json={}).status_code == 200
        told = scrape(client)
        last = client.get("/v1/status").json()["journal"]
    assert value(told, "journal_recovery_attempts_total", component="all") == 1
    assert value(told, "journal_recovery_time_seconds_count", outcome="completed") == 1
    assert value(told, "journal_failed_recoveries_total", component="all", outcome="failed") == 0
    assert value(told, "journal_recovered_agents_total", component="all") == 1
    assert value(told, "journal_checkpoint_lag") == 1, "the checkpoint's own record"
    free = os.statvfs(data)
    assert 0 < value(told, "journal_disk_free_bytes") <= free.f_blocks * free.f_frsize
    assert value(told, "journal_rebuild_space_bytes") >= 2 * value(told, "journal_size_bytes")
    assert value(told, "journal_data_loss_events_total") == 0
    assert value(told, "journal_checkpoint_size_bytes_count") == 1
    assert value(told, "journal_replay_speed_events_per_second") > 0
    assert value(told, "journal_appended_events_total") == 3 + 4
    assert value(told, "journal_batch_size_sum") == value(told, "journal_appended_events_total")
    assert value(told, "journal_sync_duration_seconds_count") == value(told, "journal_batch_size_count") == 4
    assert value(told, "journal_append_duration_seconds_count") == 3 + 1
    assert value(told, "journal_refused_appends_total", code="not_found") == 1
    assert value(told, "journal_last_seq") == last["last_seq"]
    assert value(told, "journal_size_bytes") == last["bytes"]
    assert value(told, "journal_position_lag") == 0
    assert value(told, "journal_writable") == 1
    assert value(told, "journal_pending_embeddings") == 9
    assert 0 <= value(told, "journal_checkpoint_age_seconds") < 600
    assert 0 <= value(told, "journal_proven_age_seconds") < 600
    assert "Acme" not in str(told)
    assert "writer" not in str(told), "no label for each agent"


def test_counters_that_matter_survive_a_restart(data: Path) -> None:
    (data / "memory.db").unlink()
    assert process(data, "recover", "all", "--yes").returncode == 0
    with server(data) as client:
        client.post("/v1/checkpoint", json={})
        before = scrape(client)
    with server(data) as client:
        after = scrape(client)
    assert value(after, "journal_appended_events_total") == 0, "what this process did"
    folded = ("recovery", "failed", "recovered", "data_loss", "checkpoint_size", "restores", "drift", "takeovers")
    kept = {key: each for key, each in before.items() if key[0].startswith(tuple(f"journal_{name}" for name in folded))}
    assert len(kept) > 20
    assert {key: after[key] for key in kept} == kept


def test_tcp_clients_show_the_token(data: Path) -> None:
    with server(data) as client:
        assert client.get("/metrics", headers={"authorization": "Bearer wrong"}).status_code == 401


def test_every_metric_has_a_name_of_its_own_and_labels_that_are_few() -> None:
    names = [metric.prometheus for metric in METRICS]
    assert len(names) == len(set(names))
    for metric in METRICS:
        assert (metric.kind == "histogram") == bool(metric.buckets)
        assert list(metric.buckets) == sorted(metric.buckets)
        assert set(metric.labels) <= {"component", "outcome", "code", "cursor"}


def fold(tmp_path: Path, *opens: list[Event]) -> Folded:
    """The fold of a real log: one writer after the other, each with its events."""
    directory, storage = str(tmp_path / "journal"), RealStorage()
    create(storage, directory)
    for events in opens:
        log = Log.open(storage, directory, reserve_bytes=0)
        for event in events:
            journal_events(log, [event])
        log.close()
    reader = Data(str(tmp_path)).reader()
    at_once, bit_by_bit = Folded(), Folded()
    at_once.feed(reader.batches())
    for batch in reader.batches():
        bit_by_bit.feed([batch])
        bit_by_bit.feed([batch])
    assert at_once.samples == bit_by_bit.samples, "each record counts once, however often it is looked at"
    return at_once


def test_a_recovery_that_was_cut_is_a_failed_one(tmp_path: Path) -> None:
    """Its process died: nothing in the journal says that it failed, but that another writer took over."""
    started, ended = RecoveryStarted("a", "memory"), RecoveryCompleted("a", "memory")
    found = fold(tmp_path, [started], [EpochStarted(2, 1), started, ended])
    values, times = found.samples.values, found.samples.histograms["journal.recovery_time"]
    assert values["journal.recovery_attempts"]["memory",] == 2
    assert values["journal.failed_recoveries"]["memory", "cut"] == 1
    assert {labels[0]: sum(each.counts) for labels, each in times.items()} == {"cut": 1, "completed": 1, "failed": 0}


RUNS: dict[str, list[Event]] = {
    "an agent": [RecoveryStarted("a", "agent writer"), RecoveryCompleted("a", "agent writer", counts={"agents": 1})],
    "five agents": [RecoveryStarted("b", "agents"), RecoveryCompleted("b", "agents", counts={"agents": 5})],
    "all, three agents": [RecoveryStarted("c", "all"), RecoveryCompleted("c", "all", counts={"agents": 3})],
    "memory": [RecoveryStarted("d", "memory"), RecoveryCompleted("d", "memory", counts={"events": 9})],
    "failed": [RecoveryStarted("e", "agents"), RecoveryFailed("e", "agents", reason="no space")],
    "cut": [RecoveryStarted("f", "all")],
}


@pytest.mark.parametrize("names", [each for size in (1, 2, 6) for each in combinations(RUNS, size)], ids=str)
def test_recovered_over_attempts_is_the_share_that_succeeded(tmp_path: Path, names: tuple[str, ...]) -> None:
    """The dashboard's success rate: never above 1, 1 where all went well, and per component as well."""
    opens: list[list[Event]] = [[EpochStarted(number + 1, number), *RUNS[name]] for number, name in enumerate(names)]
    found = fold(tmp_path, *opens, [EpochStarted(9, 8)]).samples.values  # a last opener: it knows what was cut
    went_well = [name for name in names if name not in ("failed", "cut")]
    agents = {"an agent": 1, "five agents": 5, "all, three agents": 3, "memory": 1}
    for_each = {part: {labels[0]: each for labels, each in found[f"journal.{part}"].items()}
                for part in ("recovered_agents", "recovery_attempts")}  # fmt: skip
    failed = Counter({"agents": "failed" in names, "all": "cut" in names})
    assert sum(for_each["recovered_agents"].values()) == sum(agents[name] for name in went_well)
    assert for_each["recovered_agents"].keys() == for_each["recovery_attempts"].keys(), "one divides by the other"
    for component, attempts in for_each["recovery_attempts"].items():
        assert attempts == for_each["recovered_agents"][component] + failed[component]


def test_each_event_moves_its_own_metric(tmp_path: Path) -> None:
    events: list[Event] = [
        RecoveryStarted("b", "agent writer"), RecoveryCompleted("b", "agent writer"),
        RecoveryStarted("c", "all"),
        RecoveryStepCompleted("c", "memory", "rebuild_memory", {"events": 500, "milliseconds": 0}),
        RecoveryFailed("c", "all", reason="no space"),
        RecoveryCompleted("nobody began it", "all", counts={"agents": 9}),
        CheckpointCreated(3, "", 70_000), CheckpointCreated(3, "", 20, drift=True),
        DrillCompleted(3, True), DrillCompleted(3, False), ScrubCompleted(9, ["a", "b"]), StateRestored(2),
        JournalEventLost(1, 2), JournalEventLost(1, 2), CursorMoved("journal:trace http://backend:4318", "4"),
    ]  # fmt: skip
    found = fold(tmp_path, events)
    values = found.samples.values
    assert values["journal.recovered_agents"]["agents",] == 1
    assert values["journal.failed_recoveries"]["all", "failed"] == 1
    assert values["journal.data_loss_events"][()] == 2
    assert values["journal.drift"][()] == 1
    assert (values["journal.drill_ok"][()], values["journal.failed_drills"][()]) == (0, 1)
    assert (values["journal.scrub_findings"][()], values["journal.scrub_ok"][()]) == (2, 0)
    assert values["journal.restores"][()] == 1
    assert found.cursors == {"http://backend:4318": 4}
    size = found.samples.histograms["journal.checkpoint_size"][()]
    assert (size.sum, sum(size.counts)) == (70_020, 2)
    assert dict(size.cumulative())[65536.0] == 1, "a bound is the largest value of its bucket"


def test_the_lag_of_an_export_shows(data: Path) -> None:
    with server(data) as client, http_receiver() as backend:
        assert process(data, "trace", "export", "--endpoint", backend.url).returncode == 0
        assert value(scrape(client), "journal_export_lag", cursor=backend.url) == 0, "its own cursor is no lag"
        event = {"type": "memory.observation_added", "scope": "global", "entity": "Acme"}
        assert client.post("/v1/append", json={"events": [{**event, "content": n} for n in "ab"]}).status_code == 201
        assert value(scrape(client), "journal_export_lag", cursor=backend.url) == 2 + 1, "and the cursor between"
