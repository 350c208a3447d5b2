"""OTLP over gRPC: one call, and its status in OTLP's terms. Imports the extra `otlp`."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

os.environ.setdefault("GRPC_VERBOSITY", "NONE")  # its own lines on stderr repeat what the status says

import grpc
from google.protobuf.message import DecodeError
from google.rpc import error_details_pb2, status_pb2
from opentelemetry.proto.collector.trace.v1.trace_service_pb2_grpc import TraceServiceStub

from journal.errors import UsageError
from recovery.telemetry.connection import Connection
from recovery.telemetry.encode import Encoder
from recovery.telemetry.endpoint import Endpoint
from recovery.telemetry.spans import Span
from recovery.telemetry.transport import Answer

SAID_CHARACTERS_MAX = 200
_LATER = frozenset({"CANCELLED", "DEADLINE_EXCEEDED", "ABORTED", "OUT_OF_RANGE", "UNAVAILABLE", "DATA_LOSS"})


@contextmanager
def over_grpc(to: Endpoint, how: Connection, encoder: Encoder) -> Iterator[OverGrpc]:
    if to.login is not None:
        raise UsageError("a user and password in the URL go by HTTP only", hint="use --header authorization=…")
    if to.is_secure:
        trusted, key, certificate = map(how.read, (how.certificate, how.client_key, how.client_certificate))
        channel = grpc.secure_channel(to.target, grpc.ssl_channel_credentials(trusted, key, certificate))
    else:
        channel = grpc.insecure_channel(to.target)
    with channel:
        yield OverGrpc(TraceServiceStub(channel), how, encoder)


class OverGrpc:
    def __init__(self, stub: Any, how: Connection, encoder: Encoder) -> None:
        self._stub = stub
        self._how = how
        self._encoder = encoder
        self._compression = grpc.Compression.Gzip if how.is_compressed else None

    def send(self, spans: Sequence[Span]) -> Answer:
        try:
            answer = self._stub.Export(
                self._encoder.request(spans), timeout=self._how.timeout, metadata=tuple(self._how.headers.items()),
                compression=self._compression,
            )  # fmt: skip
        except grpc.RpcError as error:
            return self._refusal(error)
        return self._encoder.taken(answer)

    def _refusal(self, error: Any) -> Answer:
        code, wait, details = error.code().name, _retry_info(error), error.details() or ""
        said = self._how.without_secrets(" ".join(details.split()))[:SAID_CHARACTERS_MAX]
        reason = f"gRPC status {code}" + (f": {said}" if said else "")
        if "CERTIFICATE_VERIFY_FAILED" in details:
            trust = "name whom to trust by OTEL_EXPORTER_OTLP_CERTIFICATE, a file in PEM"
            return Answer("refused", "its certificate does not hold", hint=trust)
        if "http1.x server" in details:
            return Answer("refused", "what answers speaks no gRPC", hint="try --protocol http, or another --endpoint")
        if (code == "RESOURCE_EXHAUSTED" and wait is None) or "message length too large" in details:
            return Answer("too_large", reason)
        return Answer("later" if code in _LATER or wait is not None else "refused", reason, wait=wait)


def _retry_info(error: Any) -> float | None:
    """How long a backend asks to be left alone: RetryInfo in the details of its status."""
    for key, value in error.trailing_metadata() or ():
        if key != "grpc-status-details-bin":
            continue
        try:
            for detail in status_pb2.Status.FromString(value).details:
                info = error_details_pb2.RetryInfo()
                if detail.Unpack(info):
                    return max(0.0, float(info.retry_delay.seconds + info.retry_delay.nanos / 1e9))
        except DecodeError:
            continue
    return None
