"""What a server that embeds the journal hears through `logging`: what happened, with its facts, and no content.

Sets no level and adds no handler that writes: who embeds it decides what becomes of the records. Facts are attributes
of the record (`seq`, `op_id`, `component`, …), and so are `trace_id` and `span_id` where a span is current: they are
taken here, since a handler may run in another thread. `logging` is imported by the first thing that is said.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import TYPE_CHECKING, Literal

from journal.errors import JournalError
from replay.tracing import current_ids, error_type

if TYPE_CHECKING:
    import logging

NAME = "agent-journal"
Level = Literal["debug", "info", "warning", "error"]
_NUMBERS: dict[Level, int] = {"debug": 10, "info": 20, "warning": 30, "error": 40}  # logging's own


@cache
def _logger(name: str) -> logging.Logger:
    import logging

    logging.getLogger(NAME).addHandler(logging.NullHandler())  # else Python prints what nobody asked for on stderr
    return logging.getLogger(f"{NAME}.{name}")


def say(level: Level, logger: str, message: str, redact: Callable[[str], str] | None = None, **facts: object) -> None:
    """One record of `agent-journal.LOGGER`; facts that are None are left out. ``redact`` is applied to the text."""
    log = _logger(logger)
    if log.isEnabledFor(_NUMBERS[level]):
        told = current_ids() | {name: each for name, each in facts.items() if each is not None}
        log.log(_NUMBERS[level], redact(message) if redact is not None else message, extra=told, stacklevel=2)


def say_failed(logger: str, what: str, error: BaseException, redact: Callable[[str], str] | None = None) -> None:
    """A warning that something failed, and why: of a declared error its facts, of any other where it came from, unless
    rules of redaction are in force, which could not be applied to a traceback."""
    facts: dict[str, object] = {"error_type": error_type(error)}
    if isinstance(error, JournalError):
        facts |= {name: each for name, each in error.to_json().items() if name in ("offset", "seq")}
    elif redact is None:
        _logger(logger).warning("%s: %s", what, error, exc_info=error, extra=facts | current_ids(), stacklevel=2)
        return
    say("warning", logger, f"{what}: {error}", redact, **facts)
