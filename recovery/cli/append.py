"""`journal append`: JSON Lines in, receipts out, each printed only after its sync."""

from __future__ import annotations

import sys
import threading
from collections import deque
from collections.abc import Iterator
from contextlib import ExitStack
from typing import TYPE_CHECKING, BinaryIO

import click

from recovery.cli.app import App, Verb
from recovery.cli.output import discard

if TYPE_CHECKING:
    from journal.errors import JournalError
    from recovery.control.writer import CoreWriter, Writer

LINES_AT_ONCE = 1024
BYTES_AT_ONCE = 16 << 20  # read ahead, beside one line that may be longer than that

_FATAL = ("poisoned", "outcome_unknown", "io_error")  # after these nothing more is taken


@click.command(
    cls=Verb,
    cut="what has a receipt is durable; of the rest journal log --op-id says whether it was taken",
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
    from recovery.control.listen import Control
    from recovery.control.writer import CoreWriter, open_writer

    app.out.is_content = True  # receipts: what a client sent comes back as it was
    if sys.stdin is None:
        raise UsageError("stdin is closed", hint="give the events on it, or < /dev/null for none")
    with ExitStack() as opened:
        writer = opened.enter_context(open_writer(app.data, check="quick" if quick_check else "full", background=True))
        if isinstance(writer, CoreWriter):
            _tell(app, writer)
            opened.enter_context(Control(app.data, writer))  # a feed may last: others write through it meanwhile
        return _feed(app, writer)


def _tell(app: App, writer: CoreWriter) -> None:
    """What opening repaired, and what it left for a person to decide."""
    from recovery.log.takeover import takeover_lines

    recovered = writer.recovered
    if recovered is not None and (recovered.rebuilt or recovered.agents_written):
        done = ["memory.db rebuilt"] if recovered.rebuilt else []
        done += [f"agent {name} written" for name in recovered.agents_written]
        app.out.note(f"repaired on opening: {', '.join(done)}; journal log --type recovery.completed tells of it")
    for repair in writer.core.log.opening.repaired:
        app.out.note(f"repaired on opening: {repair.words()}")
    for line in takeover_lines(writer.core.log.opening):
        app.out.note(line)
    for decision in writer.kept:
        app.out.note(f"{decision.component}: {decision.reason} - {decision.hint}")


def _feed(app: App, writer: Writer) -> int | None:
    from msgspec import to_builtins

    from journal.errors import IOFault, JournalError

    refused = False
    # A file object of its own: the reading thread may hang in it when the interpreter ends, which then must not wait
    # for the lock of sys.stdin.
    for lines in _batches(open(sys.stdin.fileno(), "rb", closefd=False)):  # noqa: SIM115 - it ends with the process
        fatal: JournalError | None = None
        answers = writer.append_lines([line for _, line in lines])
        try:
            for number, answer in zip((number for number, _ in lines), answers, strict=True):
                if isinstance(answer, JournalError):
                    app.out.refusal(answer, line=number)
                    refused = True
                    fatal = answer if answer.code in _FATAL else fatal
                else:
                    app.out.documents(map(to_builtins, answer))
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


class _Arrived:
    """Lines between the thread that reads and the one that writes: bounded in number and in bytes."""

    def __init__(self) -> None:
        self._lines: deque[tuple[int, bytes] | None] = deque()
        self._bytes = 0
        self._changed = threading.Condition()

    def put(self, item: tuple[int, bytes] | None) -> None:
        """Waits while there is no room; None is the end."""
        length = len(item[1]) if item else 0
        with self._changed:
            self._changed.wait_for(
                lambda: not self._lines
                or (len(self._lines) < LINES_AT_ONCE and self._bytes + length <= BYTES_AT_ONCE)
            )
            self._lines.append(item)
            self._bytes += length
            self._changed.notify_all()

    def get(self) -> tuple[list[tuple[int, bytes]], bool]:
        """All that has arrived, at least one thing; True where the end came with it."""
        with self._changed:
            self._changed.wait_for(lambda: bool(self._lines))
            lines = [item for item in self._lines if item is not None]
            ended = len(lines) < len(self._lines)
            self._lines.clear()
            self._bytes = 0
            self._changed.notify_all()
        return lines, ended


def _batches(stream: BinaryIO) -> Iterator[list[tuple[int, bytes]]]:
    """Numbered lines, as many at once as have arrived: what gathers while one batch syncs is the next.

    A thread reads, so that a slow producer's line is acknowledged when it comes and not when the next one does.
    """
    from recovery.append_line import LINE_BYTES_MAX

    arrived = _Arrived()

    def read() -> None:
        number = 0
        while line := stream.readline(LINE_BYTES_MAX + 1):
            number += 1
            is_long = len(line) > LINE_BYTES_MAX
            ends = line.endswith(b"\n")
            arrived.put((number, b"" if is_long else line))
            while is_long and not ends:  # the rest of it
                ends = (line := stream.readline(1 << 20)).endswith(b"\n") or not line
        arrived.put(None)

    threading.Thread(target=read, name="journal-stdin", daemon=True).start()
    ended = False
    while not ended:
        lines, ended = arrived.get()
        yield [line for line in lines if not line[1] or line[1].strip()]
