"""Section of checkpoints: one beside tasks that append, against VACUUM INTO; and the next after a few changes."""

from __future__ import annotations

import gc
import os
import random
import shutil
import sqlite3
import subprocess
import sys
from collections.abc import Callable, Iterable, Sequence
from contextlib import closing
from dataclasses import dataclass
from statistics import median
from tempfile import mkdtemp
from time import perf_counter

from journal.checkpoint import CheckpointStore
from journal.events import (
    CheckpointCreated,
    EntityCreated,
    EntityUpdated,
    Event,
    ObservationAdded,
    ObservationRemoved,
    RelationCreated,
    RelationUpdated,
)
from journal.log import Log
from journal.reader import LogReader
from journal.record import Record, encode_record
from recovery.data import Data
from replay.catchup import catch_up
from replay.checkpoints import Shadow, make_checkpoint
from replay.engine import build_state
from replay.generations import Generations
from replay.schema import connect
from replay.shadow import NICENESS
from tests.bench.beside import TASKS, beside
from tests.bench.history import START, Shape, history
from tests.bench.place import INSERTS, Place, sync
from tests.bench.timing import Contender, CountMismatch, Result, Sample, compare
from tests.bench.work import AGENT, SCOPE, texts

AFTER = 20_000
TITLE = f"checkpoint beside {TASKS} tasks"
WRITTEN, VACUUM = "checkpoint, to written", "VACUUM INTO, synced"
CHANGES = ("entities updated", "rows of all tables changed", "observations added")


@dataclass(frozen=True)
class Cost:
    """One run: its seconds to `written` and to its end, and what it left to the writers."""

    written: float
    whole: float
    share: float  # of their rate before, until it was written
    share_whole: float
    longest_ms: float
    longest_before_ms: float


def checkpoint(place: Place, values: dict[str, float], *, rounds: int, quick: bool) -> dict[str, list[Result]]:
    """Puts what is no rate into `values`: what was left to the writers, their longest waits, bytes and seconds."""
    ready = Ready(place, 50 if quick else AFTER)
    costs: dict[str, list[Cost]] = {WRITTEN: [], VACUUM: []}
    contenders = [
        Contender(WRITTEN, lambda: ready.serve(ready.checkpoint, costs[WRITTEN]), ours=True),
        Contender(VACUUM, lambda: ready.serve(_vacuum, costs[VACUUM])),
    ]
    results = compare(contenders, rounds, "rows/s")
    for name, found in costs.items():
        values[f"rate of the writers beside {name}, to that before"] = median(each.share for each in found)
        values[f"longest wait of a writer beside {name}, ms"] = median(each.longest_ms for each in found)
        values[f"longest wait of a writer before {name}, ms"] = median(each.longest_before_ms for each in found)
    values["rate of the writers beside checkpoint, to verified, to that before"] = median(
        each.share_whole for each in costs[WRITTEN]
    )
    values["checkpoint, seconds to verified"] = median(each.whole for each in costs[WRITTEN])
    values |= _next_ones(ready, rounds)
    return {TITLE: results}


class Ready:
    """The long history with its first checkpoint: a closed directory, to be copied. The writers append `after` events
    before what is done beside them begins."""

    def __init__(self, place: Place, after: int) -> None:
        self.place = place
        self.data = linked(f"{place.root}/long", f"{place.root}/ready")
        layout, storage = self.data.layout, self.data.storage
        generations = Generations(storage, layout.memory_db, f"{layout.journal}/quarantine")
        path = generations.building_path()
        build_state(storage, layout.journal, LogReader(storage, layout.journal), place.shape.events, path)
        generations.swap(path)
        self.first = made_and_vouched(self.data)
        self.after = after
        self.rows = place.shape.events + after

    def serve(self, work: Callable[[Data], tuple[float, int]], costs: list[Cost]) -> Sample:
        """`work` gives its seconds to `written`, and the rows that are in what it made."""
        data = linked(self.data.root, mkdtemp(dir=self.place.root))
        last_seq = LogReader(data.storage, data.layout.journal).last_seq
        memory = _memory_kept(data)
        gc.collect()  # what the last run left is not this one's to wait for

        def at_work() -> tuple[float, int]:
            os.remove(memory)
            return work(data)

        try:
            (written, rows), writers, started, began, ended = beside(
                data, at_work, self.after, self.place.shape.entities
            )
            before = writers.rate(started, began)
            cost = Cost(
                written, ended - began, writers.rate(began, began + written) / before,
                writers.rate(began, ended) / before, writers.longest_ms(began, ended),
                writers.longest_ms(started, began),
            )  # fmt: skip
            costs.append(cost)
            found = LogReader(data.storage, data.layout.journal).last_seq - last_seq
            if found < len(writers.ends):
                raise CountMismatch(f"{len(writers.ends)} appends were acknowledged, {found} are there")
            return Sample(self.rows, written, min(rows, self.rows))
        finally:
            shutil.rmtree(data.root)

    def checkpoint(self, data: Data) -> tuple[float, int]:
        """As `replay.shadow` makes it, without what it does once the checkpoint is made."""
        written, base_seq, drift = _in_a_process(_CHECKPOINT, data.root)
        manifest = CheckpointStore(data.storage, f"{data.layout.journal}/checkpoints").manifests()[0]
        if manifest.state != "verified" or drift or base_seq != self.first.seq:
            raise CountMismatch(f"the checkpoint at seq {manifest.seq} is not what it should be")
        return written, sum(manifest.counts[table] for table in INSERTS)


def _memory_kept(data: Data) -> str:
    """A file whose removal leaves memory at hand. A virtual machine whose host takes back what is free for some seconds
    waits for each page of it: a file of 270 MB takes 0.6 s to write then, and 0.06 where the memory is there. That is
    neither contender's doing."""
    path, piece = f"{data.root}/memory", bytes(1 << 20)
    with open(path, "wb", buffering=0) as file:
        for _ in range(3 * os.path.getsize(data.layout.memory_db) // len(piece)):
            file.write(piece)
    return path


def _vacuum(data: Data) -> tuple[float, int]:
    path = f"{data.root}/vacuumed.db"
    written, *_ = _in_a_process(_VACUUM, data.layout.memory_db, path)
    with closing(sqlite3.connect(path)) as connection:
        rows = sum(connection.execute(f"SELECT count(*) FROM {table}").fetchone()[0] for table in INSERTS)
    return written, rows


def _in_a_process(script: str, *arguments: str) -> list[float]:
    """Runs it at low priority. The first number that it prints is a moment by `perf_counter`, which all processes
    share: returned are the seconds from the process's start to it, and the other numbers."""
    command = [sys.executable, "-c", script, str(NICENESS), *arguments]
    started = perf_counter()
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    moment, *others = map(float, done.stdout.split())
    return [moment - started, *others]


_CHECKPOINT = """
import os, sys
from time import perf_counter, time_ns
os.sched_setscheduler(0, os.SCHED_OTHER, os.sched_param(0))  # where the benchmark itself is real-time
os.nice(int(sys.argv[1]))
from journal.storage import RealStorage
from replay.checkpoints import make_checkpoint
from replay.layout import Layout
made = make_checkpoint(RealStorage(), Layout.under(sys.argv[2]), time_ns)
print(perf_counter() - made.seconds + made.written_seconds, made.base_seq, int(made.drift))
"""

_VACUUM = """
import os, sqlite3, sys
from time import perf_counter
os.sched_setscheduler(0, os.SCHED_OTHER, os.sched_param(0))  # where the benchmark itself is real-time
os.nice(int(sys.argv[1]))
connection = sqlite3.connect(sys.argv[2])
connection.execute("VACUUM INTO ?", (sys.argv[3],))
fd = os.open(sys.argv[3], os.O_RDWR)
os.fsync(fd)
print(perf_counter())
"""


# -- the next one -----------------------------------------------------------------------------------------------------


def _next_ones(ready: Ready, rounds: int) -> dict[str, float]:
    """After 1 % of the rows changed, against the first one, which had to replay all of the history."""
    first, shape = ready.first, ready.place.shape
    found = {
        "first checkpoint, seconds to written": first.written_seconds,
        "first checkpoint, seconds to verified": first.seconds,
        "first checkpoint, MB": first.new_bytes / 1e6,
    }
    for name, events in zip(CHANGES, changes(shape, max(shape.events // 100, 10)), strict=True):
        made = [_next_one(ready, events) for _ in range(rounds)]
        seconds = median(each.written_seconds for each in made)
        size = median(each.new_bytes for each in made)
        what = f"next checkpoint, 1 % {name}"
        found |= {
            f"{what}: seconds to written": seconds,
            f"{what}: seconds to written, to the first one's": seconds / first.written_seconds,
            f"{what}: seconds to verified": median(each.seconds for each in made),
            f"{what}: MB": size / 1e6,
            f"{what}: bytes, to the first one's": size / first.new_bytes,
        }
    return found


def _next_one(ready: Ready, events: Sequence[Event]) -> Shadow:
    data = linked(ready.data.root, mkdtemp(dir=ready.place.root))
    try:
        append(data, events)
        follow(data)
        made = made_and_vouched(data)
    finally:
        shutil.rmtree(data.root)
    if made.drift or made.events != len(events) + 1 or made.base_seq != ready.first.seq:
        raise CountMismatch(f"the checkpoint is not what it should be: {made}")
    return made


def changes(shape: Shape, count: int) -> tuple[list[Event], list[Event], list[Event]]:
    """Of `count` rows at random, by kind of `CHANGES`. An observation is changed by removing it and adding another."""
    rng = random.Random(7)
    updates: list[Event] = [
        EntityUpdated(SCOPE, f"customer {number}", metadata={"rank": rng.randrange(1000)})
        for number in (rng.randrange(shape.entities) for _ in range(count))
    ]
    additions: list[Event] = [
        ObservationAdded(SCOPE, f"customer {rng.randrange(shape.entities)}", f"new: {text}")
        for text in texts(count, seed=8)
    ]
    chosen = set(rng.sample(range(shape.events), count))
    changed = [
        each for index, (_, event, _) in enumerate(history(shape)) if index in chosen for each in _changed(event, rng)
    ]
    return updates, changed, additions


def _changed(event: Event, rng: random.Random) -> Iterable[Event]:
    if isinstance(event, EntityCreated):
        yield EntityUpdated(event.scope, event.name, metadata={"rank": rng.randrange(1000)})
    elif isinstance(event, RelationCreated):
        yield RelationUpdated(event.scope, event.from_entity, event.to_entity, event.relation_type, rng.random())
    elif isinstance(event, ObservationAdded):
        yield ObservationRemoved(event.scope, event.entity, event.content)
        yield ObservationAdded(event.scope, event.entity, f"not: {event.content}")


# -- data directories -------------------------------------------------------------------------------------------------


def linked(source: str, target: str) -> Data:
    """A copy of a closed data directory, in which what is never written again is linked: segments, parts, manifests."""
    for directory, _, names in os.walk(source):
        inner = os.path.normpath(f"{target}/{os.path.relpath(directory, source)}")
        os.makedirs(inner, exist_ok=True)
        for name in names:
            old, new = f"{directory}/{name}", f"{inner}/{name}"
            if os.path.islink(old):
                os.symlink(os.readlink(old), new)
            elif name.endswith((".seg", ".manifest")) or os.path.basename(directory) == "parts":
                os.link(old, new)
            else:
                shutil.copyfile(old, new)
                sync(new)  # else the first sync of the run writes all of it
    return Data.at(target)


def append(data: Data, events: Sequence[Event]) -> None:
    with closing(Log.open(data.storage, data.layout.journal)) as log:
        for first in range(0, len(events), TASKS):
            time = START + log.next_seq + TASKS
            records = [Record(0, time, None, None, AGENT, None, None, each) for each in events[first : first + TASKS]]
            log.append([encode_record(record) for record in records], time)


def follow(data: Data) -> None:
    """memory.db takes in what the journal has, and has it in the file itself."""
    with closing(connect(os.path.realpath(data.layout.memory_db))) as connection:
        catch_up(connection, LogReader(data.storage, data.layout.journal))
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")


def made_and_vouched(data: Data) -> Shadow:
    made = make_checkpoint(data.storage, data.layout, lambda: START)
    append(data, [CheckpointCreated(made.seq, made.digest, manifest=made.manifest)])
    follow(data)
    return made
