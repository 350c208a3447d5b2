"""Packed segments: cuts while they are made, every single damage of a few, and bytes that are none."""

from __future__ import annotations

from collections import Counter
from functools import cache

from tests import crash_packs, hostile_packs, ruin
from tests.coroner import Coroner
from tests.faults.frame import Check, Run
from tests.packs import packed_specimen, packs
from tests.ruin import Damage

PIECE = 64


def cuts(run: Run) -> Counter[str]:
    return run.seeds(crash_packs.run)


@cache
def coroner() -> Coroner:
    return Coroner(packed_specimen())


@cache
def _pieces() -> list[tuple[str, int, int]]:
    subject = packed_specimen()
    return [
        (path, first, min(first + PIECE, len(subject.image[path])))
        for path in packs(subject)
        for first in range(0, len(subject.image[path]), PIECE)
    ]


def _all(run: Run, judge, pieces: int) -> Counter[str]:  # type: ignore[no-untyped-def]
    end = pieces if run.count is None else min(pieces, run.seed + run.count)
    found = run.each(judge, range(run.seed, end), run.replay)
    return Counter({"damages": found.total()}) + found


def flips(run: Run) -> Counter[str]:
    return _all(run, flips_piece, len(_pieces()))


def flips_piece(number: int) -> Counter[str]:
    """All eight bits of each byte, and the file cut short there; the state is built for one of them."""
    path, first, end = _pieces()[number]
    subject, found = packed_specimen(), Counter[str]()
    for offset in range(first, end):
        for bit in range(8):
            found[coroner().judge(ruin.flip(subject, path, offset, bit), deep=bit == offset % 8)] += 1
        found[coroner().judge(ruin.truncation(subject, path, offset), deep=offset % 8 == 0)] += 1
    return found


def places(run: Run) -> Counter[str]:
    return _all(run, places_piece, -(-len(placed()) // PIECE))


def places_piece(number: int) -> Counter[str]:
    return Counter(coroner().judge(each) for each in placed()[number * PIECE : (number + 1) * PIECE])


@cache
def placed() -> list[Damage]:
    """Each pack missing, doubled, renamed, swapped or another journal's; each of its sectors zeroed or swapped."""
    subject, other = packed_specimen(), packed_specimen(1)
    found = [each for each in ruin.misplaced_segments(subject, other) if each.what != "all missing"]
    for path in packs(subject):
        found += ruin.zeroed_sectors(subject, path)
        found += ruin.swapped_sectors(subject, path)
    return found


def hostile(run: Run) -> Counter[str]:
    return run.seeds(hostile_packs.judge)


CHECKS = (
    Check(
        "packs.cuts",
        "Whatever a power cut leaves while segments are packed beside a writer, and of the run after it, and of that "
        "one's: the log reads as it did for every reader, `verify` finds no damage, no pack stands alone without its "
        "parity, and the next run ends what was begun.",
        "packing runs on a simulated disk between the changes of a writer at work; before each change every image that "
        "a cut may leave is counted out or, where they are many, drawn, and each distinct one is read, packed to the "
        "end and written on",
        cuts,
        5.0,
    ),
    Check(
        "packs.flips",
        "No flipped bit of a packed segment, and no length that one is cut to, makes another state, a gap, or an error "
        "that nobody declared; `verify` names it, and what a whole copy of the header explains stops nothing.",
        "each bit and each length of each pack of a small journal: read, verified, opened for writing, state rebuilt",
        flips,
        None,
    ),
    Check(
        "packs.places",
        "A pack that is missing, doubled, renamed or another journal's is named; no gap is bridged.",
        "each pack in each of these ways, each 512-byte sector of it zeroed or swapped with the next",
        places,
        None,
    ),
    Check(
        "packs.hostile",
        "Arbitrary bytes as a pack end in declared errors, and in bounded memory.",
        "packs with fields changed and CRCs made right, frames that claim other lengths, noise, and bytes cut out or "
        "doubled",
        hostile,
        2.0,
    ),
)
