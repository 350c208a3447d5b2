"""What version 1 packed unpacks for ever to the very bytes that were packed, by the project and by the text alone."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from journal.pack import find_pack
from journal.reader import LogReader
from journal.storage import RealStorage
from journal.unpack import unpack
from journal.verify import verify
from tests.golden import make_v1_packed
from tests.second_reader import read_journal, unpacked

GOLDEN = Path(make_v1_packed.HERE)
FILES = sorted((GOLDEN / "v1-packed").iterdir())


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_a_golden_pack_holds_the_segment_up_to_its_valid_end(path: Path) -> None:
    data = path.read_bytes()
    plain = (GOLDEN / "v1" / "journal" / "segments" / f"{path.stem}.seg").read_bytes()
    end = find_pack(data, str(path)).end
    assert unpack(data, str(path)) == unpacked(data) == plain[:end]
    assert len(plain[:end]) == end


def test_the_golden_journal_reads_the_same_with_its_golden_packs(tmp_path: Path) -> None:
    shutil.copytree(GOLDEN / "v1" / "journal", tmp_path / "journal")
    for path in FILES:
        (tmp_path / "journal" / "segments" / f"{path.stem}.seg").unlink()
        shutil.copy(path, tmp_path / "journal" / "segments")
    plain, packed = read_journal(GOLDEN / "v1" / "journal"), read_journal(tmp_path / "journal")
    assert (packed.records, packed.batches, packed.chain) == (plain.records, plain.batches, plain.chain)
    one, other = (LogReader(RealStorage(), str(each / "journal")) for each in (GOLDEN / "v1", tmp_path))
    assert [each.chain for each in one.batches()] == [each.chain for each in other.batches()]
    assert verify(RealStorage(), str(tmp_path / "journal")).findings == []


def test_they_hold_what_a_pack_can_hold() -> None:
    """Else a part of the format could change without a golden file noticing."""
    packs = [find_pack(path.read_bytes(), str(path)) for path in FILES]
    assert any(not pack.blocks for pack in packs), "a segment without a batch"
    assert any(pack.blocks and pack.blocks[0].first_seq < pack.blocks[-1].last_seq for pack in packs)
    assert len({pack.header.epoch for pack in packs}) > 1
