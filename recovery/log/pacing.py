"""Reading at a bounded rate, so that work without hurry leaves the disk to those who are in one."""

from __future__ import annotations

from collections.abc import Callable
from time import monotonic, sleep

from journal.storage import RealFile, RealStorage

_CHUNK_BYTES = 256 << 10


class Pace:
    """Holds reads to `bytes_per_second`; 0 lets them run. Time that was not used is not saved up."""

    def __init__(
        self,
        bytes_per_second: float,
        clock: Callable[[], float] = monotonic,
        wait: Callable[[float], None] = sleep,
    ) -> None:
        self.bytes = 0
        self._rate = bytes_per_second
        self._clock = clock
        self._wait = wait
        self._due = clock()

    def note(self, length: int) -> None:
        """`length` bytes were read: waits for as long as they should have taken."""
        self.bytes += length
        if self._rate <= 0:
            return
        now = self._clock()
        self._due = max(self._due, now) + length / self._rate
        if self._due > now:
            self._wait(self._due - now)


class PacedFile(RealFile):
    """A file whose reads keep a pace."""

    __slots__ = ("_pace",)

    def __init__(self, fd: int, path: str, pace: Pace) -> None:
        super().__init__(fd, path)
        self._pace = pace

    def read_at(self, offset: int, length: int) -> bytes:
        parts = []
        for at in range(0, length, _CHUNK_BYTES):
            wanted = min(_CHUNK_BYTES, length - at)
            parts.append(super().read_at(offset + at, wanted))
            self._pace.note(len(parts[-1]))
            if len(parts[-1]) < wanted:
                break
        return b"".join(parts)


class PacedStorage(RealStorage):
    """The real files, read at a pace."""

    def __init__(self, pace: Pace) -> None:
        super().__init__()
        self._pace = pace

    def open(self, path: str, *, write: bool = False, create: bool = False) -> RealFile:
        file = super().open(path, write=write, create=create)
        return PacedFile(file.fd, file.path, self._pace)
