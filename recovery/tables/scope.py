"""What the facts about one scope of memory.db mean. Only what a comparison needs comes before the comparison."""

from __future__ import annotations

from recovery.facts import ScopeFacts
from recovery.rows import Row
from replay.deviation import words
from replay.schema import PROJECTION_VERSION

_MEMORY = "journal recover memory"


def _has(facts: ScopeFacts, *positions: str) -> bool:
    return facts.memory.position_is in positions


def _elsewhere(facts: ScopeFacts) -> str:
    return "; outside of it memory.db is not what the journal says: journal check" if facts.rest_differs else ""


SCOPE: tuple[Row[ScopeFacts], ...] = (
    Row("no_memory", "memory.db is gone, unreadable or another journal's: no scope of it can be compared",
        lambda s: s.memory.kind != "generation" or not (s.memory.readable and s.memory.ours), "none", "failed", 1,
        lambda s: f"memory.db cannot be compared: {s.memory.problem or s.memory.kind}", _MEMORY),
    Row("other_version", "another version of the projection made its rows",
        lambda s: s.memory.projection_version != PROJECTION_VERSION, "none", "failed", 1,
        lambda s: "memory.db was made by another version of this program", _MEMORY),
    Row("other_history", "its position lies behind the journal's end, or in another history",
        lambda s: _has(s, "beyond", "other_history"), "stop", "failed", 14,
        lambda s: f"memory.db at seq {s.memory.position} does not lie in this journal's history",
        "compare with a backup; journal verify"),
    Row("position_unknown", "its position is no seq",
        lambda s: _has(s, "unknown") or s.tables is None, "none", "failed", 1,
        lambda s: "memory.db does not say which seq it stands at", _MEMORY),
    Row("altered", "rows of the scope are missing, altered or extra against the journal's at its position",
        lambda s: s.digest != s.expected, "rebuild_scope", "failed", 1,
        lambda s: (words(s.tables or {}) or "its rows are not the journal's") + _elsewhere(s),
        "journal recover memory --scope SCOPE"),
    Row("healthy", "the digest of its rows is the journal's",
        lambda s: True, "none", "healthy", 0,
        lambda s: f"{sum(each.expected for each in (s.tables or {}).values()):,} rows, as journaled{_elsewhere(s)}"),
)  # fmt: skip
