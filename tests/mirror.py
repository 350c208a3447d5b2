"""A real directory whose every change a simulated disk follows: real files and real SQLite, and what a cut may leave.

The product works on the real directory. What it changes through Storage is done on the simulated disk first; what
SQLite writes by itself is found before each such change and told to the simulated disk as writes: frames of a -wal that
nobody synced may arrive or not, in pieces of 512 bytes; a file in the making is not synced until the product syncs it;
a current generation changes only when SQLite folds its -wal, and SQLite syncs the one before the other.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from itertools import pairwise
from typing import Literal

from journal.storage import Kind, RealFile, RealLock, RealStorage
from tests.simdisk import SimDisk
from tests.simfiles import SimFile, SimLock
from tests.simnodes import DirectoryNode, FileNode, LinkNode, NameChange, Node

TOP = "/data"  # where the directory lies on the simulated disk, so that a copy of it elsewhere can be followed on
PAGE_BYTES = 4096
WAL_HEADER_BYTES, FRAME_BYTES = 32, 24 + PAGE_BYTES
_DATABASE = re.compile(r"memory-[0-9]{6}\.db(\.building)?(-wal)?")


class Mirror:
    """Storage over the real directory `root`. ``cut`` is called where a cut makes a difference to what was before."""

    def __init__(self, root: str, disk: SimDisk | None = None) -> None:
        self.root = root
        self.disk = disk or SimDisk()
        self.real = RealStorage()
        self.cut: Callable[[], None] | None = None
        self.folds: Literal["", "in part", "whole"] = ""
        """The next change of a generation is a fold of the -wal as it was last seen: any part of it may arrive. SQLite
        does not sync the file where something is left in the -wal."""
        self._inodes: dict[str, int] = {}
        if disk is None:
            self._take_in(root, self._directory(TOP))
        self.follow()

    def arm(self, cut: Callable[[], None]) -> None:
        """From now on `cut` is called before each change."""

        def before() -> None:
            self.follow()
            cut()

        self.cut = cut
        self.disk.before_change = before

    # -- what SQLite did ----------------------------------------------------------------------------------------------

    def about_to_fold(self, how: Literal["in part", "whole"] = "whole") -> None:
        """To be called right before SQLite folds a -wal, with no commit in between."""
        self.follow()
        self.folds = how

    def follow(self) -> None:
        """Tells the simulated disk what SQLite changed since the last look.

        Reading a database beside SQLite drops the locks that this process has on it: no other knows of the directory.
        """
        here = self._directory(TOP)
        there = {name for name in os.listdir(self.root) if _DATABASE.fullmatch(name)}
        for name in sorted(there, key=lambda name: name.endswith("-wal")):  # a fold shows in the database first
            path = f"{self.root}/{name}"
            try:
                inode, content = os.stat(path).st_ino, self.real.read(path)
            except FileNotFoundError:
                continue
            known, node = self._inodes.get(name), here.live.get(name)
            if not isinstance(node, FileNode) or (known is not None and known != inode):
                node = FileNode()
                self.disk._names.change(NameChange(here, name, node))
            self._inodes[name] = inode
            if content != node.live:
                self._changed(here, name, node, content)
        for name in [name for name in here.live if _DATABASE.fullmatch(name) and name not in there]:
            self._inodes.pop(name, None)
            self.disk._names.change(NameChange(here, name, None))
        self.folds = ""

    def _changed(self, here: DirectoryNode, name: str, node: FileNode, content: bytes) -> None:
        is_generation = name.endswith(".db") and bool(node.durable)
        if not is_generation:
            if name.endswith("-wal") and node.live and content[:WAL_HEADER_BYTES] != node.live[:WAL_HEADER_BYTES]:
                node.write(0, content[:WAL_HEADER_BYTES])  # it begins anew: nothing follows before that is durable
                node.sync()
            _write(node, content, WAL_HEADER_BYTES if name.endswith("-wal") else 0, FRAME_BYTES)
            return
        wal = here.live.get(f"{name}-wal")
        if isinstance(wal, FileNode) and self.folds and wal.live:
            wal.sync()
            self.disk._names.settle(here, f"{name}-wal")  # SQLite syncs the directory when it first syncs a -wal
            _write(node, content, 0, PAGE_BYTES)
            if self.cut is not None:
                self.cut()
            if self.folds == "whole":
                node.sync()
            return
        _write(node, content, 0, PAGE_BYTES)
        node.sync()
        if isinstance(wal, FileNode):  # what it held meanwhile was not seen: the fold counts as done
            wal.truncate(0)
            wal.sync()

    def _directory(self, path: str) -> DirectoryNode:
        node: Node = self.disk._root
        for name in path.strip("/").split("/"):
            assert isinstance(node, DirectoryNode)
            if name not in node.live:
                node.live[name] = node.durable[name] = DirectoryNode()
            node = node.live[name]
        assert isinstance(node, DirectoryNode)
        return node

    def _take_in(self, path: str, into: DirectoryNode) -> None:
        """What is there at the beginning, all of it durable."""
        for entry in os.scandir(path):
            node: Node
            if entry.is_symlink():
                node = LinkNode(os.readlink(entry.path))
            elif entry.is_dir():
                node = DirectoryNode()
                self._take_in(entry.path, node)
            elif entry.is_file() and not entry.name.endswith("-shm"):
                content = self.real.read(entry.path)
                node = FileNode(content, content)
            else:
                continue
            into.live[entry.name] = into.durable[entry.name] = node

    # -- Storage ------------------------------------------------------------------------------------------------------

    def _is_here(self, path: str) -> bool:
        return path == self.root or path.startswith(f"{self.root}/")

    def _on_disk(self, path: str) -> str:
        assert self._is_here(path), path
        return TOP + path[len(self.root) :]

    def _knows(self, path: str) -> bool:
        """Files of SQLite in other places are private to a build that a cut throws away: they are not followed."""
        if not self._is_here(path):
            return False
        self.follow()
        return self.disk.kind(self._on_disk(path)) != "missing"

    def open(self, path: str, *, write: bool = False, create: bool = False) -> MirrorFile:
        if not create or not self._is_here(path):
            return MirrorFile(self, self.real.open(path, write=write, create=create), write)
        simulated = self.disk.open(self._on_disk(path), write=True, create=True)
        return MirrorFile(self, self.real.open(path, write=write, create=True), write, simulated)

    def make_directory(self, path: str) -> None:
        if self._is_here(path):
            self.disk.make_directory(self._on_disk(path))
        self.real.make_directory(path)

    def replace(self, source: str, target: str) -> None:
        if self._knows(source):
            self.disk.replace(self._on_disk(source), self._on_disk(target))
        self.real.replace(source, target)
        self._inodes.pop(source.rpartition("/")[2], None)

    def remove(self, path: str) -> None:
        if self._knows(path):
            self.disk.remove(self._on_disk(path))
        self.real.remove(path)

    def remove_directory(self, path: str) -> None:
        node = self._directory(self._on_disk(path))
        for name in [name for name in node.live if not os.path.lexists(f"{path}/{name}")]:
            self.disk._names.change(NameChange(node, name, None))  # the -wal of a copy, which SQLite removed
        self.disk.remove_directory(self._on_disk(path))
        self.real.remove_directory(path)

    def make_link(self, target: str, path: str) -> None:
        self.disk.make_link(target, self._on_disk(path))
        self.real.make_link(target, path)

    def sync_dir(self, path: str) -> None:
        if self._is_here(path):
            self.disk.sync_dir(self._on_disk(path))

    def lock(self, path: str) -> MirrorLock | None:
        held = self.real.lock(path)
        if held is None:
            return None
        simulated = self.disk.lock(self._on_disk(path))
        assert simulated is not None
        return MirrorLock(held, simulated)

    def read(self, path: str) -> bytes:
        return self.real.read(path)

    def list(self, path: str) -> list[str]:
        return self.real.list(path)

    def kind(self, path: str) -> Kind:
        return self.real.kind(path)

    def size(self, path: str) -> int:
        return self.real.size(path)

    def read_link(self, path: str) -> str:
        return self.real.read_link(path)

    def free_bytes(self, path: str) -> int:
        return self.real.free_bytes(path)


class MirrorFile:
    """A real file; what changes it is done on the simulated disk first."""

    def __init__(self, mirror: Mirror, file: RealFile, writable: bool, simulated: SimFile | None = None) -> None:
        self.path = file.path
        self._mirror = mirror
        self._file = file
        self._writable = writable
        self._simulated = simulated

    def _followed(self) -> SimFile | None:
        if self._simulated is None and self._mirror._knows(self.path):
            self._simulated = self._mirror.disk.open(self._mirror._on_disk(self.path), write=self._writable)
        return self._simulated

    def read_at(self, offset: int, length: int) -> bytes:
        return self._file.read_at(offset, length)

    def write_at(self, offset: int, data: bytes) -> None:
        followed = self._followed()
        if followed is not None:
            followed.write_at(offset, data)
        self._file.write_at(offset, data)

    def start_sync(self, offset: int, length: int) -> None:
        pass

    def sync(self) -> None:
        """On the simulated disk alone: what tmpfs is told makes no difference."""
        followed = self._followed()
        if followed is not None:
            followed.sync()

    def truncate(self, length: int) -> None:
        followed = self._followed()
        if followed is not None:
            followed.truncate(length)
        self._file.truncate(length)

    def size(self) -> int:
        return self._file.size()

    def close(self) -> None:
        self._file.close()


class MirrorLock:
    """A real lock whose content the simulated disk follows."""

    def __init__(self, held: RealLock, simulated: SimLock) -> None:
        self.path = held.path
        self._held = held
        self._simulated = simulated

    def read(self) -> bytes:
        return self._held.read()

    def write(self, data: bytes) -> None:
        self._simulated.write(data)
        self._held.write(data)

    def is_held(self) -> bool:
        return self._held.is_held()

    def release(self) -> None:
        self._simulated.release()
        self._held.release()


def _write(node: FileNode, content: bytes, start: int, unit: int) -> None:
    """Makes a file's content this by writes of `unit` bytes (the first one of `start`) where it differs."""
    old = bytes(node.live)
    for low, high in pairwise(sorted({0, *range(start, len(content), unit), len(content)})):
        if content[low:high] != old[low:high]:
            node.write(low, content[low:high])
    if len(content) < len(old):
        node.truncate(len(content))


def lay_out(disk: SimDisk, root: str) -> None:
    """Makes the simulated disk's data directory a real one at `root`, which is not there yet."""

    def make(node: Node, path: str) -> None:
        if isinstance(node, DirectoryNode):
            os.mkdir(path, 0o700)
            for name, each in node.live.items():
                make(each, f"{path}/{name}")
        elif isinstance(node, LinkNode):
            os.symlink(node.target, path)
        else:
            with open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
                file.write(node.live)

    make(disk._root.live[TOP.strip("/")], root)
