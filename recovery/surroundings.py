"""What surrounds the state: room on the disk, open files, mounts, and what a crash left. Looks only.

Knows files, limits, /proc and /sys; what it means is `recovery.tables.surroundings`'s.
"""

from __future__ import annotations

import glob
import os
import re
import resource
from collections.abc import Iterator
from contextlib import suppress

from journal.errors import JournalError
from journal.stored import unpacked_bytes
from recovery.data import Data
from recovery.facts import CrashFacts, LogMatch, RoomFacts
from recovery.places import nearest

_ET_CORE = 4  # e_type of an ELF core file, elf(5)
_MACH_CORE = (b"\xcf\xfa\xed\xfe", b"\xfe\xed\xfa\xcf")
_LINE_SHOWN = 300
OPEN_FILES_NEEDED = 256
"""Descriptors: 128 connections that may queue at the control socket, a checkpoint built beside (16), memory.db with its
side files for the writer and for readers in the same process (64), and the interpreter's own; rounded up."""


def look_at_room(data: Data) -> RoomFacts:
    """Bytes and descriptors, beside what is needed of them. A rebuild needs what `replay.rebuild` checks for."""
    manifests = data.checkpoints.manifests()
    log_bytes = sum(_unpacked_bytes(data, entry.path) for entry in _segments(data))
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return RoomFacts(
        writable=os.access(nearest(data.root), os.W_OK) and _writable_if_there(data.layout.journal),
        free_bytes=data.storage.free_bytes(nearest(data.root)), reserve_bytes=data.config.disk.reserve_bytes,
        rebuild_bytes=(manifests[0].bytes if manifests else 0) + 2 * log_bytes,
        open_files=None if soft == resource.RLIM_INFINITY else soft, open_files_needed=OPEN_FILES_NEEDED,
    )  # fmt: skip


def _writable_if_there(path: str) -> bool:
    return not os.path.isdir(path) or os.access(path, os.W_OK)


def _segments(data: Data) -> Iterator[os.DirEntry[str]]:
    with suppress(OSError), os.scandir(f"{data.layout.journal}/segments") as found:
        yield from found


def _unpacked_bytes(data: Data, path: str) -> int:
    try:
        return unpacked_bytes(data.storage, path)
    except JournalError:
        return 0


def look_at_crash(data: Data) -> CrashFacts:
    """Core files, words of the server's log, and what the kernel says of the file system."""
    mount = _mount_of(data.root)
    log, matches = _scan_log(data)
    return CrashFacts(
        cores=tuple(core_files(data)), log=log, matches=matches,
        mount=mount[1] if mount else "", mounted_read_only=bool(mount and mount[2]),
        error_counter=_error_counter(mount[0] if mount else ""), errors=_errors(mount[0] if mount else ""),
    )  # fmt: skip


# -- core files -------------------------------------------------------------------------------------------------------


def core_files(data: Data) -> list[str]:
    """What the patterns name and is a core file by its first bytes: nothing else is ever moved for its name."""
    found = set()
    for pattern in data.config.crash.cores:
        found.update(glob.glob(os.path.join(glob.escape(data.root), pattern)))
    return sorted(path for path in found if _is_core(path))


def _is_core(path: str) -> bool:
    if os.path.islink(path) or not os.path.isfile(path):
        return False
    try:
        with open(path, "rb") as file:
            head = file.read(32)
    except OSError:
        return False
    if head[:4] == b"\x7fELF" and len(head) >= 18:
        return int.from_bytes(head[16:18], "little" if head[5] == 1 else "big") == _ET_CORE
    return head[:4] in _MACH_CORE and int.from_bytes(head[12:16], "little" if head[0] == 0xCF else "big") == _ET_CORE


# -- the log ----------------------------------------------------------------------------------------------------------


def _scan_log(data: Data) -> tuple[str, tuple[LogMatch, ...]]:
    """The log's end, a bounded piece of it, against each pattern: how many lines, and the last of them."""
    path, bound = data.crash_log, data.config.crash.log_bytes
    if path is None:
        return "", ()
    try:
        fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)  # a pipe under the name must not hang it
    except OSError:
        return path, ()
    with open(fd, "rb") as file:
        try:
            size = file.seek(0, os.SEEK_END)
            file.seek(max(0, size - bound))
            text = file.read(bound).decode(errors="replace")
        except OSError:  # no regular file
            return path, ()
    lines = text.splitlines()[1 if size > bound else 0 :]  # the first one may be cut
    matches = []
    for pattern in data.config.crash.patterns:
        hits = [line for line in lines if re.search(pattern, line)]
        if hits:
            matches.append(LogMatch(pattern, len(hits), data.redactor.text(hits[-1].strip()[:_LINE_SHOWN])))
    return path, tuple(matches)


# -- the file system --------------------------------------------------------------------------------------------------


def _mount_of(path: str, table: str = "/proc/self/mounts") -> tuple[str, str, bool] | None:
    """(device, mount point, read-only) of the file system that holds `path`; None where nobody tells."""
    try:
        with open(table, encoding="utf-8", errors="surrogateescape") as file:
            lines = [line.split() for line in file]
    except OSError:
        return None
    real, best = os.path.realpath(path), None
    for fields in lines:
        if len(fields) < 4:
            continue
        point = re.sub(r"\\([0-7]{3})", lambda octal: chr(int(octal[1], 8)), fields[1])
        inside = real == point or real.startswith(point.rstrip("/") + "/")
        if inside and (best is None or len(point) >= len(best[1])):  # the last mount over a place is the one in force
            best = (fields[0], point, "ro" in fields[3].split(","))
    return best


def _error_counter(device: str) -> str:
    """The counter's path: ext4 keeps one a file system, which survives a remount."""
    name = os.path.basename(os.path.realpath(device)) if device.startswith("/dev/") else ""
    path = f"/sys/fs/ext4/{name}/errors_count"
    return path if name and os.path.isfile(path) else ""


def _errors(device: str) -> int | None:
    counter = _error_counter(device)
    if not counter:
        return None
    try:
        with open(counter, encoding="ascii") as file:
            return int(file.read())
    except (OSError, ValueError):
        return None
