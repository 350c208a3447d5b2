"""Sections of the write path: durable append, and write-through to memory.db."""

from __future__ import annotations

from pathlib import Path

from journal.record import Record, encode_record
from tests.bench.floor import run_floor
from tests.bench.foreign import Peers
from tests.bench.peers import START, run_grouped_log, run_raw, run_sqlite_log, run_sqlite_memory
from tests.bench.servers import run_hook
from tests.bench.timing import Contender, Result, compare
from tests.bench.work import AGENT, observations

TASKS = (1, 32, 256)
PEER_WRITERS = 32


def append(root: Path, *, quick: bool, rounds: int) -> dict[str, list[Result]]:
    """Durable append through the hook, memory.db not applied, against raw writes and SQLite."""
    sections = {}
    size = _record_bytes()
    for tasks in TASKS:
        ours, single = _counts(tasks, quick)
        contenders = [
            Contender("hook.append", lambda t=tasks, n=ours: run_hook(root, t, n, apply=False), ours=True),
            Contender(
                f"raw write + fdatasync, {tasks} a sync",
                lambda t=tasks, n=ours: run_raw(root, t, n // t * t, size),
            ),
            Contender("asyncio alone, prebuilt records", lambda t=tasks, n=ours: run_floor(root, t, n, size)),
            Contender("SQLite WAL FULL, one connection", lambda t=tasks, n=single: run_sqlite_log(root, t, n)),
            Contender("SQLite WAL FULL, group-commit thread", lambda t=tasks, n=ours: run_grouped_log(root, t, n)),
        ]
        sections[f"append, {_tasks(tasks)}"] = compare(contenders, rounds, "events/s")
    return sections


def write_through(root: Path, peers: Peers, *, quick: bool, rounds: int) -> dict[str, list[Result]]:
    """Journal and memory.db, both before the receipt, against the bare commit of the same row; with many tasks, other
    libraries with as many writers."""
    sections = {}
    for tasks in TASKS:
        ours, single = _counts(tasks, quick)
        contenders = [
            Contender("hook.append, applied", lambda t=tasks, n=ours: run_hook(root, t, n, apply=True), ours=True),
            Contender("SQLite WAL FULL, the same row", lambda t=tasks, n=single: run_sqlite_memory(root, t, n)),
        ]
        if tasks == PEER_WRITERS:
            contenders += peers.writers(root, tasks, single)
        sections[f"write-through, {_tasks(tasks)}"] = compare(contenders, rounds, "events/s")
    return sections


def _counts(tasks: int, quick: bool) -> tuple[int, int]:
    """Operations of a contender that gains from many tasks, and of one that does not."""
    if quick:
        return 8 * tasks, 16
    return {1: 2000, 32: 20_000, 256: 30_000}[tasks], 2000


def _record_bytes() -> int:
    return len(encode_record(Record(0, START, None, "crm-100", AGENT, None, None, observations(1)[0])))


def _tasks(count: int) -> str:
    return f"{count} task" if count == 1 else f"{count} tasks"
