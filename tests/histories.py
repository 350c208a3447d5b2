"""Makes histories, event by event, against the reference projection.

Where the choices come from is a `Source`: a seeded generator here, hypothesis in `strategies`. A history is valid
(every event would be accepted) or loose (references are often missing, creations often double, numbers and restores
sometimes impossible); apply must give a state for either.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple, Protocol, TypeVar

from journal import events
from journal.events import Event, type_dictionary
from journal.record import Record, RecordDecoder, array_of, encode_record
from replay.model import Model
from tests.samples import AGENT_NAMES, CONFIGS, NAMES, RELATIONS, SCOPES, TEXTS, WORDS

START = 1_764_000_000_000_000_000

T = TypeVar("T")


class Step(NamedTuple):
    """One event at its place in a history."""

    seq: int
    time: int
    agent: str | None
    event: Event

    def record(self) -> Record:
        """As a reader gets it: encoded and decoded under its types."""
        return decoded([self])[0]


class Vouched(NamedTuple):
    """What the journal says of a checkpoint."""

    seq: int
    digest: str
    manifest: str


class Source(Protocol):
    """Where choices come from."""

    def integer(self, low: int, high: int) -> int:
        """Both ends included."""
        ...

    def choose(self, options: Sequence[T]) -> T: ...

    def name(self) -> str:
        """A name that is accepted, often one that was given before."""
        ...

    def agent_name(self) -> str: ...

    def text(self) -> str: ...

    def metadata(self) -> dict[str, Any]: ...

    def number(self) -> float: ...

    def config(self) -> bytes: ...


def encoded(steps: Sequence[Step]) -> list[bytes]:
    return [encode_record(Record(0, step.time, None, None, step.agent, None, None, step.event)) for step in steps]


def decoded(steps: Sequence[Step]) -> list[Record]:
    return RecordDecoder(type_dictionary(), "memory")(array_of(encoded(steps)), len(steps), 0)


def history(source: Source, count: int, *, loose: bool = False, restores: int = 0) -> list[Step]:
    """`count` events from seq 1; `restores` of 1000 are jumps to some earlier seq, on any timeline."""
    return list(growing(source, Model(), count, loose=loose, restores=restores))


def growing(source: Source, model: Model, count: int, *, loose: bool = False, restores: int = 0) -> Iterator[Step]:
    """The next `count` steps after the model's position, each applied to the model when it is yielded."""
    time = START + model.position
    for seq in range(model.position + 1, model.position + count + 1):
        time += source.choose((0, 1, 1_000, 1_000_000_007))
        if source.integer(1, 1000) <= restores:
            event: Event = events.StateRestored(source.integer(-1, seq + 1) if loose else source.integer(0, seq - 1))
        else:
            event = next_event(source, model, seq, loose=loose)
        agent = source.choose((None, "sales", "writer"))
        model.apply(seq, time, agent, event)
        yield Step(seq, time, agent, event)


def next_event(source: Source, model: Model, seq: int, *, loose: bool = False) -> Event:
    """An event that the model's state accepts; with `loose`, one that it may not."""
    make = source.choose(_MAKERS + _RARE if source.integer(0, 2 if loose else 9) == 0 else _MAKERS)
    event = make(_Maker(source, model, seq, loose))
    if not loose and model.would_refuse(event):
        return events.ConfigWritten(source.agent_name(), source.config())  # always allowed
    return event


class _Maker(NamedTuple):
    """What the makers below draw from."""

    source: Source
    model: Model
    seq: int
    loose: bool

    def existing(self, there: dict[Any, T]) -> T | None:
        """Something that is there; None where there is nothing and, if loose, in one of four."""
        if not there or (self.loose and self.source.integer(0, 3) == 0):
            return None
        # the newest are the likeliest, so that a long history is more than its beginning
        index = self.source.integer(0, min(len(there), 50) - 1)
        return there[_from_end(there, index)]

    def entity(self) -> tuple[str, str]:
        """Scope and name."""
        entity = self.existing(self.model.state.entities)
        return (entity.scope, entity.name) if entity else (self.scope(), self.source.name())

    def scope(self) -> str:
        return self.source.choose(SCOPES)

    def number(self) -> float:
        if self.loose and self.source.integer(0, 9) == 0:
            return self.source.choose((float("nan"), float("inf"), float("-inf")))
        return self.source.number()

    def metadata(self) -> dict[str, Any]:
        metadata = self.source.metadata()
        if self.loose and self.source.integer(0, 9) == 0:  # decodable, though no JSON
            metadata = {**metadata, "odd": self.source.choose((b"\xff", float("nan"), {1: 2, None: 3}, -0.0))}
        return metadata

    def maybe(self, make: Callable[[], T]) -> T | None:
        return make() if self.source.integer(0, 1) else None

    def ends(self) -> tuple[str, str, str]:
        """Scope and the names of both ends; in a valid history the second is of the same scope or the same entity."""
        scope, start = self.entity()
        peers = {key: each for key, each in self.model.state.entities.items() if key[0] == scope}
        end = self.existing(peers)
        return scope, start, end.name if end else self.source.name()

    def relation(self) -> tuple[str, str, str, str]:
        """The key of a relation that is there, or of one that may be."""
        relation = self.existing(self.model.state.relations)
        if relation is not None:
            entities = {each.id: each for each in self.model.state.entities.values()}
            start, end = entities[relation.from_entity_id], entities[relation.to_entity_id]
            if start.scope == end.scope:
                return start.scope, start.name, end.name, relation.relation_type
        return *self.ends(), self.source.choose(RELATIONS)


def _from_end(there: dict[Any, T], index: int) -> Any:
    keys = reversed(there)
    for _ in range(index):
        next(keys)
    return next(keys)


def _entity_created(make: _Maker) -> Event:
    return events.EntityCreated(make.scope(), make.source.name(), make.source.name(), make.metadata(), make.number())


def _entity_updated(make: _Maker) -> Event:
    return events.EntityUpdated(
        *make.entity(), make.maybe(make.source.name), make.maybe(make.metadata), make.maybe(make.number)
    )


def _entity_deleted(make: _Maker) -> Event:
    return events.EntityDeleted(*make.entity())


def _observation_added(make: _Maker) -> Event:
    return events.ObservationAdded(*make.entity(), make.source.text(), make.metadata())


def _observation_removed(make: _Maker) -> Event:
    observation = make.existing(make.model.state.observations)
    if observation is None:
        return events.ObservationRemoved(*make.entity(), make.source.text())
    entity = next(each for each in make.model.state.entities.values() if each.id == observation.entity_id)
    return events.ObservationRemoved(entity.scope, entity.name, observation.content)


def _relation_created(make: _Maker) -> Event:
    return events.RelationCreated(
        *make.ends(), make.source.choose(RELATIONS), make.number(), make.number(), make.metadata()
    )


def _relation_updated(make: _Maker) -> Event:
    return events.RelationUpdated(
        *make.relation(), make.maybe(make.number), make.maybe(make.number), make.maybe(make.metadata)
    )


def _relation_deleted(make: _Maker) -> Event:
    return events.RelationDeleted(*make.relation())


def _scope_cleared(make: _Maker) -> Event:
    return events.ScopeCleared(make.source.choose(SCOPES if make.loose else SCOPES[2:]))  # so that valid ones grow


def _agent(make: _Maker) -> str:
    agent = make.existing(make.model.state.agents)
    return agent.name if agent else make.source.agent_name()


def _config_written(make: _Maker) -> Event:
    return events.ConfigWritten(
        _agent(make) if make.source.integer(0, 1) else make.source.agent_name(),
        make.source.config(),
        origin=make.source.choose(("hook", "watch", "import")),
    )


def _config_removed(make: _Maker) -> Event:
    return events.ConfigRemoved(_agent(make))


def _status_changed(make: _Maker) -> Event:
    return events.StatusChanged(_agent(make), make.source.choose(("active", "suspended", "failed")), make.source.text())


def _message_recorded(make: _Maker) -> Event:
    return events.MessageRecorded(
        make.source.choose(("c1", "c2")),
        make.source.agent_name(),
        make.source.choose(("user", "assistant")),
        make.source.text(),
        f"m{make.source.integer(0, 20 + make.seq)}",
    )


def _cursor_moved(make: _Maker) -> Event:
    message = make.existing(make.model.state.messages)
    return events.CursorMoved("mailer", message.message_id if message else "m0")


def _without_rows(make: _Maker) -> Event:
    """What is journaled and changes no state; the journal's own doings only where nothing is refused."""
    name, text, seq = make.source.name(), make.source.text(), make.seq
    accepted: tuple[Event, ...] = (
        events.ConfigRejected(make.source.agent_name(), make.source.config(), [text]),
        events.ModelVerified(name, {name: "00" * 32}),
        events.ModelReplaced(name, {}, text),
        events.RecoveryStarted(name, "memory", reason=text),
        events.RecoveryStepCompleted(name, "memory", counts={"rows": 3}),
        events.RecoveryCompleted(name, "agents"),
        events.RecoveryFailed(name, "agents", reason=text),
        events.TagCreated(name, seq - 1),
        events.ImportStarted(name),
        events.ImportCompleted(name, {}, [text]),
        events.DrillCompleted(seq - 1, True),
        events.ScrubCompleted(1 << 20, [text]),
    )
    reserved: tuple[Event, ...] = (
        events.CheckpointCreated(seq - 1, "00" * 32),
        events.EpochStarted(2, 1),
        events.JournalForked("00" * 16, seq, lost=[[1, 2]]),
        events.JournalEventLost(seq, seq),
    )
    return make.source.choose(accepted + reserved if make.loose else accepted)


_MAKERS: tuple[Callable[[_Maker], Event], ...] = (
    _entity_created, _entity_created, _entity_created, _entity_updated,
    _observation_added, _observation_added, _observation_added, _observation_added, _observation_removed,
    _relation_created, _relation_created, _relation_updated, _relation_deleted,
    _config_written, _config_written, _status_changed, _message_recorded, _cursor_moved,
)  # fmt: skip
_RARE: tuple[Callable[[_Maker], Event], ...] = (_entity_deleted, _scope_cleared, _config_removed, _without_rows)


class SeededSource:
    """Choices of a seeded generator, for histories too long for hypothesis."""

    def __init__(self, seed: int) -> None:
        self.rng = random.Random(seed)

    def integer(self, low: int, high: int) -> int:
        return self.rng.randint(low, high)

    def choose(self, options: Sequence[T]) -> T:
        return self.rng.choice(options)

    def name(self) -> str:
        return self.rng.choice((self.rng.choice(NAMES), f"name {self.rng.randrange(100_000)}"))

    def agent_name(self) -> str:
        return self.rng.choice((self.rng.choice(AGENT_NAMES), f"agent-{self.rng.randrange(30)}"))

    def text(self) -> str:
        if self.rng.random() < 0.1:
            return self.rng.choice(TEXTS)
        return " ".join(self.rng.choices(WORDS, k=self.rng.randint(3, 12))) + f" {self.rng.randrange(1_000_000)}"

    def metadata(self) -> dict[str, Any]:
        if self.rng.random() < 0.7:
            return {}
        return {"source": self.rng.choice(WORDS), "rank": self.rng.randrange(1000), "nested": [{"a": None}, 0.5, "é"]}

    def number(self) -> float:
        return self.rng.choice((1.0, 0.0, -0.0, 0.1 + 0.2, 5e-324, self.rng.random()))

    def config(self) -> bytes:
        return self.rng.choice((self.rng.choice(CONFIGS[:-1]), self.rng.randbytes(self.rng.randrange(200))))


def vouching(made: Vouched, model: Model, time: int) -> Step:
    """The event by which the journal vouches for a checkpoint; the model has applied it."""
    event = events.CheckpointCreated(made.seq, made.digest, manifest=made.manifest)
    model.apply(model.position + 1, time, None, event)
    return Step(model.position, time, None, event)
