"""Figures as text for a terminal and as tables for the page. Pure: figures in, lines out."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from tests.bench.targets import TARGETS, Figures, Target

_WORDS = {True: "yes", False: "**no**", None: "—"}


def text_of(title: str, rows: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    yield f"\n{title}"
    for row in rows:
        waits = "" if row["p50_us"] is None else f"  p50 {row['p50_us']:>9,.0f} µs  p99 {row['p99_us']:>9,.0f} µs"
        yield f"  {row['name']:<40} {row['rate']:>12,.1f} {row['unit']:<8} {row['seconds']:>7.3f} s{waits}"
        for name, ratio in row["ratios"].items():
            yield f"      {ratio:>6.2f} x  {name}"


def text_of_targets(figures: Figures, targets: Sequence[Target] = TARGETS) -> Iterator[str]:
    """Only those that were measured."""
    found = [(target, each) for target in targets if (each := target.found(figures)) is not None]
    if found:
        yield "\nto be reached"
    for target, each in found:
        mark = {True: "reached", False: "NOT reached", None: "measured"}[each.reached]
        against = "" if target.against == "—" else f" / {target.against}"
        yield f"  {mark:<12} {target.reach:<24} {each.text:<32} {target.work}{against}"


def markdown_of_targets(figures: Figures, targets: Sequence[Target] = TARGETS) -> Iterator[str]:
    yield "| work | against | to be reached | found | reached |"
    yield "|---|---|---|---|---|"
    for target in targets:
        each = target.found(figures)
        found, reached = ("not measured", "—") if each is None else (each.text, _WORDS[each.reached])
        yield _line((target.work, target.against, target.reach, found, reached))


def _line(cells: Sequence[str]) -> str:
    """A line of a table; a pipe in a cell would end it."""
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"


def _markdown_of_sections(figures: Figures) -> Iterator[str]:
    """Every contender of every section, with the command and the machine that it was measured by."""
    for title, section in figures.items():
        if title == "values":
            continue
        command, when, load, commit = (section[key] for key in ("command", "when", "load", "commit"))
        yield f"**{title}** ({command}, {when}, load {load}, commit {commit})"
        yield ""
        yield "| | per second | of | seconds | p50 µs | p99 µs | ratios |"
        yield "|---|--:|--:|--:|--:|--:|---|"
        for row in section["rows"]:
            waits = [f"{row[key]:,.0f}" if row[key] is not None else "" for key in ("p50_us", "p99_us")]
            ratios = "; ".join(f"**{ratio:.2f}×** {name}" for name, ratio in row["ratios"].items())
            what = row["unit"].removesuffix("/s")
            rate, count = f"{row['rate']:,.1f} {what}", f"{row['operations']:,}"
            yield _line((row["name"], rate, count, f"{row['seconds']:.3f}", *waits, ratios))
        yield ""


def markdown_of_figures(figures: Figures, machine: Mapping[str, Any], peers: Mapping[str, str]) -> Iterator[str]:
    """The machine, the peers, the sections and the plain numbers."""
    yield ", ".join(f"{key} {machine[key]}" for key in ("system", "cores", "python", "sqlite") if key in machine) + "."
    yield ""
    if peers:
        yield "| peer | version and settings |"
        yield "|---|---|"
        for name, settings in sorted(peers.items()):
            yield _line((name, settings))
        yield ""
    yield from _markdown_of_sections(figures)
    numbers = figures.get("values", {})
    if numbers:
        yield "| number | |"
        yield "|---|--:|"
        for name, number in numbers.items():
            yield _line((name, f"{number:,.3f}"))
