"""What telemetry costs an append: with OpenTelemetry's API in the process and no SDK, against none of it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from replay.tracing import Question
from tests.bench.servers import run_hook
from tests.bench.timing import Contender, Result, Sample, compare

COUNTS = {1: 2000, 32: 20_000}


def telemetry(root: Path, *, quick: bool, rounds: int) -> dict[str, list[Result]]:
    """Durable append through the hook, memory.db not applied, so that nothing hides the difference."""
    import opentelemetry.trace  # noqa: F401 - as a server has that uses the API, or a library that does

    sections = {}
    for tasks, count in COUNTS.items():
        operations = 8 * tasks if quick else count
        contenders = [
            Contender("hook.append, the API without an SDK", _run(root, tasks, operations), ours=True),
            Contender("hook.append, never asked", _without(_run(root, tasks, operations))),
        ]
        title = f"telemetry, {tasks} task{'s' if tasks > 1 else ''}"
        sections[title] = compare(contenders, rounds, "events/s")
    return sections


def _run(root: Path, tasks: int, operations: int) -> Callable[[], Sample]:
    return lambda: run_hook(root, tasks, operations, apply=False)


def _without(run: Callable[[], Sample]) -> Callable[[], Sample]:
    def unasked() -> Sample:
        asked = Question.tracer
        Question.tracer = lambda self: None  # type: ignore[method-assign]
        try:
            return run()
        finally:
            Question.tracer = asked  # type: ignore[method-assign]

    return unasked
