"""Undoing chosen events: what the state would be without them, as far as nothing later rests on them.

Pure: takes a history and a choice, gives the events that undo it. The history is folded twice, with the chosen events
and without. Where the two states differ, the difference is what the chosen events still do; it is undone unless an
event that was not chosen came after and rests on it. Such a conflict is named and left as it is, because what its
author would have written otherwise, nobody knows.

    rests on a chosen event             a later event about an entity, or an agent, that the chosen one made or removed
    does not                            a later change of the same field: it stands, and the chosen one is *overtaken*

Only what the chosen events touched is held in memory.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Set
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from journal.events import MessageRecorded
from replay.logical import Agent, EntityKey, RelationKey, State, Written, events_between, same
from replay.units import About, Past, Unit, apply


class Conflict(NamedTuple):
    """What is not undone: the unit, the first chosen event that touched it, and the last one that rests on that."""

    unit: Unit
    seq: int | None
    later_seq: int | None

    def __str__(self) -> str:
        if self.seq is None:
            return f"{self.unit}: other events made it, and it would be another without the chosen ones"
        if self.later_seq is None:
            return f"{self.unit}: changed at seq {self.seq}, and what it hangs from is in conflict"
        return f"{self.unit}: changed at seq {self.seq}, and seq {self.later_seq} rests on that"


class Overtaken(NamedTuple):
    """A chosen change that a later event made meaningless: there is nothing to undo."""

    unit: Unit
    seq: int
    later_seq: int

    def __str__(self) -> str:
        return f"{self.unit}: changed at seq {self.seq}, and again at seq {self.later_seq}, which stands"


@dataclass(slots=True)
class Undoing:
    """The events that undo the choice, and what they leave. ``messages`` are chosen ones: what was said stays."""

    events: list[Written] = field(default_factory=list)
    conflicts: list[Conflict] = field(default_factory=list)
    overtaken: list[Overtaken] = field(default_factory=list)
    messages: list[int] = field(default_factory=list)


def undo(history: Callable[[], Iterable[Past]], chosen: Set[int]) -> Undoing:
    """What undoes the events with the `chosen` seqs, applied after the end of `history`.

    `history` gives the events that make the current state, in order; it is walked three times.
    """
    about = About()
    result = Undoing()
    for past in history():
        if past.seq in chosen:
            about.add(past.event)
            if isinstance(past.event, MessageRecorded):
                result.messages.append(past.seq)
    for past in history():
        about.add_peers(past.event)
    fold = _Fold(about)
    for past in history():
        fold.take(past, past.seq in chosen)
    _judge(fold, result)
    return result


# -- the two folds ----------------------------------------------------------------------------------------------------


class _Fold:
    """The state with the chosen events and the one without, and who touched what after the first chosen one."""

    def __init__(self, about: About) -> None:
        self.about = about
        self.now, self.without = State(), State()
        self.touched: dict[Unit, int] = {}  # unit → seq of the first chosen event that touched it
        self.last: dict[Unit, int] = {}  # unit → seq of the last one
        self.later: dict[Unit, int] = {}  # unit → seq of the last other event after the first
        self.resting: dict[Unit, int] = {}  # an entity or agent → the last other event about it after that

    def take(self, past: Past, is_chosen: bool) -> None:
        units = list(apply(self.now, self.about, past))
        if is_chosen:
            for unit in units:
                self.touched.setdefault(unit, past.seq)
                self.last[unit] = past.seq
            return
        for _ in apply(self.without, self.about, past):
            pass
        for unit in units:
            if unit in self.touched:
                self.later[unit] = past.seq
            for owner in (unit.whole, *unit.owners()):
                if owner in self.touched:
                    self.resting[owner] = past.seq


# -- the judgement ----------------------------------------------------------------------------------------------------


def _judge(fold: _Fold, result: Undoing) -> None:
    """Undoes each difference that nothing rests on; the others are conflicts."""
    target = _copied(fold.now)
    kept_out: set[Unit] = set()  # what would have to be made again, and is in conflict
    differing = set()
    for unit in _differences(fold.now, fold.without):
        differing.add(unit)
        conflict = _conflict(fold, unit, kept_out)
        if conflict is None:
            _make_so(target, fold.without, unit)
            continue
        kept_out.add(unit)
        if conflict.seq is not None or kept_out.isdisjoint(unit.owners()):  # else it is why its owner is one
            result.conflicts.append(conflict)
    for unit, seq in fold.touched.items():
        later = fold.later.get(unit, 0)
        if later > fold.last[unit] and differing.isdisjoint((unit, unit.whole, *unit.owners())):
            result.overtaken.append(Overtaken(unit, seq, later))
    result.events = list(events_between(fold.now, target))


def _differences(now: State, without: State) -> Iterator[Unit]:
    """Entities before what hangs from them."""
    for key in now.entities.keys() | without.entities.keys():
        yield from _parts("entity", key, now.entities.get(key), without.entities.get(key))
    for key in now.observations.keys() | without.observations.keys():
        for content in now.observations.get(key, {}).keys() | without.observations.get(key, {}).keys():
            if not same(now.observation(key, content), without.observation(key, content)):
                yield Unit("observation", (*key, content))
    for relation in now.relations.keys() | without.relations.keys():
        yield from _parts("relation", relation, now.relations.get(relation), without.relations.get(relation))
    for name in now.agents.keys() | without.agents.keys():
        yield from _agent_parts(name, now.agents.get(name), without.agents.get(name))


def _parts(kind: str, key: tuple[str, ...], one: Any, other: Any) -> Iterator[Unit]:
    if one is None or other is None:
        if one is not other:
            yield Unit(kind, key)
        return
    for name, mine, theirs in zip(one._fields, one, other, strict=True):
        if not same((mine,), (theirs,)):
            yield Unit(kind, key, name)


def _agent_parts(name: str, one: Agent | None, other: Agent | None) -> Iterator[Unit]:
    if one is None or other is None:
        if one is not other:
            yield Unit("agent", (name,))
        return
    if one.content != other.content:
        yield Unit("agent", (name,), "config")
    if one[1:] != other[1:]:
        yield Unit("agent", (name,), "status")


def _conflict(fold: _Fold, unit: Unit, kept_out: Set[Unit]) -> Conflict | None:
    known = unit if unit in fold.touched else unit.whole
    seq = fold.touched.get(known)
    if seq is None:
        return Conflict(unit, None, None)
    if unit.kind in ("entity", "agent") and not unit.part:
        later = fold.resting.get(unit)
    else:  # what was in between the chosen ones, a field or an observation does not ask
        others = (fold.later.get(each, 0) for each in (unit, unit.whole, *unit.owners()))
        later = max((each for each in others if each > fold.last[known]), default=None)
    if later is not None:
        return Conflict(unit, seq, later)
    if any(owner in kept_out and owner.key not in fold.now.entities for owner in unit.owners()):
        return Conflict(unit, seq, None)
    return None


def _make_so(target: State, without: State, unit: Unit) -> None:
    """Makes one unit of `target` what it is without the chosen events."""
    kind, key, part = unit
    if kind == "entity":
        _make_entity_so(target, without, (key[0], key[1]), part)
    elif kind == "observation":
        _make_observation_so(target, without, (key[0], key[1]), key[2])
    elif kind == "relation":
        _make_relation_so(target, without, (key[0], key[1], key[2], key[3]), part)
    elif key[0] not in without.agents:
        del target.agents[key[0]]
    else:
        other = without.agents[key[0]]
        mine = target.agents.get(key[0], other)
        content = other.content if part in ("", "config") else mine.content
        target.agents[key[0]] = Agent(content, *(other[1:] if part in ("", "status") else mine[1:]))


def _make_entity_so(target: State, without: State, key: EntityKey, part: str) -> None:
    other = without.entities.get(key)
    if other is None:
        target.forget(key)
    elif part:
        target.entities[key] = target.entities[key]._replace(**{part: getattr(other, part)})
    else:
        target.entities[key] = other


def _make_observation_so(target: State, without: State, key: EntityKey, content: str) -> None:
    other = without.observation(key, content)
    if other is not None:
        target.observations.setdefault(key, {})[content] = other
    else:
        target.observations.get(key, {}).pop(content, None)  # with its entity, where that went


def _make_relation_so(target: State, without: State, key: RelationKey, part: str) -> None:
    other = without.relations.get(key)
    if other is None:
        if key in target.relations:
            target.unrelate(key)
    elif part:
        target.relations[key] = target.relations[key]._replace(**{part: getattr(other, part)})
    else:
        target.relate(key, other)


def _copied(state: State) -> State:
    return State(
        dict(state.entities), {key: dict(each) for key, each in state.observations.items()}, dict(state.relations),
        dict(state.agents), {key: set(each) for key, each in state.ends.items()},
    )  # fmt: skip
