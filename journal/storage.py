"""The real files behind the Storage protocol (`journal.disk`): the only module here that touches `os`.

What lies in a directory of the journal's own is changed without following a link: whoever swaps the directory for one,
in the midst of a recovery even, cannot lead a change out of the journal.
"""

from __future__ import annotations

import errno
import os
import stat as stat_module
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import cache
from time import time_ns
from typing import Any, cast

from journal.disk import File as File
from journal.disk import Kind as Kind
from journal.disk import Lock as Lock
from journal.disk import Readable as Readable
from journal.disk import Storage as Storage
from journal.errors import Corrupt, EnvironmentFault, NotAJournal
from journal.filesystems import NETWORK_FILESYSTEMS, filesystem_type, os_fault, read_fault

if sys.platform != "win32":
    import fcntl

_NO_SYNC = (errno.EACCES, errno.EPERM, errno.EROFS, errno.EINVAL, errno.ENOSYS, errno.ENOTSUP)  # of a directory
FILE_MODE = 0o600
DIRECTORY_MODE = 0o700
OWN_DIRECTORIES = frozenset({"segments", "checkpoints", "parts", "work", "quarantine", "parity", "index"})
READ_BYTES_MAX = 5 << 28  # above any segment (1 GiB) with a batch behind it


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


@cache
def _write_ahead() -> Callable[[int, int, int, int], int]:
    """sync_file_range(2), which Python does not offer: starts writing pages of a file to the disk. It is no sync: it
    does not wait, and the drive's cache does not hear of it."""
    import ctypes  # only a writer needs it

    call: Any = getattr(ctypes.CDLL(None, use_errno=True), "sync_file_range", None)
    if call is None:  # macOS has none
        return lambda *_: 0
    call.argtypes = (ctypes.c_int, ctypes.c_int64, ctypes.c_int64, ctypes.c_uint)
    return cast("Callable[[int, int, int, int], int]", call)


_SYNC_FILE_RANGE_WRITE = 2
_SYNC_FILE_RANGE_AND_WAIT = 1 | 2 | 4


def write_out(fd: int, offset: int, length: int) -> None:
    """Has what is dirty of a part of a file written to the disk, and waits for that. No sync either: it leaves a sync
    less to do. Raises OSError where it could not be written, which a later sync may not say again; where there is no
    such call, or a sandbox forbids it, nothing is done."""
    import ctypes

    done = _write_ahead()(fd, offset, length, _SYNC_FILE_RANGE_AND_WAIT)
    if done < 0 and (number := ctypes.get_errno()) in (errno.EIO, errno.ENOSPC, errno.EDQUOT):
        raise OSError(number, os.strerror(number))


class RealFile:
    """A file descriptor."""

    __slots__ = ("fd", "path")

    def __init__(self, fd: int, path: str) -> None:
        self.fd = fd
        self.path = path

    def read_at(self, offset: int, length: int) -> bytes:
        length = min(length, max(0, self.size() - offset))  # what a file claims of itself is not allocated
        if length > READ_BYTES_MAX:
            raise Corrupt(f"the file has {length} bytes from {offset} on: none is that long", path=self.path)
        data = b""
        try:
            data = os.pread(self.fd, length, offset)
            while len(data) < length:  # pread may stop short (2 GiB limit, a bad sector, signals on some file systems)
                more = os.pread(self.fd, length - len(data), offset + len(data))
                if not more:
                    break
                data += more
        except OSError as error:
            raise read_fault(error, self.path, offset + len(data)) from error
        return data

    def write_at(self, offset: int, data: bytes) -> None:
        try:
            written = os.pwrite(self.fd, data, offset)
            while written < len(data):
                written += os.pwrite(self.fd, memoryview(data)[written:], offset + written)
        except OSError as error:
            raise os_fault(error, self.path) from error

    def start_sync(self, offset: int, length: int) -> None:
        _write_ahead()(self.fd, offset, length, _SYNC_FILE_RANGE_WRITE)  # what fails here fails again in `sync`

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
    """flock(2) on a file that is never deleted, so that two holders can never lock two different inodes.

    A writer looks at it before each batch. So the content is read again only when `is_held` saw the file's times or
    length change; and each time as long as another change could have the same times.
    """

    __slots__ = ("_content", "_identity", "_owner", "_read_at", "_seen", "fd", "path")

    def __init__(self, fd: int, path: str) -> None:
        self.fd = fd
        self.path = path
        self._owner = os.getpid()
        status = os.fstat(fd)
        self._identity = (status.st_dev, status.st_ino)
        self._seen: tuple[int, int, int] | None = None  # times and length, when `is_held` last looked
        self._read_at: tuple[int, int, int] | None = None  # and when the content was read
        self._content = b""
        _LOCKS.add(self)

    def read(self) -> bytes:
        seen = self._seen
        if seen is None or seen != self._read_at:
            self._content = RealFile(self.fd, self.path).read_at(0, 65536)
            self._read_at = seen if seen and _has_settled(seen[1]) else None
        return self._content

    def write(self, data: bytes) -> None:
        self._seen = None
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
        self._seen = (status.st_mtime_ns, status.st_ctime_ns, status.st_size)
        return (status.st_dev, status.st_ino) == self._identity

    def release(self) -> None:
        _LOCKS.discard(self)
        if self.fd >= 0:
            fd, self.fd = self.fd, -1
            _close(fd)  # which drops the flock, unless a forked child has it too


_LOCKS: set[RealLock] = set()


def _has_settled(changed_ns: int) -> bool:
    """Whether a file's next change gets another time: clocks of files tick every 10 ms, or in seconds: not believed."""
    return changed_ns % 1_000_000_000 != 0 and time_ns() - changed_ns > 100_000_000


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


@contextmanager
def _reach(path: str) -> Iterator[tuple[str, int | None]]:
    """A name, and the open directory that it is relative to (None: it is a whole path)."""
    directory, name = os.path.split(path)
    own: list[str] = []
    while os.path.basename(directory) in OWN_DIRECTORIES:
        directory, last = os.path.split(directory)
        own.append(last)
    if not own:
        yield path, None
        return
    flags = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC
    fd = os.open(directory, flags)
    try:
        for each in reversed(own):
            directory = f"{directory}/{each}"
            try:
                inner = os.open(each, flags | os.O_NOFOLLOW, dir_fd=fd)
            except OSError:
                if os.path.islink(directory):
                    raise EnvironmentFault(
                        "a link lies where a directory of the journal's own belongs",
                        path=directory, hint="remove the link; paths.journal in journal.yaml says where a journal lies",
                    ) from None  # fmt: skip
                raise
            _close(fd)
            fd = inner
        yield name, fd
    finally:
        _close(fd)


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
            if not write:
                return RealFile(os.open(path, flags), path)
            with _reach(path) as (name, at):
                return RealFile(os.open(name, flags, FILE_MODE, dir_fd=at), path)

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
        parent = os.path.dirname(path)
        if self.kind(path) == "directory" or os.path.isdir(path):
            if parent != path:
                self._sync_above(parent)
            return
        if parent != path:
            self.make_directory(parent)
        with _faults(path):
            try:
                with _reach(path) as (name, at):
                    os.mkdir(name, DIRECTORY_MODE, dir_fd=at)
            except FileExistsError:
                if not os.path.isdir(path):
                    raise NotAJournal("a file is in the way of a directory", path=path) from None
        self.sync_dir(parent)

    def _sync_above(self, path: str) -> None:
        """As `sync_dir`; where that is not to be had at all, no run of ours has made a directory there, either."""
        try:
            self.sync_dir(path)
        except EnvironmentFault as error:
            if getattr(error.__cause__, "errno", None) not in _NO_SYNC:
                raise

    def replace(self, source: str, target: str) -> None:
        with _faults(target), _reach(source) as (old, old_at), _reach(target) as (new, new_at):
            os.replace(old, new, src_dir_fd=old_at, dst_dir_fd=new_at)

    def remove(self, path: str) -> None:
        with _faults(path), _reach(path) as (name, at):
            os.unlink(name, dir_fd=at)

    def remove_directory(self, path: str) -> None:
        with _faults(path), _reach(path) as (name, at):
            os.rmdir(name, dir_fd=at)

    def make_link(self, target: str, path: str) -> None:
        with _faults(path), _reach(path) as (name, at):
            os.symlink(target, name, dir_fd=at)

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
            with _reach(path) as (name, at):
                fd = os.open(name, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, FILE_MODE, dir_fd=at)
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
