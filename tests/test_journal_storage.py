"""The real files behind the Storage protocol: what they refuse, how they are made, what a cut leaves."""

from __future__ import annotations

import os
import stat
import subprocess
import sys
import time
from pathlib import Path

import pytest

from journal import storage
from journal.errors import Corrupt, EnvironmentFault, NotAJournal
from journal.files import write_file
from journal.filesystems import NETWORK_FILESYSTEMS, filesystem_type
from journal.storage import RealFile, RealStorage
from tests.simdisk import SimDisk

MOUNTINFO = """\
22 27 0:20 / /proc rw,nosuid shared:5 - proc proc rw
27 1 254:0 / / rw,relatime shared:1 - ext4 /dev/vda rw,discard
88 27 0:52 / /mnt/share rw,relatime shared:9 - nfs4 server:/export rw,vers=4.2
"""


def test_a_network_file_system_is_told_by_its_device() -> None:
    assert filesystem_type(MOUNTINFO, "254:0") == "ext4"
    assert filesystem_type(MOUNTINFO, "0:52") == "nfs4"
    assert filesystem_type(MOUNTINFO, "9:9") == ""
    assert "nfs4" in NETWORK_FILESYSTEMS
    assert "ext4" not in NETWORK_FILESYSTEMS


def test_the_disk_that_tests_run_on_is_known_and_local(tmp_path: Path) -> None:
    if not os.path.exists("/proc/self/mountinfo"):
        pytest.skip("no Linux")
    mountinfo = Path("/proc/self/mountinfo").read_text()
    device = tmp_path.stat().st_dev
    found = filesystem_type(mountinfo, f"{os.major(device)}:{os.minor(device)}")
    assert found not in NETWORK_FILESYSTEMS
    lock = RealStorage().lock(str(tmp_path / "lock"))
    assert lock is not None
    lock.release()


def test_another_system_is_refused_in_one_line() -> None:
    program = (
        "import sys, fcntl\nsys.platform = 'plan9'\nfrom journal.storage import RealStorage\n"
        "try:\n    RealStorage()\nexcept Exception as error:\n    print(type(error).__name__, error)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.stdout == f"{EnvironmentFault.__name__} agent-journal runs on Linux and macOS, not on plan9\n"


def test_a_claim_of_the_same_length_is_seen_however_long_the_lock_was_left_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A writer looks before each batch, and reads only what changed: here flock held nobody off, as on some shares."""
    reads: list[int] = []
    read_at = RealFile.read_at
    monkeypatch.setattr(RealFile, "read_at", lambda *given: reads.append(1) or read_at(*given))
    path = tmp_path / "lock"
    lock = RealStorage().lock(str(path))
    assert lock is not None
    lock.write(b"first")

    def look() -> tuple[bool, bytes, int]:
        before = len(reads)
        return lock.is_held(), lock.read(), len(reads) - before

    assert [look(), look()] == [(True, b"first", 1)] * 2, "its times are too fresh to be trusted"
    monkeypatch.setattr(storage, "time_ns", lambda: time.time_ns() + 3_000_000_000)
    assert [look(), look(), look()] == [(True, b"first", 1), (True, b"first", 0), (True, b"first", 0)]
    changed = path.stat().st_ctime_ns
    while path.stat().st_ctime_ns == changed:  # where the system's clock of files is coarse, it has to tick
        path.write_bytes(b"other")
    assert look() == (True, b"other", 1)
    lock.write(b"again")
    assert look()[:2] == (True, b"again")
    lock.release()


def test_everything_is_made_for_its_owner_alone(tmp_path: Path) -> None:
    before = os.umask(0)
    try:
        storage = RealStorage()
        storage.make_directory(str(tmp_path / "a" / "b"))
        write_file(storage, str(tmp_path / "a" / "b" / "file"), b"x")
        storage.lock(str(tmp_path / "a" / "lock"))
    finally:
        os.umask(before)
    for path in (tmp_path / "a").rglob("*"):
        wanted = 0o700 if path.is_dir() else 0o600
        assert stat.S_IMODE(path.stat().st_mode) == wanted, path


def test_a_link_is_never_opened_in_the_place_of_a_file(tmp_path: Path) -> None:
    (tmp_path / "target").write_text("secret")
    (tmp_path / "link").symlink_to(tmp_path / "target")
    with pytest.raises(Corrupt, match="a link lies where a file belongs"):
        RealStorage().open(str(tmp_path / "link"))


def test_a_file_in_the_way_of_a_directory_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    with pytest.raises((NotAJournal, EnvironmentFault)):
        RealStorage().make_directory(str(tmp_path / "file" / "below"))


@pytest.mark.skipif(not os.path.isdir("/proc/self"), reason="needs a file system whose directories cannot be synced")
def test_a_directory_on_a_file_system_without_syncs_is_there_all_the_same() -> None:
    """Scenario: the data directory is a volume, mounted into a root that is squashfs."""
    with pytest.raises(EnvironmentFault):
        RealStorage().sync_dir("/proc")
    RealStorage().make_directory("/proc/self")


@pytest.mark.parametrize("name", ["short", "x" * 255, "日" * 84])
def test_any_name_that_the_disk_takes_can_be_published(tmp_path: Path, name: str) -> None:
    write_file(RealStorage(), f"{tmp_path}/{name}", b"content")
    assert (tmp_path / name).read_bytes() == b"content"
    assert [path.name for path in tmp_path.iterdir()] == [name]


@pytest.mark.parametrize("cut", range(1, 7))
def test_a_cut_while_publishing_leaves_the_old_file_or_the_new(cut: int) -> None:
    import random

    from tests.simfaults import PowerCut

    for seed in range(20):
        disk = SimDisk()
        disk.make_directory("/d")
        write_file(disk, "/d/file", b"old" * 400)
        disk.cut_at = disk.counts.changes + cut
        try:
            write_file(disk, "/d/file", b"new" * 500)
        except PowerCut:
            after = disk.crash(random.Random(seed), "torn")
            assert after.read("/d/file") in (b"old" * 400, b"new" * 500)
        else:
            assert disk.crash(random.Random(seed), "none").read("/d/file") == b"new" * 500
