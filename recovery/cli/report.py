"""`journal report`: one self-contained page about the journal, for a browser."""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import TYPE_CHECKING

import click

from recovery.cli.app import App, Verb
from recovery.cli.output_file import check_output, write_output
from recovery.cli.paths import FILE

if TYPE_CHECKING:
    from recovery.standing import Standing

STRETCHES = 96


@click.command(
    cls=Verb, examples=("journal report -o report.html", "journal report --since '7 days ago' -o - > week.html")
)
@click.option(
    "-o", "output", type=FILE, required=True, metavar="FILE",
    help="The page; - is stdout. A file is replaced.",
)  # fmt: skip
@click.option("--since", metavar="WHEN", help="From this moment on.")
@click.option("--until", metavar="WHEN", help="Up to this moment.")
@click.pass_obj
def command(app: App, output: str, since: str | None, until: str | None) -> None:
    """Write one HTML page: the timeline, the recoveries step by step, and the state's growth as plots.

    It needs no network and runs no script, so it can be mailed and kept. Names of agents and reasons are in it, what
    they remember is not; redaction rules apply. States are replayed in a temporary directory to be counted, nothing is
    changed and no lock is taken.
    """
    import time

    from recovery.cli.activities import activity_of
    from recovery.cli.words import time_text, told
    from recovery.growth import growth
    from recovery.report import Facts, page
    from recovery.standing import standing

    data = app.data
    if output != "-":
        check_output(app, output)
    with app.out.progress("reading", "events") as bar:
        activity = activity_of(data, since, until, STRETCHES, bar.advance)
    with app.out.progress("counting", "events") as bar:
        held = growth(data, data.reader(), [seq for seq in activity.last_seqs if seq], bar.advance)
    found = standing(data, time.time_ns())
    facts = Facts(f"Journal {found.journal.journal_id[:8]}", tuple(_facts(found)))
    redact = data.redactor.text
    html = page(facts, activity, held, lambda ns: time_text(ns, 0), lambda event: redact(told(event, 160)))
    if output == "-":
        app.out.raw(html.encode())
        return
    write_output(app, output, html.encode())
    if app.json:
        app.out.document({"path": os.path.abspath(output), "bytes": len(html.encode()), "events": activity.events})
    else:
        app.out.line(f"{output}: {activity.events:,} events, {len(activity.recoveries)} recoveries")


def _facts(found: Standing) -> Iterator[tuple[str, str]]:
    from recovery.cli.words import age_text, bytes_text, counted, time_text

    log = found.journal
    yield "made", time_text(found.time, 0)
    yield "journal", f"{log.journal_id}, {counted(log.last_seq or 0, 'event')}, {bytes_text(log.bytes)}"
    if log.problem:
        yield "damage", log.problem
    yield "memory.db", f"at seq {found.memory.position}" if found.memory.position is not None else "not readable"
    proven = found.checkpoints.proven_at
    ago = f", the last proven restorable {age_text(found.time - proven)} before" if proven is not None else ""
    yield "checkpoints", f"{found.checkpoints.count}{ago}"
