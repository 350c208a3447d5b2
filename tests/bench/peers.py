"""The other side: a raw file, SQLite on one connection, SQLite behind a group-commit thread.

None of them validates, deduplicates or answers with a receipt; where they differ from this project they do less.
"""

from __future__ import annotations

import asyncio
import os
import queue
import shutil
import sqlite3
import threading
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from tempfile import mkdtemp
from time import perf_counter_ns
from typing import Any

from replay.schema import create
from tests.bench.timing import Sample
from tests.bench.work import AGENT, ENTITIES, SCOPE, digest_of, observations

START = 1_764_000_000_000_000_000


def run_raw(root: Path, together: int, operations: int, record_bytes: int) -> Sample:
    """pwrite and fdatasync of `together` records at a time into a file that was filled with zeros and synced."""
    path = Path(mkdtemp(dir=root)) / "raw"
    data = b"r" * record_bytes * together
    syncs = operations // together
    try:
        fd = os.open(path, os.O_RDWR | os.O_CREAT)
        os.pwrite(fd, bytes(len(data) * syncs), 0)
        os.fsync(fd)
        waits = []
        begin = perf_counter_ns()
        for number in range(syncs):
            start = perf_counter_ns()
            os.pwrite(fd, data, number * len(data))
            os.fdatasync(fd)
            waits.append(perf_counter_ns() - start)
        took = perf_counter_ns() - begin
        os.close(fd)
        return Sample(syncs * together, took / 1e9, path.read_bytes().count(b"r") // record_bytes, waits)
    finally:
        shutil.rmtree(path.parent)


# -- a log of events in SQLite ----------------------------------------------------------------------------------------

_LOG = "CREATE TABLE events(seq INTEGER PRIMARY KEY, time INTEGER, op_id TEXT, agent TEXT, entity TEXT, content TEXT)"
_APPEND = "INSERT INTO events(time, op_id, agent, entity, content) VALUES (?, ?, ?, ?, ?)"

Row = tuple[Any, ...]


def _events(operations: int) -> list[Row]:
    return [
        (START + number, f"crm-{number}", AGENT, event.entity, event.content)
        for number, event in enumerate(observations(operations))
    ]


def run_sqlite_log(root: Path, tasks: int, operations: int) -> Sample:
    """WAL, synchronous=FULL, a transaction an event, on the one connection that all tasks share."""
    return _run(root, tasks, _events(operations), _prepare_log, _APPEND, "events", group=False)


def run_grouped_log(root: Path, tasks: int, operations: int) -> Sample:
    """The same with a thread that commits all that is queued as one transaction."""
    return _run(root, tasks, _events(operations), _prepare_log, _APPEND, "events", group=True)


def _prepare_log(connection: sqlite3.Connection) -> None:
    connection.execute(_LOG)


# -- memory.db without a journal --------------------------------------------------------------------------------------

_OBSERVE = (
    "INSERT INTO observations(id, entity_id, content, text_sha256, metadata, agent, created_at)"
    " VALUES (?, ?, ?, ?, '{}', ?, ?)"
)


def run_sqlite_memory(root: Path, tasks: int, operations: int) -> Sample:
    """The rows that write-through makes, indexes and foreign keys too, each durable by WAL and synchronous=FULL."""
    ids = {name: number for number, name in enumerate(ENTITIES, 1)}
    rows = [
        (number, ids[event.entity], event.content, digest_of(event.content), AGENT, START + number)
        for number, event in enumerate(observations(operations), len(ids) + 1)
    ]
    return _run(root, tasks, rows, _prepare_memory, _OBSERVE, "observations", group=False)


def _prepare_memory(connection: sqlite3.Connection) -> None:
    create(connection)
    insert = "INSERT INTO entities(id, scope, name, entity_type, metadata, created_at, updated_at)"
    values = ((number, SCOPE, name, "company", "{}", START, START) for number, name in enumerate(ENTITIES, 1))
    connection.execute("BEGIN")
    connection.executemany(f"{insert} VALUES (?, ?, ?, ?, ?, ?, ?)", values)
    connection.execute("COMMIT")


# -- both -------------------------------------------------------------------------------------------------------------


def _run(
    root: Path,
    tasks: int,
    rows: list[Row],
    prepare: Callable[[sqlite3.Connection], None],
    insert: str,
    table: str,
    *,
    group: bool,
) -> Sample:
    path = Path(mkdtemp(dir=root)) / "peer.db"
    try:
        with closing(sqlite3.connect(path, isolation_level=None, check_same_thread=False)) as connection:
            connection.execute("PRAGMA journal_mode=WAL")
            connection.execute("PRAGMA synchronous=FULL")
            connection.execute("PRAGMA foreign_keys=ON")
            prepare(connection)
            sample = asyncio.run((_grouped if group else _one_by_one)(connection, tasks, rows, insert))
        with closing(sqlite3.connect(path)) as connection:
            (sample.counted,) = connection.execute(f"SELECT count(*) FROM {table}").fetchone()
        return sample
    finally:
        shutil.rmtree(path.parent)


async def _one_by_one(connection: sqlite3.Connection, tasks: int, rows: list[Row], insert: str) -> Sample:
    waits: list[int] = []

    async def write(first: int) -> None:
        for row in rows[first::tasks]:
            start = perf_counter_ns()
            connection.execute(insert, row)
            waits.append(perf_counter_ns() - start)
            await asyncio.sleep(0)

    start = perf_counter_ns()
    await asyncio.gather(*(write(number) for number in range(tasks)))
    return Sample(len(rows), (perf_counter_ns() - start) / 1e9, 0, waits)


async def _grouped(connection: sqlite3.Connection, tasks: int, rows: list[Row], insert: str) -> Sample:
    waiting: queue.SimpleQueue[tuple[Row, asyncio.Future[None]] | None] = queue.SimpleQueue()
    loop = asyncio.get_running_loop()
    waits: list[int] = []

    def release(futures: list[asyncio.Future[None]]) -> None:
        for future in futures:
            future.set_result(None)

    def commit() -> None:
        while (first := waiting.get()) is not None:
            batch = [first]
            while not waiting.empty() and (another := waiting.get_nowait()) is not None:
                batch.append(another)
            connection.execute("BEGIN")
            connection.executemany(insert, (row for row, _ in batch))
            connection.execute("COMMIT")
            loop.call_soon_threadsafe(release, [future for _, future in batch])

    async def write(first: int) -> None:
        for row in rows[first::tasks]:
            start = perf_counter_ns()
            future = loop.create_future()
            waiting.put((row, future))
            await future
            waits.append(perf_counter_ns() - start)

    thread = threading.Thread(target=commit)
    thread.start()
    start = perf_counter_ns()
    await asyncio.gather(*(write(number) for number in range(tasks)))
    took = perf_counter_ns() - start
    waiting.put(None)
    thread.join()
    return Sample(len(rows), took / 1e9, 0, waits)
