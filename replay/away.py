"""What stands in for the live state while memory.db is gone or cannot be written: the journal goes on without it.

Events are taken without reference checks, since there is nothing to ask, and none is applied: the position stays where
it was, and a catch-up applies them in their order once memory.db is back. Applying is total, so whatever turns out to
refer to nothing then is a counted no-op, the same one in every replay.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, NoReturn

from journal.errors import EnvironmentFault
from journal.events import Event
from journal.log import Appended
from journal.record import Record
from journal.storage import Storage
from replay.layout import Layout
from replay.validate import may_refer

if TYPE_CHECKING:
    from replay.agent_format import Mode
    from replay.live import LiveState

Policy = Literal["journal", "refuse"]
"""What becomes of writes meanwhile: journaled unchecked, or refused."""


class MemoryAway(EnvironmentFault):
    """memory.db is gone or cannot be written, and writes are refused until it is back. Nothing was written."""

    code = "memory_away"


@dataclass(frozen=True, slots=True)
class Returned:
    """What was applied when memory.db came back: the events after ``from_seq``, and how many of them were no-ops."""

    from_seq: int
    to_seq: int
    events: int
    no_ops: int


class Away:
    """`LiveState` without a memory.db. Takes over what a later one goes on with."""

    wants_fold = False
    lost: str | None = None

    def __init__(self, before: LiveState | Away, reason: str, policy: Policy) -> None:
        self.storage: Storage = before.storage
        self.layout: Layout = before.layout
        self.applied_seq: int = before.applied_seq
        self.journal_id: str = before.journal_id
        self.generation: str = before.generation
        self.foreign_writes: int = before.foreign_writes
        self.validation: Mode = before.validation
        self.materialises: bool = before.materialises
        self.unwritten: set[str] = set(before.unwritten)
        self.left_alone: str | None = None
        self.failure: str | None = reason
        self.reason = reason
        self.policy = policy

    @property
    def connection(self) -> sqlite3.Connection:
        self._refuse()

    def check_all(self, events: Sequence[Event], seq: int) -> bool:
        return self.policy == "journal"

    def check(self, event: Event, seq: int) -> None:
        if self.policy == "refuse" and may_refer(event):
            self._refuse()

    def stage(self, appended: Appended, records: Sequence[Record]) -> None: ...

    def apply(self, appended: Appended, records: Sequence[Record]) -> None:
        """Nothing: the position does not move, and what is journaled waits for the catch-up."""

    def begin(self) -> None: ...

    def end(self) -> None: ...

    def mark(self) -> int:
        return 0

    def rollback(self, mark: int) -> None: ...

    def mend(self, head_seq: int) -> None: ...

    def look(self) -> None: ...

    def close(self) -> None: ...

    def notice(self) -> int:
        return self.foreign_writes

    def change_rows(self, change: object) -> NoReturn:
        self._refuse()

    def _refuse(self) -> NoReturn:
        raise MemoryAway(
            self.reason, path=self.layout.memory_db, hint="journal recover memory; what is journaled is not lost"
        )
