"""How a memory's change is called in OpenTelemetry's GenAI conventions, and what may be said of it: no content.

The table serves the spans of the history and the live ones alike. Pure; knows no SDK.
"""

from __future__ import annotations

from hashlib import blake2b
from typing import Any, NamedTuple

_PSEUDONYM_BYTES = 8


class EventSpan(NamedTuple):
    """The span of one event type. ``operation`` is `gen_ai.operation.name`; ``record`` are the fields that make out
    the record, besides the scope."""

    type_name: str
    operation: str
    record: tuple[str, ...] = ()


_RELATION = ("from_entity", "to_entity", "relation_type")

EVENT_SPANS = (
    EventSpan("memory.entity_created", "create_memory", ("name",)),
    EventSpan("memory.entity_updated", "update_memory", ("name",)),
    EventSpan("memory.entity_deleted", "delete_memory", ("name",)),
    EventSpan("memory.observation_added", "create_memory", ("entity", "content")),
    EventSpan("memory.observation_removed", "delete_memory", ("entity", "content")),
    EventSpan("memory.relation_created", "create_memory", _RELATION),
    EventSpan("memory.relation_updated", "update_memory", _RELATION),
    EventSpan("memory.relation_deleted", "delete_memory", _RELATION),
    EventSpan("memory.scope_cleared", "delete_memory_store"),
)
"""Those whose span has the name of the operation; any other type's span has the name of the type."""

_BY_TYPE = {each.type_name: each for each in EVENT_SPANS}


def span_name(type_name: str) -> str:
    known = _BY_TYPE.get(type_name)
    return known.operation if known is not None else type_name


def memory_attributes(journal_id: bytes, event: Any) -> dict[str, str | int]:
    """The `gen_ai` attributes of a memory's change; none of another event."""
    known = _BY_TYPE.get(event.type_name)
    if known is None:
        return {}
    told: dict[str, str | int] = {"gen_ai.operation.name": known.operation, "gen_ai.memory.store.id": event.scope}
    if known.record:
        kind = event.type_name.removeprefix("memory.").partition("_")[0]
        key = pseudonym(journal_id, kind, event.scope, *(getattr(event, field) for field in known.record))
        told |= {"gen_ai.memory.record.id": f"{kind}-{key}", "gen_ai.memory.record.count": 1}
    return told


def pseudonym(journal_id: bytes, *parts: str) -> str:
    """The same for the same names, and no name: what joins the spans of one memory whose content stays here.

    Short names can be guessed by who knows the journal's id: it keeps them out of sight, it does not encrypt them.
    """
    text = "\0".join(parts).encode(errors="surrogatepass")
    return blake2b(text, digest_size=_PSEUDONYM_BYTES, key=journal_id, person=b"memory").hexdigest()
