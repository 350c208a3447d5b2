"""The real MCP memory server, from npm, spoken to over its standard streams by JSON-RPC.

Installed once into a cache of the user; where node or npm is missing, or the registry cannot be reached, tests that
need it are skipped, and say so.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

PACKAGE = "@modelcontextprotocol/server-memory"
VERSION = "2026.8.31"


def server_script() -> Path:
    """The server's entry point, installed if need be."""
    npm, node = shutil.which("npm"), shutil.which("node")
    if npm is None or node is None:
        pytest.skip(f"node and npm are not installed: {PACKAGE} was not tested against")
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "agent-journal" / f"mcp-{VERSION}"
    script = cache / "node_modules" / PACKAGE / "dist" / "index.js"
    if not script.is_file():
        building = cache.with_name(f"{cache.name}.{os.getpid()}")
        building.mkdir(parents=True)
        command = [npm, "install", "--no-audit", "--no-fund", "--prefix", str(building), f"{PACKAGE}@{VERSION}"]
        try:
            done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
            if done.returncode != 0:
                pytest.skip(f"npm cannot install {PACKAGE}: {done.stderr.strip().splitlines()[-1:]}")
            if not cache.exists():
                building.rename(cache)
        except subprocess.TimeoutExpired:
            pytest.skip(f"npm cannot install {PACKAGE}: no answer from the registry")
        finally:
            shutil.rmtree(building, ignore_errors=True)
    return script


class Server:
    """One session. `call` returns what the tool answers, as the object that it is."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self.process = process
        self._id = 0
        self._ask("initialize", {
            "protocolVersion": "2025-03-26", "capabilities": {}, "clientInfo": {"name": "tests", "version": "1"},
        })  # fmt: skip
        self._send({"jsonrpc": "2.0", "method": "notifications/initialized"})

    def call(self, tool: str, **arguments: Any) -> Any:
        answer = self._ask("tools/call", {"name": tool, "arguments": arguments})
        assert not answer.get("isError"), answer
        return answer.get("structuredContent") or json.loads(answer["content"][0]["text"])

    def _ask(self, method: str, params: dict[str, Any]) -> Any:
        self._id += 1
        self._send({"jsonrpc": "2.0", "id": self._id, "method": method, "params": params})
        assert self.process.stdout is not None
        for line in self.process.stdout:
            message = json.loads(line)
            if message.get("id") == self._id:
                assert "error" not in message, message
                return message["result"]
        raise AssertionError("the server ended")

    def _send(self, message: dict[str, Any]) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(json.dumps(message) + "\n")
        self.process.stdin.flush()


@contextmanager
def serving(memory_file: Path) -> Iterator[Server]:
    process = subprocess.Popen(
        [shutil.which("node") or "node", str(server_script())], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL, text=True, env={**os.environ, "MEMORY_FILE_PATH": str(memory_file)},
    )  # fmt: skip
    try:
        yield Server(process)
    finally:
        process.kill()
        process.wait()
