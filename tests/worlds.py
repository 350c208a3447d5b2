"""Real journals with a history that the reference projection followed: what rebuilt states are held against."""

from __future__ import annotations

import random
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

from journal.checkpoint import CheckpointStore
from journal.log import Log, create
from journal.reader import LogReader
from journal.storage import RealStorage
from replay.engine import build_state
from replay.generations import Generations
from replay.layout import Layout
from replay.model import Model
from tests.histories import SeededSource, Step, encoded, growing

JOURNAL_ID = bytes(range(16))


@dataclass
class World:
    """A data directory whose journal holds `steps`, and the model that applied them too."""

    storage: RealStorage
    layout: Layout
    model: Model
    source: SeededSource
    steps: list[Step]

    @property
    def checkpoints(self) -> CheckpointStore:
        return CheckpointStore(self.storage, f"{self.layout.journal}/checkpoints")

    @property
    def generations(self) -> Generations:
        return Generations(self.storage, self.layout.memory_db, f"{self.layout.journal}/quarantine")

    def reader(self) -> LogReader:
        return LogReader(self.storage, self.layout.journal)

    def grow(self, count: int, *, loose: bool = False, restores: int = 0, together: int = 20) -> None:
        """Appends `count` more events, in batches of up to `together`."""
        more = list(growing(self.source, self.model, count, loose=loose, restores=restores))
        self.append(more, together)

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
