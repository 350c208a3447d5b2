"""The restores and tags of a log: what turns a moment into a seq, and a seq into the events behind it.

Every manifest carries those up to its own seq, so only the log after the newest checkpoint is read for them.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence, Set
from dataclasses import dataclass, field

import msgspec

from journal.checkpoint import CheckpointStore, Manifest
from journal.errors import DataError
from journal.events import StateRestored, TagCreated, tag_of
from journal.format import RecordHead
from journal.reader import LogReader
from journal.scan import Batch
from replay.timeline import Restore


@dataclass(frozen=True, slots=True)
class History:
    """All restores (ascending) and tags of a log up to `seq`. A tag that was set again means its last seq."""

    seq: int = 0
    restores: tuple[Restore, ...] = ()
    tags: dict[str, int] = field(default_factory=dict)

    def restores_until(self, seq: int) -> list[Restore]:
        return [restore for restore in self.restores if restore.seq <= seq]


class _Tag(msgspec.Struct, frozen=True, array_like=True, gc=False):
    type: int


class _TaggedHead(RecordHead, frozen=True, array_like=True, gc=False):
    """A record down to its event's type; what the event carries is skipped, at a third of the cost."""

    traceparent: str | None
    event: _Tag


_decode = msgspec.msgpack.Decoder(list[_TaggedHead]).decode
_WANTED = {tag_of(StateRestored), tag_of(TagCreated)}


def decode_types(payload: bytes | memoryview) -> list[int]:
    """The tag of each event of a batch's payload. Raises msgspec.MsgspecError."""
    return [head.event.type for head in _decode(payload)]


def read_history(reader: LogReader, store: CheckpointStore | None = None, until: int | None = None) -> History:
    """The history of the log up to seq `until` (default: its end), beginning at the newest manifest that helps."""
    last = reader.last_seq if until is None else until
    return extend(recorded_history(reader, store.manifests() if store is not None else (), last), reader, last)


def recorded_history(reader: LogReader, manifests: Sequence[Manifest], until: int) -> History:
    """What the newest manifest up to seq `until` tells; its `seq` says how far that goes."""
    for manifest in manifests:
        if manifest.seq <= until and belongs(manifest, reader):
            restores = tuple(Restore(*pair) for pair in manifest.restores)
            return History(manifest.seq, restores, dict(manifest.tags))
    return History()


def belongs(manifest: Manifest, reader: LogReader) -> bool:
    """True unless the log tells another history at the manifest's seq. What cannot be read refutes nothing."""
    if manifest.journal_id != reader.journal_id.hex() or manifest.seq > reader.last_seq:
        return False
    try:
        return reader.chain_at(manifest.seq).hex() == manifest.chain
    except DataError:
        return True


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


def may_hold(batch: Batch, tags: Set[int]) -> bool:
    """Whether the batch holds an event of one of these types, without decoding more of it than that."""
    try:
        return not tags.isdisjoint(decode_types(batch.payload))
    except (msgspec.MsgspecError, ValueError, RecursionError):
        return True  # decoding it whole says what is wrong, and where
