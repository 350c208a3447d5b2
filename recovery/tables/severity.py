"""How bad the state of memory.db is, by what a comparison with the journal found. The first line that holds decides.

It says how much is lost from the file, never what to do: whatever the degree, the file is rebuilt from the journal.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from recovery.facts import MemoryFacts

Severity = Literal["none", "minor", "major", "catastrophic", "unknown"]

MINOR_ROWS = 5
"""So many wrong rows are minor however small the state is: a slip, not a loss."""

MINOR_SHARE = 0.01
"""Beyond `MINOR_ROWS`, wrong rows are minor up to this share of the journal's."""

LOST_SHARE = 0.5
"""Catastrophic: more than this share of the journal's rows is missing or altered."""


@dataclass(frozen=True, slots=True)
class Grade:
    """One line: when it holds, in words and in code, and how bad that is."""

    case: str
    when: str
    holds: Callable[[MemoryFacts], bool]
    severity: Severity


def _wrong(m: MemoryFacts) -> int:
    return sum(each.wrong for each in (m.tables or {}).values())


def _lost(m: MemoryFacts) -> int:
    return sum(each.missing + each.altered for each in (m.tables or {}).values())


def _expected(m: MemoryFacts) -> int:
    return sum(each.expected for each in (m.tables or {}).values())


SEVERITY: tuple[Grade, ...] = (
    Grade("gone", "the file is gone, or something else has its name",
        lambda m: m.kind != "generation", "catastrophic"),
    Grade("unreadable", "SQLite cannot read it, or it does not say where it stands",
        lambda m: not m.readable, "catastrophic"),
    Grade("foreign", "it is another journal's",
        lambda m: not m.ours, "catastrophic"),
    Grade("most_rows", f"more than {LOST_SHARE:.0%} of the journal's rows are missing or altered",
        lambda m: _lost(m) > LOST_SHARE * _expected(m), "catastrophic"),
    Grade("many_rows", f"more than {MINOR_ROWS} rows, and more than {MINOR_SHARE:.0%}, are missing, altered or extra",
        lambda m: _wrong(m) > max(MINOR_ROWS, MINOR_SHARE * _expected(m)), "major"),
    Grade("few_rows", "some rows are missing, altered or extra",
        lambda m: _wrong(m) > 0, "minor"),
    Grade("index_only", "every row is the journal's, and SQLite's integrity check fails: an index, or free pages",
        lambda m: m.tables is not None and m.integrity not in (None, "ok"), "minor"),
    Grade("not_compared", "nobody compared it: no digest was asked for, or its place in the journal is not known",
        lambda m: m.digest is None or m.digest != m.expected, "unknown"),
    Grade("none", "its digest is the journal's",
        lambda m: True, "none"),
)  # fmt: skip


def grade(facts: MemoryFacts) -> Grade:
    return next(each for each in SEVERITY if each.holds(facts))
