"""One line that `journal append` reads → a ticket, or why it is refused. In bounded memory, whatever the line holds.

Knows the shape of an input line; what an event may be is `journal.limits`'. A few bytes of JSON (`{},`) make a hundred
in memory, so nothing is decoded before its keys were: an unknown key, a list of what is no event or a value that is too
long ends it there.
"""

from __future__ import annotations

import re
from typing import Any

import msgspec

from journal.commit import GROUP_RECORDS_MAX, Ticket, draft, ticket
from journal.errors import Refused
from journal.limits import check_envelope, event_from_json, refuse_reserved

LINE_BYTES_MAX = 64 << 20
EVENT_BYTES_MAX = 8 << 20  # of JSON: the longest config in escapes takes 6 MiB
FIELD_BYTES_MAX = 4 << 20  # of JSON that is no text


_ABSENT = msgspec.Raw(b"")


class _Line(msgspec.Struct, forbid_unknown_fields=True, gc=False):
    event: msgspec.Raw = _ABSENT
    events: msgspec.Raw = _ABSENT
    agent: msgspec.Raw = _ABSENT
    actor: msgspec.Raw = _ABSENT
    op_id: msgspec.Raw = _ABSENT
    traceparent: msgspec.Raw = _ABSENT
    after_seq: msgspec.Raw = _ABSENT


class _Event(msgspec.Struct, gc=False):
    """An element that may be an event: decoding stops at the first that is not."""

    type: msgspec.Raw


_read_line = msgspec.json.Decoder(_Line).decode
_read_events = msgspec.json.Decoder(list[_Event]).decode
_read_list = msgspec.json.Decoder(list[msgspec.Raw]).decode
_read_object = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode
_OBJECT = '{"event": {"type": "memory.entity_created", …}}'


def ticket_of(line: bytes) -> Ticket:
    """The request that a line makes. Raises Refused. An empty one stands for a line that was too long to keep."""
    if not line:
        raise too_long()
    try:
        given = _read_line(line)
    except msgspec.ValidationError as error:
        if found := re.search("unknown field `(.*)`", str(error), re.DOTALL):
            known = ", ".join(sorted(_Line.__struct_fields__))
            raise Refused("invalid", f"unknown key {found[1][:80]!r}", hint=f"known: {known}") from None
        raise Refused("invalid", "a line is a JSON object", hint=_OBJECT) from None
    except (msgspec.MsgspecError, ValueError, RecursionError) as error:
        raise Refused("invalid", f"no JSON: {error}") from None
    if bool(given.event) == bool(given.events):
        raise Refused("invalid", "a line has either event or events")
    events = [given.event] if given.event else _events_in(given.events)
    agent, actor, op_id, traceparent = (
        _value(key, getattr(given, key)) for key in ("agent", "actor", "op_id", "traceparent")
    )
    check_envelope(agent, actor, op_id, traceparent)
    drafts = []
    for each in events:
        event = event_from_json(_fields_of(each))
        refuse_reserved(event)
        drafts.append(draft(event, agent, actor, traceparent))
    return ticket(drafts, op_id, _seq(_value("after_seq", given.after_seq)))


def _seq(value: Any) -> int | None:
    if value is not None and (type(value) is not int or value < 0):
        raise Refused("invalid", "after_seq is a seq, or not given")
    return value


def too_long() -> Refused:
    """The refusal of a line that nobody kept."""
    return Refused("too_large", f"the line is longer than {LINE_BYTES_MAX >> 20} MiB")


def _events_in(raw: msgspec.Raw) -> list[msgspec.Raw]:
    try:
        count = len(_read_events(raw))
    except (msgspec.MsgspecError, ValueError, RecursionError):
        count = 0
    if not count:
        raise Refused("invalid", "events is a list of at least one event, and each has a type")
    if count > GROUP_RECORDS_MAX:
        raise Refused("too_large", f"a group of {count} events; the limit is {GROUP_RECORDS_MAX}")
    return _read_list(raw)


def _fields_of(event: msgspec.Raw) -> dict[str, Any] | Any:
    """The event's fields; what is no object is given back as it is, for the one who says so."""
    if len(memoryview(event)) > EVENT_BYTES_MAX:
        raise Refused("too_large", f"an event of more than {EVENT_BYTES_MAX >> 20} MiB of JSON")
    try:
        fields = _read_object(event)
    except msgspec.ValidationError:
        return _value("event", event)
    except (msgspec.MsgspecError, ValueError, RecursionError) as error:
        raise Refused("invalid", f"no JSON: {error}") from None
    return {key: _value(key, raw) for key, raw in fields.items()}


def _value(key: str, raw: msgspec.Raw) -> Any:
    if not raw:
        return None
    data = memoryview(raw)
    if len(data) > FIELD_BYTES_MAX and data[0] != ord('"'):
        raise Refused("too_large", f"{key[:80]} has {len(data)} bytes of JSON; the limit is {FIELD_BYTES_MAX}")
    try:
        return msgspec.json.decode(raw)
    except (msgspec.MsgspecError, ValueError, RecursionError) as error:
        raise Refused("invalid", f"no JSON: {error}") from None
