"""Which processes have a file open. Knows /proc, and lsof where there is none; must never open the file itself.

Closing any descriptor of a file drops all POSIX locks that this process holds on it, SQLite's too: one careless
open-and-close beside a live connection lets another process write in mid-transaction. Here only names are looked at.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterable
from contextlib import suppress
from fcntl import F_GETFL, fcntl
from typing import NamedTuple

from journal.errors import EnvironmentFault


class Holder(NamedTuple):
    pid: int
    command: str

    def __str__(self) -> str:
        return f"process {self.pid}" + (f" ({self.command})" if self.command else "")


def holders(paths: Iterable[str]) -> list[Holder] | None:
    """Every visible process, this one included, that has one of the files open; None where nobody can tell.

    Other users' processes are not visible, but the files are 0600 in a directory of 0700. Root's may be missed.
    """
    wanted = {identity for path in paths if (identity := identity_of(path)) is not None}
    if not wanted:
        return []
    if os.path.isdir("/proc/self/fd"):
        try:
            return [Holder(pid, _command(pid)) for pid in _pids() if not wanted.isdisjoint(_open_files(pid))]
        except OSError:  # no descriptor is free, say: that nobody was seen does not mean that nobody is there
            return None
    return _ask_lsof(paths)


def writers(paths: Iterable[str]) -> list[Holder] | None:
    """As `holders`, but only those that opened a file for writing; where that is not told, every holder."""
    wanted = {identity for path in paths if (identity := identity_of(path)) is not None}
    if not wanted or not os.path.isdir("/proc/self/fdinfo"):
        return holders(paths)
    try:
        return [Holder(pid, _command(pid)) for pid in _pids() if not wanted.isdisjoint(_open_files(pid, writing=True))]
    except OSError:
        return None


def descriptors(path: str) -> list[int]:
    """Under which numbers this process has a file open for writing; none where nobody can tell."""
    return _ours(identity_of(path)) or []


def refuse_another(path: str) -> None:
    """Behind SQLite's opening of `path` for writing, before anything is written: SQLite follows links.

    Raises EnvironmentFault where a link took the name, or a file that has a name elsewhere, or where this process has
    another file open than the one that has the name now. Where nobody can tell, it is believed.
    """
    status = os.lstat(path)
    found = _ours((status.st_dev, status.st_ino))
    if not stat.S_ISREG(status.st_mode) or status.st_nlink != 1 or found == []:
        raise EnvironmentFault(
            "another file took the name of a database that is being made",
            path=path, hint="somebody else writes in this directory: look who may, then run the command again",
        )  # fmt: skip


def _ours(wanted: tuple[int, int] | None) -> list[int] | None:
    """Descriptors of a file by which this process may write it; None where nobody can tell."""
    found = []
    try:
        numbers = sorted(map(int, os.listdir("/dev/fd")))
    except OSError:
        return None
    for number in numbers:
        with suppress(OSError):  # it was closed meanwhile: that of this very listing, to begin with
            status = os.fstat(number)
            if (status.st_dev, status.st_ino) == wanted and fcntl(number, F_GETFL) & os.O_ACCMODE != os.O_RDONLY:
                found.append(number)
    return found


def identity_of(path: str) -> tuple[int, int] | None:
    """Device and inode of what a path leads to; None where it leads nowhere."""
    try:
        status = os.stat(path)
    except OSError:
        return None
    return status.st_dev, status.st_ino


def _pids() -> list[int]:
    return sorted(int(name) for name in os.listdir("/proc") if name.isdecimal())


def _open_files(pid: int, *, writing: bool = False) -> set[tuple[int, int]]:
    directory = f"/proc/{pid}/fd"
    try:
        descriptors = os.listdir(directory)
    except (FileNotFoundError, ProcessLookupError, PermissionError):  # it ended, or is another user's
        return set()
    if writing:
        descriptors = [descriptor for descriptor in descriptors if _is_writable(pid, descriptor)]
    found = (identity_of(f"{directory}/{descriptor}") for descriptor in descriptors)
    return {identity for identity in found if identity is not None}


def _is_writable(pid: int, descriptor: str) -> bool:
    """Whether the descriptor was opened for writing: proc(5), the octal flags of fdinfo."""
    try:
        with open(f"/proc/{pid}/fdinfo/{descriptor}", encoding="ascii") as file:
            flags = next(line for line in file if line.startswith("flags:"))
    except (OSError, StopIteration):
        return False  # it was closed meanwhile
    return int(flags.split()[1], 8) & os.O_ACCMODE != os.O_RDONLY


def _command(pid: int) -> str:
    try:
        with open(f"/proc/{pid}/comm", encoding="utf-8", errors="replace") as file:
            return file.read().strip()
    except OSError:
        return ""


def _ask_lsof(paths: Iterable[str]) -> list[Holder] | None:
    import subprocess  # where there is /proc, nothing else needs it

    there = [path for path in paths if os.path.exists(path)]
    try:
        result = subprocess.run(["lsof", "-Fpc", "--", *there], capture_output=True, text=True, check=False, timeout=30)
    except (OSError, subprocess.TimeoutExpired):
        return None
    if result.returncode not in (0, 1) or (result.returncode == 1 and result.stderr.strip()):
        return None  # 1 without a message: nobody has them open
    found: list[Holder] = []
    for line in result.stdout.splitlines():
        if line.startswith("p"):
            found.append(Holder(int(line[1:]), ""))
        elif line.startswith("c") and found:
            found[-1] = found[-1]._replace(command=line[1:])
    return found
