"""Restores at 50 random moments of a 20,000-event history, written through the hook, in-place restores among them."""

from __future__ import annotations

import random
from contextlib import closing
from pathlib import Path
from typing import NamedTuple

import pytest

from journal.commit import draft, ticket
from journal.events import StateRestored
from journal.reader import LogReader
from journal.storage import RealStorage
from recovery import open_server_sync
from recovery.data import Data
from recovery.moments import resolve_moment
from recovery.restore import restore_beside
from recovery.setup import initialise
from replay.digest import state_digest
from replay.hook import SyncHook
from replay.model import Model
from replay.schema import connect
from tests.histories import SeededSource, Step, growing

EVENTS = 20_000
CHUNK = 2_500
AT_ONCE = 400


class World(NamedTuple):
    """A data directory with a long history, and the reference folded over its journal."""

    data: Data
    model: Model
    times: list[int]


def write(hook: SyncHook, steps: list[Step]) -> None:
    """Through the hook, many at once; each must get the seq that the reference gave it."""
    requests = [ticket((draft(step.event, step.agent, None, None),), None) for step in steps]
    hook.settle(requests)
    for step, request in zip(steps, requests, strict=True):
        assert request.result()[0].seq == step.seq


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    root = tmp_path_factory.mktemp("world") / "data"
    data, _ = initialise(root)
    source, guide = SeededSource(11), Model()
    with open_server_sync(root, background=False) as hook:
        for chunk in range(EVENTS // CHUNK):
            waiting: list[Step] = []
            for step in growing(source, guide, CHUNK, restores=2 if chunk else 0):
                if not isinstance(step.event, StateRestored):
                    waiting.append(step)
                    if len(waiting) < AT_ONCE:
                        continue
                write(hook, waiting)
                waiting = []
                if isinstance(step.event, StateRestored):
                    assert hook.restore(step.event.to_seq).seq == step.seq
            write(hook, waiting)
            if chunk in (1, 3, 6):
                made = hook.checkpoint()
                assert not made.drift
                guide.apply(guide.position + 1, 0, None, _last_event(root))
    model, times = Model(), [0]
    for batch in LogReader(RealStorage(), str(root / "journal")).batches():
        for seq, record in enumerate(batch.records(), batch.first_seq):
            model.apply(seq, record.time, record.agent, record.event)
            times.append(record.time)
    assert model.position >= EVENTS
    return World(data, model, times)


def _last_event(root: Path):  # type: ignore[no-untyped-def]
    reader = LogReader(RealStorage(), str(root / "journal"))
    return reader.batch_of(reader.last_seq).records()[-1].event


def test_the_live_state_is_the_references(world: World) -> None:
    with closing(connect(world.data.layout.memory_db, read_only=True)) as connection:
        assert state_digest(connection) == world.model.digest()


@pytest.mark.parametrize("case", range(50))
def test_a_restore_at_a_random_moment_is_the_reference_there(world: World, tmp_path: Path, case: int) -> None:
    rng = random.Random(case)
    reader = world.data.reader()
    seq = rng.randrange(0, reader.last_seq + 1)
    if case % 2:  # by time: every record of the same time or earlier is in
        text = _rfc3339(world.times[seq])
        seq = max(index for index, time in enumerate(world.times) if time <= world.times[seq])
        assert resolve_moment(world.data, reader, text) == seq
    made = restore_beside(world.data, reader, seq, str(tmp_path / "past"))
    expected = world.model.state_at(seq)
    assert made.digest == expected.digest()
    files = {path.name[:-3]: path.read_bytes() for path in (tmp_path / "past" / "agents").iterdir()}
    assert files == {name: agent.content for name, agent in expected.agents.items()}
    assert sorted(path.name for path in (tmp_path / "past").iterdir()) == ["agents", "memory.db"]


def _rfc3339(time: int) -> str:
    from datetime import UTC, datetime

    if time == 0:
        return "1970-01-01T00:00:00Z"
    return datetime.fromtimestamp(time // 10**9, UTC).strftime("%Y-%m-%dT%H:%M:%S") + f".{time % 10**9:09d}Z"
