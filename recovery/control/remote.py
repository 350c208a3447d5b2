"""The writer of another process, asked through its control socket: HTTP over a unix socket, by the standard library.

Knows requests and answers; what they mean is the holder's. An answer that does not come leaves the outcome unknown, so
every append carries an op_id: sending it again is safe.
"""

from __future__ import annotations

import os
import secrets
import socket
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from http.client import HTTPConnection, HTTPException, HTTPResponse
from typing import Any, TypeVar

import msgspec

from journal.commit import Receipt, Ticket
from journal.errors import EnvironmentFault, JournalError, Locked, OutcomeUnknown, from_json
from recovery.adopt.memory import AdoptedMemory
from recovery.agents.hot_reload import Reloaded
from recovery.append_line import too_long
from recovery.config.kinds import Failure
from recovery.control.messages import Acked
from recovery.control.tickets import Answer, answer_of, request_of
from recovery.control.writer import Embedded, Step, Tick
from recovery.data import Data
from recovery.recovered import Recovered
from replay.checkpoints import Shadow
from replay.restore import Restored

T = TypeVar("T")
SOCKET = "control.sock"
CONNECT_SECONDS = 5.0
BYTES_AT_ONCE = 16 << 20  # of events in one request, whose JSON may take six times that


class UnixConnection(HTTPConnection):
    """HTTP to a socket that is a file. Long paths go by a descriptor of their directory: an address has 107 bytes."""

    def __init__(self, path: str, answer_seconds: float | None = None) -> None:
        super().__init__("journal")
        self._path = path
        self._answer_seconds = answer_seconds  # None: a rebuild takes as long as it takes

    def connect(self) -> None:
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        sock.settimeout(CONNECT_SECONDS)
        try:
            with address_of(self._path) as address:
                sock.connect(address)
        except BaseException:
            sock.close()
            raise
        sock.settimeout(self._answer_seconds)
        self.sock = sock


ADDRESS_BYTES_MAX = 100


@contextmanager
def address_of(path: str) -> Iterator[str]:
    """A name of a unix socket's path that fits into an address, while the block runs."""
    if len(os.fsencode(path)) <= ADDRESS_BYTES_MAX or not os.path.isdir("/proc/self/fd"):
        yield path
        return
    directory, name = os.path.split(path)
    fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        yield f"/proc/self/fd/{fd}/{name}"
    finally:
        os.close(fd)


class RemoteWriter:
    """`Writer`, by requests to the process that holds the lock."""

    def __init__(self, connection: HTTPConnection, holder: str) -> None:
        self._connection = connection
        self._holder = holder

    def commit(self, request: Ticket) -> list[Receipt]:
        self.settle([request])
        return request.result()

    def settle(self, requests: Sequence[Ticket]) -> None:
        part, size = 0, 0
        for number, request in enumerate(requests):
            if size and size + request.bytes > BYTES_AT_ONCE:
                self._settle(requests[part:number])
                part, size = number, 0
            size += request.bytes
        self._settle(requests[part:])

    def _settle(self, requests: Sequence[Ticket]) -> None:
        op_ids = [request.op_id or f"remote-{secrets.token_hex(16)}" for request in requests]
        asked = list(map(request_of, requests, op_ids))
        try:
            answers: list[dict[str, Any]] = self._ask("POST", "/v1/operator/append", {"requests": asked})["answers"]
        except _Lost as lost:
            for request, op_id in zip(requests, op_ids, strict=True):
                request.error = OutcomeUnknown(
                    f"{self._holder} went away before it answered: {lost}",
                    op_id=op_id,
                    hint="send it again with this op_id: it is applied at most once",
                )
            return
        for request, told in zip(requests, answers, strict=True):
            answer = answer_of(told)
            if isinstance(answer, JournalError):
                request.error = answer
            else:
                request.receipts = answer
            request.done = True

    def append_lines(self, lines: Sequence[bytes]) -> list[Answer]:
        body = b"".join(line if line.endswith(b"\n") else line + b"\n" for line in lines if line)
        try:
            told = self._send("POST", "/v1/append", body, "application/x-ndjson").read().splitlines()
        except (_Lost, OSError, HTTPException) as lost:
            raise OutcomeUnknown(
                f"{self._holder} went away before it answered: {lost}",
                hint="journal log shows what was taken; lines with an op_id may be sent again",
            ) from None
        answers = iter(told)
        return [answer_of(msgspec.json.decode(next(answers))) if line else too_long() for line in lines]

    def checkpoint(self, tick: Tick | None = None) -> Shadow:
        return self._run("/v1/checkpoint", {}, Shadow, _ticking(tick))

    def restore(self, to_seq: int, reason: str, tick: Tick | None = None) -> Restored:
        return self._run("/v1/replay", {"until": f"seq:{to_seq}", "reason": reason}, Restored, _ticking(tick))

    def recover(
        self, target: str, names: Sequence[str] = (), scope: str | None = None, step: Step | None = None
    ) -> Recovered:
        return self._run("/v1/recover", {"component": target, "agents": list(names), "scope": scope}, Recovered, step)

    def adopt_memory(self, step: Step | None = None) -> AdoptedMemory:
        return AdoptedMemory.from_json(self._run("/v1/operator/adopt-memory", {}, dict[str, Any], step))

    def recover_reload(self, name: str, failure: Failure, tools: Sequence[str], line: str) -> Reloaded:
        asked = {"name": name, "failure": failure, "tools": list(tools), "line": line}
        return self._run("/v1/operator/recover-reload", asked, Reloaded, None)

    def acknowledge(self, consumer: str, message_id: str, conversation_id: str | None) -> Receipt | None:
        asked = {"consumer": consumer, "message_id": message_id, "conversation_id": conversation_id}
        return self._run("/v1/messages/ack", asked, Acked, None).receipt

    def embed(self, tick: Tick | None = None) -> Embedded:
        return self._run("/v1/embed", {}, Embedded, _ticking(tick))

    # -- one request --------------------------------------------------------------------------------------------------

    def _run(self, path: str, body: dict[str, Any], kind: type[T], step: Step | None) -> T:
        """A long request: lines of progress, then its result or its error."""
        try:
            response = self._send("POST", path, msgspec.json.encode(body), "application/json", stream=True)
            for line in response:
                told = msgspec.json.decode(line)
                if "progress" in told and step is not None:
                    step(*told["progress"])
                elif "error" in told:
                    raise from_json(told["error"])
                elif "result" in told:
                    return msgspec.convert(told["result"], kind)
        except (_Lost, OSError, HTTPException, msgspec.DecodeError) as error:
            raise self._gone(error) from error
        raise self._gone("it closed the connection")

    def _ask(self, method: str, path: str, body: dict[str, Any]) -> dict[str, Any]:
        response = self._send(method, path, msgspec.json.encode(body), "application/json")
        try:
            answer = response.read()
        except (OSError, HTTPException) as error:
            raise _Lost(str(error)) from error
        return msgspec.json.decode(answer, type=dict[str, Any])

    def _send(self, method: str, path: str, body: bytes, kind: str, stream: bool = False) -> HTTPResponse:
        headers = {"content-type": kind} | ({"accept": "application/x-ndjson"} if stream else {})
        try:
            self._connection.request(method, path, body, headers)
            response = self._connection.getresponse()
            told = response.read() if response.status >= 400 else None
        except (OSError, HTTPException) as error:
            raise _Lost(str(error) or "the connection was closed") from error
        if told is not None:
            raise _error_of(told, response.status)
        return response

    def _gone(self, reason: object) -> EnvironmentFault:
        return EnvironmentFault(
            f"{self._holder} went away in the middle: {reason}",
            hint="journal status says where it stands; run it again",
        )


class _Lost(EnvironmentFault):
    """The request may have arrived or not."""

    code = "connection_lost"


def _error_of(body: bytes, status: int) -> JournalError:
    try:
        return from_json(msgspec.json.decode(body)["error"])
    except (msgspec.DecodeError, KeyError, TypeError, AttributeError):
        return EnvironmentFault(f"the holder answered with HTTP status {status}")


def _ticking(tick: Tick | None) -> Callable[[str, int, int], None] | None:
    return None if tick is None else lambda _, done, total: tick(done, total)


@contextmanager
def connect_to(data: Data, locked: Locked) -> Iterator[RemoteWriter]:
    """The writer that holds the lock of `data`. Raises `locked` where it does not listen."""
    connection = UnixConnection(f"{data.layout.journal}/{SOCKET}")
    try:
        connection.connect()
    except OSError:
        raise locked from None
    try:
        yield RemoteWriter(connection, locked.message.removeprefix("another writer holds this journal: "))
    finally:
        connection.close()
