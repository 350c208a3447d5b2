"""`journal backup`: a consistent, incremental, verified copy while writing goes on."""

from __future__ import annotations

import click

from recovery.cli.app import App, Verb
from recovery.cli.paths import DIRECTORY


@click.command(
    cls=Verb,
    cut="what was copied stays; the same command copies the rest",
    examples=("journal backup /mnt/backup/server", "journal backup /mnt/backup/server --json"),
)
@click.argument("directory", type=DIRECTORY)
@click.pass_obj
def command(app: App, directory: str) -> int | None:
    """Copy the journal and its checkpoints to DIRECTORY, which is all that a recovery needs.

    Run it again and only what is new is copied. It takes no lock: a server goes on writing meanwhile, and the copy is
    a consistent prefix of its journal. The copy is read back and verified. `journal recover --from DIRECTORY` brings
    it back; it refuses to if that would lose events.

    The parity of sealed segments and checkpoints comes along, so that rot in the backup can be put right there:
    `journal verify --repair --data DIRECTORY`. What has no parity yet gets it with the next checkpoint or
    `journal scrub`, and comes along with the next backup.
    """
    from recovery.cli.words import bytes_text, counted
    from recovery.log.backup import back_up, carry_parity

    with app.out.progress("backing up", "bytes") as bar:
        made = back_up(app.data, directory, bar.advance)
        carry_parity(app.data, made)
    if app.json:
        from msgspec import to_builtins

        app.out.document(to_builtins(made))
    else:
        app.out.line(
            f"{made.path}: seq {made.last_seq}, {counted(made.files_copied, 'file')} "
            f"({bytes_text(made.bytes_copied)}) copied, "
            f"{made.files_kept} were there already; verified, {made.parity_files} have parity"
        )
    return None
