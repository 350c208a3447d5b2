"""One line of a decision table, and the decision that it makes. Pure; which lines there are is `recovery.tables`'s."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Generic, Literal, TypeVar

import msgspec

from journal.errors import AmbiguousTail, Corrupt, DataError, Diverged, Unsupported

Action = Literal[
    "none", "catch_up", "rebuild", "stop", "write", "remove", "set_aside", "set_aside_and_write", "keep", "tidy",
    "finish", "rescue", "rebuild_scope", "restore", "drop", "repair",
]  # fmt: skip
Health = Literal["healthy", "degraded", "failed"]
Fact = TypeVar("Fact")


class Decision(msgspec.Struct, frozen=True):
    """What to do about one component, and why. ``case`` is the table's line; ``exit_code`` is that of `check`.

    ``severity`` says how bad it is and ``counts`` how many rows are not the journal's, where that was found out.
    """

    component: str
    case: str
    action: Action
    health: Health
    reason: str
    hint: str = ""
    exit_code: int = 0
    severity: str = ""
    counts: dict[str, int] = {}


@dataclass(frozen=True, slots=True)
class Row(Generic[Fact]):
    """One line of a table: when it holds, in words and in code, and what follows. ``hint`` is what to run."""

    case: str
    when: str
    holds: Callable[[Fact], bool]
    action: Action
    health: Health
    exit_code: int
    reason: Callable[[Fact], str]
    hint: str = ""

    def decision(self, component: str, fact: Fact) -> Decision:
        return Decision(component, self.case, self.action, self.health, self.reason(fact), self.hint, self.exit_code)


def first(table: Sequence[Row[Fact]], fact: Fact) -> Row[Fact]:
    """The first line that holds; a table's last line always does."""
    return next(row for row in table if row.holds(fact))


_STOPS: dict[int, type[DataError]] = {
    error.exit_code: error for error in (Corrupt, AmbiguousTail, Diverged, Unsupported)
}  # fmt: skip


def stop_error(decision: Decision) -> DataError:
    """The error that a stopping decision is raised as."""
    error = _STOPS.get(decision.exit_code, Corrupt)
    return error(decision.reason, hint=decision.hint or None)
