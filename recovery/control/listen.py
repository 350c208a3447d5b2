"""The sockets that the journal's holder listens on, and the thread that answers.

The control socket is made when the lock is held, so what lies under its name is a dead holder's. HTTP is imported only
once somebody has connected: most holders are never asked anything, and a short-lived one must not pay for it.
"""

from __future__ import annotations

import os
import selectors
import socket
import struct
import threading
from collections.abc import Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, Any
from weakref import WeakSet

from recovery.control.remote import SOCKET, address_of
from recovery.control.writer import CoreWriter
from recovery.data import Data

if TYPE_CHECKING:
    import uvicorn

BACKLOG = 128  # also how many connections are taken at once, before one of them is looked at
TCP_CONNECTIONS_MAX = 256  # anybody on this machine may connect: the journal needs descriptors, too
_CLOSE_SECONDS = 10
_IDLE_SECONDS = 1 << 30  # a feed may be silent for hours: hung up on, it could not tell whether its next line was taken


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
        self._closing = False
        self._identity: tuple[int, int] | None = None  # of the socket's file
        self.problem: str | None = None  # why there is no control socket

    def start(self) -> None:
        """Listens from here on. A directory that takes no socket leaves the verbs without one, not the server."""
        try:
            self._sockets.append(_listen_at(self._path))
            self._identity = _identity(self._path)
        except OSError as error:
            self.problem = f"no control socket: {error.strerror or error}"
        if self._sockets:
            self._thread = threading.Thread(target=self._serve, name="journal-control", daemon=True)
            self._thread.start()
            _LISTENING.add(self)

    def close(self) -> None:
        """Answers what was asked, then stops listening. Call it while the writer still writes."""
        _LISTENING.discard(self)
        self._closing = True
        if self._thread is not None:
            if self._server is not None:
                self._server.should_exit = True
            self._wake.send(b"x")
            self._thread.join()
            self._thread = None
        with suppress(OSError):
            if self._identity is not None and _identity(self._path) == self._identity:
                os.unlink(self._path)  # no successor's, who found the lock file gone
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

    def leave_to_parent(self) -> None:
        """In a forked child: it lets go of what is its parent's. Without this, who asked a parent that was killed would
        wait for the child, and a child that ends as programs do would take the socket away."""
        places = [each.fileno() for each in (*self._sockets, self._wake, self._woken)]
        if self._server is not None:
            each = [protocol.transport for protocol in self._server.server_state.connections]
            places += [transport.get_extra_info("socket").fileno() for transport in each if transport is not None]
        nothing = os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC)
        for place in places:
            if place >= 0:  # the number stays taken: the objects that have it will close it
                os.dup2(nothing, place, inheritable=False)
        os.close(nothing)
        self._thread = self._identity = None

    def _serve(self) -> None:
        with selectors.DefaultSelector() as waiting:  # select() ends at descriptor 1023, and a server has more
            for each in (*self._sockets, self._woken):
                waiting.register(each, selectors.EVENT_READ)
            waiting.select()
        if self._closing:
            return
        import uvicorn

        from recovery.control.api import Service, application

        config = uvicorn.Config(
            application(Service(self._data, self._writer, self._token)), http=_protocol(), ws="none", lifespan="off",
            loop="asyncio", backlog=BACKLOG, log_config=None, server_header=False, proxy_headers=False,
            timeout_graceful_shutdown=_CLOSE_SECONDS,
        )  # fmt: skip
        self._server = server = uvicorn.Server(config)
        if not self._closing:  # else `close` was called before there was a server to tell
            server.run(sockets=self._sockets)


_LISTENING: WeakSet[Control] = WeakSet()


def _leave_to_parent() -> None:
    for each in list(_LISTENING):
        each.leave_to_parent()
    _LISTENING.clear()


os.register_at_fork(after_in_child=_leave_to_parent)


def _host_and_port(sock: socket.socket) -> tuple[str, int]:
    host, port = sock.getsockname()[:2]
    return (f"[{host}]" if sock.family == socket.AF_INET6 else host), port


def _identity(path: str) -> tuple[int, int]:
    status = os.lstat(path)
    return status.st_dev, status.st_ino


def _listen_at(path: str) -> socket.socket:
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        with suppress(FileNotFoundError):
            os.unlink(path)
        with address_of(path) as address:
            sock.bind(address)
        os.chmod(path, 0o600)  # before anybody can connect
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
            super().connection_made(transport)
            self.access_log = False  # here alone: the setting would silence a server around this one, too
            sock = transport.get_extra_info("socket")
            if sock.family == socket.AF_UNIX:
                self.client, self.timeout_keep_alive = None, _IDLE_SECONDS
                is_welcome = peer_uid(sock) in (0, os.geteuid())
            else:
                # A peer that reset the connection has no name any more, and what it sent is still read: without one
                # it would pass for a unix peer, who shows no token.
                self.client = self.client or ("gone", 0)
                by_tcp = sum(bool(getattr(each, "client", None)) for each in self.connections)
                is_welcome = by_tcp <= TCP_CONNECTIONS_MAX
            if not is_welcome:
                transport.abort()

    return Checked
