"""The last drill, and what the journal last said of the model: looked up, for `status`."""

from __future__ import annotations

import msgspec

from journal.errors import DataError
from journal.events import DrillCompleted
from journal.reader import LogReader
from recovery.data import Data
from recovery.model.journaled import manifest_in, model_name
from replay.latest import DRILL, Latest, event_at, look_up_latest, read_latest


class Drill(msgspec.Struct, frozen=True):
    """A rehearsal of the recovery; ``seconds`` is what recovering took, ``time`` UTC ns."""

    time: int
    seq: int
    ok: bool
    seconds: float


class JournaledModel(msgspec.Struct, frozen=True):
    """``seq`` is that of the event, ``fingerprint`` names the files, ``source`` says where they came from."""

    name: str
    seq: int
    fingerprint: str
    source: str


class Landmarks(msgspec.Struct, frozen=True):
    """What the journal last said of a drill and of the configured model, in its records from seq ``from_seq`` on: 1
    where that is all of them."""

    drill: Drill | None = None
    model: JournaledModel | None = None
    from_seq: int = 1


def landmarks(data: Data, reader: LogReader | None) -> Landmarks:
    """Looked up: where no checkpoint tells of them, about a segment is read. None of them where the log cannot be read:
    that is told elsewhere."""
    if reader is None:
        return Landmarks()
    try:
        latest, from_seq = look_up_latest(reader, data.checkpoints, data.config.segment_bytes_max)
        return Landmarks(_drill_in(latest, reader), _model_in(latest, data, reader), from_seq)
    except DataError:
        return Landmarks()


def last_drill(data: Data, reader: LogReader) -> Drill | None:
    """None where there was none, or the log cannot be read: that is told elsewhere."""
    try:
        return _drill_in(read_latest(reader, data.checkpoints), reader)
    except DataError:
        return None


def _drill_in(latest: Latest, reader: LogReader) -> Drill | None:
    at = latest.get(DRILL)
    event = event_at(reader, at) if at is not None else None
    if at is None or not isinstance(event, DrillCompleted):
        return None
    return Drill(reader.time_of(at), event.seq, event.ok, event.seconds)


def _model_in(latest: Latest, data: Data, reader: LogReader) -> JournaledModel | None:
    manifest = manifest_in(latest, data, reader)
    if manifest is None:
        return None
    return JournaledModel(model_name(data), manifest.seq, manifest.fingerprint, manifest.source)
