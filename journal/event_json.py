"""An event as JSON: `{"type": "memory.entity_created", "scope": "global", ...}`.

Knows how fields are spelled in JSON, bytes above all: `content` where they are UTF-8, else `content_base64`. Must not
know limits; the types of the values are checked where the event is admitted.
"""

from __future__ import annotations

import base64
import binascii
from difflib import get_close_matches
from functools import cache
from typing import Any, get_type_hints

import msgspec

from journal.errors import Refused
from journal.events import Event, type_dictionary, type_named

_SUFFIX = "_base64"


def event_to_json(event: Event) -> dict[str, Any]:
    """The event with its type first and every field, so that `event_from_json` gives the same event back."""
    spelled: dict[str, Any] = {"type": event.type_name}
    for field in event.__struct_fields__:
        value = getattr(event, field)
        if isinstance(value, bytes):
            try:
                value = value.decode()
            except UnicodeDecodeError:
                field, value = field + _SUFFIX, base64.b64encode(value).decode()
        spelled[field] = value
    return spelled


def event_from_json(spelled: Any) -> Event:
    """The event of a JSON object. Raises Refused, naming the type or field that is unknown, missing or unreadable."""
    if not isinstance(spelled, dict):
        raise Refused("invalid", f"an event is a JSON object, not {type(spelled).__name__}")
    name = spelled.get("type")
    if not isinstance(name, str):
        raise Refused("invalid", "the event has no type", hint='such as "type": "memory.entity_created"')
    cls = type_named(name)
    if cls is None:
        close = get_close_matches(name[:80], type_dictionary(), n=1)
        hint = f"did you mean {close[0]}?" if close else "see the event types in the documentation"
        raise Refused("unknown_type", f"unknown event type {name[:80]!r}", hint=hint)
    binary = _bytes_fields(cls)
    values: dict[str, Any] = {}
    for key, value in spelled.items():
        field = key.removesuffix(_SUFFIX)
        if key in cls.__struct_fields__:
            if key in binary and isinstance(value, str):
                value = _utf8(key, value)
        elif field in binary and key.endswith(_SUFFIX):
            if field in spelled:
                raise Refused("invalid", f"{name} has both {field} and {key}", hint="give one of them")
            key, value = field, _unbase64(key, value)
        elif key == "type":
            continue
        else:
            fields = ", ".join(cls.__struct_fields__)
            raise Refused("invalid", f"{name} has no field {str(key)[:80]!r}", hint=f"its fields are {fields}")
        values[key] = value
    missing = [field for field in _required(cls) if field not in values]
    if missing:
        raise Refused("invalid", f"{name} needs {', '.join(missing)}")
    return cls(**values)


def _utf8(field: str, value: str) -> bytes:
    try:
        return value.encode()
    except UnicodeEncodeError as error:
        raise Refused("invalid", f"{field} holds a lone surrogate at {error.start}, which is no text") from None


def _unbase64(field: str, value: Any) -> bytes:
    if not isinstance(value, str):
        raise Refused("invalid", f"{field} is {type(value).__name__}, expected a string")
    try:
        return base64.b64decode(value, validate=True)
    except (binascii.Error, ValueError) as error:
        raise Refused("invalid", f"{field} is no base64: {error}") from None


@cache
def _bytes_fields(cls: type[Event]) -> frozenset[str]:
    return frozenset(field for field, hint in get_type_hints(cls).items() if hint is bytes)


@cache
def _required(cls: type[Event]) -> tuple[str, ...]:
    return tuple(field.name for field in msgspec.structs.fields(cls) if field.required)
