"""`journal head`: where the journal ends, in a form to be kept elsewhere and proven against later. Takes no lock."""

from __future__ import annotations

import click

from recovery.cli.app import App, Verb
from recovery.cli.output_file import write_output
from recovery.cli.paths import FILE


@click.command(
    cls=Verb,
    examples=(
        "journal head",
        "journal head --json >> /mnt/elsewhere/heads.jsonl",
        "journal head -o head.json && scp head.json witness:heads/",
        "journal verify --head head.json",
    ),
)
@click.option("-o", "--output", type=FILE, metavar="FILE", help="Write it to this file as JSON, whole or not at all.")
@click.pass_obj
def command(app: App, output: str | None) -> None:
    """Print the journal's head: its id, and seq, chain, epoch and time (UTC ns) of its last event.

    The chain is a SHA-256 over the whole history, so these five values stand for all of it. Keep them where whoever can
    write this directory cannot: on another machine, in a mail, on paper. `journal verify --head FILE` then finds
    an end that was cut off, an older copy put in place, and a history that was rewritten with all its checksums, which
    no journal can see in itself. Only the end is read: whether all before it is whole, `journal verify` says.
    """
    from journal.witness import head_of
    from recovery.evidence import weigh_end
    from recovery.log.heads import head_json, head_lines

    data = app.data
    reader = data.reader()
    weigh_end(data, reader)
    head = head_of(reader)
    if output is not None:
        write_output(app, output, head_json(head))
    if app.json:
        from msgspec import to_builtins

        app.out.document(to_builtins(head))
    elif output is None:
        app.out.lines(head_lines(head))
    else:
        app.out.line(f"the head at seq {head.seq} is in {output}: keep it elsewhere")
