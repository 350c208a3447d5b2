"""`journal drill`: rehearses the whole recovery beside the live state, compares, times it, and journals the result."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import click

from recovery.cli.app import App, Verb
from recovery.cli.paths import DIRECTORY

if TYPE_CHECKING:
    from recovery.data import Data
    from recovery.drill.rehearsal import Drilled


@click.command(
    cls=Verb,
    cut="nothing was changed or journaled",
    examples=("journal drill", "journal drill --json", "journal drill --from /mnt/backup/server"),
)
@click.option(
    "--from", "backup", type=DIRECTORY, metavar="DIR",
    help="Rehearse from this backup instead of a copy of the journal.",
)  # fmt: skip
@click.option(
    "--scratch", type=DIRECTORY, metavar="DIR",
    help="Where to rehearse; default: the system's temporary directory.",
)  # fmt: skip
@click.pass_obj
def command(app: App, backup: str | None, scratch: str | None) -> int | None:
    """Prove that the state could be recovered now, and say how long it would take.

    The journal is copied to a scratch directory, or brought back from a backup; memory.db and the agent files are made
    from that alone, by the code that a recovery runs. The result is compared with the live state: memory.db by digest
    at the same seq, agent files byte by byte, the model by its journaled hashes. Nothing live is changed and no lock is
    taken, so it may run beside a server. The scratch directory is removed in the end, after Ctrl-C too.

    The result is journaled as drill.completed, by the server where one holds the lock, and `journal status` shows the
    last one. Exit code: 0 the same, 1 not the same, 12 a damaged journal or backup.
    """
    from recovery.cli.words import counted
    from recovery.drill.rehearsal import drill

    data = app.data
    with _ended_by_sigterm(), app.out.progress("rehearsing", "events") as bar:
        drilled = drill(data, backup=backup, scratch=scratch, progress=bar.step)
    _journal(data, drilled)
    if app.json:
        from msgspec import to_builtins

        app.out.document(to_builtins(drilled))
        return None if drilled.ok else 1
    for step in drilled.steps:
        app.out.line(f"{step.seconds:8.2f} s  {step.name}: {step.said}")
    for name, found in (("memory", drilled.memory), ("agents", drilled.agents), ("model", drilled.model)):
        app.out.line(f"{name}: {found.verdict}: {found.said}")
    if drilled.behind:
        app.out.line(f"the backup lacks the last {counted(drilled.behind, 'event')}")
    kept = f"journaled at seq {drilled.journaled_seq}" if drilled.journaled_seq else drilled.not_journaled
    verdict = "can be recovered" if drilled.ok else "CANNOT be recovered as it is"
    app.out.line(f"the state at seq {drilled.seq} {verdict}, in {drilled.seconds:.2f} s; {kept}")
    return None if drilled.ok else 1


@contextmanager
def _ended_by_sigterm() -> Iterator[None]:
    """A service manager that stops the drill is a Ctrl-C: the scratch directory goes."""
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _journal(data: Data, drilled: Drilled) -> None:
    from journal.errors import JournalError
    from journal.events import DrillCompleted
    from recovery.control.writer import journal_beside

    event = DrillCompleted(drilled.seq, drilled.ok, drilled.seconds, drilled.digest)
    try:
        drilled.journaled_seq = journal_beside(data, event, actor="operator").seq
    except JournalError as error:  # minutes of work are told all the same
        drilled.not_journaled = f"not journaled: {error.message}"
