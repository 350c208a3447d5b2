"""A state that was large and is small again, or small under a long history: its file has no more pages than it needs.

Rows that came and went leave free pages behind. Carried along, they would be in every checkpoint and every copy.
"""

from __future__ import annotations

import os
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from journal.checkpoint import KIND_MEMORY, KIND_PAGES
from journal.events import (
    EntityCreated,
    EntityDeleted,
    Event,
    ObservationAdded,
    ObservationRemoved,
    RelationCreated,
    RelationDeleted,
    ScopeCleared,
)
from journal.record import Record
from replay import bulk, memory_parts
from replay.bulk import BulkLoader
from replay.engine import build_state
from replay.layout import COMPACT
from replay.schema import PAGE_BYTES
from replay.working import connect_finished, connect_private
from tests.histories import START, Step
from tests.loopdisk import missing, tmpfs
from tests.test_replay_checkpoints import follow
from tests.worlds import World, world_in

LATER = START + 10**15
LARGE, SMALL = "workspace:large", "workspace:small"


def pages_of(connection: sqlite3.Connection) -> tuple[int, int]:
    """All, and the free ones."""
    pages, free = (connection.execute(f"PRAGMA {name}").fetchone()[0] for name in ("page_count", "freelist_count"))
    return pages, free


def pages_in(path: str) -> tuple[int, int]:
    with closing(connect_finished(path)) as connection:
        return pages_of(connection)


# -- a small state under a long history -------------------------------------------------------------------------------


def churn(rounds: int) -> list[Event]:
    """An entity with four relations and four observations comes in each round, and that of four rounds before goes:
    half of them with all that hangs from them, half after each of it went by an event of its own."""
    events: list[Event] = [EntityCreated("global", "hub", "t")]
    for number in range(rounds):
        name = f"e{number}"
        events.append(EntityCreated("global", name, "t"))
        events += [RelationCreated("global", name, "hub", f"r{kind}") for kind in range(4)]
        events += [ObservationAdded("global", name, f"{kind} " + "text " * 60) for kind in range(4)]
        gone = f"e{number - 4}"
        if number >= 4:
            if number % 2:
                events += [RelationDeleted("global", gone, "hub", f"r{kind}") for kind in range(4)]
                events += [ObservationRemoved("global", gone, f"{kind} " + "text " * 60) for kind in range(4)]
            events.append(EntityDeleted("global", gone))
    return events


@pytest.mark.parametrize("rounds", [2_000, 6_000])
def test_a_load_needs_the_pages_of_what_is_there_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, rounds: int
) -> None:
    """However long it goes on. All rows that ever were would take two pages a round."""
    monkeypatch.setattr(bulk, "CHANGES_MAX", 500)
    path, events = str(tmp_path / "memory.db"), churn(rounds)
    with closing(connect_private(path)) as connection:
        loader, most, waiting = BulkLoader(connection), 0, 0
        for start in range(0, len(events), 1000):
            records = [Record(0, 1, None, None, None, None, None, event) for event in events[start : start + 1000]]
            loader.add(start + 1, records)
            most = max(most, pages_of(connection)[0])
            waiting = max(waiting, loader._deferred.removed + loader._deferred.changes + len(loader._relations))
        loader.finish()
        assert connection.execute("SELECT count(*) FROM relations").fetchone() == (16,)
    assert most < 700
    assert waiting < 6_000, "so much waits or is followed in memory"


# -- a state that shrank ----------------------------------------------------------------------------------------------


def write(world: World, events: list[Event]) -> None:
    first = world.model.position + 1
    steps = [Step(seq, LATER + seq, None, event) for seq, event in enumerate(events, first)]
    for step in steps:
        world.model.apply(*step)
    world.append(steps, together=200)


def fill(world: World, scope: str, count: int) -> None:
    write(world, [EntityCreated(scope, "e", "t")])
    write(world, [ObservationAdded(scope, "e", f"{number} " + "word " * 190) for number in range(count)])


@pytest.fixture
def world(tmp_path: Path) -> World:
    """9 MiB, of which 6 are in one scope; a live memory.db."""
    world = world_in(tmp_path, seed=4)
    fill(world, LARGE, 6_000)
    fill(world, SMALL, 2_500)
    world.go_live()
    return world


def test_what_is_gone_leaves_no_free_pages_in_a_rebuild(world: World) -> None:
    write(world, [ScopeCleared(LARGE)])
    end, path = world.model.position, f"{world.layout.root}/built.db"
    built = build_state(world.storage, world.layout.journal, world.reader(), end, path)
    assert built.digest == world.digest_at(end)
    pages, free = pages_in(path)
    assert (free, pages * PAGE_BYTES < 4 << 20) == (0, True)
    assert os.stat(path).st_mode & 0o777 == 0o600
    assert not os.path.exists(path + COMPACT)


def test_what_is_gone_since_a_checkpoint_leaves_none_either(world: World) -> None:
    world.checkpoint()
    world.vouch()
    write(world, [ScopeCleared(LARGE)])
    end, path = world.model.position, f"{world.layout.root}/built.db"
    built = build_state(world.storage, world.layout.journal, world.reader(), end, path)
    assert (built.base_seq, built.digest) == (world.checkpoints.manifests()[0].seq, world.digest_at(end))
    assert pages_in(path)[1] == 0
    with closing(sqlite3.connect(path)) as connection:
        assert connection.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
        assert connection.execute("PRAGMA journal_mode").fetchone() == ("wal",)


def test_the_next_checkpoint_is_as_small_as_the_state(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not a delta to a base that has nearly nothing to do with it; and the one after it is a delta again."""
    monkeypatch.setattr(memory_parts, "BASE_BYTES_MIN", 0)
    first = world.checkpoint()
    world.vouch()
    write(world, [ScopeCleared(LARGE)])
    follow(world)
    second = world.checkpoint()
    world.vouch()
    assert second.digest == world.digest_at(second.seq)
    assert (second.base_seq, second.drift, second.passed_over) == (first.seq, False, [])
    manifest = world.checkpoints.manifests()[0]
    assert {part.kind for part in manifest.memory_parts} == {KIND_MEMORY}
    assert second.bytes < first.bytes // 2
    world.grow(20)
    follow(world)
    third = world.checkpoint()
    assert third.digest == world.digest_at(third.seq)
    assert {part.kind for part in world.checkpoints.manifests()[0].memory_parts} == {KIND_MEMORY, KIND_PAGES}
    assert third.new_bytes < second.bytes // 10


def test_a_few_free_pages_are_the_next_rows(world: World) -> None:
    """To write a file anew costs what all of it costs."""
    world.checkpoint()
    world.vouch()
    write(world, [ObservationRemoved(LARGE, "e", f"{number} " + "word " * 190) for number in range(2_000)])
    end, path = world.model.position, f"{world.layout.root}/built.db"
    build_state(world.storage, world.layout.journal, world.reader(), end, path)
    assert 100 < pages_in(path)[1] < 1024


@pytest.mark.skipif(missing("tmpfs") is not None, reason=missing("tmpfs") or "")
def test_where_the_disk_has_no_room_for_both_the_file_stays_as_it_is(world: World, tmp_path: Path) -> None:
    write(world, [ScopeCleared(LARGE)])
    end = world.model.position
    with tmpfs(tmp_path, "size=10m") as small:
        path = f"{small}/built.db"
        built = build_state(world.storage, world.layout.journal, world.reader(), end, path)
        assert built.digest == world.digest_at(end)
        assert pages_in(path)[1] > 1024
        assert os.listdir(small) == ["built.db"]


def test_what_a_kill_left_of_the_compact_file_is_cleaned(world: World) -> None:
    path = world.generations.building_path() + COMPACT
    Path(path).write_bytes(b"half of it")
    assert world.generations.leftovers() == [path]
    assert world.generations.clean() == [path]
    assert not os.path.exists(path)
