"""A share of `make faults` damage: each kind of damage to a small journal, on every way through the product.

What is few is tried whole (segments misplaced, sectors, stale copies), what is many by drawn places, and always at the
few bytes where chance alone seldom comes: headers, trailers, the ends of batches and of padding.
"""

from __future__ import annotations

import random
from collections import Counter

import pytest

import journal.scan
from journal.checkpoint import CheckpointStore
from journal.format import decode_segment_header
from journal.scan import Scanner
from tests import ruin
from tests.coroner import Coroner, WrongAnswer
from tests.faults.damage import journal_flips_piece, lengths_piece
from tests.ruin import Damage
from tests.small_files import (
    every_change,
    judge_parity,
    judge_part,
    judge_text,
    judge_watermark,
    texts,
    with_parity,
    with_small_files,
)
from tests.specimen import SEGMENT_BYTES, Specimen, specimen


@pytest.fixture
def coroner() -> Coroner:
    return Coroner(specimen())


def judged(coroner: Coroner, damages: list[Damage], *, deep: int = 1) -> Counter[str]:
    """The outcomes; the state is built for every `deep`-th."""
    return Counter(coroner.judge(damage, deep=number % deep == 0) for number, damage in enumerate(damages))


def edges(subject: Specimen) -> list[tuple[str, int]]:
    """Places around the structures of each segment."""
    found: set[tuple[str, int]] = set()
    for path in subject.segments:
        data, end = subject.image[path], subject.padding[path]
        header, start = decode_segment_header(data, path)
        found |= {(path, at) for at in (0, 8, 10, 12, 16, 20, 36, 44, 48, 52, 60, 68, 72, 76, 84, start - 1)}
        found |= {(path, at) for at in (end - 1, end, len(data) - 1) if at < len(data)}
        for batch in Scanner(data[:end], start, header, path):
            found |= {(path, batch.offset + at) for at in (0, 4, 8, 24, 32, 36, 40, 48, 52, 56, 64, 95, 96)}
            found |= {(path, batch.end - at) for at in (1, 2, 5, 6)}
    return sorted(found)


def test_the_journal_has_what_a_journal_can_have() -> None:
    subject = specimen()
    assert sum(len(subject.image[path]) for path in subject.segments) == SEGMENT_BYTES
    void = [path for path in subject.segments[:-1] if subject.padding[path] < len(subject.image[path])]
    assert void, "bytes behind the end that the next segment names"
    assert subject.padding[subject.segments[-1]] < len(subject.image[subject.segments[-1]]), "zero fill"
    assert [len(each.parts) for each in subject.manifests] == [3, 2]
    assert len(subject.files("lock")) == len(subject.files("plan")) == 2


def test_a_flipped_bit_of_the_journal(coroner: Coroner) -> None:
    rng = random.Random(11)
    subject = coroner.specimen
    drawn = list(ruin.drawn_flips(subject, "segment", 500, rng))
    near = [ruin.flip(subject, path, at, rng.randrange(8)) for path, at in rng.sample(edges(subject), 400)]
    outcomes = judged(coroner, drawn + near, deep=8)
    assert outcomes["refused"] > 700
    assert 10 < outcomes["padding"] < 200


def test_a_flipped_bit_of_a_checkpoint_or_a_plan_or_the_lock(coroner: Coroner) -> None:
    rng = random.Random(12)
    subject = coroner.specimen
    for kind, count, outcome in (
        ("manifest", 80, "passed over"), ("part", 60, "passed over"), ("plan", 120, "refused"),
        ("lock", 400, "ignored by design"),
    ):  # fmt: skip
        assert judged(coroner, list(ruin.drawn_flips(subject, kind, count, rng)), deep=4) == {outcome: count}


def test_a_file_cut_short(coroner: Coroner) -> None:
    rng = random.Random(13)
    subject = coroner.specimen
    places = [(path, at) for path in subject.image for at in range(len(subject.image[path]))]
    cuts = rng.sample([place for place in places if "/segments/" in place[0]], 250) + rng.sample(places, 50)
    cuts += rng.sample(edges(subject), 100)
    cuts += [(subject.segments[-1], end) for end in range(subject.padding[subject.segments[-1]] - 2, 1, -97)]
    outcomes = judged(coroner, [ruin.truncation(subject, path, length) for path, length in cuts], deep=6)
    assert min(outcomes["refused"], outcomes["padding"], outcomes["passed over"]) > 0


def test_a_segment_missing_doubled_stale_renamed_or_of_another_journal(coroner: Coroner) -> None:
    subject = coroner.specimen
    moved, stale = list(ruin.misplaced_segments(subject, specimen(1))), list(ruin.stale_segments(subject))
    assert judged(coroner, moved, deep=4) == {"refused": len(moved)}
    assert judged(coroner, stale, deep=4) == {"refused": len(stale)}
    assert len(moved) > 60
    assert len(stale) > 60


def test_a_sector_zeroed_or_written_in_anothers_place(coroner: Coroner) -> None:
    subject = coroner.specimen
    sectors = [each for path in subject.segments for each in ruin.zeroed_sectors(subject, path)]
    sectors += [each for path in subject.segments for each in ruin.swapped_sectors(subject, path)]
    outcomes = judged(coroner, sectors, deep=6)
    assert len(sectors) > 180
    assert set(outcomes) <= {"refused", "padding"}
    part = next(path for path in subject.files("part") if len(subject.image[path]) > 4096)
    assert judged(coroner, list(ruin.zeroed_sectors(subject, part))[::8]).keys() == {"passed over"}


def test_a_small_file_gone_foreign_or_filled_with_something_else(coroner: Coroner) -> None:
    subject = coroner.specimen
    files = [path for kind in ("manifest", "part", "lock", "plan") for path in subject.files(kind)]
    damages = [each for path in files for each in ruin.whole_files(subject, path, specimen(1))]
    assert set(judged(coroner, damages)) == {"passed over", "refused", "ignored by design"}


def test_a_checkpoint_of_another_state_in_ones_place(coroner: Coroner, monkeypatch) -> None:
    planted = list(ruin.planted_checkpoints(coroner.specimen))
    assert judged(coroner, planted) == {"passed over": 2}
    monkeypatch.setattr("replay.engine.refusal", lambda *_: None)
    with pytest.raises(WrongAnswer, match="another state"):
        coroner.judge(planted[0])


def test_the_watermark_parity_and_repairs_that_wait() -> None:
    rng = random.Random(14)
    subject = with_small_files(0)
    marks = list(ruin.drawn_flips(subject, "watermark", 60, rng))
    marks += [ruin.truncation(subject, f"{subject.root}/watermark", length) for length in (0, 1, 511, 512, 1024, 1535)]
    marks += ruin.whole_files(subject, f"{subject.root}/watermark", with_small_files(1))
    assert Counter(map(judge_watermark, marks)) == {"passed over": len(marks) - 1, "ignored by design": 1}
    waiting = list(ruin.drawn_flips(subject, "plan", 60, rng))
    assert any(each.path.endswith("repairs.json") for each in waiting)
    assert judged(Coroner(subject), waiting) == {"refused": 60}
    with_parity_files = with_parity(0)
    flips = list(ruin.drawn_flips(with_parity_files, "parity", 200, rng))
    assert Counter(judge_parity(each, deep=number % 20 == 0) for number, each in enumerate(flips)) == {"refused": 200}


def test_the_rig_sees_a_part_that_is_not_held_against_its_name(monkeypatch) -> None:
    """Of most damages of a part only the reading of it is judged: that is no proof if others read it otherwise."""
    subject = specimen(0)
    damage = ruin.flip(subject, subject.files("part")[0], 4321, 3)
    assert judge_part(damage) == "refused"
    monkeypatch.setattr(CheckpointStore, "read_part", lambda store, part: store.storage.read(store.part_path(part)))
    for judge in (judge_part, Coroner(subject).judge):
        with pytest.raises(WrongAnswer):
            judge(damage)


def test_a_head_or_a_configuration_of_other_bytes() -> None:
    rng = random.Random(15)
    for name, data in texts().items():
        outcomes = Counter(judge_text(name, each) for each in rng.sample(list(every_change(data)), 150))
        assert outcomes["refused"] > 30
        assert outcomes.total() == 150


def test_the_pieces_of_the_long_run_are_whole_and_can_be_run_again() -> None:
    assert journal_flips_piece(3).total() == 64 * 8
    assert lengths_piece(1).total() == 64


# -- the rig can fail -------------------------------------------------------------------------------------------------


def test_the_rig_sees_a_reader_that_does_not_check_the_records(coroner: Coroner, monkeypatch) -> None:
    subject = coroner.specimen
    path = subject.segments[1]
    header, start = decode_segment_header(subject.image[path], path)
    batch = next(iter(Scanner(subject.image[path], start, header, path)))
    damage = ruin.flip(subject, path, batch.offset + 110, 1)
    assert coroner.judge(damage) == "refused"
    monkeypatch.setattr(journal.scan, "trailer_matches", lambda *_: True)
    with pytest.raises(WrongAnswer):
        coroner.judge(damage)


def test_the_rig_sees_a_log_that_goes_on_behind_a_lost_end(coroner: Coroner, monkeypatch) -> None:
    missing = next(each for each in ruin.misplaced_segments(coroner.specimen, specimen(1))
                   if (each.what, each.path) == ("missing", coroner.specimen.segments[-1]))  # fmt: skip
    assert coroner.judge(missing) == "refused"
    monkeypatch.setattr("journal.reader.LogReader.raise_for_end", lambda reader: None)
    with pytest.raises(WrongAnswer, match="gone without a word"):
        coroner.judge(missing)
