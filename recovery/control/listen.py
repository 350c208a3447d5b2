"""The sockets that the journal's holder listens on, and the thread that answers.

The control socket is made when the lock is held, so what lies under its name is a dead holder's. HTTP is imported only
once somebody has connected: most holders are never asked anything, and a short-lived one must not pay for it.
"""

from __future__ import annotations

import os
import select
import socket
import struct
import threading
from collections.abc import Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from recovery.control.remote import SOCKET, address_of
from recovery.control.writer import CoreWriter
from recovery.data import Data

if TYPE_CHECKING:
    import uvicorn

BACKLOG = 128
_CLOSE_SECONDS = 10


class Control:
    """Serves a writer to other processes between `start` and `close`."""

    def __init__(
        self, data: Data, writer: CoreWriter, sockets: Sequence[socket.socket] = (), token: str | None = None
    ) -> None:
        self._data = data
        self._writer = writer
        self._token = token
        self._path = f"{data.layout.journal}/{SOCKET}"
        self._sockets = list(sockets)
        self._wake, self._woken = socket.socketpair()
        self._server: uvicorn.Server | None = None
        self._thread: threading.Thread | None = None
        self.problem: str | None = None  # why there is no control socket

    def start(self) -> None:
        """Listens from here on. A directory that takes no socket leaves the verbs without one, not the server."""
        try:
            self._sockets.append(_listen_at(self._path))
        except OSError as error:
            self.problem = f"no control socket: {error.strerror or error}"
        if self._sockets:
            self._thread = threading.Thread(target=self._serve, name="journal-control", daemon=True)
            self._thread.start()

    def close(self) -> None:
        """Answers what was asked, then stops listening. Call it while the writer still writes."""
        if self._thread is not None:
            if self._server is not None:
                self._server.should_exit = True
            self._wake.send(b"x")
            self._thread.join()
            self._thread = None
        if self.problem is None:
            with suppress(OSError):
                os.unlink(self._path)
        for each in (*self._sockets, self._wake, self._woken):
            each.close()

    def addresses(self) -> list[str]:
        """Where it listens, as a client would write it."""
        return [
            self._path if each.family == socket.AF_UNIX else "http://{}:{}".format(*_host_and_port(each))
            for each in self._sockets
        ]

    def __enter__(self) -> Control:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _serve(self) -> None:
        ready, _, _ = select.select([*self._sockets, self._woken], [], [])
        if self._woken in ready:
            return
        import uvicorn

        from recovery.control.api import Service, application

        config = uvicorn.Config(
            application(Service(self._data, self._writer, self._token)), http=_protocol(), ws="none", lifespan="off",
            loop="asyncio", log_config=None, access_log=False, server_header=False,
            timeout_graceful_shutdown=_CLOSE_SECONDS,
        )  # fmt: skip
        self._server = server = uvicorn.Server(config)
        ready, _, _ = select.select([self._woken], [], [], 0)
        if not ready:  # `close` was called before there was a server to tell
            server.run(sockets=self._sockets)


def _host_and_port(sock: socket.socket) -> tuple[str, int]:
    host, port = sock.getsockname()[:2]
    return (f"[{host}]" if sock.family == socket.AF_INET6 else host), port


def _listen_at(path: str) -> socket.socket:
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        os.fchmod(sock.fileno(), 0o600)  # on Linux the file takes it over: there is no moment with another mode
        with suppress(FileNotFoundError):
            os.unlink(path)
        with address_of(path) as address:
            sock.bind(address)
        os.chmod(path, 0o600)
        sock.listen(BACKLOG)
    except BaseException:
        sock.close()
        raise
    return sock


def peer_uid(sock: Any) -> int | None:
    """The user of the process at the other end of a unix socket; None where the system does not tell."""
    if hasattr(socket, "SO_PEERCRED"):
        _, uid, _ = struct.unpack("3i", sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))
        return int(uid)
    if hasattr(socket, "LOCAL_PEERCRED"):  # macOS: struct xucred {version, uid, …}
        _, uid = struct.unpack_from("2I", sock.getsockopt(0, socket.LOCAL_PEERCRED, 76))
        return int(uid)
    return None


def _protocol() -> type[Any]:
    """uvicorn's HTTP by h11, which hangs up on other users before it reads a byte of theirs."""
    from uvicorn.protocols.http.h11_impl import H11Protocol

    class Checked(H11Protocol):
        def connection_made(self, transport: Any) -> None:
            sock = transport.get_extra_info("socket")
            super().connection_made(transport)
            if sock is not None and sock.family == socket.AF_UNIX and peer_uid(sock) not in (0, os.geteuid()):
                transport.abort()

    return Checked
