"""Whole lives of checkpoints: made whole and as deltas, thinned, packed beside, damaged, repaired, and made again.

A life is a random history of every kind of event, restores among them, and random work upon its checkpoints; its seed
makes it again. The state is small, and so are the pieces that it is cut into: a base has many, a delta several. At
every turn, what `verify` calls whole restores to the reference's state at its seq, and what is damaged is named and
restores to that state by another way.
"""

from __future__ import annotations

import os
import random
import struct
from collections.abc import Callable
from contextlib import closing
from hashlib import sha256
from pathlib import Path
from zlib import crc32

import pytest

from journal.checkpoint import KIND_PAGES, Damaged, Manifest
from journal.errors import Corrupt
from journal.events import EntityCreated, EntityDeleted, Event, ObservationAdded, ScopeCleared, StateRestored
from journal.packing import pack_segments
from journal.parity_store import ParityStore, listed_parts
from journal.repair import execute_repairs, plan_repairs
from journal.retention import Policy
from journal.verify import verify
from replay import drafts, memory_parts, page_delta
from replay.catchup import catch_up
from replay.checkpoints import verify_checkpoint
from replay.embeddings import Row, store
from replay.engine import build_state
from replay.schema import connect
from replay.thinning import plan_thinning, thin
from replay.vouching import refusal
from tests.histories import START, Step
from tests.test_replay_checkpoints import leftovers
from tests.worlds import world_in

LATER = START + 10**15
LIVES = (*range(7), 300)  # the last one's base rots into a row whose parent is missing
STEPS = 32
WORDS = ("alpha", "beta", "gamma", "delta", "epsilon", "zeta", "eta", "theta")


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of each state a delta can be made, and its base has a dozen pieces."""
    monkeypatch.setattr(memory_parts, "BASE_BYTES_MIN", 0)
    for module in (memory_parts, page_delta, drafts):
        monkeypatch.setattr(module, "PART_BYTES", 32 << 10)
    monkeypatch.setattr(page_delta, "GROUP_PAGES_MAX", 4)


class Life:
    """One data directory, and what happens to it."""

    def __init__(self, root: Path, seed: int) -> None:
        self.rng = random.Random(seed)
        self.world = world_in(root, seed)
        self.parity = ParityStore(self.world.storage, self.world.layout.journal, share=0.3)
        self.digests: dict[int, str] = {}
        self.seen: set[str] = set()
        self.now = 1
        self.write([EntityCreated("global", f"e{number}", "t") for number in range(60)])
        self.write([ObservationAdded("global", f"e{number % 60}", self.text(number)) for number in range(700)])
        self.world.go_live()

    # -- what happens -------------------------------------------------------------------------------------------------

    def live(self) -> None:
        for _ in range(STEPS):
            turn = self.rng.choices(*zip(*TURNS, strict=True))[0]
            turn(self)

    def text(self, number: int) -> str:
        return f"{number} " + " ".join(self.rng.choices(WORDS, k=30))

    def write(self, events: list[Event]) -> None:
        """Events that are given; the model refuses none of them here."""
        model = self.world.model
        steps = [Step(seq, LATER + seq, "writer", event) for seq, event in enumerate(events, model.position + 1)]
        for step in steps:
            model.apply(*step)
        self.world.append(steps, together=50)

    def grow(self) -> None:
        """Any events; now and then restores, or a good part of the state that comes or goes at once."""
        self.world.grow(self.rng.randint(len(self.world.made) + 1, 60), restores=self.rng.choice((0, 0, 30)))
        names = [name for scope, name in self.world.model.state.entities if scope == "global"]
        chance = self.rng.random()
        if chance < 0.15 and names:
            self.write([EntityDeleted("global", name) for name in self.rng.sample(names, len(names) // 4)])
        elif chance < 0.2:
            self.write([ScopeCleared("global")])
        elif chance < 0.4 and names:
            about = self.rng.sample(names, min(len(names), 12))
            self.write([ObservationAdded("global", name, self.text(self.world.model.position)) for name in about * 12])
        elif chance < 0.5:
            self.write([StateRestored(self.rng.randint(0, self.world.model.position))])

    def follow(self) -> None:
        """The live memory.db comes to the journal's end, by a new generation where a restore is on the way."""
        if not os.path.lexists(self.world.layout.memory_db):
            self.world.go_live()
            return
        with closing(connect(os.path.realpath(self.world.layout.memory_db))) as connection:
            restore = catch_up(connection, self.world.reader()).restore
        if restore is not None:
            self.world.go_live()

    def embed(self) -> None:
        """Some texts get vectors, which travel in parts of their own."""
        if not os.path.lexists(self.world.layout.memory_db):
            return
        with closing(connect(os.path.realpath(self.world.layout.memory_db))) as connection:
            keys = [key for (key,) in connection.execute("SELECT DISTINCT text_sha256 FROM observations")]
            chosen = self.rng.sample(keys, min(len(keys), 10))
            vectors = [struct.pack("<8f", *([key[0] / 7] * 8)) for key in chosen]
            store(connection, [Row(key, "m", each, crc32(each)) for key, each in zip(chosen, vectors, strict=True)])

    def lose_memory(self) -> None:
        if os.path.lexists(self.world.layout.memory_db):
            os.unlink(self.world.layout.memory_db)

    def checkpoint(self) -> None:
        """One is made, as a rule where the journal ends; a kill may keep the event that vouches for it from it."""
        if self.rng.random() < 0.7:
            self.follow()
        self.now += 1
        made = self.world.checkpoint(self.now)
        assert made.digest == self.digest_at(made.seq)
        assert not made.drift
        (manifest,) = (each for each in self.world.checkpoints.manifests() if each.seq == made.seq)
        assert self.world.checkpoints.check(manifest) == [], "what was damaged before is no part of a new checkpoint"
        self.seen.add("delta" if manifest.of_kind(KIND_PAGES) else "whole")
        if self.rng.random() < 0.85:
            self.world.vouch()
        else:
            self.world.made.clear()

    def fill_parity(self) -> None:
        self.parity.fill()

    def pack(self) -> None:
        done = pack_segments(self.world.storage, self.world.layout.journal, self.parity, bytes_min=1)
        assert done.skipped == []

    def prune(self) -> None:
        """What a dry run tells is what goes; whatever stays restores as before."""
        checkpoints, reader = self.world.checkpoints, self.world.reader()
        policy = Policy(gap_events=self.rng.randint(1, 400), gap_ratio=self.rng.choice((0.0, 0.1, 0.5)))
        sound = {each.seq for each in checkpoints.manifests() if checkpoints.check(each) == []}
        plan = plan_thinning(reader, checkpoints, policy)
        dropped = {manifest.seq for manifest, _ in plan.drop}
        manifests = checkpoints.manifests()
        vouched = {each.seq for each in manifests if refusal(each, reader, manifests) is None}
        assert {each.seq for each in manifests if each.seq < max(vouched, default=0)} - vouched <= dropped
        assert len(vouched - dropped) >= min(2, len(vouched))
        before, foreseen = self.files(), plan.foreseen(checkpoints)
        assert self.files() == before
        if not plan.drop:
            return
        assert thin(plan, checkpoints, self.parity) == foreseen
        gone = {path: size for path, size in before.items() if path not in self.files()}
        parts = {path: size for path, size in gone.items() if "/parts/" in path}
        assert (len(parts), sum(parts.values())) == foreseen
        assert {path for path in gone if "/parts/" not in path} == set(map(checkpoints.manifest_path, dropped))
        stay = {each.seq for each in checkpoints.manifests() if checkpoints.check(each) == []}
        assert stay == sound - dropped
        self.seen.add("pruned")
        self.judge()

    def files(self) -> dict[str, int]:
        """Path and bytes of each manifest and part."""
        found = [path for path in Path(self.world.checkpoints.directory).rglob("*") if path.is_file()]
        return {str(path): path.stat().st_size for path in found if path.name != "lock"}

    def damage(self) -> None:
        """One manifest or part is no longer what it was. Then it is repaired, or gone on with, or put back."""
        checkpoints = self.world.checkpoints
        manifests = checkpoints.manifests()
        paths = {"": [checkpoints.manifest_path(each.seq) for each in manifests]}
        for part in listed_parts(manifests):
            if checkpoints.is_whole(part):
                paths.setdefault(part.kind, []).append(checkpoints.part_path(part))
        path = self.rng.choice(paths[self.rng.choice(sorted(paths))] or [""])
        if not path:
            return
        good = Path(path).read_bytes()
        is_manifest, protected = "/parts/" not in path, self.protects(path, good)
        harm = self.rng.choice(HARMS[:-1] if is_manifest else HARMS)
        harm(self.rng, path, good)
        self.judge({path})
        if self.rng.random() < 0.4:
            return
        plan = plan_repairs(self.world.storage, self.world.layout.journal, self.parity)
        refused = {each for each, _ in plan.refused}
        execute_repairs(self.world.storage, self.world.layout.journal, self.parity, plan)
        if path in refused:
            assert harm is not _lengthen
            assert not protected or harm in (_cut, _remove), f"{path}: {harm.__name__}"
            Path(path).write_bytes(good)
        else:
            # Of a manifest that was replaced since, its parity is that of the one before: of the same seq and state.
            after = Path(path).read_bytes()
            assert after == good or (is_manifest and not protected), f"{path}: {harm.__name__}"
            self.seen.add(f"repaired {harm.__name__}")
        self.judge()

    def protects(self, path: str, good: bytes) -> bool:
        """Whether there is parity of these very bytes."""
        parity = self.parity.read(path.removeprefix(f"{self.world.layout.journal}/"))
        return parity is not None and parity.header.sha256 == sha256(good).digest()

    # -- what must hold -----------------------------------------------------------------------------------------------

    def digest_at(self, seq: int) -> str:
        if seq not in self.digests:
            self.digests[seq] = self.world.digest_at(seq)
        return self.digests[seq]

    def judge(self, wounded: set[str] = frozenset()) -> None:  # type: ignore[assignment]
        """Of all checkpoints: what `verify` says, and what they restore to. `wounded` are paths that must be named."""
        world = self.world
        found = [each for each in verify(world.storage, world.layout.journal).findings if each.severity == "damage"]
        named = {each.path: each.message for each in found if "/parity/" not in each.path}
        assert wounded <= named.keys()
        manifests, damaged = world.checkpoints.scan()
        self.held_by_name(named, manifests, damaged)
        for manifest in manifests:
            bad = {world.checkpoints.part_path(part) for part in manifest.memory_parts} & named.keys()
            path = f"{world.layout.root}/judged.db"
            built = build_state(world.storage, world.layout.journal, world.reader(), manifest.seq, path)
            os.unlink(path)
            assert built.digest == self.digest_at(manifest.seq)
            refused = refusal(manifest, world.reader(), manifests) is not None
            assert (built.base_seq == manifest.seq) == (not bad and not refused)
            told = {each.seq: each.reason for each in built.passed_over}
            if bad and not refused:
                assert any(each in told[manifest.seq] for each in bad)

    def held_by_name(self, named: dict[str, str], manifests: list[Manifest], damaged: list[Damaged]) -> None:
        """Each file that is damaged is named, no other is, and a part with the checkpoints that it takes down."""
        checkpoints = self.world.checkpoints
        wrong = {each.path for each in damaged}
        for manifest in manifests:
            wrong |= {error.path for error in checkpoints.check(manifest) if error.path is not None}
        assert named.keys() == wrong
        for path, message in named.items():
            down = [each.seq for each in reversed(manifests) if path in map(checkpoints.part_path, each.parts)]
            if "/parts/" in path:
                assert message.endswith(f"it is part of the checkpoints at seq {', '.join(map(str, down))}")

    def end(self) -> None:
        """Each checkpoint is proven once more, or why not is said; then one that is whole."""
        self.judge()
        checkpoints = self.world.checkpoints
        for manifest in checkpoints.manifests():
            broken = [error.path for error in checkpoints.check(manifest)]
            if not broken:
                assert verify_checkpoint(checkpoints, manifest, lambda: 9).digest == self.digest_at(manifest.seq)
                continue
            with pytest.raises(Corrupt) as caught:
                verify_checkpoint(checkpoints, manifest, lambda: 9)
            assert caught.value.path in broken
        self.follow()
        self.checkpoint()
        assert leftovers(self.world) == [] or checkpoints.damaged()


def _flip(rng: random.Random, path: str, good: bytes) -> None:
    at = rng.randrange(len(good))
    Path(path).write_bytes(good[:at] + bytes([good[at] ^ 1 << rng.randrange(8)]) + good[at + 1 :])


def _zero(rng: random.Random, path: str, good: bytes) -> None:
    at = rng.randrange(0, len(good), 512)
    end = min(at + 512, len(good))
    Path(path).write_bytes(good[:at] + bytes(each ^ 0xFF for each in good[at:end]) + good[end:])


def _lengthen(rng: random.Random, path: str, good: bytes) -> None:
    Path(path).write_bytes(good + rng.randbytes(rng.randint(1, 5000)))


def _cut(rng: random.Random, path: str, good: bytes) -> None:
    Path(path).write_bytes(good[: rng.randrange(len(good))])


def _remove(_: random.Random, path: str, good: bytes) -> None:
    """Of a part: that a manifest is gone cannot be told from a prune."""
    os.unlink(path)


HARMS: tuple[Callable[[random.Random, str, bytes], None], ...] = (_flip, _zero, _lengthen, _cut, _remove)

TURNS: tuple[tuple[Callable[[Life], None], int], ...] = (
    (Life.grow, 8), (Life.checkpoint, 9), (Life.prune, 6), (Life.damage, 8), (Life.fill_parity, 4), (Life.pack, 2),
    (Life.embed, 4), (Life.lose_memory, 4),
)  # fmt: skip


@pytest.mark.parametrize("seed", LIVES)
def test_a_life_of_checkpoints(tmp_path: Path, small: None, seed: int) -> None:
    life = Life(tmp_path, seed)
    life.live()
    life.end()
