"""Every single damage of a small journal, without exception: each bit, each length, each sector, each segment.

The work is cut into numbered pieces, so that `--seed N --count 1` is the one piece to look at again.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from functools import cache
from itertools import chain

from tests import ruin
from tests.coroner import Coroner
from tests.faults.frame import Check, Run
from tests.ruin import Damage
from tests.specimen import specimen

PIECE = 64  # bytes of a file whose bits are flipped in one piece; lengths, where those are what is tried
_SMALL = ("manifest", "part", "lock", "plan")


@cache
def coroner() -> Coroner:
    return Coroner(specimen(0))


def _pieces(kinds: tuple[str, ...]) -> list[tuple[str, int, int]]:
    """(path, first, end) of offsets, over all files of the kinds."""
    image = coroner().specimen.image
    files = [path for kind in kinds for path in coroner().specimen.files(kind)]
    return [
        (path, first, min(first + PIECE, len(image[path])))
        for path in files
        for first in range(0, len(image[path]), PIECE)
    ]


def _judged(damages: Iterator[tuple[Damage, bool]]) -> Counter[str]:
    found = Counter[str]()
    for damage, deep in damages:
        found[coroner().judge(damage, deep=deep)] += 1
    return found


def _all(run: Run, judge, pieces: int) -> Counter[str]:  # type: ignore[no-untyped-def]
    end = pieces if run.count is None else min(pieces, run.seed + run.count)
    found = run.each(judge, range(run.seed, end), run.replay)
    return Counter({"damages": found.total()}) + found


# -- flips ------------------------------------------------------------------------------------------------------------


def _flipped(piece: tuple[str, int, int]) -> Counter[str]:
    """All eight bits of each byte; the state is built for one of them, another one with each byte."""
    path, first, end = piece
    subject = coroner().specimen
    return _judged(
        (ruin.flip(subject, path, offset, bit), bit == offset % 8) for offset in range(first, end) for bit in range(8)
    )


def journal_flips(run: Run) -> Counter[str]:
    return _all(run, journal_flips_piece, len(_pieces(("segment",))))


def journal_flips_piece(number: int) -> Counter[str]:
    return _flipped(_pieces(("segment",))[number])


def small_flips(run: Run) -> Counter[str]:
    return _all(run, small_flips_piece, len(_pieces(_SMALL)))


def small_flips_piece(number: int) -> Counter[str]:
    return _flipped(_pieces(_SMALL)[number])


# -- lengths and places -----------------------------------------------------------------------------------------------


def lengths(run: Run) -> Counter[str]:
    return _all(run, lengths_piece, len(_pieces(("segment", *_SMALL))))


def lengths_piece(number: int) -> Counter[str]:
    path, first, end = _pieces(("segment", *_SMALL))[number]
    cuts = (ruin.truncation(coroner().specimen, path, length) for length in range(first, end))
    return _judged((cut, cut.offset is not None and cut.offset % 8 == 0) for cut in cuts)


def places(run: Run) -> Counter[str]:
    return _all(run, places_piece, -(-len(_places()) // PIECE))


def places_piece(number: int) -> Counter[str]:
    return _judged((damage, True) for damage in _places()[number * PIECE : (number + 1) * PIECE])


@cache
def _places() -> list[Damage]:
    subject, other = coroner().specimen, specimen(1)
    return list(
        chain(
            ruin.planted_checkpoints(subject),
            ruin.misplaced_segments(subject, other),
            ruin.stale_segments(subject),
            *(ruin.zeroed_sectors(subject, path) for path in subject.segments),
            *(ruin.swapped_sectors(subject, path) for path in subject.segments),
            *(ruin.zeroed_sectors(subject, path) for path in subject.files("part")),
            *(ruin.whole_files(subject, path, other) for kind in _SMALL for path in subject.files(kind)),
        )
    )


_ENDS = "Each ends in an error that names the file and the place, or where docs/format.md says that nothing is read."

CHECKS = (
    Check(
        "damage.journal-flips",
        f"No flipped bit of a journal makes another state, a gap, or an error that nobody declared. {_ENDS}",
        "each of the 524,288 bits of a 64 KiB journal: read, verified, opened for writing, state rebuilt",
        journal_flips,
        None,
    ),
    Check(
        "damage.small-flips",
        "A flipped bit of a checkpoint costs a rung of the ladder and nothing else; of a plan it is named; of the lock "
        "it costs nothing.",
        "each bit of each manifest, part, plan and lock: scanned, verified, opened, state rebuilt over the ladder",
        small_flips,
        None,
    ),
    Check(
        "damage.lengths",
        "No file that was cut short passes for a whole one: the events that are gone are named, whatever the length.",
        "each length of each file",
        lengths,
        None,
    ),
    Check(
        "damage.places",
        "A segment that is missing, doubled, stale, renamed or another journal's is named; no gap is bridged.",
        "each segment in each of these ways, each 512-byte sector zeroed or swapped with the next, each other file "
        "missing, foreign or filled with something else, each checkpoint replaced by another that is whole in itself",
        places,
        None,
    ),
)
