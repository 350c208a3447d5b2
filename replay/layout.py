"""Where things lie in a data directory."""

from __future__ import annotations

from typing import NamedTuple

SIDECARS = ("-wal", "-shm", "-journal")
"""What SQLite puts beside a database, by the ends of their names."""

COMPACT = ".compact"
"""The end of the name under which a file in the making is written anew without its free pages."""


class Layout(NamedTuple):
    """Absolute paths of one server's data. Nothing in the files depends on them: a closed directory may be moved."""

    root: str
    memory_db: str
    agents: str
    models: str
    journal: str

    @classmethod
    def under(cls, root: str) -> Layout:
        """The default layout below `root` (absolute, without a trailing slash)."""
        return cls(root, f"{root}/memory.db", f"{root}/agents", f"{root}/models", f"{root}/journal")


class ParityPlace(NamedTuple):
    """Where parity lies, an absolute path, and for which share of a file it is made."""

    directory: str
    share: float
