"""Lines on logarithmic axes, as SVG: no library, as in the page that `journal report` writes. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from html import escape
from math import ceil, floor, log10
from typing import NamedTuple

COLOURS = ("#3b78c4", "#c46f3b", "#4c9a5d", "#8c7ab8", "#a8554f", "#2d9aa0", "#b08a2e", "#6a6f77", "#c2578f", "#5a7d2a")
WIDTH, HEIGHT = 560, 300  # of the field of one panel
_LEFT, _TOP, _RIGHT, _BOTTOM = 76, 40, 230, 56

_STYLE = """
svg { background: #fff; font: 12px system-ui, sans-serif } text { fill: #1c2126 } .dim { fill: #5c6670 }
.axis { stroke: #5c6670 } .grid { stroke: #e4e8eb } .title { font-size: 14px; font-weight: 600 }
polyline { fill: none; stroke-width: 2 }
"""


class Series(NamedTuple):
    name: str
    points: Sequence[tuple[float, float]]
    dashed: bool = False


class Panel(NamedTuple):
    """``x`` and ``y`` are the axes' labels, units included."""

    title: str
    x: str
    y: str
    series: Sequence[Series]


def picture(panels: Sequence[Panel]) -> str:
    """The panels one below the other."""
    wide, tall = _LEFT + WIDTH + _RIGHT, _TOP + HEIGHT + _BOTTOM
    lines = [f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {wide} {tall * len(panels)}" role="img">']
    lines.append(f"<style>{_STYLE}</style>")
    for number, panel in enumerate(panels):
        lines.append(f'<g transform="translate({_LEFT} {number * tall + _TOP})">')
        lines.extend(_panel(panel))
        lines.append("</g>")
    return "\n".join([*lines, "</svg>", ""])


def _panel(panel: Panel) -> Iterator[str]:
    xs = [x for series in panel.series for x, _ in series.points]
    ys = [y for series in panel.series for _, y in series.points]
    if not xs or min(xs) <= 0 or min(ys) <= 0:
        raise ValueError(f"{panel.title}: logarithmic axes need points above 0")
    across, up = _Scale(xs, WIDTH), _Scale(ys, HEIGHT)
    yield f'<text class="title" x="0" y="-14">{escape(panel.title)}</text>'
    for power, x in across.powers():
        yield f'<line class="grid" x1="{x:.1f}" x2="{x:.1f}" y1="0" y2="{HEIGHT}"/>'
        yield f'<text class="dim" x="{x:.1f}" y="{HEIGHT + 18}" text-anchor="middle">{_power(power)}</text>'
    for power, y in up.powers():
        yield f'<line class="grid" x1="0" x2="{WIDTH}" y1="{HEIGHT - y:.1f}" y2="{HEIGHT - y:.1f}"/>'
        yield f'<text class="dim" x="-8" y="{HEIGHT - y + 4:.1f}" text-anchor="end">{_number(power)}</text>'
    yield f'<line class="axis" x1="0" x2="{WIDTH}" y1="{HEIGHT}" y2="{HEIGHT}"/>'
    yield f'<line class="axis" x1="0" x2="0" y1="0" y2="{HEIGHT}"/>'
    yield f'<text x="{WIDTH / 2}" y="{HEIGHT + 42}" text-anchor="middle">{escape(panel.x)} (logarithmic)</text>'
    yield (
        f'<text transform="translate(-54 {HEIGHT / 2}) rotate(-90)" text-anchor="middle">{escape(panel.y)}'
        " (logarithmic)</text>"
    )
    names = _apart([HEIGHT - up.at(series.points[-1][1]) for series in panel.series])
    for number, series in enumerate(panel.series):
        colour = COLOURS[number % len(COLOURS)]
        dash = ' stroke-dasharray="6 4"' if series.dashed else ""
        points = [(across.at(x), HEIGHT - up.at(y)) for x, y in series.points]
        line = " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
        yield f'<polyline points="{line}" stroke="{colour}"{dash}/>'
        for (x, y), (count, amount) in zip(points, series.points, strict=True):
            yield (
                f'<circle cx="{x:.1f}" cy="{y:.1f}" r="3" fill="{colour}"><title>{escape(series.name)}, '
                f"{count:,.0f} events: {_amount(amount)} {escape(panel.y)}</title></circle>"
            )
        yield (
            f'<text x="{WIDTH + 12}" y="{names[number] + 4:.1f}" style="fill:{colour}">{escape(series.name)}: '
            f"{_amount(series.points[-1][1])}</text>"
        )


class _Scale:
    """Whole powers of ten around the values, laid over `length` units."""

    def __init__(self, values: Sequence[float], length: float) -> None:
        self.low = floor(log10(min(values)) + 1e-9)
        self.high = max(ceil(log10(max(values)) - 1e-9), self.low + 1)
        self.length = length

    def at(self, value: float) -> float:
        return (log10(value) - self.low) / (self.high - self.low) * self.length

    def powers(self) -> Iterator[tuple[int, float]]:
        for power in range(self.low, self.high + 1):
            yield power, self.at(10.0**power)


def _apart(tops: Sequence[float], least: float = 15.0) -> list[float]:
    """Where labels go so that none covers another: as near to their lines' ends as that allows."""
    placed = list(tops)
    last = float("-inf")
    for number in sorted(range(len(tops)), key=lambda each: tops[each]):
        last = placed[number] = max(tops[number], last + least)
    excess = last - HEIGHT
    if excess > 0:
        placed = [top - excess for top in placed]
    return placed


def _power(power: int) -> str:
    return f'10<tspan dy="-5" font-size="9">{power}</tspan>'


def _amount(value: float) -> str:
    """Three digits, or all of a large one."""
    return f"{value:,.0f}" if value >= 1000 else f"{value:.3g}"


def _number(power: int) -> str:
    return f"{10**power:,}" if power >= 0 else f"{10.0**power:g}"
