"""`journal serve`: another language's server writes over HTTP, an operator beside it, a service manager above it."""

from __future__ import annotations

import json
import os
import re
import resource
import shutil
import signal
import socket
import sqlite3
import struct
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, closing
from pathlib import Path
from threading import Event, Thread

import httpx
import pytest

from journal.events import EntityCreated
from journal.segment import SegmentWriter
from recovery import open_server_sync
from recovery.cli.serve import is_alive
from tests.commands import ENVIRONMENT, SMALL, arguments, process
from tests.holders import serving

JSON_LINES = "application/x-ndjson"
ADDED = {"type": "memory.observation_added", "scope": "global", "entity": "Acme", "content": "over HTTP"}


@pytest.fixture
def client(data: Path) -> Iterator[httpx.Client]:
    """A client over TCP that shows the token."""
    with serving(data, "--http", "127.0.0.1:0") as (_, line):
        token = (data / "journal" / "token").read_text().strip()
        found = re.search(r"http://127\.0\.0\.1:\d+", line)
        assert found is not None
        headers = {"authorization": f"Bearer {token}"}
        with httpx.Client(base_url=found[0], headers=headers, timeout=60) as client:
            yield client


def by_socket(data: Path) -> httpx.Client:
    transport = httpx.HTTPTransport(uds=str(data / "journal" / "control.sock"))
    return httpx.Client(transport=transport, base_url="http://journal", timeout=60)


def test_what_is_acknowledged_is_in_memory_db(client: httpx.Client, data: Path) -> None:
    one = client.post("/v1/append", json={"event": ADDED, "agent": "sales", "op_id": "crm-2"})
    assert one.status_code == 201, one.text
    (receipt,) = one.json()["receipts"]
    assert receipt["seq"] == SMALL + 1
    again = client.post("/v1/append", json={"event": ADDED, "agent": "sales", "op_id": "crm-2"})
    assert again.json()["receipts"] == [receipt]
    with closing(sqlite3.connect(f"file:{data}/memory.db?mode=ro", uri=True)) as connection:
        assert connection.execute("SELECT agent FROM observations WHERE content = 'over HTTP'").fetchall() == [
            ("sales",)
        ]
    proof = data / "receipt.json"
    proof.write_text(json.dumps(receipt))
    assert process(data, "verify", "--receipt", str(proof)).returncode == 0


def test_a_group_is_taken_whole_or_not_at_all(client: httpx.Client) -> None:
    entity = {"type": "memory.entity_created", "scope": "global", "name": "Zoë", "entity_type": "person"}
    dangling = {**ADDED, "entity": "Nobody"}
    refused = client.post("/v1/append", json={"events": [entity, dangling]})
    assert (refused.status_code, refused.json()["error"]["code"]) == (404, "not_found")
    taken = client.post("/v1/append", json={"events": [entity, {**ADDED, "entity": "Zoë"}]})
    assert [each["seq"] for each in taken.json()["receipts"]] == [SMALL + 1, SMALL + 2]


def test_a_write_that_was_decided_on_an_older_state_is_refused(client: httpx.Client) -> None:
    """Read, decide, write: somebody wrote in between. The second try, after reading again, is taken."""
    stale = {"event": ADDED, "after_seq": SMALL - 1}
    refused = client.post("/v1/append", json=stale)
    assert (refused.status_code, refused.json()["error"]["code"]) == (409, "moved_on")
    taken = client.post("/v1/append", json={**stale, "after_seq": SMALL, "op_id": "mine"})
    assert taken.status_code == 201
    again = client.post("/v1/append", json={**stale, "after_seq": SMALL, "op_id": "mine"})
    assert again.json() == taken.json(), "a retry is answered, though the journal has gone on"


def test_lines_are_answered_in_their_order(client: httpx.Client) -> None:
    lines = [json.dumps({"event": {**ADDED, "content": f"line {number}"}}) for number in range(3)]
    lines.insert(1, "no JSON")
    answer = client.post("/v1/append", content="\n".join(lines), headers={"content-type": JSON_LINES})
    told = [json.loads(line) for line in answer.text.splitlines()]
    taken = [[receipt["seq"] for receipt in each.get("receipts", ())] for each in told]
    assert taken == [[SMALL + 1], [], [SMALL + 2], [SMALL + 3]]
    assert told[1]["error"]["line"] == 2


@pytest.mark.parametrize(
    ("event", "status", "code"),
    [
        ({**ADDED, "entity": "Nobody"}, 404, "not_found"),
        (
            {"type": "memory.entity_created", "scope": "global", "name": "Acme", "entity_type": "x"},
            409,
            "already_exists",
        ),
        ({"type": "memory.no_such"}, 422, "unknown_type"),
        ({**ADDED, "content": "x" * (256 * 1024 + 1)}, 413, "too_large"),
        (
            {"type": "epoch.started", "epoch": 9, "previous_epoch": 8, "carried": 0, "torn_bytes": 0},
            422,
            "reserved_type",
        ),
    ],
)
def test_what_is_refused_says_why(client: httpx.Client, event: dict[str, object], status: int, code: str) -> None:
    answer = client.post("/v1/append", json={"event": event})
    assert (answer.status_code, answer.json()["error"]["code"]) == (status, code)
    assert client.get("/v1/health").json()["last_seq"] == SMALL


def test_over_tcp_nobody_gets_in_without_the_token_or_writes_the_journals_own_events(client: httpx.Client) -> None:
    for given in ({}, {"authorization": "Bearer wrong"}, {"authorization": "Basic " + "x" * 43}):
        with httpx.Client(base_url=client.base_url, headers=given) as stranger:
            for method, path in (
                ("GET", "/v1/log"),
                ("GET", "/v1/health"),
                ("POST", "/v1/append"),
                ("GET", "/nowhere"),
            ):
                assert stranger.request(method, path).status_code == 401
    own = {"events": [{"type": "tag.created", "name": "mine", "seq": 1}]}
    assert client.post("/v1/operator/append", json=own).status_code == 404


def test_who_hangs_up_before_he_is_looked_at_is_no_operator(client: httpx.Client, data: Path) -> None:
    """A connection that was reset has no peer any more, but what it sent is read. It came over TCP, without a token."""
    holder = json.loads(process(data, "status", "--json").stdout)["journal"]["writer"]["pid"]
    body = json.dumps({"event": {**ADDED, "content": "forged"}}).encode()
    head = f"POST /v1/append HTTP/1.1\r\nHost: x\r\nContent-Length: {len(body)}\r\n\r\n"
    os.kill(holder, signal.SIGSTOP)  # so that it accepts what was reset already
    try:
        for _ in range(3):
            sock = socket.create_connection((client.base_url.host, client.base_url.port or 0))
            sock.sendall(head.encode() + body)
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            sock.close()
    finally:
        os.kill(holder, signal.SIGCONT)
    for _ in range(3):  # accepted after those
        client.get("/v1/health")
    taken = client.post("/v1/append", json={"event": ADDED}).json()["receipts"][0]
    assert taken["seq"] == SMALL + 1


def test_a_crowd_at_the_tcp_port_leaves_descriptors_to_the_journal(data: Path) -> None:
    """More connections than the process may have files, none of which says a word or has a token."""

    def few_files() -> None:
        resource.setrlimit(resource.RLIMIT_NOFILE, (500, 500))

    with serving(data, "--http", "127.0.0.1:0", preexec_fn=few_files) as (_, line), ExitStack() as crowd:
        port = int(line.split("http://127.0.0.1:")[1].split("/")[0].split(",")[0])
        for _ in range(700):
            crowd.enter_context(socket.create_connection(("127.0.0.1", port)))
        assert process(data, "tag", "here").returncode == 0
        assert process(data, "checkpoint", "create").returncode == 0


def test_a_body_without_end_is_refused_before_it_is_kept(client: httpx.Client) -> None:
    def endless() -> Iterator[bytes]:
        for _ in range(200):
            yield b" " * (1 << 20)

    try:
        answer = client.post("/v1/append", content=endless(), headers={"content-type": "application/json"})
    except httpx.WriteError:
        return  # it hung up in the middle of it, which is an answer too
    assert answer.status_code == 413


def test_log_health_status_checkpoint_replay_and_recover(client: httpx.Client, data: Path) -> None:
    told = client.get("/v1/health").json()
    assert (told["status"], told["last_seq"], told["position"], told["agents"]) == ("healthy", SMALL, SMALL, 1)
    assert {each["state"] for each in told["components"].values()} == {"healthy"}
    found = client.get("/v1/log", params={"agent": ["sales", "ops"], "n": 2}).json()["records"]
    assert [each["seq"] for each in found] == [7, 9]
    lines = client.get("/v1/log", headers={"accept": JSON_LINES}).text.splitlines()
    assert lines == process(data, "log", "--json").stdout.splitlines()
    assert client.get("/v1/status").json()["memory"]["rows"]["entities"] == 2
    assert client.post("/v1/checkpoint").json()["drift"] is False
    would = client.post("/v1/replay", json={"until": "2", "dry_run": True}).json()
    assert would["seq"] == 2
    last = client.get("/v1/health").json()["last_seq"]
    restored = client.post("/v1/replay", json={"until": "2", "reason": "test"}).json()
    assert (restored["to_seq"], restored["seq"]) == (2, last + 2)  # a checkpoint comes first
    assert client.post("/v1/replay", json={"until": "yesterday"}).status_code == 422
    with closing(sqlite3.connect(data / "memory.db")) as vandal, vandal:
        vandal.execute("DELETE FROM observations")
    plan = client.post("/v1/recover", json={"dry_run": True}).json()["plan"]
    assert [step["kind"] for step in plan["steps"]] == ["rebuild_memory"]
    assert client.post("/v1/recover").json()["rebuilt"] is True
    assert process(data, "check").returncode == 0


def test_progress_comes_while_it_runs_and_the_result_last(client: httpx.Client) -> None:
    with client.stream("POST", "/v1/checkpoint", headers={"accept": JSON_LINES}) as answer:
        told = [json.loads(line) for line in answer.iter_lines()]
    assert all("progress" in each for each in told[:-1])
    assert told[-1]["result"]["digest"]


def test_what_it_says_of_itself_is_what_it_does(client: httpx.Client, data: Path, tmp_path: Path) -> None:
    """schemathesis sends what the description allows and what it does not, and holds each answer against it."""
    command = [
        sys.executable, "-m", "schemathesis.cli", "--config-file", str(Path(__file__).with_name("schemathesis.toml")),
        "run", f"{client.base_url}/openapi.json", "--max-examples", "12", "--phases", "fuzzing",
        "--header", f"Authorization: {client.headers['authorization']}", "--seed", "7", "--no-color",
        "--exclude-path", "/v1/checkpoint", "--request-timeout", "60",
    ]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, env=ENVIRONMENT, cwd=tmp_path, check=False)
    assert done.returncode == 0, done.stdout[-6000:]
    assert process(data, "check").returncode == 0


# -- starting and stopping --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_closes_it_cleanly(data: Path, number: int) -> None:
    with serving(data) as (holder, _):
        with by_socket(data) as client:
            assert client.post("/v1/append", json={"event": ADDED}).status_code == 201
        holder.send_signal(number)
        assert holder.wait(60) == 0
    assert json.loads(process(data, "status", "--json").stdout)["journal"]["closed"] is True


def test_a_second_one_names_the_first(data: Path) -> None:
    with serving(data) as (holder, _):
        done = process(data, "serve")
        assert done.returncode == 11
        assert str(holder.pid) in done.stderr


@pytest.mark.parametrize("address", ["0.0.0.0:1", "example.org:1", "127.0.0.1:x", "127.0.0.1:99999", "::1"])
def test_an_address_that_is_not_loopback_or_none_at_all(data: Path, address: str) -> None:
    done = process(data, "serve", "--http", address)
    assert done.returncode == 2, done
    assert "Traceback" not in done.stderr


def test_a_token_file_that_holds_none(data: Path, tmp_path: Path) -> None:
    missing = process(data, "serve", "--http", "127.0.0.1:0", "--token-file", str(tmp_path / "none"))
    assert missing.returncode == 2
    (tmp_path / "short").write_text("short\n")
    assert process(data, "serve", "--http", "127.0.0.1:0", "--token-file", str(tmp_path / "short")).returncode == 2


def test_no_token_is_left_where_no_journal_is(tmp_path: Path) -> None:
    done = process(tmp_path, "serve", "--http", "127.0.0.1:0")
    assert (done.returncode, list(tmp_path.iterdir())) == (10, [])


def test_a_token_may_be_a_link_as_mounted_secrets_are(data: Path, tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("a-token-of-this-test\n")
    (tmp_path / "token").symlink_to("secret")
    with serving(data, "--http", "127.0.0.1:0", "--token-file", str(tmp_path / "token")) as (_, line):
        address = line.split("http://")[1].split(",")[0].strip()
        headers = {"authorization": "Bearer a-token-of-this-test"}
        assert httpx.get(f"http://{address}/v1/health", headers=headers, timeout=60).status_code == 200
    assert not (data / "journal" / "token").exists()


@pytest.mark.parametrize(("number", "status"), [(signal.SIGTERM, -signal.SIGTERM), (signal.SIGINT, 130)])
def test_a_signal_ends_it_while_it_still_opens(data: Path, number: int, status: int) -> None:
    """A rebuild may take minutes. What was done by then is taken up by the next open."""
    slow = (
        "import sys, time, recovery.opening as opening\n"
        "def forever(*_, **__):\n"
        "    print('opening', flush=True)\n"
        "    time.sleep(600)\n"
        "opening.open_log = forever\n"
        "from recovery.cli.app import run\n"
        "sys.exit(run(sys.argv[1:]))\n"
    )
    command = [sys.executable, "-c", slow, "serve", "--data", str(data)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=ENVIRONMENT) as one:
        assert one.stdout is not None
        assert one.stdout.readline() == "opening\n"
        one.send_signal(number)
        try:
            assert one.wait(60) == status
        finally:
            one.kill()


def test_damage_is_told_in_the_answer_and_at_the_end_of_lines(data: Path) -> None:
    """memory.db is no database any more, and a record in the middle of the journal has rotted."""
    journal = data / "journal" / "segments"
    with serving(data), by_socket(data) as client:
        for number in range(3):
            event = {**ADDED, "content": f"fact {number}"}
            assert client.post("/v1/append", json={"event": event}).status_code == 201
        newest = max(journal.iterdir())
        content = bytearray(newest.read_bytes())
        content[content.index(b"fact 1")] ^= 1
        with newest.open("r+b") as file:
            file.write(content)
        lines = client.get("/v1/log", headers={"accept": JSON_LINES})
        with (data / "memory.db").open("r+b") as file:
            file.write(b"\xff" * (data / "memory.db").stat().st_size)
        pending = client.get("/v1/messages", params={"consumer": "mailer"})
        acked = client.post("/v1/messages/ack", json={"consumer": "mailer", "message_id": "m"})
    assert json.loads(lines.text.splitlines()[-1])["error"]["code"] == "corrupt"
    for answer in (pending, acked):
        assert (answer.status_code, answer.json()["error"]["code"]) == (503, "corrupt"), answer.text


def test_the_token_is_its_owners(client: httpx.Client, data: Path) -> None:
    assert (data / "journal" / "token").stat().st_mode & 0o777 == 0o600
    assert client.get("/v1/health").status_code == 200


def test_a_log_that_takes_nothing_more_ends_it_for_its_supervisor_to_start_anew(data: Path) -> None:
    with serving(data) as (holder, _):
        lock = data / "journal" / "lock"
        lock.rename(data / "journal" / "lock.old")  # somebody stole the lock file
        with by_socket(data) as client:
            answer = client.post("/v1/append", json={"event": ADDED})
            assert (answer.status_code, answer.json()["error"]["code"]) == (503, "poisoned")
        assert holder.wait(60) == 1
        assert "stopping" in (holder.stderr.read() if holder.stderr else "")


def test_a_service_manager_is_told_and_fed(data: Path, tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        place = tmp_path / "notify"
        manager.bind(str(place))
        manager.settimeout(60)
        environment = {**ENVIRONMENT, "NOTIFY_SOCKET": str(place), "WATCHDOG_USEC": "200000"}
        with serving(data, env=environment) as (holder, _):
            told = set()
            while not {"READY=1", "WATCHDOG=1"} <= told:
                told |= set(manager.recv(4096).decode().split("\n"))
            holder.terminate()
            while "STOPPING=1" not in told:
                told |= set(manager.recv(4096).decode().split("\n"))
            assert holder.wait(60) == 0


def test_a_disk_that_hangs_is_told_to_the_service_manager(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The sync of a batch does not return: who waits for its receipt waits, and nothing else would tell."""
    hangs, goes_on, sync = Event(), Event(), SegmentWriter.sync

    def hanging(segment: SegmentWriter, length: int) -> None:
        hangs.set()
        assert goes_on.wait(60)
        sync(segment, length)

    with open_server_sync(data, background=False) as hook:
        monkeypatch.setattr(SegmentWriter, "sync", hanging)
        writer = Thread(target=hook.append, args=(EntityCreated("global", "Initech", "company"),))
        assert is_alive(hook.core, 1e-9)
        writer.start()
        assert hangs.wait(60)
        assert not is_alive(hook.core, 1e-9)
        assert is_alive(hook.core, 0), "nobody asked"
        assert is_alive(hook.core, 3600), "slow is not hanging"
        goes_on.set()
        writer.join(60)
        assert is_alive(hook.core, 1e-9)


def test_a_socket_that_was_activated_is_taken(data: Path) -> None:
    """The manager listens first; the request that started it waits in the socket and is answered."""
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        listening.listen()
        port = listening.getsockname()[1]
        start = (
            "import os, sys; os.dup2(int(sys.argv[1]), 3); os.environ['LISTEN_PID'] = str(os.getpid());"
            "os.environ['LISTEN_FDS'] = '1'; os.execv(sys.argv[2], sys.argv[2:])"
        )
        command = [sys.executable, "-c", start, str(listening.fileno()), *arguments(data, "serve")]
        with subprocess.Popen(
            command, pass_fds=[listening.fileno()], stderr=subprocess.PIPE, text=True, env=ENVIRONMENT
        ) as holder:
            token_file = data / "journal" / "token"
            until = time.monotonic() + 60
            while not token_file.exists():
                assert time.monotonic() < until
                assert holder.poll() is None
                time.sleep(0.02)
            headers = {"authorization": f"Bearer {token_file.read_text().strip()}"}
            answer = httpx.get(f"http://127.0.0.1:{port}/v1/health", headers=headers, timeout=60)
            holder.terminate()
            holder.communicate(timeout=60)
    assert answer.json()["status"] == "healthy"


def test_under_systemds_own_activation(data: Path) -> None:
    activate = shutil.which("systemd-socket-activate")
    if activate is None:
        pytest.skip("systemd-socket-activate is not on this machine: socket activation was tried by hand-made fds only")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    (data / "journal" / "token").write_text("a-token-of-this-test\n")
    passed = [f"--setenv={key}={value}" for key, value in ENVIRONMENT.items() if key in ("PYTHONPATH", "PATH", "HOME")]
    command = [activate, f"--listen=127.0.0.1:{port}", *passed, *arguments(data, "serve")]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=ENVIRONMENT) as holder:
        until = time.monotonic() + 60
        while True:
            try:
                headers = {"authorization": "Bearer a-token-of-this-test"}
                answer = httpx.get(f"http://127.0.0.1:{port}/v1/health", headers=headers, timeout=60)
                break
            except httpx.ConnectError:
                assert time.monotonic() < until
                time.sleep(0.05)
        os.kill(holder.pid, signal.SIGTERM)
        holder.communicate(timeout=60)
    assert answer.json()["status"] == "healthy", answer.text
