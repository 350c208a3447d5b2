"""The table of bad regions: observed facts → what the region is, and what follows. Pure and total.

Asked in this order, as TigerBeetle decides its slots: a region that evidence covers was acknowledged, so it is
corruption; an incomplete last batch never returned from its sync, so it is a torn tail; a complete but wrong last
batch could be either, and only its owner may say so. Where one flipped bit explains a batch that was written whole,
nothing is lost and nobody need be asked: it is repaired.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import NamedTuple

from journal.errors import AmbiguousTail, Corrupt, DataError
from journal.scan import BadRegion

CORRUPT_HINT = (
    "journal verify names all damage; journal recover --from DIR brings a backup back; with none, "
    "journal recover journal --accept-loss goes on with the rest"
)


class Verdict(Enum):
    """What a bad region is."""

    CORRUPTION = "corruption"
    TORN_TAIL = "torn tail"
    AMBIGUOUS = "ambiguous tail"


class Action(Enum):
    """What is done about it. Nothing is ever truncated."""

    REPAIR = "repair"
    STOP = "stop"
    SET_ASIDE = "set aside"
    ASK = "ask"


class Decision(NamedTuple):
    """What a region is, and what follows."""

    verdict: Verdict
    action: Action


@dataclass(frozen=True, slots=True)
class Case:
    """One line of the table. A fact that is None does not count in it."""

    acknowledged: bool  # followed, or covered
    incomplete: bool | None
    one_bit: bool | None
    decision: Decision

    def holds(self, acknowledged: bool, incomplete: bool, one_bit: bool) -> bool:
        """True if these facts are this case."""
        pairs = ((self.incomplete, incomplete), (self.one_bit, one_bit))
        return self.acknowledged == acknowledged and all(wanted in (None, given) for wanted, given in pairs)


TABLE = (
    Case(True, None, True, Decision(Verdict.CORRUPTION, Action.REPAIR)),
    Case(True, None, False, Decision(Verdict.CORRUPTION, Action.STOP)),
    Case(False, True, None, Decision(Verdict.TORN_TAIL, Action.SET_ASIDE)),
    Case(False, False, True, Decision(Verdict.AMBIGUOUS, Action.REPAIR)),
    Case(False, False, False, Decision(Verdict.AMBIGUOUS, Action.ASK)),
)


def decide(*, followed: bool, covered: bool, incomplete: bool, one_bit: bool = False) -> Decision:
    """One decision for each of the sixteen combinations of facts.

    ``followed``: something valid of the same chain lies behind the region, in this segment or a later one.
    ``covered``: a durable seq, the watermark, a receipt, a checkpoint or memory.db's position reaches into it.
    ``incomplete``: the region's declared extent was never wholly written.
    ``one_bit``: one flipped bit explains it, as its CRC's syndrome says and the chain confirms.
    """
    facts = (followed or covered, incomplete, one_bit)
    (decision,) = (case.decision for case in TABLE if case.holds(*facts))
    return decision


def decision_on(
    region: BadRegion, evidence_seq: int, *, last_segment: bool = True, one_bit: bool = False
) -> Decision:
    """The decision on a region, where `evidence_seq` is the last seq that anything else knows to have been durable.

    The segment itself may know it too: one that carries batches was synced whole before it got its name.
    """
    return decide(
        followed=region.followed or not last_segment,
        covered=max(evidence_seq, region.durable_seq) >= region.first_seq,
        incomplete=region.incomplete,
        one_bit=one_bit,
    )


def verdict_on(region: BadRegion, evidence_seq: int, *, last_segment: bool = True) -> Verdict:
    """What a region is, whether or not a repair is known."""
    return decision_on(region, evidence_seq, last_segment=last_segment).verdict


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
            hint="if no receipt of it was ever given, run: journal recover journal --accept-tail",
        )
    return Corrupt(
        f"{region.reason}; {events} and what follows cannot be read",
        path=path,
        offset=region.offset,
        seq=region.first_seq,
        hint=CORRUPT_HINT,
    )
