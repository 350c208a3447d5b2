"""Two lives of one journal: whatever made them, they are told apart by chain and epoch, and neither wins silently."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from journal.errors import Poisoned
from journal.events import EntityCreated
from recovery import open_server_sync
from recovery.data import Data
from recovery.opening import open_core
from replay.hook import SyncHook
from tests.commands import ENVIRONMENT, SMALL, Command, arguments, small_history
from tests.journals import segment_files

YEARS_70 = 70 * 365 * 86_400 * 10**9


@pytest.fixture
def here(tmp_path, capsys) -> Command:
    small_history(tmp_path / "here")
    return Command(tmp_path / "here", capsys)


@pytest.fixture
def there(here, tmp_path, capsys) -> Command:
    """A copy of the whole directory, which both sides then write."""
    shutil.copytree(here.data, tmp_path / "there", symlinks=True)
    return Command(tmp_path / "there", capsys)


def write(data: Path, *names: str, shift: int = 0, change: Callable[[SyncHook], Any] | None = None) -> None:
    with open_server_sync(data, background=False) as hook:
        if shift:
            clock = hook.core.committer._clock
            hook.core.committer._clock = lambda: clock() + shift
        for name in names:
            hook.append(EntityCreated("global", name, "thing"))
        if change is not None:
            change(hook)


def bytes_of(data: Path) -> dict[str, bytes]:
    return {str(path.relative_to(data)): path.read_bytes() for path in data.rglob("*") if path.is_file()}


def last_segments(one: Command, other: Command) -> tuple[Path, Path]:
    return segment_files(str(one.data / "journal"))[-1], segment_files(str(other.data / "journal"))[-1]


# -- two copies -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("shifts", [(0, 0), (YEARS_70, 0), (0, YEARS_70), (YEARS_70, -YEARS_70)])
def test_a_copy_that_was_written_on_both_sides_is_named_with_its_first_differing_seq(here, there, shifts):
    write(here.data, "one", shift=shifts[0])
    write(here.data, "way", "out", shift=shifts[1])
    write(there.data, "another", shift=shifts[1])
    before = bytes_of(here.data), bytes_of(there.data)
    for one, other in ((here, there), (there, here)):
        ran = one("verify", "--against", str(other.data), "--json")
        assert ran.code == 14
        found = ran.json()
        assert (found["standing"], found["common_seq"], found["first_differing_seq"]) == ("diverged", SMALL, SMALL + 1)
        assert found["here"]["chain"] != found["there"]["chain"]
        told = one("verify", "--against", str(other.data))
        assert (told.code, f"then seq {SMALL + 1} is of epoch" in told.err) == (14, True)
    assert (bytes_of(here.data), bytes_of(there.data)) == before


def test_a_copy_that_only_lags_is_no_fork(here, there):
    assert here.json("verify", "--against", str(there.data))["standing"] == "same"
    write(here.data, "later")
    assert here.json("verify", "--against", str(there.data / "journal"))["standing"] == "ahead"
    assert there.json("verify", "--against", str(here.data))["standing"] == "behind"


def test_a_damaged_copy_is_compared_as_far_as_it_can_be_read(here, there):
    write(here.data, "one")
    write(there.data, "two")
    path = segment_files(str(there.data / "journal"))[-1]
    path.write_bytes(path.read_bytes()[:-1])  # the clean close: behind the seq that differs
    assert here("verify", "--against", str(there.data)).code == 14
    first = next(path for path in segment_files(str(there.data / "journal")) if b"renewed" in path.read_bytes())
    first.write_bytes(first.read_bytes().replace(b"renewed in May", b"renewed in Jun"))
    ran = here("verify", "--against", str(there.data), "--json")
    assert (ran.code, ran.json()["standing"], ran.json()["common_seq"]) == (12, "ahead", 1)


def test_another_journal_is_no_copy(here, tmp_path, capsys):
    Command(tmp_path / "new", capsys)("init")
    assert here("verify", "--against", str(tmp_path / "new")).code == 14
    assert here("verify", "--against", str(tmp_path / "none")).code == 10


# -- pieces of both lives meet ----------------------------------------------------------------------------------------


def test_a_segment_of_the_other_life_is_told_by_its_chain(here, there):
    """The same epochs, lengths and offsets on both sides: nothing but the chain of the next segment differs."""
    for side, name in ((here, "left"), (there, "mine")):
        write(side.data, name)
        write(side.data, "more")
    ours, theirs = last_segments(here, there)
    assert ours.name == theirs.name
    assert ours.stat().st_size == theirs.stat().st_size
    shutil.copyfile(theirs, ours)
    ran = here("verify")
    assert (ran.code, f"from seq {SMALL + 2}" in ran.out) == (14, True)
    for verb in (["log"], ["recover", "all", "--yes"], ["check"], ["append"]):
        assert here(*verb).code == 14, verb
    assert here("verify", "--against", str(there.data)).code == 14


def test_a_memory_db_of_the_other_life_is_not_continued(here, there):
    write(here.data, "left")
    write(there.data, "mine")
    for path in (*here.data.glob("memory*"), *()):
        path.unlink()
    for path in there.data.glob("memory*"):
        shutil.copy(path, here.data / path.name, follow_symlinks=False)
    for verb in (["check"], ["recover", "all", "--yes"], ["tag", "x"]):
        assert here(*verb).code == 14, verb


def test_a_checkpoint_of_the_other_life_is_no_base(here, there):
    write(here.data, "left")
    write(there.data, "mine")
    assert there("checkpoint", "create").code == 0
    shutil.copytree(there.data / "journal/checkpoints", here.data / "journal/checkpoints", dirs_exist_ok=True)
    ran = here("verify")
    assert (ran.code, "another history" in ran.out) == (12, True)
    for path in here.data.glob("memory*"):
        path.unlink()
    ran = here("recover", "all", "--yes")
    assert (ran.code, "from genesis" in ran.out, "passed over checkpoint" in ran.out) == (0, True, True)
    assert here("show", "--entity", "left").code == 0
    assert "mine" not in here("log").out


def test_a_checkpoint_inside_a_large_batch_is_compared_too(here, there):
    for side, name in ((here, "left"), (there, "mine")):
        write(side.data, change=lambda hook, name=name: hook.append_all(
            [EntityCreated("global", f"{name} {number}", "thing") for number in range(100)]
        ))  # fmt: skip
    assert there("checkpoint", "create").code == 0
    shutil.copytree(there.data / "journal/checkpoints", here.data / "journal/checkpoints", dirs_exist_ok=True)
    assert here("verify").code == 12


def test_a_diverged_backup_is_not_brought_back(here, there, tmp_path):
    write(here.data, "one")
    write(there.data, "two", "three")
    there.json("backup", str(tmp_path / "backup"))
    before = bytes_of(here.data)
    ran = here("recover", "--from", str(tmp_path / "backup"), "--yes")
    assert (ran.code, ran.out) == (14, "")
    assert f"then seq {SMALL + 1} is of epoch" in ran.err
    assert bytes_of(here.data) == before


def test_a_diverged_backup_is_not_brought_back_over_a_damaged_journal(here, there, tmp_path):
    """What can be read here shows that the backup is of another life, though the end cannot."""
    write(here.data, "one", "two")
    write(there.data, "three", "four")
    there.json("backup", str(tmp_path / "backup"))
    path = segment_files(str(here.data / "journal"))[-1]
    path.write_bytes(path.read_bytes().replace(b"two", b"TWO"))
    ran = here("recover", "--from", str(tmp_path / "backup"), "--yes")
    assert (ran.code, f"then seq {SMALL + 1} is of epoch" in ran.err) == (14, True)


def test_an_older_backup_is_not_brought_back_over_what_can_still_be_read(here, tmp_path):
    here.json("backup", str(tmp_path / "backup"))
    write(here.data, "one", "two")
    path = segment_files(str(here.data / "journal"))[-1]
    path.write_bytes(path.read_bytes().replace(b"two", b"TWO"))
    ran = here("recover", "--from", str(tmp_path / "backup"), "--yes")
    assert (ran.code, f"goes to seq {SMALL + 1}" in ran.err) == (2, True)
    assert "--accept-loss" in ran.err


# -- two writers ------------------------------------------------------------------------------------------------------


class Appending:
    """`journal append` as a process whose stdin stays open."""

    def __init__(self, data: Path) -> None:
        self.process = subprocess.Popen(
            arguments(data, "append"), stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
            text=True, env=ENVIRONMENT,
        )  # fmt: skip

    def append(self, name: str) -> dict[str, Any]:
        event = {"type": "memory.entity_created", "scope": "global", "name": name, "entity_type": "thing"}
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(json.dumps({"event": event}) + "\n")
        self.process.stdin.flush()
        return json.loads(self.process.stdout.readline())

    def end(self) -> tuple[int, str]:
        _, told = self.process.communicate(timeout=60)
        return self.process.returncode, told


@pytest.mark.parametrize("theft", ["deleted", "replaced by another file", "replaced by its copy"])
def test_a_writer_whose_lock_file_was_taken_away_takes_nothing_more(here, theft):
    first = Appending(here.data)
    receipts = [first.append("before")]
    lock = here.data / "journal/lock"
    copy = lock.read_bytes()
    lock.unlink()
    if theft == "replaced by another file":
        lock.write_bytes(b"")
    elif theft == "replaced by its copy":
        lock.write_bytes(copy)
    second = Appending(here.data)
    receipts.append(second.append("second"))
    refused = first.append("after")
    assert refused["error"]["code"] == "poisoned", refused
    assert first.end()[0] != 0
    receipts.append(second.append("third"))
    assert second.end()[0] == 0
    assert [receipt["seq"] for receipt in receipts] == sorted({receipt["seq"] for receipt in receipts})
    lines = "\n".join(map(json.dumps, receipts))
    done = subprocess.run(
        arguments(here.data, "verify", "--receipt", "-"), input=lines, text=True, capture_output=True, env=ENVIRONMENT,
        check=False,
    )  # fmt: skip
    assert done.returncode == 0, done
    assert here("verify").code == 0
    assert here("check").code == 0
    assert "after" not in here("log").out


def test_a_second_writer_is_told_who_has_the_lock(here):
    first = Appending(here.data)
    first.append("before")
    ran = here("serve")
    assert (ran.code, f"process {first.process.pid}" in ran.err) == (11, True)
    assert first.end()[0] == 0


def test_a_forked_child_writes_nothing_and_its_parent_goes_on(here):
    core = open_core(Data.at(here.data)).core
    from recovery.opening import background_of

    with SyncHook(core, background_of(Data.at(here.data), core)) as hook:
        hook.append(EntityCreated("global", "before", "thing"))
        child = os.fork()
        if child == 0:
            status = 1
            try:
                hook.append(EntityCreated("global", "child", "thing"))
            except Poisoned:
                hook.core.close()
                status = 0
            finally:
                os._exit(status)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
        receipt = hook.append(EntityCreated("global", "parent", "thing"))
        assert receipt.seq == SMALL + 2
        assert here("append").code == 11, "the child's exit released its parent's lock"
    assert here("verify", "--deep").code == 0
    assert here("check").code == 0
    assert "child" not in here("log").out


def test_an_opener_that_slept_while_another_took_over_is_refused(here):
    """Its lock file lies there again, as after a restored directory: the epoch in it is another writer's."""
    stale = open_core(Data.at(here.data)).core
    lock = here.data / "journal/lock"
    try:
        content = json.loads(lock.read_bytes())
        with lock.open("r+b") as file:  # the same inode, so that it is still locked, with a later claim
            file.write(json.dumps({**content, "epoch": content["epoch"] + 1}).encode().ljust(511) + b"\n")
        with pytest.raises(Poisoned, match="raised the epoch"):
            stale.log.append([b"\x98\x00\x01\xc0\xc0\xc0\xc0\xc0\x92\x03\xa1x"], 1)
    finally:
        stale.close()
    assert here("verify").code == 0
