"""Hypothesis strategies: histories that are valid, loose or gapped, and what they are made of."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Any, TypeVar

from hypothesis import strategies as st

from tests import histories, samples
from tests.histories import Step

T = TypeVar("T")

_letters = st.characters(exclude_categories=["Cs", "Cc"])

_short = st.text(st.characters(exclude_categories=["Cs"]), max_size=10)

texts = st.sampled_from(samples.TEXTS) | st.text(st.characters(exclude_categories=["Cs"]), max_size=60)
"""Any text that can be stored: NUL, controls, emoji, right to left, combining, long."""

names = st.sampled_from(samples.NAMES) | st.text(_letters, min_size=1, max_size=12)
"""Names that are accepted."""

agent_names = st.sampled_from(samples.AGENT_NAMES) | st.text(_letters, min_size=1, max_size=12).filter(
    lambda name: name == name.strip() and name not in (".", "..") and not set(name) & set("/\\")
)

configs = st.sampled_from(samples.CONFIGS) | st.binary(max_size=100)

numbers = st.sampled_from((0.0, -0.0, 1.0)) | st.floats(allow_nan=False, allow_infinity=False)

metadata: st.SearchStrategy[dict[str, Any]] = st.just({}) | st.dictionaries(
    _short,
    st.recursive(
        st.none()
        | st.booleans()
        | st.integers(-(1 << 63), (1 << 64) - 1)
        | numbers
        | texts.filter(lambda t: len(t) < 99),
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(_letters, max_size=5), inner, max_size=3),
        max_leaves=6,
    ),
    max_size=3,
)


class _Drawn:
    """Choices of hypothesis."""

    def __init__(self, draw: st.DrawFn) -> None:
        self._draw = draw

    def integer(self, low: int, high: int) -> int:
        return self._draw(st.integers(low, high))

    def choose(self, options: Sequence[T]) -> T:
        return self._draw(st.sampled_from(options))

    def name(self) -> str:
        return self._draw(names)

    def agent_name(self) -> str:
        return self._draw(agent_names)

    def text(self) -> str:
        return self._draw(texts)

    def metadata(self) -> dict[str, Any]:
        return self._draw(metadata)

    def number(self) -> float:
        return self._draw(numbers)

    def config(self) -> bytes:
        return self._draw(configs)


@st.composite
def valid_histories(draw: st.DrawFn, events_max: int = 40, *, restores: int = 0) -> list[Step]:
    """Seqs from 1 without a gap; every event would be accepted where it stands. `restores` of 1000 are jumps."""
    return histories.history(_Drawn(draw), draw(st.integers(0, events_max)), restores=restores)


@st.composite
def loose_histories(draw: st.DrawFn, events_max: int = 40, *, restores: int = 0) -> list[Step]:
    """Seqs from 1 without a gap; references may be missing, creations double, restores impossible."""
    return histories.history(_Drawn(draw), draw(st.integers(0, events_max)), loose=True, restores=restores)


@st.composite
def gapped_histories(draw: st.DrawFn, events_max: int = 40, *, restores: int = 0) -> list[Step]:
    """A valid history of which some events are missing, and with them what later ones refer to."""
    steps = draw(valid_histories(events_max, restores=restores))
    lost = draw(st.sets(st.integers(1, len(steps)), max_size=1 + len(steps) // 4)) if steps else set()
    return [step for step in steps if step.seq not in lost]


def any_histories(events_max: int = 40, *, restores: int = 0) -> st.SearchStrategy[list[Step]]:
    return st.one_of(
        valid_histories(events_max, restores=restores),
        loose_histories(events_max, restores=restores),
        gapped_histories(events_max, restores=restores),
    )


@st.composite
def batches(draw: st.DrawFn, steps: list[Step]) -> list[list[Step]]:
    """The history cut at random places; a gap in the seqs is always a cut."""
    cuts = draw(st.sets(st.integers(1, len(steps) - 1))) if len(steps) > 1 else set()
    cuts |= {index for index in range(1, len(steps)) if steps[index].seq != steps[index - 1].seq + 1}
    edges = [0, *sorted(cuts), len(steps)]
    return [steps[start:end] for start, end in pairwise(edges) if start < end]
