"""A history of any length over a state of one size, so that what grows on it grows with the history alone.

A thousand entities and 20,000 observations of them; then, over and over, six entities change, two relations come and
the two that came 5,000 earlier go. Twenty agents write in turn, and another one ten times in all. The event at a seq
is a function of the seq, so that any answer can be checked without the history.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass
from functools import cached_property

from journal.events import (
    CheckpointCreated,
    EntityCreated,
    EntityUpdated,
    Event,
    ObservationAdded,
    RelationCreated,
    RelationDeleted,
)
from journal.indexing import fill
from journal.log import Log, create
from journal.reader import LogReader
from journal.record import Record, encode_record
from journal.storage import RealFile, RealStorage
from replay.bulk import collector_paused
from replay.checkpoints import Shadow, make_checkpoint
from replay.layout import Layout
from tests.bench.work import ENTITIES, SCOPE, TEXT_BYTES, texts

START = 1_764_000_000_000_000_000
EVENT_NS = 1_000_000  # between two events
OBSERVATIONS = 20_000
RELATIONS = 5_000  # at a time
AGENTS = [f"agent-{number}" for number in range(20)]
RARE = "auditor"
RARE_EVENTS = 10


@dataclass(frozen=True)
class Lengthy:
    """The history of `events` events: what stands at each seq from 1 on."""

    events: int

    @cached_property
    def _pool(self) -> list[str]:
        return texts(500)

    def event(self, seq: int) -> Event:
        entity = ENTITIES[seq % len(ENTITIES)]
        if seq <= len(ENTITIES):
            return EntityCreated(SCOPE, entity, "company")
        if seq <= len(ENTITIES) + OBSERVATIONS:
            return ObservationAdded(SCOPE, entity, self.text(seq))
        turn, step = divmod(seq, 10)
        number = turn * 2 + step % 2
        if step < 2:
            return RelationCreated(SCOPE, entity, ENTITIES[0], f"order {number}")
        gone = number - RELATIONS
        if step < 4 and gone * 5 > len(ENTITIES) + OBSERVATIONS:
            return RelationDeleted(SCOPE, ENTITIES[(gone // 2 * 10 + gone % 2) % 1000], ENTITIES[0], f"order {gone}")
        return EntityUpdated(SCOPE, entity, metadata={"note": self.text(seq)})

    def text(self, number: int) -> str:
        return f"{number} {self._pool[number % 500]}"[:TEXT_BYTES]

    def agent(self, seq: int) -> str:
        every = max(2, self.events // RARE_EVENTS)
        return RARE if seq % every == every // 2 else AGENTS[seq * 7 % 20]

    def op_id(self, seq: int) -> str | None:
        """Every hundredth has one of its own."""
        return f"crm-{seq}" if seq % 100 == 0 else None

    def time(self, seq: int) -> int:
        return START + seq * EVENT_NS

    def record(self, seq: int) -> Record:
        return Record(0, self.time(seq), None, self.op_id(seq), self.agent(seq), None, None, self.event(seq))

    def batches(self, first: int, last: int, together: int) -> Iterator[tuple[int, list[bytes]]]:
        """(last seq, encoded records) of each batch from seq `first` to seq `last`."""
        for start in range(first, last + 1, together):
            end = min(start + together, last + 1)
            yield end - 1, [encode_record(self.record(seq)) for seq in range(start, end)]


class UnsyncedFile(RealFile):
    def sync(self) -> None:
        """Nobody's data: a power cut may take it, and 100,000 syncs take longer than all the rest."""


class UnsyncedStorage(RealStorage):
    def open(self, path: str, *, write: bool = False, create: bool = False) -> RealFile:
        file = super().open(path, write=write, create=create)
        return UnsyncedFile(file.fd, path)


def write_lengthy(
    layout: Layout, shape: Lengthy, *, together: int = 100, last: int | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> None:  # fmt: skip
    """Appends the history to the journal that lies there, from where it stands to seq `last`, nothing synced.

    10^7 events take 1.9 GB and a minute. An event that the journal wrote itself (a checkpoint's) takes the place of
    the history's at its seq.
    """
    end = shape.events if last is None else last
    with closing(Log.open(UnsyncedStorage(), layout.journal)) as log, collector_paused():
        for seq, records in shape.batches(log.next_seq, end, together):
            log.append(records, shape.time(seq))
            if progress is not None:
                progress(seq, end)


def add_checkpoint(layout: Layout, shape: Lengthy, progress: Callable[[int, int], None] | None = None) -> Shadow:
    """Makes a checkpoint at the journal's end (no memory.db may lie there that is behind) and the indexes of what is
    sealed, as the checkpoint's process does, and journals it."""
    storage = RealStorage()
    made = make_checkpoint(storage, layout, lambda: shape.time(0), progress)
    fill(LogReader(storage, layout.journal))
    with closing(Log.open(storage, layout.journal)) as log:
        event, time = CheckpointCreated(made.seq, made.digest, manifest=made.manifest), shape.time(log.next_seq)
        log.append([encode_record(Record(0, time, None, None, None, None, None, event))], time)
    return made


def make_lengthy(
    root: str, events: int, *, tail: int = 10_000, together: int = 100,
    progress: Callable[[int, int], None] | None = None,
) -> tuple[Layout, Lengthy]:  # fmt: skip
    """A directory `root` with a journal of `events` events, a verified checkpoint `tail` events before its end, and no
    memory.db. For 10^7 events: 2 GB and about three minutes, half of them the checkpoint."""
    layout, shape = Layout.under(root), Lengthy(events)
    create(RealStorage(), layout.journal)
    write_lengthy(layout, shape, together=together, last=events - tail, progress=progress)
    add_checkpoint(layout, shape)
    write_lengthy(layout, shape, together=together, progress=progress)
    return layout, shape
