"""How long a recovery would take now, and whether that is too long. Pure, but for `estimate`, which looks the work up.

    base    = 0.2 s + bytes of the newest verified checkpoint / 200 MB/s + events after it / 100,000 a second
    machine = the last drill's seconds / base of the state that it rehearsed; 1 without a drill
    estimate = base x machine

The two rates only weigh bytes against events; what a machine is worth comes from its own last drill.
"""

from __future__ import annotations

from journal.checkpoint import Manifest
from journal.reader import LogReader
from recovery.data import Data
from recovery.landmarks import Drill
from recovery.tables.rto import Estimate

START_SECONDS = 0.2
LOAD_BYTES_PER_SECOND = 200e6
REPLAY_EVENTS_PER_SECOND = 100e3


def base_seconds(size: int, events: int) -> float:
    return START_SECONDS + size / LOAD_BYTES_PER_SECOND + events / REPLAY_EVENTS_PER_SECOND


def estimated(
    last_seq: int, checkpoints: list[tuple[int, int]], drilled: tuple[int, float] | None, bound: float = 0.0
) -> Estimate:
    """From (seq, bytes) of the verified checkpoints, and (seq, seconds) of the last drill."""

    def work(seq: int) -> tuple[int, int]:
        base, size = max((each for each in checkpoints if each[0] <= seq), default=(0, 0))
        return size, seq - base

    size, events = work(last_seq)
    machine = 1.0 if drilled is None else drilled[1] / base_seconds(*work(drilled[0]))
    return Estimate(
        seconds=base_seconds(size, events) * machine, bytes=size, events=events, measured=drilled is not None,
        bound=bound,
    )  # fmt: skip


def estimate(data: Data, reader: LogReader, manifests: list[Manifest], found: Drill | None) -> Estimate:
    """For the journal as it is; `found` is the last drill."""
    ours = reader.journal_id.hex()
    known = [(each.seq, each.bytes) for each in manifests if each.state == "verified" and each.journal_id == ours]
    drilled = (found.seq, found.seconds) if found is not None and found.ok and found.seconds > 0 else None
    return estimated(reader.last_seq, known, drilled, data.config.rto_seconds)
