"""Directories that a user names to be written to: where they really lie, and that nothing live lies there.

Knows paths; must not know what is written. Links are followed before anything is compared: a link beside the data
directory that leads into it must not pass for another place.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from journal.errors import UsageError

if TYPE_CHECKING:
    from recovery.data import Data


def place_of(named: str, what: str) -> str:
    """The absolute path, links followed, of a directory that is there or can be made. Raises UsageError."""
    if not named:
        raise UsageError(f"{what} is empty", hint="name a directory")
    path = os.path.realpath(named)
    existing = nearest(path)
    if not os.path.isdir(existing):
        raise UsageError(f"{what} is no directory", path=existing, hint="name another place")
    return path


def nearest(path: str) -> str:
    """The path itself, absolute, or the nearest directory above it that is there."""
    while not os.path.lexists(path):
        path = os.path.dirname(path)
    return path


def is_within(path: str, directory: str) -> bool:
    """True if `path` is the directory or lies in it; both absolute, links followed."""
    return os.path.commonpath((path, directory)) == directory


def lies_on_live_data(data: Data, path: str) -> bool:
    """True if `path` holds the data directory, or is one of the directories that the journal keeps, or lies in one."""
    layout = data.layout
    kept = [os.path.realpath(each) for each in (layout.journal, layout.agents, layout.models)]
    around = [os.path.realpath(data.root), os.path.realpath(os.path.dirname(layout.memory_db)), *kept]
    return any(is_within(each, path) for each in around) or any(is_within(path, each) for each in kept)
