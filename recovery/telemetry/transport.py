"""One request of OTLP, by HTTP or gRPC, and what became of it. Knows answers; must not know what to do next.

Both ways send the protobuf that OpenTelemetry's own encoder makes of the SDK's spans. The exporters of the SDK are not
used: they drop what a backend refused, and say nothing of what it took in part.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from time import monotonic
from typing import Any, Literal, Protocol
from urllib.parse import urlsplit, urlunsplit

from journal.errors import EnvironmentFault, UsageError
from recovery.telemetry.encode import Encoder
from recovery.telemetry.spans import Span

ANSWER_BYTES_MAX = 1 << 20
PATH = "/v1/traces"


class MissingOtlp(EnvironmentFault):
    code = "missing_extra"

    def __init__(self) -> None:
        super().__init__("the exporter is not installed", hint="pip install 'agent-journal[otlp]'")


@dataclass(frozen=True, slots=True)
class Answer:
    """What a backend said: it took all but ``rejected`` spans; it may take them ``later`` (after ``wait`` seconds, if
    it said so); the request is ``too_large``; or it is ``refused`` for good. ``reason`` is for people."""

    kind: Literal["taken", "later", "too_large", "refused"]
    reason: str = ""
    rejected: int = 0
    wait: float | None = None


class Transport(Protocol):
    def send(self, spans: Sequence[Span]) -> Answer: ...


@contextmanager
def connected(
    endpoint: str, protocol: Literal["http", "grpc"], headers: Mapping[str, str], timeout: float, encoder: Encoder
) -> Iterator[Transport]:
    """A transport to the backend at `endpoint`, a base URL. Nothing is sent yet. Raises UsageError, MissingOtlp."""
    url = urlsplit(endpoint)
    if url.scheme not in ("http", "https") or not url.hostname:
        raise UsageError(f"--endpoint takes http://HOST:PORT or https://HOST, not {without_secrets(endpoint)!r}")
    try:
        if protocol == "http":
            import requests

            with requests.Session() as session:
                session.headers.update(headers)
                yield _Http(session, traces_url(endpoint), timeout, encoder)
            return
        import grpc
        from opentelemetry.proto.collector.trace.v1.trace_service_pb2_grpc import TraceServiceStub
    except ImportError:
        raise MissingOtlp from None
    if url.scheme == "https":
        channel = grpc.secure_channel(f"{_host(url.hostname)}:{url.port or 443}", grpc.ssl_channel_credentials())
    else:
        channel = grpc.insecure_channel(f"{_host(url.hostname)}:{url.port or 4317}")
    metadata = tuple((name.lower(), value) for name, value in headers.items())
    with channel:
        yield _Grpc(TraceServiceStub(channel), metadata, timeout, encoder)


def _host(name: str) -> str:
    return f"[{name}]" if ":" in name else name


def traces_url(endpoint: str) -> str:
    """Where spans go under a base URL; one that names it already is taken as it is."""
    url = urlsplit(endpoint)
    path = url.path.rstrip("/")
    return urlunsplit(url._replace(path=path if path.endswith(PATH) else path + PATH))


def without_secrets(endpoint: str) -> str:
    """The URL without user, password and query, as it may be told and journaled."""
    url = urlsplit(endpoint)
    place = url.netloc.rpartition("@")[2]
    return urlunsplit((url.scheme, place, url.path.rstrip("/"), "", ""))


# -- HTTP -------------------------------------------------------------------------------------------------------------

_LATER = (429, 502, 503, 504)


class _Http:
    def __init__(self, session: Any, url: str, timeout: float, encoder: Encoder) -> None:
        self._session = session
        self._url = url
        self._timeout = timeout
        self._encoder = encoder

    def send(self, spans: Sequence[Span]) -> Answer:
        import requests

        body = self._encoder.request(spans).SerializeToString()
        try:
            with self._session.post(
                self._url, data=body, headers={"Content-Type": "application/x-protobuf"}, timeout=self._timeout,
                allow_redirects=False, stream=True,
            ) as response:  # fmt: skip
                return self._answer(response, self._read(response))
        except (requests.ConnectionError, requests.Timeout, requests.exceptions.ChunkedEncodingError) as error:
            return Answer("later", _why(error))
        except requests.RequestException as error:
            return Answer("refused", _why(error))

    def _read(self, response: Any) -> bytes:
        """The body, bounded in length and time: an answer that drips in is none."""
        import requests

        read, until = b"", monotonic() + self._timeout
        for part in response.iter_content(1 << 16):
            read += part
            if len(read) > ANSWER_BYTES_MAX or monotonic() > until:
                raise requests.Timeout("the answer does not end")
        return read

    def _answer(self, response: Any, body: bytes) -> Answer:
        status = response.status_code
        if 200 <= status < 300:
            return self._taken(body)
        reason = f"HTTP status {status} {response.reason or ''}".strip()
        if status in _LATER:
            return Answer("later", reason, wait=seconds_of(response.headers.get("Retry-After")))
        if status == 413:
            return Answer("too_large", reason)
        if 300 <= status < 400:
            to = without_secrets(response.headers.get("Location", "elsewhere"))
            reason += f" (to {to}): name that as --endpoint"
        return Answer("refused", reason)

    def _taken(self, body: bytes) -> Answer:
        from google.protobuf.message import DecodeError

        try:
            return self._encoder.taken(self._encoder.response(body))
        except DecodeError:
            return Answer("taken")  # it said yes; that it said it in JSON is its own affair


def seconds_of(retry_after: str | None, now: datetime | None = None) -> float | None:
    """Retry-After: seconds, or a date."""
    if retry_after is None:
        return None
    try:
        return max(0.0, float(int(retry_after)))
    except ValueError:
        pass
    try:
        when = parsedate_to_datetime(retry_after)
    except (TypeError, ValueError):
        return None
    when = when if when.tzinfo is not None else when.replace(tzinfo=UTC)
    return max(0.0, (when - (now or datetime.now(UTC))).total_seconds())


def _why(error: BaseException) -> str:
    """The innermost reason: the library's own line repeats the URL, which may hold a password."""
    inner: BaseException = error
    while True:
        context = inner.__context__ if isinstance(inner.__context__, OSError) else None  # or it may be the caller's
        deeper = inner.__cause__ or context or next(
            (each for each in inner.args if isinstance(each, BaseException)), None
        ) or getattr(inner, "reason", None)  # fmt: skip
        if not isinstance(deeper, BaseException):
            break
        inner = deeper
    if isinstance(inner, OSError) and inner.strerror:
        return inner.strerror.lower()
    return {"ReadTimeoutError": "no answer in time", "ConnectTimeoutError": "no connection in time"}.get(
        type(inner).__name__, "no answer in time" if isinstance(inner, TimeoutError) else type(inner).__name__
    )


# -- gRPC -------------------------------------------------------------------------------------------------------------

_LATER_CODES = frozenset({"CANCELLED", "DEADLINE_EXCEEDED", "ABORTED", "OUT_OF_RANGE", "UNAVAILABLE", "DATA_LOSS"})


class _Grpc:
    def __init__(self, stub: Any, metadata: tuple[tuple[str, str], ...], timeout: float, encoder: Encoder) -> None:
        self._stub = stub
        self._metadata = metadata
        self._timeout = timeout
        self._encoder = encoder

    def send(self, spans: Sequence[Span]) -> Answer:
        import grpc

        try:
            answer = self._stub.Export(self._encoder.request(spans), timeout=self._timeout, metadata=self._metadata)
        except grpc.RpcError as error:
            return _refusal(error)
        return self._encoder.taken(answer)


def _refusal(error: Any) -> Answer:
    code, wait = error.code().name, _retry_info(error)
    reason = f"gRPC status {code}" + (f": {error.details()[:200]}" if error.details() else "")
    if code in _LATER_CODES or wait is not None:
        return Answer("later", reason, wait=wait)
    return Answer("too_large" if code == "RESOURCE_EXHAUSTED" else "refused", reason)


def _retry_info(error: Any) -> float | None:
    """How long a backend asks to be left alone: RetryInfo in the details of its status."""
    from google.protobuf.message import DecodeError
    from google.rpc import error_details_pb2, status_pb2

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
