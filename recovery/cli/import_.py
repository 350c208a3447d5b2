"""`journal import`: takes in what other memory servers wrote."""

from __future__ import annotations

import os

import click

from recovery.cli.app import App, VerbGroup
from recovery.cli.paths import FILE


@click.group(cls=VerbGroup, examples=("journal import mcp ~/memory.jsonl --dry-run", "journal import mcp memory.jsonl"))
def command() -> None:
    """Take in the memory of another server as events, and list what was left out."""


@command.command(
    "mcp",
    cut="what was journaled stays; the same command takes in the rest",
    examples=("journal import mcp memory.jsonl --scope workspace:notes",),
)
@click.argument("file", type=FILE)
@click.option("--scope", default="global", metavar="SCOPE", help="Where it belongs. Default: global.")
@click.option("--dry-run", is_flag=True, help="Say what would be taken in and left out, and stop.")
@click.pass_obj
def mcp(app: App, file: str, scope: str, dry_run: bool) -> int | None:
    """Take in FILE of the MCP memory server (@modelcontextprotocol/server-memory): entities, observations, relations.

    Each event's op_id is made from what it says: the same file again journals nothing, one that has grown journals what
    is new, and an import that was cut goes on by running it again. Lines that cannot be read, relations of entities
    that are not there, and duplicates are listed by line. Exit code: 3 where something is missing in the journal now.
    """
    from journal.errors import Refused, UsageError
    from journal.limits import check_scope
    from recovery.cli.words import counted
    from recovery.mcp.importing import import_mcp

    try:
        check_scope("scope", scope)
    except Refused as error:
        raise UsageError(error.message, hint="global, workspace:NAME or agent:NAME") from None
    if not os.path.isfile(file):  # it is read several times, so a pipe will not do
        raise UsageError(f"{file!r} is no file", hint="name the file that MEMORY_FILE_PATH of that server names")
    with app.out.progress("importing", "events") as bar:
        done = import_mcp(app.data, file, scope, dry_run=dry_run, progress=bar.advance)
    if app.json:
        from msgspec import to_builtins

        app.out.document(to_builtins(done))
    else:
        kinds = {"entities": "entity", "observations": "observation", "relations": "relation"}
        taken = [counted(done.counts[kind], noun, kind) for kind, noun in kinds.items() if done.counts.get(kind)]
        app.out.line(f"{'would take in' if dry_run else 'took in'} {', '.join(taken) or 'nothing new'} into {scope}")
        if done.present:
            app.out.line(f"{counted(done.present, 'event')} were there already")
        for line in done.left_out:
            app.out.line(f"left out: {line}")
    return None if done.is_whole else 3
