"""A piece of work in a process of its own, at low priority: `python -m MODULE`, started and listened to.

Its result is one JSON document on stdout, its progress lines of two numbers on stderr. A process, not a thread: long
work must not hold the writers up, and a fault in it must not take the server down. It may be killed at any point, and
so may its parent.
"""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from collections.abc import Callable, Sequence
from time import monotonic
from typing import Any

import msgspec

from journal.errors import EnvironmentFault, JournalError, from_json

NICENESS = 10
_PROGRESS_SECONDS = 0.1

Progress = Callable[[int, int], None]


class Child:
    """One such process. `run` waits for it; `stop`, from another thread, kills it."""

    def __init__(self, module: str, arguments: Sequence[str], name: str, hint: str) -> None:
        self._name = name
        self._hint = hint
        # The child imports what this process would, and nothing from the directory that it is started in.
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(map(os.path.abspath, sys.path))}
        self._process = subprocess.Popen(
            [sys.executable, "-P", "-m", module, *arguments], stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment,
        )  # fmt: skip
        self._said: list[str] = []

    def run(self, progress: Progress | None = None) -> str:
        """What it printed. Raises what stopped it."""
        child = self._process
        assert child.stdout is not None
        listener = threading.Thread(target=self._listen, args=(progress,), daemon=True)
        listener.start()
        try:
            result = child.stdout.read()
            child.wait()
        finally:
            if child.poll() is None:
                child.kill()
                child.wait()
            listener.join()
            child.stdout.close()
        return self._outcome(child.returncode, result)

    def stop(self) -> None:
        """Kills it, if it still runs."""
        if self._process.poll() is None:
            self._process.kill()

    def _listen(self, progress: Progress | None) -> None:
        assert self._process.stderr is not None
        with self._process.stderr as lines:
            for line in lines:
                numbers = line.split()
                if len(numbers) == 2 and all(number.isdecimal() for number in numbers):
                    if progress is not None:
                        progress(int(numbers[0]), int(numbers[1]))
                else:
                    self._said.append(line.strip())

    def _outcome(self, code: int, result: str) -> str:
        if code == 0:
            return result
        if code < 0:
            raise EnvironmentFault(f"the {self._name} process was killed by signal {-code}", hint=self._hint)
        try:
            error = msgspec.json.decode(result, type=_Failure).error
        except msgspec.MsgspecError:
            last = self._said[-1] if self._said else f"exit code {code}"
            raise EnvironmentFault(f"the {self._name} process failed: {last}") from None
        raise from_json(error)


class _Failure(msgspec.Struct):
    error: dict[str, Any]


# -- in the child -----------------------------------------------------------------------------------------------------


def answer(work: Callable[[], Any], nice: int = NICENESS) -> int:
    """Does the work at low priority and prints its result, or the declared error that stopped it; the exit code."""
    lower_priority(nice)
    try:
        result = work()
    except JournalError as error:
        print(msgspec.json.encode({"error": error.to_json()}).decode())
        return error.exit_code
    except KeyboardInterrupt:
        return 130
    print(msgspec.json.encode(result).decode())
    return 0


def lower_priority(nice: int) -> None:
    """Of a real-time server a child would be real-time as well, however nice: beside the writers it would leave the
    kernel's own threads no processor, and no sync would end before the kernel takes one from both by force."""
    if sys.platform == "linux" and os.sched_getscheduler(0) & ~os.SCHED_RESET_ON_FORK in (os.SCHED_FIFO, os.SCHED_RR):
        os.sched_setscheduler(0, os.SCHED_OTHER, os.sched_param(0))
    os.nice(nice)


def reporter() -> Progress:
    """Writes progress to stderr, a few lines a second. Nobody reading it any more is no reason to stop."""
    last = 0.0

    def report(done: int, total: int) -> None:
        nonlocal last
        now = monotonic()
        if now - last < _PROGRESS_SECONDS and done < total:
            return
        last = now
        try:
            print(done, total, file=sys.stderr, flush=True)
        except BrokenPipeError:
            last = float("inf")

    return report
