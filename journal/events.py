"""The vocabulary: one frozen Struct an event type, and the registry that names them.

Knows what an event carries; must not know whether a reference exists, or what state events make. Types are
registered, not hard-wired: a program may add its own with `register`. On disk a type is a small integer (`tag`);
fields are only ever appended, with defaults, so that an old record decodes into a newer Struct.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from typing import Any, ClassVar, Union

import msgspec


class Event(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """Base of all event types. ``type_name`` is the stored name: dotted, past tense, never an import path."""

    type_name: ClassVar[str] = ""


_TYPES: dict[str, type[Event]] = {}


def register(name: str) -> Any:
    """Class decorator: adds an event type under its stored name.

    Raises ValueError if the name or the class's integer tag is taken, or the class is no tagged Event.
    """

    def add(cls: type[Event]) -> type[Event]:
        tag = cls.__struct_config__.tag
        if not issubclass(cls, Event) or not isinstance(tag, int):
            raise ValueError(f"{cls.__name__} must be an Event with an integer tag")
        if name in _TYPES or any(tag == tag_of(other) for other in _TYPES.values()):
            raise ValueError(f"event name {name!r} or tag {tag} is registered already")
        cls.type_name = name
        _TYPES[name] = cls
        event_union.cache_clear()
        type_dictionary.cache_clear()
        return cls

    return add


def tag_of(cls: type[Event]) -> int:
    """The integer that stands for this type on disk."""
    tag = cls.__struct_config__.tag
    assert isinstance(tag, int)
    return tag


def type_named(name: str) -> type[Event] | None:
    """The registered type of this name, or None."""
    return _TYPES.get(name)


@cache
def type_dictionary() -> Mapping[str, int]:
    """Stored name → tag of every registered type, as written into each segment header. Not to be changed."""
    return {name: tag_of(cls) for name, cls in _TYPES.items()}


@cache
def event_union() -> Any:
    """The Union of all registered types, for typed decoding."""
    return Union[tuple(_TYPES.values())]  # noqa: UP007 - built at run time from the registry


# -- memory -----------------------------------------------------------------------------------------------------------


@register("memory.entity_created")
class EntityCreated(Event, frozen=True, tag=1, tag_field="type"):
    scope: str
    name: str
    entity_type: str
    metadata: dict[str, Any] = {}
    confidence: float = 1.0


@register("memory.entity_updated")
class EntityUpdated(Event, frozen=True, tag=2, tag_field="type"):
    """The key and what changes; None leaves a column as it is."""

    scope: str
    name: str
    entity_type: str | None = None
    metadata: dict[str, Any] | None = None
    confidence: float | None = None


@register("memory.entity_deleted")
class EntityDeleted(Event, frozen=True, tag=3, tag_field="type"):
    """Its observations and relations go with it."""

    scope: str
    name: str


@register("memory.observation_added")
class ObservationAdded(Event, frozen=True, tag=4, tag_field="type"):
    scope: str
    entity: str
    content: str
    metadata: dict[str, Any] = {}


@register("memory.observation_removed")
class ObservationRemoved(Event, frozen=True, tag=5, tag_field="type"):
    scope: str
    entity: str
    content: str


@register("memory.relation_created")
class RelationCreated(Event, frozen=True, tag=6, tag_field="type"):
    scope: str
    from_entity: str
    to_entity: str
    relation_type: str
    strength: float = 1.0
    confidence: float = 1.0
    metadata: dict[str, Any] = {}


@register("memory.relation_updated")
class RelationUpdated(Event, frozen=True, tag=7, tag_field="type"):
    """The key and what changes; None leaves a column as it is."""

    scope: str
    from_entity: str
    to_entity: str
    relation_type: str
    strength: float | None = None
    confidence: float | None = None
    metadata: dict[str, Any] | None = None


@register("memory.relation_deleted")
class RelationDeleted(Event, frozen=True, tag=8, tag_field="type"):
    scope: str
    from_entity: str
    to_entity: str
    relation_type: str


@register("memory.scope_cleared")
class ScopeCleared(Event, frozen=True, tag=9, tag_field="type"):
    scope: str


# -- agents -----------------------------------------------------------------------------------------------------------


@register("agent.config_written")
class ConfigWritten(Event, frozen=True, tag=10, tag_field="type"):
    """``content`` is the file's raw bytes; ``sha256`` (hex) is computed when empty and must match when given."""

    name: str
    content: bytes
    sha256: str = ""
    origin: str = "hook"


@register("agent.config_removed")
class ConfigRemoved(Event, frozen=True, tag=11, tag_field="type"):
    name: str
    origin: str = "hook"


@register("agent.config_rejected")
class ConfigRejected(Event, frozen=True, tag=12, tag_field="type"):
    """An edit that was not accepted, kept so that nothing is lost; it changes no state."""

    name: str
    content: bytes
    errors: list[str] = []


@register("agent.status_changed")
class StatusChanged(Event, frozen=True, tag=13, tag_field="type"):
    """``status`` is active, suspended or failed."""

    name: str
    status: str
    reason: str = ""


# -- conversations ----------------------------------------------------------------------------------------------------


@register("conversation.message_recorded")
class MessageRecorded(Event, frozen=True, tag=14, tag_field="type"):
    conversation_id: str
    agent: str
    role: str
    content: str
    message_id: str


@register("cursor.moved")
class CursorMoved(Event, frozen=True, tag=15, tag_field="type"):
    """How far a consumer has acknowledged messages; not part of state(seq).

    A consumer of the journal itself (`JOURNAL_CONSUMER`, then its name) has the seq up to which it has everything as
    its ``message_id``.
    """

    consumer: str
    message_id: str


JOURNAL_CONSUMER = "journal:"


# -- the model --------------------------------------------------------------------------------------------------------


@register("model.verified")
class ModelVerified(Event, frozen=True, tag=16, tag_field="type"):
    name: str
    files: dict[str, str]
    source: str = ""


@register("model.replaced")
class ModelReplaced(Event, frozen=True, tag=17, tag_field="type"):
    name: str
    files: dict[str, str]
    source: str = ""


# -- recovery ---------------------------------------------------------------------------------------------------------


@register("recovery.started")
class RecoveryStarted(Event, frozen=True, tag=18, tag_field="type"):
    recovery_id: str
    component: str
    strategy: str = ""
    counts: dict[str, int] = {}
    reason: str = ""


@register("recovery.step_completed")
class RecoveryStepCompleted(Event, frozen=True, tag=19, tag_field="type"):
    recovery_id: str
    component: str
    strategy: str = ""
    counts: dict[str, int] = {}
    reason: str = ""


@register("recovery.completed")
class RecoveryCompleted(Event, frozen=True, tag=20, tag_field="type"):
    recovery_id: str
    component: str
    strategy: str = ""
    counts: dict[str, int] = {}
    reason: str = ""


@register("recovery.failed")
class RecoveryFailed(Event, frozen=True, tag=21, tag_field="type"):
    recovery_id: str
    component: str
    strategy: str = ""
    counts: dict[str, int] = {}
    reason: str = ""


# -- moments ----------------------------------------------------------------------------------------------------------


@register("state.restored")
class StateRestored(Event, frozen=True, tag=22, tag_field="type"):
    """A whole restore: the state at this record's seq is state(to_seq), and what follows builds on that."""

    to_seq: int
    reason: str = ""


@register("tag.created")
class TagCreated(Event, frozen=True, tag=23, tag_field="type"):
    name: str
    seq: int


# -- imports ----------------------------------------------------------------------------------------------------------


@register("import.started")
class ImportStarted(Event, frozen=True, tag=24, tag_field="type"):
    source: str
    counts: dict[str, int] = {}


@register("import.completed")
class ImportCompleted(Event, frozen=True, tag=25, tag_field="type"):
    """``left_out`` names what was not taken over, one line each."""

    source: str
    counts: dict[str, int] = {}
    left_out: list[str] = []


# -- the journal's own doings -----------------------------------------------------------------------------------------


@register("checkpoint.created")
class CheckpointCreated(Event, frozen=True, tag=26, tag_field="type"):
    seq: int
    digest: str
    bytes: int = 0
    drift: bool = False
    manifest: str = ""  # what vouches for the files: `Manifest.fingerprint`


@register("epoch.started")
class EpochStarted(Event, frozen=True, tag=27, tag_field="type"):
    """A writer took over after one that did not close: what its opening found and did.

    ``carried`` counts the records copied past the last durable seq, from ``carried_from`` on (0: none): they survived,
    though their callers may have been told `outcome_unknown`. ``op_ids`` are those that callers gave them, the first
    `CARRIED_OP_IDS`. ``torn_bytes`` were set aside.
    """

    epoch: int
    previous_epoch: int
    carried: int = 0
    torn_bytes: int = 0
    carried_from: int = 0
    op_ids: list[str] = []


CARRIED_OP_IDS = 1000


@register("drill.completed")
class DrillCompleted(Event, frozen=True, tag=28, tag_field="type"):
    seq: int
    ok: bool
    seconds: float = 0.0
    digest: str = ""


@register("scrub.completed")
class ScrubCompleted(Event, frozen=True, tag=29, tag_field="type"):
    bytes: int
    findings: list[str] = []


@register("journal.forked")
class JournalForked(Event, frozen=True, tag=30, tag_field="type"):
    parent_journal_id: str
    seq: int
    chain: str = ""
    lost: list[list[int]] = []


@register("journal.event_lost")
class JournalEventLost(Event, frozen=True, tag=31, tag_field="type"):
    """Stands in a successor for an event of its parent that could not be read: it keeps the seq, and changes no state.

    Each record of a lost range names the whole range; its last one carries ``chain``, the parent's chain behind the
    range, where something survived there: what follows can be proven to be the parent's from it.
    """

    first_seq: int
    last_seq: int
    chain: str = ""
