"""The floor of Python itself: tasks hand over records that were encoded before, and one task writes, syncs and answers.

No validation, no op_ids, no receipts, no batch around the records, no lock to look at: what is left is asyncio, one
write and one fdatasync a pass. Nothing that answers tasks through an event loop can be sooner on the same machine.
"""

from __future__ import annotations

import asyncio
import os
import shutil
from pathlib import Path
from tempfile import mkdtemp
from time import perf_counter_ns

from tests.bench.timing import Sample


def run_floor(root: Path, tasks: int, operations: int, record_bytes: int) -> Sample:
    """`operations` by `tasks` tasks, into a file that was filled with zeros and synced; counted by its bytes."""
    path = Path(mkdtemp(dir=root)) / "floor"
    try:
        fd = os.open(path, os.O_RDWR | os.O_CREAT)
        os.pwrite(fd, bytes(record_bytes * operations), 0)
        os.fsync(fd)
        sample = asyncio.run(_serve(fd, b"r" * record_bytes, tasks, operations))
        os.close(fd)
        sample.counted = path.read_bytes().count(b"r") // record_bytes
        return sample
    finally:
        shutil.rmtree(path.parent)


async def _serve(fd: int, record: bytes, tasks: int, operations: int) -> Sample:
    loop = asyncio.get_running_loop()
    queue: list[tuple[bytes, asyncio.Future[None]]] = []
    waits: list[int] = []
    sleeping: asyncio.Future[None] | None = None
    running = True

    async def commit() -> None:
        nonlocal queue, sleeping
        offset = 0
        while running:
            if not queue:
                sleeping = loop.create_future()
                await sleeping
                continue
            batch, queue = queue, []
            data = b"".join([each for each, _ in batch])
            os.pwrite(fd, data, offset)
            os.fdatasync(fd)
            offset += len(data)
            for _, done in batch:
                done.set_result(None)
            await asyncio.sleep(0)

    def wake() -> None:
        nonlocal sleeping
        woken, sleeping = sleeping, None
        if woken is not None:
            woken.set_result(None)

    async def write(first: int) -> None:
        for _ in range(first, operations, tasks):
            start = perf_counter_ns()
            done = loop.create_future()
            queue.append((record, done))
            if sleeping is not None:
                wake()
            await done
            waits.append(perf_counter_ns() - start)

    committer = asyncio.create_task(commit())
    start = perf_counter_ns()
    await asyncio.gather(*(write(number) for number in range(tasks)))
    took = perf_counter_ns() - start
    running = False
    wake()
    await committer
    return Sample(operations, took / 1e9, 0, waits)
