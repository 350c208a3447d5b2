"""The example server under everything at once: concurrent clients that retry, SIGKILL, damage, and a reader beside it.

Scenario: pairs of clients send the same operations under the same keys. The server is killed in mid-write and started
again, several times; before one of the starts memory.db and an agent file are wrecked. All the while another process
reads memory.db. Then every acknowledged write must be there exactly once, and whatever the reader saw at a seq must be
what the journal says of that seq.
"""

from __future__ import annotations

import json
import random
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from itertools import pairwise
from pathlib import Path
from typing import Any

import httpx
import pytest

from journal.events import EntityCreated, ObservationAdded, RelationCreated, StateRestored
from journal.reader import LogReader
from journal.storage import RealStorage
from recovery import open_reader
from tests.commands import ENVIRONMENT, ROOT, process

PAIRS = 4  # each of two clients that do the same
OPERATIONS = 90  # of each pair
KILLS_AFTER = (60, 130, 200, 270)  # operations acknowledged to both
WRECKED_AFTER = 2  # kills
DEADLINE_SECONDS = 60.0  # for whatever is waited for: a bound, no measure
HOST = "127.0.0.1"

# Reads in a process of its own until its stdin is closed; a line for each state or declared error that it met.
WATCHER = """
import json, sys, threading
from journal.errors import JournalError
from recovery import open_reader
stop = threading.Event()
threading.Thread(target=lambda: (sys.stdin.read(), stop.set()), daemon=True).start()
count = "SELECT count(*) FROM "
last = None
with open_reader(sys.argv[1]) as reader:
    while not stop.is_set():
        try:
            with reader.transaction() as db:
                (seq,) = db.execute("SELECT seq FROM journal_position").fetchone()
                rows = [db.execute(count + each).fetchone()[0] for each in ("entities", "observations", "relations")]
            seen = {"seq": seq, "rows": rows}
        except JournalError as error:
            seen = {"error": error.code}
        if seen != last:
            print(json.dumps(seen), flush=True)
            last = seen
        stop.wait(0.005)
"""


class Server:
    """The example in a process of its own."""

    def __init__(self, data: Path) -> None:
        self.data = data
        self.url = ""
        self.http = httpx.Client(timeout=10)
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        with closing(socket.socket()) as probe:
            probe.bind((HOST, 0))
            port = probe.getsockname()[1]
        command = [sys.executable, ROOT / "docs/examples/server.py", "--data", self.data, "--port", str(port)]
        self._process = subprocess.Popen(list(map(str, command)), env=ENVIRONMENT)
        url = f"http://{HOST}:{port}/api/v1"
        wait_until(lambda: self._answers(url), "the server answers")
        self.url = url

    def _answers(self, url: str) -> bool:
        assert self._process is not None
        assert self._process.poll() is None, "the server ended by itself"
        try:
            return self.http.get(f"{url}/health").json()["status"] == "healthy"
        except httpx.TransportError:
            return False

    def end(self, how: signal.Signals) -> None:
        assert self._process is not None
        self._process.send_signal(how)
        self._process.wait(DEADLINE_SECONDS)


class Client(threading.Thread):
    """Sends its operations one after the other, each until it is acknowledged. What it may not be told is an error."""

    def __init__(self, server: Server, operations: list[tuple[str, str, str, Any]], acknowledged: list[str]) -> None:
        super().__init__(daemon=True)
        self.server = server
        self.operations = operations
        self.acknowledged = acknowledged  # shared: one entry an acknowledgement
        self.receipts: dict[str, dict[str, Any]] = {}
        self.cut = 0
        self.failure: str | None = None

    def run(self) -> None:
        try:
            with httpx.Client(timeout=10, verify=False) as http:
                for key, *request in self.operations:
                    self.receipts[key] = self._insist(http, key, *request)
                    self.acknowledged.append(key)
                    if len(self.receipts) % 10 == 0:  # the answer may have been lost on the way: asked again
                        assert self._insist(http, key, *request) == self.receipts[key]
        except BaseException as error:
            self.failure = repr(error)

    def _insist(self, http: httpx.Client, key: str, method: str, path: str, content: Any) -> dict[str, Any]:
        until = time.monotonic() + DEADLINE_SECONDS
        while time.monotonic() < until:
            try:
                body = {"content": content} if isinstance(content, bytes) else {"json": content}
                answer = http.request(method, self.server.url + path, headers={"Idempotency-Key": key}, **body)
            except httpx.TransportError:
                self.cut += 1
                time.sleep(0.1)
                continue
            if answer.status_code != 201:
                raise AssertionError(f"{answer.status_code}: {answer.text}")
            return answer.json()
        raise AssertionError(f"{key} was not acknowledged in {DEADLINE_SECONDS} s")


def operations_of(pair: int) -> Iterator[tuple[str, str, str, Any]]:
    """(key, method, path, body): memories of a few entities, relations between them, versions of one agent."""
    for number in range(OPERATIONS):
        key = f"pair-{pair}-{number}"
        if number % 10 == 7:
            yield key, "PUT", f"/agents/agent-{pair}", b"---\nname: agent-%d\n---\nversion %d\n" % (pair, number)
        elif number % 10 == 9:
            ends = {"from_entity": f"entity {pair} 0", "to_entity": f"entity {pair} 1"}
            yield key, "POST", "/relations", {**ends, "relation_type": f"kind {number}"}
        else:
            entity = f"entity {pair} {number % 3}"
            yield key, "POST", "/memories", {"entity": entity, "observation": f"{key}: {'word ' * (number % 40)}"}


def wait_until(holds: Callable[[], bool], what: str) -> None:
    until = time.monotonic() + DEADLINE_SECONDS
    while not holds():
        assert time.monotonic() < until, f"waited {DEADLINE_SECONDS} s until {what}"
        time.sleep(0.02)


def wreck(data: Path) -> None:
    """Every page of memory.db but the first, its write-ahead log, and an agent file."""
    database = (data / "memory.db").resolve()
    for path, keep in ((database, 4096), (Path(f"{database}-wal"), 32)):
        with path.open("r+b") as file:
            size = file.seek(0, 2)
            assert size > keep
            file.seek(keep)
            file.write(b"\xff" * (size - keep))
    (data / "agents" / "agent-0.md").write_bytes(bytes(100))


def journaled_rows(data: Path) -> list[list[int]]:
    """For each seq the rows of entities, observations and relations, counted from the journal's records alone."""
    kinds = (EntityCreated, ObservationAdded, RelationCreated)
    rows = [[0, 0, 0]]
    for batch in LogReader(RealStorage(), str(data / "journal")).batches():
        for record in batch.records():
            event = record.event
            base = rows[event.to_seq if isinstance(event, StateRestored) else -1]
            rows.append([count + isinstance(event, kind) for count, kind in zip(base, kinds, strict=True)])
    return rows


def contents(data: Path) -> dict[str, list[tuple[int, str]]]:
    """What readers find: (id, text) of every observation, relation and agent."""
    queries = {
        "observations": "SELECT id, content FROM observations ORDER BY id",
        "relations": "SELECT id, relation_type FROM relations ORDER BY id",
        "agents": "SELECT name, content FROM agents ORDER BY name",
    }
    with open_reader(data / "memory.db") as reader, reader.transaction() as db:
        return {table: db.execute(query).fetchall() for table, query in queries.items()}


@pytest.mark.slow
def test_killed_wrecked_and_restarted_while_others_write_and_read(tmp_path: Path):
    data = tmp_path / "data"
    server = Server(data)
    server.start()
    watcher = subprocess.Popen(
        [sys.executable, "-c", WATCHER, str(data / "memory.db")],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=ENVIRONMENT,
    )  # fmt: skip
    acknowledged: list[str] = []
    operations = [list(operations_of(pair)) for pair in range(PAIRS)]
    clients = [Client(server, each, acknowledged) for each in operations for _ in range(2)]
    try:
        for client in clients:
            client.start()
        for kills, threshold in enumerate(KILLS_AFTER, 1):
            wait_until(lambda to=threshold: len(acknowledged) >= 2 * to or any(c.failure for c in clients), "kill")
            time.sleep(random.random() / 50)
            server.end(signal.SIGKILL)
            if kills == WRECKED_AFTER:
                wreck(data)
                assert process(data, "check").returncode == 1
            server.start()
        for client in clients:
            client.join(DEADLINE_SECONDS)
        assert [client.failure for client in clients if client.failure] == []
        assert not any(client.is_alive() for client in clients)
        assert all(client.cut for client in clients)  # each of them met a dead server

        every_acknowledged_write_is_there_once(data, operations, clients)
        server.end(signal.SIGTERM)
        wait_until(lambda: process(data, "check", "--quick").returncode == 0, "the state is healthy")
        restored_to = len(journaled_rows(data)) // 2
        done = process(data, "replay", "--until", str(restored_to), "--in-place", "--yes")
        assert done.returncode == 0, done.stderr
        server.start()
        assert server.http.get(f"{server.url}/agents/agent-0").content == (data / "agents" / "agent-0.md").read_bytes()
        time.sleep(0.1)  # for the watcher, which must have seen the restored state by then
        server.end(signal.SIGTERM)
    finally:
        if server._process is not None:
            server._process.kill()
        seen, complaints = watcher.communicate(timeout=DEADLINE_SECONDS)
    assert watcher.returncode == 0, complaints
    what_was_read_is_what_the_journal_says([json.loads(line) for line in seen.splitlines()], data, restored_to)
    for verb in (("check",), ("verify", "--deep")):
        done = process(data, *verb)
        assert done.returncode == 0, done.stdout


def every_acknowledged_write_is_there_once(
    data: Path, operations: list[list[tuple[str, str, str, Any]]], clients: list[Client]
) -> None:
    found = contents(data)
    observations: dict[int, str] = {}
    relations: dict[int, str] = {}
    for client, twin in zip(clients[::2], clients[1::2], strict=True):
        assert client.receipts == twin.receipts  # the same operation is the same event, whoever sends it
        for key, _, path, content in client.operations:
            seq = client.receipts[key]["seq"]
            if path == "/memories":
                observations[seq] = content["observation"]
            elif path == "/relations":
                relations[seq] = content["relation_type"]
    assert sum(len(each) for each in operations) == sum(len(client.receipts) for client in clients[::2])
    assert dict(found["observations"]) == observations
    assert dict(found["relations"]) == relations
    agents = {path.rsplit("/", 1)[1]: content for each in operations for _, _, path, content in each if "/ag" in path}
    assert dict(found["agents"]) == agents
    assert {path.name: path.read_bytes() for path in (data / "agents").iterdir()} == {
        f"{name}.md": content for name, content in agents.items()
    }
    receipts = "".join(json.dumps(each) + "\n" for client in clients for each in client.receipts.values())
    proven = process(data, "verify", "--receipt", "-", input=receipts)
    assert proven.returncode == 0, proven.stdout


def what_was_read_is_what_the_journal_says(seen: list[dict[str, Any]], data: Path, restored_to: int) -> None:
    """No mixture of two moments, no going back but by the restore, and no error outside of the damage."""
    rows = journaled_rows(data)
    states = [each for each in seen if "seq" in each]
    assert len(states) > 20
    assert [each for each in states if each["rows"] != rows[each["seq"]]] == []
    seqs = [each["seq"] for each in states]
    assert seqs == sorted(seqs)
    shrunk = [b["seq"] for a, b in pairwise(states) if b["rows"] < a["rows"]]
    assert len(shrunk) == 1
    assert rows[shrunk[0]] == rows[restored_to]
    assert {each["error"] for each in seen if "error" in each} <= {"corrupt"}
