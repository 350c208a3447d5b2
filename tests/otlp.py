"""Real OTLP receivers on loopback, over HTTP and gRPC, which decode what they get and can be told to misbehave."""

from __future__ import annotations

import gzip
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import grpc
from google.protobuf import any_pb2, duration_pb2
from google.rpc import error_details_pb2, status_pb2
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceRequest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
    ExportTraceServiceRequest,
    ExportTraceServiceResponse,
)
from opentelemetry.proto.collector.trace.v1.trace_service_pb2_grpc import (
    TraceServiceServicer,
    add_TraceServiceServicer_to_server,
)


@dataclass
class Told:
    """How one request is answered. With ``reject`` so many of its spans are not taken."""

    status: int = 200  # of HTTP; gRPC has UNAVAILABLE for 503, INVALID_ARGUMENT for 400, RESOURCE_EXHAUSTED for 413
    retry_after: str | None = None
    reject: int = 0
    hold: threading.Event | None = None  # answers only then
    hang_up: bool = False


@dataclass
class Receiver:
    """What came, and the answers that are left to give; once they are, it takes everything."""

    url: str = ""
    script: list[Told] = field(default_factory=list)
    requests: list[ExportTraceServiceRequest] = field(default_factory=list)  # that were taken
    asked: list[tuple[float, dict[str, str]]] = field(default_factory=list)  # every request: when, and its headers
    metrics: list[ExportMetricsServiceRequest] = field(default_factory=list)
    paths: list[str] = field(default_factory=list)
    came: threading.Condition = field(default_factory=threading.Condition)

    def answer(self, request: ExportTraceServiceRequest, headers: dict[str, str]) -> Told:
        with self.came:
            self.asked.append((time.monotonic(), headers))
            told = self.script.pop(0) if self.script else Told()
            self.came.notify_all()
        if told.hold is not None:
            told.hold.wait(60)
        if told.status == 200 and not told.hang_up:
            with self.came:
                self.requests.append(request)
                self.came.notify_all()
        return told

    def wait_for(self, what: Callable[[Receiver], bool]) -> None:
        with self.came:
            assert self.came.wait_for(lambda: what(self), 60), f"it did not come; {len(self.spans)} spans did"

    @property
    def spans(self) -> list[Any]:
        return [
            span
            for request in self.requests
            for resource in request.resource_spans
            for scope in resource.scope_spans
            for span in scope.spans
        ]


def _response(told: Told) -> ExportTraceServiceResponse:
    response = ExportTraceServiceResponse()
    if told.reject:
        response.partial_success.rejected_spans = told.reject
        response.partial_success.error_message = "too old"
    return response


@contextmanager
def http_receiver(port: int = 0) -> Iterator[Receiver]:
    receiver = Receiver()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            if self.headers.get("Content-Encoding") == "gzip":
                body = gzip.decompress(body)
            receiver.paths.append(self.path)
            if self.path.endswith("/v1/metrics"):
                self._take_metrics(body)
                return
            headers = {name.lower(): value for name, value in self.headers.items()}
            told = receiver.answer(ExportTraceServiceRequest.FromString(body), headers)
            if told.hang_up:
                self.close_connection = True
                return
            answer = _response(told).SerializeToString() if told.status == 200 else b"no"
            self.send_response(told.status)
            if told.retry_after is not None:
                self.send_header("Retry-After", told.retry_after)
            if 300 <= told.status < 400:
                self.send_header("Location", "http://user:secret@elsewhere.example/v1/traces?key=secret")
            self.send_header("Content-Type", "application/x-protobuf")
            self.send_header("Content-Length", str(len(answer)))
            self.end_headers()
            self.wfile.write(answer)

        def _take_metrics(self, body: bytes) -> None:
            with receiver.came:
                receiver.metrics.append(ExportMetricsServiceRequest.FromString(body))
                receiver.came.notify_all()
            self.send_response(200)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, *_: object) -> None: ...

    with ThreadingHTTPServer(("127.0.0.1", port), Handler) as server:
        server.daemon_threads = True
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
        thread.start()
        receiver.url = f"http://127.0.0.1:{server.server_address[1]}"
        try:
            yield receiver
        finally:
            server.shutdown()
            thread.join()


_CODES = {
    400: grpc.StatusCode.INVALID_ARGUMENT, 401: grpc.StatusCode.UNAUTHENTICATED,
    413: grpc.StatusCode.RESOURCE_EXHAUSTED, 429: grpc.StatusCode.RESOURCE_EXHAUSTED,
    503: grpc.StatusCode.UNAVAILABLE,
}  # fmt: skip


@contextmanager
def grpc_receiver() -> Iterator[Receiver]:
    receiver = Receiver()

    class Service(TraceServiceServicer):
        def Export(self, request: ExportTraceServiceRequest, context: grpc.ServicerContext) -> Any:
            told = receiver.answer(request, dict(context.invocation_metadata()))
            if told.status == 200:
                return _response(told)
            if told.retry_after is not None:
                info = error_details_pb2.RetryInfo(
                    retry_delay=duration_pb2.Duration(seconds=int(told.retry_after))
                )
                detail = any_pb2.Any()
                detail.Pack(info)
                status = status_pb2.Status(code=_CODES[told.status].value[0], message="busy", details=[detail])
                context.set_trailing_metadata((("grpc-status-details-bin", status.SerializeToString()),))
            context.abort(_CODES[told.status], "not now")
            raise AssertionError

    server = grpc.server(ThreadPoolExecutor(4))
    add_TraceServiceServicer_to_server(Service(), server)
    receiver.url = f"http://127.0.0.1:{server.add_insecure_port('127.0.0.1:0')}"
    server.start()
    try:
        yield receiver
    finally:
        server.stop(0).wait()
