"""The table of bad regions: observed facts → what the region is. Pure and total.

Asked in this order, as TigerBeetle decides its slots: a region that evidence covers was acknowledged, so it is
corruption; an incomplete last batch never returned from its sync, so it is a torn tail; a complete but wrong last
batch could be either, and only its owner may say so.
"""

from __future__ import annotations

from enum import Enum

from journal.errors import AmbiguousTail, Corrupt, DataError
from journal.scan import BadRegion


class Verdict(Enum):
    CORRUPTION = "corruption"
    TORN_TAIL = "torn tail"
    AMBIGUOUS = "ambiguous tail"


def decide(*, followed: bool, covered: bool, incomplete: bool) -> Verdict:
    """One verdict for each of the eight combinations of facts.

    ``followed``: something valid of the same chain lies behind the region, in this segment or a later one.
    ``covered``: a durable seq, a receipt, a checkpoint or memory.db's position reaches into it.
    ``incomplete``: the region's declared extent was never wholly written.
    """
    if followed or covered:
        return Verdict.CORRUPTION
    return Verdict.TORN_TAIL if incomplete else Verdict.AMBIGUOUS


def verdict_on(region: BadRegion, evidence_seq: int, *, last_segment: bool = True) -> Verdict:
    """The verdict on a region, where `evidence_seq` is the last seq that anything else knows to have been durable.

    The segment itself may know it too: one that carries batches was synced whole before it got its name.
    """
    return decide(
        followed=region.followed or not last_segment,
        covered=max(evidence_seq, region.durable_seq) >= region.first_seq,
        incomplete=region.incomplete,
    )


def error_for(verdict: Verdict, region: BadRegion, path: str, evidence_seq: int) -> DataError:
    """The error that stops for this region: AmbiguousTail or Corrupt, naming file, offset and events."""
    last = max(evidence_seq, region.durable_seq, region.declared or 0)
    events = f"events {region.first_seq}-{last}" if last > region.first_seq else f"event {region.first_seq}"
    if verdict is Verdict.AMBIGUOUS:
        return AmbiguousTail(
            f"the last batch is complete but wrong ({region.reason}), {events}",
            path=path,
            offset=region.offset,
            seq=region.first_seq,
            hint="if it was never acknowledged, run: journal recover journal --accept-tail",
        )
    return Corrupt(
        f"{region.reason}; {events} and what follows cannot be read",
        path=path,
        offset=region.offset,
        seq=region.first_seq,
        hint="journal verify names all damage; journal recover --from DIR brings a backup back",
    )
