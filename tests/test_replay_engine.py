"""State from the journal, at any seq, from any base: always the reference projection's, and damage is named."""

from __future__ import annotations

import errno
import os
import random
import sqlite3
from collections import Counter
from contextlib import closing
from pathlib import Path

import msgspec
import pytest

from journal.checkpoint import KIND_EMBEDDINGS, KIND_MEMORY, Manifest
from journal.errors import Corrupt, UsageError
from journal.events import EntityCreated, Event, ObservationAdded, StateRestored
from journal.storage import RealFile, RealStorage
from replay.digest import state_digest
from replay.engine import Built, build_state
from replay.history import read_history
from replay.schema import Position, connect, read_position
from replay.vouching import UNVOUCHED
from tests.histories import START, Step, Vouched
from tests.worlds import World, flip, world_in


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> World:
    """1,500 events with restores; checkpoints at 300, 700 and 1,100. Tests only read it."""
    world = world_in(tmp_path_factory.mktemp("world"), seed=7)
    for count in (300, 400, 400, 400):
        world.grow(count, restores=8)
        if len(world.steps) < 1500:
            checkpoint(world)
    assert sum(isinstance(step.event, StateRestored) for step in world.steps) >= 5
    return world


@pytest.fixture
def world(tmp_path: Path) -> World:
    """120 events in a straight line, checkpoints at 40 and 80."""
    world = world_in(tmp_path, seed=3)
    for _ in range(3):
        world.grow(40)
        if len(world.steps) < 120:
            checkpoint(world)
    return world


def checkpoint(world: World) -> Manifest:
    made = world.checkpoint()
    assert made.digest == world.digest_at(made.seq)
    return next(each for each in world.checkpoints.manifests() if each.seq == made.seq)


def build(world: World, seq: int, path: Path, **options: object) -> Built:
    return build_state(world.storage, world.layout.journal, world.reader(), seq, str(path), **options)  # type: ignore[arg-type]


@pytest.fixture
def destination(tmp_path: Path) -> Path:
    return tmp_path / "built.db"


# -- equality ---------------------------------------------------------------------------------------------------------


def test_any_seq_from_any_base_is_the_reference_state(shared: World, tmp_path: Path):
    """With checkpoints and without; seqs around restores and checkpoints, and random ones."""
    restores = [step.seq for step in shared.steps if isinstance(step.event, StateRestored)]
    seqs = {0, 1, 1500, 299, 300, 301, 700, 1100, 1101, *restores, *(seq - 1 for seq in restores)}
    seqs |= set(random.Random(1).sample(range(1501), 25))
    bases = set()
    for seq in sorted(seqs):
        expected = shared.digest_at(seq)
        ladder = build(shared, seq, tmp_path / f"ladder-{seq}.db")
        genesis = build(shared, seq, tmp_path / f"genesis-{seq}.db", use_checkpoints=False)
        assert (ladder.digest, genesis.digest, genesis.base_seq) == (expected, expected, 0)
        bases.add(ladder.base_seq)
        os.unlink(ladder.path)
        os.unlink(genesis.path)
    assert bases >= {0, 300, 700}


def test_the_file_is_whole_closed_and_says_where_it_stands(shared: World, destination: Path):
    built = build(shared, 1234, destination)
    batch = shared.reader().batch_of(1234)
    assert sorted(os.listdir(destination.parent)) == ["built.db"]
    assert built.bytes == os.path.getsize(destination)
    with closing(connect(destination)) as connection:
        assert read_position(connection) == built.position
        assert built.position == Position(1234, shared.reader().journal_id.hex(), batch.epoch, batch.chain.hex())
        assert connection.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
        assert connection.execute("PRAGMA foreign_key_check").fetchall() == []
        assert state_digest(connection) == built.digest
        for table, count in built.counts.items():
            assert connection.execute(f"SELECT count(*) FROM {table}").fetchone() == (count,)


@pytest.mark.parametrize("journal_mode", ["wal", "delete"])
@pytest.mark.parametrize("use_checkpoints", [True, False])
def test_the_file_opens_in_the_mode_it_was_made_for(
    shared: World, destination: Path, journal_mode: str, use_checkpoints: bool
):
    build(shared, 1200, destination, journal_mode=journal_mode, use_checkpoints=use_checkpoints)
    with closing(sqlite3.connect(destination)) as connection:
        assert connection.execute("PRAGMA journal_mode").fetchone() == (journal_mode,)


def test_progress_ends_at_its_total(world: World, destination: Path):
    seen: list[tuple[int, int]] = []
    build(world, 120, destination, progress=lambda done, total: seen.append((done, total)))
    assert seen == sorted(seen)
    assert len({total for _, total in seen}) == 1
    assert seen[-1][0] == seen[-1][1]


# -- the ladder -------------------------------------------------------------------------------------------------------


def test_the_newest_usable_checkpoint_is_the_base(world: World, destination: Path):
    built = build(world, 120, destination)
    assert (built.base_seq, built.events, built.passed_over) == (80, 40, ())
    os.unlink(destination)
    built = build(world, 79, destination)
    assert (built.base_seq, built.events) == (40, 39)


def damage_part(world: World, manifest: Manifest, *, index: int = -1) -> str:
    path = world.checkpoints.part_path(manifest.of_kind(KIND_MEMORY)[index])
    flip(path, os.path.getsize(path) // 2)
    return path


def test_a_checkpoint_with_a_damaged_part_is_passed_over_and_named(world: World, destination: Path):
    newest, older = world.checkpoints.manifests()
    path = damage_part(world, newest)
    built = build(world, 120, destination)
    assert built.digest == world.digest_at(120)
    assert built.base_seq == older.seq == 40
    assert [seq for seq, _ in built.passed_over] == [80]
    assert path in built.passed_over[0].reason


def test_genesis_is_the_last_rung(world: World, destination: Path):
    for manifest in world.checkpoints.manifests():
        damage_part(world, manifest)
    built = build(world, 120, destination)
    assert (built.base_seq, built.events, built.digest) == (0, 120, world.digest_at(120))
    assert [seq for seq, _ in built.passed_over] == [80, 40]


def test_a_damaged_manifest_is_passed_over_and_named(world: World, destination: Path):
    path = world.checkpoints.manifest_path(80)
    flip(path, 100)
    built = build(world, 120, destination)
    assert (built.base_seq, built.digest) == (40, world.digest_at(120))
    assert [(seq, path in reason) for seq, reason in built.passed_over] == [(80, True)]


def republish(world: World, seq: int, *, vouched: bool = False, **changes: object) -> None:
    """Another manifest under a checkpoint's name; `vouched`: as though this program had made it."""
    (manifest,) = (each for each in world.checkpoints.manifests() if each.seq == seq)
    changed = msgspec.structs.replace(manifest, **changes)
    world.checkpoints.publish(changed)
    if vouched:
        world.made.append(Vouched(seq, changed.digest, changed.fingerprint))
        world.vouch()


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"state": "written"}, "never verified"),
        ({"projection_version": 9}, "version 9 of the projection"),
        ({"digest_version": 9}, "9 of the digest"),
        ({"journal_id": "00" * 16}, "another history"),
        ({"chain": "00" * 32}, "another history"),
        ({"epoch": 77}, "another position"),
    ],
)
def test_a_checkpoint_that_is_no_base_is_passed_over_with_its_reason(
    world: World, destination: Path, changes: dict[str, object], reason: str
):
    republish(world, 80, vouched=True, **changes)
    built = build(world, 120, destination)
    assert (built.base_seq, built.digest) == (40, world.digest_at(120))
    assert [(seq, reason in text) for seq, text in built.passed_over] == [(80, True)]


@pytest.mark.parametrize("at", [80, 100, 120])
def test_a_planted_checkpoint_that_is_whole_in_itself_is_passed_over(
    world: World, destination: Path, tmp_path: Path, at: int
):
    """Its parts, digest, position and chain agree: only the journal knows that nobody made it.

    Where a checkpoint was made, between, and at the journal's end, where no event follows it. Its restores, tags and
    vectors are not taken either; a hint of its own does not help it.
    """
    world.grow(1)
    other = f"{tmp_path}/other.db"
    build_state(world.storage, world.layout.journal, world.reader(), at, other, journal_mode="delete")
    with closing(connect(other)) as connection:
        connection.execute("UPDATE entities SET metadata = '{\"admin\": true}'")
        connection.execute("PRAGMA journal_mode=DELETE")
        digest = state_digest(connection)
    part, _ = world.checkpoints.put_part(KIND_MEMORY, Path(other).read_bytes())
    vectors, _ = world.checkpoints.put_part(KIND_EMBEDDINGS, b"vectors of nobody" * 9)
    (like,) = (each for each in world.checkpoints.manifests() if each.seq == 80)
    planted = msgspec.structs.replace(
        like, seq=at, chain=world.reader().chain_at(at).hex(), epoch=world.reader().batch_of(at).epoch, digest=digest,
        parts=[part, vectors], whole=msgspec.UNSET, restores=[(at, 1)], tags={"planted": 1},
        latest={f"checkpoint:{at}": 41},
    )  # fmt: skip
    world.checkpoints.publish(planted)
    for end in (at, 121):
        built = build(world, end, destination)
        assert built.digest == world.digest_at(end) != digest
        assert built.base_seq == (40 if at == 80 else 80)
        assert [(seq, reason) for seq, reason in built.passed_over if seq == at] == [(at, UNVOUCHED)]
        os.unlink(destination)
    assert read_history(world.reader(), world.checkpoints) == read_history(world.reader())
    assert world.checkpoint().passed_over[0] == (at, UNVOUCHED)


def test_a_checkpoint_whose_event_a_kill_kept_out_costs_a_rung(world: World, destination: Path):
    """Published, verified, and never journaled: nothing tells it from a planted one."""
    world.checkpoint()
    built = build(world, 120, destination)
    assert (built.base_seq, built.passed_over) == (80, ((120, UNVOUCHED),))
    os.unlink(destination)
    world.vouch()
    assert build(world, 120, destination).base_seq == 120


def test_what_vouches_for_an_old_checkpoint_is_found_by_a_newer_ones_hint(world: World, destination: Path):
    world.grow(1)
    world.checkpoint()
    world.vouch()
    newest, *_ = world.checkpoints.manifests()
    assert newest.latest is not None
    assert newest.latest == {"checkpoint:40": 41, "checkpoint:80": 81}
    for lie in (1, 122, 10**9):  # believed no further than the event goes
        world.checkpoints.publish(msgspec.structs.replace(newest, latest={"checkpoint:80": lie}))
        assert build(world, 100, destination).base_seq == 80
        os.unlink(destination)


def test_a_checkpoint_that_lies_about_its_digest_is_passed_over(world: World, destination: Path):
    republish(world, 80, vouched=True, digest="00" * 32)
    built = build(world, 80, destination)
    assert (built.base_seq, built.digest) == (40, world.digest_at(80))


def test_parts_that_are_whole_but_no_database_are_passed_over(world: World, destination: Path):
    part, _ = world.checkpoints.put_part(KIND_MEMORY, b"no database at all" * 100)
    republish(world, 80, vouched=True, parts=[part], whole=msgspec.UNSET)
    built = build(world, 120, destination)
    assert (built.base_seq, built.digest) == (40, world.digest_at(120))
    assert "no sound database" in built.passed_over[0].reason


def test_a_checkpoint_on_a_timeline_that_a_restore_left_is_no_base(world: World, destination: Path):
    world.model.apply(121, START + 10**12, None, StateRestored(60))
    world.append([Step(121, START + 10**12, None, StateRestored(60))])
    built = build(world, 121, destination)
    assert (built.base_seq, built.events, built.digest) == (40, 20, world.digest_at(60))
    assert [seq for seq, _ in built.passed_over] == [80]
    assert "restore" in built.passed_over[0].reason
    os.unlink(destination)
    built = build(world, 120, destination)  # the timeline that was left is still there
    assert (built.base_seq, built.digest) == (80, world.digest_at(120))


# -- what cannot be ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("seq", [-1, 121])
def test_a_seq_that_is_not_in_the_journal_is_refused(world: World, destination: Path, seq: int):
    with pytest.raises(UsageError, match="ends at 120"):
        build(world, seq, destination)
    assert not destination.exists()


def test_damaged_events_that_are_needed_stop_the_build_and_leave_nothing(shared: World, tmp_path: Path):
    """Without a checkpoint beyond them, no state after the damage can be proven."""
    world = world_in(tmp_path / "damaged", seed=5)
    world.grow(3000, together=200)
    segments = world.reader().segments
    assert len(segments) >= 3
    flip(segments[1].path, 20_000)
    destination = tmp_path / "built.db"
    with pytest.raises(Corrupt) as caught:
        build(world, 3000, destination)
    assert caught.value.path == segments[1].path
    assert os.listdir(tmp_path) == ["damaged"]
    before = segments[1].first_seq - 1
    assert build(world, before, destination).digest == world.digest_at(before)


def test_damage_before_a_checkpoint_does_not_stop_a_build_on_it(tmp_path: Path):
    world = world_in(tmp_path / "world", seed=5)
    world.grow(3000, together=200)
    checkpoint(world)
    world.grow(1500, together=200)
    flip(world.reader().segments[1].path, 20_000)
    built = build(world, 4500, tmp_path / "built.db")
    assert (built.base_seq, built.digest) == (3000, world.digest_at(4500))


class Disk(RealStorage):
    """The real disk, which counts what a build asks of it and fails its n-th sync of a file."""

    def __init__(self, fail_sync: int = 0) -> None:
        self.fail_sync = fail_sync
        self.syncs = 0
        self.opened: Counter[str] = Counter()

    def open(self, path: str, *, write: bool = False, create: bool = False) -> RealFile:
        self.opened[os.path.basename(path)] += 1
        file = super().open(path, write=write, create=create)
        return CountedFile(self, file) if write else file


class CountedFile(RealFile):
    __slots__ = ("disk",)

    def __init__(self, disk: Disk, file: RealFile) -> None:
        super().__init__(file.fd, file.path)
        self.disk = disk

    def sync(self) -> None:
        self.disk.syncs += 1
        if self.disk.syncs == self.disk.fail_sync:
            raise OSError(errno.EIO, os.strerror(errno.EIO), self.path)
        super().sync()


def test_a_restore_reads_each_part_once_and_syncs_beside_the_events_and_at_the_end(world: World, tmp_path: Path):
    disk = Disk()
    target = str(tmp_path / "built.db")
    assert build_state(disk, world.layout.journal, world.reader(), 120, target).base_seq == 80
    newest, older = world.checkpoints.manifests()
    assert {disk.opened[part.sha256] for part in newest.parts} == {1}
    assert {disk.opened[part.sha256] for part in older.parts if part not in newest.parts} == {0}
    assert disk.syncs == 2


@pytest.mark.parametrize("nth", [1, 2])
def test_an_error_of_either_sync_stops_the_build(world: World, tmp_path: Path, nth: int):
    """The kernel tells an error of writing once: the sync beside the events may be the only one that hears of it."""
    target = tmp_path / "built.db"
    with pytest.raises(OSError, match="Input/output"):
        build_state(Disk(nth), world.layout.journal, world.reader(), 120, str(target))
    assert list(tmp_path.glob("built.db*")) == []


def test_a_full_disk_leaves_nothing_half_built(world: World, tmp_path: Path):
    """SQLite's own limit on the number of pages stands in for the disk's."""
    import replay.engine as engine

    connect_private = engine.connect_private

    def small(path: str) -> sqlite3.Connection:
        connection = connect_private(path)
        connection.execute("PRAGMA max_page_count=30")
        return connection

    events: list[Event] = [EntityCreated("global", "E", "t")]
    events += [ObservationAdded("global", "E", f"{number} " + "x" * 4000) for number in range(100)]
    world.append([Step(seq, START + 10**12, None, event) for seq, event in enumerate(events, 121)])
    engine.connect_private = small
    try:
        with pytest.raises(Exception) as caught:  # noqa: PT011 - which error is asserted below
            build(world, 221, tmp_path / "built.db", use_checkpoints=False)
    finally:
        engine.connect_private = connect_private
    assert getattr(caught.value, "code", "") == "no_space"
    assert not (tmp_path / "built.db").exists()
