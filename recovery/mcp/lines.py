"""The file of the MCP memory server: one JSON object a line, entities with their observations, then relations.

    {"type":"entity","name":"Acme","entityType":"company","observations":["renewed in May"]}
    {"type":"relation","from":"Acme","to":"Berlin","relationType":"based_in"}

As @modelcontextprotocol/server-memory writes and reads it. Knows lines; must not know events, scopes or tables.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any


@dataclass(frozen=True, slots=True)
class Entity:
    """``line`` counts from 1; ``more`` are keys that the format does not have."""

    line: int
    name: str
    entity_type: str
    observations: list[Any]
    more: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Relation:
    line: int
    start: str
    end: str
    relation_type: str
    more: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class BadLine:
    line: int
    reason: str


Item = Entity | Relation | BadLine

_ENTITY = ("type", "name", "entityType", "observations")
_RELATION = ("type", "from", "to", "relationType")


def read_file(path: Path) -> Iterator[Item]:
    """Every line that is not blank, in order. Raises OSError."""
    with path.open("rb") as file:
        for number, line in enumerate(file, 1):
            if line.strip():
                yield parse_line(number, line)


def parse_line(number: int, line: bytes) -> Item:
    try:
        value = json.loads(line)
    except UnicodeDecodeError as error:
        return BadLine(number, f"not UTF-8 at byte {error.start}")
    except (ValueError, RecursionError) as error:
        return BadLine(number, f"not JSON: {error}")
    if not isinstance(value, dict):
        return BadLine(number, f"is {type(value).__name__}, not an object")
    kind = value.get("type")
    if kind not in ("entity", "relation"):
        return BadLine(number, f"its type is {kind!r}, neither entity nor relation"[:200])
    keys = _ENTITY if kind == "entity" else _RELATION
    texts = keys[1:3] if kind == "entity" else keys[1:]
    for key in texts:
        if not isinstance(value.get(key), str):
            return BadLine(number, f"its {key} is no text" if key in value else f"it has no {key}")
    more = {key: each for key, each in value.items() if key not in keys}
    if kind == "relation":
        return Relation(number, value["from"], value["to"], value["relationType"], more)
    if not isinstance(value.get("observations"), list):
        return BadLine(number, "its observations are no list")
    return Entity(number, value["name"], value["entityType"], value["observations"], more)


def entity_line(name: str, entity_type: str, observations: Sequence[str]) -> str:
    """As JSON.stringify spells it: no spaces, keys in this order, no escapes but those that JSON needs."""
    return _encode({"type": "entity", "name": name, "entityType": entity_type, "observations": list(observations)})


def relation_line(start: str, end: str, relation_type: str) -> str:
    return _encode({"type": "relation", "from": start, "to": end, "relationType": relation_type})


_encode = json.JSONEncoder(ensure_ascii=False, separators=(",", ":")).encode
