"""`journal append`: JSON Lines in, receipts out, each printed only after its sync."""

from __future__ import annotations

import queue
import sys
import threading
from collections.abc import Iterator
from typing import TYPE_CHECKING, BinaryIO

import click

from recovery.cli.app import App, Verb
from recovery.cli.output import discard

if TYPE_CHECKING:
    from journal.commit import Ticket
    from journal.errors import JournalError
    from replay.hook import SyncHook

LINE_BYTES_MAX = 64 << 20
LINES_AT_ONCE = 1024
_KEYS = {"event", "events", "agent", "actor", "op_id", "traceparent"}


@click.command(
    cls=Verb,
    examples=(
        "journal append < events.jsonl > receipts.jsonl",
        "journal append --quick-check < events.jsonl",
    ),
)
@click.option("--quick-check", is_flag=True, help="Open without comparing memory.db with the journal by digest.")
@click.pass_obj
def command(app: App, quick_check: bool) -> int | None:
    """Append events read from stdin, one JSON object a line, and print a receipt for each.

    A line is {"event": {"type": "memory.observation_added", "scope": "global", "entity": "Acme", "content": "…"}},
    with "agent", "actor", "op_id" and "traceparent" beside it if wanted, or with "events": […] for a group that is
    taken whole or not at all. Receipts are JSON Lines in input order; each is printed only once its event is durable.
    A line that is refused gives {"error": {…, "line": N}} in its place, the others go on, and the exit code is 3. A
    line with an op_id may be sent again after a crash: it is applied once.
    """
    from journal.errors import UsageError
    from recovery.data import Data
    from recovery.server import background_of, open_core
    from recovery.takeover import takeover_lines
    from replay.hook import SyncHook

    app.out.is_content = True  # receipts: what a client sent comes back as it was
    if sys.stdin is None:
        raise UsageError("stdin is closed", hint="give the events on it, or < /dev/null for none")
    data: Data = app.data
    opened = open_core(data, check="quick" if quick_check else "full")
    if opened.recovered.rebuilt or opened.recovered.agents_written:
        done = ["memory.db rebuilt"] if opened.recovered.rebuilt else []
        done += [f"agent {name} written" for name in opened.recovered.agents_written]
        app.out.note(f"repaired on opening: {', '.join(done)}; journal log --type recovery.completed tells of it")
    for repair in opened.core.log.opening.repaired:
        app.out.note(f"repaired on opening: {repair.words()}")
    for line in takeover_lines(opened.core.log.opening):
        app.out.note(line)
    for decision in opened.kept:
        app.out.note(f"{decision.component}: {decision.reason} - {decision.hint}")
    with SyncHook(opened.core, background_of(data, opened.core, checkpoints=True)) as hook:
        return _feed(app, hook)


def _feed(app: App, hook: SyncHook) -> int | None:
    from msgspec import to_builtins

    from journal.errors import IOFault

    refused = False
    fatal: JournalError | None = None
    # A file object of its own: the reading thread may hang in it when the interpreter ends, which then must not wait
    # for the lock of sys.stdin.
    for lines in _batches(open(sys.stdin.fileno(), "rb", closefd=False)):  # noqa: SIM115 - it ends with the process
        requests = [_request(line) for line in lines]
        for _, request in requests:
            if not isinstance(request, Exception):
                hook.submit(request)
        hook.flush()
        try:
            for number, request in requests:
                if not isinstance(request, Exception) and request.error is None:
                    app.out.documents(to_builtins(receipt) for receipt in request.receipts)
                    continue
                error = request if isinstance(request, Exception) else request.error
                assert error is not None
                app.out.refusal(error, line=number)
                refused = True
                if error.code in ("poisoned", "outcome_unknown", "io_error"):
                    fatal = error
            app.out.flush()
        except OSError as error:  # a closed pipe too: going on, nobody would know what was taken, and 0 would be a lie
            discard(sys.stdout)
            app.out.json = False
            raise IOFault(
                f"receipts cannot be written: {error.strerror}; nothing after line {lines[-1][0]} was taken",
                hint="journal log shows what was; lines with an op_id may be sent again",
            ) from error
        if fatal is not None:
            raise fatal
    return 3 if refused else None


# -- input ------------------------------------------------------------------------------------------------------------


def _batches(stream: BinaryIO) -> Iterator[list[tuple[int, bytes]]]:
    """Numbered lines, as many at once as have arrived: what gathers while one batch syncs is the next.

    A thread reads, so that a slow producer's line is acknowledged when it comes and not when the next one does.
    """
    arrived: queue.Queue[tuple[int, bytes] | None] = queue.Queue(maxsize=LINES_AT_ONCE)

    def read() -> None:
        number = 0
        while line := stream.readline(LINE_BYTES_MAX + 1):
            number += 1
            arrived.put((number, line))
            while len(line) > LINE_BYTES_MAX and not line.endswith(b"\n"):
                line = stream.readline(LINE_BYTES_MAX + 1)  # the rest of it
        arrived.put(None)

    threading.Thread(target=read, name="journal-stdin", daemon=True).start()
    while (first := arrived.get()) is not None:
        lines = [first]
        while len(lines) < LINES_AT_ONCE:
            try:
                item = arrived.get_nowait()
            except queue.Empty:
                break
            if item is None:
                yield [line for line in lines if line[1].strip()]
                return
            lines.append(item)
        yield [line for line in lines if line[1].strip()]


def _request(numbered: tuple[int, bytes]) -> tuple[int, Ticket | JournalError]:
    """The line's ticket, or why it is refused."""
    from journal.errors import Refused

    number, line = numbered
    try:
        return number, _parse(line)
    except Refused as error:
        return number, error


def _parse(line: bytes) -> Ticket:
    import msgspec

    from journal.commit import draft, ticket
    from journal.errors import Refused
    from journal.limits import check_envelope, event_from_json, refuse_reserved

    if len(line) > LINE_BYTES_MAX:
        raise Refused("too_large", f"the line is longer than {LINE_BYTES_MAX >> 20} MiB")
    try:
        given = msgspec.json.decode(line)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise Refused("invalid", f"no JSON: {error}") from None
    if not isinstance(given, dict):
        raise Refused("invalid", "a line is a JSON object", hint='{"event": {"type": "memory.entity_created", …}}')
    if unknown := set(given) - _KEYS:
        raise Refused("invalid", f"unknown key {sorted(unknown)[0]!r}", hint=f"known: {', '.join(sorted(_KEYS))}")
    if ("event" in given) == ("events" in given):
        raise Refused("invalid", "a line has either event or events")
    events = given["events"] if "events" in given else [given["event"]]
    if not isinstance(events, list) or not events:
        raise Refused("invalid", "events is a list of at least one event")
    agent, actor, traceparent = given.get("agent"), given.get("actor"), given.get("traceparent")
    check_envelope(agent, actor, given.get("op_id"), traceparent)
    drafts = []
    for each in events:
        event = event_from_json(each)
        refuse_reserved(event)
        drafts.append(draft(event, agent, actor, traceparent))
    return ticket(drafts, given.get("op_id"))
