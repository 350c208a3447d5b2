"""The newest events are gone without a trace: the last segment is an older copy of itself, or is missing.

Every byte that is left is right, so only what was made of the lost events can tell: a checkpoint, or memory.db.
"""

from __future__ import annotations

import atexit
import os
import shutil
import tempfile
from functools import cache
from pathlib import Path

import pytest

from journal.errors import Diverged
from journal.events import ObservationAdded
from journal.log import Log
from journal.storage import RealStorage
from recovery import open_server_sync
from tests.commands import SMALL, Command, small_history
from tests.journals import append, journal_in, segment_files


@cache
def _with_older_end() -> Path:
    """A directory with a checkpoint at its end, whose last segment is then an older copy of itself."""
    scratch = tempfile.mkdtemp(prefix="journal-tests-")
    atexit.register(shutil.rmtree, scratch)
    data = Path(scratch) / "data"
    small_history(data)
    with open_server_sync(data, background=False) as hook:
        hook.append(ObservationAdded("global", "Acme", "one"))
        last = segment_files(str(data / "journal"))[-1]
        older = last.read_bytes()
        hook.append(ObservationAdded("global", "Acme", "two"))
        hook.checkpoint()
    last.write_bytes(older)
    return data


@pytest.fixture
def journal(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Command:
    shutil.copytree(_with_older_end(), tmp_path / "data", symlinks=True)
    return Command(tmp_path / "data", capsys)


VERBS = (
    ["check"], ["status"], ["recover", "all", "--yes"], ["recover", "memory", "--yes"], ["append"], ["log"],
    ["checkpoint", "create"], ["diff", "1", "now"], ["tag", "here"],
)  # fmt: skip


@pytest.mark.parametrize("memory", ["there", "gone"])
@pytest.mark.parametrize("words", VERBS, ids=" ".join)
def test_no_verb_takes_the_shorter_log_for_the_whole(journal: Command, words: list[str], memory: str, tmp_path) -> None:
    if memory == "gone":
        for path in journal.data.glob("memory*"):
            path.unlink()
    before = {path: path.read_bytes() for path in journal.data.rglob("*.seg")}
    ran = journal(*words)
    assert ran.code == 14, ran
    assert "durable" in ran.out + ran.err or "beyond the journal's end" in ran.out + ran.err
    assert {path: path.read_bytes() for path in journal.data.rglob("*.seg")} == before, "nothing is written behind it"


def test_a_missing_last_segment_is_the_same(journal: Command) -> None:
    segment_files(str(journal.data / "journal"))[-1].unlink()
    assert [journal(*words).code for words in (["check"], ["recover", "all", "--yes"], ["append"], ["log"])] == [14] * 4


def test_replay_to_now_is_refused_and_to_a_seq_that_is_there_is_not(journal: Command, tmp_path: Path) -> None:
    assert journal("replay", "--until", "now", "-o", str(tmp_path / "now")).code == 14
    assert not os.path.exists(tmp_path / "now" / "memory.db")
    assert journal("replay", "--until", str(SMALL), "-o", str(tmp_path / "then")).code == 0


def test_verify_names_the_file_and_the_first_event_that_is_gone(journal: Command) -> None:
    ran = journal("verify", "--json")
    (found,) = [each for each in ran.json()["findings"] if each["severity"] == "damage"]
    assert ran.code in (12, 14)
    assert "was durable" in found["message"]
    assert (found["path"].endswith(".seg"), found["seq"] > SMALL) == (True, True)


def test_a_log_that_ends_before_its_evidence_is_not_opened(tmp_path: Path) -> None:
    _, directory = journal_in(tmp_path)
    log = Log.open(RealStorage(), directory)
    append(log, 1, 3)
    log.close()
    with pytest.raises(Diverged, match="ends at seq 3, but seq 4 was durable") as caught:
        Log.open(RealStorage(), directory, evidence_seq=4)
    assert (caught.value.seq, caught.value.path) == (4, str(segment_files(directory)[-1]))
    assert Log.open(RealStorage(), directory, evidence_seq=3).next_seq == 4
