"""`journal tag`: gives a moment a name that --until takes."""

from __future__ import annotations

import click

from recovery.cli.app import App, Verb


@click.command(cls=Verb, examples=("journal tag before-import", 'journal tag good --at "10 minutes ago"'))
@click.argument("name")
@click.option("--at", "at", default="now", metavar="WHEN", help="The moment to name; default: now.")
@click.pass_obj
def command(app: App, name: str, at: str) -> None:
    """Name a moment: `--until tag:NAME` means it from then on.

    A tag is an event. Setting it again moves it; what it meant before stays in the journal.
    """
    from journal.commit import draft, ticket
    from journal.events import TagCreated
    from recovery.moments import resolve_moment
    from recovery.server import open_core

    data = app.data
    seq = resolve_moment(data, data.reader(), at)
    request = ticket((draft(TagCreated(name, seq), None, "operator", None),), None)
    core = open_core(data, check="quick").core
    try:
        with core.lock:
            core.committer.commit_now(request)
        receipt = request.result()[0]
    finally:
        core.close()
    if app.json:
        app.out.document({"tag": name, "seq": seq, "recorded_at": receipt.seq})
    else:
        app.out.line(f"tag:{name} is seq {seq}")
