"""What is done beside tasks that append, and what it costs them."""

from __future__ import annotations

import asyncio
from bisect import bisect_left
from collections.abc import Callable
from dataclasses import dataclass, field
from time import perf_counter
from typing import TypeVar

from journal.events import ObservationAdded
from journal.retention import Policy
from recovery.data import Data
from recovery.execute import open_log
from replay.background import Background
from replay.core import Core
from replay.hook import Hook
from replay.live import LiveState
from tests.bench.work import AGENT, SCOPE, texts

TASKS = 32
_STRIDE = 7919  # a prime: what follows one another lies on other pages of each index

T = TypeVar("T")


@dataclass
class Writers:
    """Each append's end and how long it took, in seconds, in the order of the ends."""

    ends: list[float] = field(default_factory=list)
    waits: list[float] = field(default_factory=list)

    def rate(self, start: float, end: float) -> float:
        return (bisect_left(self.ends, end) - bisect_left(self.ends, start)) / (end - start)

    def longest_ms(self, start: float, end: float) -> float:
        """Of the appends that ended in the time, or the first one after it: that may have waited for most of it."""
        found = self.waits[bisect_left(self.ends, start) : bisect_left(self.ends, end) + 1]
        return max(found, default=0.0) * 1000


def beside(data: Data, work: Callable[[], T], after: int, entities: int) -> tuple[T, Writers, float, float, float]:
    """Runs `work` in a thread while `TASKS` tasks append to the data directory, once they have appended `after` events.

    They are observations of all the `entities` that are there, one after the other.

    Returns its result, the writers, and when they and it began, and when it ended.
    """
    return asyncio.run(_beside(data, work, after, entities))


async def _beside(
    data: Data, work: Callable[[], T], after: int, entities: int
) -> tuple[T, Writers, float, float, float]:
    core = Core(open_log(data), LiveState.open(data.storage, data.layout))
    background = Background(core, Policy(), lambda: None, checkpoints=False, embeddings=False)
    writers, enough, stopped = Writers(), asyncio.Event(), asyncio.Event()
    words = texts(500, seed=9)

    async with Hook(core, background).running() as hook:

        async def write(task: int) -> None:
            number = task
            while not stopped.is_set():
                name = f"customer {number * _STRIDE % entities}"
                event = ObservationAdded(SCOPE, name, f"{number} {words[number % 500]}")
                start = perf_counter()
                await hook.append(event, agent=AGENT)
                end = perf_counter()
                writers.ends.append(end)
                writers.waits.append(end - start)
                if len(writers.ends) == after:
                    enough.set()
                number += TASKS

        started = perf_counter()
        tasks = [asyncio.create_task(write(number)) for number in range(TASKS)]
        await asyncio.wait(
            {*tasks, waiting := asyncio.ensure_future(enough.wait())}, return_when=asyncio.FIRST_COMPLETED
        )
        waiting.cancel()
        began = perf_counter()
        try:
            done = await asyncio.to_thread(work)
        finally:
            ended = perf_counter()
            stopped.set()
            await asyncio.gather(*tasks)
    return done, writers, started, began, ended
