"""Whether a recovery would take too long, by its estimate (`recovery.rto`)."""

from __future__ import annotations

import msgspec

from recovery.rows import Row


class Estimate(msgspec.Struct, frozen=True, kw_only=True):
    """``seconds`` for loading ``bytes`` of a checkpoint and replaying ``events`` after it, by a drill or by default.

    ``bound`` is rto_seconds, 0 for none.
    """

    seconds: float
    bytes: int
    events: int
    measured: bool
    bound: float = 0.0


RTO: tuple[Row[Estimate], ...] = (
    Row("exceeded", "a recovery is estimated to take longer than `rto_seconds`",
        lambda e: 0 < e.bound < e.seconds, "none", "degraded", 3,
        lambda e: f"about {e.seconds:.1f} s, more than the {e.bound:g} s allowed: {_work(e)}",
        "journal checkpoint create, and make checkpoint.events less; journal drill measures it"),
    Row("ok", "none of these", lambda e: True, "none", "healthy", 0,
        lambda e: f"about {e.seconds:.1f} s: {_work(e)}"),
)  # fmt: skip


def _work(found: Estimate) -> str:
    by = "by the last drill" if found.measured else "by default rates, since no drill is known"
    return f"{found.bytes:,} bytes of a checkpoint, {found.events:,} events after it, {by}"
