"""What a writer that took over from one that did not close has to say: which events survived it, by seq and op_id.

Their callers may have been told `outcome_unknown`. What is journaled of it is a definite answer to them: an op_id that
the journal holds was taken, any other was not.
"""

from __future__ import annotations

from collections.abc import Sequence

from journal.events import CARRIED_OP_IDS, EpochStarted
from journal.log import Log
from journal.opening import Opening

SHOWN = 5


def takeover_event(log: Log) -> EpochStarted | None:
    """The event that tells of the opening; None where there is nothing to tell."""
    opening = log.opening
    if opening.clean or not (opening.carried or opening.torn_bytes):
        return None
    given = [op_id for _, op_id in opening.carried if not _is_generated(op_id)]
    return EpochStarted(
        log.epoch, opening.previous_epoch, len(opening.carried), opening.torn_bytes,
        opening.carried[0][0] if opening.carried else 0, given[:CARRIED_OP_IDS],
    )  # fmt: skip


def takeover_lines(opening: Opening) -> list[str]:
    """What a person who opens the journal is told, a line each."""
    lines = []
    if opening.carried:
        seqs = _seqs([seq for seq, _ in opening.carried])
        shown = ", ".join(op_id for _, op_id in opening.carried[:SHOWN])
        more = f" and {len(opening.carried) - SHOWN:,} more" if len(opening.carried) > SHOWN else ""
        lines.append(
            f"{seqs} survived the last writer, whose callers may have been told outcome_unknown: op_id {shown}{more} - "
            "journal log --op-id ID answers for any other"
        )
    if opening.torn_bytes:
        lines.append(
            f"{opening.torn_bytes:,} bytes of a write that was never acknowledged were set aside: {opening.quarantined}"
        )
    lines += [f"{problem}" for problem in opening.watermark_problems]
    return lines


def _seqs(seqs: Sequence[int]) -> str:
    return f"seq {seqs[0]}" if len(seqs) == 1 else f"seqs {seqs[0]}-{seqs[-1]}"


def _is_generated(op_id: str) -> bool:
    epoch, dash, seq = op_id.partition("-")
    return bool(dash) and epoch[:1] == "e" and epoch[1:].isdecimal() and seq.isdecimal()
