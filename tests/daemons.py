"""A server that is stopped and started from outside: by commands (`python -m tests.daemons start …`) or over HTTP.

Knows processes and a pid file; what the server does is its own business. What was started is killed by `gone`.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from socket import socket
from time import monotonic, sleep

from tests.commands import ENVIRONMENT, ROOT

SECONDS = 60.0


def free_port() -> int:
    with socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return int(sock.getsockname()[1])


def example_server(data: Path, port: int) -> list[str]:
    return [sys.executable, str(ROOT / "docs/examples/server.py"), "--data", str(data), "--port", str(port)]


def start(pid_file: Path, command: Sequence[str]) -> None:
    with open(pid_file.with_suffix(".log"), "ab") as log:
        child = subprocess.Popen(
            [*command], stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True, env=ENVIRONMENT
        )
    pid_file.write_text(str(child.pid))


def pid_of(pid_file: Path) -> int:
    """0 where there is none, or it ended; one that is dead and not waited for counts as ended."""
    try:
        pid = int(pid_file.read_text())
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except (OSError, ValueError):
        return 0
    return 0 if state == "Z" else pid


def stop(pid_file: Path, number: int = signal.SIGTERM) -> None:
    """Returns once it is gone: a daemon's stop is done when the process is."""
    pid = pid_of(pid_file)
    if pid:
        os.kill(pid, number)
    until = monotonic() + SECONDS
    while pid_of(pid_file):
        assert monotonic() < until, "it does not end"
        sleep(0.02)
    with suppress(ChildProcessError):
        os.waitpid(pid, os.WNOHANG)


def words(verb: str, pid_file: Path, command: Sequence[str] = ()) -> list[str]:
    """The command line of one of the above, for journal.yaml: it works in any directory."""
    program = f"import sys; sys.path.insert(0, {str(ROOT)!r}); from tests.daemons import main; main()"
    return [sys.executable, "-c", program, verb, str(pid_file), *command]


def main() -> None:
    verb, pid_file, *command = sys.argv[1:]
    if verb == "start":
        start(Path(pid_file), command)
    elif verb == "stop":
        stop(Path(pid_file))
    elif verb == "status":
        sys.exit(0 if pid_of(Path(pid_file)) else 3)


@contextmanager
def gone(pid_file: Path) -> Iterator[None]:
    """Whatever happens in the block, the server is not left running."""
    try:
        yield
    finally:
        stop(pid_file, signal.SIGKILL)


@contextmanager
def supervisor(pid_file: Path, command: Sequence[str], token: str) -> Iterator[tuple[str, list[str]]]:
    """An HTTP supervisor: POST /start and /stop, with a token. Its address, and what it was asked."""
    asked: list[str] = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            if self.headers.get("authorization") != f"Bearer {token}":
                self.send_error(401)
                return
            asked.append(self.path)
            if self.path == "/start":
                start(pid_file, command)
            else:
                stop(pid_file)
            self.send_response(204)
            self.end_headers()

        def log_message(self, *_: object) -> None: ...

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}", asked
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
