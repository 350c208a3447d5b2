"""Several worker processes of one server on one directory: one holds the journal, any may be killed at any time."""

from __future__ import annotations

import json
import random
import signal
import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import pytest

from journal.events import EntityCreated, ObservationAdded
from journal.reader import LogReader
from journal.storage import RealStorage
from recovery.control.writer import CoreWriter
from recovery.data import Data
from recovery.worker import Worker, open_worker
from tests.commands import ENVIRONMENT, process, small_history

WORKER = """
import json, sys
from journal.events import ObservationAdded
from recovery.worker import open_worker
data, name = sys.argv[1:]
with open_worker(data) as worker:
    for line in sys.stdin:
        receipt = worker.append(ObservationAdded("global", "Acme", line.strip()), op_id=line.strip())
        print(json.dumps([receipt.seq, worker.holds]), flush=True)
"""


class Process:
    def __init__(self, data: Path, name: str) -> None:
        command = [sys.executable, "-c", WORKER, str(data), name]
        self.popen = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=ENVIRONMENT
        )
        self.name = name
        self.holds = False

    def send(self, text: str) -> None:
        assert self.popen.stdin is not None
        self.popen.stdin.write(text + "\n")
        self.popen.stdin.flush()

    def answer(self) -> int:
        assert self.popen.stdout is not None
        seq, self.holds = json.loads(self.popen.stdout.readline())
        return seq

    def end(self) -> None:
        self.popen.communicate(timeout=60)


def test_the_holder_is_killed_again_and_again_and_the_others_go_on(tmp_path: Path) -> None:
    """What any of them acknowledged is there once; what was in flight when the holder died is sent again by itself."""
    small_history(tmp_path / "data")
    data = tmp_path / "data"
    rng = random.Random(5)
    receipts: dict[str, int] = {}
    workers = [Process(data, f"w{number}") for number in range(3)]
    born = len(workers)
    for round_number in range(6):
        for worker in workers:
            for number in range(3):
                worker.send(f"{worker.name} {round_number} {number}")
        killed = None
        if round_number % 2 and (holder := next((each for each in workers if each.holds), None)) is not None:
            holder.popen.send_signal(signal.SIGKILL)
            killed = holder
        for worker in workers:
            if worker is killed:
                assert worker.popen.stdout is not None
                for number, line in enumerate(worker.popen.stdout):  # what it acknowledged before it died
                    receipts[f"{worker.name} {round_number} {number}"] = json.loads(line)[0]
                worker.popen.wait()
                continue
            for number in range(3):
                receipts[f"{worker.name} {round_number} {number}"] = worker.answer()
        if killed is not None:
            workers.remove(killed)
            workers.append(Process(data, f"w{born}"))
            born += 1
        rng.shuffle(workers)
    assert sum(worker.holds for worker in workers) == 1
    for worker in workers:
        worker.end()
    with closing(sqlite3.connect(data / "memory.db")) as connection:
        found = dict(connection.execute("SELECT content, id FROM observations WHERE content LIKE 'w%'"))
    assert receipts.items() <= found.items()
    assert len(found) == len(set(found.values()))
    assert process(data, "check").returncode == 0


def test_a_worker_that_closes_hands_over(tmp_path: Path) -> None:
    small_history(tmp_path / "data")
    with open_worker(tmp_path / "data") as first, open_worker(tmp_path / "data") as second:
        one = first.append(EntityCreated("global", "Zoë", "person"))
        two = second.append(ObservationAdded("global", "Zoë", "two"))
        assert (first.holds, second.holds) == (True, False)
        first.close()
        three = second.append_all([ObservationAdded("global", "Zoë", "three"), ObservationAdded("global", "Zoë", "4")])
        assert second.holds
        assert [one.seq, two.seq, three[0].seq] == [11, 12, 13]
    reader = LogReader(RealStorage(), str(tmp_path / "data" / "journal"))
    assert reader.last_seq == 14
    assert reader.tail.closed


FORKING = """
import os, sys
from journal.events import ObservationAdded
from recovery.worker import open_worker
def add(worker, text):
    return worker.append(ObservationAdded("global", "Acme", text)).seq
with open_worker(sys.argv[1]) as worker:
    add(worker, "parent 0")
    children = []
    for name in ("a", "b"):
        if not (child := os.fork()):
            for number in range(20):
                text = f"{name} {number}"
                receipt = worker.append(ObservationAdded("global", "Acme", text), op_id=text)
                assert receipt.op_id == text, receipt
            sys.exit(0)  # through the with block, as any program ends
        children.append(child)
    for number in range(20):
        receipt = worker.append(ObservationAdded("global", "Acme", f"parent x {number}"), op_id=f"p {number}")
        assert receipt.op_id == f"p {number}", receipt
    assert [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children] == [0, 0]
    print(worker.holds)
"""


@pytest.mark.parametrize("holds", [True, False])
def test_forked_children_of_a_worker_are_workers_of_their_own(tmp_path: Path, holds: bool) -> None:
    """A worker is opened before the server forks. Two processes on one connection would read each other's receipts."""
    small_history(tmp_path / "data")
    with open_worker(tmp_path / "data") as first:
        if not holds:
            first.append(ObservationAdded("global", "Acme", "mine"))
        command = [sys.executable, "-c", FORKING, str(tmp_path / "data")]
        done = subprocess.run(command, capture_output=True, text=True, env=ENVIRONMENT, timeout=120, check=False)
        assert (done.returncode, done.stdout) == (0, f"{holds}\n"), done
    with closing(sqlite3.connect(tmp_path / "data" / "memory.db")) as connection:
        (found,) = connection.execute("SELECT count(*) FROM observations WHERE content GLOB '* [0-9]*'").fetchone()
    assert found == 61
    assert process(tmp_path / "data", "check").returncode == 0


def test_a_holder_that_only_serves_lets_go_of_a_log_that_takes_nothing(tmp_path: Path) -> None:
    """The disk failed under another's request: the holder appends nothing itself, and must not stay in the way."""
    small_history(tmp_path / "data")
    data = tmp_path / "data"
    with open_worker(data) as holder, open_worker(data) as other:
        holder.append(ObservationAdded("global", "Acme", "one"))
        other.append(ObservationAdded("global", "Acme", "two"))
        assert isinstance(holder._writer, CoreWriter)
        holder._writer.core.log.poison("a batch failed: EIO")
        assert other.append(ObservationAdded("global", "Acme", "three")).seq == 14  # after the takeover's own event
        assert not holder.holds


def test_threads_that_see_one_failure_elect_once(tmp_path: Path) -> None:
    """Each lets go of the writer that failed, and not of the one that another thread opened meanwhile."""
    small_history(tmp_path / "data")
    worker = Worker(Data.at(tmp_path / "data"))
    worker.append(ObservationAdded("global", "Acme", "one"))
    failed = worker._writer
    worker._let_go(failed)
    worker.append(ObservationAdded("global", "Acme", "two"))
    worker._let_go(failed)
    assert worker.holds
    worker.close()
    assert not worker.holds
