"""`journal diff`: what changed between two moments."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from recovery.cli.app import App, Verb

if TYPE_CHECKING:
    from journal.reader import LogReader

LISTED = 20
LOOKS = {"+": "green", "-": "red", "~": "yellow"}


@click.command(
    cls=Verb,
    examples=(
        'journal diff "1 hour ago" now',
        "journal diff tag:before-import now --json",
        "journal diff 2026-05-01T12:00:00Z 2026-05-02T12:00:00Z",
        "journal diff now 4711 -n 1000",
    ),
)
@click.argument("before", metavar="A")
@click.argument("after", metavar="B")
@click.option("-n", "listed", type=click.IntRange(min=0), default=LISTED, metavar="N",
              help=f"List at most N changes a table, all are counted; default {LISTED}.")  # fmt: skip
@click.pass_obj
def command(app: App, before: str, after: str, listed: int) -> None:
    """Say what changed in the state between moment A and moment B: + added, - removed, ~ changed, = written again.

    A and B are times with a zone, seqs (0 is the empty state), tag:NAME, now or "5 minutes ago", in any order: what
    `journal diff now 42` prints is what a restore of 42 would change. A restore in between is no difference of its
    own; the states count. Both are replayed beside, in a temporary directory; nothing is changed.
    """
    from recovery.comparing import compare
    from recovery.moments import resolve_moment
    from replay.diff_words import lines, to_json

    app.out.is_content = True
    data = app.data
    reader = data.reader()
    one, other = resolve_moment(data, reader, before), resolve_moment(data, reader, after)
    with app.out.progress("replaying", "events") as bar:
        difference = compare(data, reader, one, other, limit=listed, progress=bar.advance)
    times = [reader.time_of(seq) if seq else None for seq in (one, other)]
    if app.json:
        ends = {"from": {"seq": one, "time": times[0]}, "to": {"seq": other, "time": times[1]}}
        app.out.document({**ends, **to_json(difference)})
        return
    app.out.line(f"from {_place(reader, one)} to {_place(reader, other)}")
    for line in lines(difference):
        look = LOOKS.get(line.lstrip()[:1]) if line.startswith("  ") else None
        app.out.styled(app.out.style(line, fg=look))


def _place(reader: LogReader, seq: int) -> str:
    from recovery.cli.words import time_text

    return f"seq {seq} ({time_text(reader.time_of(seq))})" if seq else "the empty state"
