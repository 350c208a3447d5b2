"""Something rots in a journal's own files: it is named, and a repair ends in the exact bytes or is refused."""

from __future__ import annotations

import random
from collections import Counter

import pytest

from journal.errors import Locked
from journal.log import Log
from journal.parity_store import ParityStore
from journal.reader import LogReader
from journal.repair import execute_repairs, plan_repairs
from journal.repaired import read_pending
from tests.repairs import JOURNAL, Subject, build, damage_of, files_in, judge_flip, put, repair
from tests.simdisk import SimDisk
from tests.simfaults import PowerCut


@pytest.fixture(scope="module")
def subject() -> Subject:
    return build()


@pytest.fixture(scope="module")
def without_parity() -> Subject:
    return build(parity=False)


def test_a_whole_journal_has_nothing_to_repair(subject: Subject) -> None:
    assert damage_of(subject.disk) == []
    assert repair(subject.disk) == []
    assert subject.changed() == []


@pytest.mark.parametrize("seed", range(4))
def test_one_flipped_bit_anywhere_ends_in_the_exact_bytes(subject: Subject, seed: int) -> None:
    """Segments, manifests, parts and parity; `make faults` takes every bit."""
    rng = random.Random(seed)
    places = subject.places()
    methods: Counter[str] = Counter()
    for _ in range(100):
        ((path, length),) = rng.choices(places, [length for _, length in places])
        methods[judge_flip(subject, path, rng.randrange(length), rng.randrange(8))] += 1
    assert {"one bit", "parity", "anew"} <= set(methods)


def test_without_parity_one_bit_of_a_segment_or_a_manifest_is_put_right(without_parity: Subject) -> None:
    rng = random.Random(1)
    places = [(path, length) for path, length in without_parity.places() if "/parts/" not in path]
    methods: Counter[str] = Counter()
    for _ in range(150):
        ((path, length),) = rng.choices(places, [length for _, length in places])
        methods[judge_flip(without_parity, path, rng.randrange(length), rng.randrange(8))] += 1
    assert set(methods) <= {"one bit", "copy"}


def test_without_parity_a_part_is_named_and_refused(without_parity: Subject) -> None:
    path = next(path for path, _ in without_parity.places() if "/parts/" in path)
    without_parity.disk.poke(path, 7, b"\xee")
    try:
        assert damage_of(without_parity.disk) == [path]
        assert repair(without_parity.disk) == []
        plan = plan_repairs(without_parity.disk, JOURNAL, ParityStore(without_parity.disk, JOURNAL))
        assert [each for each, _ in plan.refused] == [path]
        assert damage_of(without_parity.disk) == [path]
    finally:
        without_parity.reset()


def test_a_carried_batch_is_brought_back_from_the_segment_that_it_was_carried_from(without_parity: Subject) -> None:
    """Scenario: more than a bit is wrong, but the void bytes of the killed writer's segment still hold the batch."""
    disk = without_parity.disk
    carried = next(path for path in without_parity.padding if path.endswith("-000003.seg"))
    carrying = sorted(path for path in without_parity.padding if path > carried)[0]
    data = without_parity.files[carrying]
    at = data.index(b"fact")
    disk.poke(carrying, at, bytes(6))
    try:
        (done,) = repair(disk)
        assert (done.method, done.proof) == ("copy", "chain")
        assert without_parity.changed() == []
    finally:
        without_parity.reset()


@pytest.mark.parametrize("kind", ["/segments/", ".manifest", "/parts/"])
def test_a_sector_that_reads_as_zeros_is_restored_from_parity(subject: Subject, kind: str) -> None:
    for path, length in subject.places(parity=False):
        if kind not in path:
            continue
        for offset in range(0, length, 512):
            span = min(512, length - offset)
            if not any(subject.files[path][offset : offset + span]):
                continue
            subject.disk.poke(path, offset, bytes(span))
            assert path in damage_of(subject.disk)
            done = repair(subject.disk)
            assert subject.changed() == [], (path, offset, [each.words() for each in done])
            subject.reset()


def test_a_file_that_is_gone_comes_back_where_its_parity_holds_all_of_it(subject: Subject) -> None:
    """A small file is a shard by itself, so its parity is a copy."""
    gone = [path for path, _ in subject.places(parity=False) if ".manifest" not in path]
    for path in gone:
        subject.disk.remove(path)
        assert damage_of(subject.disk), path
        repair(subject.disk)
        end = subject.padding.get(path)
        assert subject.disk.read(path)[:end] == subject.files[path][:end], path
        assert damage_of(subject.disk) == []
        subject.reset()


def test_every_length_a_segment_may_be_cut_to_is_repaired_or_named(subject: Subject) -> None:
    segments = [path for path, _ in subject.places(parity=False) if "/segments/" in path]
    for path in segments:
        whole = subject.files[path]
        for length in range(0, subject.padding[path], 37):
            put(subject.disk, path, whole[:length])
            repair(subject.disk)
            now = subject.disk.read(path)
            end = subject.padding[path]
            assert now[:end] == whole[:end], (path, length)
            subject.reset()


def test_two_wrong_bits_in_one_batch_without_parity_are_refused_and_named(without_parity: Subject) -> None:
    path = next(path for path, _ in without_parity.places() if path.endswith("-000002.seg"))
    at = without_parity.files[path].index(b"fact 1")
    without_parity.disk.poke(path, at, b"tacf")
    try:
        assert repair(without_parity.disk) == []
        assert path in damage_of(without_parity.disk)
        assert without_parity.changed() == [path], "what cannot be proven stays as it is"
    finally:
        without_parity.reset()


def test_damage_in_many_files_at_once_is_all_put_right(subject: Subject) -> None:
    rng = random.Random(3)
    for path, length in subject.places(parity=False):
        offset = rng.randrange(length)
        subject.disk.poke(path, offset, bytes([subject.files[path][offset] ^ 1 << rng.randrange(8)]))
    done = repair(subject.disk)
    assert subject.changed() == []
    assert {each.path for each in done} == {
        path.removeprefix(f"{JOURNAL}/") for path, _ in subject.places(parity=False)
    }  # fmt: skip
    assert repair(subject.disk) == []
    assert damage_of(subject.disk) == []
    subject.reset()


def test_a_live_writer_is_not_disturbed(subject: Subject) -> None:
    subject.disk.poke(next(path for path, _ in subject.places() if path.endswith(".seg")), 30, b"\xff")
    lock = subject.disk.lock(f"{JOURNAL}/lock")
    assert lock is not None
    try:
        with pytest.raises(Locked):
            repair(subject.disk)
    finally:
        lock.release()
        subject.reset()


def test_a_repair_that_is_cut_at_any_change_leaves_the_old_file_or_the_new_one() -> None:
    """And the next run ends in the exact bytes, with all that was done noted once for the journal."""
    subject = build()
    rng = random.Random(8)
    wrong: dict[str, bytes] = {}
    for path in rng.sample([path for path, _ in subject.places(parity=False)], 4):
        offset = rng.randrange(dict(subject.places())[path])
        subject.disk.poke(path, offset, bytes([subject.files[path][offset] ^ 4]))
        wrong[path] = subject.disk.read(path)
    parity = next(path for path, _ in subject.places() if path.endswith(".par"))
    subject.disk.poke(parity, 40, b"\x99\x98")
    image = subject.disk.crash(rng, "all")
    counted = image.crash(rng, "all")
    repair(counted)
    for cut in range(1, counted.counts.changes + 1):
        disk = image.crash(rng, "all")
        disk.cut_at = cut
        with pytest.raises(PowerCut):
            repair(disk)
        after = disk.crash(random.Random(cut), "torn")
        for path, damaged in wrong.items():
            assert after.read(path) in (damaged, subject.files[path])
        repair(after)
        subject.disk = after
        assert [path for path in subject.changed() if not path.endswith(".tmp")] == []
        noted = [each.path for each in read_pending(after, JOURNAL)]
        assert set(noted) >= {path.removeprefix(f"{JOURNAL}/") for path in wrong}
        log = Log.open(after, JOURNAL, reserve_bytes=0)
        log.close()


def test_an_open_that_repairs_and_is_cut_at_any_change_loses_nothing() -> None:
    """The last segment of a killed writer has a wrong bit in its last batch; the machine dies while it is opened."""
    subject = build(closed=False)
    reader = LogReader(subject.disk, JOURNAL)
    path, last, end = reader.tail.path, reader.last_seq, reader.tail.offset
    whole = subject.disk.read(path)
    subject.disk.poke(path, end - 30, bytes([whole[end - 30] ^ 1]))
    image = subject.disk.crash(random.Random(1), "all")
    counted = image.crash(random.Random(1), "all")
    Log.open(counted, JOURNAL, reserve_bytes=0).close()
    for cut in range(1, counted.counts.changes + 1):
        disk = image.crash(random.Random(1), "all")
        disk.cut_at = cut
        with pytest.raises(PowerCut):
            Log.open(disk, JOURNAL, reserve_bytes=0).close()
        after = disk.crash(random.Random(cut), "torn")
        log = Log.open(after, JOURNAL, reserve_bytes=0)
        assert log.next_seq == last + 1
        assert after.read(path)[:end] == whole[:end]
        log.close()


def test_planning_changes_nothing(subject: Subject) -> None:
    subject.disk.poke(next(path for path, _ in subject.places() if path.endswith(".seg")), 30, b"\xff")
    before, changes = files_in(subject.disk), subject.disk.counts.changes
    plan = plan_repairs(subject.disk, JOURNAL, ParityStore(subject.disk, JOURNAL))
    assert plan.repairs()
    assert (files_in(subject.disk), subject.disk.counts.changes) == (before, changes)
    subject.reset()


def test_parity_that_cannot_be_made_anew_is_kept(subject: Subject) -> None:
    """Scenario: a segment is damaged beyond repair and its parity, too. What is left of it may serve yet."""
    path = next(path for path, _ in subject.places() if path.endswith("-000002.seg") and "/parity/" not in path)
    parity = f"{JOURNAL}/parity/{path.removeprefix(f'{JOURNAL}/')}.par"
    subject.disk.poke(path, 30, b"\xff" * 900)
    subject.disk.poke(parity, 700, b"\xff" * 900)
    rotten = subject.disk.read(parity)
    store = ParityStore(subject.disk, JOURNAL)
    plan = plan_repairs(subject.disk, JOURNAL, store)
    assert path in dict(plan.refused)
    execute_repairs(subject.disk, JOURNAL, store, plan)
    store.fill()
    assert subject.disk.read(parity) == rotten
    subject.reset()


def test_the_disk_under_test_holds_what_repairs_are_about(subject: Subject) -> None:
    names = [path for path, _ in subject.places()]
    assert sum("/parity/" in name for name in names) == sum("/parity/" not in name for name in names)
    assert isinstance(subject.disk, SimDisk)
