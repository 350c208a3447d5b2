"""`journal show`: one record in full, or what was known of an entity at a moment, and who wrote it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import click

from recovery.cli.app import App, Verb
from recovery.cli.names import ENTITY_NAME

if TYPE_CHECKING:
    from journal.reader import LogReader
    from journal.scan import Batch
    from recovery.data import Data
    from recovery.provenance import Known, Writer
    from recovery.records import Entry


@click.command(
    cls=Verb,
    examples=(
        "journal show 42",
        "journal show 42 --json | journal verify --receipt -",
        "journal show --entity Acme",
        'journal show --entity Acme --scope workspace:east --at "2 hours ago"',
    ),
)
@click.argument("seq", required=False, metavar="[SEQ]")
@click.option(
    "--entity", metavar="NAME", type=ENTITY_NAME, help="What was known of this entity, in every scope that has one."
)
@click.option("--scope", metavar="SCOPE", help="With --entity: only in global, workspace:NAME or agent:NAME.")
@click.option("--at", "at", metavar="WHEN", help="With --entity: at this moment; default: now.")
@click.pass_obj
def command(app: App, seq: str | None, entity: str | None, scope: str | None, at: str | None) -> None:
    """Show the record at SEQ in full: its event, who wrote it, when, and the chain that proves it.

    With --entity, show what was known at a moment instead: the entity, its observations and relations, each with the
    agent, the actor and the time that wrote it. The state of that moment is replayed beside, in a temporary directory.
    WHEN is a time with a zone, a seq, tag:NAME, now or "5 minutes ago". Takes no lock and changes nothing.
    """
    from journal.errors import UsageError

    if (seq is None) == (entity is None):
        raise UsageError("say what to show: SEQ or --entity NAME", hint="see journal show --help")
    app.out.is_content = True
    if entity is None:
        if scope is not None or at is not None:
            raise UsageError("--scope and --at go with --entity", hint="a SEQ is one record")
        assert seq is not None
        _show_record(app, app.data, seq)
    else:
        _show_entity(app, app.data, entity, scope, at or "now")


# -- a record ---------------------------------------------------------------------------------------------------------


def _show_record(app: App, data: Data, text: str) -> None:
    from journal.errors import UsageError
    from recovery.moments import resolve_moment
    from recovery.records import entry_of

    reader = data.reader()
    seq = resolve_moment(data, reader, text)
    if seq == 0:
        raise UsageError("seq 0 is the empty state before the first record", hint="the first record is 1")
    batch = reader.batch_of(seq)
    entry = entry_of(batch, seq, batch.records()[seq - batch.first_seq])
    if app.json:
        app.out.document(_record_json(entry, batch))
    else:
        app.out.lines(_record_lines(entry, batch))


def _record_json(entry: Entry, batch: Batch) -> dict[str, Any]:
    """The object of `journal log --json`, with what a receipt holds: it can be given to `verify --receipt`."""
    return {
        **entry.to_json(),
        "clock": entry.record.clock if entry.record.clock is not None else entry.record.time,
        "epoch": batch.epoch,
        "chain": batch.chain.hex(),
        "batch": {
            "first_seq": batch.first_seq,
            "last_seq": batch.last_seq,
            "previous_chain": batch.previous_chain.hex(),
            "durable_seq": batch.durable_seq,
        },
        "continues_group": entry.continues_group,
    }


def _record_lines(entry: Entry, batch: Batch) -> Iterator[str]:
    from journal.event_json import event_to_json
    from recovery.cli.words import time_text

    record = entry.record
    yield f"seq          {entry.seq}"
    yield f"type         {record.event.type_name}"
    yield f"time         {time_text(record.time, 9)}"
    if record.clock is not None:
        yield f"clock        {time_text(record.clock, 9)} (set back: times never decrease)"
    yield f"agent        {record.agent or '-'}"
    yield f"actor        {record.actor or '-'}"
    yield f"op_id        {entry.op_id}" + ("" if record.op_id else " (generated)")
    if record.traceparent:
        yield f"traceparent  {record.traceparent}"
    group = ", continues a group" if entry.continues_group else ""
    yield f"batch        {batch.first_seq}-{batch.last_seq}, epoch {batch.epoch}{group}"
    yield f"chain        {batch.chain.hex()}"
    yield ""
    for name, value in event_to_json(record.event).items():
        if name != "type":
            yield from _field_lines(name, value)


def _field_lines(name: str, value: object) -> Iterator[str]:
    """`name: value`; text of several lines is set below, so that it reads as it was written."""
    if isinstance(value, str) and "\n" in value:
        yield f"{name}:"
        for line in value.splitlines():
            yield f"    {line}"
    else:
        text = value if isinstance(value, str) and value else json.dumps(value, ensure_ascii=False)
        yield f"{name}: {text}"


# -- an entity --------------------------------------------------------------------------------------------------------


def _show_entity(app: App, data: Data, name: str, scope: str | None, at: str) -> None:
    from contextlib import closing

    from msgspec import to_builtins

    from recovery.moments import resolve_moment
    from recovery.provenance import known_of
    from replay.engine import build_state
    from replay.scratch import scratch_directory
    from replay.working import connect_finished

    reader = data.reader()
    seq = resolve_moment(data, reader, at)
    with scratch_directory("show") as scratch:
        path = f"{scratch}/state.db"
        with app.out.progress("replaying", "events") as bar:
            build_state(
                data.storage, data.layout.journal, reader, seq, path, bar.advance, embeddings=False,
                journal_mode="delete",
            )  # fmt: skip
        with closing(connect_finished(path)) as connection:
            found = known_of(connection, reader, seq, name, scope)
            if not found:
                raise _not_known(connection, seq, name, scope)
    when = reader.time_of(seq) if seq else None
    if app.json:
        app.out.document({"seq": seq, "time": when, "entities": [to_builtins(each) for each in found]})
        return
    for number, known in enumerate(found):
        if number:
            app.out.line()
        _print_known(app, known, seq, reader)


def _not_known(connection: Any, seq: int, name: str, scope: str | None) -> Exception:
    """Names where it is known, or what is spelt like it."""
    from difflib import get_close_matches

    from journal.errors import UsageError
    from recovery.provenance import names_in

    known = list(names_in(connection))
    elsewhere = sorted(place for place, each in known if each == name)
    near = get_close_matches(name, {each for _, each in known}, n=3, cutoff=0.6)
    where = f" in {scope}" if scope is not None else ""
    if elsewhere:
        hint = "there is one in " + ", ".join(elsewhere)
    elif near:
        hint = "did you mean " + " or ".join(near) + "?"
    else:
        hint = "journal log --entity NAME shows when it was known"
    return UsageError(f"no entity {name!r} was known{where} at seq {seq}", seq=seq, hint=hint)


def _print_known(app: App, known: Known, seq: int, reader: LogReader) -> None:
    from recovery.cli.words import counted, quoted, time_text

    out = app.out
    when = f", {time_text(reader.time_of(seq))}" if seq else ""
    title = out.style(f"{known.name} ({known.entity_type})", bold=True)
    out.styled(f"{title} {out.style(f'in {known.scope}, as of seq {seq}{when}')}")
    if known.confidence != 1.0:
        out.line(f"  confidence {known.confidence}")
    if known.metadata:
        out.line(f"  metadata {json.dumps(known.metadata, ensure_ascii=False)}")
    out.line(f"  created by {_who(known.written_by)}")
    if known.updated_by is not None:
        out.line(f"  updated by {_who(known.updated_by)}")
    out.line(f"{counted(len(known.observations), 'observation')}")
    for observed in known.observations:
        about = f" {json.dumps(observed.metadata, ensure_ascii=False)}" if observed.metadata else ""
        out.line(f"  {quoted(observed.content, 10_000)}{about}")
        out.styled(out.style(f"      by {_who(observed.written_by)}", dim=True))
    out.line(f"{counted(len(known.relations), 'relation')}")
    for related in known.relations:
        extra = {"strength": related.strength, "confidence": related.confidence}
        weight = "".join(f", {name} {value}" for name, value in extra.items() if value != 1.0)
        about = f" {json.dumps(related.metadata, ensure_ascii=False)}" if related.metadata else ""
        out.line(f"  {related.from_entity} -{related.relation_type}-> {related.to_entity}{weight}{about}")
        out.styled(out.style(f"      by {_who(related.written_by)}", dim=True))


def _who(writer: Writer) -> str:
    from recovery.cli.words import time_text

    actor = f" for {writer.actor}" if writer.actor else ""
    return f"{writer.agent or 'no agent'}{actor}, {time_text(writer.time)}, seq {writer.seq}"
