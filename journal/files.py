"""Whole files over any Storage: made under a temporary name, published by a rename, read with a bound; and the lock by
which one process at a time changes what lies in a directory.

Knows the order of syncs; must not know what is in the files.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

from journal.disk import File, Lock, Storage
from journal.errors import Corrupt, EnvironmentFault, Locked


def write_file(storage: Storage, path: str, data: bytes) -> None:
    """Publishes a whole file atomically: written beside, synced, renamed, directory synced.

    A crash leaves the old file or the new one, never a part. The temporary name ends in ``.tmp``.
    """
    directory, name = path.rsplit("/", 1)
    temporary = f"{directory}/.{name.encode()[:200].decode(errors='ignore')}.tmp"  # NAME_MAX counts bytes
    publish(storage, temporary, path, data)
    storage.sync_dir(directory or "/")


def publish(
    storage: Storage, temporary: str, path: str, data: bytes, check: Callable[[], None] = lambda: None
) -> None:
    """Gives `data` its name, but not durably so: see `publishing`."""
    with publishing(storage, temporary, path, check) as file:
        file.write_at(0, data)


@contextmanager
def publishing(
    storage: Storage, temporary: str, path: str, check: Callable[[], None] = lambda: None
) -> Iterator[File]:
    """A new file to be filled. Behind the body it is synced, before it gets its name: none ever shows a part of it.

    `check` may look at the temporary file in between, and raise. An error, Ctrl-C too, leaves nothing: on a full disk
    that is room. What a kill leaves, the next one removes.
    """
    if storage.kind(temporary) != "missing":
        storage.remove(temporary)
    file = storage.open(temporary, write=True, create=True)
    try:
        try:
            yield file
            file.sync()
        finally:
            file.close()
        check()
        storage.replace(temporary, path)
    except (Exception, KeyboardInterrupt):
        with suppress(EnvironmentFault, FileNotFoundError):
            storage.remove(temporary)
        raise


def is_half_written(name: str) -> bool:
    """True for a name under which `write_file`, or another that publishes by a rename, leaves what a cut stopped."""
    return name.startswith(".") and name.endswith(".tmp")


def read_bounded(storage: Storage, path: str, limit: int) -> bytes:
    """The whole of a file of which the format says how long it can be. Raises Corrupt for a longer one, unread."""
    length = storage.size(path)
    if length > limit:
        raise Corrupt(f"the file has {length} bytes, at most {limit} belong there", path=path, offset=limit)
    return storage.read(path)


def size_of(storage: Storage, path: str) -> int:
    """Bytes of a file that may be taken away at any time; 0 where it was."""
    try:
        return storage.size(path)
    except FileNotFoundError:
        return 0


@contextmanager
def exclusive(storage: Storage, directory: str, doing: str, hint: str) -> Iterator[Lock]:
    """Holds ``lock`` in a directory, both of which are made. Raises Locked; `doing` is what the others are about."""
    path = f"{directory}/lock"
    storage.make_directory(directory)
    lock = storage.lock(path)
    if lock is None:
        raise Locked(f"another process is {doing}", path=path, hint=hint)
    try:
        if not lock.is_held():  # the directory was put aside between opening and locking it
            raise Locked("the journal was replaced a moment ago", path=path, hint="try again")
        yield lock
    finally:
        lock.release()
