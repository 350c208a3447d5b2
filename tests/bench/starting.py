"""Section of the command: from its start to its end, against a bare interpreter."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from recovery.server import open_server_sync
from recovery.setup import initialise
from tests.bench.timing import Contender, Result, Sample, Watch, compare
from tests.bench.work import entities

ROOT = Path(__file__).resolve().parents[2]


def start(root: Path, *, rounds: int) -> dict[str, list[Result]]:
    """`--help` and `status` of a small journal; one operation is one process."""
    place = root / "small"
    initialise(str(place))
    with open_server_sync(place, background=False) as hook:
        hook.append_all(entities())

    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    environment.pop("PYTHONDONTWRITEBYTECODE", None)  # pip leaves byte code beside what it installs

    def run(name: str, *arguments: str, ours: bool = True) -> Contender:
        command = [sys.executable, *arguments]

        def once() -> Sample:
            with Watch() as watch:
                done = subprocess.run(command, cwd=place, env=environment, capture_output=True)
            return Sample(1, watch.seconds, int(done.returncode == 0), [int(watch.seconds * 1e9)])

        return Contender(name, once, ours)

    journal = ("-m", "recovery")
    contenders = [
        run("import of the command", "-c", "import recovery.cli.app"),
        run("journal --help", *journal, "--help"),
        run("journal status", *journal, "status"),
        run("bare interpreter", "-c", "pass", ours=False),
    ]
    return {"start of the command": compare(contenders, rounds, "starts/s")}
