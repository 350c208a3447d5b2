"""One request of OTLP, by HTTP or gRPC, and what became of it. Knows answers; must not know what to do next.

Both ways send the protobuf that OpenTelemetry's own encoder makes of the SDK's spans. The exporters of the SDK are not
used: they drop what a backend refused, and say nothing of what it took in part.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, Protocol

from journal.errors import EnvironmentFault
from recovery.telemetry import endpoint
from recovery.telemetry.connection import Connection
from recovery.telemetry.spans import Span

if TYPE_CHECKING:
    from recovery.telemetry.encode import Encoder


class MissingOtlp(EnvironmentFault):
    code = "missing_extra"

    def __init__(self) -> None:
        super().__init__("the exporter is not installed", hint="pip install 'agent-journal[otlp]'")


@dataclass(frozen=True, slots=True)
class Answer:
    """What a backend said: it took all but ``rejected`` spans; it may take them ``later`` (after ``wait`` seconds, if
    it said so); the request is ``too_large``; or it is ``refused`` for good. ``reason`` and ``hint`` are for people:
    of spans that were taken, what the backend has to say of them."""

    kind: Literal["taken", "later", "too_large", "refused"]
    reason: str = ""
    rejected: int = 0
    wait: float | None = None
    hint: str = ""


class Transport(Protocol):
    def send(self, spans: Sequence[Span]) -> Answer: ...


@contextmanager
def connected(
    to: endpoint.Endpoint, protocol: endpoint.Protocol, how: Connection, encoder: Encoder
) -> Iterator[Transport]:
    """A transport to the backend. Nothing is sent yet. Raises UsageError, MissingOtlp."""
    over: Callable[[endpoint.Endpoint, Connection, Encoder], AbstractContextManager[Transport]]
    try:
        if protocol == "http":
            from recovery.telemetry.over_http import over_http

            over = over_http
        else:
            from recovery.telemetry.over_grpc import over_grpc

            over = over_grpc
    except ImportError:
        raise MissingOtlp from None
    with over(to, how, encoder) as transport:
        yield transport
