"""HTTP and JSON under the holder's API: bodies and queries as Structs, bounded; answers and errors with their status.

Knows requests and declared errors; must not know what any path does.
"""

from __future__ import annotations

import re
from http import HTTPStatus
from typing import TypeVar

import msgspec
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response

from journal.errors import CallerError, JournalError, NoSpace, NotApplied, OutcomeUnknown, Refused, UsageError
from replay.logs import say

T = TypeVar("T")
_TRACEPARENT = re.compile(r"[\da-f]{2}-(?P<trace_id>[\da-f]{32})-(?P<span_id>[\da-f]{16})-[\da-f]{2}.*")
BODY_BYTES_MAX = 128 << 20
JSON = "application/json"
LINES = "application/x-ndjson"


class Absent(UsageError):
    """What a request names is not there: a tag, a seq beyond the end, an agent, a type of event."""


def is_local(request: Request) -> bool:
    """True of a request that came through the control socket: a unix peer has no host and port."""
    return request.scope.get("client") is None


def must_be_local(request: Request) -> None:
    """For what is an operator's alone: over TCP there is no such path."""
    if not is_local(request):
        raise HTTPException(HTTPStatus.NOT_FOUND)


def kind_of(request: Request) -> str:
    return request.headers.get("content-type", "").partition(";")[0].strip().lower()


def must_be_json(request: Request) -> None:
    if kind_of(request) not in (JSON, ""):
        raise HTTPException(HTTPStatus.UNSUPPORTED_MEDIA_TYPE)


async def body_bytes(request: Request) -> bytes:
    """The body, bounded before it is kept."""
    parts, size = [], 0
    async for part in request.stream():
        size += len(part)
        if size > BODY_BYTES_MAX:
            raise Refused("too_large", f"a request has at most {BODY_BYTES_MAX >> 20} MiB")
        parts.append(part)
    return b"".join(parts)


async def body_as(request: Request, kind: type[T]) -> T:
    must_be_json(request)
    try:
        return msgspec.json.decode(await body_bytes(request) or b"{}", type=kind)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise Refused("invalid", f"the body is not what is taken here: {error}") from None


def query_as(request: Request, kind: type[T]) -> T:
    given: dict[str, list[str]] = {}
    for key, value in request.query_params.multi_items():
        given.setdefault(key, []).append(value)
    lists = {field for field, of in kind.__annotations__.items() if "tuple" in str(of)}
    single = next((key for key, values in given.items() if key not in lists and len(values) > 1), None)
    if single is not None:
        raise UsageError(f"{single} is given twice")
    try:
        return msgspec.convert(
            {key: values if key in lists else values[0] for key, values in given.items()}, kind, strict=False
        )
    except msgspec.ValidationError as error:
        raise UsageError(f"the query is not what is taken here: {error}") from None


def answer(status: int, document: object) -> Response:
    return Response(msgspec.json.encode(document), status, media_type=JSON)


STATUS = {
    "not_found": 404, "already_exists": 409, "op_id_reused": 409, "too_large": 413, "no_model": 409,
    "missing_extra": 409, "moved_on": 409,
}  # fmt: skip


def status_of(error: JournalError) -> int:
    """The HTTP status of a declared error; its JSON says what, where and what to do next."""
    if error.code in STATUS:
        return STATUS[error.code]
    match error:
        case Absent():
            return 404
        case CallerError():
            return 422
        case NotApplied():
            return 202  # durable: it shows up once memory.db has caught up
        case NoSpace():
            return 507  # nothing was written; the same request works once there is room
        case OutcomeUnknown():
            return 504  # it may have been written: to be sent again under the same op_id once the holder is back
    return 503


def declared_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, JournalError)
    status = status_of(error)
    if status >= HTTPStatus.INTERNAL_SERVER_ERROR:
        _say_failed(request, status, error)
    return answer(status, {"error": error.to_json()})


def _say_failed(request: Request, status: int, error: JournalError) -> None:
    """The faults of the server's own: with the ids of the client's trace where its request has one."""
    redact = request.app.state.service.writer.core.redact
    came_from = _TRACEPARENT.fullmatch(request.headers.get("traceparent", ""))
    facts = {name: each for name, each in error.to_json().items() if name in ("code", "seq", "op_id", "offset")}
    said = f"{request.method} {request.url.path} was answered {status}: {error}"
    say("error", "control", said, redact, **facts, status=status, **(came_from.groupdict() if came_from else {}))


def http_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    told = {"code": HTTPStatus(error.status_code).name.lower(), "message": HTTPStatus(error.status_code).phrase}
    response = answer(error.status_code, {"error": told})
    response.headers.update(error.headers or {})
    return response
