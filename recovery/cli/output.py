"""What the command prints, and where: data on stdout, notes and progress on stderr.

Knows streams, terminals and JSON; must not know what is printed. rich is imported only to draw progress, and that only
on a terminal. Text of others (names, contents, paths) passes through `printable`, so that no memory can move the
cursor, set a window's title or hide a line of a report.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import cached_property
from typing import Any, TextIO

from journal.errors import JournalError, UsageError
from recovery.redact import NOTHING, Redactor

# C0 and C1 controls except tab and newline, DEL, and the marks that reorder the text around them
_CONTROLS = [*range(9), *range(11, 32), *range(127, 160), *range(0x202A, 0x202F), *range(0x2066, 0x206A)]
_SHOWN = {code: f"\\x{code:02x}" if code < 256 else f"\\u{code:04x}" for code in _CONTROLS}

LOGGER = "agent-journal.command"
_encode = json.JSONEncoder(ensure_ascii=False, separators=(",", ":"), allow_nan=False).encode


def printable(text: str) -> str:
    """The text with its control characters spelt out (`\\x1b`)."""
    return text.translate(_SHOWN)


class Bar:
    """What a long run reports to. A total of 0 is one that is not known yet."""

    def __init__(self, update: Callable[[dict[str, Any]], None] | None = None) -> None:
        self._update = update

    def advance(self, done: int, total: int) -> None:
        if self._update is not None:
            self._update({"completed": done, "total": total or None})

    def step(self, label: str, done: int, total: int) -> None:
        """The same, for runs of several steps."""
        if self._update is not None:
            self._update({"description": label, "completed": done, "total": total or None})


class Output:
    """One run's streams. ``json`` and ``color`` may change until the first line is printed."""

    def __init__(
        self, *, json: bool = False, color: bool = True, redaction: Callable[[], Redactor] = lambda: NOTHING,
        log_format: Callable[[], str] = lambda: "text",
    ) -> None:  # fmt: skip
        self.json = json
        self.color = color
        self.log_format: str | None = None  # None: not chosen yet
        self._choose_log_format = log_format
        self._is_logging = False
        self.is_content = False
        """True where stdout is what was asked for, and so stays whole. What goes to stderr never is."""
        self._redaction = redaction
        for stream in (sys.stdout, sys.stderr):
            # JSON is UTF-8 whatever the locale. A path may hold bytes that are none: they are spelt out, and that
            # spelling (\udcff) is an escape of JSON too.
            if hasattr(stream, "reconfigure"):
                stream.reconfigure(encoding="utf-8", errors="backslashreplace")

    @cached_property
    def redactor(self) -> Redactor:
        """The owner's rules; they are read when the first line is printed."""
        return self._redaction()

    def _told(self, text: str) -> str:
        return text if self.is_content else self.redactor.text(text)

    # -- data ---------------------------------------------------------------------------------------------------------

    def document(self, value: object) -> None:
        """The one JSON document of a verb, or one line of a stream. Times are integers, bytes are the caller's."""
        _write(_encode(value if self.is_content else self.redactor.value(value)) + "\n")

    def documents(self, values: Iterable[object], *, flush: bool = False) -> None:
        """One JSON document a line. With ``flush`` each is out before the next is computed."""
        for value in values:
            self.document(value)
            if flush:
                self.flush()

    def line(self, text: str = "") -> None:
        _write(printable(self._told(text)) + "\n")

    def lines(self, texts: Iterable[str]) -> None:
        for text in texts:
            self.line(text)

    def raw(self, data: bytes) -> None:
        """Bytes as they are: a config, say."""
        if sys.stdout is not None:
            sys.stdout.flush()
            sys.stdout.buffer.write(data)

    def table(self, rows: Sequence[Sequence[str]], headings: Sequence[str] | None = None) -> None:
        """Columns as wide as their content, two spaces apart. Plain text: it can be cut and searched by other tools."""
        cells = [[_cell(self._told(cell)) for cell in row] for row in rows]
        if headings and cells:
            cells.insert(0, [heading.upper() for heading in headings])
        widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
        for row in cells:
            _write("  ".join(map(str.ljust, row, widths)).rstrip() + "\n")

    def flush(self) -> None:
        if sys.stdout is not None:
            sys.stdout.flush()

    # -- beside the data ----------------------------------------------------------------------------------------------

    @property
    def logs_json(self) -> bool:
        """Whether stderr is for machines: one JSON object a line. Found out when the first line is printed."""
        if self.log_format is None:
            self.log_format = self._choose_log_format()
        return self.log_format == "json"

    def note(self, text: str) -> None:
        """A remark on stderr, for people; or a log record of it."""
        if self.logs_json:
            self._log("INFO", text)
        else:
            write_note(f"journal: {printable(self.redactor.text(text))}\n")

    def error(self, error: JournalError) -> None:
        """One line on stderr, or an object on stdout under --json."""
        if self.json:
            self.refusal(error)
        elif self.logs_json:
            facts = error.to_json()
            self._log("ERROR", str(facts.pop("message")), **facts, exit_code=error.exit_code)
        else:
            self.note(_one_line(str(self.redactor.error(error))))

    @contextmanager
    def logging(self, *, always: bool = False) -> Iterator[None]:
        """What is logged by way of `logging` goes to stderr while the block runs: as JSON, or as text for who asks for
        it always, as only a verb does that runs for long."""
        if self._is_logging or not (always or self.logs_json):
            yield
            return
        from recovery.logs import logging_to_stderr

        self._is_logging = True
        with logging_to_stderr(as_json=self.logs_json, redactor=self.redactor):
            yield
        self._is_logging = False

    def _log(self, level: str, message: str, **facts: object) -> None:
        from time import time

        from recovery.logs import line_of

        write_note(line_of(time(), level, LOGGER, message, facts, self.redactor) + "\n")

    def refusal(self, error: JournalError, **facts: object) -> None:
        """An error as a document on stdout, content or not, with more facts about it."""
        _write(_encode({"error": {**self.redactor.value(error.to_json()), **facts}}) + "\n")

    def traceback(self, error: BaseException) -> None:
        """What the interpreter would print of an error that nobody declared."""
        from traceback import format_exception

        told = "".join(format_exception(error))
        if self.logs_json:
            self._log("ERROR", f"{type(error).__name__}: {error}", exception=told)
        else:
            write_note(self.redactor.text(told))

    @contextmanager
    def progress(self, label: str, unit: str = "") -> Iterator[Bar]:
        """A bar on stderr while the block runs, on a terminal; nothing elsewhere."""
        if not _is_terminal(sys.stderr) or self.logs_json:
            yield Bar()
            return
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

        console = Console(stderr=True, no_color=not self.colored(sys.stderr))
        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TextColumn(unit))
        with Progress(*columns, TimeRemainingColumn(), console=console, transient=True) as drawn:
            task = drawn.add_task(label, total=None)
            yield Bar(lambda settings: drawn.update(task, **settings))

    # -- people -------------------------------------------------------------------------------------------------------

    def confirm(self, question: str, *, yes: bool) -> bool:
        """Asks on a terminal; ``yes`` (of --yes) answers. Raises UsageError where nobody can be asked."""
        if yes:
            return True
        if self.json or self.logs_json or not (_is_terminal(sys.stdin) and _is_terminal(sys.stderr)):
            raise UsageError(f"{question} needs an answer, and there is no terminal", hint="add --yes to go ahead")
        _write(f"{printable(self.redactor.text(question))} [y/N] ", sys.stderr)
        sys.stderr.flush()
        if sys.stdin.readline().strip().lower() in ("y", "yes"):
            return True
        self.note("nothing was changed")
        return False

    def style(self, text: str, **look: Any) -> str:
        """The text with a look (click.style's arguments) where colours are wanted. Escapes go out by `styled`."""
        shown = printable(self._told(text))
        if not self.colored(sys.stdout):
            return shown
        from click import style

        return style(shown, **look)

    def styled(self, text: str) -> None:
        """A line made with `style`; whatever is not styled must have passed `printable`."""
        _write(text + "\n")

    def colored(self, stream: TextIO | None) -> bool:
        return self.color and _is_terminal(stream) and not os.environ.get("NO_COLOR")


def _cell(text: str) -> str:
    return printable(text).replace("\n", "\\n").replace("\t", "\\t")


def discard(stream: TextIO | None) -> None:
    """After a broken pipe: what is still buffered goes nowhere, instead of failing once more at exit."""
    if stream is None:
        return
    with suppress(OSError, ValueError):  # no descriptor behind it
        null = os.open(os.devnull, os.O_WRONLY)
        os.dup2(null, stream.fileno())
        os.close(null)


def write_note(text: str) -> None:
    """On stderr. Where nobody reads that any more, what is said goes nowhere: no work ends for that."""
    try:
        _write(text, sys.stderr)
    except BrokenPipeError:
        discard(sys.stderr)


def _write(text: str, stream: TextIO | None = None) -> None:
    stream = stream if stream is not None else sys.stdout
    if stream is not None:  # None when the descriptor was closed before the start
        stream.write(text)


def _is_terminal(stream: TextIO | None) -> bool:
    return stream is not None and not stream.closed and stream.isatty()


def _one_line(text: str) -> str:
    return " ".join(text.split("\n")).strip()
