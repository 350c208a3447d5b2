"""A recovery around a server: stopped before, started after whatever became of the recovery, then asked how it is.

What was stopped is started again exactly once: a server that does not come up is told of, never restarted in a loop.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import msgspec

from journal.events import RecoveryStepCompleted
from recovery.control.writer import Step, journal_beside
from recovery.data import Data
from recovery.rows import Decision
from recovery.serving.control import ControlFailed, ServerControl
from recovery.serving.health import HealthCheck, health_check, wait_for_health
from recovery.serving.holding import wait_until_free
from recovery.tables.serving import ServingFacts

Note = Callable[[str], None]


class Around(msgspec.Struct):
    """What was done to the server. ``problem`` is why it is not running again."""

    stopped: bool = False
    started: bool = False
    problem: str = ""
    health: ServingFacts | None = None
    verdict: Decision | None = None

    @property
    def exit_code(self) -> int:
        return 1 if self.problem else self.verdict.exit_code if self.verdict is not None else 0


@contextmanager
def stopped(
    data: Data, control: ServerControl | None, note: Note, *, start: bool = False
) -> Iterator[Around]:
    """The server is down while the block runs, where it ran and can be stopped; afterwards it runs again.

    With `start` it is started even if it did not run. Raises ControlFailed where it cannot be stopped; an error of the
    block goes on, and one of starting again is in the result.
    """
    around = Around()
    running = control is not None and control.is_running()
    if control is None or not (running or start):
        yield around
        return
    try:
        if running:
            note("stopping the server")
            around.stopped = True  # even a stop that fails may have stopped it
            control.stop()
            _wait_until_gone(data)
        yield around
    finally:
        note("starting the server again" if running else "starting the server")
        try:
            control.start()
            around.started = True
        except Exception as error:  # whatever the control is made of: the block's own error must not be lost for it
            around.problem = f"the server is not running: {error}"
            note(around.problem)


def _wait_until_gone(data: Data) -> None:
    seconds = data.config.server.timeout_seconds
    left = wait_until_free(data, seconds)
    if left:
        raise ControlFailed(
            f"the server was stopped, but after {seconds:g} s {left[0]} still uses the data directory",
            path=data.root,
            hint="does server.stop end before the server has? stop that process by hand, then run this again",
        )


def verify(data: Data, around: Around, check: HealthCheck | None = None, step: Step | None = None) -> None:
    """Waits for the health of a server that was started, and puts the verdict into `around`."""
    if not around.started:
        return
    server = data.config.server

    def tick(passed: float) -> None:
        if step is not None:
            step("waiting for the server", int(passed), int(server.timeout_seconds))

    around.health, around.verdict = wait_for_health(
        check or health_check(data), expected(data), seconds=server.timeout_seconds, interval=server.interval_seconds,
        tick=tick,
    )  # fmt: skip


def leave_word(data: Data, around: Around, recovery_id: str) -> None:
    """Journals what was done to the server, as a step of that recovery; the server does it where it holds the journal.

    Nothing where it was left alone. Raises what keeps it from being journaled.
    """
    if not (around.stopped or around.started):
        return
    verdict = around.verdict.reason if around.verdict is not None else ""
    counts = {"stopped": int(around.stopped), "started": int(around.started)}
    step = RecoveryStepCompleted(recovery_id, "server", "stop and start", counts, (around.problem or verdict)[:2000])
    journal_beside(data, step)


def expected(data: Data) -> ServingFacts:
    """What a healthy server has, by the state that it was started on."""
    import sqlite3

    from recovery.reading import reading
    from replay.encoder import is_available

    current, agents = data.generations.current(), 0
    if current.path is not None and current.kind == "generation":
        try:
            with reading(current.path) as connection:
                (agents,) = connection.execute("SELECT count(*) FROM agents").fetchone()
        except (sqlite3.Error, OSError):
            agents = 0
    return ServingFacts(
        agents_expected=agents,
        model_expected=is_available(data.config.embeddings.backend)
        and data.storage.kind(data.config.model_path(data.root)) == "directory",
    )
