"""Section of bytes: what an observation of 120 bytes takes on disk, against its line of JSON."""

from __future__ import annotations

from contextlib import closing
from pathlib import Path
from tempfile import mkdtemp

import msgspec

from journal.events import ObservationAdded
from journal.format import Record, encode_record
from journal.log import Log, create
from journal.reader import LogReader
from journal.storage import RealStorage
from recovery.records import entries
from tests.bench.history import START
from tests.bench.timing import CountMismatch
from tests.bench.work import AGENT, ENTITIES, SCOPE, texts

TOGETHER = (1, 32, 256)


def name_of(state: str, together: int) -> str:
    """What a number of this section is called."""
    return f"bytes of an observation in {state}, {together} a batch, to its JSON line"


def bytes_per_event(root: Path) -> dict[str, float]:
    """What a 120-byte observation takes on disk in a closed segment, by events a batch, to its JSON line's bytes."""
    storage, found = RealStorage(), {}
    for together in TOGETHER:
        directory = f"{mkdtemp(dir=root)}/journal"
        create(storage, directory)
        with closing(Log.open(storage, directory)) as log:
            numbered = enumerate(texts(together * max(8, 4096 // together)))
            records = [
                encode_record(
                    Record(0, START + number, None, f"crm-{number}", AGENT, None, None,
                           ObservationAdded(SCOPE, ENTITIES[number % 1000], text))
                )
                for number, text in numbered
            ]  # fmt: skip
            for start in range(0, len(records), together):
                log.append(records[start : start + together], START + start + together)
        reader = LogReader(storage, directory)
        lines = [msgspec.json.encode(entry.to_json()) for entry in entries(reader.batches())]
        if len(lines) != len(records):
            raise CountMismatch(f"{len(records)} written, {len(lines)} found")
        on_disk = sum(storage.size(segment.path) for segment in reader.segments)
        line = sum(map(len, lines)) / len(lines) + 1
        found[name_of("an open segment", together)] = on_disk / len(records) / line
        found["bytes of its JSON line"] = line
    return found
