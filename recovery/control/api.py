"""The requests that the journal's holder answers, as one ASGI application: over its control socket, and by `serve`.

Knows HTTP and JSON; what is done is `recovery.control.writer`'s. What comes through the control socket is an operator's
(the socket is 0600, the peer was asked who it is); what comes over TCP shows a token, and never writes the journal's
own events. The paths, bodies and answers are described by `recovery.control.openapi`.
"""

from __future__ import annotations

import hmac
import queue
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace as replace_fields
from functools import cached_property, partial
from http import HTTPStatus
from typing import TYPE_CHECKING, Any

import anyio
import anyio.to_thread
import msgspec
from msgspec import UNSET
from starlette.applications import Starlette
from starlette.concurrency import iterate_in_threadpool
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response, StreamingResponse
from starlette.routing import Route

from journal.commit import Ticket
from journal.errors import JournalError, UsageError
from journal.reader import LogReader
from recovery.append_line import ticket_of
from recovery.control import traced
from recovery.control.messages import (
    Ack,
    Acked,
    Acknowledged,
    FailedReload,
    Handed,
    Health,
    LogQuery,
    Nothing,
    OperatorAppend,
    Pending,
    Planned,
    Records,
    Recover,
    Replay,
    WouldRestore,
)
from recovery.control.tickets import answers_to, ticket_of_request, told_of
from recovery.control.web import (
    LINES,
    Absent,
    answer,
    body_as,
    body_bytes,
    declared_error,
    http_error,
    kind_of,
    must_be_json,
    must_be_local,
    query_as,
)
from recovery.control.writer import CoreWriter, Embedded, Step
from recovery.data import Data
from replay.delivery import pending_of
from replay.faults import declared

if TYPE_CHECKING:
    from recovery.telemetry.gathering import Metrics


class Service:
    """What the requests share: the data directory, its writer, and the token that TCP clients show."""

    def __init__(self, data: Data, writer: CoreWriter, token: str | None = None) -> None:
        self.data = data
        self.writer = writer
        self.token = token
        self.looking = anyio.CapacityLimiter(4)

    @cached_property
    def metrics(self) -> Metrics:
        """The writer's; one that does not count its writing has those that the journal tells."""
        from recovery.telemetry.gathering import Metrics

        return self.writer.metrics or Metrics(self.data, self.writer.core)


def _service(request: Request) -> Service:
    service = request.app.state.service
    assert isinstance(service, Service)
    return service


# -- writing ----------------------------------------------------------------------------------------------------------


async def append(request: Request) -> Response:
    """One event or a group; or JSON Lines, each answered in its place as `journal append` does."""
    if kind_of(request) == LINES:
        return await _append_lines(request)
    must_be_json(request)
    return await _commit(request, ticket_of(await body_bytes(request) or b"{}"))


async def operator_append(request: Request) -> Response:
    """The same for an operator's verb, which may journal the journal's own events."""
    must_be_local(request)
    writer, asked = _service(request).writer, (await body_as(request, OperatorAppend)).requests
    tickets = [ticket_of_request(each.drafts, each.op_id, each.after_seq) for each in asked]
    await anyio.to_thread.run_sync(writer.settle, tickets)
    return answer(HTTPStatus.OK, {"answers": list(map(told_of, answers_to(tickets)))})


async def adopt_memory(request: Request) -> Response:
    must_be_local(request)
    await body_as(request, Nothing)
    writer = _service(request).writer
    return await _long(request, lambda step: writer.adopt_memory(step).to_json())


async def recover_reload(request: Request) -> Response:
    must_be_local(request)
    writer, asked = _service(request).writer, await body_as(request, FailedReload)
    return await _long(request, lambda _: writer.recover_reload(asked.name, asked.failure, asked.tools, asked.line))


async def _commit(request: Request, asked: Ticket) -> Response:
    writer = _service(request).writer
    receipts = await anyio.to_thread.run_sync(traced.commit, writer.core, writer.commit, asked, request.headers)
    return answer(HTTPStatus.CREATED, Acknowledged(receipts))


async def _append_lines(request: Request) -> Response:
    writer, lines = _service(request).writer, (await body_bytes(request)).split(b"\n")
    answers = await anyio.to_thread.run_sync(writer.append_lines, [line for line in lines if line.strip()])
    told = (
        {"error": {**each.to_json(), "line": number}} if isinstance(each, JournalError) else Acknowledged(each)
        for number, each in enumerate(answers, 1)
    )
    return Response(b"".join(msgspec.json.encode(each) + b"\n" for each in told), media_type=LINES)


# -- long work --------------------------------------------------------------------------------------------------------


async def checkpoint(request: Request) -> Response:
    await body_as(request, Nothing)
    writer = _service(request).writer
    return await _long(request, lambda step: writer.checkpoint(_ticking("checkpoint", step)))


async def replay(request: Request) -> Response:
    """A restore in place; with `dry_run` only what it would change."""
    service, asked = _service(request), await body_as(request, Replay)

    def run(step: Step) -> object:
        from recovery.restore import compare_with_end
        from replay.diff_words import to_json

        reader = service.data.reader()
        seq = _moment(service.data, reader, asked.until, asked.exclusive)
        if asked.dry_run:
            difference = compare_with_end(service.data, reader, seq, _ticking("replaying", step))
            return WouldRestore(seq, reader.last_seq, to_json(difference))
        return service.writer.restore(seq, asked.reason, _ticking("restoring", step))

    return await _long(request, run)


async def recover(request: Request) -> Response:
    """Repairs what is damaged; with `dry_run` only the plan."""
    service, asked = _service(request), await body_as(request, Recover)

    def run(step: Step) -> object:
        from recovery.execute import planner
        from recovery.scope import scope_planner

        with _absent():
            if asked.dry_run:
                if asked.scope is not None:
                    return Planned(scope_planner(service.data, asked.scope, step)())
                return Planned(planner(service.data, asked.component, names=asked.agents, progress=step)())
            return service.writer.recover(asked.component, asked.agents, asked.scope, step)

    return await _long(request, run)


async def embed(request: Request) -> Response:
    await body_as(request, Nothing)
    writer = _service(request).writer

    def run(step: Step) -> Embedded:
        return writer.embed(_ticking("embedding", step))

    return await _long(request, run)


async def _long(request: Request, work: Callable[[Step], object]) -> Response:
    """Runs in a thread. Who accepts JSON Lines gets progress while it runs, anyone else the result at its end."""

    def run(step: Step) -> object:
        with declared(_service(request).data.layout.memory_db):
            return work(step)

    if LINES not in request.headers.get("accept", ""):
        return answer(HTTPStatus.OK, await anyio.to_thread.run_sync(run, lambda *_: None))
    told: queue.SimpleQueue[dict[str, Any]] = queue.SimpleQueue()

    def tell() -> None:
        try:
            told.put({"result": run(lambda label, done, total: told.put({"progress": [label, done, total]}))})
        except JournalError as error:
            told.put({"error": error.to_json()})
        except BaseException as error:
            told.put({"error": {"code": "failed", "message": f"{type(error).__name__}: {error}"}})
            raise

    threading.Thread(target=tell, name="journal-control-work", daemon=True).start()

    def lines() -> Iterator[bytes]:
        while True:
            line = told.get()
            yield msgspec.json.encode(line) + b"\n"
            if "progress" not in line:
                return

    return StreamingResponse(iterate_in_threadpool(lines()), media_type=LINES)


def _ticking(label: str, step: Step) -> Callable[[int, int], None]:
    return partial(step, label)


async def acknowledge(request: Request) -> Response:
    """Moves a consumer's cursor: what it has dealt with is not handed out again."""
    writer, asked = _service(request).writer, await body_as(request, Ack)

    def run(_: Step) -> Acked:
        return Acked(writer.acknowledge(asked.consumer, asked.message_id, asked.conversation_id))

    return await _long(request, run)


# -- reading ----------------------------------------------------------------------------------------------------------


async def health(request: Request) -> Response:
    """503 once the log takes nothing more: only opening it again helps, so that a supervisor should restart it.

    In threads of its own: writers that wait for a rebuild may hold all the others.
    """
    service = _service(request)
    writer = service.writer
    found = await anyio.to_thread.run_sync(lambda: writer.states.health(count_pending=False), limiter=service.looking)
    poisoned = writer.core.log.poisoned
    told = Health(
        status=found.status, last_seq=found.last_seq, position=found.position, reason=poisoned,
        memory_backend="embedded", agents=found.agents, model=found.model, components=found.components,
    )  # fmt: skip
    return answer(HTTPStatus.SERVICE_UNAVAILABLE if poisoned else HTTPStatus.OK, told)


def status(request: Request) -> Response:
    import time

    from recovery.standing import standing

    return answer(HTTPStatus.OK, standing(_service(request).data, time.time_ns()))


def messages(request: Request) -> Response:
    """The oldest messages that a consumer has not acknowledged."""
    asked, core = query_as(request, Pending), _service(request).writer.core
    conversation = asked.conversation_id if asked.conversation_id is not UNSET else None
    return answer(HTTPStatus.OK, Handed(pending_of(core, asked.consumer, conversation, asked.limit)))


def metrics(request: Request) -> Response:
    """Prometheus' text format."""
    from recovery.telemetry.prometheus import CONTENT_TYPE, exposition

    return Response(exposition(_service(request).metrics.gather()), headers={"content-type": CONTENT_TYPE})


def log(request: Request) -> Response:
    """Records, oldest first; `n` of them from the end, or all for who accepts JSON Lines."""
    from recovery.evidence import weigh_end
    from recovery.records import Filter, selected

    asked = query_as(request, LogQuery)
    data = _service(request).data
    reader = data.reader()
    weigh_end(data, reader)
    wanted = Filter(asked.agent, asked.actor, (), asked.entity, asked.scope, asked.op_id)
    with _absent():
        wanted = replace_fields(wanted, types=asked.type)
    first = _moment(data, reader, asked.since, exclusive=True) + 1 if asked.since is not UNSET else 1
    last = _moment(data, reader, asked.until) if asked.until is not UNSET else None
    lines = LINES in request.headers.get("accept", "")
    count = asked.n if asked.n is not UNSET else None if lines else 100
    found = selected(reader, wanted, first, last, count)
    if not lines:
        return answer(HTTPStatus.OK, Records([entry.to_json() for entry in found]))
    return StreamingResponse(_told_in_lines(entry.to_json() for entry in found), media_type=LINES)


def _told_in_lines(documents: Iterator[dict[str, Any]]) -> Iterator[bytes]:
    """What ends the lines early is the last of them: the status was told before."""
    try:
        for each in documents:
            yield msgspec.json.encode(each) + b"\n"
    except JournalError as error:
        yield msgspec.json.encode({"error": error.to_json()}) + b"\n"


@contextmanager
def _absent() -> Iterator[None]:
    """Around what names something: that it is not there is no fault of the request's form."""
    try:
        yield
    except UsageError as error:
        raise Absent(error.message, path=error.path, seq=error.seq, hint=error.hint) from None


def _moment(data: Data, reader: LogReader, text: str, exclusive: bool = False) -> int:
    from recovery.moments import resolve_moment
    from replay.moment import parse

    parse(text)
    with _absent():
        return resolve_moment(data, reader, text, exclusive)


def openapi(request: Request) -> Response:
    from recovery.control.openapi import document

    return answer(HTTPStatus.OK, document())


class _Guard:
    """Lets TCP clients in by their token alone. The description of the API is for everybody."""

    def __init__(self, app: Callable[..., Any], service: Service) -> None:
        self._app = app
        self._service = service

    async def __call__(self, scope: dict[str, Any], receive: Any, send: Any) -> None:
        if scope["type"] == "http" and scope.get("client") is not None and scope["path"] != "/openapi.json":
            given = dict(scope["headers"]).get(b"authorization", b"")
            wanted = f"Bearer {self._service.token}".encode()
            if not self._service.token or not hmac.compare_digest(given, wanted):
                error = {"code": "unauthorized", "message": "a token is needed", "hint": "Authorization: Bearer TOKEN"}
                response = answer(HTTPStatus.UNAUTHORIZED, {"error": error})
                response.headers["www-authenticate"] = "Bearer"
                await response(scope, receive, send)
                return
        try:
            await self._app(scope, receive, send)
        except ClientDisconnect:
            return  # it went away in the middle of its own request


def application(service: Service) -> Callable[..., Any]:
    """The ASGI application over `service`."""
    app = Starlette(
        exception_handlers={JournalError: declared_error, HTTPException: http_error},
        routes=[
            Route("/v1/append", append, methods=["POST"]),
            Route("/v1/operator/append", operator_append, methods=["POST"]),
            Route("/v1/operator/adopt-memory", adopt_memory, methods=["POST"]),
            Route("/v1/operator/recover-reload", recover_reload, methods=["POST"]),
            Route("/v1/messages", messages, methods=["GET"]),
            Route("/v1/messages/ack", acknowledge, methods=["POST"]),
            Route("/v1/checkpoint", checkpoint, methods=["POST"]),
            Route("/v1/replay", replay, methods=["POST"]),
            Route("/v1/recover", recover, methods=["POST"]),
            Route("/v1/embed", embed, methods=["POST"]),
            Route("/v1/health", health, methods=["GET"]),
            Route("/v1/status", status, methods=["GET"]),
            Route("/v1/log", log, methods=["GET"]),
            Route("/metrics", metrics, methods=["GET"]),
            Route("/openapi.json", openapi, methods=["GET"]),
        ],
    )
    app.state.service = service
    return _Guard(app, service)
