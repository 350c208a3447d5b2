"""Power cuts at random changes over four lives of a journal: nothing acknowledged is lost, no epoch is used twice.

With `none`, every byte and name that was not synced is gone: leaving out any one sync shows. With `torn`, any legal
part of them survives, sectors torn, in any order.
"""

from __future__ import annotations

import random
from collections.abc import Callable

import pytest

from journal.log import Log, create
from journal.reader import LogReader
from recovery.config.table import Config
from recovery.data import Data
from recovery.log.backup import back_up
from tests.crashes import Mode, run, run_full_when_synced
from tests.journals import START, record
from tests.simdisk import SimDisk

DATA, BACKUP = "/srv/agents/data", "/mnt/copies/backup"


@pytest.mark.parametrize("mode", ["none", "torn", "all"])
@pytest.mark.parametrize("first", range(0, 140, 20))
def test_every_promise_holds_after_power_cuts(first: int, mode: Mode) -> None:
    for seed in range(first, first + (20 if mode != "all" else 5)):
        run(seed, mode)


def test_a_disk_that_is_full_only_when_synced_refuses_and_leaves_nothing_in_doubt() -> None:
    run_full_when_synced()


class Killed(Exception):
    """The process ends here; the machine goes on, and what was not synced is still in its cache."""


def begun(disk: SimDisk) -> None:
    """As `journal init` does: the directories, then the journal, if there is none."""
    if not any(name.endswith(".seg") for name in disk.list(f"{DATA}/journal/segments")):
        for directory in (DATA, f"{DATA}/agents", f"{DATA}/models", f"{DATA}/journal"):
            disk.make_directory(directory)
        create(disk, f"{DATA}/journal")


def written(disk: SimDisk) -> None:
    log = Log.open(disk, f"{DATA}/journal", reserve_bytes=0)
    log.append([record(1)], START)
    log.close()


def backed_up(disk: SimDisk) -> None:
    back_up(Data(DATA, Config(), disk), BACKUP)


def killed_at(disk: SimDisk, number: int, run: Callable[[SimDisk], None]) -> bool:
    """Whether it had come to that change."""
    left = iter(range(number))

    def change() -> None:
        if next(left, None) is None:
            raise Killed

    disk.before_change = change
    try:
        run(disk)
    except Killed:
        return True
    finally:
        disk.before_change = None
    return False


def test_an_init_that_is_killed_and_run_again_outlives_a_power_cut() -> None:
    """A directory that the killed run had made, and not synced the name of, is there for the next one. What that
    acknowledges lies in it."""
    for number in range(200):
        disk = SimDisk()
        killed = killed_at(disk, number, begun)
        begun(disk)
        written(disk)
        after = disk.crash(random.Random(number), "none")
        assert LogReader(after, f"{DATA}/journal").last_seq == 1, f"killed at change {number}"
        if not killed:
            break
    assert not killed
    assert number > 10


def test_a_backup_that_is_killed_and_made_again_outlives_a_power_cut() -> None:
    for number in range(200):
        disk = SimDisk()
        begun(disk)
        written(disk)
        killed = killed_at(disk, number, backed_up)
        backed_up(disk)
        after = disk.crash(random.Random(number), "none")
        assert LogReader(after, f"{BACKUP}/journal").last_seq == 1, f"killed at change {number}"
        if not killed:
            break
    assert not killed
    assert number > 10
