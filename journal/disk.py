"""The Storage protocol: a file system, reduced to what the journal needs.

Small enough that a simulated disk can stand in for it. What it promises is what the rest is built on:

- `File.write_at` writes every byte or raises; what it wrote is durable only once `sync` has returned.
- `File.sync` makes the file's content and length durable. An error from it is final: the caller never retries, because
  the kernel may have dropped the dirty pages and would report success the second time.
- A created, renamed or removed name is durable only once `sync_dir` of its directory has returned.
- `replace` is atomic: a crash leaves the old name's target or the new one's.

Must not know how a promise is kept.
"""

from __future__ import annotations

from typing import Literal, Protocol

Kind = Literal["missing", "file", "directory", "link", "other"]


class Readable(Protocol):
    """One open file, as far as it is read. Offsets and lengths are bytes."""

    def read_at(self, offset: int, length: int) -> bytes:
        """Up to `length` bytes; shorter only at the end of the file. Raises Unreadable where the disk fails."""
        ...

    def size(self) -> int: ...

    def close(self) -> None: ...


class File(Readable, Protocol):
    """One open file."""

    def write_at(self, offset: int, data: bytes) -> None:
        """Writes all of `data`, or raises."""
        ...

    def start_sync(self, offset: int, length: int) -> None:
        """What was written there may be moved to the disk from now on: a hint, which promises nothing, raises nothing,
        and lets the disk work while the caller does."""
        ...

    def sync(self) -> None:
        """Content and length are durable when this returns."""
        ...

    def truncate(self, length: int) -> None: ...


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
        """Creates it with its parents, each name synced; so is that of an existing one, which a run that was killed may
        have made just before it synced the name."""
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
