"""Section of bytes: what an observation of 120 bytes takes on disk, open and packed, against its line of JSON.

Prose, and no piece of it twice, at times as they come: texts that are put together from a few words, or times that
count, would flatter a compressor.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from tempfile import mkdtemp

import msgspec

from journal.events import ObservationAdded
from journal.log import Log, create
from journal.packing import pack_segments
from journal.reader import LogReader
from journal.record import Record, encode_record
from journal.storage import RealStorage
from recovery.records import entries
from tests.bench.history import START
from tests.bench.timing import CountMismatch
from tests.bench.work import AGENT, ENTITIES, SCOPE, TEXT_BYTES

TOGETHER = (1, 32, 256)
EVENTS = 3584


def name_of(state: str, together: int) -> str:
    """What a number of this section is called."""
    return f"bytes of an observation in {state} segment, {together} a batch, to its JSON line"


def prose(count: int) -> list[str]:
    """Pieces of TEXT_BYTES ASCII characters from Python's own help texts, each another."""
    from pydoc_data.topics import topics

    whole = " ".join(" ".join(topics[name].encode("ascii", "ignore").decode().split()) for name in sorted(topics))
    pieces = [whole[start : start + TEXT_BYTES] for start in range(0, len(whole) - TEXT_BYTES, TEXT_BYTES)]
    distinct = list(dict.fromkeys(pieces))
    if len(distinct) < count:
        raise CountMismatch(f"{count} pieces of prose wanted, {len(distinct)} found")
    return distinct[:count]


def _times(together: int) -> list[int]:
    """Of all events: each batch has one, and batches come at random, 2 ms apart on average."""
    rng, time, found = random.Random(7), START, list[int]()
    for _ in range(0, EVENTS, together):
        time += round(rng.expovariate(1 / 2e6))
        found += [time] * together
    return found[:EVENTS]


def bytes_per_event(root: Path) -> dict[str, float]:
    """What an observation takes on disk in a closed segment, as it was written and packed, by events a batch."""
    storage, found = RealStorage(), {}
    for together in TOGETHER:
        directory = f"{mkdtemp(dir=root)}/journal"
        create(storage, directory)
        times = _times(together)
        records = [
            encode_record(
                Record(0, time, None, f"crm-{number}", AGENT, None, None,
                       ObservationAdded(SCOPE, ENTITIES[number % 1000], text))
            )
            for number, (time, text) in enumerate(zip(times, prose(EVENTS), strict=True))
        ]  # fmt: skip
        with closing(Log.open(storage, directory)) as log:
            for start in range(0, EVENTS, together):
                log.append(records[start : start + together], times[min(start + together, EVENTS) - 1])
        line, on_disk = _held(storage, directory)
        found[name_of("an open", together)] = on_disk / EVENTS / line
        for later in range(2):  # each opener that writes begins a segment, and a journal's last two are not packed
            with closing(Log.open(storage, directory)) as log:
                log.append(records[:1], times[-1] + later)
        if pack_segments(storage, directory).segments != 1:
            raise CountMismatch("the segment was not packed")
        line, on_disk = _held(storage, directory)
        found[name_of("a packed", together)] = on_disk / EVENTS / line
        found["bytes of its JSON line"] = line
    return found


def _held(storage: RealStorage, directory: str) -> tuple[float, int]:
    """Bytes of a line of JSON on average, and of the segment with the events, each of which was read."""
    reader = LogReader(storage, directory)
    lines: Sequence[bytes] = [msgspec.json.encode(entry.to_json()) for entry in entries(reader.batches())]
    if not EVENTS <= len(lines) <= EVENTS + 2:
        raise CountMismatch(f"{EVENTS} written, {len(lines)} found")
    return sum(map(len, lines)) / len(lines) + 1, max(storage.size(each.path) for each in reader.segments)
