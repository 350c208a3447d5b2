"""One page about a journal: activity, recoveries step by step, the state's growth. It needs no script and no network.

Pure: facts in, HTML out. Texts are escaped, and redacted before they come here. What agents remember is not in it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from html import escape

import msgspec

from journal.events import Event
from recovery.activity import SERIES, Activity, Recovery
from recovery.growth import Held

WIDTH, HEIGHT = 960, 150
COLOURS = {"memory": "#3b78c4", "agents": "#c46f3b", "messages": "#4c9a5d", "journal": "#8c7ab8"}
TABLES = {
    "entities": "#3b78c4", "observations": "#4c9a5d", "relations": "#c46f3b", "messages": "#8c7ab8",
    "agents": "#a8554f",
}  # fmt: skip

_DASHES = {"entities": ' stroke-dasharray="6 4"'}  # often as many as observations: both lines are to be seen

_STYLE = """
:root { color-scheme: light dark; --ink: #1c2126; --dim: #5c6670; --line: #d5dbe0; --page: #fff; --bad: #b3261e }
@media (prefers-color-scheme: dark) { :root { --ink: #e4e8eb; --dim: #9aa5ae; --line: #3a434b; --page: #171b1f;
  --bad: #ff8a80 } }
body { font: 15px/1.5 system-ui, sans-serif; color: var(--ink); background: var(--page); max-width: 62rem;
  margin: 2rem auto; padding: 0 1rem }
h1 { font-size: 1.5rem } h2 { font-size: 1.15rem; margin-top: 2.2rem }
dl { display: grid; grid-template-columns: max-content 1fr; gap: .2rem 1.2rem }
dt { color: var(--dim) } dd { margin: 0 }
table { border-collapse: collapse; width: 100%; font-size: .92rem }
th, td { text-align: left; padding: .25rem .6rem .25rem 0; border-bottom: 1px solid var(--line); vertical-align: top }
th { color: var(--dim); font-weight: 500 } .bad { color: var(--bad); font-weight: 600 } .dim { color: var(--dim) }
svg { width: 100%; height: auto; display: block; overflow: visible } svg text { fill: var(--dim); font-size: 11px }
.axis { stroke: var(--line) } .legend span { margin-right: 1.2rem } .legend i { display: inline-block; width: .8rem;
  height: .8rem; border-radius: 2px; margin-right: .35rem; vertical-align: -1px }
details { margin: .4rem 0 } summary { cursor: pointer } code { font-size: .9em; overflow-wrap: anywhere }
"""


class Facts(msgspec.Struct, frozen=True):
    """What the page says of the journal besides; each pair is a label and a text."""

    title: str
    rows: Sequence[tuple[str, str]]


def page(
    facts: Facts,
    activity: Activity,
    held: Sequence[Held],
    time_text: Callable[[int], str],
    told: Callable[[Event], str],
) -> str:
    """The page. `time_text` spells UTC ns, `told` an event in one line."""
    parts = [
        "<!doctype html>", '<html lang="en">', "<head>", '<meta charset="utf-8">',
        '<meta name="viewport" content="width=device-width, initial-scale=1">',
        "<meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; style-src 'unsafe-inline'\">",
        f"<title>{escape(facts.title)}</title>", f"<style>{_STYLE}</style>", "</head>", "<body>",
        f"<h1>{escape(facts.title)}</h1>", "<dl>",
        *(f"<dt>{escape(label)}</dt><dd>{escape(text)}</dd>" for label, text in facts.rows), "</dl>",
        "<h2>Activity</h2>", *_activity(activity, time_text, told),
        "<h2>Growth</h2>", *_growth(activity, held, time_text),
        "<h2>Recoveries</h2>", *_recoveries(activity.recoveries, time_text),
        "<h2>Landmarks</h2>", *_landmarks(activity, time_text, told),
        "</body>", "</html>", "",
    ]  # fmt: skip
    return "\n".join(parts)


# -- plots ------------------------------------------------------------------------------------------------------------


def _activity(
    activity: Activity, time_text: Callable[[int], str], told: Callable[[Event], str]
) -> Iterator[str]:
    """Stacked bars, a stretch each, and the landmarks as marks below them."""
    if not activity.events:
        yield "<p>Nothing was written in this time.</p>"
        return
    count = len(activity.last_seqs)
    peak = max(sum(activity.counts[series][at] for series in SERIES) for at in range(count))
    step = WIDTH / count
    yield _legend((series, COLOURS[series]) for series in SERIES if any(activity.counts[series]))
    yield f'<svg viewBox="0 0 {WIDTH} {HEIGHT + 42}" role="img" aria-label="Events over time">'
    for at in range(count):
        top = float(HEIGHT)
        numbers = [(series, activity.counts[series][at]) for series in SERIES if activity.counts[series][at]]
        if not numbers:
            continue
        words = ", ".join(f"{number:,} {series}" for series, number in numbers)
        yield f"<g><title>{escape(time_text(activity.first + at * activity.width))}: {words}</title>"
        for series, number in numbers:
            tall = max(number / peak * (HEIGHT - 12), 0.75)
            top -= tall
            yield (
                f'<rect x="{at * step:.2f}" y="{top:.2f}" width="{max(step - 0.6, 0.6):.2f}" height="{tall:.2f}" '
                f'fill="{COLOURS[series]}"/>'
            )
        yield "</g>"
    yield f'<line class="axis" x1="0" x2="{WIDTH}" y1="{HEIGHT}" y2="{HEIGHT}"/>'
    yield f'<text x="0" y="10">{peak:,} events</text>'
    for each in activity.landmarks:
        x = min((each.time - activity.first) / max(1, activity.last - activity.first + 1), 1.0) * WIDTH
        fill = "var(--dim)" if each.ok else "var(--bad)"
        title = escape(f"{time_text(each.time)}, seq {each.seq}: {told(each.event)}")
        yield f'<g><title>{title}</title><circle cx="{x:.2f}" cy="{HEIGHT + 12}" r="4" fill="{fill}"/></g>'
    yield from _times(activity, HEIGHT + 36, time_text)
    yield "</svg>"


def _growth(activity: Activity, held: Sequence[Held], time_text: Callable[[int], str]) -> Iterator[str]:
    """Lines over time: the rows of each table, each by the scale of the largest."""
    if not held:
        yield "<p>There is no state to count in.</p>"
        return
    by_seq = {each.seq: each for each in held}
    points = [(at, by_seq[seq]) for at, seq in enumerate(activity.last_seqs) if seq in by_seq]
    peak = max(max(each.rows.values()) for _, each in points) or 1
    step = WIDTH / max(1, len(activity.last_seqs) - 1)
    yield _legend((table, colour) for table, colour in TABLES.items() if any(each.rows[table] for _, each in points))
    yield f'<svg viewBox="0 0 {WIDTH} {HEIGHT + 24}" role="img" aria-label="Rows over time">'
    for table, colour in TABLES.items():
        if not any(each.rows[table] for _, each in points):
            continue
        line = " ".join(
            f"{at * step:.2f},{HEIGHT - each.rows[table] / peak * (HEIGHT - 12):.2f}" for at, each in points
        )
        yield (
            f'<g><title>{table}: {points[-1][1].rows[table]:,}</title>'
            f'<polyline points="{line}" fill="none" stroke="{colour}" stroke-width="2"{_DASHES.get(table, "")}/></g>'
        )
    yield f'<line class="axis" x1="0" x2="{WIDTH}" y1="{HEIGHT}" y2="{HEIGHT}"/>'
    yield f'<text x="0" y="10">{peak:,} rows</text>'
    yield from _times(activity, HEIGHT + 20, time_text)
    yield "</svg>"
    last = points[-1][1]
    yield "<p>" + ", ".join(f"{number:,} {table}" for table, number in last.rows.items()) + "; "
    yield f"{last.bytes:,} bytes of database without vectors, at seq {last.seq}.</p>"


def _times(activity: Activity, y: int, time_text: Callable[[int], str]) -> Iterator[str]:
    yield f'<text x="0" y="{y}">{escape(time_text(activity.first))}</text>'
    yield f'<text x="{WIDTH}" y="{y}" text-anchor="end">{escape(time_text(activity.last))}</text>'


def _legend(entries: Iterable[tuple[str, str]]) -> str:
    spans = "".join(f'<span><i style="background:{colour}"></i>{name}</span>' for name, colour in entries)
    return f'<p class="legend">{spans}</p>'


# -- tables -----------------------------------------------------------------------------------------------------------


def _recoveries(runs: Sequence[Recovery], time_text: Callable[[int], str]) -> Iterator[str]:
    if not runs:
        yield "<p>None in this time.</p>"
    for run in runs:
        mark = "" if run.outcome == "completed" else ' class="bad"'
        spent = f", {(run.ended - run.started) / 1e9:.2f} s" if run.ended is not None else ""
        yield f"<details{' open' if run is runs[-1] else ''}><summary>{escape(time_text(run.started))}, "
        yield f"{escape(run.component)}: <span{mark}>{run.outcome}</span>{spent}</summary>"
        why = "; ".join(each for each in (run.reason, run.failure) if each)
        yield f'<p class="dim">recovery <code>{escape(run.recovery_id)}</code>, seq {run.seq}: {escape(why)}</p>'
        if run.steps:
            yield "<table><tr><th>step</th><th>of</th><th>counts</th><th>why</th></tr>"
            for step in run.steps:
                counts = ", ".join(f"{number:,} {name}" for name, number in step.counts.items())
                cells = (step.strategy, step.component, counts, step.reason)
                yield "<tr>" + "".join(f"<td>{escape(cell)}</td>" for cell in cells) + "</tr>"
            yield "</table>"
        yield "</details>"


def _landmarks(
    activity: Activity, time_text: Callable[[int], str], told: Callable[[Event], str]
) -> Iterator[str]:
    if not activity.landmarks:
        yield "<p>None in this time.</p>"
        return
    yield "<table><tr><th>time</th><th>seq</th><th>what</th></tr>"
    for each in reversed(activity.landmarks):
        mark = "" if each.ok else ' class="bad"'
        yield f"<tr><td>{escape(time_text(each.time))}</td><td>{each.seq}</td>"
        yield f"<td{mark}>{escape(told(each.event))}</td></tr>"
    yield "</table>"
