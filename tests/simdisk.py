"""A disk in memory that can lose power: the Storage protocol over nodes that know what is durable (`simnodes`).

What it shows to a program is what RealStorage shows, errors included; the differential test holds it to that. Beyond
that a test can cut the power (`crash`, `cut_at`), inject faults (`faults`), damage sectors, count operations and set
the space that is left. One disk is one machine: locks are held until they are released or the power is cut.
"""

from __future__ import annotations

import errno
import os
import random
from collections.abc import Callable
from contextlib import suppress
from typing import Any

from journal.errors import Corrupt, IOFault, NoSpace, NotAJournal, ReadOnly, Unreadable
from journal.storage import Kind
from tests.simfaults import CHANGES, Counts, Fault, PowerCut
from tests.simfiles import SimFile, SimLock
from tests.simnodes import (
    SECTOR_BYTES,
    DirectoryNode,
    FileNode,
    LinkNode,
    Mode,
    NameChange,
    Names,
    Node,
    names_after,
    tree_after,
)
from tests.simtree import (
    NAME_BYTES_MAX,
    checksum_of,
    child,
    directory_at,
    file_at,
    holds,
    image_of,
    is_directory,
    node_at,
    node_bytes,
    os_error,
    parent_of,
    parts_of,
    used_bytes,
)

PLENTY = 1 << 40
MISSING = FileNode()  # only its identity counts


class SimDisk:
    """A file system, as one machine sees it between two power cuts."""

    def __init__(self) -> None:
        self.faults: list[Fault] = []
        self.counts = Counts()
        self.cut_at: int | None = None
        """The power goes at this change, counted from 1 over the disk's life: see `Counts.changes`."""
        self.before_change: Callable[[], None] | None = None
        """Called before each change: between two of them every cut leaves the same (`simcuts.images`)."""
        self.is_off = False
        self.read_only = False
        self.capacity: int | None = None
        self._root = DirectoryNode()
        self._names = Names()
        self._locked: dict[int, SimLock] = {}

    # -- what tests do to it ------------------------------------------------------------------------------------------

    def crash(self, rng: random.Random, mode: Mode = "torn") -> SimDisk:
        """The disk as the next boot finds it. This one stays as it is, so that many ends can be tried from here.

        `torn` keeps any legal part of what was not synced, `none` keeps nothing of it, `all` everything.
        """
        after = SimDisk()
        arrived = self._names.arriving(rng, mode)
        after._root = tree_after(self._root, arrived, lambda node: node.after_cut(rng, mode))
        after.capacity = self.capacity
        return after

    def pending(self) -> tuple[list[list[NameChange]], list[FileNode]]:
        """Changes of names and files with writes that a power cut may let arrive or not."""
        files: dict[int, FileNode] = {}

        def walk(node: Node) -> None:
            if isinstance(node, DirectoryNode):
                for names in (node.live, node.durable) if node.live != node.durable else (node.live,):
                    for each in names.values():
                        walk(each)
            elif isinstance(node, FileNode) and node.pending:
                files[id(node)] = node

        walk(self._root)
        for together in self._names.pending:
            for change in together:
                if change.node is not None:
                    walk(change.node)
        return self._names.pending, list(files.values())

    def after(self, arrived: list[list[NameChange]], contents: dict[int, bytes]) -> SimDisk:
        """The disk after a cut that let these names arrive, and of the files with pending writes (by id) these."""
        disk = SimDisk()
        disk._root = tree_after(self._root, arrived, lambda node: contents.get(id(node), node.durable))
        disk.capacity = self.capacity
        return disk

    def image_after(self, arrived: list[list[NameChange]], contents: dict[int, bytes]) -> tuple[int, bool]:
        """The `image` of the disk that `after` makes of the same."""
        return image_of(self._root, names_after(arrived), contents)

    def image(self) -> tuple[int, bool]:
        """A number that tells images apart: of every name and every byte. And whether there is any byte."""
        return image_of(self._root)

    def image_below(self, path: str) -> int:
        """As `image`, of what lies below a directory, sectors that cannot be read included; 0 where it is missing."""
        try:
            return image_of(node_at(self._root, path))[0]
        except OSError:
            return 0

    def checksum_below(self, path: str) -> int:
        """As `image_below`, and the same in every process."""
        try:
            return checksum_of(node_at(self._root, path))
        except OSError:
            return 0

    def fail(self, operation: str, **options: object) -> Fault:
        """Adds a fault; the test should assert that it ``fired``."""
        fault = Fault(operation, **options)  # type: ignore[arg-type]
        self.faults.append(fault)
        return fault

    def damage(self, path: str, offset: int, *, short: bool = False) -> None:
        """The sector at `offset` cannot be read any more; with `short`, reads end before it as at the end of a file."""
        file_at(self._root, path).bad_sectors[offset // SECTOR_BYTES] = short

    def poke(self, path: str, offset: int, data: bytes) -> None:
        """Changes bytes behind the program's back, durably, as rot or a stray writer does."""
        file_at(self._root, path).poke(offset, data)

    def set_free_bytes(self, count: int) -> None:
        """From now on only this much can be added to files."""
        self.capacity = used_bytes(self._root) + count

    def durable(self, path: str) -> bytes:
        """What of a file is on the platter."""
        return file_at(self._root, path).durable

    def unsynced_paths(self) -> list[str]:
        """Files whose content, and directories whose names, a power cut could change."""
        found = []

        def walk(node: Node, path: str) -> None:
            if isinstance(node, FileNode) and node.pending:
                found.append(path)
            elif isinstance(node, DirectoryNode):
                if node.live != node.durable:
                    found.append(path or "/")
                for name in sorted(node.live):
                    walk(node.live[name], f"{path}/{name}")

        walk(self._root, "")
        return found

    # -- Storage ------------------------------------------------------------------------------------------------------

    def open(self, path: str, *, write: bool = False, create: bool = False) -> SimFile:
        if not write and not create:
            seen = self._glance("open", path, FileNode)
            if seen is MISSING:
                raise FileNotFoundError(errno.ENOENT, "No such file or directory", path)
            if seen is not None:
                return SimFile(self, seen, path, write)
        with self.does("create" if create else "open", path, changes=write) as skipped:
            directory, name = parent_of(self._root, path)
            node = child(directory, name)
            if create:
                if node is not None:
                    raise os_error(errno.EEXIST)
                node = FileNode()
                if not skipped:
                    self._names.change(NameChange(directory, name, node))
            elif node is None:
                raise os_error(errno.ENOENT)
            elif isinstance(node, LinkNode):
                raise os_error(errno.ELOOP)
            elif isinstance(node, DirectoryNode) and write:
                raise os_error(errno.EISDIR)
            return SimFile(self, node, path, write)

    def read(self, path: str) -> bytes:
        file = self.open(path)
        try:
            return file.read_at(0, file.size())
        finally:
            file.close()

    def list(self, path: str) -> list[str]:
        seen = self._glance("list", path, DirectoryNode)
        if seen is not None:
            return sorted(seen.live) if seen is not MISSING else []
        try:
            with self.does("list", path):
                return sorted(directory_at(self._root, path).live)
        except FileNotFoundError:
            return []

    def kind(self, path: str) -> Kind:
        seen = self._glance("kind", path)
        if seen is not None:
            return "missing" if seen is MISSING else "file" if seen.__class__ is FileNode else "directory"
        try:
            with self.does("kind", path):
                node = node_at(self._root, path, follow=False)
        except FileNotFoundError:
            return "missing"
        return "file" if isinstance(node, FileNode) else "link" if isinstance(node, LinkNode) else "directory"

    def size(self, path: str) -> int:
        seen = self._glance("size", path, FileNode)
        if seen is not None and seen is not MISSING:
            return len(seen.live)
        with self.does("size", path):
            return node_bytes(node_at(self._root, path))

    def make_directory(self, path: str) -> None:
        parent = os.path.dirname(path)
        if self.kind(path) == "directory" or is_directory(self._root, path):
            if parent != path:
                with suppress(ReadOnly):
                    self.sync_dir(parent)
            return
        if parent != path:
            self.make_directory(parent)
        with self.does("make_directory", path) as skipped:
            directory, name = parent_of(self._root, path)
            if child(directory, name) is not None:
                raise NotAJournal("a file is in the way of a directory", path=path)
            if not skipped:
                self._names.change(NameChange(directory, name, DirectoryNode()))
        self.sync_dir(parent)

    def replace(self, source: str, target: str) -> None:
        with self.does("rename", target) as skipped:
            old_directory, old_name = parent_of(self._root, source)
            new_directory, new_name = parent_of(self._root, target)
            node = child(old_directory, old_name)
            if node is None:
                raise os_error(errno.ENOENT)
            other = child(new_directory, new_name)
            if isinstance(node, DirectoryNode):
                if holds(node, new_directory):
                    raise os_error(errno.EINVAL)
                if other is not None and not isinstance(other, DirectoryNode):
                    raise os_error(errno.ENOTDIR)
            if isinstance(other, DirectoryNode):
                if holds(other, old_directory):
                    raise os_error(errno.ENOTEMPTY)
                if not isinstance(node, DirectoryNode):
                    raise os_error(errno.EISDIR)
                if other.live and other is not node:
                    raise os_error(errno.ENOTEMPTY)
            if node is not other and not skipped:
                self._names.change(NameChange(old_directory, old_name, None), NameChange(new_directory, new_name, node))

    def remove(self, path: str) -> None:
        with self.does("remove", path) as skipped:
            directory, name = parent_of(self._root, path)
            node = child(directory, name)
            if node is None:
                raise os_error(errno.ENOENT)
            if isinstance(node, DirectoryNode):
                raise os_error(errno.EISDIR)
            if not skipped:
                self._names.change(NameChange(directory, name, None))

    def remove_directory(self, path: str) -> None:
        with self.does("remove_directory", path) as skipped:
            directory, name = parent_of(self._root, path)
            node = child(directory, name)
            if node is None:
                raise os_error(errno.ENOENT)
            if not isinstance(node, DirectoryNode):
                raise os_error(errno.ENOTDIR)
            if node.live:
                raise os_error(errno.ENOTEMPTY)
            if not skipped:
                self._names.change(NameChange(directory, name, None))

    def make_link(self, target: str, path: str) -> None:
        with self.does("link", path) as skipped:
            directory, name = parent_of(self._root, path)
            if child(directory, name) is not None:
                raise os_error(errno.EEXIST)
            if not skipped:
                self._names.change(NameChange(directory, name, LinkNode(target)))

    def read_link(self, path: str) -> str:
        with self.does("read_link", path):
            node = node_at(self._root, path, follow=False)
            if not isinstance(node, LinkNode):
                raise os_error(errno.EINVAL)
            return node.target

    def sync_dir(self, path: str) -> None:
        with self.does("sync_dir", path) as skipped:
            directory = directory_at(self._root, path)
            if not skipped:
                self._names.sync(directory)

    def lock(self, path: str) -> SimLock | None:
        with self.does("lock", path):
            directory, name = parent_of(self._root, path)
            node = child(directory, name)
            if node is None:
                node = FileNode()
                self._names.change(NameChange(directory, name, node))
            if not isinstance(node, FileNode):
                raise os_error(errno.ELOOP if isinstance(node, LinkNode) else errno.EISDIR)
            if id(node) in self._locked:
                return None
            lock = SimLock(self, node, path)
            self.hold(lock, node)
            return lock

    def free_bytes(self, path: str) -> int:
        with self.does("free_bytes", path):
            node_at(self._root, path)
            return PLENTY if self.capacity is None else max(0, self.capacity - used_bytes(self._root))

    def _glance(self, operation: str, path: str, wanted: type | None = None) -> Any:
        """The node of the kind `wanted` that a path names, or `MISSING`, where neither fault nor link is in the way.

        The many reads go this way, and are counted; None, uncounted, means the long one.
        """
        if self.faults or self.read_only or self.is_off:
            return None
        node: Any = self._root
        for part in parts_of(path):
            if node.__class__ is not DirectoryNode:
                return None
            node = node.live.get(part)
            if node is None:
                if part == "." or part == ".." or len(part) > NAME_BYTES_MAX // 4 or operation == "size":
                    return None
                node = MISSING
                break
        if node is not MISSING and (node.__class__ is LinkNode or (wanted and node.__class__ is not wanted)):
            return None
        self.counts.operations[operation] += 1
        return node

    # -- within -------------------------------------------------------------------------------------------------------

    def does(
        self, operation: str, path: str, *, changes: bool = False, on_fault: Callable[[Fault], None] | None = None
    ) -> Operation:
        """One operation, as a context: counted, cut or failed if it is due; True if it must be skipped in silence.

        At a cut, names and writes get as far as the cache, a sync does not even begin: `crash` says what became of it.
        """
        return Operation(self, operation, path, changes, on_fault)

    def room(self, node: FileNode, length: int) -> int:
        """How long a file may get that is to be `length` long."""
        grows = length - len(node.live)
        if self.capacity is None or grows <= 0:
            return length
        return len(node.live) + min(grows, max(0, self.capacity - used_bytes(self._root)))

    def hold(self, lock: SimLock | None, node: FileNode) -> None:
        """Who holds the lock on a file: the one handle for as long as it is not released."""
        if lock is None:
            self._locked.pop(id(node), None)
        else:
            self._locked[id(node)] = lock

    def names(self, path: str, node: FileNode) -> bool:
        """True if the path leads to this very file."""
        try:
            return not self.is_off and node_at(self._root, path) is node
        except OSError:
            return False


class Operation:
    """One operation on a disk; a context in plain methods, because there are very many of them."""

    __slots__ = ("_changes", "_cut", "_disk", "_on_fault", "_operation", "_path")

    def __init__(
        self, disk: SimDisk, operation: str, path: str, changes: bool, on_fault: Callable[[Fault], None] | None
    ) -> None:
        self._disk = disk
        self._operation = operation
        self._path = path
        self._changes = changes
        self._on_fault = on_fault
        self._cut = False

    def __enter__(self) -> bool:
        disk, operation = self._disk, self._operation
        if disk.is_off:
            raise PowerCut(self._path)
        is_change = operation in CHANGES
        if is_change and disk.before_change is not None:
            disk.before_change()
        disk.counts.operations[operation] += 1
        if is_change and disk.cut_at is not None and disk.counts.changes == disk.cut_at:
            self._cut = disk.is_off = True
            if operation in ("sync", "sync_dir"):
                raise PowerCut(self._path)
        if not disk.faults and not disk.read_only:
            return False
        try:
            return self._meet_faults(is_change)
        except OSError as error:
            raise self._told(error) from error

    def _meet_faults(self, is_change: bool) -> bool:
        disk, operation, skipped = self._disk, self._operation, False
        if disk.read_only and (self._changes or (is_change and operation not in ("sync", "sync_dir"))):
            raise os_error(errno.EROFS)
        for fault in [each for each in disk.faults if each.meets(operation, self._path)]:
            skipped = fault.silent
            if not skipped:
                if self._on_fault is not None:
                    self._on_fault(fault)
                raise os_error(fault.error)
        return skipped

    def __exit__(self, kind: object, error: BaseException | None, _: object) -> None:
        if isinstance(error, OSError):
            told = self._told(error)
            if told is not error:
                raise told from error
        elif error is None and self._cut:
            raise PowerCut(self._path)

    def _told(self, error: OSError) -> Exception:
        """As the protocol promises it: with the path, and but for two kinds as a declared error."""
        if isinstance(error, FileNotFoundError | FileExistsError):
            error.filename = self._path
            return error
        return _declared(error, self._path, self._operation)


def _declared(error: OSError, path: str, operation: str) -> Exception:
    """The declared error that the protocol promises in place of an OSError."""
    if operation == "read" and error.errno == errno.EIO:
        return Unreadable(str(error), path=path)
    if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
        return NoSpace(str(error), path=path)
    if error.errno in (errno.EROFS, errno.EACCES, errno.EPERM):
        return ReadOnly(str(error), path=path)
    if error.errno in (errno.EISDIR, errno.ELOOP):
        return Corrupt(str(error), path=path)
    return IOFault(str(error), path=path)
