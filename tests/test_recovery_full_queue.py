"""The journal's disk fills under a server that is configured to let writes wait: `degraded.disk: queue`.

Reading goes on; nothing that waits is acknowledged; what is critical gets the room first; memory is bounded.
"""

from __future__ import annotations

import os
import threading
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from pathlib import Path

import anyio
import pytest

from journal.commit import Receipt, draft, ticket
from journal.errors import NoSpace
from journal.events import EntityCreated, ObservationAdded
from journal.reader import LogReader
from journal.storage import RealStorage
from journal.waiting import WaitingRoom
from recovery import open_reader, open_server, open_server_sync
from recovery.setup import initialise
from tests import loopdisk
from tests.test_replay_hook import live_digest, reference

needs_tmpfs = pytest.mark.skipif(loopdisk.missing("tmpfs") is not None, reason=str(loopdisk.missing("tmpfs")))
CONFIG = """
disk: {reserve_bytes: 1048576}
segment_bytes_max: 65536
checkpoint: {agents: {ledger: critical, "test-*": stateless}}
degraded: {disk: queue, queue_bytes: 262144}
"""


@contextmanager
def full_disk(tmp_path):
    """A data directory on a disk of its own that is full after a few writes, and the file that fills it."""
    with loopdisk.tmpfs(tmp_path, "size=16m") as disk:
        data = disk / "data"
        data.mkdir()
        (data / "journal.yaml").write_text(CONFIG)
        initialise(str(data))
        yield data, disk / "ballast"


def fill(ballast: Path) -> None:
    """Less is left than the reserve: the journal refuses, and memory.db still has room for what was taken."""
    status = os.statvfs(ballast.parent)
    ballast.write_bytes(bytes(status.f_bavail * status.f_frsize - (900 << 10)))


def fact(text: str) -> ObservationAdded:
    return ObservationAdded("global", "Acme", text)


def last_seq(data: Path) -> int:
    return LogReader(RealStorage(), str(data / "journal")).last_seq


def wait_for(condition, what: str) -> None:
    until = threading.Event()
    for _ in range(200):
        if condition():
            return
        until.wait(0.05)
    raise AssertionError(f"never: {what}")


@needs_tmpfs
def test_what_waits_is_not_acknowledged_and_the_critical_ones_get_the_room_first(tmp_path):
    with full_disk(tmp_path) as (data, ballast), open_server_sync(data, background=False) as hook:
        hook.append(EntityCreated("global", "Acme", "company"))
        fill(ballast)
        with ThreadPoolExecutor(40) as pool, ExitStack() as room:
            room.callback(ballast.unlink, missing_ok=True)  # else a failure here would wait for ever for those who wait
            waiting: list[Future[Receipt]] = []
            number = 0
            while hook.core.committer.waiting < 3:  # the open segment has some room left
                number += 1
                waiting.append(pool.submit(hook.append, fact(f"{number} " + "x" * 20_000), op_id=f"op-{number}"))
                # One at a time: a batch of some that waits may find room once they are drawn one by one.
                wait_for(lambda: all(f.done() for f in waiting) or hook.core.committer.waiting, "an outcome")
            later = [pool.submit(hook.append, fact(f"{who} waits " + "x" * 20_000), agent=who, op_id=who)
                     for who in ("test-1", "sales", "ledger")]  # fmt: skip
            wait_for(lambda: hook.core.committer.waiting >= 6, "they wait")
            written = last_seq(data)
            assert not any(each.done() for each in later)
            health = hook.health()
            assert (health.status, health.components["journal"].case) == ("degraded", "waiting")
            with open_reader(data / "memory.db") as reader, reader.transaction() as db:
                assert db.execute("SELECT count(*) FROM entities").fetchone()[0] == 1
            twin = pool.submit(hook.append, fact("ledger waits " + "x" * 20_000), agent="ledger", op_id="ledger")
            ballast.unlink()
            seqs = {who: each.result(30).seq for who, each in zip(("test-1", "sales", "ledger"), later, strict=True)}
            assert seqs["ledger"] == written + 1
            assert seqs["ledger"] < seqs["sales"] < seqs["test-1"]
            assert twin.result(30).seq == seqs["ledger"], "a retry while the first one waits is the same write"
            assert sorted(each.result(30).seq for each in waiting) == sorted({each.result().seq for each in waiting})
        assert hook.health().status == "healthy"
        assert live_digest(data) == reference(data).digest()


@needs_tmpfs
def test_closing_while_the_disk_is_full_refuses_what_waits(tmp_path):
    """Nothing hangs, and nobody is told that what was never written is durable."""
    with full_disk(tmp_path) as (data, ballast):
        outcomes: list[object] = []

        async def serve() -> None:
            async with anyio.create_task_group() as tasks, open_server(data, background=False) as hook:
                await hook.append(EntityCreated("global", "Acme", "company"))
                fill(ballast)

                async def write(number: int) -> None:
                    try:
                        outcomes.append(await hook.append(fact(f"{number} " + "x" * 20_000)))
                    except NoSpace as error:
                        outcomes.append(error)

                for number in range(10):
                    tasks.start_soon(write, number)
                with anyio.fail_after(60):
                    while not hook.core.committer.waiting:
                        await anyio.sleep(0.05)

        anyio.run(serve)
        assert len(outcomes) == 10
        assert any(isinstance(each, NoSpace) for each in outcomes)
        assert last_seq(data) >= 1 + sum(isinstance(each, Receipt) for each in outcomes)


def test_beyond_its_bound_the_newest_of_the_least_critical_go():
    levels = {"ledger": 0, None: 1, "test": 2}

    def request(agent: str | None, size: int):
        return ticket([draft(fact("x" * size), agent, None, None)], None)

    room = WaitingRoom(1000, lambda agent: levels[agent])
    first, second = request("test", 300), request("test", 300)
    assert room.admit([first, second]) == []
    normal = request(None, 400)
    assert room.admit([normal]) == [second]
    critical = request("ledger", 400)
    assert room.admit([critical]) == [first]
    assert not first.waits
    assert room.admit([critical]) == [], "what is in it is not taken twice"
    assert room.draw() == [critical]
    assert room.draw() == [normal]
    assert len(room) == 0
    huge = request("ledger", 5000)
    assert room.admit([huge]) == [huge], "one that can never fit is refused at once"
