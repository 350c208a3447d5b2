"""`journal timeline`: activity, checkpoints, recoveries and restores over time, drawn in the terminal."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Iterator
from typing import TYPE_CHECKING

import click

from recovery.cli.app import App, Verb

if TYPE_CHECKING:
    from recovery.activity import Activity, Landmark
    from recovery.cli.output import Output

LEVELS = " ▁▂▃▄▅▆▇█"
MARKS = {
    "checkpoint": "c", "recovery": "R", "restore": "<", "drill": "d", "scrub": "s", "takeover": "!", "import": "i",
    "tag": "t", "loss": "X",
}  # fmt: skip
LABEL = 11
WIDTH_MIN, WIDTH_MAX = 20, 160
LISTED = 40


@click.command(
    cls=Verb,
    examples=("journal timeline", "journal timeline --since '2 days ago'", "journal timeline --json | jq .recoveries"),
)
@click.option("--since", metavar="WHEN", help="From this moment on.")
@click.option("--until", metavar="WHEN", help="Up to this moment.")
@click.option("--width", type=click.IntRange(WIDTH_MIN, WIDTH_MAX), metavar="N", help="Columns of the plot.")
@click.option("-n", "listed", type=click.IntRange(min=0), default=LISTED, metavar="N",
              help=f"List the newest N landmarks; default {LISTED}.")  # fmt: skip
@click.pass_obj
def command(app: App, since: str | None, until: str | None, width: int | None, listed: int) -> None:
    """Draw what happened over time: how much was written, and the landmarks between.

    A column is a stretch of time, the taller the more events it holds, each line by its own scale. Below stands what an
    operator looks for: c checkpoint, R recovery, < restore, d drill, s scrub, i import, t tag, X lost events, ! a
    writer that took over from one that did not close. What went wrong is red on a terminal, and listed with ! in front.
    Takes no lock. With --json: the counts of each stretch, the landmarks, and each recovery step by step.
    """
    from recovery.cli.activities import activity_of

    columns = width or min(max(shutil.get_terminal_size().columns - LABEL - 1, WIDTH_MIN), WIDTH_MAX)
    with app.out.progress("reading", "events") as bar:
        activity = activity_of(app.data, since, until, columns, bar.advance)
    if app.json:
        app.out.document(_document(activity))
        return
    if not activity.events:
        app.out.line("nothing was written in this time")
        return
    for line in _drawing(activity, app.out):
        app.out.styled(line)
    for line in _listing(activity, app.out, listed):
        app.out.styled(line)


def _drawing(activity: Activity, out: Output) -> Iterator[str]:
    from recovery.activity import SERIES
    from recovery.cli.words import age_text, counted, time_text

    span = f"{time_text(activity.first, 0)} to {time_text(activity.last, 0)}"
    yield out.style(f"{span}: {counted(activity.events, 'event')}, a column is {age_text(activity.width)}", bold=True)
    blocks = (sys.stdout.encoding or "").lower().startswith("utf") if sys.stdout is not None else False
    levels = LEVELS if blocks else " ..::oo##"
    for series in SERIES:
        counts = activity.counts[series]
        peak = max(counts)
        if peak:
            drawn = "".join(levels[-(-count * (len(levels) - 1) // peak)] for count in counts)
            yield f"{out.style(f'{series:<{LABEL}}', fg='cyan')}{out.style(drawn.rstrip())}"
    for kind, mark in MARKS.items():
        cells: list[Landmark | None] = [None] * len(activity.last_seqs)
        for each in activity.landmarks:
            if each.kind == kind:
                at = min((each.time - activity.first) // activity.width, len(cells) - 1)
                before = cells[at]
                cells[at] = before if before is not None and not before.ok else each
        if any(cells):
            drawn = "".join(
                " " if each is None else out.style(mark, fg=None if each.ok else "red", bold=True) for each in cells
            )
            yield f"{out.style(f'{kind:<{LABEL}}', fg='cyan')}{drawn.rstrip()}"


def _listing(activity: Activity, out: Output, listed: int) -> Iterator[str]:
    from recovery.cli.words import time_text, told

    shown = activity.landmarks[-listed:] if listed else []
    hidden = len(activity.landmarks) - len(shown)
    if shown:
        yield ""
    if shown and hidden:
        yield out.style(f"{hidden:,} landmarks before these; -n lists more", dim=True)
    for each in shown:
        mark = out.style(" " if each.ok else "!", fg="red", bold=True)
        when = out.style(time_text(each.time, 0), dim=True)
        yield f"{mark} {when}  {each.seq:>8}  {out.style(told(each.event, 100))}"


def _document(activity: Activity) -> dict[str, object]:
    from msgspec import to_builtins

    from journal.event_json import event_to_json

    return {
        "from": activity.first,
        "to": activity.last,
        "stretch": activity.width,
        "events": activity.events,
        "counts": activity.counts,
        "landmarks": [
            {"seq": each.seq, "time": each.time, "kind": each.kind, "ok": each.ok, "event": event_to_json(each.event)}
            for each in activity.landmarks
        ],
        "recoveries": to_builtins(activity.recoveries),
    }
