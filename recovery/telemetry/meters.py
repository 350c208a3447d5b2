"""Metrics through OpenTelemetry's API, where the program has set a provider of meters, and nothing global.

Counters and gauges are asked for when the provider collects; a histogram hears of each value as it is found.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from typing import TYPE_CHECKING, Any

from journal import __version__
from journal.errors import JournalError
from recovery.telemetry.conventions import SCOPE_NAME
from recovery.telemetry.gathering import Metrics
from recovery.telemetry.metrics import BY_NAME, METRICS, Metric
from recovery.telemetry.samples import Labels

if TYPE_CHECKING:
    from opentelemetry.metrics import Meter, Observation

_NONE = ("_ProxyMeterProvider", "NoOpMeterProvider")


def meter() -> Meter | None:
    """Of the provider that the program has set; None where there is none, or the API was never imported."""
    api = sys.modules.get("opentelemetry.metrics")
    if api is None:
        return None
    provider = api.get_meter_provider()
    return None if type(provider).__name__ in _NONE else provider.get_meter(SCOPE_NAME, __version__)


def attach(metrics: Metrics, meter: Meter) -> None:
    """Makes the instruments, and tells them what the journal said so far. Points carry `journal.id`."""
    histograms: dict[str, Any] = {}
    for metric in METRICS:
        settings: dict[str, Any] = {"unit": metric.unit or "1", "description": metric.words}
        if metric.kind == "histogram":
            histograms[metric.name] = meter.create_histogram(
                metric.name, explicit_bucket_boundaries_advisory=metric.buckets, **settings
            )
            continue
        make = meter.create_observable_counter if metric.kind == "counter" else meter.create_observable_gauge
        make(metric.name, callbacks=[_callback(metrics, metric)], **settings)

    def heard(name: str, labels: Labels, value: float) -> None:
        histograms[name].record(value, _attributes(metrics, BY_NAME[name], labels))

    metrics.folded.samples.listener = metrics.observed.samples.listener = heard


def _callback(metrics: Metrics, metric: Metric) -> Callable[[Any], Iterable[Observation]]:
    return partial(_observe, metrics, metric)


def _observe(metrics: Metrics, metric: Metric, _: object) -> Iterator[Observation]:
    from opentelemetry.metrics import Observation

    try:
        gathered = metrics.recent()
    except JournalError:  # `journal check` and the server itself say what is wrong; a number would not
        return
    for samples in gathered:
        for labels, value in list(samples.values.get(metric.name, {}).items()):
            yield Observation(value, _attributes(metrics, metric, labels))


def _attributes(metrics: Metrics, metric: Metric, labels: Labels) -> dict[str, str]:
    return {"journal.id": metrics.journal_id, **dict(zip(metric.labels, labels, strict=True))}
