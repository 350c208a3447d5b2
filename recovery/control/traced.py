"""An append over HTTP as part of its client's trace: the header `traceparent` is what the events come from, unless
their own says otherwise, and where OpenTelemetry is set up the append is a span below the client's."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import msgspec

from journal.commit import Receipt, Ticket
from journal.errors import Refused
from journal.limits import check_envelope
from replay.core import Core


def commit(
    core: Core, send: Callable[[Ticket], list[Receipt]], asked: Ticket, headers: Mapping[str, str]
) -> list[Receipt]:
    """Sends a ticket that came with these headers (lower case). A header that is no trace context is passed over, as
    W3C has it."""
    _come_from(asked, headers.get("traceparent"))
    traced = core.tracing.tracer()
    if traced is None:
        return send(asked)
    from opentelemetry.propagate import extract

    group, first = len(asked.drafts) > 1, asked.drafts[0]
    events = [each.event for each in asked.drafts]
    with core.appending(traced, events, first.agent, first.traceparent, group, extract(headers)) as span:
        receipts = send(asked)
        span.done(receipts)
        return receipts


def _come_from(asked: Ticket, traceparent: str | None) -> None:
    if traceparent is None:
        return
    try:
        check_envelope(None, None, None, traceparent)
    except Refused:
        return
    asked.drafts = [
        each if each.traceparent is not None else msgspec.structs.replace(each, traceparent=traceparent)
        for each in asked.drafts
    ]
