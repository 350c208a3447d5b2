"""Files in a journal's directory that are no part of it. Knows names alone; what lies in them is not looked at."""

from __future__ import annotations

from collections.abc import Collection, Iterator

from journal.index_store import FOLDER as INDEXES
from journal.index_store import IndexStore
from journal.parity_store import ParityStore
from journal.reader import list_segments
from journal.repaired import PENDING
from journal.segment import is_packed, plain_path
from journal.storage import Storage
from journal.watermark import NAME as WATERMARK

PLANS = {"recovery.json", "import.json", "scrub.json", PENDING}  # a prologue of kind 3, and JSON
_KNOWN = PLANS | {
    "segments", "checkpoints", "parity", "quarantine", "lock", "control.sock", "token", INDEXES, WATERMARK
}  # fmt: skip


def strays(
    storage: Storage, directory: str, parts: Collection[str], parity: ParityStore
) -> Iterator[tuple[str, bool]]:
    """Paths under `directory` (the journal's) and where its parity lies, and whether each is a pack whose segment is
    still there.

    `parts` are the names of those that checkpoints list.
    """
    segments = {each.path for each in list_segments(storage, directory)}
    for name in storage.list(directory):
        if name not in _KNOWN:
            yield f"{directory}/{name}", False
    for name in storage.list(f"{directory}/segments"):
        path = f"{directory}/segments/{name}"
        if path not in segments:
            yield path, is_packed(path) and plain_path(path) in segments
    for name in storage.list(f"{directory}/checkpoints"):
        if not name.endswith(".manifest") and name not in ("lock", "parts"):
            yield f"{directory}/checkpoints/{name}", False
    for name in storage.list(f"{directory}/checkpoints/parts"):
        if name not in parts:
            yield f"{directory}/checkpoints/parts/{name}", False
    yield from ((path, False) for path in parity.strays())
    indexes = IndexStore(storage, directory)
    known = {indexes.path_of(key) for key in indexes.listed()} | {f"{indexes.directory}/lock"}
    if storage.kind(indexes.directory) in ("file", "other"):
        yield indexes.directory, False
        return
    for name in storage.list(indexes.directory):
        if f"{indexes.directory}/{name}" not in known:
            yield f"{indexes.directory}/{name}", False
