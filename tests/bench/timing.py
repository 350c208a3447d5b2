"""Taking turns, medians, ratios. Knows samples; must not know what is measured."""

from __future__ import annotations

import gc
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from statistics import median
from time import perf_counter_ns
from typing import Any


class CountMismatch(Exception):
    """What was written is not there when it is opened again."""


@dataclass
class Sample:
    """One timed run: how many operations in how many seconds, and how many were found when it was opened again.

    ``waits`` are how long single operations took, in ns, for contenders that tell.
    """

    operations: int
    seconds: float
    counted: int
    waits: list[int] = field(default_factory=list)

    @property
    def rate(self) -> float:
        return self.operations / self.seconds


@dataclass
class Contender:
    """``run`` makes its place, runs timed, closes, opens again and counts; ``ours`` is what the others are held to."""

    name: str
    run: Callable[[], Sample]
    ours: bool = False


@dataclass
class Result:
    """A contender's medians; ``ratios`` are its rate over that of others, the median of each round's."""

    name: str
    unit: str
    rate: float
    seconds: float
    operations: int
    counted: int
    p50_us: float | None
    p99_us: float | None
    ratios: dict[str, float]
    rounds: list[float]

    def to_json(self) -> dict[str, Any]:
        return dict(vars(self))


def compare(contenders: Sequence[Contender], rounds: int, unit: str) -> list[Result]:
    """Runs the contenders in turn, every other round backwards. Raises CountMismatch for a run that lost something."""
    samples: dict[str, list[Sample]] = {each.name: [] for each in contenders}
    for number in range(rounds):
        for each in contenders if number % 2 == 0 else reversed(contenders):
            gc.collect()
            sample = each.run()
            if sample.counted != sample.operations:
                raise CountMismatch(f"{each.name}: {sample.operations} done, {sample.counted} found")
            samples[each.name].append(sample)
    return [_result(each, contenders, samples, unit) for each in contenders]


def _result(
    contender: Contender, contenders: Sequence[Contender], samples: dict[str, list[Sample]], unit: str
) -> Result:
    own = samples[contender.name]
    others = [each.name for each in contenders if contender.ours and not each.ours]
    waits = sorted(wait for sample in own for wait in sample.waits)
    return Result(
        name=contender.name,
        unit=unit,
        rate=median(sample.rate for sample in own),
        seconds=median(sample.seconds for sample in own),
        operations=own[0].operations,
        counted=sum(sample.counted for sample in own),
        p50_us=waits[len(waits) // 2] / 1000 if waits else None,
        p99_us=waits[len(waits) * 99 // 100] / 1000 if waits else None,
        ratios={
            name: median(mine.rate / its.rate for mine, its in zip(own, samples[name], strict=True)) for name in others
        },
        rounds=[sample.rate for sample in own],
    )


class Watch:
    """Seconds between `with` and its end."""

    seconds = 0.0

    def __enter__(self) -> Watch:
        self._start = perf_counter_ns()
        return self

    def __exit__(self, *_: object) -> None:
        self.seconds = (perf_counter_ns() - self._start) / 1e9
