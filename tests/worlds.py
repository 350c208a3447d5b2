"""Real journals with a history that the reference projection followed: what rebuilt states are held against."""

from __future__ import annotations

import random
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path

from journal.checkpoint import CheckpointStore
from journal.log import Log, create
from journal.reader import LogReader
from journal.storage import RealStorage
from replay.checkpoints import Shadow, make_checkpoint
from replay.engine import build_state
from replay.generations import Generations
from replay.layout import Layout
from replay.model import Model
from tests.histories import START, SeededSource, Step, Vouched, encoded, growing, vouching

JOURNAL_ID = bytes(range(16))


@dataclass
class World:
    """A data directory whose journal holds `steps`, and the model that applied them too."""

    storage: RealStorage
    layout: Layout
    model: Model
    source: SeededSource
    steps: list[Step]
    made: list[Vouched] = field(default_factory=list)  # by `checkpoint`, and not yet in the journal

    @property
    def checkpoints(self) -> CheckpointStore:
        return CheckpointStore(self.storage, f"{self.layout.journal}/checkpoints")

    @property
    def generations(self) -> Generations:
        return Generations(self.storage, self.layout.memory_db, f"{self.layout.journal}/quarantine")

    def reader(self) -> LogReader:
        return LogReader(self.storage, self.layout.journal)

    def grow(self, count: int, *, loose: bool = False, restores: int = 0, together: int = 20) -> None:
        """Appends `count` more events, in batches of up to `together`. What vouches for checkpoints is among them."""
        vouching = self._vouching()
        more = list(growing(self.source, self.model, count - len(vouching), loose=loose, restores=restores))
        self.append(vouching + more, together)

    def checkpoint(self, now: int = 1, storage: RealStorage | None = None) -> Shadow:
        """Makes a checkpoint; the journal vouches for it with the next event, as a server's does."""
        made = make_checkpoint(storage or self.storage, self.layout, lambda: now)
        self.made.append(Vouched(made.seq, made.digest, made.manifest))
        return made

    def vouch(self) -> None:
        """Journals the checkpoints made so far, if they are not yet."""
        self.append(self._vouching())

    def _vouching(self) -> list[Step]:
        time = self.steps[-1].time if self.steps else START
        steps = [vouching(made, self.model, time) for made in self.made]
        self.made.clear()
        return steps

    def append(self, steps: list[Step], together: int = 20) -> None:
        """Appends steps that the model has applied."""
        with closing(Log.open(self.storage, self.layout.journal, segment_bytes_max=1 << 18)) as log:
            at = 0
            while at < len(steps):
                batch = steps[at : at + random.Random(at).randint(1, together)]
                log.append(encoded(batch), batch[-1].time)
                at += len(batch)
        self.steps += steps

    def digest_at(self, seq: int) -> str:
        return self.model.state_at(seq).digest()

    def go_live(self) -> str:
        """Makes state(end) the current memory.db; returns the generation's path."""
        generations = self.generations
        path = generations.building_path()
        build_state(self.storage, self.layout.journal, self.reader(), self.reader().last_seq, path)
        return generations.swap(path).path


def world_in(path: Path, seed: int = 1) -> World:
    layout = Layout.under(str(path))
    storage = RealStorage()
    create(storage, layout.journal, JOURNAL_ID)
    return World(storage, layout, Model(), SeededSource(seed), [])


def flip(path: str, offset: int) -> None:
    """One bit of a file turned over."""
    with open(path, "r+b") as file:
        file.seek(offset)
        (byte,) = file.read(1)
        file.seek(offset)
        file.write(bytes([byte ^ 0x10]))
