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
    from journal.errors import Refused, UsageError
    from journal.events import TagCreated
    from recovery.control.writer import open_writer
    from recovery.moments import resolve_moment

    if name.startswith("tag:"):  # it would be tag:tag:NAME to every other verb
        raise UsageError(f"a tag is named without tag: {name!r}", hint=f"write {name[4:] or 'NAME'}")
    data = app.data
    seq = resolve_moment(data, data.reader(), at)
    try:
        request = ticket((draft(TagCreated(name, seq), None, "operator", None),), None)
    except Refused as error:
        raise UsageError(f"no tag can have this name: {error.message}", hint=error.hint or "use another name") from None
    with open_writer(data) as writer:
        receipt = writer.commit(request)[0]
    if app.json:
        app.out.document({"tag": name, "seq": seq, "recorded_at": receipt.seq})
    else:
        app.out.line(f"tag:{name} is seq {seq}")
