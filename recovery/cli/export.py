"""`journal export`: memory in the formats of other servers."""

from __future__ import annotations

import sys
from contextlib import nullcontext

import click

from recovery.cli.app import App, VerbGroup
from recovery.cli.output import Bar

_TOLD_EVERY = 1000


@click.group(cls=VerbGroup, examples=("journal export mcp > memory.jsonl",))
def command() -> None:
    """Write memory to stdout in the format of another server."""


@command.command("mcp", examples=("journal export mcp > memory.jsonl", "journal export mcp --scope agent:writer"))
@click.option("--scope", default="global", metavar="SCOPE", help="What to write. Default: global.")
@click.pass_obj
def mcp(app: App, scope: str) -> None:
    """Write the lines of the MCP memory server (@modelcontextprotocol/server-memory) for one scope.

    Entities with their observations in the order of their creation, then relations; a file that this server wrote and
    `journal import mcp` took in comes out byte for byte. What the format cannot hold is named on stderr: metadata,
    strength and confidence, other scopes, messages, agents. Reads one moment of memory.db, beside a server too.
    """
    from journal.errors import Refused, UsageError
    from journal.limits import check_scope
    from recovery.mcp.exporting import export_mcp

    try:
        check_scope("scope", scope)
    except Refused as error:
        raise UsageError(error.message, hint="global, workspace:NAME or agent:NAME") from None
    notes: list[str] = []
    with app.out.progress("writing", "lines") if not sys.stdout.isatty() else nullcontext(Bar()) as bar:
        for number, line in enumerate(export_mcp(app.data, scope, notes.append)):
            app.out.raw(("\n" * bool(number) + line).encode())
            if number % _TOLD_EVERY == 0:
                bar.advance(number, 0)
    for note in notes:
        app.out.note(f"not held by this format: {note}")
