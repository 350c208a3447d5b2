"""`journal adopt`: journals what lies on disk now."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from recovery.cli.app import App, Verb
from recovery.cli.names import AGENT_NAME

if TYPE_CHECKING:
    from recovery.adopt.memory import AdoptedMemory

LISTED_MAX = 50


@click.command(
    cls=Verb,
    cut="what was journaled stays; the same command adopts the rest",
    examples=(
        "journal adopt agents",
        "journal adopt agents writer reviewer",
        "journal adopt --dry-run",
        "journal adopt memory --dry-run",
        "journal adopt memory --yes",
        "journal adopt model --dry-run",
    ),
)
@click.argument("component", type=click.Choice(("agents", "memory", "model")), default="agents")
@click.argument("names", nargs=-1, type=AGENT_NAME)
@click.option("--dry-run", is_flag=True, help="Say what would be journaled, and stop.")
@click.option("--yes", is_flag=True, help="Do not ask.")
@click.pass_obj
def command(app: App, component: str, names: tuple[str, ...], dry_run: bool, yes: bool) -> int | None:
    """Take what was changed past the journal into it, as it lies there.

    Of agents: hand edits of their files, and files that the journal never saw. The bytes on disk become the journaled
    version; the other way round, `journal recover agents` puts the journaled version back and the edit into quarantine.
    Without NAMES: all that differ, but for damaged files (empty, full of NUL bytes), which are taken only by name.

    Of memory: rows that another program wrote into memory.db, as the events that would have made them. What no event
    can express is left as the journal has it, and named: times and ids, a changed message, a relation that joins two
    scopes, rows that the journal's rules forbid. The other way round, `journal recover memory` takes the changes back.
    A memory.db that is damaged is refused: damage is no change. Exit code: 3 where something was left out.

    Of the model: the embedding model as it lies there becomes the journaled one, by the hashes of its files, if it is
    sound and, with the extra `embeddings` or `onnx`, passes its test. Vectors of another model are computed anew.
    """
    if component == "memory":
        return _adopt_memory(app, names, dry_run, yes)
    if component == "model":
        return _adopt_model(app, names, dry_run)
    from recovery.adopt.agents import adopt_agents

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


def _adopt_memory(app: App, names: tuple[str, ...], dry_run: bool, yes: bool) -> int | None:
    from journal.errors import Locked, UsageError
    from recovery.adopt.memory import adopt_memory, look_for_drift
    from recovery.control.remote import connect_to

    if names:
        raise UsageError("memory has no names to choose by", hint="journal adopt memory takes all that differs")
    with app.out.progress("comparing", "events") as bar:
        found = look_for_drift(app.data, bar.step)
    if not dry_run and found.events:
        if not app.json:
            _describe(app, found, "would journal")
        if not app.out.confirm(f"Journal {len(found.events)} events?", yes=yes):
            return 1
        with app.out.progress("adopting", "events") as bar:
            try:
                found = adopt_memory(app.data, bar.step)
            except Locked as locked:
                with connect_to(app.data, locked) as holder:
                    found = holder.adopt_memory(bar.step)
        if not app.json:
            _tell(app, found)
    elif not app.json:
        _describe(app, found, "would journal")
    if app.json:
        app.out.document({"dry_run": dry_run, **found.to_json(), "digest": found.digest or None})
    return 3 if found.left_out else None


def _describe(app: App, found: AdoptedMemory, verb: str) -> None:
    from recovery.cli.words import told

    if not found.events and not found.left_out:
        app.out.line("nothing to adopt: memory.db is what the journal says")
    _list(app, f"{verb}: ", [told(event) for event in found.events])
    _list(app, "left out: ", found.left_out)
    if found.left_out and not found.events:
        app.out.line("no event expresses the difference; to take it back: journal recover memory")


def _tell(app: App, done: AdoptedMemory) -> None:
    if not done.seqs:
        app.out.line("nothing was journaled: no difference is left that an event expresses")
        return
    app.out.line(f"adopted by seq {done.seqs[0]}-{done.seqs[-1]}, digest {done.digest}")
    app.out.lines(f"kept aside: {path}" for path in done.quarantined)


def _list(app: App, mark: str, each: list[str]) -> None:
    app.out.lines(f"{mark}{one}" for one in each[:LISTED_MAX])
    if len(each) > LISTED_MAX:
        app.out.line(f"{mark}and {len(each) - LISTED_MAX:,} more")


def _adopt_model(app: App, names: tuple[str, ...], dry_run: bool) -> int | None:
    from journal.errors import UsageError
    from recovery.adopt.model import adopt_model

    if names:
        raise UsageError("the model has no names to choose by", hint="journal adopt model")
    adopted = adopt_model(app.data, dry_run=dry_run)
    if app.json:
        from msgspec import to_builtins

        app.out.document({"dry_run": dry_run, **to_builtins(adopted)})
    elif adopted.refused is not None:
        app.out.line(f"left out: model {adopted.name}: {adopted.refused}")
    elif adopted.seq is None and not (dry_run and adopted.test):
        app.out.line(f"nothing to adopt: the files of model {adopted.name} are the journaled ones")
    else:
        where = "would adopt" if dry_run else f"adopted at seq {adopted.seq}:"
        app.out.line(f"{where} model {adopted.name}, {adopted.files} files, fingerprint {adopted.fingerprint}")
        app.out.line(adopted.test)
    return 3 if adopted.refused is not None else None
