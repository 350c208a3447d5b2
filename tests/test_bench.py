"""The quick run of the benchmark works end to end. It measures nothing, so nothing here looks at a time."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest

from journal.events import CheckpointCreated
from journal.reader import LogReader
from journal.record import encode_record
from journal.storage import RealStorage
from replay.engine import build_state
from tests.bench import vectors
from tests.bench.child import ChildFailed, run_child
from tests.bench.foreign import LIBRARIES, PeerFailed, Peers
from tests.bench.lengthy import OBSERVATIONS, RARE, RARE_EVENTS, RELATIONS, make_lengthy
from tests.bench.plot import HEIGHT, WIDTH, Panel, Series, picture
from tests.bench.recorded import Recorded, growth
from tests.bench.scale import RUNS
from tests.bench.tables import markdown_of_figures, markdown_of_targets
from tests.bench.targets import TARGETS, Target, faster, rate, wait_ratio
from tests.bench.timing import Contender, CountMismatch, Sample, compare

ROOT = Path(__file__).resolve().parent.parent
TITLES = {
    "append, 1 task", "append, 32 tasks", "append, 256 tasks",
    "write-through, 1 task", "write-through, 32 tasks", "write-through, 256 tasks",
    "rebuild", "state digest", "verify", "verify of a checkpoint", "restore", "catch-up", "start of the command",
    "checkpoint beside 32 tasks", "telemetry, 1 task", "telemetry, 32 tasks",
}  # fmt: skip
WITH_A_MODEL = {"embeddings", "embedding backends"}


def test_the_quick_run_counts_everything_again_and_reports_it(tmp_path: Path) -> None:
    report_path = tmp_path / "report.json"
    command = [sys.executable, "-m", "tests.bench", "--quick", "--json", str(report_path), "--dir", str(tmp_path)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    report = Recorded.load(report_path)

    lacking_models = vectors.missing()
    assert report.sections.keys() == TITLES | (set() if lacking_models else WITH_A_MODEL)
    assert report.machine.keys() >= {"system", "cores", "python", "sqlite"}
    for title, section in report.sections.items():
        rows = section["rows"]
        others = {row["name"] for row in rows if not row["ratios"]}
        for row in rows:
            assert row["counted"] == row["operations"] * len(row["rounds"]) > 0, (title, row["name"])
            assert set(row["ratios"]) in (others, set()), (title, row["name"])
            assert f"{title}\n" in done.stdout
            assert row["name"] in done.stdout
    for tasks in (1, 32, 256):
        assert [row["operations"] for row in report.sections[_title("append", tasks)]["rows"]] == [
            8 * tasks, 8 * tasks, 8 * tasks, 16, 8 * tasks,
        ]  # fmt: skip
    assert {row["operations"] for row in report.sections["rebuild"]["rows"]} == {1400}
    assert list(tmp_path.iterdir()) == [report_path]

    # Whatever peer is there took part, and whatever is not was told of, loudly.
    assert report.missing == Peers().missing() | lacking_models
    for name in LIBRARIES:
        took_part = name in {row["name"] for row in report.sections["write-through, 32 tasks"]["rows"]}
        assert took_part == (name not in report.missing) == (name in report.peers)
    for name, how in report.missing.items():
        assert f"{name:<36} {how}" in done.stderr
    assert ("NOT COMPARED WITH" in done.stderr) == bool(report.missing)

    # Everything that is to be reached is measured, but for what needs a missing peer.
    here = [target for target in TARGETS if target.section != "scale"]
    lacking = [target for target in here if target.found(report.figures()) is None]
    assert bool(lacking) <= bool(report.missing), lacking


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


# -- what is to be reached --------------------------------------------------------------------------------------------


def _row(name: str, rate: float, ratios: dict[str, float] | None = None, **waits: float) -> dict[str, Any]:
    return {
        "name": name, "rate": rate, "unit": "events/s", "seconds": 1 / rate, "ratios": ratios or {},
        "operations": 7, "p50_us": None, "p99_us": None, **waits,
    }  # fmt: skip


FIGURES = {
    "writes": {
        "command": "`bench`", "when": "today", "load": 0.1, "commit": "abc",
        "rows": [
            _row("ours", 50.0, {"slow": 5.0, "quick | piped": 2.0}, p50_us=90.0, p99_us=700.0),
            _row("slow", 10.0, p50_us=100.0, p99_us=100.0), _row("quick | piped", 25.0),
        ],
    }
}  # fmt: skip


@pytest.mark.parametrize(
    ("find", "text", "reached"),
    [
        (faster("writes", "ours", "slow", 5.0), "5.00×", True),
        (faster("writes", "ours", "slow", 5.1), "5.00×", False),
        (faster("writes", "ours", ("slow", "quick | piped", "absent"), 3.0), "2.00× (quick | piped)", False),
        (wait_ratio("writes", "ours", "slow", 0.9), "0.90× (90 of 100 µs)", True),
        (wait_ratio("writes", "ours", "slow", 6, ours_at="p99_us"), "7.00× (700 of 100 µs)", False),
        (rate("writes", "ours", 50), "50/s", True),
        (rate("writes", "ours", 51), "50/s", False),
        (rate("writes", "ours", 51, where=("slow", 150)), "50/s where a sync takes 0.10 ms", False),
        (rate("writes", "ours", 51, where=("slow", 99)), "50/s where a sync takes 0.10 ms", None),
    ],
)
def test_a_target_is_reached_or_not_by_the_figures_alone(find: Any, text: str, reached: bool | None) -> None:
    assert Target("s", "w", "a", "r", find).found(FIGURES) == (text, reached)


@pytest.mark.parametrize("find", [faster("writes", "ours", "absent", 1), rate("absent", "ours", 1)])
def test_what_was_not_measured_is_said_to_be_so_and_never_reached(find: Any) -> None:
    target = Target("s", "w", "a", "r", find)
    assert target.found(FIGURES) is None
    assert list(markdown_of_targets(FIGURES, [target]))[-1] == "| w | a | r | not measured | — |"


def test_a_pipe_in_a_name_ends_no_cell() -> None:
    lines = list(markdown_of_figures(FIGURES, {"system": "Linux"}, {".dump | sqlite3": "3.40.1"}))
    assert r"| .dump \| sqlite3 | 3.40.1 |" in lines
    assert next(line for line in lines if line.startswith("| ours")).count(" | ") == 6


def test_a_run_of_some_sections_leaves_the_recorded_figures_of_the_others(tmp_path: Path) -> None:
    path = tmp_path / "performance.json"
    assert Recorded.load(path) == Recorded()
    Recorded({"cores": 1}, sections={"one": {"rows": []}, "two": {"rows": [1]}}, values={"a": 1.0}).save(path)
    newer = Recorded({"cores": 2}, sections={"two": {"rows": [2]}}, peers={"litestream": "0.5"})
    Recorded.load(path).merged(newer).save(path)
    assert json.loads(path.read_text()) == {
        "machine": {"cores": 2}, "quick": False, "sections": {"one": {"rows": []}, "two": {"rows": [2]}},
        "values": {"a": 1.0}, "peers": {"litestream": "0.5"}, "missing": {},
    }  # fmt: skip


def test_a_peer_that_fails_is_an_error_and_no_figure(tmp_path: Path) -> None:
    """Scenario: the environment of the peers is there, and one of them raises."""
    place = tmp_path / "peers"
    (place / "lib/python3.11/site-packages/persist_queue-1.0.dist-info").mkdir(parents=True)
    (place / "bin").mkdir()
    (place / "bin/python").write_text("#!/bin/sh\necho 'OSError: no' >&2\nexit 1\n")
    (place / "bin/python").chmod(0o755)
    (contender,) = Peers(place).writers(tmp_path, 2, 4)
    with pytest.raises(PeerFailed, match="exit code 1: OSError: no"):
        contender.run()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["peers"]


# -- growth -----------------------------------------------------------------------------------------------------------


def test_growth_is_measured_by_real_processes_and_drawn(tmp_path: Path) -> None:
    """The shortest history, each run once; a second run of another length leaves the first one's figures."""
    figures, drawn = tmp_path / "scale.json", tmp_path / "scale.svg"
    longer = {**dict.fromkeys((run.name for run in RUNS), _TOOK), "bytes": 9}
    figures.write_text(json.dumps({"sizes": {"100000": longer}}))
    command = [sys.executable, "-m", "tests.bench.scale", "--once", "--max", "1e4", "--dir", str(tmp_path)]
    done = subprocess.run(
        [*command, "--json", str(figures), "--svg", str(drawn)], cwd=ROOT, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr
    sizes = json.loads(figures.read_text())["sizes"]
    assert list(sizes) == ["10000", "100000"]
    for run in RUNS:
        assert run.name in done.stdout
        assert 10 << 20 < sizes["10000"][run.name]["peak_bytes"] < 1 << 30, run.name
    root = ElementTree.fromstring(drawn.read_text())
    assert len(root.findall(".//{*}polyline")) == 2 * len(RUNS) + 1
    assert sorted(path.name for path in tmp_path.iterdir()) == ["scale.json", "scale.svg"]


_TOOK = {"seconds": 0.5, "peak_bytes": 50 << 20}


def test_a_line_of_equal_factors_is_straight_on_logarithmic_axes() -> None:
    drawn = picture([Panel("t", "events", "seconds", [Series("a < b", [(10, 0.1), (100, 1), (1000, 10)])])])
    line = ElementTree.fromstring(drawn).find(".//{*}polyline")
    assert line is not None
    points = [tuple(map(float, point.split(","))) for point in line.attrib["points"].split()]
    assert points == [(0, HEIGHT), (WIDTH / 2, HEIGHT / 2), (WIDTH, 0)]
    with pytest.raises(ValueError, match="above 0"):
        picture([Panel("t", "events", "seconds", [Series("a", [(10, 0.0)])])])


def test_the_peak_of_a_process_is_its_own_and_not_its_parents(tmp_path: Path) -> None:
    """Scenario: the parent holds a long history in memory, and a child reads a little."""
    held = b"x" * (200 << 20)
    took = run_child("json.tool", [], "[1]")
    assert len(held) > 2 * took.peak_bytes
    assert took.stdout.split() == ["[", "1", "]"]
    with pytest.raises(ChildFailed, match="exit code 1"):
        run_child("json.tool", [], "[1")


def test_what_is_to_be_reached_by_growth_is_read_from_its_figures(tmp_path: Path) -> None:
    path = tmp_path / "scale.json"
    took = {run.name: {"seconds": 0.25, "peak_bytes": 100 << 20} for run in RUNS}
    slower = {**took, "replay --until": {"seconds": 0.5, "peak_bytes": 500 << 20}}
    path.write_text(json.dumps({"sizes": {"1000000": took, "10000000": slower}}))
    found = {target.reach: target.found({"values": growth(path)}) for target in TARGETS if target.section == "scale"}
    assert found["equal within noise (≤ 1.25×)"] == ("2.00×", False)
    assert found["memory ≤ 300 MB"] == ("500 MiB", False)
    assert found["≤ 0.3 s"] == ("0.250 s", True)
