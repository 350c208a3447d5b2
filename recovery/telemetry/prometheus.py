"""Metrics in Prometheus' text format, by its own client library (extra `prometheus`)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from journal.errors import EnvironmentFault
from recovery.telemetry.metrics import METRICS
from recovery.telemetry.samples import Samples

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"


class MissingPrometheus(EnvironmentFault):
    code = "missing_extra"

    def __init__(self) -> None:
        super().__init__("prometheus_client is not installed", hint="pip install 'agent-journal[prometheus]'")


def exposition(gathered: Sequence[Samples]) -> bytes:
    """Raises MissingPrometheus."""
    try:
        from prometheus_client import CollectorRegistry, generate_latest
    except ImportError:
        raise MissingPrometheus from None

    class Collector:
        def collect(self) -> Iterator[Any]:
            return _families(gathered)

    registry = CollectorRegistry(auto_describe=False)
    registry.register(Collector())
    text: bytes = generate_latest(registry)
    return text


def _families(gathered: Sequence[Samples]) -> Iterator[Any]:
    from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily

    for metric in METRICS:
        family: Any
        if metric.kind == "histogram":
            family = HistogramMetricFamily(metric.prometheus, metric.words, labels=metric.labels)
            for samples in gathered:
                for labels, found in samples.histograms.get(metric.name, {}).items():
                    buckets = [("+Inf" if bound == float("inf") else repr(bound), float(count))
                               for bound, count in found.cumulative()]  # fmt: skip
                    family.add_metric(labels, buckets, found.sum)
        else:
            kind = CounterMetricFamily if metric.kind == "counter" else GaugeMetricFamily
            family = kind(metric.prometheus, metric.words, labels=metric.labels)
            for samples in gathered:
                for labels, value in samples.values.get(metric.name, {}).items():
                    family.add_metric(labels, value)
        yield family
