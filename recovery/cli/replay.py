"""`journal replay`: any past moment, beside the live state or in its place."""

from __future__ import annotations

from shlex import quote
from typing import TYPE_CHECKING

import click

from recovery.cli.app import App, Verb
from recovery.cli.names import AGENT_NAME
from recovery.cli.paths import DIRECTORY

if TYPE_CHECKING:
    from journal.reader import LogReader
    from recovery.data import Data


@click.command(
    cls=Verb,
    cut="a copy was not made; what journal log -n 1 shows of a restore in place, the next open applies",
    examples=(
        'journal replay --until "5 minutes ago" --dry-run',
        "journal replay --until tag:before-import -o past/",
        "journal replay --until 2026-05-01T12:00:00Z --exclusive -o past/",
        'journal replay --until 4711 --in-place --reason "bad import" --yes',
        'journal replay --until "1 hour ago" --in-place --agent writer',
    ),
)
@click.option("--until", "until", required=True, metavar="WHEN", help="A time, a seq, tag:NAME, now, or N minutes ago.")
@click.option("--exclusive", is_flag=True, help="The last moment before WHEN, instead of the last at or before it.")
@click.option(
    "-o", "output", type=DIRECTORY, metavar="DIR",
    help="Write memory.db and agents/ there: a directory missing or empty.",
)  # fmt: skip
@click.option("--in-place", is_flag=True, help="Make that moment the live state; another restore can undo it.")
@click.option(
    "--agent", "agents", multiple=True, metavar="NAME", type=AGENT_NAME,
    help="Only this one of the agents. May be repeated.",
)
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
    history only grows, and the timeline that is left can still be restored, by -o or in place. --in-place --agent
    brings back those agents alone, file and status, by events that undo the difference; memory stays as it is.
    """
    from journal.errors import UsageError
    from recovery.moments import resolve_moment

    if output is not None and in_place:
        raise UsageError("-o and --in-place are two different restores", hint="leave out one of them")
    if output is None and not in_place and not dry_run:
        raise UsageError("say where to: -o DIR or --in-place", hint="or --dry-run, to see what would change")
    if reason and (output is not None or agents):
        raise UsageError("--reason is journaled with a whole --in-place restore only", hint="leave it out")
    if force and output is None:
        raise UsageError("--force is for -o DIR", hint="leave it out")
    data = app.data
    reader = data.reader()
    seq = resolve_moment(data, reader, until, exclusive)
    if agents and output is None:
        return _agents_in_place(app, data, reader, seq, agents, dry_run, yes)
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
    from recovery.cli.words import counted
    from recovery.restore import restore_beside

    with app.out.progress("replaying", "events") as bar:
        made = restore_beside(data, reader, seq, output, agents=agents, force=force, progress=bar.advance)
    if app.json:
        from msgspec import to_builtins

        app.out.document(to_builtins(made))
        return
    base = f"checkpoint {made.base_seq}" if made.base_seq else "genesis"
    app.out.line(f"seq {made.seq}, digest {made.digest}")
    what = f"memory.db and {counted(made.agents, 'agent')}"
    app.out.line(f"{made.path}: {what}, from {base} and {counted(made.events, 'event')}")
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


def _agents_in_place(
    app: App, data: Data, reader: LogReader, seq: int, agents: tuple[str, ...], dry_run: bool, yes: bool
) -> int | None:
    """Some agents alone: no jump of the state, but events that undo the difference."""
    from recovery.restore import compare_agents, restore_agents

    named = ", ".join(dict.fromkeys(agents))
    if not dry_run and not app.out.confirm(f"Make agent {named} what it was at seq {seq}?", yes=yes):
        return 1
    with app.out.progress("replaying", "events") as bar:
        made = (compare_agents if dry_run else restore_agents)(data, reader, seq, agents, bar.advance)
    if app.json:
        from msgspec import to_builtins

        app.out.document({"dry_run": dry_run, **to_builtins(made)})
        return None
    app.out.line(f"seq {seq} of {reader.last_seq}")
    app.out.lines(f"agent {name}: config of that moment" for name in made.written)
    app.out.lines(f"agent {name}: status of that moment" for name in made.status)
    app.out.lines(f"agent {name}: removed, there was none" for name in made.removed)
    if not (made.written or made.status or made.removed):
        app.out.line("no difference")
    if made.seqs:
        undo = " ".join(f"--agent {quote(name)}" for name in dict.fromkeys(agents))
        app.out.line(f"to undo: journal replay --until {made.seqs[0] - 1} --in-place {undo}")
    return None
