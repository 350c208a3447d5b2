"""A directory, a pipe or a link has taken the name of one of the journal's files: verify names it, and goes on."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from journal.errors import JournalError
from journal.indexing import fill
from journal.packing import pack_segments
from journal.parity_store import ParityStore
from journal.reader import LogReader
from journal.repair import execute_repairs, plan_repairs
from journal.storage import RealStorage
from journal.verify import verify
from tests.journals import journal_in
from tests.packs import write_segments


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Segments of which some are packed, with parity and indexes."""
    place = tmp_path_factory.mktemp("kinds")
    storage, directory = journal_in(place)
    write_segments(storage, directory, 400, 25, 160 << 10)
    parity = ParityStore(storage, directory)
    pack_segments(storage, directory, parity, run_bytes=400_000)
    parity.fill()
    fill(LogReader(storage, directory))
    assert not verify(storage, directory).findings
    return Path(directory)


@pytest.fixture
def journal(whole: Path, tmp_path: Path) -> Path:
    shutil.copytree(whole, tmp_path / "journal")
    return tmp_path / "journal"


def a_directory(path: Path) -> None:
    path.unlink()
    path.mkdir()


def a_pipe(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


def a_link(path: Path) -> None:
    path.rename(path.parent.parent.parent / "elsewhere")
    path.symlink_to(path.parent.parent.parent / "elsewhere")


@pytest.mark.parametrize("kind", [a_directory, a_pipe, a_link])
@pytest.mark.parametrize("pattern", ["segments/*.pack", "segments/*.seg", "index/*.idx", "parity/segments/*.par"])
def test_verify_names_it_and_goes_on(journal: Path, pattern: str, kind: Callable[[Path], None]) -> None:
    """It stopped there, and blamed the disk."""
    path = sorted(journal.glob(pattern))[-1 if "idx" in pattern else 1]
    kind(path)
    report = verify(RealStorage(), str(journal))
    damaged = {finding.path for finding in report.findings if finding.severity == "damage"}
    assert str(path) in damaged, report.findings
    assert report.exit_code == 12
    assert report.segments == len(LogReader(RealStorage(), str(journal)).segments)
    assert report.last_seq == 10_000


@pytest.mark.parametrize("name", ["index", "parity"])
def test_what_is_derived_may_lose_its_directory_to_a_file(journal: Path, name: str) -> None:
    """It is told, and everything else is read to the end."""
    shutil.rmtree(journal / name)
    (journal / name).write_text("mine")
    report = verify(RealStorage(), str(journal))
    assert [each.path.removeprefix(f"{journal}/").split("/")[0] for each in report.findings] == [name]
    assert report.last_seq == 10_000


def test_the_index_of_a_damaged_pack_is_not_called_damaged(journal: Path) -> None:
    """`verify --repair` made it anew, which cannot be done without the block, and put the good one into quarantine."""
    pack = sorted(journal.glob("segments/*.pack"))[1]
    data = pack.read_bytes()
    pack.write_bytes(data[:-3000] + bytes(100) + data[-2900:])
    report = verify(RealStorage(), str(journal))
    assert {each.path for each in report.findings} == {str(pack)}
    assert len([each for each in report.findings if each.seq is not None]) == 1, "and its block is named once"


def test_what_cannot_be_made_anew_keeps_nothing_else_from_being_put_right(journal: Path) -> None:
    """A directory under the name of an index is nothing that a rename replaces; a flipped bit elsewhere is mended."""
    storage, directory = RealStorage(), str(journal)
    a_directory(sorted(journal.glob("index/*.idx"))[-1])
    segment = sorted(journal.glob("segments/*.seg"))[1]
    data = bytearray(segment.read_bytes())
    data[5000] ^= 1
    segment.write_bytes(data)
    parity, told = ParityStore(storage, directory), list[JournalError]()
    done = execute_repairs(storage, directory, parity, plan_repairs(storage, directory, parity), told.append)
    assert [each.path for each in done if each.path.startswith("segments/")] == [f"segments/{segment.name}"]
    assert [error.path for error in told] == [str(sorted(journal.glob("index/*.idx"))[-1])]
    report = verify(storage, directory)
    assert {each.path for each in report.findings if each.severity == "damage"} == {told[0].path}
