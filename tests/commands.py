"""Running the `journal` command, and small data directories for it to run on."""

from __future__ import annotations

import atexit
import json
import os
import shutil
import subprocess
import sys
import tempfile
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from journal.events import (
    EntityCreated,
    EntityDeleted,
    EntityUpdated,
    ObservationAdded,
    RelationCreated,
    StatusChanged,
)
from recovery import open_server_sync
from recovery.cli.app import run
from recovery.setup import initialise

ROOT = Path(__file__).resolve().parent.parent
ENVIRONMENT = {key: value for key, value in os.environ.items() if not key.startswith(("JOURNAL_", "_JOURNAL_"))}
ENVIRONMENT.pop("PYTHONUNBUFFERED", None)  # what is printed must wait for a flush, as it does for users
ENVIRONMENT["PYTHONPATH"] = str(ROOT)
CONFIG = b"---\nname: writer\ntools: [search]\n---\nWrites letters.\n"


class Ran(NamedTuple):
    """One run in this process: its exit code and what it printed."""

    code: int
    out: str
    err: str

    def json(self) -> Any:
        return json.loads(self.out)

    def json_lines(self) -> list[Any]:
        return [json.loads(line) for line in self.out.splitlines()]


class Command:
    """`journal` in this process, on one data directory."""

    def __init__(self, data: Path, capsys: pytest.CaptureFixture[str]) -> None:
        self.data = data
        self.capsys = capsys

    def __call__(self, *arguments: str) -> Ran:
        self.capsys.readouterr()
        code = run(["--data", str(self.data), *arguments])
        return Ran(code, *self.capsys.readouterr())

    def json(self, *arguments: str) -> Any:
        """The document of a run that must succeed."""
        ran = self(*arguments, "--json")
        assert ran.code == 0, ran
        return ran.json()


def arguments(data: Path, *words: str) -> list[str]:
    """The command line of a process of its own."""
    return [sys.executable, "-m", "recovery", "--data", str(data), *words]


def process(data: Path, *words: str, **settings: Any) -> subprocess.CompletedProcess[str]:
    settings = {"capture_output": True, "text": True, "env": ENVIRONMENT, "timeout": 120, **settings}
    return subprocess.run(arguments(data, *words), check=False, **settings)


def small_history(data: Path) -> None:
    """Ten events of four agents in two scopes, the writer closed: a copy of one that is made once."""
    shutil.copytree(_small_history(), data, symlinks=True)


@cache
def _small_history() -> Path:
    scratch = tempfile.mkdtemp(prefix="journal-tests-")
    atexit.register(shutil.rmtree, scratch)
    data = Path(scratch) / "data"
    initialise(str(data))
    with open_server_sync(data, background=False) as hook:
        hook.append(EntityCreated("global", "Acme", "company", {"city": "Rome"}), agent="sales", op_id="crm-1")  # 1
        hook.append(ObservationAdded("global", "Acme", "renewed in May"), agent="sales", actor="ann")  # 2
        hook.append_all(  # 3-5: one group
            [
                EntityCreated("workspace:east", "Acme", "rumour"),
                EntityCreated("global", "Bob", "person"),
                RelationCreated("global", "Bob", "Acme", "works_for", strength=0.5),
            ],
            agent="research",
            op_id="batch-1",
        )
        hook.agents.write("writer", CONFIG, actor="ann")  # 6
        hook.append(ObservationAdded("global", "Acme", "cancelled in June"), agent="ops")  # 7
        hook.append(StatusChanged("writer", "suspended", "too chatty"), actor="ann")  # 8
        hook.append(EntityUpdated("global", "Acme", confidence=0.25), agent="ops")  # 9
        hook.append(EntityDeleted("workspace:east", "Acme"), agent="research")  # 10
    return data


SMALL = 10
