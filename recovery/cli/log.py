"""`journal log`: what was written, oldest first. Takes no lock."""

from __future__ import annotations

import select
import shutil
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack
from typing import TYPE_CHECKING

import click

from recovery.cli.app import App, Verb
from recovery.cli.names import ENTITY_NAME

if TYPE_CHECKING:
    from journal.index import SegmentIndex
    from journal.lookup import MakeIndex
    from journal.reader import LogReader
    from recovery.cli.output import Bar
    from recovery.data import Data
    from recovery.records import Entry, Filter

POLL_SECONDS = 0.1


@click.command(
    cls=Verb,
    examples=(
        "journal log -n 20",
        "journal log --agent sales --since '2 hours ago'",
        "journal log --type 'agent.*' --follow",
        "journal log --entity Acme --scope workspace:east --json",
        "journal log --json | jq -c '{event, agent}' > events.jsonl",
    ),
)
@click.option("-n", "count", type=click.IntRange(min=0), metavar="N", help="Only the newest N, still oldest first.")
@click.option("--agent", "agents", multiple=True, metavar="NAME", help="Written by this agent.")
@click.option("--actor", "actors", multiple=True, metavar="NAME", help="Caused by this actor.")
@click.option("--type", "types", multiple=True, metavar="TYPE", help="Of this type, or pattern: 'memory.*'.")
@click.option(
    "--entity", "entities", multiple=True, metavar="NAME", type=ENTITY_NAME,
    help="About this entity, relations included.",
)
@click.option("--scope", "scopes", multiple=True, metavar="SCOPE", help="In global, workspace:NAME or agent:NAME.")
@click.option("--op-id", "op_ids", multiple=True, metavar="ID", help="Of this operation; all records of a group.")
@click.option("--since", metavar="WHEN", help="At or after this moment.")
@click.option("--until", metavar="WHEN", help="At or before this moment.")
@click.option("--follow", "-f", is_flag=True, help="Go on with what is appended, until Ctrl-C.")
@click.pass_obj
def command(
    app: App,
    count: int | None,
    agents: tuple[str, ...],
    actors: tuple[str, ...],
    types: tuple[str, ...],
    entities: tuple[str, ...],
    scopes: tuple[str, ...],
    op_ids: tuple[str, ...],
    since: str | None,
    until: str | None,
    follow: bool,
) -> None:
    """Print the journal's records, oldest first and all of them; -n N prints the newest N.

    A filter that is given twice takes either value; different filters must all hold. WHEN is a time with a zone, a
    seq, tag:NAME, now or "5 minutes ago". With --json each line is one flat object: seq, time (UTC ns), op_id, agent,
    actor, traceparent, type, event. Takes no lock: a server may be writing. A search of the journal's owner leaves the
    indexes that it found missing (journal/index); they hold nothing that the journal does not.
    """
    from journal.errors import UsageError
    from recovery.evidence import weigh_end
    from recovery.records import Filter, selected

    if follow and until is not None:
        raise UsageError("--follow has no end", hint="leave out --until")
    wanted = Filter(agents, actors, types, entities, scopes, op_ids)
    app.out.is_content = True
    data = app.data
    reader = data.reader()
    weigh_end(data, reader)
    first, last = bounds(data, reader, since, until)
    show = _objects(app) if app.json else _Lines(app).show
    answered = _Answered(op_ids)
    with ExitStack() as bar:
        make = _indexer(data, bar.enter_context(app.out.progress("indexing", "events"))) if wanted else None
        show(answered.passing(_after(bar, selected(reader, wanted, first, last, count, make))))
    if op_ids and not follow:
        _tell_what_became(app, data, reader, answered)
    if follow:
        app.out.flush()
        reader.raise_for_end()
        _follow(app, reader, wanted, show)


def _indexer(data: Data, bar: Bar) -> MakeIndex | None:
    """What makes the indexes that a search finds missing, where they would be the journal's owner's."""
    if not data.is_ours:
        return None
    from journal.indexing import index_on_the_way

    def make(reader: LogReader, number: int) -> SegmentIndex | None:
        bar.advance(reader.segments[number].first_seq, reader.last_seq)
        return index_on_the_way(reader, number)

    return make


def _after(bar: ExitStack, found: Iterator[Entry]) -> Iterator[Entry]:
    """Takes the bar away before the first line, which may go to the same terminal."""
    for entry in found:
        bar.close()
        yield entry


class _Answered:
    """Which of the op_ids that were asked for were met, and the last seq that was printed."""

    def __init__(self, op_ids: tuple[str, ...]) -> None:
        self.missing = list(op_ids)
        self.last_seq = 0

    def passing(self, found: Iterator[Entry]) -> Iterator[Entry]:
        for entry in found:
            if entry.op_id in self.missing:
                self.missing.remove(entry.op_id)
            self.last_seq = entry.seq
            yield entry


def _tell_what_became(app: App, data: Data, reader: LogReader, answered: _Answered) -> None:
    """A definite answer to who asks for an op_id: it was taken, it was not, or the next open settles it."""
    from replay.holders import holders

    app.out.flush()
    tail = reader.tail
    settled = tail.closed or answered.last_seq <= tail.durable_seq
    if not settled and not holders([f"{data.layout.journal}/lock"]):
        app.out.note(
            f"seq {answered.last_seq} lies past seq {tail.durable_seq}, the last that is known to be synced: the next "
            "open makes it durable, before anything builds on it"
        )
    for op_id in answered.missing:
        lost = "unless it is one of the lost events, it" if reader.parent is not None else "it"
        app.out.note(f"no record that was looked at has op_id {op_id}: {lost} was not taken, and may be sent again")


def _objects(app: App) -> Callable[[Iterable[Entry]], None]:
    return lambda found: app.out.documents(entry.to_json() for entry in found)


def bounds(data: Data, reader: LogReader, since: str | None, until: str | None) -> tuple[int, int | None]:
    """The seqs that are asked for; without --until there is no last one, so that damage behind it is met and named."""
    if since is None and until is None:
        return 1, None
    from recovery.moments import resolve_moment

    first = resolve_moment(data, reader, since, exclusive=True) + 1 if since is not None else 1
    return first, resolve_moment(data, reader, until) if until is not None else None


def _follow(app: App, reader: LogReader, wanted: Filter, show: Callable[[Iterable[Entry]], None]) -> None:
    """Prints what is appended from now on, as it comes, until Ctrl-C or until nobody reads any more."""
    from journal.follow import Follower
    from recovery.records import entries

    follower = Follower(reader)
    while not _reader_has_gone():
        show(wanted.select(entries(follower.poll())))
        app.out.flush()
        time.sleep(POLL_SECONDS)


def _reader_has_gone() -> bool:
    """True once the other end of a pipe is closed: a quiet journal would never find out by writing."""
    try:
        poll = select.poll()
        poll.register(sys.stdout.fileno(), 0)
    except (AttributeError, OSError, ValueError):  # no poll on this platform, or stdout is no descriptor
        return False
    return any(event & (select.POLLERR | select.POLLHUP) for _, event in poll.poll(0))


# -- lines ------------------------------------------------------------------------------------------------------------


class _Lines:
    """For people: time, seq, agent and what happened. On a terminal days are headings, and lines fit."""

    def __init__(self, app: App) -> None:
        self.out = app.out
        self.width = shutil.get_terminal_size().columns if sys.stdout and sys.stdout.isatty() else None
        self.day = ""

    def show(self, found: Iterable[Entry]) -> None:
        for entry in found:
            self._show_one(entry)

    def _show_one(self, entry: Entry) -> None:
        from recovery.cli.words import QUOTED_MAX, time_text, told

        record = entry.record
        when = time_text(record.time)
        who = record.agent or (f"({record.actor})" if record.actor else "-")
        if self.width is None:
            what = told(record.event)
            self.out.line(f"{when}  {entry.seq:>8}  {who:<12}  {what}")
            return
        day, _, clock = when.partition("T")
        if day != self.day:
            self.out.styled(("\n" if self.day else "") + self.out.style(f"{day} (UTC)", bold=True))
            self.day = day
        what = told(record.event, min(QUOTED_MAX, max(20, self.width - 70)))
        room = max(20, self.width - 28 - max(12, len(who)))
        shown = what if len(what) <= room else what[: room - 1] + "…"
        clock = " " * 12 if entry.continues_group else clock.rstrip("Z")
        style = self.out.style
        self.out.styled(f"{style(clock, dim=True)}  {entry.seq:>8}  {style(f'{who:<12}', fg='cyan')}  {style(shown)}")
