"""A long history, as a journal and as the plain rows that it makes."""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from typing import Any, NamedTuple

from journal.events import EntityCreated, Event, ObservationAdded, RelationCreated
from journal.log import Log, create
from journal.record import Record, encode_record
from journal.storage import RealStorage
from tests.bench.work import AGENT, SCOPE, digest_of, texts

START = 1_764_000_000_000_000_000
KINDS = ("knows", "owns", "cites")
PER_ENTITY = 1 + 10 + len(KINDS)


@dataclass(frozen=True)
class Shape:
    """A history of `entities`, each followed by ten observations of earlier ones and three relations."""

    entities: int

    @property
    def observations(self) -> int:
        return 10 * self.entities

    @property
    def relations(self) -> int:
        return len(KINDS) * self.entities

    @property
    def events(self) -> int:
        return PER_ENTITY * self.entities


class Rows(NamedTuple):
    """What the history makes, table by table in the order of ids, as a bulk load takes it."""

    entities: list[tuple[Any, ...]]
    observations: list[tuple[Any, ...]]
    relations: list[tuple[Any, ...]]


def history(shape: Shape) -> Iterator[tuple[str, Event, tuple[Any, ...]]]:
    """Table, event and row of each seq from 1; the row's time is START + seq."""
    rng = random.Random(3)
    contents = iter(texts(shape.observations))
    seq = 0
    ids: list[int] = []
    for number in range(shape.entities):
        seq += 1
        ids.append(seq)
        name, time = f"customer {number}", START + seq
        yield "entities", EntityCreated(SCOPE, name, "company"), (seq, SCOPE, name, "company", "{}", 1.0, time, time)
        for _ in range(10):
            seq += 1
            about, text = rng.randrange(number + 1), next(contents)
            row = (seq, ids[about], text, digest_of(text), "{}", AGENT, START + seq)
            yield "observations", ObservationAdded(SCOPE, f"customer {about}", text), row
        for kind in KINDS:
            seq += 1
            other = rng.randrange(number + 1)
            row = (seq, ids[number], ids[other], kind, 1.0, 1.0, "{}", START + seq)
            yield "relations", RelationCreated(SCOPE, name, f"customer {other}", kind), row


def write_history(directory: str, shape: Shape, together: int) -> Rows:
    """Makes a journal of it, `together` events a batch, and returns the rows."""
    storage = RealStorage()
    create(storage, directory)
    rows = Rows([], [], [])
    with closing(Log.open(storage, directory)) as log:
        waiting: list[bytes] = []
        for seq, (table, event, row) in enumerate(history(shape), 1):
            getattr(rows, table).append(row)
            waiting.append(encode_record(Record(0, START + seq, None, None, AGENT, None, None, event)))
            if len(waiting) == together or seq == shape.events:
                log.append(waiting, START + seq)
                waiting = []
    return rows


def more(events: int, count: int, seed: int = 5) -> list[tuple[int, str]]:
    """Number of an entity among those of the first `events`, and a text about it that is not there yet."""
    rng = random.Random(4)
    return [(rng.randrange(events // PER_ENTITY or 1), f"more: {text}") for text in texts(count, seed=seed)]


def write_more(directory: str, count: int, together: int) -> None:
    """`count` more observations about the entities that are there."""
    with closing(Log.open(RealStorage(), directory)) as log:
        first = log.next_seq
        events = [ObservationAdded(SCOPE, f"customer {number}", text) for number, text in more(first, count)]
        for start in range(0, count, together):
            numbered = enumerate(events[start : start + together], first + start)
            records = [Record(0, START + seq, None, None, AGENT, None, None, event) for seq, event in numbered]
            log.append([encode_record(record) for record in records], records[-1].time)
