"""The state of each part as `journal status` sees it: looked up, so that what takes a digest to find is not in it.

Of each table the first line that holds decides; `journal check` is the one that compares.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from recovery.rows import Health, Row, first

if TYPE_CHECKING:
    from recovery.standing import Standing


def _ok(when: str = "none of these") -> Row[Standing]:
    return Row("healthy", when, lambda s: True, "none", "healthy", 0, lambda s: "")


STANDING: dict[str, tuple[Row[Standing], ...]] = {
    "journal": (
        Row("damaged", "damage stops reading it",
            lambda s: s.journal.problem is not None, "none", "failed", 1, lambda s: s.journal.problem or ""),
        _ok(),
    ),
    "memory": (
        Row("failed", "it is gone, cannot be read, or is another journal's",
            lambda s: s.memory.problem is not None, "none", "failed", 1, lambda s: s.memory.problem or ""),
        Row("elsewhere", "it stands beyond the journal's end, or in another history",
            lambda s: s.memory.position_is in ("beyond", "other_history"), "none", "failed", 14,
            lambda s: f"its position is {s.memory.position_is}"),
        Row("behind", "a writer is at work, and it has not applied the last events",
            lambda s: s.journal.writer is not None and bool(s.memory.lag), "none", "degraded", 3,
            lambda s: f"{s.memory.lag} events behind a writer at work"),
        _ok("none of these; what is behind without a writer is applied by the next open"),
    ),
    "model": (
        Row("gone", "one was journaled, and it is missing or damaged",
            lambda s: s.model is not None and s.embeddings.model is None, "none", "degraded", 3,
            lambda s: "the model is missing or damaged"),
        _ok(),
    ),
    "checkpoints": (
        Row("damaged", "a manifest cannot be read",
            lambda s: s.checkpoints.damaged > 0, "none", "degraded", 3, lambda s: f"{s.checkpoints.damaged} damaged"),
        _ok(),
    ),
    "recovery_time": (
        Row("exceeded", "a recovery is estimated to take longer than `rto_seconds`",
            lambda s: s.recovery is not None and 0 < s.recovery.bound < s.recovery.seconds, "none", "degraded", 3,
            lambda s: "longer than rto_seconds"),
        _ok(),
    ),
}  # fmt: skip


def states_of_standing(found: Standing) -> dict[str, Health]:
    return {component: first(table, found).health for component, table in STANDING.items()}
