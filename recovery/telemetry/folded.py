"""Metrics of what the journal tells: from its records, in order, once each. Pure.

A component is one of a few words: of which agent a recovery was is the trace's business.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import get_args

from journal.events import (
    CheckpointCreated,
    CursorMoved,
    DrillCompleted,
    EpochStarted,
    Event,
    JournalEventLost,
    RecoveryCompleted,
    RecoveryStarted,
    ScrubCompleted,
    StateRestored,
    tag_of,
)
from journal.scan import Batch
from recovery.telemetry.cursor import is_own_cursor, name_of
from recovery.telemetry.runs import RUN_TAGS, Outcome, Run, Runs, Step
from recovery.telemetry.samples import Samples
from replay.event_types import may_hold

COMPONENTS = ("all", "memory", "agents", "journal", "model")
_TAGS = RUN_TAGS | {
    tag_of(kind)
    for kind in (CheckpointCreated, CursorMoved, DrillCompleted, JournalEventLost, ScrubCompleted, StateRestored)
}
_COUNTERS = ("data_loss_events", "drift", "restores", "takeovers", "scrub_findings", "failed_drills")


class Folded:
    """The samples up to one seq, and the last times that ages are counted from (UTC ns)."""

    def __init__(self) -> None:
        self.seq = self.at = 0  # up to which everything counts, and of the record that is being taken
        self.exportable_seq = 0  # the last that an export has something to send of
        self.samples = Samples()
        self.scrubbed_at: int | None = None
        self.drilled_at: int | None = None
        self.proven_at: int | None = None
        self.cursors: dict[str, int] = {}
        self._runs = Runs()
        for name in _COUNTERS:  # a counter that is not there yet has no rate when it first counts
            self.samples.add(f"journal.{name}", 0)
        self.samples.expect("journal.checkpoint_size")
        for outcome in get_args(Outcome):
            self.samples.expect("journal.recovery_time", outcome)
        for component in COMPONENTS:
            self.samples.add("journal.recovery_attempts", 0, component)
            self.samples.add("journal.recovered_agents", 0, component)
            for outcome in ("failed", "cut"):
                self.samples.add("journal.failed_recoveries", 0, component, outcome)

    def feed(self, batches: Iterable[Batch]) -> None:
        for batch in batches:
            if batch.last_seq <= self.seq:
                continue
            if not may_hold(batch, _TAGS):
                self.exportable_seq = batch.last_seq
            else:
                for seq, record in enumerate(batch.records(), batch.first_seq):
                    if seq > self.seq:
                        self._take(seq, batch.epoch, record.time, record.event)
            self.seq = batch.last_seq

    def _take(self, seq: int, epoch: int, time: int, event: Event) -> None:
        samples, self.at = self.samples, seq
        if not is_own_cursor(event):
            self.exportable_seq = seq
        for told in self._runs.feed(seq, epoch, time, event):
            if isinstance(told, Step):
                self._take_step(told)
            else:
                self._take_run(told)
        match event:
            case RecoveryStarted():
                samples.add("journal.recovery_attempts", 1, component_of(event.component))
            case CheckpointCreated():
                samples.observe("journal.checkpoint_size", event.bytes)
                samples.add("journal.drift", event.drift)
                self.proven_at = time
            case DrillCompleted():
                self.drilled_at = time
                samples.set("journal.drill_ok", event.ok)
                samples.add("journal.failed_drills", not event.ok)
                if event.ok:
                    self.proven_at = time
            case ScrubCompleted():
                self.scrubbed_at = time
                samples.set("journal.scrub_ok", not event.findings)
                samples.add("journal.scrub_findings", len(event.findings))
            case StateRestored():
                samples.add("journal.restores")
            case EpochStarted():
                samples.add("journal.takeovers")
            case JournalEventLost():
                samples.add("journal.data_loss_events")
            case CursorMoved() if is_own_cursor(event):
                self.cursors[name_of(event.consumer)] = int(event.message_id)

    def _take_run(self, run: Run) -> None:
        """Attempts are counted in what recovered agents are counted in, so that one over the other is the share that
        succeeded: an agent each, and one for a run that was of no agent's file. What a run set out to bring back is
        one until it has succeeded, and is known."""
        assert run.outcome is not None
        component = component_of(run.started.component)
        self.samples.observe("journal.recovery_time", max(0, run.end - run.start) / 1e9, run.outcome)
        if run.outcome != "completed":
            self.samples.add("journal.failed_recoveries", 1, component, run.outcome)
        elif isinstance(run.ended, RecoveryCompleted):
            agents = 1 if run.started.component.startswith("agent ") else run.ended.counts.get("agents", 0)
            brought_back = max(1, agents)
            self.samples.add("journal.recovered_agents", brought_back, component)
            self.samples.add("journal.recovery_attempts", brought_back - 1, component)

    def _take_step(self, step: Step) -> None:
        counts, seconds = step.completed.counts, (step.end - step.start) / 1e9
        if step.completed.strategy == "rebuild_memory" and counts.get("events") and seconds > 0:
            self.samples.set("journal.replay_speed", counts["events"] / seconds)


def component_of(component: str) -> str:
    if component.startswith("agent"):
        return "agents"
    return component if component in COMPONENTS else "memory" if component.startswith("scope") else "other"
