"""`journal init`: lays out a data directory; with --adopt it takes in what is there already."""

from __future__ import annotations

import os

import click

from recovery.cli.app import App, Verb
from recovery.cli.paths import FILE


@click.command(
    cls=Verb,
    cut="an import that was begun is finished by journal init --adopt; no server opens before",
    examples=("journal init --data /var/lib/server/data", "journal init --adopt --data data", "journal init --json"),
)
@click.option("--adopt", is_flag=True, help="Take in the memory.db and agents/ that are there, as events.")
@click.option(
    "--backup", type=FILE, metavar="PATH",
    help="With --adopt: a memory.db, or a directory with one, for the worst case.",
)
@click.pass_obj
def command(app: App, adopt: bool, backup: str | None) -> int | None:
    """Begin a journal in the data directory, which is made with its parents.

    On a journal it changes nothing and exits 0. --adopt reads an existing memory.db (this project's schema, or that of
    the Caxton server) and the agent files, journals every row and file as an event, and lists what it left out. The
    memory.db that was there is set aside in journal/quarantine, never changed. Adopting again goes on where it was cut.

    A memory.db that is damaged is salvaged table by table: every row that SQLite can still read around the bad pages,
    then rows of pages that no tree leads to. Where not a row can be read the --backup is taken, and without one the
    memory begins empty. Each way that was tried is printed and journaled, and the exit code is 3.
    """
    from journal.errors import UsageError
    from recovery.setup import adopt_state, initialise

    if backup is not None and not adopt:
        raise UsageError("--backup belongs to --adopt", hint="journal init --adopt --backup PATH")
    if backup is not None and not os.path.exists(backup):
        raise UsageError("there is no backup", path=backup, hint="name a memory.db, or a directory that holds one")
    data, created = initialise(app.place, app.config_option, adopt=adopt, backup=backup)
    document: dict[str, object] = {"data": data.root, "journal_id": data.reader().journal_id.hex(), "created": created}
    if not adopt:
        if created:
            from recovery.adopt.model import see_model

            see_model(data)  # one that lies there before the first event is journaled as it is
        if app.json:
            app.out.document(document)
        else:
            app.out.line(f"{'began' if created else 'there is'} a journal in {data.root}")
        if created and any(name.endswith(".md") for name in data.storage.list(data.layout.agents)):
            app.out.note("the files in agents/ are left as they are - journal adopt agents takes them in")
        return None
    with app.out.progress("adopting", "events") as bar:
        adopted = adopt_state(data, bar.advance)
    if app.json:
        app.out.document(
            {**document, "adopted": adopted.counts, "left_out": adopted.left_out, "attempts": adopted.attempts}
        )
    else:
        app.out.line(f"{'began' if created else 'there is'} a journal in {data.root}")
        app.out.lines(adopted.attempts)
        counts = ", ".join(f"{count} {kind}" for kind, count in adopted.counts.items() if count) or "nothing new"
        app.out.line(f"adopted {counts}")
        if not created and counts == "nothing new":
            app.out.note("a journal that is there takes in more by journal adopt agents and journal adopt memory")
        for line in adopted.left_out:
            app.out.line(f"left out: {line}")
    return None if adopted.is_whole else 3
