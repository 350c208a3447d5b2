"""A span as plain facts: what conversion makes and transport sends. Knows no SDK."""

from __future__ import annotations

from dataclasses import dataclass, field

Value = str | int | float | bool


@dataclass(frozen=True, slots=True)
class Place:
    """Where a span stands: 128 bits of trace, 64 of span."""

    trace_id: int
    span_id: int


@dataclass(frozen=True, slots=True)
class Link:
    """To another span; ``relation`` says what it is to this one: request, undone, cut."""

    to: Place
    relation: str


@dataclass(frozen=True, slots=True)
class Span:
    """Times are UTC ns. ``seq`` is that of the record which made it known, ``error`` why its status is an error's."""

    seq: int
    place: Place
    parent: Place | None
    name: str
    start: int
    end: int
    attributes: dict[str, Value]
    links: tuple[Link, ...] = ()
    error: str | None = None
    agent: str | None = field(default=None, compare=False)

    @property
    def size(self) -> int:
        """Roughly how many bytes it takes on the wire: a text may take four a character."""
        values = self.attributes.items()
        texts = sum(len(key) + (len(each.encode()) if isinstance(each, str) else 8) for key, each in values)
        return 120 + texts + 40 * len(self.links)


def place_of_traceparent(traceparent: str) -> Place:
    """The span that a W3C trace context names."""
    _, trace, span, _ = traceparent.split("-")[:4]
    return Place(int(trace, 16), int(span, 16))
