"""Other projects' programs and libraries, in an environment of their own: `make bench-peers` installs it.

Nothing of it is a dependency of the project or of its tests. Where it is missing, the sections run without these
contenders, and say so.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from tempfile import mkdtemp

from tests.bench.timing import Contender, Sample
from tests.bench.work import observations

ROOT = Path(__file__).resolve().parents[2]
LIBRARIES = ("eventsourcing", "langgraph-checkpoint-sqlite", "persist-queue")
LITESTREAM = "litestream"
RECOVER = "sqlite3 with a working .recover"
DUMP = "sqlite3"
_HOW = "make bench-peers"
_WRITERS = Path(__file__).with_name("peer_writers.py")


class PeerFailed(Exception):
    """Another project's program did not do what it was asked."""


class Peers:
    """What is there of the peers. ``seen`` gathers the version and the settings of each one that ran."""

    def __init__(self, place: Path | None = None) -> None:
        self.place = place or Path(os.environ.get("BENCH_PEERS", ROOT / ".venv-peers"))
        self.seen: dict[str, str] = {}

    def program(self, name: str) -> str | None:
        """The path of litestream, or of a sqlite3 whose `.recover` works, or of the machine's own sqlite3."""
        if name == DUMP:
            return shutil.which("sqlite3")
        path = self.place / "bin" / {LITESTREAM: "litestream", RECOVER: "sqlite3-recover"}[name]
        return str(path) if path.is_file() else None

    def library(self, name: str) -> bool:
        return any(self.place.glob(f"lib/python*/site-packages/{name.replace('-', '_')}-*.dist-info"))

    def missing(self) -> dict[str, str]:
        """Name of each peer that is not there → how to have it."""
        lacking = {name: _HOW for name in LIBRARIES if not self.library(name)}
        lacking |= {name: _HOW for name in (LITESTREAM, RECOVER) if self.program(name) is None}
        if self.program(DUMP) is None:
            lacking[DUMP] = "the package sqlite3 of the system"
        return lacking

    def writers(self, root: Path, writers: int, operations: int) -> list[Contender]:
        """A contender for each library that is there: `operations` durable writes by `writers` threads."""
        return [
            Contender(name, self._writing(name, root, writers, operations)) for name in LIBRARIES if self.library(name)
        ]

    def _writing(self, name: str, root: Path, writers: int, operations: int) -> Callable[[], Sample]:
        def run() -> Sample:
            directory = mkdtemp(dir=root)
            try:
                work = [(event.entity, event.content) for event in observations(operations)]
                asked = {"peer": name, "directory": directory, "writers": writers, "work": work}
                told = json.loads(run_program([str(self.place / "bin" / "python"), str(_WRITERS)], json.dumps(asked)))
            finally:
                shutil.rmtree(directory)
            self.seen[name] = f"{told['version']}: {told['settings']}"
            return Sample(told["operations"], told["seconds"], told["counted"], told["waits"])

        return run


def run_program(command: list[str], stdin: str = "") -> str:
    """Its stdout. Raises PeerFailed with the last line it said."""
    done = subprocess.run(command, input=stdin, capture_output=True, text=True, check=False)
    if done.returncode:
        said = (done.stderr or done.stdout).strip().splitlines()
        raise PeerFailed(f"{command[0]}: exit code {done.returncode}: {said[-1] if said else 'it said nothing'}")
    return done.stdout
