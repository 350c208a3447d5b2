"""The restores and tags of a log: what turns a moment into a seq, and a seq into the events behind it.

Every manifest carries those up to its own seq, so only the log after the newest checkpoint is read for them.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from journal.checkpoint import CheckpointStore, Manifest
from journal.events import StateRestored, TagCreated, tag_of
from journal.reader import LogReader
from journal.scan import Batch
from replay.event_types import may_hold
from replay.timeline import Restore
from replay.vouching import refusal


@dataclass(frozen=True, slots=True)
class History:
    """All restores (ascending) and tags of a log up to `seq`. A tag that was set again means its last seq."""

    seq: int = 0
    restores: tuple[Restore, ...] = ()
    tags: dict[str, int] = field(default_factory=dict)

    def restores_until(self, seq: int) -> list[Restore]:
        return [restore for restore in self.restores if restore.seq <= seq]


_WANTED = {tag_of(StateRestored), tag_of(TagCreated)}


def read_history(reader: LogReader, store: CheckpointStore | None = None, until: int | None = None) -> History:
    """The history of the log up to seq `until` (default: its end), beginning at the newest manifest that helps."""
    last = reader.last_seq if until is None else until
    return extend(recorded_history(reader, store.manifests() if store is not None else (), last), reader, last)


def recorded_history(reader: LogReader, manifests: Sequence[Manifest], until: int) -> History:
    """What the newest vouched manifest up to seq `until` tells; its `seq` says how far that goes."""
    for manifest in manifests:
        if manifest.seq <= until and refusal(manifest, reader, manifests) is None:
            restores = tuple(Restore(*pair) for pair in manifest.restores)
            return History(manifest.seq, restores, dict(manifest.tags))
    return History()


def extend(history: History, reader: LogReader, until: int) -> History:
    """`history` with what the log holds after it, up to seq `until`."""
    if history.seq >= until:
        return history
    restores, tags = list(history.restores), dict(history.tags)
    for batch in reader.batches(history.seq + 1, until):
        for seq, event in _marks(batch):
            if not history.seq < seq <= until:
                continue
            if isinstance(event, StateRestored):
                restores.append(Restore(seq, event.to_seq))
            else:
                tags[event.name] = event.seq
    return History(until, tuple(restores), tags)


def _marks(batch: Batch) -> Iterator[tuple[int, StateRestored | TagCreated]]:
    """The restores and tags of one batch, with their seqs. It is decoded whole only where there are any."""
    if not may_hold(batch, _WANTED):
        return
    for seq, record in enumerate(batch.records(), batch.first_seq):
        if isinstance(record.event, StateRestored | TagCreated):
            yield seq, record.event
