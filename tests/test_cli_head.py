"""Somebody tampers with the journal, checksums and all: only a head that was exported earlier can tell."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from journal.events import EntityCreated
from journal.format import SegmentHeader, decode_segment_header, encode_batch, encode_segment_header
from journal.log import Log
from journal.reader import LogReader
from journal.scan import Scanner
from journal.storage import RealStorage
from recovery import open_server_sync
from tests.commands import SMALL, Command, process, small_history
from tests.journals import abandon, append, segment_files


@pytest.fixture
def journal(tmp_path, capsys) -> Command:
    small_history(tmp_path / "data")
    return Command(tmp_path / "data", capsys)


@pytest.fixture
def head(journal, tmp_path) -> str:
    assert journal("head", "-o", str(tmp_path / "head.json")).code == 0
    return str(tmp_path / "head.json")


def write(data: Path, name: str) -> None:
    with open_server_sync(data, background=False) as hook:
        hook.append(EntityCreated("global", name, "thing"))


def without_state(data: Path) -> None:
    """Takes away what else would tell that the journal was longer once, as a careful hand would."""
    for path in data.glob("memory*"):
        path.unlink()
    for path in (data / "journal/checkpoints").glob("*.manifest"):
        path.unlink()


def rewritten(data: Path, change: Callable[[bytes], bytes]) -> None:
    """Writes every segment again with changed payloads, each CRC and each chain made to fit."""
    directory = str(data / "journal")
    before: tuple[int, bytes] = (0, bytes(32))
    for path in segment_files(directory):
        old = path.read_bytes()
        header, start = decode_segment_header(old, str(path))
        scanner = Scanner(old, start, header, str(path))
        batches, closed = list(scanner), scanner.closed
        fields = {name: getattr(header, name) for name in SegmentHeader.__slots__}
        header = SegmentHeader(**{**fields, "previous_end": before[0], "previous_chain": before[1]})
        made, chain = encode_segment_header(header), before[1]
        for batch in batches:
            payload = change(bytes(batch.payload))
            made += encode_batch(
                header, epoch=batch.epoch, flags=0, first_seq=batch.first_seq, count=batch.count, payload=payload,
                durable_seq=batch.durable_seq, previous_chain=chain, offset=len(made),
            )  # fmt: skip
            again = Scanner(made, start, header, str(path))
            assert len(list(again)) > 0
            chain = again.chain
        if closed:
            made += encode_batch(
                header, epoch=header.epoch, flags=1, first_seq=scanner.next_seq, count=0, payload=b"",
                durable_seq=scanner.next_seq - 1, previous_chain=chain, offset=len(made),
            )  # fmt: skip
        path.write_bytes(made)
        before = (len(made), chain)


def test_the_head_is_that_of_the_last_record_in_every_form(journal, head):
    found = journal.json("head")
    record = json.loads(journal("show", str(SMALL), "--json").out)
    assert (found["seq"], found["time"]) == (SMALL, record["time"])
    assert json.loads(Path(head).read_text()) == found
    assert found["chain"] == LogReader(RealStorage(), str(journal.data / "journal")).last_chain.hex()
    lines = dict(line.split(": ", 1) for line in journal("head").out.splitlines())
    assert lines["chain"] == found["chain"]


@pytest.mark.parametrize("form", [["head"], ["head", "--json"]])
def test_what_it_prints_can_be_piped_back_in(journal, form):
    told = process(journal.data, *form).stdout
    done = process(journal.data, "verify", "--head", "-", input=told)
    assert done.returncode == 0, done
    assert "proven" in done.stdout


def test_it_holds_when_the_journal_goes_on_and_after_a_writer_that_was_cut(journal, head):
    write(journal.data, "later")
    log = Log.open(RealStorage(), str(journal.data / "journal"))
    append(log, 1)
    abandon(log)
    cut_off = journal.json("head")
    carried = Log.open(RealStorage(), str(journal.data / "journal"))  # copies the last batch into a new segment
    assert carried.opening.carried
    carried.close()
    assert journal("verify", "--head", head).code == 0
    Path(head).write_text(json.dumps(cut_off))
    assert journal.json("verify", "--head", head)["head"]["proven"] is True


def test_an_edit_without_its_checksums_is_damage_anyway(journal, head):
    path = next(path for path in segment_files(str(journal.data / "journal")) if b"renewed" in path.read_bytes())
    path.write_bytes(path.read_bytes().replace(b"renewed in May", b"renewed in Jun"))
    ran = journal("verify", "--head", head)
    assert ran.code == 12
    assert "proven" not in ran.out


def test_a_rewritten_history_passes_verify_and_not_its_head(journal, head):
    rewritten(journal.data, lambda payload: payload.replace(b"renewed in May", b"renewed in Jun"))
    without_state(journal.data)
    assert journal("verify").code == 0, "the chain alone cannot see it"
    ran = journal("verify", "--head", head)
    assert ran.code == 14
    assert f"seq {SMALL}" in ran.out
    assert "rewritten" in ran.out


def test_a_truncated_end_passes_verify_and_not_its_head(journal, tmp_path):
    old = tmp_path / "old"
    shutil.copytree(journal.data, old, symlinks=True)
    write(journal.data, "later")
    journal("head", "-o", str(tmp_path / "late.json"))
    rolled_back = Command(old, journal.capsys)
    assert rolled_back("verify").code == 0, "it is a journal as it once was"
    ran = rolled_back("verify", "--head", str(tmp_path / "late.json"))
    assert (ran.code, f"ends at seq {SMALL}" in ran.out) == (12, True)
    write(old, "another")  # written past the head's seq: not truncated any more, but another history
    ran = rolled_back("verify", "--head", str(tmp_path / "late.json"), "--json")
    assert ran.code == 14
    assert [each["code"] for each in ran.json()["findings"]] == ["diverged"]


def test_another_journal_in_its_place_is_not_its(journal, head, tmp_path, capsys):
    other = tmp_path / "other"
    Command(other, capsys)("init")
    with open_server_sync(other, background=False) as hook:
        for number in range(SMALL):
            hook.append(EntityCreated("global", f"{number}", "thing"))
    ran = Command(other, capsys)("verify", "--head", head)
    assert (ran.code, "head is of journal" in ran.out) == (14, True)


def test_a_torn_tail_that_a_head_covers_was_acknowledged(journal, tmp_path):
    log = Log.open(RealStorage(), str(journal.data / "journal"))
    append(log, 1)
    journal("head", "-o", str(tmp_path / "head.json"))
    abandon(log)
    path = segment_files(str(journal.data / "journal"))[-1]
    path.write_bytes(path.read_bytes().rstrip(b"\0")[:-20])
    assert journal("verify").code == 0
    assert journal("verify", "--head", str(tmp_path / "head.json")).code == 12


@pytest.mark.parametrize(
    "text", ["", "{}", "[]", "x: y", '{"journal_id":"00","seq":1}', "seq: " + "9" * 400, "[" * 60_000]
)
def test_what_is_no_head_is_refused_in_a_line(journal, tmp_path, text):
    (tmp_path / "none").write_text(text)
    ran = journal("verify", "--head", str(tmp_path / "none"))
    assert ran.code == 2
    assert len(ran.err.splitlines()) == 1


@pytest.mark.parametrize("place", ["data/journal/head.json", "data", "nowhere/head.json"])
def test_a_head_is_not_written_where_it_is_lost_or_cannot_be(journal, tmp_path, place):
    ran = journal("head", "-o", str(tmp_path / place))
    assert ran.code == 2, ran


def test_the_head_of_a_damaged_end_is_no_head(journal):
    path = segment_files(str(journal.data / "journal"))[-1]
    data = bytearray(path.read_bytes())
    data[-40] ^= 1
    path.write_bytes(data)
    assert journal("head").code in (12, 13)
