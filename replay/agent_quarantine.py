"""Takes a file out of its directory and keeps it, byte for byte, with a note of when and why.

Knows nothing of agents or state. Each thing set aside gets a directory of its own in the quarantine: ``note.json``
and, unless it was a link, the thing itself under its old name. The note and the new place are durable before the old
name goes, so a crash leaves the file in at least one of the two.
"""

from __future__ import annotations

import errno
from datetime import UTC, datetime

import msgspec

from journal.errors import IOFault
from journal.files import write_file
from journal.storage import Kind, Storage

NOTE = "note.json"
_NAME_BYTES_MAX = 150  # of the old name in the directory's; the whole name is in the note


class Note(msgspec.Struct, frozen=True):
    """Why something lies in quarantine. ``time`` is UTC ns; ``target`` is where a link pointed, which is not kept as
    a link: whoever looks into the quarantine must not be led out of it."""

    name: str
    kind: Kind
    time: int
    reason: str
    target: str | None = None


def set_aside(storage: Storage, path: str, quarantine: str, *, time: int, reason: str) -> str:
    """Moves what lies at `path` into `quarantine`; returns its directory there.

    The caller syncs the directory that the name has left.
    """
    name = path.rsplit("/", 1)[1]
    kind = storage.kind(path)
    target = storage.read_link(path) if kind == "link" else None
    place = _free_place(storage, quarantine, name, time)
    storage.make_directory(place)
    note = Note(printable(name), kind, time, reason, target and printable(target))
    write_file(storage, f"{place}/{NOTE}", msgspec.json.format(msgspec.json.encode(note)))
    if kind == "link":
        storage.remove(path)
        return place
    try:
        storage.replace(path, f"{place}/{name}")
    except IOFault as error:
        if kind != "file" or getattr(error.__cause__, "errno", None) != errno.EXDEV:
            raise
        _copy(storage, path, f"{place}/{name}")  # the directory that it leaves is on a file system of its own
        storage.sync_dir(place)
        storage.remove(path)
        return place
    storage.sync_dir(place)
    return place


def _copy(storage: Storage, source: str, target: str) -> None:
    file = storage.open(target, write=True, create=True)
    try:
        file.write_at(0, storage.read(source))
        file.sync()
    finally:
        file.close()


def _free_place(storage: Storage, quarantine: str, name: str, time: int) -> str:
    seconds, nanoseconds = divmod(time, 1_000_000_000)
    stamp = datetime.fromtimestamp(seconds, UTC).strftime("%Y%m%dT%H%M%S")
    short = printable(name).encode()[:_NAME_BYTES_MAX].decode(errors="ignore")
    place = first = f"{quarantine}/{stamp}.{nanoseconds:09}Z-{short}"
    again = 1
    while storage.kind(place) != "missing":
        again += 1
        place = f"{first}-{again}"
    return place


def printable(name: str) -> str:
    """A file name as text: bytes that are no UTF-8 are written as escapes."""
    return name.encode(errors="surrogateescape").decode(errors="backslashreplace")
