"""The last drill, and what the journal last said of the model: looked up, for `status`."""

from __future__ import annotations

import msgspec

from journal.errors import DataError
from journal.events import DrillCompleted
from journal.reader import LogReader
from recovery.data import Data
from recovery.model.journaled import journaled_manifest, model_name
from replay.latest import DRILL, event_at, read_latest


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


def last_drill(data: Data, reader: LogReader | None) -> Drill | None:
    """None where there was none, or the log cannot be read: that is told elsewhere."""
    if reader is None:
        return None
    try:
        at = read_latest(reader, data.checkpoints).get(DRILL)
        event = event_at(reader, at) if at is not None else None
        if at is None or not isinstance(event, DrillCompleted):
            return None
        return Drill(reader.time_of(at), event.seq, event.ok, event.seconds)
    except DataError:
        return None


def last_model(data: Data, reader: LogReader | None) -> JournaledModel | None:
    if reader is None:
        return None
    try:
        manifest = journaled_manifest(data, reader)
    except DataError:
        return None
    if manifest is None:
        return None
    return JournaledModel(model_name(data), manifest.seq, manifest.fingerprint, manifest.source)
