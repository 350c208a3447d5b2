"""Live spans, through OpenTelemetry's API alone: as children of whatever span the program has open.

A program that never imported the API has no spans to be children of, and no provider: nothing is imported for it, and
it pays a look into `sys.modules`. Where the API is there and no SDK is set, it pays one question. Sets nothing global;
says no content: an error is told by its code.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import lru_cache
from itertools import islice
from typing import TYPE_CHECKING, Any

from journal import __version__
from journal.errors import JournalError
from journal.events import Event
from replay.conventions import memory_attributes, span_name

if TYPE_CHECKING:
    from opentelemetry.context import Context
    from opentelemetry.trace import Span, Tracer, TracerProvider

    from journal.commit import Receipt, Ticket

NAME = "agent-journal"
ASK_EVERY = 64
Redact = Callable[[str], str]


def tracer() -> Tracer | None:
    """The tracer of the provider that the program has set; None where there is none."""
    api = sys.modules.get("opentelemetry.trace")
    if api is None:
        return None
    provider = api.get_tracer_provider()
    return None if type(provider) is api.ProxyTracerProvider else _tracer_of(provider)


@lru_cache(maxsize=4)
def _tracer_of(provider: TracerProvider) -> Tracer:
    return provider.get_tracer(NAME, __version__)


class Question:
    """`tracer` for the write path. Where no provider is set, only each `ASK_EVERY`-th call asks again: what costs most
    of a question is a look at the environment, and a provider is set before the first write, if it ever is."""

    __slots__ = ("_found", "_left")

    def __init__(self) -> None:
        self._found: Tracer | None = None
        self._left = 0

    def tracer(self) -> Tracer | None:
        if self._found is None:
            if self._left:
                self._left -= 1
            else:
                self._left, self._found = ASK_EVERY - 1, tracer()
        return self._found


def error_type(error: BaseException) -> str:
    """A short code: of this project's errors their own, else the exception's name."""
    return error.code if isinstance(error, JournalError) else type(error).__name__


def current_ids() -> dict[str, str]:
    """`trace_id` and `span_id` of the span that is current, in hexadecimal; nothing where there is none."""
    api = sys.modules.get("opentelemetry.trace")
    place = api.get_current_span().get_span_context() if api is not None else None
    if place is None or not place.is_valid:
        return {}
    return {"trace_id": f"{place.trace_id:032x}", "span_id": f"{place.span_id:016x}"}


class Live:
    """A span that may be none."""

    __slots__ = ("_span",)

    def __init__(self, span: Span | None) -> None:
        self._span = span

    def set(self, **attributes: Any) -> None:
        """Attributes by their names with `__` for a dot: ``journal__seq``."""
        if self._span is not None:
            for name, value in attributes.items():
                self._span.set_attribute(name.replace("__", "."), value)

    def failed(self, error: BaseException) -> None:
        if self._span is not None:
            from opentelemetry.trace import StatusCode

            self._span.set_attribute("error.type", error_type(error))
            self._span.set_status(StatusCode.ERROR)


@contextmanager
def span(name: str, attributes: Mapping[str, Any] | None = None, *, of_database: bool = False) -> Iterator[Live]:
    """A span around the block, current within it; an error of the block is the span's. Also a decorator."""
    traced = tracer()
    if traced is None:
        yield Live(None)
        return
    from opentelemetry.trace import SpanKind

    kind = SpanKind.CLIENT if of_database else SpanKind.INTERNAL
    with traced.start_as_current_span(
        name, attributes=attributes, kind=kind, record_exception=False, set_status_on_exception=False
    ) as made:
        live = Live(made)
        try:
            yield live
        except BaseException as error:
            live.failed(error)
            raise


DATABASE = {"db.system.name": "sqlite", "db.namespace": "memory.db"}


@contextmanager
def database_span(operation: str) -> Iterator[Live]:
    """A span around what is done with a file of memory.db's kind, the live one or one that is built beside it."""
    with span(f"{operation} memory.db", DATABASE | {"db.operation.name": operation}, of_database=True) as live:
        yield live


class Appending:
    """The span of one call of `append` or `append_all`. Not current: nothing of the program runs within it."""

    __slots__ = ("_live", "_span", "traceparent")

    def __init__(
        self, traced: Tracer, journal_id: bytes, events: Sequence[Event], agent: str | None, traceparent: str | None,
        redact: Redact | None, group: bool, context: Context | None = None,
    ) -> None:  # fmt: skip
        """``traceparent`` is the caller's, else that of the current span, or the one of `context`: what the events are
        said to come from."""
        from opentelemetry.trace import get_current_span

        self.traceparent = traceparent
        around = get_current_span(context).get_span_context()
        if traceparent is None and around.is_valid:
            self.traceparent = f"00-{around.trace_id:032x}-{around.span_id:016x}-{around.trace_flags:02x}"
        attributes: dict[str, Any] = {}
        name = "journal.append_all" if group else "journal.append"
        if group:
            attributes["journal.group.size"] = len(events)
        elif isinstance(events[0], Event) and events[0].type_name:
            attributes = {"journal.event.type": events[0].type_name} | _told_of(journal_id, events[0])
            if "gen_ai.operation.name" in attributes:
                name = span_name(events[0].type_name)
        if agent is not None:
            attributes["gen_ai.agent.name"] = agent
        if redact is not None:
            attributes = {key: redact(each) if isinstance(each, str) else each for key, each in attributes.items()}
        self._span = traced.start_span(name, context=context, attributes=attributes)
        self._live = Live(self._span)

    def __enter__(self) -> Appending:
        return self

    def done(self, receipts: Sequence[Receipt]) -> None:
        if receipts:
            self._span.set_attribute("journal.seq", receipts[0].seq)

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        if error is not None:
            self._live.failed(error)
        self._span.end()


LINKS_MAX = 128


def committed(
    traced: Tracer, started_ns: int, settled: Sequence[Ticket], first_seq: int, count: int, sync_ns: int
) -> None:
    """The span of one batch: its sync, and the transaction of memory.db that applied it. Many callers share it, so it
    has no parent, and links to what each came from; `started_ns` is UTC."""
    from opentelemetry.context import Context
    from opentelemetry.trace import Link, SpanContext, SpanKind, TraceFlags

    places = dict.fromkeys(item.traceparent for request in settled if request.receipts for item in request.drafts)
    links = []
    for place in islice((each for each in places if each is not None), LINKS_MAX):
        _, trace, parent, flags = place.split("-")[:4]
        links.append(Link(SpanContext(int(trace, 16), int(parent, 16), True, TraceFlags(int(flags, 16)))))
    attributes: dict[str, Any] = {
        **DATABASE, "db.operation.name": "apply", "journal.seq": first_seq, "journal.batch.size": count,
        "journal.sync.seconds": sync_ns / 1e9,
    }  # fmt: skip
    made = traced.start_span(
        "apply memory.db", Context(), SpanKind.CLIENT, attributes, links, start_time=started_ns
    )
    made.end()


def _told_of(journal_id: bytes, event: Event) -> dict[str, str | int]:
    """What may be said of an event that nobody has checked yet: its fields may be of any type."""
    try:
        return memory_attributes(journal_id, event)
    except (TypeError, AttributeError, ValueError):
        return {}
