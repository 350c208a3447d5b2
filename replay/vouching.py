"""Whether the journal vouches for a checkpoint: only then is it a base, and its restores, tags and vectors are taken.

Whoever can write a file into `checkpoints/` can make a manifest whose parts, digest and chain all agree. So each
checkpoint is journaled once it is verified, and its event carries the manifest's fingerprint, which covers every part.
Between the two lies a window: a checkpoint whose event a kill kept out of the journal is passed over like a planted
one, at the price of a longer replay. Knows where such an event is found; must not know what a state is.
"""

from __future__ import annotations

from collections.abc import Sequence

from journal.checkpoint import Manifest
from journal.errors import DataError
from journal.events import CheckpointCreated, tag_of
from journal.reader import LogReader
from journal.scan import Batch
from replay.event_types import may_hold

UNVOUCHED = "the journal does not say that it was made"

CHECKPOINT = "checkpoint:"

_WANTED = {tag_of(CheckpointCreated)}


def checkpoint_key(seq: int) -> str:
    """Under which key of `Manifest.latest` later manifests say where the event about the checkpoint lies."""
    return f"{CHECKPOINT}{seq}"


def refusal(manifest: Manifest, reader: LogReader, beside: Sequence[Manifest] = ()) -> str | None:
    """Why the checkpoint is not to be used, or None if the journal vouches for it.

    `beside` are the manifests of the same store: a newer one may say where the event lies. It is believed no further
    than that. Otherwise the log is read from the checkpoint on, as far as the event.
    """
    if manifest.journal_id != reader.journal_id.hex() or manifest.seq > reader.last_seq:
        return "the journal tells another history at its seq"
    try:
        if reader.chain_at(manifest.seq).hex() != manifest.chain:
            return "the journal tells another history at its seq"
    except DataError:
        pass  # what cannot be read refutes nothing; the event after it is still asked for
    wanted = manifest.fingerprint
    key = checkpoint_key(manifest.seq)
    for at in {each.latest[key] for each in beside if each.latest is not None and key in each.latest}:
        if manifest.seq < at <= reader.last_seq and _vouched_at(reader, at, wanted):
            return None
    try:
        found = any(_vouches(batch, wanted) for batch in reader.batches(manifest.seq + 1))
    except DataError as error:
        return f"{UNVOUCHED} as far as it can be read: {error}"
    return None if found else UNVOUCHED


def vouched(manifests: Sequence[Manifest], reader: LogReader) -> list[Manifest]:
    """Those that the journal vouches for, in their order."""
    return [each for each in manifests if refusal(each, reader, manifests) is None]


def _vouched_at(reader: LogReader, seq: int, wanted: str) -> bool:
    try:
        return _vouches(reader.batch_of(seq), wanted)
    except DataError:
        return False


def _vouches(batch: Batch, wanted: str) -> bool:
    """The fingerprint says which checkpoint it is of; the batch is decoded whole only where one may be in it."""
    if not may_hold(batch, _WANTED):
        return False
    return any(isinstance(each.event, CheckpointCreated) and each.event.manifest == wanted for each in batch.records())
