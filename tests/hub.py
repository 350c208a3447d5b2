"""A hub on the loopback: the part of the Hugging Face protocol that its client speaks to list and to download files.

Serves a directory as OWNER/NAME at one commit, with ranges, and drops the connection in the middle of a file as often
as it is told to. It remembers what it was asked.
"""

from __future__ import annotations

import hashlib
import json
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote, urlsplit

COMMIT = "c" * 40
CHUNK = 1 << 16


@dataclass
class Hub:
    """``drops``: file → how often its transfer is cut after ``drop_after`` bytes. ``ranges``: where one went on."""

    directory: Path
    repository: str
    drops: dict[str, int] = field(default_factory=dict)
    drop_after: int = 10 << 20  # the client writes 10 MiB at a time, and goes on after what it has written
    asked: list[str] = field(default_factory=list)
    ranges: list[tuple[str, int]] = field(default_factory=list)
    sent: dict[str, int] = field(default_factory=dict)
    address: str = ""


@contextmanager
def serving(directory: Path, repository: str) -> Iterator[Hub]:
    hub = Hub(directory, repository)

    class Handler(_Handler):
        served = hub

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    hub.address = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


class _Handler(BaseHTTPRequestHandler):
    served: Hub
    protocol_version = "HTTP/1.1"

    def log_message(self, format: str, *arguments: object) -> None: ...

    def do_HEAD(self) -> None:
        self._answer(body=False)

    def do_GET(self) -> None:
        self._answer(body=True)

    def _answer(self, *, body: bool) -> None:
        hub, path = self.served, unquote(urlsplit(self.path).path)
        hub.asked.append(f"{self.command} {path}")
        resolved = re.fullmatch(rf"/{re.escape(hub.repository)}/resolve/(?:main|{COMMIT})/(.+)", path)
        if resolved and (hub.directory / resolved[1]).is_file():
            return self._file(resolved[1], body)
        if path.startswith(f"/api/models/{hub.repository}"):
            return self._json(self._tree() if "/tree/" in path else self._model())
        self.send_response(404)
        self.send_header("X-Error-Code", "EntryNotFound" if resolved else "RepoNotFound")
        self.send_header("Content-Length", "0")
        self.end_headers()
        return None

    def _tree(self) -> list[dict[str, object]]:
        root = self.served.directory
        files = sorted(each for each in root.rglob("*") if each.is_file())
        return [
            {"type": "file", "oid": "a" * 40, "size": each.stat().st_size, "path": each.relative_to(root).as_posix()}
            for each in files
        ]

    def _model(self) -> dict[str, object]:
        siblings = [{"rfilename": each["path"]} for each in self._tree()]
        return {"id": self.served.repository, "sha": COMMIT, "siblings": siblings, "private": False, "tags": []}

    def _json(self, document: object) -> None:
        data = json.dumps(document).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def _file(self, name: str, body: bool) -> None:
        hub, data = self.served, (self.served.directory / name).read_bytes()
        begin = 0
        wanted = re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range", ""))
        if wanted and body:
            begin = int(wanted[1])
            hub.ranges.append((name, begin))
            self.send_response(206)
            self.send_header("Content-Range", f"bytes {begin}-{len(data) - 1}/{len(data)}")
        else:
            self.send_response(200)
        self.send_header("ETag", f'"{hashlib.sha256(data).hexdigest()}"')
        self.send_header("X-Repo-Commit", COMMIT)
        self.send_header("Accept-Ranges", "bytes")
        self.send_header("Content-Length", str(len(data) - begin))
        self.end_headers()
        if body:
            with suppress(ConnectionError):  # the client was killed
                self._send(name, data[begin:])

    def _send(self, name: str, data: bytes) -> None:
        hub = self.served
        drop = hub.drops.get(name, 0) > 0 and len(data) > hub.drop_after
        if drop:
            hub.drops[name] -= 1
            data = data[: hub.drop_after]
        for at in range(0, len(data), CHUNK):
            self.wfile.write(data[at : at + CHUNK])
            hub.sent[name] = hub.sent.get(name, 0) + len(data[at : at + CHUNK])
        if drop:
            self.wfile.flush()
            self.close_connection = True
            self.connection.shutdown(2)
