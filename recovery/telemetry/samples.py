"""Values of metrics, as whatever shows them takes them. Knows no exporter."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

from recovery.telemetry.metrics import BY_NAME

Labels = tuple[str, ...]
"""Values, in the order of the metric's labels."""
Values = dict[str, dict[Labels, float]]
Listener = Callable[[str, Labels, float], None]


@dataclass(slots=True)
class Histogram:
    """Counts by bucket, the last one without a bound, and the sum."""

    bounds: tuple[float, ...]
    counts: list[int]
    sum: float = 0.0

    def add(self, value: float) -> None:
        self.counts[bisect_left(self.bounds, value)] += 1
        self.sum += value

    def cumulative(self) -> Iterator[tuple[float, int]]:
        """Upper bound → how many values are no larger; infinity last."""
        total = 0
        for bound, count in zip((*self.bounds, float("inf")), self.counts, strict=True):
            total += count
            yield bound, total


@dataclass(slots=True)
class Samples:
    """Metric name → labels → value. ``listener`` hears of each value that a histogram takes."""

    values: Values = field(default_factory=dict)
    histograms: dict[str, dict[Labels, Histogram]] = field(default_factory=dict)
    listener: Listener | None = None

    def add(self, name: str, amount: float = 1, *labels: str) -> None:
        of = self.values.setdefault(name, {})
        of[labels] = of.get(labels, 0) + amount

    def go_on_from(self, before: Values) -> None:
        for name, of in before.items():
            for labels, value in of.items():
                self.add(name, value, *labels)

    def set(self, name: str, value: float, *labels: str) -> None:
        self.values.setdefault(name, {})[labels] = +value  # of a truth 1 or 0: OTLP takes numbers alone

    def expect(self, name: str, *labels: str) -> Histogram:
        """The histogram, empty where nothing was observed yet: one that is not there yet has no rate at first."""
        of = self.histograms.setdefault(name, {})
        found = of.get(labels)
        if found is None:
            bounds = BY_NAME[name].buckets
            found = of[labels] = Histogram(bounds, [0] * (len(bounds) + 1))
        return found

    def observe(self, name: str, value: float, *labels: str) -> None:
        self.expect(name, *labels).add(value)
        if self.listener is not None:
            self.listener(name, labels, value)
