"""Processes that hold a journal and listen: a server on asyncio, trio or threads, or `journal serve`, each for real."""

from __future__ import annotations

import json
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

from tests.commands import ENVIRONMENT, arguments

SOCKET = "journal/control.sock"

_ASYNC = """
import sys, anyio
from recovery import open_server
async def main():
    async with open_server(sys.argv[1], background=False):
        print("ready", flush=True)
        await anyio.to_thread.run_sync(sys.stdin.read)
anyio.run(main, backend={backend!r})
"""
_THREADS = """
import sys
from recovery import open_server_sync
with open_server_sync(sys.argv[1], background=False):
    print("ready", flush=True)
    sys.stdin.read()
"""
FACES = {"asyncio": _ASYNC.format(backend="asyncio"), "trio": _ASYNC.format(backend="trio"), "threads": _THREADS}


@contextmanager
def server(data: Path, face: str = "threads") -> Iterator[subprocess.Popen[str]]:
    """A server of that face, until the block ends; it must then close without an error."""
    with running(FACES[face], data) as process:
        yield process


@contextmanager
def running(program: str, data: Path) -> Iterator[subprocess.Popen[str]]:
    """A program that says when it is ready and ends with its stdin, without an error."""
    command = [sys.executable, "-c", program, str(data)]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=ENVIRONMENT
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n", process.stderr.read() if process.stderr else ""
        try:
            yield process
        finally:
            _, errors = process.communicate(timeout=60)
    assert process.returncode in (0, -9), errors
    assert errors == ""


@contextmanager
def serving(data: Path, *words: str, **settings: Any) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """`journal serve`, and the line that it says it serves with."""
    settings = {"env": ENVIRONMENT, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True, **settings}
    with subprocess.Popen(arguments(data, "serve", *words), **settings) as process:
        assert process.stderr is not None
        before = line = process.stderr.readline()
        while line and "serving" not in line:  # what opening repaired stands before it
            before += (line := process.stderr.readline())
        assert "serving" in line, before
        try:
            yield process, line
        finally:
            if process.poll() is None:
                process.terminate()
            process.communicate(timeout=60)


def rows(data: Path, sql: str) -> list[tuple[object, ...]]:
    """What the current memory.db answers."""
    with closing(sqlite3.connect(f"file:{data}/memory.db?mode=ro", uri=True)) as connection:
        return connection.execute(sql).fetchall()


def observation(content: str, **envelope: str) -> str:
    """A line for `journal append`."""
    event = {"type": "memory.observation_added", "scope": "global", "entity": "Acme", "content": content}
    return json.dumps({"event": event, **envelope}) + "\n"
