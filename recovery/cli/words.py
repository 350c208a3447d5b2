"""An event told in one line, and how times and sizes read.

Pure. Knows what events carry; must not know streams. What comes back may hold any character that names and contents
may hold: print it with `Output`, which spells out what could move a cursor.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping
from datetime import UTC, datetime
from typing import Any, Final

from journal import events as e

NS: Final = 1_000_000_000
QUOTED_MAX: Final = 160
_YEAR_MAX_NS: Final = 253_402_300_800 * NS  # the year 10000, where datetime ends


def told(event: e.Event, limit: int = QUOTED_MAX) -> str:
    """The event in words, on one line; contents are cut to `limit` characters."""
    tell = _TOLD.get(type(event), _fields)
    return tell(event, limit).replace("\n", "\\n")


def quoted(text: str, limit: int = QUOTED_MAX) -> str:
    """The text in quotes on one line, cut to `limit` characters."""
    return json.dumps(text if len(text) <= limit else text[: limit - 1] + "…", ensure_ascii=False)


def time_text(ns: int, digits: int = 3) -> str:
    """UTC nanoseconds as RFC 3339; with nine digits it is exact, and can be pasted after --until."""
    if not 0 <= ns < _YEAR_MAX_NS:
        return f"{ns} ns"
    fraction = f".{ns % NS:09}"[: digits + 1] if digits else ""
    return datetime.fromtimestamp(ns // NS, UTC).strftime("%Y-%m-%dT%H:%M:%S") + fraction + "Z"


def age_text(ns: int) -> str:
    """A span of time as people say it: `3 minutes`."""
    if 0 < ns < NS:
        return f"{ns / NS:.1g} seconds"
    seconds = max(0, ns) // NS
    for length, unit in ((86_400, "day"), (3600, "hour"), (60, "minute"), (1, "second")):
        if seconds >= length or unit == "second":
            return counted(seconds // length, unit)
    raise AssertionError("the last unit always fits")


def counted(count: int, noun: str, plural: str | None = None) -> str:
    return f"{count:,} {noun if count == 1 else plural or noun + 's'}"


def bytes_text(size: int) -> str:
    amount = float(size)
    for unit in ("bytes", "KiB", "MiB", "GiB"):
        if amount < 1024:
            return f"{size:,} bytes" if unit == "bytes" else f"{amount:.1f} {unit}"
        amount /= 1024
    return f"{amount:.1f} TiB"


# -- events -----------------------------------------------------------------------------------------------------------


def _name(value: str) -> str:
    """A name as it is, in quotes where it could be misread."""
    plain = value and value == value.strip() and not any(each in value for each in '"\n\t') and value.isprintable()
    return value if plain else quoted(value)


def _in(scope: str) -> str:
    return "" if scope == "global" else f" in {_name(scope)}"


def _relation(event: e.RelationCreated | e.RelationUpdated | e.RelationDeleted) -> str:
    ends = f"{_name(event.from_entity)} -{_name(event.relation_type)}-> {_name(event.to_entity)}"
    return f"relation {ends}{_in(event.scope)}"


def _changes(event: e.Event, names: Iterable[str], limit: int) -> str:
    """The fields that are given and are not their defaults, as `: confidence 0.5, metadata {…}`."""
    defaults: Mapping[str, object] = {"metadata": {}, "confidence": 1.0, "strength": 1.0}
    given = [(name, value) for name in names if (value := getattr(event, name)) not in (None, defaults.get(name))]
    return ": " + ", ".join(f"{name} {_value(value, limit)}" for name, value in given) if given else ""


def _value(value: object, limit: int) -> str:
    if isinstance(value, bytes):
        return f"({len(value):,} bytes)"
    if isinstance(value, str):
        return _name(value) if len(value) <= limit else quoted(value, limit)
    text = json.dumps(value, ensure_ascii=False, default=repr)
    return text if len(text) <= limit else quoted(text, limit)


def _because(reason: str, limit: int) -> str:
    return f": {quoted(reason, limit)}" if reason else ""


def _counts(counts: Mapping[str, int]) -> str:
    return " (" + ", ".join(f"{count:,} {name}" for name, count in counts.items()) + ")" if counts else ""


def _recovery(verb: str) -> Callable[[Any, int], str]:
    def tell(event: e.RecoveryStarted, limit: int) -> str:
        how = f" by {event.strategy}" if event.strategy else ""
        return f"recovery of {event.component} {verb}{how}{_counts(event.counts)}{_because(event.reason, limit)}"

    return tell


def _model(verb: str) -> Callable[[Any, int], str]:
    def tell(event: e.ModelVerified, limit: int) -> str:
        source = f" from {event.source}" if event.source else ""
        return f"model {_name(event.name)} {verb}: {counted(len(event.files), 'file')}{source}"

    return tell


def _status(event: e.StatusChanged, limit: int) -> str:
    return f"agent {_name(event.name)} is {event.status}{_because(event.reason, limit)}"


def _rejected(event: e.ConfigRejected, limit: int) -> str:
    errors = "; ".join(event.errors)
    return f"config of agent {_name(event.name)} rejected ({len(event.content):,} bytes){_because(errors, limit)}"


def _import_completed(event: e.ImportCompleted, limit: int) -> str:
    left = f", {len(event.left_out):,} left out" if event.left_out else ""
    return f"import of {_name(event.source)} completed{_counts(event.counts)}{left}"


def _epoch(event: e.EpochStarted, limit: int) -> str:
    which = f" from seq {event.carried_from} on" if event.carried_from else ""
    found = f"{counted(event.carried, 'event')} carried over{which}, {counted(event.torn_bytes, 'torn byte')} set aside"
    return f"epoch {event.epoch} took over from epoch {event.previous_epoch}, which did not close: {found}"


def _checkpoint(event: e.CheckpointCreated, limit: int) -> str:
    drift = ", memory.db had DRIFTED from the journal" if event.drift else ""
    return f"checkpoint of seq {event.seq} created ({bytes_text(event.bytes)}){drift}"


def _message(event: e.MessageRecorded, limit: int) -> str:
    where = f"{_name(event.conversation_id)}/{_name(event.message_id)}"
    return f"message {where} of {_name(event.agent)} ({event.role}): {quoted(event.content, limit)}"


def _drill(event: e.DrillCompleted, limit: int) -> str:
    return f"drill at seq {event.seq} {'passed' if event.ok else 'FAILED'} in {event.seconds:.1f} s"


def _scrub(event: e.ScrubCompleted, limit: int) -> str:
    return f"scrub of {bytes_text(event.bytes)}: {counted(len(event.findings), 'finding')}"


def _fields(event: e.Event, limit: int) -> str:
    """A type that a program registered: its fields, as they are."""
    values = ((name, getattr(event, name)) for name in event.__struct_fields__)
    return f"{event.type_name}: " + ", ".join(f"{name} {_value(value, limit)}" for name, value in values)


_TOLD: dict[type[e.Event], Callable[[Any, int], str]] = {
    e.EntityCreated: lambda v, n: (
        f"entity {_name(v.name)} ({_name(v.entity_type)}) created{_in(v.scope)}"
        + _changes(v, ("confidence", "metadata"), n)
    ),
    e.EntityUpdated: lambda v, n: (
        f"entity {_name(v.name)} updated{_in(v.scope)}" + _changes(v, ("entity_type", "confidence", "metadata"), n)
    ),
    e.EntityDeleted: lambda v, n: f"entity {_name(v.name)} deleted{_in(v.scope)}, with what was known of it",
    e.ObservationAdded: lambda v, n: f"observed of {_name(v.entity)}{_in(v.scope)}: {quoted(v.content, n)}",
    e.ObservationRemoved: lambda v, n: f"no longer observed of {_name(v.entity)}{_in(v.scope)}: {quoted(v.content, n)}",
    e.RelationCreated: lambda v, n: f"{_relation(v)} created" + _changes(v, ("strength", "confidence", "metadata"), n),
    e.RelationUpdated: lambda v, n: f"{_relation(v)} updated" + _changes(v, ("strength", "confidence", "metadata"), n),
    e.RelationDeleted: lambda v, n: f"{_relation(v)} deleted",
    e.ScopeCleared: lambda v, n: f"scope {_name(v.scope)} cleared",
    e.ConfigWritten: lambda v, n: f"config of agent {_name(v.name)} written ({len(v.content):,} bytes, {v.origin})",
    e.ConfigRemoved: lambda v, n: f"config of agent {_name(v.name)} removed ({v.origin})",
    e.ConfigRejected: _rejected,
    e.StatusChanged: _status,
    e.MessageRecorded: _message,
    e.CursorMoved: lambda v, n: f"consumer {_name(v.consumer)} is at message {_name(v.message_id)}",
    e.ModelVerified: _model("verified"),
    e.ModelReplaced: _model("replaced"),
    e.RecoveryStarted: _recovery("started"),
    e.RecoveryStepCompleted: _recovery("did a step"),
    e.RecoveryCompleted: _recovery("completed"),
    e.RecoveryFailed: _recovery("FAILED"),
    e.StateRestored: lambda v, n: f"state of seq {v.to_seq} restored{_because(v.reason, n)}",
    e.TagCreated: lambda v, n: f"tag:{_name(v.name)} set at seq {v.seq}",
    e.ImportStarted: lambda v, n: f"import of {_name(v.source)} started{_counts(v.counts)}",
    e.ImportCompleted: _import_completed,
    e.CheckpointCreated: _checkpoint,
    e.EpochStarted: _epoch,
    e.DrillCompleted: _drill,
    e.ScrubCompleted: _scrub,
    e.JournalEventLost: lambda v, n: (
        f"LOST: events {v.first_seq}-{v.last_seq} could not be read when this journal succeeded its parent"
    ),
    e.JournalForked: lambda v, n: (
        f"forked from journal {v.parent_journal_id} at seq {v.seq}"
        + (f", {counted(len(v.lost), 'range')} lost" if v.lost else "")
    ),
}
