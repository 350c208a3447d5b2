"""What bears witness to the log's end from outside of it. Lean: reading verbs ask it, too."""

from __future__ import annotations

from journal.watermark import read_watermark
from recovery.data import Data
from recovery.reading import peek_position


def evidence_seq(data: Data) -> int:
    """The last seq that the rest knows to have been durable: checkpoints, parity, memory.db, the watermark.

    Only what belongs to this journal is evidence: a memory.db of another one says nothing of this log's end. That a
    segment has parity says that it was sealed, so all of it was durable.
    """
    ours = data.journal_id()
    seqs = [data.parity.sealed_seq(ours)]
    seqs += [manifest.seq for manifest in data.checkpoints.manifests() if ours in (None, manifest.journal_id)]
    current = data.generations.current()
    if current.path is not None and current.kind in ("generation", "file"):
        position = peek_position(current.path)
        if position is not None and ours in (None, position.journal_id):
            seqs.append(position.seq)
    if ours is not None:
        mark = read_watermark(data.storage, data.layout.journal, bytes.fromhex(ours)).mark
        seqs += [mark.seq] if mark is not None else []
    return max(seqs, default=0)
