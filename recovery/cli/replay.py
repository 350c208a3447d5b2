"""`journal replay`: any past moment, beside the live state or in its place."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from recovery.cli.app import App, Verb

if TYPE_CHECKING:
    from journal.reader import LogReader
    from recovery.data import Data


@click.command(
    cls=Verb,
    examples=(
        'journal replay --until "5 minutes ago" --dry-run',
        "journal replay --until tag:before-import -o past/",
        "journal replay --until 2026-05-01T12:00:00Z --exclusive -o past/",
        'journal replay --until 4711 --in-place --reason "bad import" --yes',
    ),
)
@click.option("--until", "until", required=True, metavar="WHEN", help="A time, a seq, tag:NAME, now, or N minutes ago.")
@click.option("--exclusive", is_flag=True, help="The last moment before WHEN, instead of the last at or before it.")
@click.option("-o", "output", metavar="DIR", help="Write memory.db and agents/ there: a directory missing or empty.")
@click.option("--in-place", is_flag=True, help="Make that moment the live state; another restore can undo it.")
@click.option("--agent", "agents", multiple=True, metavar="NAME", help="With -o: only this agent's file.")
@click.option("--dry-run", is_flag=True, help="Say which seq it is and what would change, and stop.")
@click.option("--force", is_flag=True, help="With -o: move what is in DIR aside.")
@click.option("--reason", default="", metavar="TEXT", help="Journaled with an in-place restore.")
@click.option("--yes", is_flag=True, help="Do not ask.")
@click.pass_obj
def command(
    app: App,
    until: str,
    exclusive: bool,
    output: str | None,
    in_place: bool,
    agents: tuple[str, ...],
    dry_run: bool,
    force: bool,
    reason: str,
    yes: bool,
) -> int | None:
    """Restore the state of a past moment.

    WHEN is RFC 3339 with a zone (2026-05-01T12:00:00Z, nine digits of a second count), a seq (42, seq:42; 0 is empty),
    tag:NAME, now, or "5 minutes ago". A time means the last event at or before it; after the end it means the end.

    -o writes a standalone copy. --in-place appends a state.restored event, which is the restore, and swaps memory.db:
    history only grows, and the timeline that is left can still be restored, by -o or in place.
    """
    from journal.errors import UsageError
    from recovery.moments import resolve_moment

    if (output is None) == (not in_place) and not (dry_run and output is None):
        raise UsageError("say where to: -o DIR or --in-place", hint="or --dry-run, to see what would change")
    if agents and in_place:
        raise UsageError("--in-place restores the whole state", hint="one agent's version: -o DIR --agent NAME")
    data = app.data
    reader = data.reader()
    seq = resolve_moment(data, reader, until, exclusive)
    if dry_run:
        _dry_run(app, data, reader, seq)
        return None
    if output is not None:
        _beside(app, data, reader, seq, output, agents, force)
        return None
    return _in_place(app, data, seq, reason, yes)


def _dry_run(app: App, data: Data, reader: LogReader, seq: int) -> None:
    from recovery.restore import compare_with_end
    from replay.diff_words import to_json, words

    with app.out.progress("replaying", "events") as bar:
        difference = compare_with_end(data, reader, seq, bar.advance)
    if app.json:
        app.out.document({"seq": seq, "head": reader.last_seq, "changes": to_json(difference)})
        return
    app.out.line(f"seq {seq} of {reader.last_seq}")
    app.out.line(words(difference))


def _beside(
    app: App, data: Data, reader: LogReader, seq: int, output: str, agents: tuple[str, ...], force: bool
) -> None:
    from recovery.restore import restore_beside

    with app.out.progress("replaying", "events") as bar:
        made = restore_beside(data, reader, seq, output, agents=agents, force=force, progress=bar.advance)
    if app.json:
        from msgspec import to_builtins

        app.out.document(to_builtins(made))
        return
    base = f"checkpoint {made.base_seq}" if made.base_seq else "genesis"
    app.out.line(f"seq {made.seq}, digest {made.digest}")
    app.out.line(f"{made.path}: memory.db and {made.agents} agents, from {base} and {made.events} events")
    for passed, why in made.passed_over:
        app.out.line(f"passed over checkpoint {passed}: {why}")
    if made.moved_aside:
        app.out.line(f"what was there is in {made.moved_aside}")


def _in_place(app: App, data: Data, seq: int, reason: str, yes: bool) -> int | None:
    from recovery.restore import restore_live

    if not app.out.confirm(f"Make seq {seq} the live state of {data.root}?", yes=yes):
        return 1
    with app.out.progress("restoring", "events") as bar:
        made = restore_live(data, seq, reason, bar.advance)
    if app.json:
        from msgspec import to_builtins

        app.out.document(to_builtins(made))
        return None
    app.out.line(f"seq {made.seq} restores the state of seq {made.to_seq}, digest {made.digest}")
    app.out.line(f"agents: {len(made.agents_written)} written, {len(made.agents_removed)} removed")
    for path in made.quarantined:
        app.out.line(f"kept aside: {path}")
    app.out.line(f"to undo: journal replay --until {made.seq - 1} --in-place")
    return None
