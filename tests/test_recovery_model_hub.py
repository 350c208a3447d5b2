"""The model comes back from a hub that is really asked over HTTP: cut connections, killed runs, wrong bytes."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from journal.events import ModelReplaced
from recovery.adopt.model import see_model
from recovery.data import Data
from recovery.decide import decide
from recovery.diagnose import diagnose
from tests.command import ENVIRONMENT, ROOT, journal
from tests.hub import Hub, serving
from tests.model_place import NAME, copy_of_the_model, flip, initialised_at, place_with_model, small_model
from tests.test_recovery_model import hashes, model_events

pytest.importorskip("huggingface_hub")

REPOSITORY = "acme/minilm"
WEIGHTS = "model.safetensors"
LARGE = 25 << 20


def online(tmp_path: Path, hub: Hub, **more: str) -> dict[str, str]:
    """The environment of a command that may ask a hub, and keeps what the client keeps out of the user's home."""
    environment = {key: value for key, value in ENVIRONMENT.items() if key != "HF_HUB_OFFLINE"}
    return environment | {"HF_HOME": str(tmp_path / "hf"), "NO_PROXY": "127.0.0.1", "no_proxy": "127.0.0.1"} | more


def settings(hub: Hub) -> str:
    return f"embeddings:\n  hub: {hub.address}\n  repository: {REPOSITORY}\n"


def lose_the_weights(tmp_path: Path, hub: Hub) -> tuple[Data, Path, dict[str, str]]:
    data, path = place_with_model(tmp_path / "data", settings(hub), LARGE)
    data = Data.at(data.root)
    see_model(data)
    before = hashes(path)
    (path / WEIGHTS).unlink()
    return data, path, before


def test_a_connection_that_breaks_in_the_middle_of_a_file_is_gone_on_from(tmp_path: Path) -> None:
    with serving(small_model(tmp_path / "hub", LARGE), REPOSITORY) as hub:
        data, path, before = lose_the_weights(tmp_path, hub)
        hub.drops[WEIGHTS] = 2
        answer = journal("recover", "model", "--yes", "--json", "--data", data.root, env=online(tmp_path, hub))
        assert answer.returncode in (0, 3), answer.stderr
        restored = json.loads(answer.stdout)["result"]["model"]
        assert (restored["fetched"], restored["kept"]) == (1, len(before) - 1), "only what is missing is downloaded"
        assert hashes(path) == before
        assert hub.ranges == [(WEIGHTS, 10 << 20), (WEIGHTS, 20 << 20)]
        assert hub.sent == {WEIGHTS: (path / WEIGHTS).stat().st_size}, "no byte twice"
    event = model_events(data)[-1]
    assert isinstance(event, ModelReplaced)
    assert event.source == f"hub {hub.address}/{REPOSITORY}@main"
    assert not list(path.rglob(".*"))


def test_a_download_that_is_killed_goes_on_where_it_was(tmp_path: Path) -> None:
    """kill -9 with half of the weights on disk: nothing is in place, and the next run asks for the other half."""
    with serving(small_model(tmp_path / "hub", LARGE), REPOSITORY) as hub:
        data, path, before = lose_the_weights(tmp_path, hub)
        hub.drops[WEIGHTS] = 1 << 30
        running = subprocess.Popen(
            [sys.executable, "-m", "recovery", "recover", "all", "--yes", "--data", data.root],
            env=online(tmp_path, hub), cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )  # fmt: skip
        deadline = time.monotonic() + 120
        while not hub.ranges and time.monotonic() < deadline and running.poll() is None:
            time.sleep(0.01)
        running.send_signal(signal.SIGKILL)
        running.wait()
        assert running.returncode == -signal.SIGKILL
        assert WEIGHTS not in hashes(path)
        hub.drops.clear()
        hub.ranges.clear()
        answer = journal("recover", "all", "--yes", "--data", data.root, env=online(tmp_path, hub))
        assert answer.returncode == 0, answer.stderr
        ((name, begin),) = hub.ranges
        assert (name, begin >= 10 << 20) == (WEIGHTS, True)
    assert hashes(path) == before


def test_a_hub_with_other_bytes_or_none_changes_nothing_and_stops_nothing(tmp_path: Path) -> None:
    """Upstream has other weights by now; then it is gone. memory.db, broken too, is recovered all the same."""
    with serving(small_model(tmp_path / "hub", LARGE), REPOSITORY) as hub:
        data, path, _ = lose_the_weights(tmp_path, hub)
        left = hashes(path)
        flip(hub.directory / WEIGHTS, 500_000)
        for each in Path(data.root).glob("memory*"):
            each.unlink()
        answer = journal("recover", "all", "--yes", "--json", "--data", data.root, env=online(tmp_path, hub))
        assert answer.returncode == 3
        result = json.loads(answer.stdout)["result"]
        assert result["rebuilt"]
        assert f"has another {WEIGHTS} than was journaled" in result["problems"][0]
        assert hashes(path) == left
    gone = journal("recover", "all", "--yes", "--data", data.root, env=online(tmp_path, hub))
    assert gone.returncode == 3
    assert "hub" in gone.stderr
    assert hashes(path) == left
    decisions = {each.component: each for each in decide(diagnose(data, model="never"))}
    assert decisions["memory"].health == "healthy"
    assert (decisions["model"].case, decisions["model"].exit_code) == ("damaged", 3)


def test_no_hub_is_asked_where_that_was_forbidden(tmp_path: Path) -> None:
    with serving(small_model(tmp_path / "hub", LARGE), REPOSITORY) as hub:
        data, _, _ = lose_the_weights(tmp_path, hub)
        environment = online(tmp_path, hub, HF_HUB_OFFLINE="1")
        offline = journal("recover", "all", "--yes", "--data", data.root, env=environment)
        assert (offline.returncode, "HF_HUB_OFFLINE is set" in offline.stderr) == (3, True)
        (Path(data.root) / "journal.yaml").write_text("embeddings: {hub: off}\n")
        off = journal("recover", "all", "--yes", "--data", data.root, env=online(tmp_path, hub))
        assert (off.returncode, "the hub is off" in off.stderr) == (3, True)
        assert hub.asked == []


@pytest.mark.model
def test_a_model_that_was_never_journaled_comes_whole_and_must_work(tmp_path: Path) -> None:
    """The real one: nobody knows its hashes, so it encodes the known sentence before it is taken, and is journaled."""
    pytest.importorskip("sentence_transformers")
    with serving(copy_of_the_model(tmp_path / "hub"), REPOSITORY) as hub:
        data = initialised_at(tmp_path / "data", settings(hub))
        path = Path(data.root) / "models" / NAME
        path.mkdir()
        (path / "config.json").write_text("{")
        assert journal("recover", "all", "--dry-run", "--data", data.root).stdout == "nothing to do\n"
        environment = online(tmp_path, hub)
        answer = journal("recover", "model", "--yes", "--data", data.root, env=environment, timeout=240)
        assert answer.returncode == 0, answer.stderr
        assert "known vector" in answer.stdout
    assert hashes(path) == hashes(hub.directory)
    event = model_events(data)[-1]
    assert isinstance(event, ModelReplaced)
    assert os.listdir(path.parent) == [NAME]
