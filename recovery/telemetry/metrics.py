"""Every metric, as a table: Prometheus, OTLP and docs/telemetry.md are made from it.

Those that are folded from the journal survive a restart: a process that starts counts what was journaled before it.
"""

from __future__ import annotations

from typing import Literal, NamedTuple


class Metric(NamedTuple):
    """``name`` is OpenTelemetry's; ``unit`` in UCUM. ``buckets`` are the upper bounds of a histogram's."""

    name: str
    kind: Literal["counter", "gauge", "histogram"]
    unit: str
    words: str
    labels: tuple[str, ...] = ()
    buckets: tuple[float, ...] = ()

    @property
    def prometheus(self) -> str:
        """The name in Prometheus: with its unit, and `_total` on a counter."""
        suffix = {"s": "_seconds", "By": "_bytes", "{event}/s": "_events_per_second"}.get(self.unit, "")
        return self.name.replace(".", "_") + suffix + ("_total" if self.kind == "counter" else "")


_LATENCY = (1e-4, 2.5e-4, 5e-4, 1e-3, 2.5e-3, 5e-3, 1e-2, 2.5e-2, 5e-2, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
_RECOVERY = (0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0, 600.0, 1800.0, 3600.0)
_BYTES = tuple(float(1 << power) for power in range(14, 36, 2))
_COUNT = (1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 128.0, 256.0, 512.0, 1024.0, 4096.0)

FOLDED = (
    Metric("journal.recovery_time", "histogram", "s", "How long recoveries took, from their start to their end.",
           ("outcome",), _RECOVERY),
    Metric("journal.recovery_attempts", "counter", "", "What recoveries set out to bring back, counted as "
           "`journal.recovered_agents` is: those over these is the share that succeeded.", ("component",)),
    Metric("journal.recovered_agents", "counter", "", "What recoveries brought back: each agent whose config was "
           "restored, and one for a recovery of what agents share (memory.db, the journal, the model).",
           ("component",)),
    Metric("journal.failed_recoveries", "counter", "", "Recoveries that failed, or were cut by the end of their "
           "process.", ("component", "outcome")),
    Metric("journal.data_loss_events", "counter", "", "Events that are lost: accepted, and unreadable for good."),
    Metric("journal.checkpoint_size", "histogram", "By", "How large checkpoints were.", (), _BYTES),
    Metric("journal.replay_speed", "gauge", "{event}/s", "Events a second that the last rebuild of memory.db "
           "applied."),
    Metric("journal.drift", "counter", "", "Checkpoints that found memory.db other than the journal says."),
    Metric("journal.restores", "counter", "", "Restores of the whole state."),
    Metric("journal.takeovers", "counter", "", "Writers that took over from one that did not close."),
    Metric("journal.scrub_findings", "counter", "", "Damage that scrubs found."),
    Metric("journal.scrub_ok", "gauge", "", "1 if the last scrub found nothing, 0 if it found damage."),
    Metric("journal.scrub_age", "gauge", "s", "Since the last scrub ended."),
    Metric("journal.drill_age", "gauge", "s", "Since the last drill."),
    Metric("journal.drill_ok", "gauge", "", "1 if the last drill succeeded, 0 if it failed."),
    Metric("journal.failed_drills", "counter", "", "Drills that failed."),
    Metric("journal.export_lag", "gauge", "{event}", "Events that a trace backend does not have yet.", ("cursor",)),
)  # fmt: skip

OBSERVED = (
    Metric("journal.appended_events", "counter", "", "Events that this process journaled for its callers."),
    Metric("journal.refused_appends", "counter", "", "Appends that were not taken, by the error's code.", ("code",)),
    Metric("journal.append_duration", "histogram", "s", "From an append's arrival to its receipt.", (), _LATENCY),
    Metric("journal.sync_duration", "histogram", "s", "One write and sync of a batch.", (), _LATENCY),
    Metric("journal.batch_size", "histogram", "{event}", "Events that share a sync.", (), _COUNT),
)

STANDING = (
    Metric("journal.last_seq", "gauge", "{event}", "The last seq."),
    Metric("journal.size", "gauge", "By", "The segments."),
    Metric("journal.position_lag", "gauge", "{event}", "Events that memory.db does not hold yet."),
    Metric("journal.writable", "gauge", "", "1 while the writer writes; 0 once only opening it again helps."),
    Metric("journal.disk_free", "gauge", "By", "Free space where the journal lies."),
    Metric("journal.rebuild_space", "gauge", "By", "Free space that a rebuild of memory.db needs."),
    Metric("journal.checkpoint_lag", "gauge", "{event}", "Events since the newest checkpoint, or since the begin."),
    Metric("journal.checkpoint_age", "gauge", "s", "Since the newest checkpoint was made."),
    Metric("journal.proven_age", "gauge", "s", "Since the journal was last proven restorable, by a checkpoint or a "
           "drill."),
    Metric("journal.pending_embeddings", "gauge", "{text}", "Texts without a vector."),
)  # fmt: skip

METRICS = (*FOLDED, *OBSERVED, *STANDING)
BY_NAME = {metric.name: metric for metric in METRICS}
