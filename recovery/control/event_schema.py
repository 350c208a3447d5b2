"""The events that a client may append, as JSON Schema: made from the registered types, so that none is missing."""

from __future__ import annotations

from typing import Any, get_type_hints

import msgspec

from journal.events import Event, type_dictionary, type_named
from journal.limits import (
    AGENT_NAME_BYTES_MAX,
    CONFIG_BYTES_MAX,
    NAME_BYTES_MAX,
    ORIGINS,
    RESERVED,
    STATUSES,
    TEXT_BYTES_MAX,
)

_NAME = {"type": "string", "minLength": 1, "maxLength": NAME_BYTES_MAX, "pattern": r"^[^\u0000-\u001f\u007f-\u009f]+$"}
_FIELDS: dict[str, dict[str, Any]] = {
    "scope": {
        "type": "string", "maxLength": NAME_BYTES_MAX,
        "pattern": r"^(global|(workspace|agent):[^\u0000-\u001f\u007f-\u009f]+)$",
    },
    "status": {"enum": list(STATUSES)},
    "origin": {"enum": list(ORIGINS)},
    **dict.fromkeys(("name", "entity", "from_entity", "to_entity", "relation_type", "conversation_id"), _NAME),
    **dict.fromkeys(("agent", "role", "message_id", "consumer", "recovery_id", "component"), _NAME),
}  # fmt: skip
_AGENT_NAME = {
    "type": "string", "minLength": 1, "maxLength": AGENT_NAME_BYTES_MAX,
    "pattern": r"^[^\u0000-\u0020\u007f-\u00a0./\\][^\u0000-\u0020\u007f-\u00a0/\\]*$",
}  # fmt: skip


def event_schemas() -> dict[str, dict[str, Any]]:
    """Stored name → schema of every event type that is not the journal's own."""
    kinds = {name: type_named(name) for name in type_dictionary()}
    return {name: _schema(name, kind) for name, kind in kinds.items() if kind and kind not in RESERVED}


def _schema(name: str, kind: type[Event]) -> dict[str, Any]:
    hints = get_type_hints(kind)
    properties: dict[str, Any] = {"type": {"const": name}}
    required = ["type"]
    spelled: list[dict[str, Any]] = []
    of_agent = name.startswith("agent.")
    for field in msgspec.structs.fields(kind):
        if hints[field.name] is bytes:
            properties[field.name] = {"type": "string", "maxLength": CONFIG_BYTES_MAX, "description": "as UTF-8"}
            encoded = {"type": "string", "contentEncoding": "base64", "pattern": "^([A-Za-z0-9+/]{4})*$"}
            properties[f"{field.name}_base64"] = encoded
            spelled += [{"required": [field.name]}, {"required": [f"{field.name}_base64"]}]
            continue
        known = _AGENT_NAME if of_agent and field.name == "name" else _FIELDS.get(field.name)
        schema = dict(known) if known is not None else msgspec.json.schema(hints[field.name])
        if known is not None and type(None) in getattr(hints[field.name], "__args__", ()):
            schema = {"anyOf": [schema, {"type": "null"}]}
        if schema == {"type": "string"}:
            schema["maxLength"] = TEXT_BYTES_MAX
        if field.required:
            required.append(field.name)
        properties[field.name] = schema
    described: dict[str, Any] = {
        "type": "object", "properties": properties, "required": required, "additionalProperties": False,
    }  # fmt: skip
    if spelled:
        described["oneOf"] = spelled
    if kind.__doc__ and not kind.__doc__.startswith(kind.__name__):
        described["description"] = " ".join(kind.__doc__.split())
    return described
