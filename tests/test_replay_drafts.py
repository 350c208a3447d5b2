"""Checkpoints that are made on the last one's file: the same states, and nothing believed of what that file held.

The base rots between two checkpoints, or is swapped for another; the process is killed at each step; pages change so
often that SQLite writes them to its log several times. Small states are made by this way here as large ones are.
"""

from __future__ import annotations

import os
from functools import partial
from pathlib import Path

import msgspec
import pytest

from journal.checkpoint import KIND_MEMORY, KIND_PAGES, Manifest, Whole
from journal.errors import Corrupt
from journal.events import EntityCreated, ObservationAdded, StateRestored
from journal.storage import RealFile, RealStorage
from journal.verify import verify
from replay import drafts, memory_parts, working
from replay.checkpoints import make_checkpoint
from replay.engine import build_state
from tests.histories import START, Step
from tests.test_replay_checkpoints import DyingStorage, follow, killed, leftovers
from tests.worlds import World, flip, world_in

LATER = START + 10**15


@pytest.fixture
def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> World:
    """A state of a hundred pages or so with its checkpoint, which is vouched for, and a few events more."""
    monkeypatch.setattr(memory_parts, "BASE_BYTES_MIN", 0)
    world = world_in(tmp_path, seed=12)
    write(world, [EntityCreated("global", f"e{number}", "t") for number in range(60)])
    write(world, [ObservationAdded("global", f"e{number % 60}", f"{number} " + "word " * 40) for number in range(900)])
    world.go_live()
    world.checkpoint()
    world.vouch()
    world.grow(40)
    follow(world)
    return world


def write(world: World, events: list) -> None:  # type: ignore[type-arg]
    first = world.model.position + 1
    steps = [Step(seq, LATER + seq, None, event) for seq, event in enumerate(events, first)]
    for step in steps:
        world.model.apply(step.seq, step.time, step.agent, step.event)
    world.append(steps, together=50)


def kinds(manifest: Manifest) -> list[str]:
    return [part.kind for part in manifest.memory_parts]


def test_checkpoint_after_checkpoint_is_the_state_and_costs_what_changed(world: World):
    first = world.checkpoints.manifests()[0]
    for _ in range(5):
        made = world.checkpoint()
        manifest = world.checkpoints.manifests()[0]
        assert (made.digest, made.drift, made.passed_over) == (world.digest_at(made.seq), False, [])
        assert made.base_seq == world.checkpoints.manifests()[1].seq
        assert kinds(manifest) == [KIND_MEMORY, KIND_PAGES]
        assert manifest.of_kind(KIND_MEMORY) == first.of_kind(KIND_MEMORY)
        assert made.new_bytes < first.bytes // 5
        world.vouch()
        world.grow(30)
        follow(world)
    for manifest in world.checkpoints.manifests():
        path = f"{world.layout.root}/built.db"
        built = build_state(world.storage, world.layout.journal, world.reader(), manifest.seq, path)
        assert (built.digest, built.base_seq) == (world.digest_at(manifest.seq), manifest.seq)
        os.unlink(path)
    assert leftovers(world) == []


def test_pages_that_were_written_out_before_the_commit_are_found(world: World, monkeypatch: pytest.MonkeyPatch):
    """SQLite's cache holds next to nothing: it writes pages to its log as it goes, in any order, and over again."""
    monkeypatch.setattr(working, "_CACHE_KIB", 8)
    logs: list[dict[int, int]] = []
    frames = drafts._frames

    def seen(log, size):  # type: ignore[no-untyped-def]
        found = frames(log, size)
        logs.append(found[0])
        return found

    monkeypatch.setattr(drafts, "_frames", seen)
    write(world, [ObservationAdded("global", f"e{number * 7 % 60}", f"more {number}") for number in range(300)])
    follow(world)
    made = world.checkpoint()
    assert made.digest == world.digest_at(made.seq)
    assert len(logs[0]) > 20
    assert list(logs[0].values()) == sorted(logs[0].values())
    assert list(logs[0]) != sorted(logs[0]), "a commit alone writes them in the order of their numbers"


def test_a_restore_on_the_way_is_built_and_not_drafted(world: World):
    seq = world.model.position + 1
    world.model.apply(seq, LATER + seq, None, StateRestored(500))
    world.append([Step(seq, LATER + seq, None, StateRestored(500))])
    os.unlink(world.layout.memory_db)
    world.go_live()
    made = world.checkpoint()
    assert (made.digest, made.base_seq) == (world.digest_at(500), 0)


def test_a_second_checkpoint_of_one_seq_writes_nothing(world: World):
    first = world.checkpoint(now=5)
    world.vouch()
    os.unlink(world.layout.memory_db)
    path = world.generations.building_path()
    build_state(world.storage, world.layout.journal, world.reader(), first.seq, path)
    world.generations.swap(path)
    again = world.checkpoint(now=6)
    assert (again.seq, again.base_seq, again.new_bytes, again.digest) == (first.seq, first.seq, 0, first.digest)
    assert world.checkpoints.manifests()[0].verified_at == 6


# -- a base that is not what it should be -----------------------------------------------------------------------------


@pytest.mark.parametrize("kind", [KIND_MEMORY, KIND_PAGES])
@pytest.mark.parametrize("place", [0.001, 0.2, 0.4, 0.6, 0.8, 0.999])
def test_what_rotted_in_the_base_gets_into_no_checkpoint(world: World, kind: str, place: float):
    """A bit of a page that SQLite reads on the way, of one that it does not, or of the packed pages. The parts of the
    base are not proven before the next checkpoint is written: they are before it counts."""
    world.checkpoint()
    world.vouch()
    world.grow(20)
    follow(world)
    newest, oldest = world.checkpoints.manifests()
    part = newest.of_kind(kind)[0]
    flip(world.checkpoints.part_path(part), int(part.length * place))
    made = world.checkpoint()
    assert (made.digest, made.drift) == (world.digest_at(made.seq), False)
    assert made.base_seq == (oldest.seq if kind == KIND_PAGES else 0)
    assert made.passed_over[0].seq == newest.seq
    assert part.sha256 in made.passed_over[0].reason
    manifest = world.checkpoints.manifests()[0]
    assert world.checkpoints.check(manifest) == []
    assert leftovers(world) == []


def test_a_base_in_which_a_table_has_another_name_is_no_base(world: World):
    """What rots need not look like damage to SQLite: here it says that there is no such table, and would of a missing
    parent as well."""
    (manifest,) = world.checkpoints.manifests()
    path = Path(world.checkpoints.part_path(manifest.of_kind(KIND_MEMORY)[0]))
    path.write_bytes(path.read_bytes().replace(b"observations", b"observatives"))
    made = world.checkpoint()
    assert (made.digest, made.base_seq) == (world.digest_at(made.seq), 0)
    assert made.passed_over[0].seq == manifest.seq


def test_a_part_that_is_gone_is_no_base(world: World):
    (manifest,) = world.checkpoints.manifests()
    os.unlink(world.checkpoints.part_path(manifest.of_kind(KIND_MEMORY)[0]))
    made = world.checkpoint()
    assert (made.digest, made.base_seq) == (world.digest_at(made.seq), 0)


def test_a_base_that_changed_between_written_and_proven_is_found_out(world: World, monkeypatch: pytest.MonkeyPatch):
    """What SQLite read and what the disk holds later are two things: here the file itself is another one by then, in
    a page that SQLite changed, of which the new file has nothing."""
    prove, seen = drafts.Draft.prove, []

    def rotten(draft: drafts.Draft) -> Whole:
        seen.append([manifest.state for manifest in world.checkpoints.manifests()])
        page = min(page for page in draft._frames if page > 1 and page * 4096 <= draft._old_length)
        flip(os.path.join(world.checkpoints.directory, "work", "draft.db"), (page - 1) * 4096 + 2000)
        try:
            return prove(draft)
        except drafts.Unfit:
            seen.append(["unfit"])
            raise

    monkeypatch.setattr(drafts.Draft, "prove", rotten)
    made = world.checkpoint()
    assert seen == [["written", "verified"], ["unfit"]]
    assert (made.digest, made.drift) == (world.digest_at(made.seq), False)
    assert [manifest.state for manifest in world.checkpoints.manifests()] == ["verified", "verified"]


def test_parts_that_were_packed_wrongly_are_on_no_ladder(world: World, monkeypatch: pytest.MonkeyPatch):
    """A mistake in the delta itself: each part is what its name says, and the file that they make is another one."""
    pack = drafts.pack_delta

    def mistaken(checkpoints, base, pages, read):  # type: ignore[no-untyped-def]
        return pack(checkpoints, base, ((page, now[:4000] + b"?" * 96, old) for page, now, old in pages), read)

    monkeypatch.setattr(drafts, "pack_delta", mistaken)
    monkeypatch.setattr(memory_parts, "pack_delta", mistaken)
    with pytest.raises(Corrupt, match="another file"):
        world.checkpoint()
    assert [manifest.state for manifest in world.checkpoints.manifests()] == ["written", "verified"]


def test_a_manifest_that_is_only_written_says_no_whole_and_a_verified_one_must(world: World):
    manifest = world.checkpoints.manifests()[0]
    assert isinstance(manifest.whole, Whole)
    bare = msgspec.structs.replace(manifest, whole=Whole(manifest.whole.length, ""))
    world.checkpoints.publish(bare)
    (damaged,) = world.checkpoints.damaged()
    assert "without a digest" in str(damaged.error)
    world.checkpoints.publish(msgspec.structs.replace(bare, state="written", digest=""))
    assert world.checkpoints.damaged() == []


# -- kills ------------------------------------------------------------------------------------------------------------


def test_a_kill_at_any_step_of_a_draft_leaves_the_ladder_whole(world: World):
    end = world.model.position
    base = world.checkpoints.manifests()[0].seq
    kills, states = 0, set()
    while killed(partial(make_checkpoint, DyingStorage(kills), world.layout, lambda: 1)):
        kills += 1
        for manifest in world.checkpoints.manifests():
            assert world.checkpoints.check(manifest) == []
            states.add((manifest.seq, manifest.state))
        assert world.checkpoints.damaged() == []
        path = f"{world.layout.root}/built.db"
        built = build_state(world.storage, world.layout.journal, world.reader(), end, path)
        assert (built.digest, built.base_seq) == (world.digest_at(end), base)
        os.unlink(path)
    assert kills >= 15
    assert states == {(base, "verified"), (end, "written"), (end, "verified")}
    assert [manifest.seq for manifest in world.checkpoints.manifests()] == [end, base]
    assert leftovers(world) == []


@pytest.mark.parametrize("kind", [KIND_MEMORY, KIND_PAGES])
def test_verify_names_the_part_and_the_checkpoints_that_it_takes_down(world: World, kind: str):
    world.checkpoint()
    world.vouch()
    newest, oldest = world.checkpoints.manifests()
    path = world.checkpoints.part_path(newest.of_kind(kind)[0])
    flip(path, 100)
    (found,) = [each for each in verify(world.storage, world.layout.journal).findings if each.severity == "damage"]
    assert found.path == path
    down = [oldest.seq, newest.seq] if kind == KIND_MEMORY else [newest.seq]
    assert found.message.endswith(f"it is part of the checkpoints at seq {', '.join(map(str, down))}")
    into = f"{world.layout.root}/built.db"
    built = build_state(world.storage, world.layout.journal, world.reader(), newest.seq, into)
    assert (built.digest, built.base_seq) == (world.digest_at(newest.seq), 0 if kind == KIND_MEMORY else oldest.seq)


# -- what it costs ----------------------------------------------------------------------------------------------------


def test_what_is_written_and_synced_does_not_grow_with_the_state(world: World):
    """One part for the delta, one for the leaves, the manifest written and then verified; a work file is not synced."""

    class Counting(RealStorage):
        synced: list[str] = []

        def open(self, path: str, *, write: bool = False, create: bool = False) -> RealFile:
            file = super().open(path, write=write, create=create)
            return CountedFile(file.fd, path) if write else file

    class CountedFile(RealFile):
        __slots__ = ()

        def sync(self) -> None:
            Counting.synced.append(os.path.basename(os.path.dirname(self.path)))
            super().sync()

    made = world.checkpoint(storage=Counting())
    assert Counting.synced == ["parts", "checkpoints", "parts", "checkpoints"]
    assert made.new_bytes < world.checkpoints.manifests()[0].bytes // 5
