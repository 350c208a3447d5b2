"""Files that are published by a rename: what an error or Ctrl-C in the middle leaves of them."""

from __future__ import annotations

import errno
from collections.abc import Callable

import pytest

from journal.checkpoint import CheckpointStore
from journal.errors import IOFault, Locked, NoSpace
from journal.files import exclusive, size_of, write_file
from journal.parity_file import write_parity
from journal.storage import Storage
from tests.simdisk import SimDisk

CONTENT = bytes(range(256)) * 40


def whole_file(disk: Storage) -> None:
    write_file(disk, "/data/plan", CONTENT)


def part(disk: Storage) -> None:
    CheckpointStore(disk, "/data").put_part("memory.db", CONTENT)


def parity(disk: Storage) -> None:
    write_parity(
        disk, "/data/name.par", lambda offset, count: CONTENT[offset : offset + count], len(CONTENT), name="name",
        journal_id=bytes(16), share=1.0,
    )  # fmt: skip


def left_in(disk: SimDisk) -> list[str]:
    return [name for folder in ("/data", "/data/parts") for name in disk.list(folder) if name != "parts"]


@pytest.mark.parametrize("publish", [whole_file, part, parity])
def test_a_full_disk_is_not_filled_by_what_could_not_be_written(publish: Callable[[Storage], None]) -> None:
    """A part of the file would take the very room that recovery needs, until somebody tidies up."""
    disk = SimDisk()
    disk.make_directory("/data")
    disk.set_free_bytes(len(CONTENT) // 2)
    with pytest.raises(NoSpace):
        publish(disk)
    assert left_in(disk) == []


@pytest.mark.parametrize("publish", [whole_file, part, parity])
def test_ctrl_c_before_the_sync_leaves_nothing(publish: Callable[[Storage], None]) -> None:
    disk = SimDisk()
    disk.make_directory("/data")

    def interrupt() -> None:
        if any(name.endswith(".tmp") for name in left_in(disk)):
            disk.before_change = None
            raise KeyboardInterrupt

    disk.before_change = interrupt
    with pytest.raises(KeyboardInterrupt):
        publish(disk)
    assert left_in(disk) == []


def test_a_disk_that_fails_in_removing_too_tells_the_first_error() -> None:
    disk = SimDisk()
    disk.make_directory("/data")
    disk.fail("sync", path="/data/.plan.tmp", error=errno.EIO)
    gone = disk.fail("remove", path="/data/.plan.tmp", error=errno.EROFS)
    with pytest.raises(IOFault):
        whole_file(disk)
    assert gone.fired
    whole_file(disk)
    assert disk.list("/data") == ["plan"], "and the next one takes away what stayed"


def test_one_at_a_time_holds_a_directory() -> None:
    disk = SimDisk()
    held = exclusive(disk, "/data", "counting", "wait")
    with held, pytest.raises(Locked, match="another process is counting"):
        exclusive(disk, "/data", "counting", "wait").__enter__()
    with exclusive(disk, "/data", "counting", "wait"):
        pass


def test_what_was_taken_away_has_no_bytes() -> None:
    disk = SimDisk()
    disk.make_directory("/data")
    whole_file(disk)
    assert (size_of(disk, "/data/plan"), size_of(disk, "/data/other")) == (len(CONTENT), 0)
