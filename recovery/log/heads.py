"""Heads as users keep and hand them in: what `journal head` printed, as JSON or as its lines.

Knows the spellings; what a head proves is `journal.witness`'s.
"""

from __future__ import annotations

import json
from datetime import UTC, datetime

import msgspec

from journal.errors import UsageError
from journal.witness import Head

HEAD_BYTES_MAX = 1 << 16
_FIELDS = ", ".join(Head.__struct_fields__)
_HINT = f"give what journal head printed: {_FIELDS}"


def head_lines(head: Head) -> list[str]:
    """The head as `key: value`, a line each; they can be read back."""
    lines = [f"{name}: {getattr(head, name)}" for name in Head.__struct_fields__]
    if head.time:
        moment = datetime.fromtimestamp(head.time // 10**9, UTC)
        lines[-1] += f" ({moment:%Y-%m-%dT%H:%M:%SZ})"
    return lines


def head_json(head: Head) -> bytes:
    """The head as one JSON object and a line feed, for a file."""
    return msgspec.json.encode(head) + b"\n"


def parse_head(text: str) -> Head:
    """The head that a JSON object or the lines of `journal head` hold. Raises UsageError for anything else."""
    if len(text) > HEAD_BYTES_MAX:
        raise UsageError("that is too long for a head", hint=_HINT)
    try:
        document = json.loads(text)
    except (ValueError, RecursionError):
        document = _from_lines(text)
    try:
        return msgspec.convert(document, Head)
    except msgspec.ValidationError as error:
        raise UsageError(f"that is no head: {error}", hint=_HINT) from None


def _from_lines(text: str) -> dict[str, object]:
    found: dict[str, object] = {}
    for line in text.splitlines():
        name, colon, value = line.partition(":")
        word = value.split()[0] if value.split() else ""
        if colon and name.strip() in Head.__struct_fields__:
            number = name.strip() in ("seq", "epoch", "time") and word.isascii() and word.isdecimal()
            found[name.strip()] = int(word[:20]) if number else word
    return found
