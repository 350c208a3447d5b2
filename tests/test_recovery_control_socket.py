"""The control socket itself: who gets in, what it survives, and what a holder that ends or is killed leaves behind."""

from __future__ import annotations

import asyncio
import json
import logging
import os
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import httpx
import pytest

from journal.commit import draft, ticket
from journal.errors import EnvironmentFault, Locked, OutcomeUnknown, from_json
from journal.events import EntityCreated, ObservationAdded
from recovery import open_server, open_server_sync
from recovery.control.remote import connect_to
from recovery.control.writer import commit_events, open_writer
from recovery.data import Data
from recovery.opening import open_core
from replay.encoder import MissingExtra
from tests.commands import ENVIRONMENT, SMALL, arguments, process, small_history
from tests.holders import FACES, SOCKET, observation, running, server


def test_a_path_longer_than_an_address_has_a_socket_too(tmp_path: Path) -> None:
    if not Path("/proc/self/fd").is_dir():
        pytest.skip("an address of a unix socket holds the path, and this system has no /proc to shorten it")
    place = tmp_path / ("x" * 100)
    place.mkdir()
    small_history(place / "data")
    with server(place / "data"):
        assert len(str(place / "data" / SOCKET)) > 107
        assert process(place / "data", "tag", "here").returncode == 0
    assert not (place / "data" / SOCKET).exists()


def test_where_no_socket_can_be_made_the_server_runs_and_a_verb_names_its_holder(data: Path) -> None:
    (data / SOCKET).mkdir()
    with server(data) as holder:
        done = process(data, "tag", "here")
        assert done.returncode == 11
        assert str(holder.pid) in done.stderr
    assert (data / SOCKET).is_dir()


def test_the_socket_is_its_owners(data: Path) -> None:
    with server(data):
        assert (data / SOCKET).stat().st_mode & 0o777 == 0o600


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become somebody else")
def test_another_user_is_hung_up_on_even_where_the_mode_lets_him_in() -> None:
    """Peer credentials, not the mode alone: a careless chmod must not give the journal away."""
    ask = (
        "import os, socket, sys\n"
        "os.setgid(65534); os.setuid(int(sys.argv[2]))\n"
        "sock = socket.socket(socket.AF_UNIX); sock.connect(sys.argv[1])\n"
        "try:\n"
        "    sock.sendall(b'GET /v1/health HTTP/1.1\\r\\nHost: j\\r\\n\\r\\n'); print(sock.recv(12))\n"
        "except ConnectionError: print(b'')\n"
    )
    with tempfile.TemporaryDirectory(prefix="journal-control-") as place:  # pytest's own lets no other user in
        data = Path(place) / "data"
        small_history(data)
        with server(data):
            for directory in (Path(place), data, data / "journal"):
                directory.chmod(0o755)
            (data / SOCKET).chmod(0o666)
            said = []
            for uid in ("65534", "0"):
                command = [sys.executable, "-c", ask, str(data / SOCKET), uid]
                said.append(subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True).stdout.strip())
    assert said == ["b''", "b'HTTP/1.1 200'"]


def test_an_answer_that_does_not_come_leaves_the_outcome_unknown_under_an_op_id(data: Path) -> None:
    """The holder died after it took the request: whoever asked knows the key to ask again with."""
    listener = socket.socket(socket.AF_UNIX)
    place = Data.at(data)
    with listener:
        listener.bind(str(data / SOCKET))
        listener.listen()

        def hang_up() -> None:
            for _ in range(2):
                taken, _ = listener.accept()
                taken.recv(1 << 16)
                taken.close()

        threading.Thread(target=hang_up, daemon=True).start()
        locked = Locked("another writer holds this journal: process 1")
        with connect_to(place, locked) as writer, pytest.raises(OutcomeUnknown) as caught:
            commit_events(writer, [EntityCreated("global", "Zoë", "person")])
        with connect_to(place, locked) as writer, pytest.raises(EnvironmentFault, match=r"process 1 went away.*run it"):
            writer.checkpoint()
    assert caught.value.op_id
    (data / SOCKET).unlink()


def test_an_error_of_another_process_is_raised_as_its_own_class() -> None:
    unknown = OutcomeUnknown("hm", op_id="x", seq=3, hint="h")
    told = from_json(unknown.to_json())
    assert isinstance(told, OutcomeUnknown)
    assert (told.op_id, told.seq, told.hint, told.exit_code) == ("x", 3, "h", unknown.exit_code)
    odd = from_json({"code": "of_the_future", "message": "m"})
    assert isinstance(odd, EnvironmentFault)
    assert odd.code == "of_the_future"
    missing = from_json({**MissingExtra().to_json(), "path": "there"})
    assert isinstance(missing, MissingExtra)
    assert (missing.message, missing.path) == (MissingExtra().message, "there")


def test_a_long_feed_lets_others_write_meanwhile(data: Path) -> None:
    """`journal append` holds the lock as long as its stdin is open, and listens."""
    with subprocess.Popen(
        arguments(data, "append"), stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=ENVIRONMENT
    ) as feed:
        assert feed.stdin is not None
        assert feed.stdout is not None
        feed.stdin.write(observation("one"))
        feed.stdin.flush()
        feed.stdout.readline()
        assert process(data, "tag", "here").returncode == 0
        feed.stdin.write(observation("two"))
        feed.stdin.close()
        assert json.loads(feed.stdout.readline())["seq"] == SMALL + 3
    assert feed.returncode == 0


def test_no_socket_is_left_behind_a_hook_that_closes(data: Path) -> None:
    with open_server_sync(data, background=False):
        assert (data / SOCKET).is_socket()
    assert not (data / SOCKET).exists()
    assert process(data, "verify", "--json").returncode == 0


def test_a_feed_that_is_silent_for_a_while_goes_on(data: Path) -> None:
    """HTTP servers hang up after some seconds of silence: the feed's next line would have an unknown outcome."""
    with (
        server(data),
        subprocess.Popen(
            arguments(data, "append"), stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=ENVIRONMENT
        ) as feed,
    ):
        assert feed.stdin is not None
        assert feed.stdout is not None
        feed.stdin.write(observation("one"))
        feed.stdin.flush()
        assert json.loads(feed.stdout.readline())["seq"] == SMALL + 1
        time.sleep(6.5)  # uvicorn's own patience is 5 s
        feed.stdin.write(observation("two"))
        feed.stdin.close()
        assert json.loads(feed.stdout.readline())["seq"] == SMALL + 2
    assert feed.returncode == 0


def test_a_server_with_more_files_than_select_can_count_listens(data: Path) -> None:
    program = (
        "import os, resource, sys\n"
        "resource.setrlimit(resource.RLIMIT_NOFILE, (2048, resource.getrlimit(resource.RLIMIT_NOFILE)[1]))\n"
        "files = [os.open(os.devnull, os.O_RDONLY) for _ in range(1100)]\n" + FACES["threads"]
    )
    with running(program, data):
        assert process(data, "tag", "here", timeout=60).returncode == 0


def test_a_child_of_the_server_that_ends_takes_nothing_with_it(data: Path) -> None:
    """A program that forks inside the block: its child unwinds it, too."""
    program = (
        "import os, sys\n"
        "from recovery import open_server, open_server_sync\n"
        "with open_server_sync(sys.argv[1], background=False):\n"
        "    child = os.fork()\n"
        "    if child == 0:\n"
        "        sys.exit(0)\n"
        "    os.waitpid(child, 0)\n"
        "    print('ready', flush=True)\n"
        "    sys.stdin.read()\n"
    )
    with running(program, data):
        assert (data / SOCKET).is_socket()
        for name in ("one", "two"):
            assert process(data, "tag", name, timeout=60).returncode == 0


def test_a_child_that_outlives_a_killed_server_locks_nobody_out(data: Path) -> None:
    """A pool's worker, forked, waits for work for ever. Who was asking the server when it was killed is told, too."""
    program = (
        "import os, sys, time\n"
        "from recovery import open_server_sync\n"
        "with open_server_sync(sys.argv[1], background=False) as hook, hook.core.lock:\n"
        "    print('ready', flush=True)\n"
        "    while not len(hook.core.committer):\n"  # a request that is under way when it is killed
        "        time.sleep(0.01)\n"
        "    if child := os.fork():\n"
        "        print(child, flush=True)\n"
        "    time.sleep(600)\n"
    )
    outcome: list[subprocess.CompletedProcess[str]] = []
    asking = threading.Thread(target=lambda: outcome.append(process(data, "tag", "asked", timeout=60)))
    with running(program, data) as holder:
        assert holder.stdout is not None
        asking.start()
        child = int(holder.stdout.readline())
        try:
            holder.kill()
            holder.wait()
            asking.join()
            assert outcome, "it waits for the child"
            assert "went away" in outcome[0].stderr
            assert process(data, "tag", "here").returncode == 0
        finally:
            os.kill(child, signal.SIGKILL)


def test_a_server_around_it_keeps_its_own_access_log(data: Path) -> None:
    """The server is itself one of uvicorn's, as many are: the control socket must not touch its loggers."""
    log = logging.getLogger("uvicorn.access")
    kept, log.handlers = log.handlers, [logging.NullHandler()]
    try:
        with open_server_sync(data, background=False):
            assert process(data, "tag", "here").returncode == 0
            assert log.propagate
            assert len(log.handlers) == 1
    finally:
        log.handlers = kept


def test_health_is_told_while_every_thread_waits_for_the_writer(data: Path) -> None:
    """A long rebuild, and more callers than there are threads: a supervisor must not take that for a hang."""
    transport = httpx.HTTPTransport(uds=str(data / SOCKET), limits=httpx.Limits(max_connections=None))
    with (
        open_server_sync(data, background=False) as hook,
        httpx.Client(transport=transport, base_url="http://journal", timeout=60) as client,
    ):
        asked = [
            threading.Thread(target=client.post, args=("/v1/append",), kwargs={"content": observation(f"at {number}")})
            for number in range(60)
        ]
        with hook.core.lock:
            for each in asked:
                each.start()
            while len(hook.core.committer) < 40:
                time.sleep(0.01)
            assert client.get("/v1/health").json()["status"] == "healthy"
        for each in asked:
            each.join()
        assert client.get("/v1/health").json()["last_seq"] == SMALL + 60


def test_who_lost_the_lock_leaves_its_successors_socket_alone(data: Path) -> None:
    """Somebody put the lock file away: the next opener is a holder, and the first one closes later."""
    with ExitStack() as first:
        first.enter_context(open_server_sync(data, background=False))
        (data / "journal" / "lock").rename(data / "journal" / "lock.old")
        with open_server_sync(data, background=False):
            first.close()
            assert (data / SOCKET).is_socket()
            assert process(data, "tag", "here").returncode == 0


def test_an_operator_recovers_an_agent_of_an_async_server_by_its_own_reload(data: Path) -> None:
    program = (
        "import sys, anyio\n"
        "from recovery import open_server\n"
        "async def main():\n"
        "    async with open_server(sys.argv[1], background=False) as hook:\n"
        "        async def load(name, content):\n"
        "            await anyio.sleep(0)\n"
        "            print('loaded', name, flush=True)\n"
        "        hook.agents.on_reload(load)\n"
        "        print('ready', flush=True)\n"
        "        await anyio.to_thread.run_sync(sys.stdin.read)\n"
        "anyio.run(main)\n"
    )
    with running(program, data) as holder:
        failed = process(data, "recover", "agents", "--agent", "writer", "--failure", "unknown", "--yes", "--json")
        assert failed.returncode == 0, failed
        assert holder.stdout is not None
        assert holder.stdout.readline() == "loaded writer\n"


def test_an_open_that_asyncio_gave_up_locks_nobody_out(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A timeout around a long rebuild: what is opened then is closed again, and the next try has the lock."""
    going, go, done = threading.Event(), threading.Event(), threading.Event()

    def slowly(*args: Any, **settings: Any) -> Any:
        going.set()
        go.wait()
        try:
            return open_core(*args, **settings)
        finally:
            done.set()

    async def main() -> int:
        monkeypatch.setattr("recovery.server.open_core", slowly)
        opening = asyncio.create_task(open_server(data, background=False).__aenter__())
        await asyncio.to_thread(going.wait)
        opening.cancel()
        with pytest.raises(asyncio.CancelledError):
            await opening
        go.set()
        await asyncio.to_thread(done.wait)
        monkeypatch.undo()
        while True:
            try:
                async with open_server(data, background=False) as hook:
                    return (await hook.append(ObservationAdded("global", "Acme", "hi"))).seq
            except Locked:
                await asyncio.sleep(0.01)

    async def bounded() -> int:
        return await asyncio.wait_for(main(), 60)

    assert asyncio.run(bounded()) == SMALL + 1


def test_more_than_one_request_holds_is_sent_in_several(data: Path) -> None:
    """An import's batch of long texts: as JSON with escapes it is beyond what a request may have."""
    requests = [
        ticket([draft(ObservationAdded("global", "Acme", f"{number}" + "\x01" * 200_000), None, None, None)], None)
        for number in range(120)
    ]
    with server(data), open_writer(Data.at(data)) as writer:
        writer.settle(requests)
    assert [request.result()[0].seq for request in requests] == list(range(SMALL + 1, SMALL + 121))
