"""Bodies, queries and answers of the holder's API, as Structs: what they are decoded with is what is documented."""

from __future__ import annotations

from typing import Annotated, Any, Literal

import msgspec
from msgspec import UNSET, Meta, UnsetType

from journal.commit import Receipt
from recovery.config import kinds as config_kinds
from recovery.plan import Plan
from recovery.states import ComponentState
from replay.cursors import Message

_PRINTABLE = r"[^\u0000-\u001f\u007f-\u009f]"
_DAY = r"(19[7-9][0-9]|2[01][0-9]{2})-(0[1-9]|1[0-2])-(0[1-9]|1[0-9]|2[0-8])"
_TIME = rf"{_DAY}T([01][0-9]|2[0-3]):[0-5][0-9]:[0-5][0-9](\.[0-9]{{1,9}})?Z"
Moment = Annotated[
    str,
    Meta(
        max_length=520,
        description="now, a seq, tag:NAME, RFC 3339 with a zone, or N seconds, minutes, hours or days ago",
        extra_json_schema={
            "pattern": rf"^(now|(seq:)?[0-9]{{1,18}}|tag:{_PRINTABLE}+|{_TIME}"
            r"|[1-9][0-9]{0,3} (second|minute|hour|day)s ago)$"
        },
    ),
]
Key = Annotated[
    str,
    Meta(
        min_length=1, max_length=512,
        pattern=rf"^{_PRINTABLE}+$(?!\n)",  # Python's $ holds before a last newline, that of a JSON schema does not
    ),
]  # fmt: skip
Scope = Annotated[
    str, Meta(max_length=512, extra_json_schema={"pattern": f"^(global|(workspace|agent):{_PRINTABLE}+)$"})
]
Traceparent = Annotated[
    str,
    Meta(
        max_length=55,
        extra_json_schema={"pattern": "^00-[0-9a-f]{31}[1-9a-f]-[0-9a-f]{15}[1-9a-f]-[0-9a-f]{2}$"},
    ),
]


class Append(msgspec.Struct, forbid_unknown_fields=True, omit_defaults=True):
    """One event, or a group that is taken whole or not at all, with its envelope."""

    event: dict[str, Any] | UnsetType = UNSET
    events: Annotated[list[dict[str, Any]], Meta(min_length=1, max_length=10_000)] | UnsetType = UNSET
    agent: Key | None = None
    actor: Key | None = None
    op_id: Key | None = None
    traceparent: Traceparent | None = None
    after_seq: Annotated[int, Meta(ge=0, le=(1 << 63) - 1)] | None = None


class OperatorRequest(msgspec.Struct, forbid_unknown_fields=True):
    """One ticket: events, each with agent, actor and traceparent of its own."""

    drafts: list[tuple[dict[str, Any], str | None, str | None, str | None]]
    op_id: str | None = None
    after_seq: int | None = None


class OperatorAppend(msgspec.Struct, forbid_unknown_fields=True):
    """A verb's requests, which share syncs."""

    requests: list[OperatorRequest]


class FailedReload(msgspec.Struct, forbid_unknown_fields=True):
    """A reload of an agent that the server could not do."""

    name: str
    failure: config_kinds.Failure
    tools: list[str] = []
    line: str = ""


class Pending(msgspec.Struct, forbid_unknown_fields=True):
    """Whose messages: those that the consumer has not acknowledged, of one conversation or of all."""

    consumer: Key
    conversation_id: Key | UnsetType = UNSET
    limit: Annotated[int, Meta(ge=1, le=10_000)] = 100


class Handed(msgspec.Struct):
    """The oldest messages that were not acknowledged."""

    messages: list[Message]


class Ack(msgspec.Struct, forbid_unknown_fields=True):
    """The last message that the consumer has dealt with; all before it in its conversation go with it."""

    consumer: Key
    message_id: Key
    conversation_id: Key | None = None


class Acked(msgspec.Struct):
    """``receipt`` is null where it was acknowledged already."""

    receipt: Receipt | None


class Nothing(msgspec.Struct, forbid_unknown_fields=True):
    """A body without anything in it."""


class Replay(msgspec.Struct, forbid_unknown_fields=True):
    """Which moment becomes the live state."""

    until: Moment
    exclusive: bool = False
    reason: Annotated[str, Meta(max_length=2000)] = ""
    dry_run: bool = False


class Recover(msgspec.Struct, forbid_unknown_fields=True):
    """What is repaired: of the agents perhaps only some, of the memory perhaps only one scope."""

    component: Literal["all", "memory", "agents", "model"] = "all"
    agents: list[Key] = []
    scope: Scope | None = None
    dry_run: bool = False


class LogQuery(msgspec.Struct, forbid_unknown_fields=True):
    """Which records: of each kind one of the values, and all kinds together."""

    n: Annotated[int, Meta(ge=0, le=100_000)] | UnsetType = UNSET  # None would be read from the word null
    agent: tuple[Key, ...] = ()
    actor: tuple[Key, ...] = ()
    type: tuple[Key, ...] = ()
    entity: tuple[Key, ...] = ()
    scope: tuple[Scope, ...] = ()
    op_id: tuple[Key, ...] = ()
    since: Moment | UnsetType = UNSET
    until: Moment | UnsetType = UNSET


class Acknowledged(msgspec.Struct):
    """The receipts of one request, in order: its events are durable."""

    receipts: list[Receipt]


class WouldRestore(msgspec.Struct):
    """What a restore would do: the seq that it means, the journal's end, and the changes between them."""

    seq: int
    head: int
    changes: dict[str, Any]


class Planned(msgspec.Struct):
    """What a recovery would do."""

    plan: Plan
    done: bool = False


class Records(msgspec.Struct):
    """Records as `journal log --json` prints them."""

    records: list[dict[str, Any]]


class Health(msgspec.Struct, omit_defaults=True):
    """``status`` is the worst of ``components``, the state of each.

    ``position`` is the last seq that memory.db holds; ``reason`` is why the log takes nothing more. ``agents`` is how
    many there are, None while memory.db is gone; ``model`` is loaded, available, missing, or without the extra.
    """

    status: Literal["healthy", "degraded", "failed"]
    last_seq: int
    position: int
    reason: str | None = None
    memory_backend: str = ""
    agents: int | None = None
    model: str = ""
    components: dict[str, ComponentState] = {}


class Problem(msgspec.Struct, omit_defaults=True):
    """An error: a stable code, what and where, and what to do next."""

    code: str
    message: str
    path: str | None = None
    offset: int | None = None
    seq: int | None = None
    hint: str | None = None
    op_id: str | None = None
    line: int | None = None


class Failure(msgspec.Struct):
    error: Problem
