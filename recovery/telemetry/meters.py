"""Metrics through OpenTelemetry's API, where the program has set a provider of meters, and nothing global.

Counters and gauges are asked for when the provider collects; a histogram hears of each value as it is found. Points
carry `journal.id`: a process may have many journals open, and one of them again and again.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary

from journal import __version__
from journal.errors import JournalError
from recovery.data import Data
from recovery.telemetry.conventions import SCOPE_NAME
from recovery.telemetry.gathering import Metrics
from recovery.telemetry.metrics import BY_NAME, METRICS, Metric
from recovery.telemetry.samples import Labels, Values
from replay.core import Core

if TYPE_CHECKING:
    from opentelemetry.metrics import Meter, Observation

_NONE = ("_ProxyMeterProvider", "NoOpMeterProvider")
_MADE: WeakKeyDictionary[Meter, Instruments] = WeakKeyDictionary()


def meter() -> Meter | None:
    """Of the provider that the program has set; None where there is none, or the API was never imported."""
    api = sys.modules.get("opentelemetry.metrics")
    if api is None:
        return None
    provider = api.get_meter_provider()
    return None if type(provider).__name__ in _NONE else provider.get_meter(SCOPE_NAME, __version__)


@contextmanager
def measured(metrics: Metrics, meter: Meter) -> Iterator[None]:
    """Counts this process's writing, and tells the meter of it and of what the journal said so far, while the block
    runs."""
    instruments = _MADE.get(meter)
    if instruments is None:
        instruments = _MADE[meter] = Instruments(meter)
    metrics.watch()
    instruments.attach(metrics)
    try:
        yield
    finally:
        instruments.detach(metrics)
        metrics.close()


@contextmanager
def measuring(data: Data, core: Core) -> Iterator[Metrics | None]:
    """The metrics of an open writer, measured while the block runs; None where the program has set no provider."""
    found = meter()
    if found is None:
        yield None
        return
    metrics = Metrics(data, core)
    with measured(metrics, found):
        yield metrics


class Instruments:
    """Those of one meter, made once: an SDK passes over the callbacks of a second one of the same name."""

    def __init__(self, meter: Meter) -> None:
        self._attached: tuple[Metrics, ...] = ()
        self._told: dict[str, int] = {}  # journal → the seq up to which the histograms have what is folded
        self._past: dict[str, Values] = {}  # journal → what its writers of this process counted that are closed
        self._histograms: dict[str, Any] = {}
        for metric in METRICS:
            settings: dict[str, Any] = {"unit": metric.unit or "1", "description": metric.words}
            if metric.kind == "histogram":
                self._histograms[metric.name] = meter.create_histogram(
                    metric.name, explicit_bucket_boundaries_advisory=metric.buckets, **settings
                )
                continue
            make = meter.create_observable_counter if metric.kind == "counter" else meter.create_observable_gauge
            make(metric.name, callbacks=[self._callback(metric)], **settings)

    def attach(self, metrics: Metrics) -> None:
        journal, folded = metrics.journal_id, metrics.folded
        told = self._told.get(journal, 0)

        def record(name: str, labels: Labels, value: float) -> None:
            self._histograms[name].record(value, _attributes(metrics, BY_NAME[name], labels))

        def record_new(name: str, labels: Labels, value: float) -> None:
            if folded.at > told:  # what an earlier opening of this process has told is in the histogram for good
                record(name, labels, value)

        folded.samples.listener, metrics.observed.samples.listener = record_new, record
        metrics.observed.samples.go_on_from(self._past.get(journal, {}))
        self._attached = (*self._attached, metrics)

    def detach(self, metrics: Metrics) -> None:
        journal = metrics.journal_id
        self._attached = tuple(each for each in self._attached if each is not metrics)
        self._told[journal] = max(self._told.get(journal, 0), metrics.folded.seq)
        self._past[journal] = metrics.observed.samples.values

    def _callback(self, metric: Metric) -> Callable[[Any], Iterable[Observation]]:
        return partial(self._observe, metric)

    def _observe(self, metric: Metric, _: object) -> Iterator[Observation]:
        from opentelemetry.metrics import Observation

        for metrics in self._attached:
            try:
                gathered = metrics.recent()
            except JournalError:  # `journal check` and the server itself say what is wrong; a number would not
                continue
            for samples in gathered:
                for labels, value in list(samples.values.get(metric.name, {}).items()):
                    yield Observation(value, _attributes(metrics, metric, labels))


def _attributes(metrics: Metrics, metric: Metric, labels: Labels) -> dict[str, str]:
    return {"journal.id": metrics.journal_id, **dict(zip(metric.labels, labels, strict=True))}
