"""`journal verify`: all damage named and nothing else, states by digest, receipts proven, forgeries refused."""

from __future__ import annotations

import json
import sqlite3
import subprocess
from pathlib import Path
from zlib import crc32

import msgspec
import pytest

from journal.checkpoint import CheckpointStore, Manifest
from journal.events import EntityCreated, ObservationAdded
from journal.format import KIND_MANIFEST, PROLOGUE_BYTES, encode_header
from journal.log import Log
from journal.reader import LogReader
from journal.storage import RealStorage
from recovery import open_server_sync
from recovery.setup import initialise
from tests.commands import ENVIRONMENT, SMALL, Command, arguments, process, small_history
from tests.journals import abandon, append, journal_in, segment_files


@pytest.fixture
def journal(tmp_path, capsys):
    small_history(tmp_path / "data")
    return Command(tmp_path / "data", capsys)


def segment_of(journal: Command) -> Path:
    """The segment that holds the events."""
    return segment_files(str(journal.data / "journal"))[-1]


def flip(path: Path, needle: bytes) -> int:
    """Changes one byte where `needle` stands; returns its offset."""
    data = bytearray(path.read_bytes())
    at = data.rindex(needle)
    data[at] ^= 4
    path.write_bytes(data)
    return at


def findings(journal: Command, *words: str, code: int) -> list[dict]:
    ran = journal("verify", *words, "--json")
    assert ran.code == code, ran
    report = ran.json()
    assert (report["exit_code"], report["ok"]) == (code, code == 0)
    return report["findings"]


# -- nothing wrong ----------------------------------------------------------------------------------------------------


def test_a_whole_journal(journal):
    report = journal.json("verify")
    assert (report["ok"], report["findings"], report["exit_code"]) == (True, [], 0)
    assert (report["events"], report["last_seq"], report["segments"]) == (SMALL, SMALL, 2)
    assert report["bytes"] == sum(path.stat().st_size for path in segment_files(str(journal.data / "journal")))
    assert report["chain"] == journal.json("show", "now")["chain"]
    ran = journal("verify")
    assert ran.code == 0
    assert "no damage" in ran.out


def test_nothing_is_changed_not_even_with_deep(journal):
    before = {path: path.lstat().st_mtime_ns for path in journal.data.rglob("*")}
    journal.json("verify", "--deep")
    assert {path: path.lstat().st_mtime_ns for path in journal.data.rglob("*")} == before


def test_beside_a_writer_that_writes(tmp_path):
    """Scenario: what is being written at the tail is neither damage nor lost."""
    data = tmp_path / "data"
    small_history(data)
    program = f"""
from journal.events import ObservationAdded
from recovery import open_server_sync
with open_server_sync({str(data)!r}, background=False) as hook:
    print("ready", flush=True)
    for number in range(100_000):
        hook.append(ObservationAdded("global", "Acme", f"{{number}} " + "x" * 3000))
"""
    command = [arguments(data)[0], "-c", program]
    with subprocess.Popen(command, stdout=subprocess.PIPE, env=ENVIRONMENT) as child:
        try:
            assert child.stdout.readline() == b"ready\n"
            for _ in range(5):
                ran = process(data, "verify", "--json")
                assert ran.returncode == 0, ran.stdout
        finally:
            child.kill()


def test_no_journal(tmp_path):
    ran = process(tmp_path, "verify", "--json")
    assert ran.returncode == 10
    assert json.loads(ran.stdout)["error"]["code"] == "not_a_journal"


# -- damage -----------------------------------------------------------------------------------------------------------


def test_a_changed_byte_is_named_with_file_offset_and_events(journal):
    at = flip(segment_of(journal), b"cancelled in June")
    (found,) = findings(journal, code=12)
    assert (found["severity"], found["code"], found["seq"]) == ("damage", "corrupt", 7)
    assert found["path"] == str(segment_of(journal))
    assert at - 300 < found["offset"] <= at
    assert found["hint"]
    ran = journal("verify")
    assert ran.code == 12
    finding, summary = ran.out.splitlines()
    assert f"{segment_of(journal)} @ {found['offset']}, from seq 7" in finding
    assert "1 damage" in summary


def test_every_damage_is_named_not_only_the_first(journal):
    with open_server_sync(journal.data, background=False) as hook:
        hook.checkpoint()
    older = segment_files(str(journal.data / "journal"))[-2]
    flip(older, b"cancelled in June")
    part = max((journal.data / "journal" / "checkpoints" / "parts").iterdir(), key=lambda path: path.stat().st_size)
    part.write_bytes(part.read_bytes()[:-1])
    found = findings(journal, code=12)
    assert {each["path"] for each in found} >= {str(older), str(part)}


def test_a_missing_segment(journal):
    with open_server_sync(journal.data, background=False) as hook:
        hook.append(ObservationAdded("global", "Acme", "more"))
    middle = segment_files(str(journal.data / "journal"))[1]
    middle.unlink()
    found = findings(journal, code=12)
    assert any("segment is missing before it" in each["message"] for each in found)
    assert any("backup" in (each["hint"] or "") for each in found)


def test_an_older_copy_of_the_journal_lost_events(journal, tmp_path):
    """Scenario: somebody put yesterday's journal back under today's memory.db."""
    small_history(tmp_path / "old")
    with open_server_sync(journal.data, background=False) as hook:
        hook.append(ObservationAdded("global", "Acme", "more"))
    for path in segment_files(str(journal.data / "journal")):
        path.unlink()
    for path in segment_files(str(tmp_path / "old" / "journal")):
        (journal.data / "journal" / "segments" / path.name).write_bytes(path.read_bytes())
    (found,) = findings(journal, code=12)
    assert "seq 11 was durable" in found["message"]
    assert found["seq"] == 11


def test_a_memory_db_of_another_journal_is_no_evidence(journal, tmp_path):
    """Scenario: a longer journal's memory.db lies under this one's name: no event of this journal was lost."""
    other = tmp_path / "other"
    initialise(str(other))
    with open_server_sync(other, background=False) as hook:
        hook.append_all([EntityCreated("global", f"entity {number}", "x") for number in range(50)])
    (journal.data / "memory-000001.db").write_bytes((other / "memory-000001.db").read_bytes())
    assert findings(journal, code=0) == []


def journal_with_tail(path: Path) -> Path:
    """A log whose writer was killed after five events, with no memory.db beside it to say what was durable."""
    storage, directory = journal_in(path)
    log = Log.open(storage, directory)
    for number in range(1, 6):
        append(log, number)
    abandon(log)
    return segment_files(directory)[-1]


def test_a_torn_tail_is_a_note(tmp_path, capsys):
    segment = journal_with_tail(tmp_path)
    data = segment.read_bytes()
    segment.write_bytes(data[: data.rindex(b"fact 5")])
    (found,) = findings(Command(tmp_path, capsys), code=0)
    assert (found["severity"], found["code"]) == ("note", "torn_tail")
    assert "no damage, 1 note" in Command(tmp_path, capsys)("verify").out


def test_a_last_batch_that_is_whole_but_wrong_is_ambiguous(tmp_path, capsys):
    flip(journal_with_tail(tmp_path), b"fact 5")
    (found,) = findings(Command(tmp_path, capsys), code=13)
    assert (found["code"], found["seq"]) == ("ambiguous_tail", 5)
    assert "--accept-tail" in found["hint"]


def test_a_newer_version_is_unsupported_and_never_corrupt(journal):
    segment = segment_of(journal)
    data = segment.read_bytes()
    length = int.from_bytes(data[12:16], "little")
    whole = encode_header(1, data[PROLOGUE_BYTES:length])
    newer = whole[:8] + (2).to_bytes(2, "little") + whole[10:16]
    crc = crc32(data[PROLOGUE_BYTES:length], crc32(newer))
    segment.write_bytes(newer + crc.to_bytes(4, "little") + data[PROLOGUE_BYTES:])
    found = findings(journal, code=15)
    assert found[0]["code"] == "unsupported"
    assert "corrupt" not in journal("verify").out


@pytest.mark.parametrize(
    "name",
    [
        "notes.txt", "segments/notes.txt", "checkpoints/notes.txt", "checkpoints/parts/notes.txt", "index/notes.idx",
        "parity/notes.txt", "parity/segments/notes.txt", "parity/segments/.x.par.tmp", "parity/checkpoints/parts/notes",
    ],
)  # fmt: skip
def test_a_file_that_is_no_part_of_the_journal_is_a_note(journal, name):
    """In whichever directory: verify has looked at every name."""
    path = journal.data / "journal" / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("mine")
    (found,) = findings(journal, code=0)
    assert (found["severity"], found["code"], found["path"]) == ("note", "stray_file", str(path))


# -- deep -------------------------------------------------------------------------------------------------------------


def with_checkpoints(journal: Command) -> list[int]:
    """Two checkpoints, one of them on a timeline that a restore left."""
    with open_server_sync(journal.data, background=False) as hook:
        first = hook.checkpoint().seq
        hook.core.restore(4)
        hook.append(ObservationAdded("global", "Acme", "after the restore"))
        second = hook.checkpoint().seq
    return [first, second]


def test_deep_compares_every_checkpoint_and_memory_db(journal):
    seqs = with_checkpoints(journal)
    report = journal.json("verify", "--deep")
    assert report["ok"] is True
    states = [(each["of"], each["seq"], each["matches"]) for each in report["states"]]
    end = journal.json("status")["journal"]["last_seq"]
    assert states == [("checkpoint", seqs[0], True), ("checkpoint", seqs[1], True), ("memory.db", end, True)]
    assert journal("verify", "--deep").out.count("is what the events make") == 3


def test_deep_finds_bytes_changed_inside_a_row(journal):
    """Scenario: integrity_check passes, and the journal is whole; only the digest tells."""
    with sqlite3.connect(journal.data / "memory-000001.db") as connection:
        connection.execute("UPDATE observations SET content = 'renewed in July' WHERE content = 'renewed in May'")
    connection.close()
    assert findings(journal, code=0) == []
    (found,) = findings(journal, "--deep", code=1)
    assert (found["severity"], found["code"], found["seq"]) == ("damage", "altered", SMALL)
    assert found["hint"] == "journal recover memory"


def rewrite(journal: Command, seq: int, **changes) -> Path:
    """Makes the manifest say something else, with its checksum in order."""
    path = journal.data / "journal" / "checkpoints" / f"{seq:016d}.manifest"
    manifest = msgspec.json.decode(path.read_bytes()[PROLOGUE_BYTES:], type=Manifest)
    body = msgspec.json.encode(msgspec.structs.replace(manifest, **changes))
    path.write_bytes(encode_header(KIND_MANIFEST, body))
    return path


def test_deep_finds_a_checkpoint_that_was_made_wrong(journal):
    """Scenario: manifest and parts are whole by their checksums, but the state is not the journal's."""
    first, _ = with_checkpoints(journal)
    path = rewrite(journal, first, digest="0" * 64)
    assert [each["code"] for each in findings(journal, code=0)] == ["parity_late"]
    (found,) = [each for each in findings(journal, "--deep", code=12) if each["severity"] == "damage"]
    assert (found["path"], found["seq"]) == (str(path), first)


def test_deep_finds_parts_that_hold_another_state(journal):
    first, second = with_checkpoints(journal)
    manifests = {each.seq: each for each in _manifests(journal)}
    path = rewrite(journal, second, parts=manifests[first].parts, whole=manifests[first].whole)
    found = [each for each in findings(journal, "--deep", code=12) if each["severity"] == "damage"]
    assert [(each["path"], each["seq"]) for each in found] == [(str(path), second)]
    assert "parts hold" in found[0]["message"]


def _manifests(journal: Command) -> list[Manifest]:
    return CheckpointStore(RealStorage(), str(journal.data / "journal" / "checkpoints")).manifests()


@pytest.mark.parametrize(
    ("wreck", "code", "case"),
    [
        (lambda data: (data / "memory.db").unlink(), 1, "missing"),
        (lambda data: (data / "memory-000001.db").write_bytes(b"x" * 9000), 1, "unreadable"),
    ],
)
def test_deep_says_what_became_of_memory_db(journal, wreck, code, case):
    wreck(journal.data)
    (found,) = findings(journal, "--deep", code=code)
    assert found["code"] == case
    assert "journal recover memory" in found["hint"]


def test_deep_goes_as_far_as_the_journal_can_be_read(journal):
    """Scenario: damage behind the first checkpoint: that one is compared still, and the damage is named once."""
    with open_server_sync(journal.data, background=False) as hook:
        first = hook.checkpoint().seq
        hook.append(ObservationAdded("global", "Acme", "soon damaged"))
        hook.append(ObservationAdded("global", "Acme", "behind it"))
    flip(segment_of(journal), b"soon damaged")
    ran = journal("verify", "--deep", "--json")
    assert ran.code == 12
    report = ran.json()
    damaged = [each for each in report["findings"] if each["path"] == str(segment_of(journal))]
    assert len(damaged) == 1
    states = {(each["of"], each["seq"]): each["matches"] for each in report["states"]}
    assert states[("checkpoint", first)] is True


# -- receipts ---------------------------------------------------------------------------------------------------------


@pytest.fixture
def receipts(tmp_path):
    """What `journal append` printed for four events, with a line that it refused among them."""
    data = tmp_path / "received"
    initialise(str(data))
    lines = [
        {"event": {"type": "memory.entity_created", "scope": "global", "name": "A", "entity_type": "x"}, "op_id": "o1"},
        {"event": {"type": "memory.entity_created", "scope": "global", "name": "A", "entity_type": "x"}},
        {"events": [
            {"type": "memory.observation_added", "scope": "global", "entity": "A", "content": "one"},
            {"type": "memory.observation_added", "scope": "global", "entity": "A", "content": "two"},
        ], "op_id": "g1"},
        {"event": {"type": "memory.observation_added", "scope": "global", "entity": "A", "content": "three"}},
    ]  # fmt: skip
    ran = process(data, "append", input="\n".join(map(json.dumps, lines)))
    assert ran.returncode == 3
    return data, ran.stdout


def test_what_append_printed_is_proven(receipts, tmp_path, capsys):
    data, text = receipts
    journal = Command(data, capsys)
    file = tmp_path / "receipts.jsonl"
    file.write_text(text)
    report = journal.json("verify", "--receipt", str(file))
    assert (report["ok"], report["proven"], report["refused"]) == (True, 4, 0)
    assert [each["seq"] for each in report["receipts"]] == [1, 2, 3, 4]
    assert "4 of 4 receipts proven" in journal("verify", "--receipt", str(file)).out
    ran = process(data, "verify", "--receipt", "-", input=text)
    assert (ran.returncode, ran.stdout) == (0, "4 of 4 receipts proven\n")
    one = text.splitlines()[0]
    assert "proven: seq 1, op_id o1" in journal("verify", "--receipt", one).out


def test_receipts_are_proven_after_a_restart_and_many_more_events(receipts, capsys):
    data, text = receipts
    with open_server_sync(data, background=False) as hook:
        hook.append_all([ObservationAdded("global", "A", f"fact {number}") for number in range(500)])
    for line in [line for line in text.splitlines() if "chain" in line]:
        assert Command(data, capsys)("verify", "--receipt", line).code == 0


@pytest.mark.parametrize(
    ("change", "code"),
    [
        ({"seq": 2}, (2, 12)),  # whether it is of the same batch, and so of the same chain, is a matter of time
        ({"seq": 99}, 12),
        ({"seq": 0}, 12),
        ({"seq": -1}, 12),
        ({"chain": "0" * 64}, 12),
        ({"epoch": 7}, 12),
        ({"time": 1}, 2),
        ({"op_id": "somebody else's"}, 2),
    ],
)
@pytest.mark.parametrize("number", [0, 1, 3])  # with an op_id, within a group, generated
def test_a_forged_receipt_is_refused(receipts, capsys, number, change, code):
    data, text = receipts
    receipt = [json.loads(line) for line in text.splitlines() if "chain" in line][number]
    if change == {"seq": 2} == {"seq": receipt["seq"]}:
        change = {"seq": 3}
    forged = json.dumps(receipt | change)
    ran = Command(data, capsys)("verify", "--receipt", forged)
    assert ran.code in (code if isinstance(code, tuple) else (code,)), ran
    assert "REFUSED" in ran.out
    assert "proven:" not in ran.out
    report = Command(data, capsys)("verify", "--receipt", forged, "--json").json()
    assert report["ok"] is False
    assert report["receipts"][0]["proven"] is False
    assert report["receipts"][0]["error"]["message"]


def test_one_forgery_among_many_is_named_and_the_others_stand(receipts, capsys):
    data, text = receipts
    lines = [line for line in text.splitlines() if "chain" in line]
    lines[2] = json.dumps(json.loads(lines[2]) | {"op_id": "other"})
    ran = process(data, "verify", "--receipt", "-", input="\n".join(lines))
    assert ran.returncode == 2
    refused, summary = ran.stdout.splitlines()
    assert "receipt of seq 3" in refused
    assert summary == "3 of 4 receipts proven"


def test_a_receipt_of_another_journal(receipts, journal):
    _, text = receipts
    ran = journal("verify", "--receipt", text.splitlines()[0])
    assert ran.code == 12


def test_a_receipt_of_a_damaged_event_is_not_proven_and_the_others_are(journal):
    shown = [journal("show", str(seq), "--json").out for seq in (6, 7, 8)]
    flip(segment_of(journal), b"cancelled in June")
    ran = process(journal.data, "verify", "--receipt", "-", "--json", input="".join(shown))
    assert ran.returncode == 12
    report = json.loads(ran.stdout)
    assert [each["proven"] for each in report["receipts"]] == [True, False, False]
    assert report["receipts"][1]["error"]["path"] == str(segment_of(journal))


def test_what_show_prints_is_a_receipt(journal):
    ran = process(journal.data, "verify", "--receipt", "-", input=journal("show", "4", "--json").out)
    assert (ran.returncode, ran.stdout) == (0, "proven: seq 4, op_id e2-4 is in this journal, unchanged\n")


def test_thousands_of_receipts_read_each_segment_once(tmp_path, capsys, monkeypatch):
    data = tmp_path / "data"
    initialise(str(data))
    (data / "journal.yaml").write_text("segment_bytes_max: 65536\n")
    with open_server_sync(data, background=False) as hook:
        made = [hook.append(EntityCreated("global", "x", "thing"))]
        for number in range(12):
            facts = [ObservationAdded("global", "x", f"{number} {index} " + "y" * 900) for index in range(20)]
            made += hook.append_all(facts)
    file = tmp_path / "receipts.jsonl"
    file.write_bytes(b"\n".join(msgspec.json.encode(each) for each in reversed(made)))
    read: list[int] = []
    scan = LogReader.scan
    monkeypatch.setattr(LogReader, "scan", lambda self, index, *seqs: read.append(index) or scan(self, index, *seqs))
    report = Command(data, capsys).json("verify", "--receipt", str(file))
    assert report["proven"] == 241
    assert [each["seq"] for each in report["receipts"]] == list(range(241, 0, -1))
    assert len(read) == len(set(read)) > 4


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ("{}", "is no receipt"),
        ('{"seq": "1", "time": 1, "op_id": "a", "chain": "b", "epoch": 1}', "is no receipt"),
        ("{nonsense", "is no JSON object"),
        ("/nowhere/at/all", "there is no file"),
        ('{"error": {"code": "refused"}}', "no receipt to prove"),
    ],
)
def test_what_is_no_receipt_is_one_line(journal, given, said):
    ran = journal("verify", "--receipt", given)
    assert (ran.code, ran.out) == (2, "")
    assert said in ran.err
    assert len(ran.err.splitlines()) == 1
    assert journal("verify", "--receipt", given, "--deep").code == 2
