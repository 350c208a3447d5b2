"""Open files and locks of a simulated disk, as RealFile and RealLock show them."""

from __future__ import annotations

import errno
from collections.abc import Callable
from typing import TYPE_CHECKING

from tests.simfaults import Fault
from tests.simnodes import SECTOR_BYTES, DirectoryNode, FileNode
from tests.simtree import node_bytes, os_error

if TYPE_CHECKING:
    from tests.simdisk import Operation, SimDisk

LOCK_BYTES_MAX = 65536


class SimFile:
    """A file descriptor. It stays with its file when the name goes elsewhere."""

    def __init__(self, disk: SimDisk, node: FileNode | DirectoryNode, path: str, writable: bool) -> None:
        self.path = path
        self._disk = disk
        self._node: FileNode | DirectoryNode | None = node
        self._writable = writable

    def read_at(self, offset: int, length: int) -> bytes:
        disk, seen = self._disk, self._node
        if not (disk.faults or disk.read_only or disk.is_off) and isinstance(seen, FileNode) and not seen.bad_sectors:
            data = bytes(seen.live[offset : offset + length])
            disk.counts.operations["read"] += 1
            disk.counts.bytes_read += len(data)
            return data
        with self._disk.does("read", self.path):
            node = self._file()
            data = bytes(node.live[offset : offset + length])
            for sector in sorted(node.bad_sectors):
                if offset < (sector + 1) * SECTOR_BYTES and sector * SECTOR_BYTES < offset + len(data):
                    if not node.bad_sectors[sector]:
                        raise os_error(errno.EIO)
                    data = data[: max(0, sector * SECTOR_BYTES - offset)]
                    break
            self._disk.counts.bytes_read += len(data)
            return data

    def write_at(self, offset: int, data: bytes) -> None:
        def partly(fault: Fault) -> None:
            self._write(offset, bytes(data)[: fault.after_bytes])

        with self._does("write", partly) as skipped:
            if not self._writable:  # asked before what it is, as the kernel does
                raise os_error(errno.EBADF)
            node = self._file()
            if skipped:
                return
            fits = min(len(data), max(0, self._disk.room(node, offset + len(data)) - offset))
            self._write(offset, bytes(data)[:fits])
            if fits < len(data):
                raise os_error(errno.ENOSPC)

    def start_sync(self, offset: int, length: int) -> None:
        """Nothing: any part of what was written may be on the disk already, before its sync as well."""

    def sync(self) -> None:
        def lose(fault: Fault) -> None:
            if fault.lies:
                self._file().lose_pending()

        with self._does("sync", lose) as skipped:
            if isinstance(self._open(), FileNode) and not skipped:
                self._file().sync()

    def truncate(self, length: int) -> None:
        with self._does("truncate") as skipped:
            if not self._writable:
                raise os_error(errno.EINVAL if self._node else errno.EBADF)
            node = self._file()
            if not skipped:
                node.truncate(length)

    def size(self) -> int:
        disk = self._disk
        if not (disk.faults or disk.read_only or disk.is_off) and isinstance(self._node, FileNode):
            disk.counts.operations["size"] += 1
            return len(self._node.live)
        with self._disk.does("size", self.path):
            return node_bytes(self._open())

    def close(self) -> None:
        self._node = None

    def _does(self, operation: str, on_fault: Callable[[Fault], None] | None = None) -> Operation:
        return self._disk.does(operation, self.path, on_fault=on_fault)

    def _write(self, offset: int, data: bytes) -> None:
        node = self._file()
        node.write(offset, data)
        self._disk.counts.bytes_written += len(data)
        if node.bad_sectors:
            for sector in range(offset // SECTOR_BYTES, (offset + len(data) - 1) // SECTOR_BYTES + 1):
                node.bad_sectors.pop(sector, None)  # drives remap a bad sector when it is written

    def _open(self) -> FileNode | DirectoryNode:
        if self._node is None:
            raise os_error(errno.EBADF)
        return self._node

    def _file(self) -> FileNode:
        node = self._open()
        if isinstance(node, DirectoryNode):
            raise os_error(errno.EISDIR)
        return node


class SimLock:
    """The one lock on a file of one disk, until it is released or the power is cut."""

    def __init__(self, disk: SimDisk, node: FileNode, path: str) -> None:
        self.path = path
        self._disk = disk
        self._node = node
        self._file = SimFile(disk, node, path, writable=True)
        self._held = True

    def read(self) -> bytes:
        return self._file.read_at(0, LOCK_BYTES_MAX)

    def write(self, data: bytes) -> None:
        self._file.write_at(0, data)
        self._file.truncate(len(data))
        self._file.sync()

    def is_held(self) -> bool:
        return self._held and self._disk.names(self.path, self._node)

    def release(self) -> None:
        if self._held:
            self._held = False
            self._file.close()
            self._disk.hold(None, self._node)
