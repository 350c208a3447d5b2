"""Rows of a foreign memory.db → events, one table at a time; what has no place in an event is kept or named.

Knows what each column becomes; must not know where events go. Two rules: a row that breaks the journal's rules is left
out and said so, with its reason; and a column without a place goes into the event's metadata under ``imported`` as it
stood (Caxton's times are milliseconds, its strength, version and validity are numbers of its own).
"""

from __future__ import annotations

import hashlib
import math
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import msgspec

from journal.errors import Refused
from journal.events import EntityCreated, Event, MessageRecorded, ObservationAdded, RelationCreated
from journal.limits import admit, check_envelope
from recovery.adopt.source import TEXT_COLUMNS, ForeignDatabase, Row
from replay.agent_quarantine import printable

IMPORTED = "imported"
"""The metadata key that holds the columns of the row that an event was made from."""

Entities = dict[Any, tuple[str, str]]  # the source's id → scope and name of an entity that was taken


class Adopted(NamedTuple):
    """One event of an import. ``op_id`` is made from the source and the row alone, so that a second run of an
    interrupted import gives it again; ``agent`` is who wrote the row, for the envelope."""

    op_id: str
    event: Event
    agent: str | None = None


class LeftOut(NamedTuple):
    """A row, a column or a table that was not taken, and why.

    ``missing`` is True where a memory or an agent is not in the journal now; False for what is derived, kept in
    another way, or a detail that no event has a place for (a time of writing, say).
    """

    what: str
    reason: str
    missing: bool = True

    def __str__(self) -> str:
        return f"{self.what}: {self.reason}"


@dataclass(slots=True)
class Report:
    """What an import took, by kind, and exactly what it did not."""

    counts: dict[str, int] = field(default_factory=dict)
    left_out: list[LeftOut] = field(default_factory=list)

    @property
    def is_whole(self) -> bool:
        """True if every memory and every agent of the source was taken."""
        return not any(each.missing for each in self.left_out)

    def lines(self, limit: int = 1000) -> list[str]:
        """What was left out, one line each; beyond `limit` the last line says how many more."""
        lines = [str(each) for each in self.left_out[:limit]]
        more = len(self.left_out) - limit
        return [*lines, f"and {more} more"] if more > 0 else lines


class RowReader:
    """Turns the tables of one source into events, in an order in which every reference exists."""

    def __init__(self, source: ForeignDatabase, prefix: str, report: Report) -> None:
        self._source = source
        self._prefix = prefix
        self._report = report
        self._entities: Entities = {}

    def events(self) -> Iterator[Adopted]:
        yield from self._read_entities()
        yield from self._read_observations()
        yield from self._read_relations()
        yield from self._read_messages()

    # -- tables -------------------------------------------------------------------------------------------------------

    def _read_entities(self) -> Iterator[Adopted]:
        names: dict[tuple[str, str], Any] = {}
        for number, row in enumerate(self._source.rows("entities"), 1):
            what = _label("entities", row, number)
            scope, name = row.get("scope", "global"), row["name"]
            items, rest = _observations_of(row)
            first = names.get((scope, name))
            if first is not None or row["id"] in self._entities:
                taken = None
                self._leave_out(what, f"the same entity as row {first}" if first is not None else "its id is taken")
            else:
                extras = rest | _extras(row, {"scope", "name", "entity_type", "metadata", "confidence", "observations"})
                metadata, confidence = _metadata(row, extras), _number(row, "confidence")
                event = EntityCreated(scope, name, row["entity_type"], metadata, confidence)
                taken = self._take("entities", f"{number}", what, row, event)
            if taken is None:
                if items:
                    self._leave_out(f"{what}, {len(items)} observations", "their entity was left out")
                continue
            names[scope, name] = row["id"]
            self._entities[row["id"]] = (scope, name)
            yield taken
            yield from self._read_items(number, what, items, (scope, name))

    def _read_items(self, number: int, what: str, items: list[Any], entity: tuple[str, str]) -> Iterator[Adopted]:
        """Caxton's observations: an array of texts in the entity's row."""
        seen: set[bytes] = set()
        for place, item in enumerate(items, 1):
            content, extras = _text_and_rest(item)
            here = f"{what}, observation {place}"
            if not isinstance(content, str):
                self._leave_out(here, f"is {type(item).__name__}, not text")
            elif _key(content) in seen:
                self._leave_out(here, "the same text as one before it", missing=False)
            else:
                seen.add(_key(content))
                metadata = {IMPORTED: extras} if extras else {}
                event = ObservationAdded(*entity, content, metadata)
                taken = self._take("observations", f"{number}-{place}", here, {"content": content}, event, "entities")
                if taken is not None:
                    yield taken

    def _read_observations(self) -> Iterator[Adopted]:
        if not self._source.has("observations"):
            return
        text = next(column for column in TEXT_COLUMNS if column in self._source.columns["observations"])
        entity_id, seen = None, set[bytes]()
        for number, row in enumerate(self._source.rows("observations", "entity_id"), 1):
            what = _label("observations", row, number)
            if row["entity_id"] != entity_id or number == 1:
                entity_id, seen = row["entity_id"], self._texts_in_row(row["entity_id"])
            entity = self._entities.get(entity_id)
            if entity is None:
                self._leave_out(what, f"entity {entity_id!r} does not exist or was left out")
                continue
            content = row[text]
            if isinstance(content, str) and _key(content) in seen:
                self._leave_out(what, "the same text as another observation of its entity", missing=False)
                continue
            agent = _agent(row)
            extras = _extras(row, {"entity_id", text, "metadata", "text_sha256"} | ({"agent"} if agent else set()))
            event = ObservationAdded(*entity, content, _metadata(row, extras))
            taken = self._take("observations", f"{number}", what, row, event, agent=agent)
            if taken is not None:
                seen.add(_key(content))
                yield taken

    def _texts_in_row(self, entity_id: Any) -> set[bytes]:
        """The observations that an entity has brought along already, where a source keeps them in both places."""
        if "observations" not in self._source.columns["entities"]:
            return set()
        sql = 'SELECT "observations" FROM "entities" WHERE "id" IS ?'
        row = self._source.connection.execute(sql, (entity_id,)).fetchone()
        items = _observations_of({"observations": row[0]})[0] if row is not None else []
        return {_key(content) for content, _ in map(_text_and_rest, items) if isinstance(content, str)}

    def _read_relations(self) -> Iterator[Adopted]:
        if not self._source.has("relations"):
            return
        used = {"from_entity_id", "to_entity_id", "relation_type", "strength", "confidence", "metadata"}
        from_id, seen = None, dict[tuple[Any, Any], Any]()
        for number, row in enumerate(self._source.rows("relations", "from_entity_id"), 1):
            what = _label("relations", row, number)
            if row["from_entity_id"] != from_id:
                from_id, seen = row["from_entity_id"], {}
            ends = [self._entities.get(row[end]) for end in ("from_entity_id", "to_entity_id")]
            if ends[0] is None or ends[1] is None:
                missing = [row[end] for end in ("from_entity_id", "to_entity_id") if row[end] not in self._entities]
                self._leave_out(what, f"entity {missing[0]!r} does not exist or was left out")
                continue
            (scope, start), (other_scope, end) = ends[0], ends[1]
            key = (row["to_entity_id"], row["relation_type"])
            if scope != other_scope:
                self._leave_out(what, f"joins two scopes, {scope!r} and {other_scope!r}")
                continue
            if key in seen:
                self._leave_out(what, f"the same relation as row {seen[key]}")
                continue
            numbers = (_number(row, "strength"), _number(row, "confidence"))
            metadata = _metadata(row, _extras(row, used))
            event = RelationCreated(scope, start, end, row["relation_type"], *numbers, metadata)
            taken = self._take("relations", f"{number}", what, row, event)
            if taken is not None:
                seen[key] = row.get("id", number)
                yield taken

    def _read_messages(self) -> Iterator[Adopted]:
        if not self._source.has("messages"):
            return
        seen: set[bytes] = set()
        skipped: Counter[str] = Counter()
        used = {"id", "conversation_id", "message_id", "agent", "role", "content"}
        for number, row in enumerate(self._source.rows("messages"), 1):
            what = _label("messages", row, number)
            key = _key(f"{row['conversation_id']}\0{row['message_id']}")
            if key in seen:
                self._leave_out(what, "its message_id is taken in its conversation")
                continue
            event = MessageRecorded(
                row["conversation_id"], row["agent"], row["role"], row["content"], row["message_id"]
            )
            taken = self._take("messages", f"{number}", what, row, event)
            if taken is not None:
                seen.add(key)
                skipped.update(_extras(row, used).keys())
                yield taken
        for column, count in sorted(skipped.items()):
            self._leave_out(f"messages.{column}", f"{count} values; a message has no place for it", missing=False)

    # -- one row ------------------------------------------------------------------------------------------------------

    def _take(
        self, kind: str, row_id: str, what: str, row: Row, event: Event, table: str = "", agent: str | None = None
    ) -> Adopted | None:
        """The event, if the journal admits it; else the row is left out with the reason."""
        try:
            admitted, _ = admit(event)
        except Refused as error:
            broken = [name for name, value in row.items() if isinstance(value, str) and not _is_text(value)]
            self._leave_out(what, f"{broken[0]} is not UTF-8" if broken else error.message)
            return None
        self._report.counts[kind] = self._report.counts.get(kind, 0) + 1
        return Adopted(f"{self._prefix}-{table or kind}-{row_id}", admitted, agent)

    def _leave_out(self, what: str, reason: str, *, missing: bool = True) -> None:
        self._report.left_out.append(LeftOut(what, printable(reason), missing))


# -- columns ----------------------------------------------------------------------------------------------------------


def _label(table: str, row: Row, number: int) -> str:
    """How a person finds the row again: its id, or its place in the table's order; and its name."""
    name = row.get("name")
    found = f"{table} row {row['id']!r}" if row.get("id") is not None else f"{table} row number {number}"
    return printable(f"{found} ({name[:60]!r})" if isinstance(name, str) else found)


def _metadata(row: Row, extras: dict[str, Any]) -> dict[str, Any]:
    """The row's metadata with `extras` under `IMPORTED`. Metadata that is no JSON object is an extra itself."""
    metadata: dict[str, Any] = {}
    text = row.get("metadata")
    if text not in (None, ""):
        value = _json(text)
        if isinstance(value, dict):
            metadata = value
        else:
            extras = {**extras, "metadata": text if isinstance(text, str | int | float) else _plain(text)}
    if extras:
        if IMPORTED in metadata:  # it was imported before: that is kept, one level down
            extras = {**extras, IMPORTED: metadata[IMPORTED]}
        metadata = {**metadata, IMPORTED: extras}
    return metadata


def _extras(row: Row, used: set[str]) -> dict[str, Any]:
    """The columns that no field of the event takes, without those that are NULL."""
    return {column: _plain(value) for column, value in row.items() if column not in used and value is not None}


def _plain(value: Any) -> Any:
    """A cell as JSON can hold it: a BLOB as hex, an infinity as its name."""
    if isinstance(value, bytes):
        return {"hex": value.hex()}
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    return value


def _number(row: Row, column: str) -> Any:
    value = row.get(column)
    return 1.0 if value is None else value


def _agent(row: Row) -> str | None:
    """Who wrote the row, where that can stand in an envelope."""
    agent = row.get("agent")
    try:
        check_envelope(agent=agent)
    except Refused:
        return None
    return agent


def _observations_of(row: Row) -> tuple[list[Any], dict[str, Any]]:
    """The items of an entity's observations column; or, where it is no JSON array, the column as an extra."""
    text = row.get("observations")
    if text in (None, ""):
        return [], {}
    value = _json(text)
    return (value, {}) if isinstance(value, list) else ([], {"observations": _plain(text)})


def _text_and_rest(item: Any) -> tuple[Any, dict[str, Any]]:
    """An observation is a text, or an object whose text is under one of the known keys."""
    if isinstance(item, dict):
        for key in TEXT_COLUMNS:
            if isinstance(item.get(key), str):
                return item[key], {name: value for name, value in item.items() if name != key and value is not None}
    return item, {}


def _json(text: Any) -> Any:
    """The value of a JSON text, or None where it is none: a BLOB, NaN, nested without end."""
    if not isinstance(text, str):
        return None
    try:
        return msgspec.json.decode(text.encode())
    except (msgspec.DecodeError, UnicodeEncodeError, RecursionError):
        return None


def _key(text: str) -> bytes:
    return hashlib.blake2b(text.encode(errors="surrogatepass"), digest_size=16).digest()


def _is_text(value: str) -> bool:
    try:
        value.encode()
    except UnicodeEncodeError:
        return False
    return True
