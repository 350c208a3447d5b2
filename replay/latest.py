"""The last event of each kind that says how something outside the state stands: the model's manifest, a drill,
and where the journal says that a checkpoint was made.

Every manifest of a checkpoint names those up to its own seq, so only the log after the newest one is read for them.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from journal.checkpoint import CheckpointStore, Manifest
from journal.events import CheckpointCreated, DrillCompleted, ModelReplaced, ModelVerified, tag_of
from journal.reader import LogReader
from journal.scan import Batch
from journal.stored import stored_bytes
from replay.event_types import may_hold
from replay.vouching import CHECKPOINT, checkpoint_key, refusal

Landmark = ModelVerified | ModelReplaced | DrillCompleted | CheckpointCreated
Latest = dict[str, int]
"""Key (`key_of`) → seq of the last such event."""

_WANTED = {tag_of(kind) for kind in (ModelVerified, ModelReplaced, DrillCompleted, CheckpointCreated)}


def model_key(name: str) -> str:
    return f"model:{name}"


DRILL = "drill"


def key_of(event: Landmark) -> str:
    if isinstance(event, CheckpointCreated):
        return checkpoint_key(event.seq)
    return DRILL if isinstance(event, DrillCompleted) else model_key(event.name)


def read_latest(reader: LogReader, store: CheckpointStore, until: int | None = None) -> Latest:
    """Of each kind the last one up to seq `until` (default: the log's end)."""
    last = reader.last_seq if until is None else until
    manifests = store.manifests()
    base, latest = _recorded(reader, manifests, last)
    return _extended(latest, reader, manifests, base, last)


def look_up_latest(reader: LogReader, store: CheckpointStore, bytes_max: int) -> tuple[Latest, int]:
    """As `read_latest`, without reading much; and from which seq on that is, 1 where it is all.

    Where no checkpoint tells what came before, the last segment is read, and those before it up to `bytes_max` in all.
    """
    manifests, last = store.manifests(), reader.last_seq
    base, latest = _recorded(reader, manifests, last)
    if base:
        return _extended(latest, reader, manifests, base, last), 1
    sizes = [stored_bytes(reader.storage, each.path) for each in reader.segments]
    number = len(sizes) - 1
    while number and sum(sizes[number - 1 :]) <= bytes_max:
        number -= 1
    first_seq = reader.segments[number].first_seq
    return _extended(latest, reader, manifests, first_seq - 1, last), first_seq


def _recorded(reader: LogReader, manifests: Sequence[Manifest], last: int) -> tuple[int, Latest]:
    """What the newest vouched manifest up to seq `last` tells, and its seq; 0 where there is none."""
    for manifest in manifests:
        if manifest.seq <= last and manifest.latest is not None and refusal(manifest, reader, manifests) is None:
            return manifest.seq, dict(manifest.latest)
    return 0, Latest()


def _extended(latest: Latest, reader: LogReader, manifests: Sequence[Manifest], base: int, last: int) -> Latest:
    """`latest` with what the log holds behind seq `base`, up to seq `last`."""
    if base < last:
        for batch in reader.batches(base + 1, last):
            latest |= {key_of(event): seq for seq, event in _landmarks(batch) if base < seq <= last}
    there = {checkpoint_key(each.seq) for each in manifests}  # else they would grow with every checkpoint ever made
    return {key: seq for key, seq in latest.items() if key in there or not key.startswith(CHECKPOINT)}


def event_at(reader: LogReader, seq: int) -> Landmark | None:
    """The event that a seq of `read_latest` means."""
    batch = reader.batch_of(seq)
    event = batch.records()[seq - batch.first_seq].event
    return event if isinstance(event, Landmark) else None


def _landmarks(batch: Batch) -> Iterator[tuple[int, Landmark]]:
    """It is decoded whole only where there are any."""
    if not may_hold(batch, _WANTED):
        return
    for seq, record in enumerate(batch.records(), batch.first_seq):
        if isinstance(record.event, Landmark):
            yield seq, record.event
