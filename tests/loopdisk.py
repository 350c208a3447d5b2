"""A file system of its own on a loop device, whose power can be cut and whose medium can fail; and small tmpfs.

Knows mounts and ioctls; must not know journals. What is mounted here goes with the process that mounted it, or with the
`with` block. Needs root: where that is missing, `missing()` says so.

A cut is the file system's own shutdown ioctl without a log flush: nothing that was not on the device gets there any
more, and the next mount replays the log, as after a power cut. EXT4_IOC_SHUTDOWN took over XFS_IOC_GOINGDOWN's number.
"""

from __future__ import annotations

import ctypes
import fcntl
import os
import shutil
import struct
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path
from typing import Literal

FileSystem = Literal["ext4", "xfs"]
FILE_SYSTEMS: tuple[FileSystem, ...] = ("ext4", "xfs")
_MIB = {"ext4": 64, "xfs": 320}  # xfs takes no less than 300
_MOUNT = {"ext4": "data=ordered", "xfs": "nouuid"}
_MAKE = {"ext4": ("-b", "4096"), "xfs": ()}  # blocks of a page, so that one punched out of the image is one of a file
_SHUTDOWN = 0x8004587D
_WITHOUT_LOG_FLUSH = 2
_FIEMAP = 0xC020660B
_PUNCH_HOLE = 0x02 | 0x01  # and keep the size


@cache
def missing(kind: str) -> str | None:
    """Why no such file system can be mounted here; None where it can. `kind` is one of FILE_SYSTEMS, or tmpfs."""
    if not sys.platform.startswith("linux"):
        return "loop mounts and tmpfs are Linux's"
    if os.geteuid() != 0:
        return "only root may mount"
    if kind != "tmpfs" and shutil.which(f"mkfs.{kind}") is None:
        return f"mkfs.{kind} is not installed (apt install {'xfsprogs' if kind == 'xfs' else 'e2fsprogs'})"
    with tempfile.TemporaryDirectory() as scratch:
        try:
            if kind == "tmpfs":
                with tmpfs(Path(scratch), "size=64k"):
                    return None
            with disk("ext4" if kind == "ext4" else "xfs", Path(scratch)):
                return None
        except subprocess.CalledProcessError as error:
            return f"{kind} cannot be mounted here: {error.stderr.strip()}"


def _do(*command: str | Path) -> None:
    subprocess.run([str(word) for word in command], check=True, capture_output=True, text=True)


@contextmanager
def tmpfs(place: Path, options: str) -> Iterator[Path]:
    """A tmpfs under `place`, with mount options such as ``size=1m`` or ``nr_inodes=40``."""
    at = place / "tmpfs"
    at.mkdir(exist_ok=True)
    _do("mount", "-t", "tmpfs", "-o", f"{options},mode=0700", "tmpfs", at)
    try:
        yield at
    finally:
        _do("umount", "--lazy", at)


@contextmanager
def folding(place: Path) -> Iterator[Path]:
    """A directory on a file system to which names that differ in case are one. Raises FileNotFoundError, or
    CalledProcessError where it cannot be mounted: needs ntfs-3g (FUSE) and root."""
    image, at = place / "folding.img", place / "folding"
    with image.open("wb") as file:
        file.truncate(16 << 20)
    at.mkdir()
    _do("mkntfs", "--quick", "--force", "--quiet", image)
    _do("lowntfs-3g", "-o", "ignore_case", image, at)
    try:
        yield at
    finally:
        _do("umount", "--lazy", at)


class Disk:
    """A mounted file system at ``at``."""

    def __init__(self, kind: FileSystem, image: Path, at: Path) -> None:
        self.kind = kind
        self.image = image
        self.at = at

    def mount(self) -> None:
        """On a loop device of its own, which goes with the mount."""
        found = subprocess.run(
            ["losetup", "--find", "--show", str(self.image)], check=True, capture_output=True, text=True
        ).stdout.strip()
        try:
            _do("mount", "-t", self.kind, "-o", _MOUNT[self.kind], found, self.at)
        finally:
            _do("losetup", "--detach", found)  # once nobody has it mounted

    def unmount(self) -> None:
        _do("umount", self.at)

    def cut_power(self) -> None:
        fd = os.open(self.at, os.O_RDONLY)
        try:
            fcntl.ioctl(fd, _SHUTDOWN, struct.pack("I", _WITHOUT_LOG_FLUSH))
        finally:
            os.close(fd)

    def restart(self) -> None:
        """Unmounts what was cut, forgetting all that only the page cache had, and mounts it anew: its log is replayed.

        Nobody may have a file open there any more. What goes on is a copy of the medium: another mount namespace may
        hold the mount before, the file system that was shut down in it, and blocks that it still writes back.
        """
        self.unmount()
        copy = self.image.with_suffix(".copy")
        _do("cp", "--sparse=always", self.image, copy)
        copy.replace(self.image)
        self.mount()

    def punch(self, path: Path, offset: int, length: int) -> int:
        """Takes the medium from under a part of a file: there the next write needs a new block of the image's file.

        Returns how many bytes of the image that were. What the page cache holds of the file stays. A write that fails
        must begin there: of one that begins before, Linux's loop driver writes the beginning and reports success.
        """
        with self.image.open("r+b") as image:
            done = 0
            for logical, physical, size in _extents(path):
                first, end = max(logical, offset), min(logical + size, offset + length)
                if first < end:
                    _fallocate(image.fileno(), _PUNCH_HOLE, physical + first - logical, end - first)
                    done += end - first
            return done


def _extents(path: Path) -> list[tuple[int, int, int]]:
    """(offset in the file, offset on the device, length) in bytes; struct fiemap of linux/fiemap.h."""
    count = 256
    request = bytearray(struct.pack("=QQIIII", 0, (1 << 64) - 1, 1, 0, count, 0) + bytes(56 * count))  # 1: sync first
    with path.open("rb") as file:
        fcntl.ioctl(file.fileno(), _FIEMAP, request)
    (mapped,) = struct.unpack_from("=I", request, 20)
    return [struct.unpack_from("=QQQ", request, 32 + 56 * number) for number in range(mapped)]  # type: ignore[misc]


def _fallocate(fd: int, mode: int, offset: int, length: int) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.fallocate(fd, mode, ctypes.c_int64(offset), ctypes.c_int64(length)) != 0:
        raise OSError(ctypes.get_errno(), "fallocate")


@contextmanager
def disk(kind: FileSystem, place: Path) -> Iterator[Disk]:
    """A new, empty file system whose image is a file in `place`."""
    image, at = place / f"{kind}.img", place / kind
    with image.open("wb") as file:
        file.truncate(_MIB[kind] << 20)
    _do(f"mkfs.{kind}", "-q", *_MAKE[kind], image)
    if kind == "ext4":  # every block of it has its place: its own log must not be what fails
        with image.open("r+b") as file:
            os.posix_fallocate(file.fileno(), 0, _MIB[kind] << 20)
    at.mkdir()
    made = Disk(kind, image, at)
    made.mount()
    try:
        yield made
    finally:
        _do("umount", "--lazy", at)


@contextmanager
def failing_disk(kind: FileSystem, place: Path, *, spare_bytes: int = 1 << 20) -> Iterator[tuple[Disk, Path]]:
    """A disk whose image lies on a tmpfs: when `ballast`, the second value, fills that, a write which needs a new
    block fails in the device, as a bad sector does, and the file system hears of EIO. Removing the ballast heals it."""
    with tmpfs(place, f"size={_MIB[kind] + 16}m") as under, disk(kind, under) as made:
        yield made, under / "ballast"


def fill(ballast: Path) -> None:
    """Fills the file system that `ballast` is on to its last block."""
    with ballast.open("ab", buffering=0) as file, suppress(OSError):
        while True:
            for size in (1 << 20, 4096):
                with suppress(OSError):
                    while file.write(bytes(size)) == size:
                        pass
            file.write(bytes(1))
