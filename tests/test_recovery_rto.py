"""How long a recovery would take is told before it has to happen."""

from __future__ import annotations

import pytest
import yaml

from journal.events import ObservationAdded
from recovery import open_server_sync
from recovery.rows import first
from recovery.rto import base_seconds, estimated
from recovery.tables.rto import RTO
from recovery.tables.standing import STANDING
from tests.commands import Command, small_history


@pytest.fixture
def journal(tmp_path, capsys):
    small_history(tmp_path / "data")
    return Command(tmp_path / "data", capsys)


def test_the_formula():
    assert estimated(1_000_000, [], None).seconds == pytest.approx(10.2)
    assert estimated(1_000_000, [(900_000, 200_000_000)], None).seconds == pytest.approx(0.2 + 1 + 1)
    # The drill took twice what the rates say of the state that it rehearsed: so does everything on that machine.
    slow = estimated(1_000_000, [(500_000, 0)], (400_000, 2 * base_seconds(0, 400_000)))
    assert slow.measured
    assert slow.seconds == pytest.approx(2 * base_seconds(0, 500_000))
    assert estimated(10, [(20, 5)], None).bytes == 0, "a checkpoint beyond the end is no base of it"


def test_more_events_and_fewer_checkpoints_take_longer():
    spans = [estimated(seq, [(1000, 10)], (1500, 0.5)).seconds for seq in (1000, 2000, 5000, 100_000)]
    assert spans == sorted(spans)


def test_a_bound_that_is_exceeded_degrades_check_and_status_and_a_checkpoint_heals_it(journal):
    (journal.data / "journal.yaml").write_text(yaml.safe_dump({"rto_seconds": 0.205}))
    with open_server_sync(journal.data, background=False) as hook:
        hook.append_all([ObservationAdded("global", "Acme", f"fact {number}") for number in range(1000)])
    ran = journal("check", "--quick", "--json")
    assert ran.code == 3
    assert ran.json()["states"]["recovery_time"] == "degraded"
    told = journal.json("status")
    assert told["recovery"]["events"] > 1000
    assert told["states"]["recovery_time"] == "degraded"
    assert "DEGRADED" in journal("status").out
    assert journal("checkpoint", "create").code == 0
    assert journal("check", "--quick").code == 0
    assert journal.json("status")["states"]["recovery_time"] == "healthy"


def test_a_drill_measures_the_machine(journal):
    assert journal.json("status")["recovery"]["measured"] is False
    assert journal("drill").code == 0
    told = journal.json("status")
    assert told["recovery"]["measured"] is True
    assert told["recovery"]["seconds"] == pytest.approx(told["drill"]["seconds"], rel=0.05)


def test_status_tells_what_is_gone(journal):
    (journal.data / "memory.db").unlink()
    told = journal.json("status")
    assert told["states"]["memory"] == "failed"
    assert told["states"]["journal"] == "healthy"
    assert "FAILED" in journal("status").out
    assert all(table[-1].holds(None) for table in STANDING.values()), "the last line always holds"
    assert first(RTO, estimated(1, [], None)).case == "ok"
