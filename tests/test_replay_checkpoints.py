"""Making checkpoints beside a live memory.db: shared parts, drift, kills at every step, vectors."""

from __future__ import annotations

import os
import signal
import sqlite3
import struct
from collections.abc import Callable
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import Any
from zlib import crc32

import pytest

from journal.checkpoint import KIND_EMBEDDINGS, KIND_MEMORY
from journal.errors import Corrupt, Locked
from journal.events import EntityCreated, ObservationAdded, StateRestored, TagCreated
from journal.storage import RealFile, RealStorage
from replay.catchup import catch_up
from replay.checkpoints import Shadow, make_checkpoint, verify_checkpoint
from replay.embeddings import Row, store
from replay.engine import build_state
from replay.schema import connect
from tests.histories import START, Step
from tests.worlds import World, flip, world_in

LATER = START + 10**15


@pytest.fixture
def world(tmp_path: Path) -> World:
    """80 events and a live memory.db at their end."""
    world = world_in(tmp_path, seed=11)
    world.grow(80)
    world.go_live()
    return world


def make(world: World, now: int = 1) -> Shadow:
    return world.checkpoint(now)


def follow(world: World) -> None:
    """The live memory.db takes in what was appended."""
    with closing(connect(os.path.realpath(world.layout.memory_db))) as connection:
        catch_up(connection, world.reader())


def change_live(world: World, sql: str, *parameters: object) -> None:
    with closing(connect(os.path.realpath(world.layout.memory_db))) as connection:
        assert connection.execute(sql, parameters).rowcount == 1


def leftovers(world: World) -> list[str]:
    """What no manifest lists: nothing, after a run."""
    checkpoints = world.checkpoints
    listed = {part.sha256 for manifest in checkpoints.manifests() for part in manifest.parts}
    found = [name for name in checkpoints.storage.list(checkpoints.parts_directory) if name not in listed]
    known = {"parts", "lock", *(os.path.basename(checkpoints.manifest_path(m.seq)) for m in checkpoints.manifests())}
    return found + [name for name in os.listdir(checkpoints.directory) if name not in known]


# -- what it is -------------------------------------------------------------------------------------------------------


def test_a_checkpoint_is_the_state_of_the_journal_at_the_live_position(world: World):
    made = make(world, now=77)
    (manifest,) = world.checkpoints.manifests()
    assert (made.seq, made.digest, made.base_seq) == (80, world.digest_at(80), 0)
    assert (made.drift, made.live_digest, made.live_problem) == (False, made.digest, None)
    assert (manifest.state, manifest.verified_at, manifest.time) == ("verified", 77, 77)
    assert manifest.counts["entities"] == len(world.model.rows()["entities"])
    assert (made.bytes, made.parts) == (manifest.bytes, len(manifest.parts))
    assert leftovers(world) == []


def test_what_is_not_yet_applied_is_not_in_the_checkpoint(world: World):
    world.grow(10)
    made = make(world)
    assert (made.seq, made.drift) == (80, False)


def test_the_manifest_carries_restores_and_tags_up_to_its_seq(world: World):
    for event in (TagCreated("before", 80), StateRestored(30), TagCreated("moved", 5), TagCreated("moved", 6)):
        seq = world.model.position + 1
        world.model.apply(seq, LATER, None, event)
        world.append([Step(seq, LATER, None, event)])
    os.unlink(world.layout.memory_db)
    world.go_live()
    world.append([Step(85, LATER, None, TagCreated("after", 84))])
    made = make(world)
    (manifest,) = world.checkpoints.manifests()
    assert (made.seq, made.digest) == (84, world.digest_at(30))
    assert manifest.restores == [(82, 30)]
    assert manifest.tags == {"before": 80, "moved": 6}


def test_the_next_checkpoint_is_built_on_the_last_and_shares_its_parts(world: World):
    bulk = [EntityCreated("global", "E", "t")] + [
        ObservationAdded("global", "E", f"{number} " + "long " * 400) for number in range(2000)
    ]
    for seq, event in enumerate(bulk, 81):
        world.model.apply(seq, LATER, None, event)
    world.append([Step(seq, LATER, None, event) for seq, event in enumerate(bulk, 81)], together=500)
    follow(world)
    first = make(world)
    assert first.bytes > 3 << 20
    world.grow(20)
    follow(world)
    second = make(world)
    assert (second.base_seq, second.events, second.drift) == (first.seq, 20, False)
    assert second.digest == world.digest_at(second.seq)
    assert second.new_bytes <= second.bytes - (1 << 20)


def test_a_second_checkpoint_at_the_same_seq_proves_the_first_again(world: World):
    first = make(world, now=1)
    world.vouch()
    second = make(world, now=2)
    (manifest,) = world.checkpoints.manifests()
    assert (second.seq, second.base_seq, second.new_bytes) == (first.seq, first.seq, 0)
    assert manifest.verified_at == 2


def test_a_damaged_last_checkpoint_is_no_base_and_is_made_good(world: World):
    """Sharing the damaged part with the new checkpoint would make both unusable."""
    make(world)
    world.vouch()
    (manifest,) = world.checkpoints.manifests()
    path = world.checkpoints.part_path(manifest.parts[0])
    flip(path, 5000)
    made = make(world)
    assert (made.base_seq, [seq for seq, _ in made.passed_over]) == (0, [80])
    assert world.checkpoints.check(world.checkpoints.manifests()[0]) == []


def test_an_empty_journal_has_a_checkpoint_too(tmp_path: Path):
    world = world_in(tmp_path)
    world.go_live()
    made = make(world)
    assert (made.seq, made.digest, made.drift) == (0, world.digest_at(0), False)


# -- drift ------------------------------------------------------------------------------------------------------------


def test_bytes_changed_inside_a_row_are_drift_and_not_in_the_checkpoint(world: World):
    change_live(world, "UPDATE entities SET name = name || 'x' WHERE id = (SELECT max(id) FROM entities)")
    made = make(world)
    assert made.drift
    assert made.live_digest not in (None, made.digest)
    assert made.digest == world.digest_at(80)


def test_a_row_deleted_by_another_program_is_drift(world: World):
    change_live(world, "DELETE FROM agents WHERE name = (SELECT max(name) FROM agents)")
    assert make(world).drift


@pytest.mark.parametrize("damage", ["page 1 zeroed", "pages overwritten", "a foreign database", "another history"])
def test_a_live_file_that_cannot_be_trusted_is_drift_with_its_reason(world: World, damage: str):
    path = os.path.realpath(world.layout.memory_db)
    if damage == "page 1 zeroed":
        with open(path, "r+b") as file:
            file.write(bytes(4096))
    elif damage == "pages overwritten":
        with open(path, "r+b") as file:
            file.seek(4096)
            file.write(os.urandom(os.path.getsize(path) - 4096))
    elif damage == "a foreign database":
        os.unlink(path)
        with closing(sqlite3.connect(path)) as connection:
            connection.execute("CREATE TABLE other (x)")
    else:
        change_live(world, "UPDATE journal_position SET chain = ?", "00" * 32)
    made = make(world)
    assert (made.seq, made.digest) == (80, world.digest_at(80))
    assert made.drift
    assert made.live_problem
    assert made.live_digest is None


def test_a_missing_memory_db_is_no_drift(world: World):
    os.unlink(world.layout.memory_db)
    made = make(world)
    assert (made.seq, made.drift) == (80, False)
    assert made.live_problem


def test_writing_goes_on_while_a_checkpoint_is_made(world: World):
    """Another connection commits between the look at the live state and the end."""

    def write_once(done: int, total: int) -> None:
        if done == total and len(world.steps) == 80:
            world.grow(5)
            follow(world)

    made = make_checkpoint(world.storage, world.layout, lambda: 1, write_once)
    assert (made.seq, made.drift, made.digest) == (80, False, world.digest_at(80))
    assert make(world).seq == 85


# -- kills ------------------------------------------------------------------------------------------------------------


class DyingStorage(RealStorage):
    """The real disk; at the n-th change this process is killed, and nothing more happens."""

    def __init__(self, left: int) -> None:
        self.left = left

    def count(self) -> None:
        if self.left == 0:
            os.kill(os.getpid(), signal.SIGKILL)
        self.left -= 1

    def open(self, path: str, *, write: bool = False, create: bool = False) -> RealFile:
        if create:
            self.count()
        file = super().open(path, write=write, create=create)
        return DyingFile(self, file) if write else file

    def replace(self, source: str, target: str) -> None:
        self.count()
        super().replace(source, target)

    def remove(self, path: str) -> None:
        self.count()
        super().remove(path)


class DyingFile(RealFile):
    __slots__ = ("storage",)

    def __init__(self, storage: DyingStorage, file: RealFile) -> None:
        super().__init__(file.fd, file.path)
        self.storage = storage

    def write_at(self, offset: int, data: bytes) -> None:
        self.storage.count()
        super().write_at(offset, data[: len(data) // 2])
        self.storage.count()
        super().write_at(offset, data)


def killed(work: Callable[[], object]) -> bool:
    """Runs `work` in a forked process; True if it was killed on the way."""
    child = os.fork()
    if child == 0:
        status = 1
        try:
            work()
            status = 0
        finally:
            os._exit(status)
    _, status = os.waitpid(child, 0)
    assert os.WIFSIGNALED(status) or status == 0
    return os.WIFSIGNALED(status)


def test_a_kill_at_any_step_leaves_the_ladder_whole(world: World):
    """Every change to the disk is one place to die at; what is left then is cleaned by the next run."""
    make(world)
    world.grow(10)
    follow(world)
    kills = 0
    while killed(partial(make_checkpoint, DyingStorage(kills), world.layout, lambda: 1)):
        kills += 1
        for manifest in world.checkpoints.manifests():
            assert world.checkpoints.check(manifest) == []
        assert world.checkpoints.damaged() == []
        path = f"{world.layout.root}/built.db"
        built = build_state(world.storage, world.layout.journal, world.reader(), 90, path)
        assert (built.digest, built.base_seq in (80, 90)) == (world.digest_at(90), True)
        os.unlink(path)
    assert kills >= 15
    assert [manifest.seq for manifest in world.checkpoints.manifests()] == [90, 80]
    assert leftovers(world) == []


def test_the_leftovers_of_a_kill_are_cleaned_by_the_next_run(world: World):
    """Another state is current by then, so nothing of what was left is used again."""
    left = 0
    for step in range(0, 60, 3):
        if not killed(partial(make_checkpoint, DyingStorage(step), world.layout, lambda: 1)):
            break
        left += bool(leftovers(world))
        world.grow(3)
        follow(world)
    assert left >= 5
    made = make(world)
    assert leftovers(world) == []
    assert {manifest.state for manifest in world.checkpoints.manifests()} == {"verified"}
    assert made.digest == world.digest_at(made.seq)


def test_two_at_once_are_refused(world: World):
    with world.checkpoints.exclusive(), pytest.raises(Locked):
        make(world)


# -- proof ------------------------------------------------------------------------------------------------------------


class RottenStorage(RealStorage):
    """A disk that turns a bit over in every part that is written."""

    def replace(self, source: str, target: str) -> None:
        super().replace(source, target)
        if "/parts/" in target:
            flip(target, 100)


def test_a_checkpoint_that_does_not_read_back_is_on_no_ladder(world: World):
    with pytest.raises(Corrupt):
        make_checkpoint(RottenStorage(), world.layout, lambda: 1)
    assert [manifest.state for manifest in world.checkpoints.manifests()] == ["written"]
    path = f"{world.layout.root}/built.db"
    assert build_state(world.storage, world.layout.journal, world.reader(), 80, path).base_seq == 0


def test_verification_can_be_repeated(world: World):
    make(world, now=1)
    (manifest,) = world.checkpoints.manifests()
    assert verify_checkpoint(world.checkpoints, manifest, lambda: 9).verified_at == 9
    assert world.checkpoints.manifests()[0].verified_at == 9


def test_verification_finds_a_damaged_part(world: World):
    make(world)
    (manifest,) = world.checkpoints.manifests()
    flip(world.checkpoints.part_path(manifest.parts[0]), 5000)
    with pytest.raises(Corrupt) as caught:
        verify_checkpoint(world.checkpoints, manifest, lambda: 9)
    assert caught.value.path == world.checkpoints.part_path(manifest.parts[0])


# -- vectors ----------------------------------------------------------------------------------------------------------


def embed(world: World, *, model: str = "model-1", after: int = 0) -> list[Row]:
    """Gives every observation after `after` a vector of its own."""
    with closing(connect(os.path.realpath(world.layout.memory_db))) as connection:
        query = "SELECT DISTINCT text_sha256 FROM observations WHERE id > ?"
        rows = []
        for (key,) in connection.execute(query, (after,)).fetchall():
            vector = struct.pack("<384f", *([key[0] / 7] * 384))
            rows.append(Row(key, model, vector, crc32(vector)))
        store(connection, rows)
    return rows


def vectors_in(path: str) -> list[tuple[Any, ...]]:
    with closing(sqlite3.connect(path)) as connection:
        return connection.execute("SELECT * FROM embeddings ORDER BY text_sha256, model").fetchall()


def rebuilt(world: World, seq: int) -> tuple[list[tuple[Any, ...]], tuple[str, ...]]:
    world.vouch()
    path = f"{world.layout.root}/built-{seq}.db"
    built = build_state(world.storage, world.layout.journal, world.reader(), seq, path)
    found = vectors_in(path)
    assert built.embeddings == len(found)
    assert built.digest == world.digest_at(seq)
    os.unlink(path)
    return found, built.parts_lost


def test_vectors_travel_in_parts_of_their_own(world: World):
    rows = embed(world)
    made = make(world)
    assert made.embeddings_parts == 1
    assert made.digest == world.digest_at(80)
    assert rebuilt(world, 80) == (sorted(tuple(row) for row in rows), ())
    (manifest,) = world.checkpoints.manifests()
    with closing(sqlite3.connect(":memory:")) as connection:
        data = b"".join(world.checkpoints.read_part(part) for part in manifest.of_kind(KIND_MEMORY))
        connection.deserialize(data)
        assert connection.execute("SELECT count(*) FROM embeddings").fetchone() == (0,)


def test_an_earlier_state_gets_the_vectors_of_its_own_texts_only(world: World):
    embedded = {row.text_sha256 for row in embed(world)}
    make(world)
    found, _ = rebuilt(world, 40)
    keys = {row[3] for row in world.model.state_at(40).rows()["observations"]}
    assert {row[0] for row in found} == keys & embedded
    assert len(found) < len(embedded)


def test_vectors_are_carried_on_and_new_ones_added(world: World):
    embed(world)
    make(world)
    world.grow(60)
    follow(world)
    rows = embed(world)
    second = make(world)
    newest, older = world.checkpoints.manifests()
    assert set(older.of_kind(KIND_EMBEDDINGS)) <= set(newest.of_kind(KIND_EMBEDDINGS))
    assert second.embeddings_parts == 2
    assert rebuilt(world, 140) == (sorted(tuple(row) for row in rows), ())


def test_a_vector_with_a_wrong_checksum_is_left_out(world: World):
    rows = embed(world)
    change_live(world, "UPDATE embeddings SET checksum = checksum + 1 WHERE text_sha256 = ?", rows[0].text_sha256)
    make(world)
    found, _ = rebuilt(world, 80)
    assert found == sorted(tuple(row) for row in rows[1:])


def test_a_damaged_part_of_vectors_costs_only_them_and_is_named(world: World):
    embed(world)
    make(world)
    (manifest,) = world.checkpoints.manifests()
    path = world.checkpoints.part_path(manifest.of_kind(KIND_EMBEDDINGS)[0])
    flip(path, 1000)
    found, lost = rebuilt(world, 80)
    assert found == []
    assert [path in reason for reason in lost] == [True]
    assert make(world).embeddings_parts == 1  # the live ones replace it
    assert rebuilt(world, 80)[1] == ()


def test_without_a_live_file_the_vectors_of_the_last_checkpoint_stay(world: World):
    rows = embed(world)
    make(world)
    os.unlink(world.layout.memory_db)
    world.grow(5)
    made = make(world)
    assert (made.seq, made.embeddings_parts) == (85, 1)
    keys = {row[3] for row in world.model.rows()["observations"]}
    assert rebuilt(world, 85)[0] == sorted(tuple(row) for row in rows if row.text_sha256 in keys)


def test_a_damaged_part_of_vectors_is_not_carried_on_without_a_live_file(world: World):
    embed(world)
    make(world)
    world.vouch()
    (manifest,) = world.checkpoints.manifests()
    flip(world.checkpoints.part_path(manifest.of_kind(KIND_EMBEDDINGS)[0]), 1000)
    os.unlink(world.layout.memory_db)
    assert make(world).embeddings_parts == 0
    assert world.checkpoints.check(world.checkpoints.manifests()[0]) == []


def test_many_small_parts_of_vectors_are_packed_together(world: World):
    for _ in range(12):
        at = world.model.position
        seq = at + 1
        event = EntityCreated("global", f"new {seq}", "t")
        text = ObservationAdded("global", f"new {seq}", f"text {seq}")
        for number, each in enumerate((event, text), seq):
            world.model.apply(number, LATER, None, each)
            world.append([Step(number, LATER, None, each)])
        follow(world)
        embed(world, after=at)
        made = make(world)
        world.vouch()
    assert made.embeddings_parts <= 9
    assert len(rebuilt(world, made.seq)[0]) == 12
