"""The quick run of the benchmark works end to end. It measures nothing, so nothing here looks at a time."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from journal.events import CheckpointCreated
from journal.format import encode_record
from journal.reader import LogReader
from journal.storage import RealStorage
from replay.engine import build_state
from tests.bench.lengthy import OBSERVATIONS, RARE, RARE_EVENTS, RELATIONS, make_lengthy
from tests.bench.timing import Contender, CountMismatch, Sample, compare

ROOT = Path(__file__).resolve().parent.parent
TITLES = {
    "append, 1 task", "append, 32 tasks", "append, 256 tasks",
    "write-through, 1 task", "write-through, 32 tasks", "write-through, 256 tasks",
    "rebuild, 1,000 observations", "state digest", "verify", "restore, checkpoint + 50 events",
    "catch-up of 50 events", "start of the command", "telemetry, 1 task", "telemetry, 32 tasks",
}  # fmt: skip


def test_the_quick_run_counts_everything_again_and_reports_it(tmp_path: Path) -> None:
    report_path = tmp_path / "report.json"
    command = [sys.executable, "-m", "tests.bench", "--quick", "--json", str(report_path), "--dir", str(tmp_path)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    report = json.loads(report_path.read_text())

    assert set(report["sections"]) == TITLES
    assert report["machine"].keys() >= {"when", "system", "cores", "python", "sqlite", "load"}
    for title, rows in report["sections"].items():
        others = {row["name"] for row in rows if not row["ratios"]}
        for row in rows:
            assert row["counted"] == row["operations"] * len(row["rounds"]) > 0, (title, row["name"])
            assert set(row["ratios"]) in (others, set()), (title, row["name"])
            assert f"{title}\n" in done.stdout
            assert row["name"] in done.stdout
    for tasks in (1, 32, 256):
        assert [row["operations"] for row in report["sections"][_title("append", tasks)]] == [
            8 * tasks, 8 * tasks, 16, 8 * tasks,
        ]  # fmt: skip
    assert [row["operations"] for row in report["sections"]["rebuild, 1,000 observations"]] == [1400] * 4
    assert set(report["bytes"]) == {"1", "32", "256"}
    assert list(tmp_path.iterdir()) == [report_path]


def _title(section: str, tasks: int) -> str:
    return f"{section}, {tasks} task{'s' if tasks > 1 else ''}"


def test_a_run_that_lost_something_fails() -> None:
    kept = Contender("kept", lambda: Sample(3, 1.0, 3), ours=True)
    assert [row.counted for row in compare([kept], 2, "events/s")] == [6]
    lost = Contender("lost", lambda: Sample(3, 1.0, 2))
    with pytest.raises(CountMismatch, match="lost: 3 done, 2 found"):
        compare([kept, lost], 1, "events/s")


def test_the_long_history_is_one_that_a_validator_takes_and_its_state_stays_small(tmp_path: Path) -> None:
    """What it is measured for is that cost follows the tail: a state that grew, or no-ops, would measure another."""
    layout, shape = make_lengthy(str(tmp_path / "long"), 80_000, tail=500)
    storage = RealStorage()
    reader = LogReader(storage, layout.journal)
    assert reader.last_seq == 80_000
    records = [record for batch in reader.batches() for record in batch.records()]
    told = [seq for seq, record in enumerate(records, 1) if encode_record(record) != encode_record(shape.record(seq))]
    assert [type(records[seq - 1].event) for seq in told] == [CheckpointCreated]
    assert sum(record.agent == RARE for record in records) == RARE_EVENTS
    built = build_state(storage, layout.journal, reader, 80_000, str(tmp_path / "state.db"))
    assert (built.base_seq, built.no_ops) == (79_500, 0)
    counts = build_state(storage, layout.journal, reader, 60_000, str(tmp_path / "sooner.db")).counts
    assert built.counts["entities"] == counts["entities"] == 1000
    assert built.counts["observations"] == counts["observations"] == OBSERVATIONS
    assert RELATIONS <= built.counts["relations"] <= RELATIONS + 2 >= counts["relations"] >= RELATIONS
