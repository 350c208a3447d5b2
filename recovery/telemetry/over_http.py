"""OTLP over HTTP, by requests: one POST, and its answer in OTLP's terms. Imports the extra `otlp`."""

from __future__ import annotations

import gzip
import ssl
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from time import monotonic
from typing import Any

import msgspec
import requests
from google.protobuf import json_format
from google.protobuf.message import DecodeError
from google.rpc import status_pb2

from recovery.telemetry.connection import Connection
from recovery.telemetry.encode import Encoder
from recovery.telemetry.endpoint import Endpoint, without_secrets
from recovery.telemetry.spans import Span
from recovery.telemetry.transport import Answer

ANSWER_BYTES_MAX = 1 << 16
SAID_CHARACTERS_MAX = 200
_LATER = (429, 502, 503, 504)  # of OTLP/HTTP's specification, as all of this
_PROTOBUF = "application/x-protobuf"
_NO_BACKEND = "name what takes OTLP as --endpoint"


@contextmanager
def over_http(to: Endpoint, how: Connection, encoder: Encoder) -> Iterator[OverHttp]:
    with requests.Session() as session:
        session.headers.update(how.headers)
        # Whatever ~/.netrc knows of this host would take the place of the header that was given.
        session.auth = to.login if to.login and "authorization" not in how.headers else lambda request: request
        if how.client_certificate is not None and how.client_key is not None:
            session.cert = (how.client_certificate, how.client_key)
        yield OverHttp(session, to.url, how, encoder)


class OverHttp:
    def __init__(self, session: Any, url: str, how: Connection, encoder: Encoder) -> None:
        self._session = session
        self._url = url
        self._how = how
        self._encoder = encoder
        self._headers = {"Content-Type": _PROTOBUF}
        if how.is_compressed:
            self._headers["Content-Encoding"] = "gzip"

    def send(self, spans: Sequence[Span]) -> Answer:
        body = self._encoder.request(spans).SerializeToString()
        try:
            with self._session.post(
                self._url, data=gzip.compress(body) if self._how.is_compressed else body, headers=self._headers,
                timeout=self._how.timeout, allow_redirects=False, stream=True,
                verify=self._how.certificate,  # of the session, REQUESTS_CA_BUNDLE would take its place
            ) as response:  # fmt: skip
                return self._answer(response)
        except requests.RequestException as error:
            return failure(error)

    def _answer(self, response: Any) -> Answer:
        status = response.status_code
        body, is_whole = self._read(response)
        kind = response.headers.get("Content-Type", "").partition(";")[0].strip().lower()
        if 200 <= status < 300:
            return self._taken(kind, body) if is_whole else Answer("later", "the answer does not end")
        reason = f"HTTP status {status} {response.reason or ''}".strip()
        if said := self._how.without_secrets(_said(kind, body)):
            reason += f": {said}"
        if status in _LATER:
            return Answer("later", reason, wait=seconds_of(response.headers.get("Retry-After")))
        if status == 413:
            return Answer("too_large", reason)
        if 300 <= status < 400:
            where = without_secrets(response.headers.get("Location", "elsewhere"))
            return Answer("refused", f"{reason} (to {where})", hint="name that as --endpoint")
        return Answer("refused", reason)

    def _read(self, response: Any) -> tuple[bytes, bool]:
        """The body, bounded in length and time, and whether that is all: an answer that drips in is none."""
        read, until = bytearray(), monotonic() + self._how.timeout
        for part in response.iter_content(1):  # a longer piece would wait until it is full
            read += part
            if len(read) > ANSWER_BYTES_MAX or monotonic() > until:
                return bytes(read), False
        return bytes(read), True

    def _taken(self, kind: str, body: bytes) -> Answer:
        """It said yes: to what, is in the body. A web page is what a server says that knows nothing of OTLP."""
        if kind == "text/html":
            return Answer("refused", "it answers with a web page, as no OTLP backend does", hint=_NO_BACKEND)
        try:
            if kind == "application/json":
                told = json_format.Parse(body or b"{}", self._encoder.response(b""), ignore_unknown_fields=True)
            else:
                told = self._encoder.response(b"" if kind.startswith("text/") else body)
        except (DecodeError, json_format.ParseError):
            return Answer("refused", "its answer is not OTLP's", hint=_NO_BACKEND)
        return self._encoder.taken(told)


def _said(kind: str, body: bytes) -> str:
    """What an error's body says: google.rpc.Status by specification, JSON or text in practice."""
    text = ""
    if kind == _PROTOBUF:
        try:
            text = status_pb2.Status.FromString(body).message
        except DecodeError:
            return ""
    elif kind in ("application/json", "text/plain"):
        text = body.decode(errors="replace")
        try:
            told = msgspec.json.decode(body)
        except msgspec.DecodeError:
            told = None
        if isinstance(told, dict):
            found = next((told[key] for key in ("message", "detail", "error") if told.get(key)), told)
            text = found if isinstance(found, str) else msgspec.json.encode(found).decode()
    return " ".join(text.split())[:SAID_CHARACTERS_MAX]


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


# -- what went wrong, in words ----------------------------------------------------------------------------------------

_WORDS = {
    "ReadTimeoutError": "no answer in time",
    "ConnectTimeoutError": "no connection in time",
    "IncompleteRead": "the answer was cut off",
    "InvalidChunkLength": "the answer was cut off",
    "RemoteDisconnected": "it hung up without an answer",
}
_NOT_HTTP = frozenset({"BadStatusLine", "LineTooLong", "HTTPException", "UnknownProtocol"})


def failure(error: requests.RequestException) -> Answer:
    """A request that had no answer. A backend that is away may come back; one that is no backend will not."""
    inner = _innermost(error)
    name = type(inner).__name__
    if isinstance(inner, ssl.SSLCertVerificationError):
        trust = "name whom to trust by OTEL_EXPORTER_OTLP_CERTIFICATE, a file in PEM"
        return Answer("refused", f"its certificate does not hold: {inner.verify_message}", hint=trust)
    if name in _NOT_HTTP:
        return Answer("refused", "what answers speaks no HTTP", hint="try --protocol grpc, or another --endpoint")
    if isinstance(error, requests.exceptions.ContentDecodingError):
        return Answer("refused", "its answer is garbled")
    if isinstance(inner, TimeoutError):
        return Answer("later", "no answer in time")
    reason = inner.strerror.lower() if isinstance(inner, OSError) and inner.strerror else _WORDS.get(name, name)
    is_passing = requests.ConnectionError, requests.Timeout, requests.exceptions.ChunkedEncodingError
    return Answer("later" if isinstance(error, is_passing) else "refused", reason)


def _innermost(error: BaseException) -> BaseException:
    """The first cause: the library's own line repeats the URL, which may hold a password."""
    inner = error
    while True:
        context = inner.__context__ if isinstance(inner.__context__, OSError) else None  # or it may be the caller's
        deeper = inner.__cause__ or context or next(
            (each for each in inner.args if isinstance(each, BaseException)), None
        ) or getattr(inner, "reason", None)  # fmt: skip
        if not isinstance(deeper, BaseException):
            return inner
        inner = deeper
