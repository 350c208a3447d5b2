"""What one event may be: types, sizes, safe names. Checked before an event is looked at any further.

Knows the limits and the rules that a single event can be held against; must not know state, so whether a name exists
is asked elsewhere. An event is admitted by encoding it and decoding it again under its type: what is stored is proven
readable, and what goes on is a private copy that the caller can no longer change.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable
from dataclasses import dataclass
from math import isfinite
from typing import Any, cast

import msgspec

from journal.errors import Refused
from journal.event_json import event_from_json, event_to_json
from journal.events import (
    CheckpointCreated,
    ConfigRejected,
    ConfigRemoved,
    ConfigWritten,
    EpochStarted,
    Event,
    JournalEventLost,
    JournalForked,
    StateRestored,
    StatusChanged,
    type_named,
)

__all__ = [
    "admit",
    "check_envelope",
    "check_agent_name",
    "check_name",
    "check_scope",
    "is_plain_name",
    "event_from_json",
    "event_to_json",
    "refuse_reserved",
]

CONFIG_BYTES_MAX = 1 << 20
TEXT_BYTES_MAX = 1 << 18
NAME_BYTES_MAX = 512
AGENT_NAME_BYTES_MAX = 252  # with ".md" behind it, it is the longest name that common filesystems take
METADATA_BYTES_MAX = 1 << 16
METADATA_DEPTH_MAX = 32
ITEMS_MAX = 10_000
EVENT_BYTES_MAX = 1 << 21
INTEGER_MAX = (1 << 63) - 1

STATUSES = ("active", "suspended", "failed")
ORIGINS = ("hook", "watch", "recovery", "import")
RESERVED = frozenset((StateRestored, EpochStarted, JournalForked, JournalEventLost, CheckpointCreated))

_CONTROL = re.compile("[\x00-\x1f\x7f-\x9f]")
_TRACEPARENT = re.compile("(?!ff)[0-9a-f]{2}-(?!0{32})[0-9a-f]{32}-(?!0{16})[0-9a-f]{16}-[0-9a-f]{2}")

Check = Callable[[str, Any], None]


# -- one field --------------------------------------------------------------------------------------------------------


def is_plain_name(value: object) -> bool:
    """Whether it passes `check_name` at a glance, as nearly every name does: no character takes more than four bytes,
    and no control character is printable."""
    return type(value) is str and 0 < len(value) <= NAME_BYTES_MAX >> 2 and value.isprintable()


def check_name(field: str, value: str, limit: int = NAME_BYTES_MAX) -> None:
    """A name: not empty, at most `limit` bytes, free of control characters. Never normalized."""
    if value.isprintable() and 0 < len(value) <= limit >> 2:
        return
    if not value:
        raise Refused("invalid", f"{field} is empty")
    _check_length(field, len(_utf8(field, value)), limit)
    if found := _CONTROL.search(value):
        raise Refused("unsafe_name", f"{field} holds the control character U+{ord(found[0]):04X} at {found.start()}")


def check_agent_name(field: str, value: str) -> None:
    """A name that is also a file name, `agents/{name}.md`: it cannot lead out of its directory."""
    check_name(field, value, AGENT_NAME_BYTES_MAX)
    if "/" in value or "\\" in value:
        raise Refused("unsafe_name", f"{field} {value!r} holds a path separator", hint="it names a file, not a path")
    if value in (".", "..") or value != value.strip():
        raise Refused("unsafe_name", f"{field} {value!r} is no safe file name", hint="no dots alone, no outer spaces")


def check_scope(field: str, value: str) -> None:
    """`global`, `workspace:NAME` or `agent:NAME`."""
    if value == "global":
        return
    kind, colon, name = value.partition(":")
    if not colon or kind not in ("workspace", "agent"):
        raise Refused("invalid", f"{field} {value[:80]!r} is no scope", hint="global, workspace:NAME or agent:NAME")
    check_name(field, name)


def _check_optional_name(field: str, value: str | None) -> None:
    if value is not None:
        check_name(field, value)


def _check_text(field: str, value: str | None) -> None:
    if value is not None and len(value) > TEXT_BYTES_MAX >> 2:
        _check_length(field, len(_utf8(field, value)), TEXT_BYTES_MAX)


def _check_content(field: str, value: str | bytes) -> None:
    if len(value) <= TEXT_BYTES_MAX >> 2:
        return  # short enough as either; no character takes more than four bytes
    if isinstance(value, bytes):
        _check_length(field, len(value), CONFIG_BYTES_MAX)
    else:
        _check_text(field, value)


def _check_metadata(field: str, value: dict[str, Any] | None) -> None:
    """JSON that every reader agrees on: string keys, finite numbers, bounded depth and size."""
    if not value:
        return
    level: list[Any] = [value]
    depth = 1
    while level:
        if depth > METADATA_DEPTH_MAX:
            raise Refused("too_large", f"{field} is nested deeper than {METADATA_DEPTH_MAX}")
        below: list[Any] = []
        for node in level:
            if isinstance(node, dict):
                if any(type(key) is not str for key in node):
                    raise Refused("invalid", f"{field} has a key that is no string")
                node = node.values()
            for item in node:
                if isinstance(item, dict | list):
                    below.append(item)
                elif isinstance(item, float):
                    _check_number(field, item)
                elif item is not None and not isinstance(item, str | int):
                    raise Refused("invalid", f"{field} holds {type(item).__name__}, which JSON does not have")
        level = below
        depth += 1
    _check_length(field, len(msgspec.json.encode(value)), METADATA_BYTES_MAX)


def _check_number(field: str, value: float | None) -> None:
    if value is not None and not isfinite(value):
        raise Refused("invalid", f"{field} is {value}: numbers are finite")


def _check_bounded(field: str, value: Any) -> None:
    """What has no rule of its own (counts, files, findings): bounded, whatever it is."""
    if isinstance(value, str):
        _check_text(field, value)
    elif isinstance(value, bytes):
        _check_length(field, len(value), CONFIG_BYTES_MAX)
    elif isinstance(value, float):
        _check_number(field, value)
    elif isinstance(value, int):
        if not 0 <= value <= INTEGER_MAX:
            raise Refused("invalid", f"{field} is {value}: between 0 and {INTEGER_MAX}")
    elif isinstance(value, dict | list):
        if len(value) > ITEMS_MAX:
            raise Refused("too_large", f"{field} has {len(value)} items; the limit is {ITEMS_MAX}")
        for item in value.values() if isinstance(value, dict) else value:
            _check_bounded(field, item)


def _one_of(allowed: tuple[str, ...]) -> Check:
    def check(field: str, value: str) -> None:
        if value not in allowed:
            raise Refused("invalid", f"{field} is {value[:80]!r}; it can be {', '.join(allowed)}")

    return check


def _check_length(field: str, length: int, limit: int) -> None:
    if length > limit:
        raise Refused("too_large", f"{field} is {length} bytes; the limit is {limit}")


def _utf8(field: str, value: str) -> bytes:
    try:
        return value.encode()
    except UnicodeEncodeError as error:
        raise Refused("invalid", f"{field} holds a lone surrogate at {error.start}, which is no text") from None


# -- one event --------------------------------------------------------------------------------------------------------

_BY_FIELD: dict[str, Check] = {
    "scope": check_scope,
    "content": _check_content,
    "metadata": _check_metadata,
    "confidence": _check_number,
    "strength": _check_number,
    "status": _one_of(STATUSES),
    "origin": _one_of(ORIGINS),
    **dict.fromkeys(("name", "entity", "from_entity", "to_entity", "relation_type", "conversation_id"), check_name),
    **dict.fromkeys(("agent", "role", "message_id", "consumer", "recovery_id", "component"), check_name),
    "entity_type": _check_optional_name,
}
_OF_AGENTS = (ConfigWritten, ConfigRemoved, ConfigRejected, StatusChanged)


@dataclass(frozen=True, slots=True)
class _Rules:
    """How one event type is read back, and what each of its fields is held against."""

    decode: Callable[[bytes], Event]
    checks: tuple[tuple[str, Check], ...]
    floats: tuple[str, ...]


_RULES: dict[type[Event], _Rules] = {}  # derived from the registered types, which never change once registered
_encode = msgspec.msgpack.Encoder().encode


def _rules_of(cls: type[Any]) -> _Rules:
    if type_named(getattr(cls, "type_name", "")) is not cls:
        raise Refused("unknown_type", f"{cls.__name__} is no registered event type")
    checks = {field: _BY_FIELD.get(field, _check_bounded) for field in cls.__struct_fields__}
    if cls in _OF_AGENTS:
        checks["name"] = check_agent_name
    floats = tuple(field for field, check in checks.items() if check is _check_number)
    return _RULES.setdefault(cls, _Rules(msgspec.msgpack.Decoder(cls).decode, tuple(checks.items()), floats))


def admit(event: Event) -> tuple[Event, bytes]:
    """The event as it will be read back, and its bytes as they will be stored. Raises Refused.

    An integer where a float belongs becomes one, and a config's sha256 is filled in.
    """
    cls = type(event)
    rules = _RULES.get(cls) or _rules_of(cls)
    try:
        data = _encode(event)
        admitted = rules.decode(data)
    except (msgspec.MsgspecError, TypeError, ValueError, OverflowError, RecursionError) as error:
        raise Refused("invalid", f"{cls.type_name}: {_explain(error, cls)}") from error
    for field, check in rules.checks:
        check(field, getattr(admitted, field))
    if cls is ConfigWritten:
        admitted = _with_sha256(cast(ConfigWritten, admitted))
        data = _encode(admitted)
    elif rules.floats and any(isinstance(getattr(event, field), int) for field in rules.floats):
        data = _encode(admitted)
    if len(data) > EVENT_BYTES_MAX:
        raise Refused("too_large", f"{cls.type_name} is {len(data)} bytes; the limit is {EVENT_BYTES_MAX}")
    return admitted, data


def _with_sha256(event: ConfigWritten) -> ConfigWritten:
    digest = hashlib.sha256(event.content).hexdigest()
    if event.sha256 and event.sha256.lower() != digest:
        raise Refused("invalid", f"sha256 is {event.sha256[:80]!r}, but the content's is {digest}")
    return msgspec.structs.replace(event, sha256=digest)


def _explain(error: Exception, cls: type[Event]) -> str:
    """The codec's complaint, with the field's name where the codec counts positions."""
    if isinstance(error, UnicodeEncodeError):
        return f"text holds a lone surrogate at {error.start}, which cannot be stored"
    if isinstance(error, RecursionError):
        return f"nested deeper than {METADATA_DEPTH_MAX}"
    fields = cls.__struct_fields__
    return re.sub(r"(?: - at )?(?:`key` in )?`\$\[(\d+)\].*`$", lambda at: f" in {fields[int(at[1]) - 1]}", str(error))


def refuse_reserved(event: Event) -> None:
    """Refuses what only the journal itself records."""
    if type(event) in RESERVED:
        raise Refused("reserved_type", f"{event.type_name} is recorded by the journal itself")


def _check_given_name(field: str, value: object) -> None:
    if not isinstance(value, str):
        raise Refused("invalid", f"{field} is {type(value).__name__}, expected a string")
    check_name(field, value)


def check_envelope(
    agent: str | None = None, actor: str | None = None, op_id: str | None = None, traceparent: str | None = None
) -> None:
    """What comes with an event: names and a W3C trace context, each may be missing."""
    if agent is not None:
        _check_given_name("agent", agent)
    if actor is not None:
        _check_given_name("actor", actor)
    if op_id is not None:
        _check_given_name("op_id", op_id)
    if traceparent is not None and not (isinstance(traceparent, str) and _TRACEPARENT.fullmatch(traceparent)):
        raise Refused("invalid", "traceparent is no W3C trace context", hint="00-<32 hex>-<16 hex>-<2 hex>")
