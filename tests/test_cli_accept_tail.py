"""A last batch that is complete but wrong: everything stops until its owner decides, and then goes on before it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from journal.log import Log
from journal.reader import LogReader
from journal.storage import RealStorage
from recovery.setup import initialise
from tests.command import journal
from tests.journals import abandon, append, segment_files


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """A journal of three events whose last batch has a wrong byte, more than a bit, and a memory.db that never applied
    any of them."""
    initialise(tmp_path)
    log = Log.open(RealStorage(), str(tmp_path / "journal"))
    append(log, 1, 2)
    append(log, 3)
    abandon(log)
    path = segment_files(str(tmp_path / "journal"))[-1]
    damaged = bytearray(path.read_bytes())
    damaged[damaged.rindex(b"fact 3") + 5] ^= 0xFF
    path.write_bytes(damaged)
    return tmp_path


def tree(data: Path) -> dict[str, bytes]:
    return {str(path.relative_to(data)): path.read_bytes() for path in data.rglob("*") if path.is_file()}


STOPPED = ["append", "check", "recover all --yes", "recover memory --yes", "recover journal --yes"]


@pytest.mark.parametrize("verb", STOPPED)
def test_nothing_but_the_owners_word_drops_it(data: Path, verb: str) -> None:
    segments = {name: content for name, content in tree(data).items() if name.endswith(".seg")}
    done = journal(*verb.split(), "--data", str(data), input="")
    assert done.returncode == 13, done.stdout + done.stderr
    assert "event 3" in done.stdout + done.stderr
    assert "--accept-tail" in done.stdout + done.stderr
    assert {name: content for name, content in tree(data).items() if name.endswith(".seg")} == segments


def test_a_dry_run_changes_nothing(data: Path) -> None:
    before = tree(data)
    done = journal("recover", "journal", "--accept-tail", "--dry-run", "--data", str(data))
    assert done.returncode == 0
    assert "would set aside" in done.stdout
    assert tree(data) == before


def test_the_accepted_tail_lies_in_quarantine_and_the_journal_goes_on_before_it(data: Path) -> None:
    done = journal("recover", "journal", "--accept-tail", "--json", "--data", str(data))
    assert done.returncode == 0, done.stderr
    answer = json.loads(done.stdout)
    assert (answer["accepted"], answer["seq"]) == (True, 2)
    assert len(Path(answer["quarantined"]).read_bytes()) == answer["bytes"] > 0
    assert journal("verify", "--data", str(data)).returncode == 0
    again = journal("recover", "journal", "--accept-tail", "--data", str(data))
    assert (again.returncode, again.stdout) == (0, "nothing to accept\n")


@pytest.fixture
def receipts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What `append` printed for four events, and a journal whose last one has rotted; only receipts tell."""
    root = tmp_path_factory.mktemp("kept")
    initialise(root / "data")
    log = Log.open(RealStorage(), str(root / "data/journal"))
    for number in range(1, 5):
        append(log, number)
    abandon(log)
    reader = LogReader(RealStorage(), str(root / "data/journal"))
    lines = []
    for batch in reader.batches():
        told = {"seq": batch.first_seq, "time": batch.heads()[0].time, "op_id": f"e2-{batch.first_seq}"}
        lines.append(json.dumps({**told, "chain": batch.chain.hex(), "epoch": batch.epoch}))
    (root / "receipts.jsonl").write_text("\n".join(lines))
    path = segment_files(str(root / "data/journal"))[-1]
    damaged = bytearray(path.read_bytes())
    at = damaged.rindex(b"fact 4")
    damaged[at : at + 4] = b"\xee" * 4
    path.write_bytes(damaged)
    return root


def test_a_receipt_of_it_says_that_it_was_acknowledged(receipts: Path) -> None:
    data, given = str(receipts / "data"), str(receipts / "receipts.jsonl")
    assert journal("check", "--data", data).returncode == 13
    before = tree(receipts / "data")
    for verb in (
        ("recover", "journal", "--accept-tail", "--receipt", given),
        ("recover", "journal", "--accept-tail", "--receipt", given, "--dry-run"),
        ("verify", "--receipt", given),
    ):
        done = journal(*verb, "--data", data)
        assert done.returncode == 12, (verb, done)
        assert "event 4" in done.stdout + done.stderr
    assert {**tree(receipts / "data"), "journal/lock": b""} == {**before, "journal/lock": b""}


def test_receipts_of_what_came_before_it_do_not_speak_for_it(receipts: Path) -> None:
    earlier = (receipts / "receipts.jsonl").read_text().splitlines()[:3]
    done = journal("recover", "journal", "--accept-tail", "--receipt", "-", "--data", str(receipts / "data"),
                   input="\n".join(earlier))  # fmt: skip
    assert done.returncode == 0, done
    assert "ends at seq 3" in done.stdout


def test_receipts_of_another_journal_are_no_evidence(receipts: Path) -> None:
    line = json.loads((receipts / "receipts.jsonl").read_text().splitlines()[1])
    done = journal("recover", "journal", "--accept-tail", "--receipt", json.dumps({**line, "chain": "00" * 32}),
                   "--data", str(receipts / "data"))  # fmt: skip
    assert done.returncode == 12
    assert "rewritten, or the receipt is of another one" in done.stderr


def test_it_belongs_to_the_journal_alone(data: Path) -> None:
    done = journal("recover", "memory", "--accept-tail", "--yes", "--data", str(data))
    assert done.returncode == 2
    assert "journal recover journal --accept-tail" in done.stderr


def test_where_one_bit_explains_it_nothing_is_given_up(data: Path) -> None:
    """Scenario: its owner gave the word, but the batch is whole again with one bit put right."""
    path = segment_files(str(data / "journal"))[-1]
    damaged = bytearray(path.read_bytes())
    damaged[damaged.rindex(b"fact ") + 5] ^= 0xFE  # leaves one wrong bit of the eight
    path.write_bytes(damaged)
    done = journal("recover", "journal", "--accept-tail", "--data", str(data))
    assert done.returncode == 0, done.stderr
    assert "repaired segments/" in done.stdout
    assert "event 3" in done.stdout
    told = journal("log", "--json", "--data", str(data)).stdout.splitlines()
    assert [json.loads(line)["type"] for line in told][-4:] == [
        "memory.observation_added", "recovery.started", "recovery.step_completed", "recovery.completed",
    ]  # fmt: skip
    assert not (data / "journal" / "repairs.json").exists()


def test_damage_before_the_end_is_no_tail_to_accept(tmp_path: Path) -> None:
    """The first event is wrong, in the midst of a log that goes on: the owner's word is about its end alone."""
    initialise(tmp_path)
    log = Log.open(RealStorage(), str(tmp_path / "journal"))
    append(log, 1)
    append(log, 2)
    log.close()
    later = Log.open(RealStorage(), str(tmp_path / "journal"))
    append(later, 3)
    later.close()
    path = next(each for each in segment_files(str(tmp_path / "journal")) if b"fact 1" in each.read_bytes())
    path.write_bytes(path.read_bytes().replace(b"fact 1", b"nobody"))
    before = tree(tmp_path)
    done = journal("recover", "journal", "--accept-tail", "--data", str(tmp_path))
    assert done.returncode == 12, done.stdout + done.stderr
    assert "nothing to accept" not in done.stdout
    assert tree(tmp_path) == before
