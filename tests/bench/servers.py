"""The hook under tasks: this project's side of the append and write-through sections."""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import Sequence
from pathlib import Path
from tempfile import mkdtemp
from time import perf_counter_ns

from journal.log import Appended
from journal.reader import LogReader
from journal.record import Record
from journal.retention import Policy
from journal.storage import RealStorage
from recovery.data import Data
from recovery.execute import open_log
from recovery.server import open_server_sync
from recovery.setup import initialise
from replay.background import Background
from replay.core import Core
from replay.hook import Hook
from replay.live import LiveState
from tests.bench.timing import Sample
from tests.bench.work import AGENT, ENTITIES, entities, observations


class Unapplied(LiveState):
    """Validates against memory.db as ever, and leaves it to a later catch-up to apply: the journal's path alone."""

    def stage(self, appended: Appended, records: Sequence[Record]) -> None:
        """Ends the snapshot while the disk is at work: there is nothing to be written into it."""
        self.end()

    def apply(self, appended: Appended, records: Sequence[Record]) -> None:
        self._settled(appended.first_seq + appended.count - 1)


def prepared(root: Path) -> Path:
    """A data directory that knows the entities, to be copied for each run."""
    path = root / "prepared"
    if not path.exists():
        initialise(str(path))
        with open_server_sync(path, background=False) as hook:
            hook.append_all(entities())
    return path


def run_hook(root: Path, tasks: int, operations: int, *, apply: bool) -> Sample:
    """`operations` appends by `tasks` tasks through the async hook, each with an op_id; then counted in the journal,
    and with `apply` in memory.db too."""
    place = Path(mkdtemp(dir=root))
    shutil.copytree(prepared(root), place, symlinks=True, dirs_exist_ok=True)
    try:
        sample = asyncio.run(_serve(Data.at(place), tasks, operations, apply))
        batches = LogReader(RealStorage(), f"{place}/journal").batches()
        sample.counted = sum(batch.count for batch in batches) - len(ENTITIES)
        if apply:
            with open_server_sync(place, background=False) as hook:
                (rows,) = hook.core.state.connection.execute("SELECT count(*) FROM observations").fetchone()
            sample.counted = min(sample.counted, rows)
        return sample
    finally:
        shutil.rmtree(place)


async def _serve(data: Data, tasks: int, operations: int, apply: bool) -> Sample:
    work = list(zip(observations(operations), (f"crm-{number}" for number in range(operations)), strict=True))
    core = Core(open_log(data), (LiveState if apply else Unapplied).open(data.storage, data.layout))
    waits: list[int] = []
    alone = Background(core, Policy(), lambda: None, checkpoints=False, embeddings=False)
    async with Hook(core, alone).running() as hook:

        async def write(first: int) -> None:
            for event, op_id in work[first::tasks]:
                start = perf_counter_ns()
                await hook.append(event, agent=AGENT, op_id=op_id)
                waits.append(perf_counter_ns() - start)

        start = perf_counter_ns()
        await asyncio.gather(*(write(number) for number in range(tasks)))
        took = perf_counter_ns() - start
    return Sample(operations, took / 1e9, 0, waits)
