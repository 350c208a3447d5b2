"""A module run in a process of its own, which tells what it took: `python -m tests.bench.child FILE MODULE [ARG ...]`.

FILE gets JSON at the end: peak resident bytes of this process alone, by VmHWM where there is one, since `ru_maxrss`
begins at what the parent held when it forked.
"""

from __future__ import annotations

import atexit
import json
import resource
import runpy
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from time import perf_counter
from typing import NamedTuple

ROOT = Path(__file__).resolve().parents[2]


class Took(NamedTuple):
    """From the process' start to its end, as who types the command waits for it; and what it said."""

    seconds: float
    peak_bytes: int
    stdout: str


class ChildFailed(Exception):
    """The module did not end as it should."""


def run_child(module: str, arguments: Sequence[str], stdin: str = "") -> Took:
    """Raises ChildFailed for any exit code but 0."""
    with TemporaryDirectory() as directory:
        told = Path(directory, "told.json")
        command = [sys.executable, "-m", "tests.bench.child", str(told), module, *arguments]
        started = perf_counter()
        done = subprocess.run(command, cwd=ROOT, input=stdin, capture_output=True, text=True, check=False)
        took = perf_counter() - started
        if done.returncode:
            said = (done.stderr or done.stdout).strip().splitlines()
            raise ChildFailed(f"{module} {' '.join(arguments)}: exit code {done.returncode}: {said[-1:]}")
        return Took(took, json.loads(told.read_text())["peak_bytes"], done.stdout)


def _peak_bytes() -> int:
    status = Path("/proc/self/status")
    if status.is_file():
        line = next(line for line in status.read_text().splitlines() if line.startswith("VmHWM"))
        return int(line.split()[1]) << 10
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss  # bytes on macOS


def main() -> None:
    told, module, *arguments = sys.argv[1:]
    atexit.register(lambda: Path(told).write_text(json.dumps({"peak_bytes": _peak_bytes()})))
    sys.argv = [module, *arguments]
    runpy.run_module(module, run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main()
