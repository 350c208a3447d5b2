"""What memory.db's facts mean. The order is the argument: what makes the file worthless as such comes first, then what
makes its content wrong, and only then what is right but late.
"""

from __future__ import annotations

from recovery.facts import MemoryFacts
from recovery.rows import Row
from replay.schema import PROJECTION_VERSION

_COMPARE = "compare with a backup; journal verify"
_LOST = "a newer backup: journal recover --from DIR; with none: journal recover journal --accept-loss --dry-run"
_MEMORY = "journal recover memory"

MEMORY: tuple[Row[MemoryFacts], ...] = (
    Row("missing", "the link, or the file that it names, is not there",
        lambda m: m.kind in ("missing", "dangling"), "rebuild", "failed", 1,
        lambda m: "memory.db is missing" if m.kind == "missing" else f"memory.db links to {m.path}, which is gone",
        _MEMORY),
    Row("not_a_generation", "something else has the name: a file, a directory, a link that leads elsewhere",
        lambda m: m.kind in ("foreign_link", "file", "other"), "rebuild", "failed", 1,
        lambda m: "memory.db is no link to a generation: " + (m.problem or "something else took its name"), _MEMORY),
    Row("unreadable", "SQLite cannot read it, or its tables are not ours",
        lambda m: not m.readable, "rebuild", "failed", 1,
        lambda m: f"memory.db cannot be read: {m.problem}", _MEMORY),
    Row("foreign", "it names another journal",
        lambda m: not m.ours, "rebuild", "failed", 1,
        lambda m: "memory.db belongs to another journal", _MEMORY),
    Row("damaged", "SQLite's integrity check fails",
        lambda m: m.integrity not in (None, "ok"), "rebuild", "failed", 1,
        lambda m: f"memory.db fails its integrity check: {m.integrity}", _MEMORY),
    Row("other_version", "another version of the projection made its rows",
        lambda m: m.projection_version != PROJECTION_VERSION, "rebuild", "healthy", 0,
        lambda m: f"memory.db has projection version {m.projection_version}, this program makes {PROJECTION_VERSION}"),
    Row("beyond", "its position lies behind the journal's end",
        lambda m: m.position_is == "beyond", "stop", "failed", 14,
        lambda m: f"memory.db is at seq {m.position}, beyond the journal's end: the journal lost events", _LOST),
    Row("other_history", "the journal has another chain at its position",
        lambda m: m.position_is == "other_history", "stop", "failed", 14,
        lambda m: f"memory.db at seq {m.position} was made by another history than the journal's", _COMPARE),
    Row("position_unknown", "its position is no seq",
        lambda m: m.position_is == "unknown", "rebuild", "failed", 1,
        lambda m: "memory.db does not say which seq it stands at", _MEMORY),
    Row("altered", "the digest of its rows is not the journal's at its position",
        lambda m: m.digest != m.expected, "rebuild", "failed", 1,
        lambda m: f"memory.db's rows are not those of the journal at seq {m.position}: they were changed behind it",
        _MEMORY),
    Row("restore_pending", "a restore was journaled after its position",
        lambda m: m.position_is == "restore_pending", "rebuild", "healthy", 0,
        lambda m: "a restore was journaled and waits for its application"),
    Row("behind", "it has not applied the last events",
        lambda m: m.position_is == "behind", "catch_up", "healthy", 0,
        lambda m: f"memory.db is {m.lag:,} event{'' if m.lag == 1 else 's'} behind the journal"),
    Row("healthy", "none of these",
        lambda m: True, "none", "healthy", 0,
        lambda m: f"memory.db is at seq {m.position}" + ("" if m.digest is None else ", its digest is the journal's")),
)  # fmt: skip
