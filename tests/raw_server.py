"""A server on loopback that reads a request and answers with whatever bytes it is told, with TLS or without."""

from __future__ import annotations

import socket
import ssl
import subprocess
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

Act = Callable[[socket.socket], None]


def answer(body: bytes = b"", status: str = "200 OK", kind: str = "application/x-protobuf", more: str = "") -> bytes:
    head = f"HTTP/1.1 {status}\r\nContent-Type: {kind}\r\nContent-Length: {len(body)}\r\nConnection: close\r\n"
    return f"{head}{more}\r\n".encode() + body


@contextmanager
def raw_server(*acts: bytes | Act, tls: ssl.SSLContext | None = None) -> Iterator[tuple[str, list[bytes]]]:
    """Its host and port, and the heads of the requests that came; a connection has one. The last answer stays."""
    heads: list[bytes] = []
    left = list(acts)
    listener = socket.create_server(("127.0.0.1", 0))

    def serve(connection: socket.socket) -> None:
        with suppress(OSError), connection, tls.wrap_socket(connection, server_side=True) if tls else connection as one:
            heads.append(_read_request(one))
            act = left.pop(0) if len(left) > 1 else left[0]
            one.sendall(act) if isinstance(act, bytes) else act(one)

    def accept() -> None:
        with suppress(OSError):
            while True:
                connection, _ = listener.accept()
                threading.Thread(target=serve, args=(connection,), daemon=True).start()

    thread = threading.Thread(target=accept, daemon=True)
    thread.start()
    try:
        yield f"127.0.0.1:{listener.getsockname()[1]}", heads
    finally:
        listener.shutdown(socket.SHUT_RDWR)
        listener.close()
        thread.join(10)


def _read_request(connection: socket.socket) -> bytes:
    got = b""
    while b"\r\n\r\n" not in got:
        got += _some(connection)
    head, _, body = got.partition(b"\r\n\r\n")
    lengths = [int(line.split(b":")[1]) for line in head.lower().splitlines() if line.startswith(b"content-length")]
    while len(body) < sum(lengths):
        body += _some(connection)
    return head


def _some(connection: socket.socket) -> bytes:
    got = connection.recv(1 << 16)
    if not got:
        raise ConnectionError
    return got


def certificate(place: Path, name: str) -> tuple[Path, Path]:
    """A self-signed certificate for 127.0.0.1, by openssl, and its key."""
    made, key = place / f"{name}.pem", place / f"{name}.key"
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "2",
         "-subj", f"/CN={name}", "-addext", "subjectAltName=IP:127.0.0.1", "-keyout", str(key), "-out", str(made)],
        check=True, capture_output=True, timeout=60,
    )  # fmt: skip
    return made, key
