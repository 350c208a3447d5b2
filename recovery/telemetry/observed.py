"""Metrics of one process's writing: what each commit took. On the write path, so it does no more than count."""

from __future__ import annotations

from collections.abc import Sequence
from time import perf_counter_ns

from journal.commit import Ticket
from recovery.telemetry.samples import Samples


class Observed:
    """`Core.observer` of a process that is asked for its metrics; called under the core's lock."""

    def __init__(self) -> None:
        self.samples = Samples()
        self.samples.add("journal.appended_events", 0)
        for name in ("append_duration", "sync_duration", "batch_size"):
            self.samples.expect(f"journal.{name}")

    def __call__(self, settled: Sequence[Ticket], events: int, sync_ns: int) -> None:
        samples, now = self.samples, perf_counter_ns()
        if events:
            samples.add("journal.appended_events", events)
            samples.observe("journal.sync_duration", sync_ns / 1e9)
            samples.observe("journal.batch_size", events)
        for request in settled:
            if request.error is not None:
                samples.add("journal.refused_appends", 1, request.error.code)
            elif request.queued_ns:
                samples.observe("journal.append_duration", (now - request.queued_ns) / 1e9)
