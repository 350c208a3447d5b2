"""What bears witness to the log's end from outside of it, and that end weighed by it.

Lean: reading verbs ask it, too, and take a tenth of a second in all.
"""

from __future__ import annotations

from journal.reader import LogReader
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


def raise_for_end(data: Data, reader: LogReader) -> None:
    """Raises the error that the log's end deserves: a bad region there, or an end that once lay further on."""
    weigh_end(data, reader)
    reader.raise_for_end()


def weigh_end(data: Data, reader: LogReader) -> None:
    """Tells the reader what checkpoints and memory.db know of the log's end.

    Without it, an acknowledged batch that lost its last sectors would pass for one that was never finished, and an
    older copy of the last segment for the journal.
    """
    known = evidence_seq(data)
    if known > reader.last_seq:
        reader.refresh()  # a writer at work: what was applied was durable before
    reader.evidence_seq = max(reader.evidence_seq, known)
