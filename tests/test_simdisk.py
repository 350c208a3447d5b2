"""The simulated disk: what a power cut may keep, what faults do, and that it shows what real files show."""

from __future__ import annotations

import errno
import random
from collections.abc import Callable
from typing import Any

import pytest

from journal.errors import IOFault, NoSpace, ReadOnly, Unreadable
from journal.files import write_file
from journal.storage import Storage
from tests.simdisk import SimDisk
from tests.simfaults import PowerCut
from tests.simnodes import Mode

SECTOR = 512


def disk_with(**files: bytes) -> SimDisk:
    """A disk whose directory /d holds these files, everything durable."""
    disk = SimDisk()
    disk.make_directory("/d")
    for name, content in files.items():
        write_file(disk, f"/d/{name}", content)
    assert disk.unsynced_paths() == []
    return disk


def ends(disk: SimDisk, look: Callable[[SimDisk], Any], mode: Mode = "torn", tries: int = 300) -> set[Any]:
    """What is found after a cut, over many of them."""
    return {look(disk.crash(random.Random(seed), mode)) for seed in range(tries)}


def content_of(path: str) -> Callable[[Storage], bytes | None]:
    return lambda disk: disk.read(path) if disk.kind(path) == "file" else None


# -- bytes ------------------------------------------------------------------------------------------------------------


def test_synced_bytes_survive_every_cut() -> None:
    disk = disk_with(a=b"old")
    file = disk.open("/d/a", write=True)
    file.write_at(0, b"new bytes")
    file.sync()
    for mode in ("torn", "none", "all"):
        assert ends(disk, content_of("/d/a"), mode, 20) == {b"new bytes"}


def test_unsynced_bytes_are_seen_by_readers_and_not_by_the_next_boot() -> None:
    disk = disk_with(a=b"old")
    disk.open("/d/a", write=True).write_at(0, b"new bytes")
    assert disk.read("/d/a") == b"new bytes"
    assert disk.unsynced_paths() == ["/d/a"]
    assert ends(disk, content_of("/d/a"), "none", 20) == {b"old"}
    assert ends(disk, content_of("/d/a"), "all", 20) == {b"new bytes"}


def test_a_write_is_torn_at_sectors_only() -> None:
    disk = disk_with(a=b"o" * SECTOR * 3)
    disk.open("/d/a", write=True).write_at(100, b"N" * SECTOR * 2)
    old, new = b"o" * SECTOR * 3, disk.read("/d/a")
    sectors = [slice(start, start + SECTOR) for start in (0, SECTOR, 2 * SECTOR)]
    found = ends(disk, content_of("/d/a"))
    assert found == {
        b"".join((new if kept >> bit & 1 else old)[sector] for bit, sector in enumerate(sectors)) for kept in range(8)
    }


def test_a_sector_is_as_after_any_of_its_writes_but_never_mixed() -> None:
    disk = disk_with(a=b"0000")
    file = disk.open("/d/a", write=True)
    file.write_at(0, b"1")
    file.write_at(1, b"2")
    assert ends(disk, content_of("/d/a")) == {b"0000", b"1000", b"1200"}


def test_a_grown_file_may_be_any_length_and_shows_zeros() -> None:
    disk = disk_with(a=b"x" * 10)
    disk.open("/d/a", write=True).write_at(10, b"y" * SECTOR)
    full = b"x" * 10 + b"y" * SECTOR
    first, second = full[:SECTOR], full[SECTOR:]
    blank = b"x" * 10 + bytes(SECTOR - 10)
    assert ends(disk, content_of("/d/a")) == {
        b"x" * 10, full, blank + bytes(10), first + bytes(10), blank + second,
    }  # fmt: skip


def test_a_truncation_arrives_in_order() -> None:
    disk = disk_with(a=b"old content")
    file = disk.open("/d/a", write=True)
    file.truncate(0)
    file.write_at(0, b"new")
    assert ends(disk, content_of("/d/a")) == {b"old content", b"", b"new", bytes(3)}


def test_the_disk_that_lost_power_can_be_cut_again_and_goes_on() -> None:
    disk = disk_with(a=b"old")
    file = disk.open("/d/a", write=True)
    file.write_at(0, b"new")
    after = disk.crash(random.Random(1), "none")
    after.open("/d/a", write=True).write_at(0, b"other")
    assert disk.read("/d/a") == b"new"
    file.sync()
    assert disk.durable("/d/a") == b"new"
    assert after.durable("/d/a") == b"old"


# -- names ------------------------------------------------------------------------------------------------------------


def test_a_created_name_needs_its_directory_synced() -> None:
    disk = disk_with()
    file = disk.open("/d/a", write=True, create=True)
    file.write_at(0, b"x")
    file.sync()
    assert ends(disk, content_of("/d/a"), "none", 5) == {None}
    assert ends(disk, content_of("/d/a")) == {None, b"x"}
    disk.sync_dir("/d")
    assert ends(disk, content_of("/d/a")) == {b"x"}


def test_a_name_without_content_is_an_empty_file() -> None:
    disk = disk_with()
    disk.open("/d/a", write=True, create=True).write_at(0, b"x")
    disk.sync_dir("/d")
    assert ends(disk, content_of("/d/a"), "none", 5) == {b""}


def test_a_rename_arrives_whole_or_not_at_all() -> None:
    disk = disk_with(a=b"new", b=b"old")
    disk.replace("/d/a", "/d/b")
    look = lambda disk: (content_of("/d/a")(disk), content_of("/d/b")(disk))  # noqa: E731
    assert ends(disk, look) == {(b"new", b"old"), (None, b"new")}
    assert ends(disk, look, "none", 5) == {(b"new", b"old")}


def test_a_rename_between_directories_can_lose_the_file_unless_the_target_is_synced() -> None:
    disk = disk_with(a=b"x")
    disk.make_directory("/e")
    disk.replace("/d/a", "/e/a")
    look = lambda disk: (content_of("/d/a")(disk), content_of("/e/a")(disk))  # noqa: E731
    disk.sync_dir("/d")
    assert ends(disk, look) == {(None, None), (None, b"x")}
    disk.sync_dir("/e")
    assert ends(disk, look) == {(None, b"x")}


def test_half_a_rename_leaves_two_names_of_one_file() -> None:
    disk = disk_with(a=b"x")
    disk.make_directory("/e")
    disk.replace("/d/a", "/e/a")
    disk.sync_dir("/e")
    after = disk.crash(random.Random(1), "none")
    after.open("/d/a", write=True).write_at(0, b"y")
    assert after.read("/e/a") == b"y"


def test_a_removed_name_may_come_back() -> None:
    disk = disk_with(a=b"x")
    disk.remove("/d/a")
    assert ends(disk, content_of("/d/a")) == {None, b"x"}
    disk.sync_dir("/d")
    assert ends(disk, content_of("/d/a")) == {None}


def test_made_directories_are_durable_with_their_parents() -> None:
    disk = SimDisk()
    disk.make_directory("/a/b/c")
    assert ends(disk, lambda disk: disk.kind("/a/b/c"), "none", 5) == {"directory"}


def test_a_removed_directory_may_come_back() -> None:
    disk = disk_with()
    disk.remove_directory("/d")
    assert ends(disk, lambda disk: disk.kind("/d")) == {"missing", "directory"}


def test_a_link_is_a_name() -> None:
    disk = disk_with(a=b"x")
    disk.make_link("a", "/d/link")
    assert disk.read_link("/d/link") == "a"
    assert ends(disk, lambda disk: disk.kind("/d/link")) == {"missing", "link"}
    disk.sync_dir("/d")
    assert ends(disk, lambda disk: disk.size("/d/link"), "none", 5) == {1}


@pytest.mark.parametrize("mode", ["torn", "none", "all"])
def test_a_published_file_is_the_old_one_or_the_new_one(mode: Mode) -> None:
    """At every place where power can go while a file is replaced."""
    steps = disk_with(a=b"old")
    before = steps.counts.changes
    write_file(steps, "/d/a", b"new" * 1000)
    for cut in range(before + 1, steps.counts.changes + 1):
        disk = disk_with(a=b"old")
        disk.cut_at = cut
        with pytest.raises(PowerCut):
            write_file(disk, "/d/a", b"new" * 1000)
        assert ends(disk, content_of("/d/a"), mode, 50) <= {b"old", b"new" * 1000}
    assert ends(steps, content_of("/d/a"), mode, 50) == {b"new" * 1000}


@pytest.mark.parametrize("lost", ["sync", "sync_dir"])
def test_a_file_published_without_one_of_its_syncs_is_lost_by_some_cut(lost: str) -> None:
    disk = disk_with(a=b"old")
    fault = disk.fail(lost, silent=True)
    write_file(disk, "/d/a", b"new" * 1000)
    assert fault.fired == 1
    assert ends(disk, content_of("/d/a"), "none", 5) == ({b""} if lost == "sync" else {b"old"})


# -- power, locks, space ----------------------------------------------------------------------------------------------


def test_nothing_gets_through_once_the_power_is_gone() -> None:
    disk = disk_with(a=b"old")
    file, lock = disk.open("/d/a", write=True), disk.lock("/d/lock")
    assert lock is not None
    disk.cut_at = disk.counts.changes + 2
    file.write_at(0, b"1")
    with pytest.raises(PowerCut):
        file.write_at(0, b"2")
    for attempt in (file.sync, lambda: disk.read("/d/a"), lambda: disk.list("/d"), lambda: lock.write(b"x")):
        with pytest.raises(PowerCut):
            attempt()
    assert not lock.is_held()
    file.close()
    lock.release()
    assert ends(disk, content_of("/d/a"), "all", 3) == {b"2ld"}
    assert disk.crash(random.Random(1)).read("/d/a")[1:] == b"ld"


def test_a_sync_at_which_power_goes_has_not_begun() -> None:
    disk = disk_with(a=b"old")
    file = disk.open("/d/a", write=True)
    file.write_at(0, b"new")
    disk.cut_at = disk.counts.changes + 1
    with pytest.raises(PowerCut):
        file.sync()
    assert ends(disk, content_of("/d/a")) == {b"old", b"new"}


def test_a_lock_ends_with_its_release_or_the_power() -> None:
    disk = disk_with()
    lock = disk.lock("/d/lock")
    assert lock is not None
    lock.write(b"4711")
    assert (lock.read(), lock.is_held(), disk.lock("/d/lock")) == (b"4711", True, None)
    disk.sync_dir("/d")
    after = disk.crash(random.Random(1))
    second = after.lock("/d/lock")
    assert second is not None
    assert second.read() == b"4711"
    lock.release()
    assert disk.lock("/d/lock") is not None
    lock.release()
    assert disk.lock("/d/lock") is None  # a second release takes nothing from the next holder


def test_a_lock_whose_file_was_replaced_is_held_no_more() -> None:
    disk = disk_with()
    lock = disk.lock("/d/lock")
    assert lock is not None
    disk.remove("/d/lock")
    assert not lock.is_held()
    assert disk.lock("/d/lock") is not None
    assert not lock.is_held()


def test_a_full_disk_takes_what_fits_and_says_so() -> None:
    disk = disk_with(a=b"12345")
    disk.set_free_bytes(3)
    file = disk.open("/d/a", write=True)
    file.write_at(0, b"54321")  # needs no room
    with pytest.raises(NoSpace) as caught:
        file.write_at(4, b"abcdef")
    assert (caught.value.path, disk.read("/d/a"), disk.free_bytes("/d")) == ("/d/a", b"5432abcd", 0)
    disk.remove("/d/a")
    assert disk.free_bytes("/d") == 8
    write_file(disk, "/d/b", b"12345678")


def test_a_read_only_disk_changes_nothing() -> None:
    disk = disk_with(a=b"x")
    disk.read_only = True
    for attempt in (
        lambda: disk.open("/d/a", write=True),
        lambda: disk.open("/d/b", write=True, create=True),
        lambda: disk.remove("/d/a"),
        lambda: disk.make_directory("/e"),
        lambda: disk.lock("/d/lock"),
    ):
        with pytest.raises(ReadOnly):
            attempt()
    assert (disk.read("/d/a"), disk.list("/")) == (b"x", ["d"])


# -- faults -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("operation", "attempt"),
    [
        ("open", lambda disk: disk.open("/d/a")),
        ("create", lambda disk: disk.open("/d/new", write=True, create=True)),
        ("read", lambda disk: disk.read("/d/a")),
        ("write", lambda disk: disk.open("/d/a", write=True).write_at(0, b"y")),
        ("truncate", lambda disk: disk.open("/d/a", write=True).truncate(0)),
        ("sync", lambda disk: disk.open("/d/a", write=True).sync()),
        ("sync_dir", lambda disk: disk.sync_dir("/d")),
        ("rename", lambda disk: disk.replace("/d/a", "/d/b")),
        ("remove", lambda disk: disk.remove("/d/a")),
        ("make_directory", lambda disk: disk.make_directory("/e")),
        ("remove_directory", lambda disk: disk.remove_directory("/d")),
        ("link", lambda disk: disk.make_link("a", "/d/link")),
        ("lock", lambda disk: disk.lock("/d/lock")),
    ],
)
def test_a_fault_fails_its_operation_and_changes_nothing(operation: str, attempt: Callable[[SimDisk], object]) -> None:
    disk = disk_with(a=b"x")
    bad = Unreadable if operation == "read" else IOFault
    for number, declared in ((errno.EIO, bad), (errno.ENOSPC, NoSpace)):
        fault = disk.fail(operation, error=number)
        with pytest.raises(declared):
            attempt(disk)
        assert fault.fired == 1
    assert (disk.list("/"), disk.list("/d"), disk.read("/d/a")) == (["d"], ["a"], b"x")
    assert disk.unsynced_paths() == []


def test_a_fault_comes_at_its_turn_once_or_for_good() -> None:
    disk = disk_with(a=b"x", b=b"x")
    file = disk.open("/d/a", write=True)
    once, for_good = disk.fail("write", nth=2), disk.fail("write", nth=4, times=None, path="/a")
    outcomes = []
    for _ in range(6):
        try:
            file.write_at(0, b"y")
            outcomes.append("ok")
        except IOFault:
            outcomes.append("fault")
    assert outcomes == ["ok", "fault", "ok", "fault", "fault", "fault"]
    assert (once.fired, for_good.fired) == (1, 3)
    disk.open("/d/b", write=True).write_at(0, b"y")


def test_a_failing_write_may_get_halfway() -> None:
    disk = disk_with(a=b"....")
    disk.fail("write", after_bytes=2)
    with pytest.raises(IOFault):
        disk.open("/d/a", write=True).write_at(0, b"yyyy")
    assert disk.read("/d/a") == b"yy.."


def test_a_sync_that_failed_once_lies_from_then_on() -> None:
    """The next one says OK, readers see the bytes, and the power cut shows that they were never written."""
    disk = disk_with(a=b"old!")
    file = disk.open("/d/a", write=True)
    file.write_at(0, b"new")
    disk.fail("sync", lies=True)
    with pytest.raises(IOFault):
        file.sync()
    file.write_at(SECTOR, b"more")
    file.sync()
    assert disk.read("/d/a")[:4] == b"new!"
    assert ends(disk, lambda disk: disk.read("/d/a")[:4], "all", 5) == {b"old!"}
    file.write_at(0, b"new")  # written again, they do get there
    file.sync()
    assert ends(disk, lambda disk: disk.read("/d/a")[:4]) == {b"new!"}


def test_a_damaged_sector_cannot_be_read_until_it_is_written() -> None:
    disk = disk_with(a=b"x" * SECTOR * 3)
    disk.damage("/d/a", SECTOR + 7)
    file = disk.open("/d/a", write=True)
    assert file.read_at(0, SECTOR) == b"x" * SECTOR
    for offset, length in ((0, SECTOR + 1), (SECTOR, 1), (SECTOR * 2 - 1, 2)):
        with pytest.raises(Unreadable):
            file.read_at(offset, length)
    assert len(file.read_at(SECTOR * 2, 99)) == 99
    with pytest.raises(Unreadable):
        disk.crash(random.Random(1)).read("/d/a")
    file.write_at(SECTOR, b"y" * SECTOR)
    assert len(disk.read("/d/a")) == SECTOR * 3


def test_a_read_may_end_short_before_a_damaged_sector() -> None:
    disk = disk_with(a=b"x" * SECTOR * 3)
    disk.damage("/d/a", SECTOR, short=True)
    file = disk.open("/d/a")
    assert (file.read_at(100, 999), file.read_at(SECTOR + 1, 5)) == (b"x" * (SECTOR - 100), b"")


def test_operations_and_bytes_are_counted() -> None:
    disk = disk_with()
    before = dict(disk.counts.operations)
    write_file(disk, "/d/a", b"x" * 100)
    disk.read("/d/a")
    made = {name: count - before.get(name, 0) for name, count in disk.counts.operations.items()}
    assert {name: made[name] for name in ("create", "write", "sync", "rename", "sync_dir", "read", "open")} == {
        "create": 1, "write": 1, "sync": 1, "rename": 1, "sync_dir": 1, "read": 1, "open": 1,
    }  # fmt: skip
    assert (disk.counts.bytes_written, disk.counts.bytes_read) == (100, 100)
