"""Directories for what is built beside and thrown away: gone when the block ends, and after a kill with the next one.

    PLACE/agent-journal-PURPOSE-XXXXXXXX/      locked (flock on the directory itself) as long as somebody works in it

A process that is killed removes nothing, but the kernel takes back its lock: so whoever makes a directory in the same
place first removes those of this user that nobody holds. Knows names and locks; must not know what is built.
"""

from __future__ import annotations

import fcntl
import os
import re
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress

_NAME = re.compile(r"\.?agent-journal-[a-z]+-[a-z0-9_]{8}")
_FLAGS = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


@contextmanager
def scratch_directory(purpose: str, place: str | None = None) -> Iterator[str]:
    """The path of a new directory (0700), in `place` (hidden there) or among the system's temporary ones.

    `purpose` is a word in small letters. Raises OSError where none can be made. What cannot be removed stays, and is no
    error: the next one tries again.
    """
    prefix = f"agent-journal-{purpose}-" if place is None else f".agent-journal-{purpose}-"
    place = tempfile.gettempdir() if place is None else place
    _sweep(place)
    path, lock = _made(prefix, place)
    try:
        yield path
    finally:
        shutil.rmtree(path, ignore_errors=True)
        if lock is not None:
            os.close(lock)


def _made(prefix: str, place: str) -> tuple[str, int | None]:
    """A new directory, and the descriptor that locks it; None on a file system that locks no directories."""
    while True:
        path = tempfile.mkdtemp(prefix=prefix, dir=place)
        try:
            lock = os.open(path, _FLAGS)
        except FileNotFoundError:  # swept before it was locked: it was nobody's then
            continue
        try:
            fcntl.flock(lock, fcntl.LOCK_EX)  # waits for a sweep that has it
        except OSError:
            os.close(lock)
            return path, None
        with suppress(FileNotFoundError):
            if os.path.samestat(os.stat(path), os.fstat(lock)):
                return path, lock
        os.close(lock)


def _sweep(place: str) -> None:
    with suppress(OSError):
        for entry in list(os.scandir(place)):
            if _NAME.fullmatch(entry.name) and entry.is_dir(follow_symlinks=False):
                _remove_unheld(entry.path)


def _remove_unheld(path: str) -> None:
    try:
        directory = os.open(path, _FLAGS)
    except OSError:  # gone meanwhile, or somebody else's
        return
    try:
        fcntl.flock(directory, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if os.fstat(directory).st_uid == os.getuid():
            shutil.rmtree(path, ignore_errors=True)
    except OSError:
        pass  # somebody works in it
    finally:
        os.close(directory)
