"""The Storage protocol and the real files behind it: the only module here that touches `os`.

Small enough that a simulated disk can stand in for it. What it promises is what the rest is built on:

- `File.write_at` writes every byte or raises; what it wrote is durable only once `sync` has returned.
- `File.sync` makes the file's content and length durable. An error from it is final: the caller never retries, because
  the kernel may have dropped the dirty pages and would report success the second time.
- A created, renamed or removed name is durable only once `sync_dir` of its directory has returned.
- `replace` is atomic: a crash leaves the old name's target or the new one's.
"""

from __future__ import annotations

import os
import stat as stat_module
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any, Literal, Protocol

from journal.errors import Corrupt, EnvironmentFault, NotAJournal
from journal.filesystems import NETWORK_FILESYSTEMS, filesystem_type, os_fault

if sys.platform != "win32":
    import fcntl

FILE_MODE = 0o600
DIRECTORY_MODE = 0o700
READ_BYTES_MAX = 5 << 28  # above any segment (1 GiB) with a batch behind it

Kind = Literal["missing", "file", "directory", "link", "other"]


class File(Protocol):
    """One open file. Offsets and lengths are bytes."""

    def read_at(self, offset: int, length: int) -> bytes:
        """Up to `length` bytes; shorter only at the end of the file."""
        ...

    def write_at(self, offset: int, data: bytes) -> None:
        """Writes all of `data`, or raises."""
        ...

    def sync(self) -> None:
        """Content and length are durable when this returns."""
        ...

    def truncate(self, length: int) -> None: ...

    def size(self) -> int: ...

    def close(self) -> None: ...


class Lock(Protocol):
    """An exclusive, advisory lock held on a file that is never deleted."""

    def read(self) -> bytes: ...

    def write(self, data: bytes) -> None:
        """Replaces the lock file's content and makes it durable."""
        ...

    def is_held(self) -> bool:
        """False once the path no longer names the locked file (removed, replaced), and in a forked child."""
        ...

    def release(self) -> None: ...


class Storage(Protocol):
    """A file system, reduced to what the journal needs. Paths are absolute strings."""

    def open(self, path: str, *, write: bool = False, create: bool = False) -> File:
        """`create` makes a new file and refuses an existing one (FileExistsError)."""
        ...

    def read(self, path: str) -> bytes:
        """The whole file. FileNotFoundError if there is none."""
        ...

    def list(self, path: str) -> list[str]:
        """Sorted names in a directory; empty if the directory is missing."""
        ...

    def kind(self, path: str) -> Kind:
        """What the name itself is; a symbolic link is not followed."""
        ...

    def size(self, path: str) -> int: ...

    def make_directory(self, path: str) -> None:
        """Creates it with its parents, each name synced; an existing one is fine."""
        ...

    def replace(self, source: str, target: str) -> None: ...

    def remove(self, path: str) -> None: ...

    def remove_directory(self, path: str) -> None: ...

    def make_link(self, target: str, path: str) -> None:
        """A symbolic link at `path`; FileExistsError if the name is taken."""
        ...

    def read_link(self, path: str) -> str: ...

    def sync_dir(self, path: str) -> None: ...

    def lock(self, path: str) -> Lock | None:
        """Takes the lock, creating the file if needed; None if another process holds it."""
        ...

    def free_bytes(self, path: str) -> int: ...


def write_file(storage: Storage, path: str, data: bytes) -> None:
    """Publishes a whole file atomically: written beside, synced, renamed, directory synced.

    A crash leaves the old file or the new one, never a part. The temporary name ends in ``.tmp``.
    """
    directory, name = path.rsplit("/", 1)
    temporary = f"{directory}/.{name.encode()[:200].decode(errors='ignore')}.tmp"  # NAME_MAX counts bytes
    if storage.kind(temporary) != "missing":
        storage.remove(temporary)  # left by a crash between create and rename
    file = storage.open(temporary, write=True, create=True)
    try:
        file.write_at(0, data)
        file.sync()
    finally:
        file.close()
    storage.replace(temporary, path)
    storage.sync_dir(directory)


def read_bounded(storage: Storage, path: str, limit: int) -> bytes:
    """The whole of a file of which the format says how long it can be. Raises Corrupt for a longer one, unread."""
    length = storage.size(path)
    if length > limit:
        raise Corrupt(f"the file has {length} bytes, at most {limit} belong there", path=path, offset=limit)
    return storage.read(path)


# -- the real files ---------------------------------------------------------------------------------------------------


@contextmanager
def _faults(path: str) -> Iterator[None]:
    """Turns errno into the declared errors, with the path. FileNotFoundError and FileExistsError pass through."""
    try:
        yield
    except (FileNotFoundError, FileExistsError):
        raise
    except OSError as error:
        raise os_fault(error, path) from error


def _close(fd: int) -> None:
    with suppress(OSError):
        os.close(fd)


if sys.platform == "darwin":  # fsync(2) there stops at the drive's cache; F_FULLFSYNC goes through it

    def _sync(fd: int) -> None:
        fcntl.fcntl(fd, fcntl.F_FULLFSYNC)

else:
    _sync = os.fdatasync


class RealFile:
    """A file descriptor."""

    __slots__ = ("fd", "path")

    def __init__(self, fd: int, path: str) -> None:
        self.fd = fd
        self.path = path

    def read_at(self, offset: int, length: int) -> bytes:
        with _faults(self.path):
            length = min(length, max(0, self.size() - offset))  # what a file claims of itself is not allocated
            if length > READ_BYTES_MAX:
                raise Corrupt(f"the file has {length} bytes from {offset} on: none is that long", path=self.path)
            data = os.pread(self.fd, length, offset)
            while len(data) < length:  # pread may stop short (2 GiB limit, signals on some file systems)
                more = os.pread(self.fd, length - len(data), offset + len(data))
                if not more:
                    break
                data += more
            return data

    def write_at(self, offset: int, data: bytes) -> None:
        try:
            written = os.pwrite(self.fd, data, offset)
            while written < len(data):
                written += os.pwrite(self.fd, memoryview(data)[written:], offset + written)
        except OSError as error:
            raise os_fault(error, self.path) from error

    def sync(self) -> None:
        try:
            _sync(self.fd)
        except OSError as error:
            raise os_fault(error, self.path) from error

    def truncate(self, length: int) -> None:
        with _faults(self.path):
            os.ftruncate(self.fd, length)

    def size(self) -> int:
        with _faults(self.path):
            return os.fstat(self.fd).st_size

    def close(self) -> None:
        """The descriptor is gone whatever close(2) says, and what matters was synced before: its errors say nothing."""
        if self.fd >= 0:
            fd, self.fd = self.fd, -1
            _close(fd)


class RealLock:
    """flock(2) on a file that is never deleted, so that two holders can never lock two different inodes."""

    __slots__ = ("_identity", "_owner", "fd", "path")

    def __init__(self, fd: int, path: str) -> None:
        self.fd = fd
        self.path = path
        self._owner = os.getpid()
        status = os.fstat(fd)
        self._identity = (status.st_dev, status.st_ino)
        _LOCKS.add(self)

    def read(self) -> bytes:
        return RealFile(self.fd, self.path).read_at(0, 65536)

    def write(self, data: bytes) -> None:
        file = RealFile(self.fd, self.path)
        file.write_at(0, data)
        file.truncate(len(data))
        file.sync()

    def is_held(self) -> bool:
        if os.getpid() != self._owner:
            return False  # a forked child shares the flock: two writers would hold it
        try:
            status = os.stat(self.path)
        except OSError:
            return False
        return (status.st_dev, status.st_ino) == self._identity

    def release(self) -> None:
        _LOCKS.discard(self)
        if self.fd >= 0:
            fd, self.fd = self.fd, -1
            _close(fd)  # which drops the flock, unless a forked child has it too


_LOCKS: set[RealLock] = set()


def _leave_to_parent() -> None:
    """In a forked child: a pool's worker that outlives its server would keep the lock, and lock everybody out."""
    for lock in list(_LOCKS):
        lock.release()


os.register_at_fork(after_in_child=_leave_to_parent)


def _refuse_network(path: str, fd: int) -> None:
    """Raises EnvironmentFault on a network file system: flock there may lock nobody out."""
    try:
        with open("/proc/self/mountinfo") as mountinfo:
            device = os.fstat(fd).st_dev
            found = filesystem_type(mountinfo.read(), f"{os.major(device)}:{os.minor(device)}")
    except FileNotFoundError:
        return  # no Linux: macOS refuses flock on shares that do not support it
    if found in NETWORK_FILESYSTEMS:
        raise EnvironmentFault(
            f"a journal cannot live on a network file system ({found})", path=path, hint="put it on a local disk"
        )


def _refuse_foreign(path: str, fd: int) -> None:
    """Raises EnvironmentFault where the lock would be written into a file that is somebody else's too."""
    status = os.fstat(fd)
    if not stat_module.S_ISREG(status.st_mode) or status.st_nlink > 1:
        raise EnvironmentFault(
            "the lock file has another name elsewhere, or is no regular file",
            path=path, hint="remove this name: the journal makes its lock file anew",
        )  # fmt: skip


class RealStorage:
    """Files of the operating system. Everything is created 0600, directories 0700.

    Raises EnvironmentFault where the system is neither Linux nor macOS: elsewhere nothing is known of its syncs.
    """

    def __init__(self) -> None:
        if sys.platform not in ("linux", "darwin"):
            raise EnvironmentFault(f"agent-journal runs on Linux and macOS, not on {sys.platform}")

    def open(self, path: str, *, write: bool = False, create: bool = False) -> RealFile:
        # not blocking: a pipe that took the name of a file must not hang whoever reads
        flags = (os.O_RDWR if write else os.O_RDONLY) | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK
        if create:
            flags |= os.O_CREAT | os.O_EXCL
        with _faults(path):
            return RealFile(os.open(path, flags, FILE_MODE), path)

    def read(self, path: str) -> bytes:
        file = self.open(path)
        try:
            return file.read_at(0, file.size())
        finally:
            file.close()

    def list(self, path: str) -> list[str]:
        try:
            with _faults(path):
                return sorted(os.listdir(path))
        except FileNotFoundError:
            return []

    def kind(self, path: str) -> Kind:
        try:
            with _faults(path):
                mode = os.lstat(path).st_mode
        except FileNotFoundError:
            return "missing"
        for test, kind in _KINDS:
            if test(mode):
                return kind
        return "other"

    def size(self, path: str) -> int:
        with _faults(path):
            return os.stat(path).st_size

    def make_directory(self, path: str) -> None:
        if self.kind(path) == "directory" or os.path.isdir(path):
            return
        parent = os.path.dirname(path)
        if parent != path:
            self.make_directory(parent)
        with _faults(path):
            try:
                os.mkdir(path, DIRECTORY_MODE)
            except FileExistsError:
                if not os.path.isdir(path):
                    raise NotAJournal("a file is in the way of a directory", path=path) from None
        self.sync_dir(parent)

    def replace(self, source: str, target: str) -> None:
        with _faults(target):
            os.replace(source, target)

    def remove(self, path: str) -> None:
        with _faults(path):
            os.unlink(path)

    def remove_directory(self, path: str) -> None:
        with _faults(path):
            os.rmdir(path)

    def make_link(self, target: str, path: str) -> None:
        with _faults(path):
            os.symlink(target, path)

    def read_link(self, path: str) -> str:
        with _faults(path):
            return os.readlink(path)

    def sync_dir(self, path: str) -> None:
        with _faults(path):
            fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            try:
                os.fsync(fd)
            finally:
                _close(fd)

    def lock(self, path: str) -> RealLock | None:
        with _faults(path):
            fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, FILE_MODE)
            try:
                _refuse_network(path, fd)
                _refuse_foreign(path, fd)
                fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BaseException as error:
                _close(fd)
                if isinstance(error, BlockingIOError):
                    return None
                raise
            return RealLock(fd, path)

    def free_bytes(self, path: str) -> int:
        with _faults(path):
            status = os.statvfs(path)
            return status.f_bavail * status.f_frsize


_KINDS: tuple[tuple[Any, Kind], ...] = (
    (stat_module.S_ISREG, "file"),
    (stat_module.S_ISDIR, "directory"),
    (stat_module.S_ISLNK, "link"),
)
