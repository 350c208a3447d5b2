"""Restores and tags: read from the newest manifest on, and never from one of another history."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest

from journal.events import Event, StateRestored, TagCreated
from journal.reader import LogReader
from journal.storage import RealFile, RealStorage
from replay.history import History, extend, read_history
from tests.histories import START, Step
from tests.worlds import World, world_in


def mark(world: World, *events: Event) -> None:
    first = world.model.position + 1
    steps = [Step(seq, START + 10**15, None, event) for seq, event in enumerate(events, first)]
    for step in steps:
        world.model.apply(step.seq, step.time, None, step.event)
    world.append(steps, together=1000)


@pytest.fixture
def world(tmp_path: Path) -> World:
    """Marks at 31-34, a checkpoint at 64, marks at 65-66, and what vouches for it at 67."""
    world = world_in(tmp_path, seed=9)
    world.grow(30)
    mark(world, TagCreated("a", 30), StateRestored(10), TagCreated("b", 5), StateRestored(20))
    world.grow(30)
    world.checkpoint()
    mark(world, TagCreated("a", 64), StateRestored(63))
    world.vouch()
    return world


WHOLE = History(67, ((32, 10), (34, 20), (66, 63)), {"a": 64, "b": 5})  # type: ignore[arg-type]


def test_it_holds_every_restore_and_the_last_meaning_of_each_tag(world: World):
    assert read_history(world.reader()) == WHOLE
    assert read_history(world.reader(), world.checkpoints) == WHOLE


@pytest.mark.parametrize("until", [0, 31, 32, 33, 64, 65])
def test_up_to_a_seq_it_knows_nothing_of_what_came_later(world: World, until: int):
    """And goes on from there, also in the middle of a batch."""
    assert world.reader().batch_of(31).count == 4
    found = read_history(world.reader(), world.checkpoints, until)
    assert found == read_history(world.reader(), None, until)
    assert found.seq == until
    assert all(restore.seq <= until for restore in found.restores)
    assert extend(found, world.reader(), 67) == WHOLE


class Counting(RealStorage):
    """Counts the bytes that are read of segments."""

    def __init__(self) -> None:
        self.read_bytes = 0

    def open(self, path: str, *, write: bool = False, create: bool = False) -> RealFile:
        file = super().open(path, write=write, create=create)
        if path.endswith(".seg"):
            storage = self

            class Counted(RealFile):
                __slots__ = ()

                def read_at(self, offset: int, length: int) -> bytes:
                    data = super().read_at(offset, length)
                    storage.read_bytes += len(data)
                    return data

            return Counted(file.fd, path)
        return file


def test_a_manifest_saves_reading_the_log_before_it(tmp_path: Path):
    world = world_in(tmp_path, seed=9)
    for _ in range(4):
        world.grow(1000, together=100)
    world.checkpoint()
    world.vouch()
    mark(world, TagCreated("end", 1))
    costs = []
    for checkpoints in (None, world.checkpoints):
        storage = Counting()
        reader = LogReader(storage, world.layout.journal)
        storage.read_bytes = 0
        assert read_history(reader, checkpoints).tags["end"] == 1
        costs.append(storage.read_bytes)
    assert costs[1] < costs[0] / 2


@pytest.mark.parametrize("change", [{"chain": "00" * 32}, {"journal_id": "00" * 16}])
def test_a_manifest_of_another_history_is_not_asked(world: World, change: dict[str, str]):
    (manifest,) = world.checkpoints.manifests()
    world.checkpoints.publish(msgspec.structs.replace(manifest, restores=[(1, 0)], tags={"c": 1}, **change))
    assert read_history(world.reader(), world.checkpoints) == WHOLE
