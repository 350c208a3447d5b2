"""A history with a crash and a recovery goes to a real MLflow, and what its API gives back is what was sent.

`make test-backends` installs MLflow and runs these; elsewhere they are skipped. What was sent is known from a receiver
that decodes the same export.
"""

from __future__ import annotations

import subprocess
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests import mlflow_server as mlflow
from tests.commands import ENVIRONMENT, ROOT, arguments
from tests.incident import GROUP, documented, exported, incident, leaving
from tests.mlflow_server import HEADER, MlflowServer, mlflow_server
from tests.span_facts import all_facts, assert_same, changed_fields

pytestmark = [
    pytest.mark.backends,
    pytest.mark.skipif(mlflow.MISSING, reason="MLflow is not installed beside the project: make test-backends"),
    pytest.mark.xdist_group("mlflow"),
]

# What MLflow keeps otherwise than it was sent; docs/telemetry.md tells its users.
DROPPED = {"kind", "flags", "links.flags"}
ADDED = {"attribute mlflow.traceRequestId"}


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("incident") / "data"
    incident(path, groups=8)
    return path


@pytest.fixture(scope="module")
def sent(data: Path) -> list[Any]:
    """Every span of the history, as it leaves."""
    return leaving(data)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[MlflowServer]:
    with mlflow_server(tmp_path_factory.mktemp("mlflow") / "store") as running:
        yield running


def test_the_history_holds_what_is_to_be_proven(sent: list[Any]) -> None:
    """A comparison of nothing proves nothing: each kind of span, link and status is in it."""
    told = all_facts(sent).values()
    relations = Counter(
        about["journal.link"][1] for each in told for _, _, about in each["links"]
    )
    assert relations.keys() == {"request", "undone", "cut"}
    assert relations["undone"] == 128
    errors = {each["attribute error.type"][1] for each in told if "attribute error.type" in each}
    assert errors == {"drill_failed", "recovery_cut"}
    assert {each["status.code"] for each in told} == {0, 2}
    steps = [each for each in told if each["name"] == "recovery.step"]
    roots = {each["span_id"]: each for each in told if each["name"] == "recovery"}
    assert len(roots) == 2
    assert len(steps) > 3
    assert all(step["trace_id"] == roots[step["parent_span_id"]]["trace_id"] for step in steps)
    assert any(each["end_time_unix_nano"] > each["start_time_unix_nano"] for each in told)
    texts = "".join(str(each) for each in told)
    for text in ("поиск", "Zoë 🦉", "лот-1", "o" * 256):
        assert text in texts


def test_every_span_comes_back_as_it_was_sent_and_once(data: Path, sent: list[Any], server: MlflowServer) -> None:
    words = documented("MLflow", server.url)
    assert exported(data, *words)["spans"] == len(sent)
    assert_same(server.spans(), sent, changed=DROPPED | ADDED)
    assert exported(data, *words)["spans"] == 0, "the cursor stands behind it"
    assert exported(data, *words, "--since", "1")["spans"] == len(sent)
    assert_same(server.spans(), sent, changed=DROPPED | ADDED)  # and nothing is there twice


def test_what_mlflow_keeps_otherwise_is_named_for_its_users(
    data: Path, sent: list[Any], server: MlflowServer
) -> None:
    """Exactly these fields, and the page names each; were MLflow to keep them one day, the page would be wrong."""
    exported(data, *documented("MLflow", server.url), "--since", "1")  # no other test need have run before
    assert changed_fields(server.spans(), sent) == DROPPED | ADDED
    page = (ROOT / "docs" / "telemetry.md").read_text()
    section = page.partition("### MLflow")[2].partition("\n##")[0]
    for name in DROPPED | ADDED:
        assert f"`{name.removeprefix('attribute ')}`" in section, name


def test_a_backend_that_dies_in_the_middle_and_comes_back_has_everything(
    data: Path, sent: list[Any], tmp_path: Path
) -> None:
    """MLflow is killed after the first request that it took, with the next one on its way, and started on its store."""
    assert len(sent) > 4 * GROUP, "several requests"
    with mlflow_server(tmp_path / "store") as server:
        command = arguments(data, "trace", "export", "--endpoint", server.url, "--header", HEADER)
        command += ["--patience", "300", "--since", "1"]
        piped = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
        with subprocess.Popen(command, env=ENVIRONMENT, **piped) as run:
            server.wait_until_taken(1)
            server.kill()
            assert run.stderr is not None
            assert "does not take spans" in run.stderr.readline()
            assert server.requests_taken() < len(sent) // 512, "it was killed before it had all"
            server.start()
            out, err = run.communicate(timeout=300)
        assert run.returncode == 0, err
        assert f"exported {len(sent)} spans" in out
        assert_same(server.spans(), sent, changed=DROPPED | ADDED)
