"""The difference of two states, told: one line in words, a bounded listing, or JSON.

Knows how changes read; must not know databases.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

from replay.diff import Change, StateDiff, TableDiff

_NOUNS = {
    "entities": ("entity", "entities"),
    "observations": ("observation", "observations"),
    "relations": ("relation", "relations"),
    "messages": ("message", "messages"),
    "agents": ("agent", "agents"),
}
_SIGNS = {"removed": "-", "added": "+", "changed": "~", "rewritten": "="}
_QUOTED_MAX = 80


def words(difference: StateDiff) -> str:
    """One line: `-3 entities, +1 relation, agent writer: tools changed`."""
    if difference.same:
        return "no difference"
    parts: list[str] = []
    for table in difference.tables.values():
        parts += _agents_in_words(table) if table.table == "agents" else _counts_in_words(table)
    return ", ".join(parts)


def lines(difference: StateDiff) -> Iterator[str]:
    """The line of words, then one line a change, and how many there were beyond those."""
    yield words(difference)
    for table in difference.tables.values():
        for change in table.changes:
            yield f"  {_SIGNS[change.kind]} {_described(table.table, change)}"
        if more := table.total - len(table.changes):
            yield f"    and {more:,} more {_NOUNS[table.table][more != 1]}"


def to_json(difference: StateDiff) -> dict[str, Any]:
    tables = {
        name: {
            "added": table.added,
            "removed": table.removed,
            "changed": table.changed,
            "rewritten": table.rewritten,
            "changes": [_change_to_json(change) for change in table.changes],
            "not_listed": table.total - len(table.changes),
        }
        for name, table in difference.tables.items()
    }
    return {"same": difference.same, "words": words(difference), **tables}


def _change_to_json(change: Change) -> dict[str, Any]:
    about = {name: _plain(value) for name, value in change.about.items()}
    return {"change": change.kind, **about, **({"parts": list(change.parts)} if change.parts else {})}


def _plain(value: object) -> object:
    """Bytes only stand where a damaged or foreign file has them in place of text."""
    return value.hex() if isinstance(value, bytes) else value


# -- in words ---------------------------------------------------------------------------------------------------------


def _counts_in_words(table: TableDiff) -> list[str]:
    def noun(count: int) -> str:
        return _NOUNS[table.table][count != 1]

    signed = ((table.removed, "-"), (table.added, "+"))
    parts = [f"{sign}{count:,} {noun(count)}" for count, sign in signed if count]
    verbs = ((table.changed, "changed"), (table.rewritten, "rewritten"))
    return parts + [f"{count:,} {noun(count)} {verb}" for count, verb in verbs if count]


def _agents_in_words(table: TableDiff) -> list[str]:
    """Agents by name: an operator knows them, and there are few."""
    parts = [
        f"agent {_inline(change.about['name'])}" + (f": {', '.join(change.parts)}" if change.parts else "")
        + f" {change.kind}"
        for change in table.changes
    ]  # fmt: skip
    if more := table.total - len(table.changes):
        parts.append(f"{more:,} more {_NOUNS['agents'][more != 1]} differ" + ("s" if more == 1 else ""))
    return parts


def _described(table: str, change: Change) -> str:
    about = change.about
    match table:
        case "entities":
            text = f"entity {_place(about, 'name')} ({_inline(about['entity_type'])})"
        case "observations":
            text = f"observation of {_place(about, 'entity')}: {_quoted(about['content'])}"
        case "relations":
            ends = f"{_place(about, 'from_entity')} -> {_inline(about['to_entity'])}"
            text = f"relation {ends} ({_inline(about['relation_type'])})"
        case "messages":
            where = f"{_inline(about['conversation_id'])}/{_inline(about['message_id'])}"
            text = f"message {where} of {_inline(about['agent'])}: {_quoted(about['content'])}"
        case _:
            text = f"agent {_inline(about['name'])}"
    return text + (f": {', '.join(change.parts)}" if change.parts else "")


def _place(about: dict[str, Any], name: str) -> str:
    return f"{_inline(about['scope'])}/{_inline(about[name])}"


def _quoted(value: object) -> str:
    text = str(_plain(value))
    return json.dumps(text if len(text) <= _QUOTED_MAX else text[: _QUOTED_MAX - 1] + "…", ensure_ascii=False)


def _inline(value: object) -> str:
    """On one line, whatever it is."""
    return json.dumps(str(_plain(value)), ensure_ascii=False)[1:-1].replace('\\"', '"')
