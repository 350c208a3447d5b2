"""Log records as JSON, one object a line: for the command, and for a server that embeds the journal and wants the same.

    handler = logging.StreamHandler()
    handler.setFormatter(JsonFormatter())
    logging.getLogger("agent-journal").addHandler(handler)

Knows `logging` and JSON; must not know what is said. Any record will do, a foreign library's too. Imports `logging`, so
it is imported only where something is logged.
"""

from __future__ import annotations

import json
import logging
import math
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from types import TracebackType
from typing import Any

from recovery.redact import NOTHING, Redactor
from replay.logs import NAME
from replay.tracing import current_ids

_OF_EVERY_RECORD = {*vars(logging.makeLogRecord({})), "message", "asctime", "taskName", "color_message"}
_IDS = ("trace_id", "span_id")
_encode = json.JSONEncoder(ensure_ascii=False, separators=(",", ":"), allow_nan=False).encode


def line_of(
    seconds: float, level: str, logger: str, message: str, facts: Mapping[str, object], redactor: Redactor = NOTHING
) -> str:
    """One JSON object, without the end of the line. ``seconds`` are since 1970, UTC; `trace_id` and `span_id` are the
    facts' own, else of the span that is current."""
    time = datetime.fromtimestamp(seconds, UTC).isoformat(timespec="microseconds").replace("+00:00", "Z")
    ids = {name: facts[name] for name in _IDS if name in facts} or current_ids()
    more = {name: each for name, each in facts.items() if name not in ids}
    document = {"level": level, "logger": logger, "message": message, **ids, **more}
    told = {"time": time, **redactor.value(_plain(document))}  # a digit of the time is no secret, whatever the rules
    # A lone surrogate is spelt out, and that spelling is an escape of JSON.
    return _encode(told).encode("utf-8", "backslashreplace").decode()


def _plain(value: Any, depth: int = 0) -> Any:
    """What JSON can say of a value: anybody may log anything."""
    if value is None or isinstance(value, str | bool | int):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else str(value)
    if depth < 8:
        if isinstance(value, dict):
            return {str(key): _plain(each, depth + 1) for key, each in value.items()}
        if isinstance(value, list | tuple):
            return [_plain(each, depth + 1) for each in value]
    return str(value)


class JsonFormatter(logging.Formatter):
    """`time` (RFC 3339, UTC), `level`, `logger`, `message`, where a span is current `trace_id` and `span_id`, then the
    record's own facts; of an exception `exception`, as the interpreter prints it."""

    def __init__(self, redactor: Redactor = NOTHING) -> None:
        super().__init__()
        self._redactor = redactor

    def format(self, record: logging.LogRecord) -> str:
        facts = {name: each for name, each in vars(record).items() if name not in _OF_EVERY_RECORD}
        if record.exc_info:
            facts["exception"] = self.formatException(record.exc_info)
        return line_of(record.created, record.levelname, record.name, record.getMessage(), facts, self._redactor)


class TextFormatter(logging.Formatter):
    """A line for people, as the command's own."""

    def __init__(self, redactor: Redactor = NOTHING) -> None:
        super().__init__("journal: %(message)s")
        self._redactor = redactor

    def format(self, record: logging.LogRecord) -> str:
        from recovery.cli.output import printable

        return printable(self._redactor.text(super().format(record)))


class Stderr(logging.Handler):
    """Writes to what stderr is now. Where nobody reads it any more, logs go nowhere and the work goes on."""

    def emit(self, record: logging.LogRecord) -> None:
        from recovery.cli.output import write_note

        try:
            write_note(self.format(record) + "\n")
        except Exception:
            self.handleError(record)


@contextmanager
def logging_to_stderr(*, as_json: bool, redactor: Redactor) -> Iterator[None]:
    """Whatever this process logs while the block runs: as JSON from `INFO` on what is this project's, from `WARNING` on
    what is not; as text the warnings. As JSON, also warnings, and exceptions that end a thread."""
    handler, ours, root = Stderr(), logging.getLogger(NAME), logging.getLogger()
    handler.setFormatter(JsonFormatter(redactor) if as_json else TextFormatter(redactor))
    before = ours.level, threading.excepthook
    root.addHandler(handler)
    ours.setLevel(logging.INFO if as_json else logging.WARNING)
    if as_json:
        logging.captureWarnings(True)
        threading.excepthook = _thread_died
    try:
        yield
    finally:
        root.removeHandler(handler)
        ours.setLevel(before[0])
        if as_json:
            logging.captureWarnings(False)
            threading.excepthook = before[1]


def _thread_died(ended: threading.ExceptHookArgs) -> None:
    if ended.exc_type is SystemExit:
        return
    name = ended.thread.name if ended.thread is not None else "?"
    error: tuple[type[BaseException], BaseException, TracebackType | None] | None = None
    if ended.exc_value is not None:
        error = (ended.exc_type, ended.exc_value, ended.exc_traceback)
    with suppress(Exception):
        logging.getLogger(f"{NAME}.threads").error("thread %s died", name, exc_info=error)
