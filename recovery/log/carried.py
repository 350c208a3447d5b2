"""What goes along when another journal takes the place of the one in a directory, although it is no part of either."""

from __future__ import annotations

from contextlib import suppress

from journal.errors import JournalError
from journal.files import read_bounded, write_file
from journal.storage import Storage

TOKEN = "token"  # of `serve`: its clients go on
CLAIM = "lock"  # the last writer's epoch: were it claimed once more, two events could have one generated op_id
_BYTES_MAX = 4096


def carry_over(storage: Storage, journal: str, building: str, *names: str) -> None:
    """Copies the files of these names into the journal that is being built. What cannot be read stays behind."""
    for name in names:
        if storage.kind(f"{journal}/{name}") == "file":
            with suppress(JournalError, FileNotFoundError):
                write_file(storage, f"{building}/{name}", read_bounded(storage, f"{journal}/{name}", _BYTES_MAX))
