"""Records as the command shows them: with their seq and op_id, filtered, flat as JSON.

Knows envelopes and filters; must not know streams.
"""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from itertools import islice
from typing import Any, NamedTuple

from journal.errors import DataError, Refused, UsageError
from journal.event_json import event_to_json
from journal.events import type_dictionary
from journal.index import ENTITY_FIELDS
from journal.limits import check_scope
from journal.lookup import AnyOf, Lookup, MakeIndex
from journal.reader import LogReader
from journal.record import RECORD_CONTINUES_GROUP, RECORD_UNCHECKED, Record, generated_op_id
from journal.scan import Batch

_GENERATED = re.compile(r"e[0-9]{1,10}-([0-9]{1,18})")  # see `generated_op_id`


class Entry(NamedTuple):
    """A record with what its batch says of it."""

    seq: int
    op_id: str
    record: Record

    @property
    def continues_group(self) -> bool:
        return bool(self.record.flags & RECORD_CONTINUES_GROUP)

    def to_json(self) -> dict[str, Any]:
        """One flat object; ``event`` can be given to `journal append` again."""
        record = self.record
        return {
            "seq": self.seq,
            "time": record.time,
            "op_id": self.op_id,
            "agent": record.agent,
            "actor": record.actor,
            "traceparent": record.traceparent,
            "type": record.event.type_name,
            "event": event_to_json(record.event),
            **({"checked": False} if record.flags & RECORD_UNCHECKED else {}),
        }


def entries(batches: Iterable[Batch], from_seq: int = 1, to_seq: int | None = None) -> Iterator[Entry]:
    """The records of the batches within the bounds."""
    for batch in batches:
        for seq, record in enumerate(batch.records(), batch.first_seq):
            if seq >= from_seq and (to_seq is None or seq <= to_seq):
                yield entry_of(batch, seq, record)


def entry_of(batch: Batch, seq: int, record: Record) -> Entry:
    return Entry(seq, record.op_id or generated_op_id(batch.epoch, seq), record)


@dataclass(frozen=True)
class Filter:
    """Which records are wanted: of each kind one of the values, and all the kinds together."""

    agents: tuple[str, ...] = ()
    actors: tuple[str, ...] = ()
    types: tuple[str, ...] = ()
    entities: tuple[str, ...] = ()
    scopes: tuple[str, ...] = ()
    op_ids: tuple[str, ...] = ()
    _tests: tuple[Callable[[Entry], bool], ...] = field(init=False, default=())

    def __post_init__(self) -> None:
        for scope in self.scopes:
            _check_scope(scope)
        object.__setattr__(self, "_tests", tuple(self._make_tests()))

    def _make_tests(self) -> Iterator[Callable[[Entry], bool]]:
        if self.agents:
            yield lambda entry: entry.record.agent in self.agents
        if self.actors:
            yield lambda entry: entry.record.actor in self.actors
        if self.types:
            types = _types(self.types)
            yield lambda entry: entry.record.event.type_name in types
        if self.scopes:
            yield lambda entry: getattr(entry.record.event, "scope", None) in self.scopes
        if self.entities:
            yield self._is_about_entity

    def _is_about_entity(self, entry: Entry) -> bool:
        event = entry.record.event
        return any(getattr(event, name) in self.entities for name in ENTITY_FIELDS.get(event.type_name, ()))

    def __bool__(self) -> bool:
        return bool(self._tests or self.op_ids)

    def conditions(self) -> list[AnyOf]:
        """The same as an index can be asked."""
        kinds = {
            "agent": self.agents, "actor": self.actors, "type": tuple(_types(self.types)), "scope": self.scopes,
            "entity": self.entities,
        }  # fmt: skip
        found = [AnyOf(tuple((kind, value) for value in values)) for kind, values in kinds.items() if values]
        if self.op_ids:
            generated = (_GENERATED.fullmatch(op_id) for op_id in self.op_ids)
            seqs = tuple(int(match[1]) for match in generated if match is not None)
            found.append(AnyOf(tuple(("op_id", op_id) for op_id in self.op_ids), seqs))
        return found

    def select(self, found: Iterable[Entry]) -> Iterator[Entry]:
        """The wanted entries, in order. An op_id names an operation: of a group, all its records."""
        in_operation = False
        for entry in found:
            if self.op_ids:
                in_operation = entry.op_id in self.op_ids or (in_operation and entry.continues_group)
                if not in_operation:
                    continue
            if all(test(entry) for test in self._tests):
                yield entry


def _check_scope(scope: str) -> None:
    """A scope that no event can have would silently select nothing."""
    try:
        check_scope("--scope", scope)
    except Refused as error:
        raise UsageError(error.message, hint=error.hint) from None


def _types(patterns: Iterable[str]) -> frozenset[str]:
    """The registered types that the patterns name. Raises UsageError where one names none."""
    known = type_dictionary()
    found: set[str] = set()
    for pattern in patterns:
        matching = {name for name in known if fnmatchcase(name, pattern)}
        if not matching:
            from difflib import get_close_matches

            close = get_close_matches(pattern[:80], known, n=1, cutoff=0.4)
            hint = f"did you mean {close[0]}?" if close else "a type is such as memory.entity_created, or memory.*"
            raise UsageError(f"unknown event type {pattern[:80]!r}", hint=hint)
        found |= matching
    return frozenset(found)


def selected(
    reader: LogReader, wanted: Filter, first: int, last: int | None, count: int | None, make: MakeIndex | None = None
) -> Iterator[Entry]:
    """What is to be printed, in order, up to the damage if there is any, which is raised then.

    A filter reads those parts of the log that may hold what it wants; `make` gives the index of a part that has none.
    """
    end = reader.last_seq if last is None else last
    if count is not None and not wanted:
        first = max(first, end - count + 1)
    if first > reader.last_seq:
        if last is None:
            reader.raise_for_end()
        return
    if not wanted:
        yield from entries(reader.batches(first, last), first, last)
    elif count is None:
        yield from wanted.select(entries(Lookup(reader, wanted.conditions(), make).batches(first, end), first, last))
    else:
        yield from _newest(reader, wanted, first, end, count, make)
    if last is None:
        reader.raise_for_end()


def _newest(
    reader: LogReader, wanted: Filter, first: int, last: int, count: int, make: MakeIndex | None
) -> Iterator[Entry]:
    """The last of them, looked for from the end on. Beside damage, the last before it, and then what is wrong."""
    kept: deque[Entry] = deque()
    try:
        for run in Lookup(reader, wanted.conditions(), make).newest_first(first, last):
            if len(kept) >= count:
                break
            kept.extendleft(reversed(list(wanted.select(entries(run, first, last)))))
    except DataError:
        kept = deque(maxlen=count)
        try:
            kept.extend(wanted.select(entries(reader.batches(first, last), first, last)))
        except DataError:
            yield from kept
            raise
    yield from islice(kept, max(0, len(kept) - count), None)
