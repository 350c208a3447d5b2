"""`journal head`: where the journal ends, in a form to be kept elsewhere and proven against later. Takes no lock."""

from __future__ import annotations

import click

from recovery.cli.app import App, Verb


@click.command(
    cls=Verb,
    examples=(
        "journal head",
        "journal head --json >> /mnt/elsewhere/heads.jsonl",
        "journal head -o head.json && scp head.json witness:heads/",
        "journal verify --head head.json",
    ),
)
@click.option("-o", "--output", metavar="FILE", help="Write it to this file as JSON, whole or not at all.")
@click.pass_obj
def command(app: App, output: str | None) -> None:
    """Print the journal's head: its id, and seq, chain, epoch and time (UTC ns) of its last event.

    The chain is a SHA-256 over the whole history, so these five values stand for all of it. Keep them where whoever can
    write this directory cannot: on another machine, in a mail, on paper. `journal verify --head FILE` then finds
    an end that was cut off, an older copy put in place, and a history that was rewritten with all its checksums, which
    no journal can see in itself. Only the end is read: whether all before it is whole, `journal verify` says.
    """
    from journal.witness import head_of
    from recovery.log.heads import head_json, head_lines
    from recovery.moments import weigh_end

    data = app.data
    reader = data.reader()
    weigh_end(data, reader)
    head = head_of(reader)
    if output is not None:
        _write(app, output, head_json(head))
    if app.json:
        from msgspec import to_builtins

        app.out.document(to_builtins(head))
    elif output is None:
        app.out.lines(head_lines(head))
    else:
        app.out.line(f"the head at seq {head.seq} is in {output}: keep it elsewhere")


def _write(app: App, output: str, content: bytes) -> None:
    import os

    from journal.errors import UsageError
    from journal.files import write_file
    from recovery.places import is_within, place_of

    path = os.path.realpath(output)
    place_of(os.path.dirname(path), "the directory of -o")
    if is_within(path, os.path.realpath(app.data.layout.journal)):
        raise UsageError("a head inside the journal is rewritten with it", path=path, hint="keep it elsewhere")
    if not os.path.isdir(os.path.dirname(path)) or os.path.isdir(path):
        raise UsageError("no file can be written there", path=path, hint="name a file in a directory that exists")
    write_file(app.data.storage, path, content)
