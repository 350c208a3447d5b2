"""What verifying tells: what was read, and everything that is wrong with it. Knows no bytes and reads none."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal

import msgspec

from journal.errors import JournalError

Progress = Callable[[int, int], None]
"""Called with bytes read and bytes to read."""


class Finding(msgspec.Struct, frozen=True):
    """One thing that is wrong: what, where, which events, and what to do next.

    ``severity`` is ``damage``, or ``note`` for what costs nothing (a torn tail, a file left by a cut).
    """

    severity: Literal["damage", "note"]
    code: str
    message: str
    path: str
    offset: int | None = None
    seq: int | None = None
    hint: str | None = None


def damage_of(error: JournalError, path: str) -> Finding:
    """An error as damage, of the file at `path` where it names none itself."""
    return Finding("damage", error.code, error.message, error.path or path, error.offset, error.seq, error.hint)


class Verified(msgspec.Struct):
    """What was read and what was found. ``exit_code`` is that of the first damage, 0 without any."""

    segments: int = 0
    batches: int = 0
    events: int = 0
    bytes: int = 0
    checkpoints: int = 0
    parity: int = 0
    indexes: int = 0
    last_seq: int = 0
    chain: str = ""
    head_proven: bool = False
    findings: list[Finding] = []
    exit_code: int = 0

    def note(self, code: str, message: str, path: str, **where: Any) -> None:
        """Tells of what is no damage; ``offset``, ``seq`` and ``hint`` as of a finding."""
        self.findings.append(Finding("note", code, message, path, **where))

    def add(self, error: JournalError, path: str) -> None:
        """Counts an error as damage: see `damage_of`."""
        self.findings.append(damage_of(error, path))
        self.exit_code = self.exit_code or error.exit_code
