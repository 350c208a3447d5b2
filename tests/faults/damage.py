"""Every single damage of a small journal, without exception: each bit, each length, each sector, each segment.

The work is cut into numbered pieces, so that `--seed N --count 1` is the one piece to look at again.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from functools import cache
from itertools import chain

from tests import ruin, small_files
from tests.coroner import Coroner
from tests.faults.frame import Check, Run
from tests.ruin import Damage
from tests.small_files import (
    every_change,
    judge_parity,
    judge_part,
    judge_text,
    judge_watermark,
    with_parity,
    with_small_files,
)
from tests.specimen import Specimen, kind_of, specimen

PIECE = 64  # bytes of a file whose bits are flipped in one piece; lengths, where those are what is tried
WHOLE_EVERY = 128  # of a part's and a parity file's bytes one in so many has its damage judged on every way
_SMALL = ("manifest", "part", "lock", "plan", "watermark", "parity")


@cache
def coroner() -> Coroner:
    return Coroner(specimen(0))


def _of(kind: str) -> Specimen:
    return with_parity() if kind == "parity" else with_small_files()


@cache
def _pieces(kinds: tuple[str, ...]) -> list[tuple[str, int, int]]:
    """(path, first, end) of offsets, over all files of the kinds."""
    return [
        (path, first, min(first + PIECE, len(_of(kind).image[path])))
        for kind in kinds
        for path in _of(kind).files(kind)
        for first in range(0, len(_of(kind).image[path]), PIECE)
    ]


def _judged(damages: Iterator[tuple[Damage, bool]]) -> Counter[str]:
    return Counter(_judge(damage, deep) for damage, deep in damages)


def _judge(damage: Damage, deep: bool) -> str:
    """On every way that reads such a file. ``deep`` are the ways that cost most."""
    kind = kind_of(damage.path)
    if kind == "watermark":
        return judge_watermark(damage)
    if kind == "parity":
        return judge_parity(damage, deep=deep and (damage.offset or 0) % WHOLE_EVERY == 0)
    if kind == "part" and (damage.offset or 0) % WHOLE_EVERY:
        return judge_part(damage)
    return coroner().judge(damage, deep=deep)


def _all(run: Run, judge, pieces: int) -> Counter[str]:  # type: ignore[no-untyped-def]
    end = pieces if run.count is None else min(pieces, run.seed + run.count)
    found = run.each(judge, range(run.seed, end), run.replay)
    return Counter({"damages": found.total()}) + found


# -- flips ------------------------------------------------------------------------------------------------------------


def _flipped(piece: tuple[str, int, int]) -> Counter[str]:
    """All eight bits of each byte; the state is built for one of them, another one with each byte."""
    path, first, end = piece
    subject = _of(kind_of(path))
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
    cuts = (ruin.truncation(_of(kind_of(path)), path, length) for length in range(first, end))
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
            *(
                damages
                for kind in _SMALL
                for path in _of(kind).files(kind)
                for damages in (ruin.whole_files(_of(kind), path, other), ruin.zeroed_sectors(_of(kind), path))
                if kind not in ("lock", "part")
            ),
            *(ruin.whole_files(subject, path, other) for kind in ("lock", "part") for path in subject.files(kind)),
        )
    )


# -- what lies with a person -------------------------------------------------------------------------------------------


def texts(run: Run) -> Counter[str]:
    return _all(run, texts_piece, len(small_files.texts()))


def texts_piece(number: int) -> Counter[str]:
    name, data = list(small_files.texts().items())[number]
    return Counter(judge_text(name, changed) for changed in every_change(data))


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
        "A flipped bit of a checkpoint costs a rung of the ladder and nothing else; of a plan, a list of repairs, the "
        "watermark or parity it is named, and stops nothing; of the lock it costs nothing.",
        "each bit of each manifest, plan, lock and watermark: scanned, verified, opened, state rebuilt over the "
        "ladder; each bit of each part and parity file by the one function that reads such files, and of every 128th "
        "byte on all of these ways",
        small_flips,
        None,
    ),
    Check(
        "damage.lengths",
        "No file that was cut short passes for a whole one: the events that are gone are named, whatever the length.",
        "each length of each file: segments and small files on every way, parts and parity as with flipped bits",
        lengths,
        None,
    ),
    Check(
        "damage.texts",
        "A head or a journal.yaml that is not what was written is refused, or is another valid text: then the journal "
        "contradicts the head. No text makes a traceback.",
        "each bit and each length of a head and of a configuration",
        texts,
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
