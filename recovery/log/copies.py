"""Other copies of a journal as users name them: a data directory, a backup, or the journal itself."""

from __future__ import annotations

import os

from journal.errors import NotAJournal
from journal.storage import Storage


def journal_of(storage: Storage, directory: str) -> str:
    """The journal in a copy: `directory` itself or its `journal/`. Raises NotAJournal where there is none."""
    root = os.path.abspath(directory)
    for path in (f"{root}/journal", root):
        if storage.kind(f"{path}/segments") == "directory":
            return path
    raise NotAJournal("no journal there", path=root, hint="name a data directory, a backup, or a journal directory")
