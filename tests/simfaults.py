"""What can go wrong on a simulated disk, and what it counts.

Operations are named: open, create, read, write, truncate, sync, sync_dir, rename, remove, make_directory,
remove_directory, link, lock.
"""

from __future__ import annotations

import errno
from collections import Counter
from dataclasses import dataclass, field

NAME_CHANGES = frozenset(("create", "rename", "remove", "make_directory", "remove_directory", "link", "lock"))
CHANGES = NAME_CHANGES | {"write", "truncate", "sync", "sync_dir"}
"""The operations that change something, and between which a power cut makes a difference."""


class PowerCut(BaseException):
    """The machine is off: no operation gets through, and no handler in the code under test may take it for an error."""


@dataclass(slots=True)
class Fault:
    """The ``nth`` matching operation from now on fails, and with ``times`` None every one after it.

    ``path`` matches as a suffix, or as a part with a trailing ``/``. ``after_bytes`` of a failing write get through.
    A failed sync with ``lies`` behaves as kernels do: the dirty pages count as clean, so that later syncs succeed
    without writing them. With ``silent`` the operation is skipped and reports success: a sync that someone deleted.
    """

    operation: str
    nth: int = 1
    times: int | None = 1
    error: int = errno.EIO
    path: str = ""
    after_bytes: int = 0
    lies: bool = False
    silent: bool = False
    fired: int = 0
    _met: int = field(default=0, repr=False)

    def meets(self, operation: str, path: str) -> bool:
        """Counts a matching operation; True if this one fails."""
        if operation != self.operation or not (
            path.endswith(self.path) or (self.path[-1:] == "/" and self.path in path)
        ):
            return False
        self._met += 1
        if self._met < self.nth or (self.times is not None and self.fired >= self.times):
            return False
        self.fired += 1
        return True


@dataclass(slots=True)
class Counts:
    """Operations that were asked for, failed ones included, and bytes that were moved."""

    operations: Counter[str] = field(default_factory=Counter)
    bytes_read: int = 0
    bytes_written: int = 0

    def __getitem__(self, operation: str) -> int:
        return self.operations[operation]

    @property
    def changes(self) -> int:
        """How many places there are for a power cut."""
        return sum(self.operations[name] for name in CHANGES)
