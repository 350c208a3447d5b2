"""A share of `make faults` packs: cuts while segments are packed, damage to packs, and packs made to harm."""

from __future__ import annotations

import random
from collections import Counter

import pytest

from tests import ruin
from tests.coroner import Coroner
from tests.crash_packs import run
from tests.faults.packs import placed
from tests.hostile_packs import judge
from tests.packs import header_ends, packed_specimen, packs


@pytest.mark.parametrize("seed", [0, 5, 8, 19])
def test_every_image_that_a_cut_leaves_while_segments_are_packed(seed: int) -> None:
    counts = run(seed)
    assert counts["crash states"] > 30
    assert counts["segments packed"] > 1


def test_a_flipped_bit_of_a_pack() -> None:
    rng, coroner = random.Random(21), Coroner(packed_specimen())
    subject = coroner.specimen
    places = [(path, at) for path in packs(subject) for at in range(len(subject.image[path]))]
    for path in packs(subject)[:4]:
        front, copy = header_ends(subject, path)
        end = len(subject.image[path])
        near = (0, 8, 10, 12, 16, 20, 28, 36, 68, 72, 76, front - 1, front, copy - 1, copy, end - 5, end - 4, end - 1)
        places += [(path, at) for at in near] * 4
    damages = [ruin.flip(subject, path, at, rng.randrange(8)) for path, at in rng.sample(places, 250)]
    outcomes = Counter(coroner.judge(each, deep=number % 8 == 0) for number, each in enumerate(damages))
    assert outcomes == {"refused": 250}, "named, each of them"


def test_a_pack_cut_short() -> None:
    rng, coroner = random.Random(22), Coroner(packed_specimen())
    subject = coroner.specimen
    places = [(path, at) for path in packs(subject) for at in range(len(subject.image[path]))]
    cuts = [ruin.truncation(subject, path, length) for path, length in rng.sample(places, 150)]
    assert Counter(coroner.judge(each, deep=number % 8 == 0) for number, each in enumerate(cuts)) == {"refused": 150}


def test_a_pack_missing_doubled_renamed_or_its_sectors_zeroed_or_swapped() -> None:
    coroner, damages = Coroner(packed_specimen()), placed()
    assert len(damages) > 150
    outcomes = Counter(coroner.judge(each, deep=number % 16 == 0) for number, each in enumerate(damages[::2]))
    assert set(outcomes) <= {"refused", "padding"}


def test_packs_that_lie_behind_their_checksums() -> None:
    outcomes = sum((judge(seed) for seed in range(30)), start=Counter())
    assert outcomes["refused"] > 15
    assert outcomes["taken"] > 15
