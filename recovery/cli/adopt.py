"""`journal adopt`: journals what lies on disk now."""

from __future__ import annotations

import click

from recovery.cli.app import App, Verb
from recovery.cli.names import AGENT_NAME


@click.command(
    cls=Verb, examples=("journal adopt agents", "journal adopt agents writer reviewer", "journal adopt --dry-run")
)
@click.argument("component", type=click.Choice(("agents",)), default="agents")
@click.argument("names", nargs=-1, type=AGENT_NAME)
@click.option("--dry-run", is_flag=True, help="Say what would be journaled, and stop.")
@click.pass_obj
def command(app: App, component: str, names: tuple[str, ...], dry_run: bool) -> int | None:
    """Take hand edits of agent files, and files that the journal never saw, into the journal as they are.

    The bytes on disk become the journaled version. The other way round, `journal recover agents` puts the journaled
    version back and the edit into quarantine. Without NAMES: all that differ, but for damaged files (empty, full of
    NUL bytes), which are taken only by name. Exit code: 3 where something was left out.
    """
    from recovery.adopt_agents import adopt_agents

    adopted = adopt_agents(app.data, names, dry_run=dry_run)
    if app.json:
        from msgspec import to_builtins

        app.out.document({"dry_run": dry_run, **to_builtins(adopted)})
    else:
        for name in adopted.agents:
            app.out.line(f"{'would adopt' if dry_run else 'adopted'} agent {name}")
        for line in adopted.left_out:
            app.out.line(f"left out: {line}")
        if not adopted.agents and not adopted.left_out:
            which = "these files have their" if names else "every agent file has its"
            app.out.line(f"nothing to adopt: {which} journaled bytes")
    return 3 if adopted.left_out else None
