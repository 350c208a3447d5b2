"""A live memory.db that lags is brought to the journal's end; one of another history is left as it is."""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from journal.errors import Corrupt, Diverged
from journal.events import EntityCreated, Event, ObservationAdded, StateRestored
from replay import catchup
from replay.catchup import catch_up
from replay.digest import state_digest
from replay.engine import build_state
from replay.schema import connect, create, read_position
from tests.histories import START, Step
from tests.worlds import World, flip, world_in


@pytest.fixture
def world(tmp_path: Path) -> World:
    """100 events; the live memory.db holds them."""
    world = world_in(tmp_path, seed=4)
    world.grow(100)
    world.go_live()
    return world


@pytest.fixture
def live(world: World) -> Iterator[sqlite3.Connection]:
    with closing(connect(os.path.realpath(world.layout.memory_db))) as connection:
        yield connection


def restore(world: World, *to_seqs: int) -> None:
    for to_seq in to_seqs:
        seq = world.model.position + 1
        world.model.apply(seq, START + 10**15, None, StateRestored(to_seq))
        world.append([Step(seq, START + 10**15, None, StateRestored(to_seq))])


@pytest.mark.parametrize("together", [1, 300])
def test_it_ends_at_the_journals_end_with_the_reference_state(world: World, live: sqlite3.Connection, together: int):
    world.grow(900, together=together)
    seen: list[tuple[int, int]] = []
    caught = catch_up(live, world.reader(), lambda done, total: seen.append((done, total)))
    assert (caught.from_seq, caught.to_seq, caught.applied.events, caught.restore) == (100, 1000, 900, None)
    assert state_digest(live) == world.digest_at(1000)
    position = read_position(live)
    assert position is not None
    assert (position.seq, position.chain) == (1000, world.reader().chain_at(1000).hex())
    assert seen[-1] == (900, 900)


def test_nothing_to_do_changes_nothing(world: World, live: sqlite3.Connection):
    before = live.total_changes
    assert catch_up(live, world.reader()).to_seq == 100
    assert live.total_changes == before


def test_it_begins_in_the_middle_of_a_batch(world: World, tmp_path: Path):
    """A state that was built to a seq inside a batch holds a part of that batch."""
    world.grow(50, together=50)
    batch = next(batch for batch in world.reader().batches(101) if batch.count > 10)
    middle = batch.first_seq + 5
    path = str(tmp_path / "part.db")
    build_state(world.storage, world.layout.journal, world.reader(), middle, path)
    with closing(connect(path)) as connection:
        caught = catch_up(connection, world.reader())
        assert (caught.from_seq, caught.applied.events) == (middle, 150 - middle)
        assert state_digest(connection) == world.digest_at(150)


def test_it_stops_before_a_restore(world: World, live: sqlite3.Connection):
    world.grow(20)
    restore(world, 50, 110)
    caught = catch_up(live, world.reader())
    assert (caught.to_seq, caught.restore) == (120, (121, 50))
    assert state_digest(live) == world.digest_at(120)
    position = read_position(live)
    assert position is not None
    assert position.seq == 120
    assert catch_up(live, world.reader()) == (type(caught)(120, 120, type(caught.applied)(), caught.restore))


def test_a_restore_that_cannot_be_is_passed(world: World, live: sqlite3.Connection):
    restore(world, 101, 500, -1)
    caught = catch_up(live, world.reader())
    assert (caught.to_seq, caught.restore) == (103, None)
    assert state_digest(live) == world.digest_at(100)


def bulk(world: World, count: int) -> None:
    """Observations of 6 KB, so that memory.db's write-ahead log grows by some pages each."""
    first = world.model.position + 1
    events: list[Event] = [EntityCreated("workspace:bulk", "E", "t")]
    events += [ObservationAdded("workspace:bulk", "E", f"{number} " + "x" * 6000) for number in range(count - 1)]
    steps = [Step(seq, START + 10**15, None, event) for seq, event in enumerate(events, first)]
    for step in steps:
        world.model.apply(*step)
    world.append(steps, together=200)


def settings_of(connection: sqlite3.Connection) -> list[int]:
    names = ("cache_size", "wal_autocheckpoint", "foreign_keys", "synchronous")
    return [connection.execute(f"PRAGMA {name}").fetchone()[0] for name in names]


def test_many_events_are_one_transaction_that_syncs_nothing(world: World, live: sqlite3.Connection):
    """A commit that folds syncs both files, which took longer than the events themselves."""
    bulk(world, 1500)
    path = Path(os.path.realpath(world.layout.memory_db))
    before, settings = path.read_bytes(), settings_of(live)
    catch_up(live, world.reader())
    assert path.read_bytes() == before
    wal = Path(f"{path}-wal").stat().st_size
    assert wal > 1000 * 4096, "too few pages to be folded at all"
    assert wal < 1.2 * 1500 * 2 * 4096, "pages were written more than once"
    assert settings_of(live) == settings
    assert state_digest(live) == world.digest_at(1600)


def test_between_transactions_the_write_ahead_log_is_folded(
    world: World, live: sqlite3.Connection, monkeypatch: pytest.MonkeyPatch
):
    """Else a long tail would leave one that is as long as all its pages."""
    bulk(world, 4000)
    monkeypatch.setattr(catchup, "EVENTS_PER_COMMIT", 500)
    catch_up(live, world.reader())
    wal = Path(os.path.realpath(world.layout.memory_db) + "-wal")
    assert wal.stat().st_size < 1000 * 2 * 4096
    assert state_digest(live) == world.digest_at(4100)


def test_a_commit_that_fails_leaves_the_position_where_it_was(world: World, live: sqlite3.Connection):
    world.grow(20)
    live.execute("CREATE TRIGGER refuse BEFORE UPDATE ON journal_position BEGIN SELECT RAISE(ABORT, 'no'); END")
    with pytest.raises(sqlite3.Error, match="no"):
        catch_up(live, world.reader())
    assert not live.in_transaction
    assert state_digest(live) == world.digest_at(100)
    live.execute("DROP TRIGGER refuse")
    catch_up(live, world.reader())
    assert state_digest(live) == world.digest_at(120)


@pytest.mark.parametrize(
    "change",
    [f"chain = '{'00' * 32}'", f"journal_id = '{'ff' * 16}'", "seq = 5000", "seq = 40", "seq = 'x'"],
    ids=["chain", "journal", "beyond", "another seq", "no seq"],
)
def test_another_history_is_diverged_and_nothing_is_applied(world: World, live: sqlite3.Connection, change: str):
    world.grow(20)
    live.execute("PRAGMA ignore_check_constraints=ON")
    live.execute(f"UPDATE journal_position SET {change}")
    changes = live.total_changes
    with pytest.raises(Diverged) as caught:
        catch_up(live, world.reader())
    assert caught.value.exit_code == 14
    assert live.total_changes == changes


def test_a_file_without_a_position_is_diverged(world: World, tmp_path: Path):
    with closing(connect(tmp_path / "empty.db")) as connection:
        create(connection)
        with pytest.raises(Diverged, match="no position"):
            catch_up(connection, world.reader())


def test_damage_in_the_tail_is_corrupt_not_diverged_and_not_the_end(world: World, live: sqlite3.Connection):
    """memory.db holds what the damaged batch held: it was acknowledged, so it is no torn tail and no other history."""
    flip(last_segment(world), 2000)
    with pytest.raises(Corrupt):
        catch_up(live, world.reader())


def test_damage_after_the_position_is_not_taken_for_the_end(world: World, live: sqlite3.Connection):
    world.grow(300, together=10)
    flip(last_segment(world), 30_000)
    assert 100 < world.reader().last_seq < 400
    with pytest.raises(Corrupt):
        catch_up(live, world.reader())


def last_segment(world: World) -> str:
    return world.reader().tail.path
