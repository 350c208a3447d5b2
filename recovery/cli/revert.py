"""`journal revert`: undoes exactly the changes that are named, and says what rests on them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from recovery.cli.app import App, Verb
from recovery.cli.names import ENTITY_NAME

if TYPE_CHECKING:
    from recovery.revert import Revert

LISTED_MAX = 50


@click.command(
    cls=Verb,
    cut="all of it was journaled, or nothing: journal log -n 1",
    examples=(
        "journal revert --agent sales --since '2 hours ago' --dry-run",
        "journal revert --actor importer --since tag:before-import --yes",
        "journal revert --entity Acme --scope workspace:east --since 4711 --until 4720",
        "journal revert --type 'agent.*' --agent writer --since '1 day ago' --skip-conflicts",
        "journal revert --op-id revert-0f3a7c21b5d9e846",
    ),
)
@click.option("--agent", "agents", multiple=True, metavar="NAME", help="Changes written by this agent.")
@click.option("--actor", "actors", multiple=True, metavar="NAME", help="Changes caused by this actor.")
@click.option(
    "--entity", "entities", multiple=True, metavar="NAME", type=ENTITY_NAME,
    help="Changes of this entity and its relations.",
)
@click.option("--scope", "scopes", multiple=True, metavar="SCOPE", help="In global, workspace:NAME or agent:NAME.")
@click.option("--type", "types", multiple=True, metavar="TYPE", help="Of this type, or pattern: 'memory.*'.")
@click.option("--op-id", "op_ids", multiple=True, metavar="ID", help="Of this operation; all records of a group.")
@click.option("--since", metavar="WHEN", help="At or after this moment.")
@click.option("--until", metavar="WHEN", help="At or before this moment.")
@click.option("--dry-run", is_flag=True, help="Say what would be undone, and what cannot be, and stop.")
@click.option("--skip-conflicts", is_flag=True, help="Undo the rest, and leave what later changes rest on as it is.")
@click.option("--yes", is_flag=True, help="Do not ask.")
@click.pass_obj
def command(
    app: App,
    agents: tuple[str, ...],
    actors: tuple[str, ...],
    entities: tuple[str, ...],
    scopes: tuple[str, ...],
    types: tuple[str, ...],
    op_ids: tuple[str, ...],
    since: str | None,
    until: str | None,
    dry_run: bool,
    skip_conflicts: bool,
    yes: bool,
) -> int | None:
    """Undo exactly the changes that the filters name, by one group of compensating events.

    The filters are those of `journal log`, which shows what they choose. The state becomes what it would be without the
    chosen changes: entities, observations, relations, and agent configs, which go back to the version before. Nothing
    leaves the journal, and the undoing can be undone by the op_id that is printed.

    A conflict is a change that a later one, which was not chosen, rests on: an entity that others have added to, an
    agent that others have suspended. Nothing is guessed: conflicts are shown, nothing is written, and the exit code is
    3, unless --skip-conflicts undoes the rest. A field that was changed again since is no conflict: the later value
    stands. Messages stay: what was said is not unsaid.
    """
    from journal.errors import UsageError
    from recovery.cli.log import bounds
    from recovery.evidence import weigh_end
    from recovery.records import Filter, entries
    from recovery.revert import plan_revert, revert

    wanted = Filter(agents, actors, types, entities, scopes, op_ids)
    if not wanted and since is None and until is None:
        raise UsageError("nothing says which changes to undo", hint="name them by --agent, --since, …, as for the log")
    data = app.data
    reader = data.reader()
    weigh_end(data, reader)
    reader.raise_for_tail()
    first, last = bounds(data, reader, since, until)
    batches = reader.batches(first, last) if first <= reader.last_seq else ()
    chosen = frozenset(entry.seq for entry in wanted.select(entries(batches, first, last)))
    with app.out.progress("reading", "events") as bar:
        found = plan_revert(data, reader, chosen, bar.advance)
    stopped = bool(found.undoing.conflicts) and not skip_conflicts
    if dry_run or stopped or not found.undoing.events:
        return _tell(app, found, dry_run=dry_run, skip_conflicts=skip_conflicts)
    if not app.json:
        _describe(app, found)
    if not app.out.confirm(f"Undo by {len(found.undoing.events)} events?", yes=yes):
        return 1
    with app.out.progress("reverting", "events") as bar:
        done = revert(data, chosen, skip_conflicts=skip_conflicts, progress=bar.advance)
    if not done.seqs:  # somebody wrote meanwhile
        return _tell(app, done, dry_run=False, skip_conflicts=skip_conflicts)
    if app.json:
        app.out.document(_document(done, dry_run=False))
    else:
        by = f"seq {done.seqs[0]}" + (f"-{done.seqs[-1]}" if done.seqs[1:] else "")
        app.out.line(f"reverted by {by}; to undo: journal revert --op-id {done.op_id}")
    return 3 if done.undoing.conflicts else None


def _tell(app: App, found: Revert, *, dry_run: bool, skip_conflicts: bool) -> int | None:
    """What would be done, where nothing is."""
    conflicts = len(found.undoing.conflicts)
    if app.json:
        app.out.document(_document(found, dry_run=dry_run))
    else:
        _describe(app, found)
        if conflicts and not skip_conflicts:
            app.out.note("nothing was written; --skip-conflicts undoes the rest")
    return 3 if conflicts else None


def _describe(app: App, found: Revert) -> None:
    from recovery.cli.words import counted, told

    undoing = found.undoing
    if not found.chosen:
        app.out.line("no change was chosen")
        return
    app.out.line(f"{counted(found.chosen, 'event')} chosen, {counted(len(undoing.events), 'event')} to undo them")
    _list(app, "  ", [told(event) for event, _ in undoing.events])
    _list(app, "conflict: ", undoing.conflicts)
    _list(app, "stands: ", undoing.overtaken)
    if undoing.messages:
        app.out.line(f"{counted(len(undoing.messages), 'message')} kept: what was said is not unsaid")
    if found.elsewhere:
        app.out.line(f"{counted(found.elsewhere, 'event')} no longer in effect: a restore went back before them")


def _list(app: App, mark: str, each: list[Any]) -> None:
    app.out.lines(f"{mark}{one}" for one in each[:LISTED_MAX])
    if len(each) > LISTED_MAX:
        app.out.line(f"{mark}and {len(each) - LISTED_MAX:,} more")


def _document(found: Revert, *, dry_run: bool) -> dict[str, Any]:
    from journal.event_json import event_to_json

    undoing = found.undoing
    return {
        "dry_run": dry_run,
        "chosen": found.chosen,
        "events": [{"event": event_to_json(event), "agent": agent} for event, agent in undoing.events],
        "conflicts": [
            {"what": str(each.unit), "seq": each.seq, "later_seq": each.later_seq, "message": str(each)}
            for each in undoing.conflicts
        ],
        "overtaken": [
            {"what": str(each.unit), "seq": each.seq, "later_seq": each.later_seq} for each in undoing.overtaken
        ],
        "messages": undoing.messages,
        "elsewhere": found.elsewhere,
        "seqs": found.seqs,
        "op_id": found.op_id or None,
    }
