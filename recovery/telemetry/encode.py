"""Spans as OTLP's protobuf, by the SDK's spans and OpenTelemetry's own encoder. Imports the extra `otlp` when made."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from journal import __version__
from recovery.telemetry.conventions import SCOPE_NAME
from recovery.telemetry.spans import Place, Span

if TYPE_CHECKING:
    from opentelemetry.trace import SpanContext

    from recovery.telemetry.transport import Answer


class Encoder:
    """For one journal. ``resource`` adds to what OTEL_RESOURCE_ATTRIBUTES and OTEL_SERVICE_NAME say."""

    def __init__(self, resource: Mapping[str, str]) -> None:
        from recovery.telemetry.transport import MissingOtlp

        try:
            from opentelemetry.exporter.otlp.proto.common.trace_encoder import encode_spans
        except ImportError:
            raise MissingOtlp from None
        from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceResponse
        from opentelemetry.sdk.util.instrumentation import InstrumentationScope

        from recovery.telemetry.resource import resource_with

        self._encode = encode_spans
        self.response = ExportTraceServiceResponse.FromString
        self._scope = InstrumentationScope(SCOPE_NAME, __version__)
        self._resource = resource_with(resource)

    def request(self, spans: Sequence[Span]) -> Any:
        """ExportTraceServiceRequest."""
        return self._encode([self._readable(each) for each in spans])

    def taken(self, response: Any) -> Answer:
        """What ExportTraceServiceResponse says: all, or all but some, which must not be sent again."""
        from recovery.telemetry.transport import Answer

        partial = response.partial_success
        return Answer("taken", " ".join(partial.error_message.split())[:200], rejected=max(0, partial.rejected_spans))

    def _readable(self, span: Span) -> Any:
        from opentelemetry.sdk.trace import ReadableSpan
        from opentelemetry.trace import Link, Status, StatusCode

        status = Status(StatusCode.ERROR, span.error) if span.error is not None else Status()
        return ReadableSpan(
            name=span.name,
            context=_context(span.place),
            parent=_context(span.parent) if span.parent is not None else None,
            resource=self._resource,
            attributes=span.attributes,
            links=[
                Link(_context(link.to, is_remote=link.relation == "request"), {"journal.link": link.relation})
                for link in span.links
            ],
            status=status,
            start_time=span.start,
            end_time=span.end,
            instrumentation_scope=self._scope,
        )


def _context(place: Place, *, is_remote: bool = False) -> SpanContext:
    from opentelemetry.trace import SpanContext, TraceFlags

    return SpanContext(place.trace_id, place.span_id, is_remote=is_remote, trace_flags=TraceFlags(TraceFlags.SAMPLED))
