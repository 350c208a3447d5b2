"""What a cut left behind, and the generations that the last reader let go of: found without a lock, tidied under it.

None of it is state, so none of it is damage. Half-written files were never anybody's and are removed; an old
generation goes to quarantine.
"""

from __future__ import annotations

import os
from typing import NamedTuple

from recovery.data import Data
from replay.agents import TEMPORARY

_HALF_WRITTEN = ("", "/segments", "/quarantine")  # below journal/; checkpoints have a lock, and a sweep, of their own


class Tidied(NamedTuple):
    removed: list[str]
    quarantined: list[str]


def leftovers(data: Data) -> list[str]:
    """Paths. A writer at work has such files, too, for a moment."""
    return [*data.generations.leftovers(), *_half_written(data)]


def tidy(data: Data) -> Tidied:
    """Leaves nothing that `leftovers` would find, but what a reader holds. The caller holds the journal's lock."""
    removed = [*data.generations.clean(), *_half_written(data)]
    for path in _half_written(data):
        data.storage.remove(path)
    return Tidied(removed, data.generations.retire().quarantined)


def _half_written(data: Data) -> list[str]:
    storage, layout = data.storage, data.layout
    found = [
        f"{layout.journal}{folder}/{name}"
        for folder in _HALF_WRITTEN
        for name in storage.list(f"{layout.journal}{folder}")
        if name.endswith(".tmp")
    ]
    temporary = f"{layout.agents}/{TEMPORARY}"
    if os.path.isdir(layout.agents) and storage.kind(temporary) != "missing":
        found.append(temporary)
    return found
