"""Whether an event's references hold: what it creates is not there yet, what it changes is.

Knows the state as it will be once everything that was accepted has been applied: the rows of memory.db, and over them
the effects of the events that are still pending. Must not know the rules a single event is held against by itself
(`journal.limits`), nor write anything. Used under the writer's lock.

The overlay is keyed by entity ids where rows hang from entities. An id is never used twice, so deleting an entity or
clearing a scope needs no walk over what hangs from it: nothing leads there any more.
"""

from __future__ import annotations

import re
import sqlite3
from bisect import bisect_right
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from hashlib import sha256
from operator import itemgetter
from typing import Any, Final, cast

from journal.errors import Refused
from journal.events import (
    JOURNAL_CONSUMER,
    ConfigRemoved,
    ConfigWritten,
    CursorMoved,
    EntityCreated,
    EntityDeleted,
    EntityUpdated,
    Event,
    MessageRecorded,
    ObservationAdded,
    ObservationRemoved,
    RelationCreated,
    RelationDeleted,
    RelationUpdated,
    ScopeCleared,
    StatusChanged,
)
from replay.agent_twins import folded
from replay.held import Held
from replay.schema import one_moment

ENTITIES_MAX = 200_000
"""So many entity ids are remembered before all are forgotten and asked for anew."""

OVERLAY_MAX = 100_000
"""So many effects stay in the overlay before those that are applied are dropped from it."""

_ABSENT: Final[Any] = object()

_Table = dict[Any, Any]


class Validator:
    """Checks events against memory.db and the pending effects of those that it let pass before.

    ``connection`` is the one that applies, or sees what it has committed; everything up to ``applied_seq`` is in it.
    """

    def __init__(self, connection: sqlite3.Connection, applied_seq: int) -> None:
        self._connection = connection
        self._applied_seq = applied_seq
        # What memory.db said: (scope, name) to id, only of entities that are there and that no pending event removes.
        self._ids: dict[tuple[str, str], int] = {}
        self._held = Held()
        # The overlay: what accepted events leave behind. True of every key in it, whether it is applied yet or not.
        self._entities: _Table = {}  # (scope, name) to id, or None: there is none
        self._cleared: _Table = {}  # scope to True: what is not in the overlay is not there
        self._observations: _Table = {}  # (entity id, sha256 of the text) to bool, and so on
        self._relations: _Table = {}  # (from id, to id, type)
        self._messages: _Table = {}  # (conversation id, message id)
        self._message_ids: _Table = {}
        self._agents: _Table = {}
        self._overlay = (
            self._entities, self._cleared, self._observations, self._relations, self._messages, self._message_ids,
            self._agents,
        )  # fmt: skip
        self._folded: dict[str, set[str]] | None = None
        # Each change of the overlay, oldest first: seq, table, key, the value before. `settle` trims it in front and
        # `rollback` cuts it behind; marks count from the first change ever, so that trimming does not move them.
        self._pending: list[tuple[int, _Table, Any, Any]] = []
        self._trimmed = 0

    # -- the writer's calls -------------------------------------------------------------------------------------------

    def check(self, event: Event, seq: int) -> None:
        """Accepts the event, which will get this seq, and counts its effect in; or raises Refused."""
        if (rule := RULES.get(type(event))) is not None:
            rule(self, event, seq)

    def check_all(self, events: Sequence[Event], seq: int) -> bool:
        """Accepts all of these, the first of which will get this seq, or none. Says not which one could not be."""
        mark, ids, effects, held = self.mark(), self._ids, self._observations, self._held.entities
        try:
            for at, event in enumerate(events, seq):
                if type(event) is ObservationAdded and (entity_id := ids.get((event.scope, event.entity))) is not None:
                    known = held.get(entity_id)
                    key = (entity_id, sha256(event.content.encode()).digest())
                    if known is not None and key not in effects and key[1] not in known:  # as nearly all are
                        self._pending.append((at, effects, key, _ABSENT))
                        effects[key] = True
                        continue
                if (rule := RULES.get(type(event))) is not None:
                    rule(self, event, at)
        except BaseException as error:
            self.rollback(mark)
            if isinstance(error, Refused):
                return False
            raise
        return True

    def reading(self) -> AbstractContextManager[None]:
        """To be held around the checks of a batch: outside, each look into memory.db is a read transaction of its own,
        which makes it three times as long. Must be left before anything is applied."""
        return one_moment(self._connection)

    def mark(self) -> int:
        """A point that `rollback` can return to."""
        return self._trimmed + len(self._pending)

    def rollback(self, mark: int) -> None:
        """Takes back the effects of all events accepted since the mark: a group is accepted whole or not at all."""
        keep = max(mark - self._trimmed, 0)
        while len(self._pending) > keep:
            _, table, key, before = self._pending.pop()
            if before is _ABSENT:
                del table[key]
            else:
                table[key] = before

    def settle(self, applied_seq: int) -> None:
        """Everything up to this seq is committed to memory.db now."""
        self._applied_seq = applied_seq
        pending = self._pending
        done = len(pending)
        if pending and pending[-1][0] > applied_seq:
            done = bisect_right(pending, applied_seq, key=itemgetter(0))
        self._trimmed += done
        del pending[:done]
        if not pending:
            self._hold_applied()
            self._drop_overlay()
        elif sum(map(len, self._overlay)) > OVERLAY_MAX:
            self._held.forget()  # what is pending goes on top of what the overlay says was applied
            effects = [(table, key, table[key]) for _, table, key, _ in pending]
            self._drop_overlay()
            for table, key, value in effects:
                table[key] = value

    def _hold_applied(self) -> None:
        """All of the overlay is in memory.db now."""
        held = self._held
        for entity_id in self._entities.values():
            if entity_id is not None:
                held.begins(entity_id)
        held.note(self._observations.items())

    def forget(self, connection: sqlite3.Connection | None = None) -> None:
        """Believes nothing that memory.db said before: it was restored, swapped (for `connection`), or written to."""
        self._ids.clear()
        self._held.forget()
        self._folded = None
        if connection is not None:
            self._connection = connection

    # -- what is there ------------------------------------------------------------------------------------------------

    def _entity(self, scope: str, name: str) -> int | None:
        key = (scope, name)
        if (known := self._ids.get(key)) is not None:
            return known
        if (effect := self._entities.get(key, _ABSENT)) is not _ABSENT:
            return cast("int | None", effect)
        if scope in self._cleared:
            return None
        row = self._connection.execute("SELECT id FROM entities WHERE scope = ? AND name = ?", key).fetchone()
        if row is None:
            return None
        if len(self._ids) >= ENTITIES_MAX:
            self._ids.clear()
        self._ids[key] = row[0]
        return cast(int, row[0])

    def _needed_entity(self, scope: str, name: str) -> int:
        found = self._entity(scope, name)
        if found is None:
            raise Refused("not_found", f"there is no entity {name!r} in scope {scope!r}")
        return found

    def _has(self, table: _Table, key: Any, sql: str, parameters: tuple[Any, ...]) -> bool:
        effect = table.get(key)
        if effect is None:
            return self._connection.execute(sql, parameters).fetchone() is not None
        return cast(bool, effect)

    def _observation(self, event: ObservationAdded | ObservationRemoved) -> tuple[tuple[int, bytes], bool]:
        """The key of an observation, and whether it is there. Most events ask this: the nearest goes first."""
        entity_id = self._ids.get((event.scope, event.entity))
        if entity_id is None:
            entity_id = self._needed_entity(event.scope, event.entity)
        digest = sha256(event.content.encode()).digest()
        key = (entity_id, digest)
        effect = self._observations.get(key)
        if effect is not None:
            return key, effect
        held = self._held.entities.get(entity_id)
        if held is not None:
            return key, digest in held
        # memory.db does not even hold an entity that is newer than what was applied
        return key, entity_id <= self._applied_seq and self._held.has(self._connection, entity_id, digest)

    def _relation(
        self, event: RelationCreated | RelationUpdated | RelationDeleted
    ) -> tuple[tuple[int, int, str], bool]:
        """The key of a relation, and whether it is there."""
        from_id = self._needed_entity(event.scope, event.from_entity)
        key = (from_id, self._needed_entity(event.scope, event.to_entity), event.relation_type)
        if max(key[:2]) > self._applied_seq and key not in self._relations:
            return key, False
        return key, self._has(self._relations, key, _RELATION, key)

    # -- effects ------------------------------------------------------------------------------------------------------

    def _set(self, seq: int, table: _Table, key: Any, value: Any) -> None:
        self._pending.append((seq, table, key, table.get(key, _ABSENT)))
        table[key] = value

    def _drop_overlay(self) -> None:
        for table in self._overlay:
            table.clear()

    # -- one rule an event type ---------------------------------------------------------------------------------------

    def _entity_created(self, event: EntityCreated, seq: int) -> None:
        if self._entity(event.scope, event.name) is not None:
            raise Refused("already_exists", f"entity {event.name!r} is in scope {event.scope!r} already")
        self._set(seq, self._entities, (event.scope, event.name), seq)

    def _entity_updated(self, event: EntityUpdated, seq: int) -> None:
        self._needed_entity(event.scope, event.name)

    def _entity_deleted(self, event: EntityDeleted, seq: int) -> None:
        self._needed_entity(event.scope, event.name)
        self._ids.pop((event.scope, event.name), None)
        self._set(seq, self._entities, (event.scope, event.name), None)

    def _scope_cleared(self, event: ScopeCleared, seq: int) -> None:
        self._ids.clear()
        for key in [key for key, effect in self._entities.items() if key[0] == event.scope and effect is not None]:
            self._set(seq, self._entities, key, None)
        self._set(seq, self._cleared, event.scope, True)

    def _observation_added(self, event: ObservationAdded, seq: int) -> None:
        key, there = self._observation(event)
        if there:
            raise Refused("already_exists", f"entity {event.entity!r} has this observation already: {_brief(event)}")
        self._pending.append((seq, self._observations, key, self._observations.get(key, _ABSENT)))
        self._observations[key] = True

    def _observation_removed(self, event: ObservationRemoved, seq: int) -> None:
        key, there = self._observation(event)
        if not there:
            raise Refused("not_found", f"entity {event.entity!r} has no such observation: {_brief(event)}")
        self._set(seq, self._observations, key, False)

    def _relation_created(self, event: RelationCreated, seq: int) -> None:
        key, there = self._relation(event)
        if there:
            raise Refused("already_exists", f"{_arrow(event)} exists already in scope {event.scope!r}")
        self._set(seq, self._relations, key, True)

    def _relation_updated(self, event: RelationUpdated, seq: int) -> None:
        _, there = self._relation(event)
        if not there:
            raise Refused("not_found", f"there is no {_arrow(event)} in scope {event.scope!r}")

    def _relation_deleted(self, event: RelationDeleted, seq: int) -> None:
        key, there = self._relation(event)
        if not there:
            raise Refused("not_found", f"there is no {_arrow(event)} in scope {event.scope!r}")
        self._set(seq, self._relations, key, False)

    def _config_written(self, event: ConfigWritten, seq: int) -> None:
        self._set(seq, self._agents, event.name, True)

    def _config_removed(self, event: ConfigRemoved, seq: int) -> None:
        self._needed_agent(event.name)
        self._set(seq, self._agents, event.name, False)

    def twins(self, name: str) -> list[str]:
        """Agents by other names, accepted ones included, whose files some file system takes for this one's."""
        if self._folded is None:
            self._folded = {}
            for (each,) in self._connection.execute("SELECT name FROM agents"):
                self._folded.setdefault(folded(each), set()).add(each)
        alike = self._folded.setdefault(folded(name), set())
        alike.add(name)  # never taken out again: whether it is there is asked each time
        return sorted(each for each in alike if each != name and self._has(self._agents, each, _AGENT, (each,)))

    def _status_changed(self, event: StatusChanged, seq: int) -> None:
        self._needed_agent(event.name)

    def _needed_agent(self, name: str) -> None:
        if not self._has(self._agents, name, _AGENT, (name,)):
            raise Refused("not_found", f"there is no agent {name!r}")

    def _message_recorded(self, event: MessageRecorded, seq: int) -> None:
        key = (event.conversation_id, event.message_id)
        if self._has(self._messages, key, _MESSAGE, key):
            raise Refused("already_exists", f"message {key[1]!r} is in conversation {key[0]!r} already")
        self._set(seq, self._messages, key, True)
        self._set(seq, self._message_ids, event.message_id, True)

    def _cursor_moved(self, event: CursorMoved, seq: int) -> None:
        if event.consumer.startswith(JOURNAL_CONSUMER):
            if not (re.fullmatch(r"[0-9]{1,18}", event.message_id) and int(event.message_id) < seq):
                raise Refused("not_found", f"there is no event {event.message_id!r} for a consumer of the journal")
            return
        if not self._has(self._message_ids, event.message_id, _MESSAGE_ID, (event.message_id,)):
            raise Refused("not_found", f"there is no message {event.message_id!r}")


def may_refer(event: Event) -> bool:
    """Whether events of this type are held against the state at all."""
    return type(event) in RULES


_RELATION = "SELECT 1 FROM relations WHERE from_entity_id = ? AND to_entity_id = ? AND relation_type = ?"
_AGENT = "SELECT 1 FROM agents WHERE name = ?"
_MESSAGE = "SELECT 1 FROM messages WHERE conversation_id = ? AND message_id = ?"
_MESSAGE_ID = "SELECT 1 FROM messages WHERE message_id = ? LIMIT 1"


def _brief(event: ObservationAdded | ObservationRemoved) -> str:
    return repr(event.content if len(event.content) <= 60 else event.content[:60] + "…")


def _arrow(event: RelationCreated | RelationUpdated | RelationDeleted) -> str:
    return f"relation {event.from_entity!r} -{event.relation_type}-> {event.to_entity!r}"


RULES: dict[type[Any], Callable[[Validator, Any, int], None]] = {
    EntityCreated: Validator._entity_created,
    EntityUpdated: Validator._entity_updated,
    EntityDeleted: Validator._entity_deleted,
    ScopeCleared: Validator._scope_cleared,
    ObservationAdded: Validator._observation_added,
    ObservationRemoved: Validator._observation_removed,
    RelationCreated: Validator._relation_created,
    RelationUpdated: Validator._relation_updated,
    RelationDeleted: Validator._relation_deleted,
    ConfigWritten: Validator._config_written,
    ConfigRemoved: Validator._config_removed,
    StatusChanged: Validator._status_changed,
    MessageRecorded: Validator._message_recorded,
    CursorMoved: Validator._cursor_moved,
}
