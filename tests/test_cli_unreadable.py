"""A sector that the disk refuses to read, in each kind of file: that is how rot shows on most disks.

It is damage of that file, named with its place, and no reason to stop where a copy, an older checkpoint, the log itself
or parity serves. What lies at an inode cannot be read from some offset on; a file that takes its place can.
"""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from tests.commands import Command, small_history

SECTOR = 512


@pytest.fixture
def journal(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Command:
    """Two checkpoints, and parity of all that is sealed."""
    small_history(tmp_path / "data")
    command = Command(tmp_path / "data", capsys)
    for name in ("first", "second"):
        command.json("tag", name)
        command.json("checkpoint", "create")
    command.json("tag", "end")
    command.json("scrub", "--rate", "0")
    return command


class Disk:
    """Makes one sector of one file unreadable."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self._bad: tuple[int, int] | None = None
        self._at = 0
        self._pread = os.pread
        monkeypatch.setattr(os, "pread", self.pread)

    def spoil(self, path: Path, at: int) -> None:
        self._held = path.open("rb")  # else its inode could be another file's soon
        status = path.stat()
        self._bad, self._at = (status.st_dev, status.st_ino), at

    def pread(self, fd: int, length: int, offset: int) -> bytes:
        status = os.fstat(fd)
        if (status.st_dev, status.st_ino) == self._bad and offset < self._at + SECTOR and offset + length > self._at:
            if offset < self._at:
                return self._pread(fd, self._at - offset, offset)  # as the kernel does: what comes before it
            raise OSError(errno.EIO, "Input/output error")
        return self._pread(fd, length, offset)


@pytest.fixture
def disk(monkeypatch: pytest.MonkeyPatch) -> Disk:
    return Disk(monkeypatch)


def largest(path: Path, pattern: str) -> Path:
    return max(path.glob(pattern), key=lambda each: (each.stat().st_size, each.stat().st_mtime_ns))


def newest(path: Path, pattern: str) -> Path:
    return sorted(path.glob(pattern))[-1]


FILES = {
    "segment": (lambda journal: largest(journal, "segments/*.seg"), 1024),
    "manifest": (lambda journal: newest(journal, "checkpoints/*.manifest"), 0),
    "part": (lambda journal: largest(journal, "checkpoints/parts/*"), 4096),
}


@pytest.mark.parametrize("kind", FILES)
def test_it_is_named_and_comes_back_from_parity(journal: Command, disk: Disk, kind: str) -> None:
    find, at = FILES[kind]
    path = find(journal.data / "journal")
    whole, inode = path.read_bytes(), path.stat().st_ino
    disk.spoil(path, at)
    for words in (["verify"], ["scrub", "--rate", "0"], ["verify", "--repair", "--dry-run"]):
        told = journal(*words)
        assert (told.code, str(path) in told.out or path.name in told.out) == (12, True), (words, told)
    ran = journal("verify", "--repair")
    assert ran.code == 0, ran
    assert path.read_bytes() == whole
    assert path.stat().st_ino != inode, "the bad sector stays with the old file"
    assert journal("verify").code == 0
    assert journal("verify", "--repair").out.startswith("nothing to repair")


@pytest.mark.parametrize("kind", ["manifest", "part"])
def test_a_checkpoint_that_cannot_be_read_costs_a_rung(journal: Command, disk: Disk, kind: str) -> None:
    find, at = FILES[kind]
    disk.spoil(find(journal.data / "journal"), at)
    for path in journal.data.glob("memory*"):
        path.unlink()
    ran = journal("recover", "all", "--yes")
    assert (ran.code, "passed over checkpoint" in ran.out) == (0, True), ran
    assert journal("check").code in (0, 3)
    assert journal("tag", "after").code == 0


def test_a_log_that_cannot_be_read_is_put_right_by_recovery(journal: Command, disk: Disk) -> None:
    path = largest(journal.data / "journal", "segments/*.seg")
    for each in [*journal.data.glob("memory*"), *(journal.data / "journal/checkpoints").glob("*.manifest")]:
        each.unlink()
    whole = path.read_bytes()
    disk.spoil(path, 1024)
    ran = journal("recover", "all", "--yes")
    assert ran.code == 0, ran
    assert path.read_bytes() == whole
    assert journal.json("check")["health"] in ("healthy", "degraded")


def test_parity_that_cannot_be_read_is_made_anew(journal: Command, disk: Disk) -> None:
    path = largest(journal.data / "journal", "parity/segments/*.par")
    disk.spoil(path, 0)
    assert journal("verify").code == 12
    assert journal("check").code == 0
    assert journal("scrub", "--rate", "0").code == 12
    assert journal("verify").code == 0
