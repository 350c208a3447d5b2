"""Recoveries as runs: from the records of a log, in order, to whole runs. Pure; traces and metrics are both made of it.

A run is open from `recovery.started` to `recovery.completed` or `.failed`. One whose process died is closed as cut by
what a later epoch says: that a writer took over, or that a recovery begins.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Literal

from journal.events import (
    EpochStarted,
    Event,
    RecoveryCompleted,
    RecoveryFailed,
    RecoveryStarted,
    RecoveryStepCompleted,
    tag_of,
)

Outcome = Literal["completed", "failed", "cut"]
RUN_TAGS = frozenset(
    tag_of(kind)
    for kind in (RecoveryStarted, RecoveryStepCompleted, RecoveryCompleted, RecoveryFailed, EpochStarted)
)


@dataclass(slots=True)
class Run:
    """A recovery. ``seq`` and ``start`` (UTC ns) are those of its start, ``end`` of the last that is known of it."""

    seq: int
    epoch: int
    start: int
    started: RecoveryStarted
    end: int
    resumes: int | None = None  # the seq of the run of the same id that was cut before
    outcome: Outcome | None = None
    ended: RecoveryCompleted | RecoveryFailed | None = None


@dataclass(frozen=True, slots=True)
class Step:
    """A step of ``run``, told at ``end``; ``start`` is counted back from the milliseconds that it took."""

    run: Run
    start: int
    end: int
    completed: RecoveryStepCompleted


@dataclass
class Runs:
    """The runs that are open at one point of a log. `feed` takes its records one by one."""

    open: dict[str, Run] = field(default_factory=dict)
    cut: dict[str, int] = field(default_factory=dict)  # recovery id → seq of the run that was cut

    def feed(self, seq: int, epoch: int, time: int, event: Event) -> Iterator[Run | Step]:
        """What is known whole from this record on: a step, or runs that ended with it."""
        match event:
            case EpochStarted():
                yield from self._cut_before(event.epoch)
            case RecoveryStarted():
                yield from self._cut_before(epoch)
                known = self.open.pop(event.recovery_id, None)
                if known is not None:  # begun again by the same writer
                    yield self._close(known, "cut")
                resumes = self.cut.pop(event.recovery_id, None)
                self.open[event.recovery_id] = Run(seq, epoch, time, event, time, resumes)
            case RecoveryStepCompleted():
                run = self.open.get(event.recovery_id)
                if run is not None:
                    took = max(0, event.counts.get("milliseconds", 0)) * 1_000_000
                    run.end = time
                    yield Step(run, max(run.start, time - took), time, event)
            case RecoveryCompleted() | RecoveryFailed():
                run = self.open.pop(event.recovery_id, None)
                if run is not None:
                    run.end, run.ended = time, event
                    yield self._close(run, "completed" if isinstance(event, RecoveryCompleted) else "failed")

    def _cut_before(self, epoch: int) -> Iterator[Run]:
        for recovery_id, run in list(self.open.items()):
            if run.epoch < epoch:
                del self.open[recovery_id]
                yield self._close(run, "cut")

    def _close(self, run: Run, outcome: Outcome) -> Run:
        run.outcome = outcome
        if outcome == "cut":
            self.cut = {run.started.recovery_id: run.seq}  # recovery.json names one; an older one is never resumed
        return run
