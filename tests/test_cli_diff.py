"""`journal diff`: what changed between two moments, in either order, across restores, by whichever way it is built."""

from __future__ import annotations

from contextlib import closing

import pytest

from journal.events import EntityCreated, ObservationAdded, ObservationRemoved
from recovery import comparing, open_server_sync
from recovery.comparing import compare
from recovery.data import Data
from replay.diff import diff
from replay.diff_words import to_json
from replay.digest import state_digest
from replay.engine import build_state
from replay.extend import extend
from replay.working import connect_finished
from tests.commands import CONFIG, SMALL, Command, small_history
from tests.journals import segment_files


@pytest.fixture
def journal(tmp_path, capsys):
    small_history(tmp_path / "data")
    return Command(tmp_path / "data", capsys)


def test_what_changed_in_json(journal):
    found = journal.json("diff", "2", "now")
    assert (found["from"]["seq"], found["to"]["seq"]) == (2, SMALL)
    assert found["to"]["time"] == journal.json("show", "now")["time"]
    assert (found["entities"]["added"], found["entities"]["changed"]) == (1, 1)
    (changed,) = [each for each in found["entities"]["changes"] if each["change"] == "changed"]
    assert (changed["name"], changed["parts"]) == ("Acme", ["confidence"])
    assert found["observations"]["added"] == 1
    assert found["relations"]["added"] == 1
    assert found["agents"]["changes"][0]["name"] == "writer"
    assert found["same"] is False


def test_in_the_other_order_everything_is_the_other_way_round(journal):
    forth, back = journal.json("diff", "2", "now"), journal.json("diff", "now", "2")
    for table in ("entities", "observations", "relations", "agents"):
        assert (forth[table]["added"], forth[table]["removed"]) == (back[table]["removed"], back[table]["added"])
    assert (back["from"], back["to"]) == (forth["to"], forth["from"])


def test_in_words(journal):
    with open_server_sync(journal.data, background=False) as hook:
        hook.agents.write("writer", CONFIG.replace(b"[search]", b"[search, mail]"))
    out = journal("diff", "9", "now").out
    first, words, *changes = out.splitlines()
    assert first.startswith("from seq 9 (")
    assert words == "-1 entity, agent writer: tools changed"
    assert any("workspace:east/Acme" in line and line.startswith("  - ") for line in changes)


def test_the_empty_state_and_no_difference(journal):
    out = journal("diff", "0", "1").out
    assert "from the empty state to seq 1" in out
    assert "+1 entity" in out
    for same in (("3", "3"), ("0", "0"), ("now", "seq:10")):
        assert journal.json("diff", *same)["same"] is True
        assert "no difference" in journal("diff", *same).out


def test_what_is_listed_is_bounded_and_what_is_counted_is_not(journal):
    with open_server_sync(journal.data, background=False) as hook:
        hook.append_all([ObservationAdded("global", "Acme", f"fact {number}") for number in range(50)])
    found = journal.json("diff", "10", "now")["observations"]
    assert (found["added"], len(found["changes"]), found["not_listed"]) == (50, 20, 30)
    found = journal.json("diff", "10", "now", "-n", "0")["observations"]
    assert (found["added"], len(found["changes"])) == (50, 0)
    assert "and 45 more observations" in journal("diff", "10", "now", "-n", "5").out


def test_a_restore_is_no_difference_of_its_own(journal):
    with open_server_sync(journal.data, background=False) as hook:
        hook.append(EntityCreated("global", "mistake", "x"))
        hook.core.restore(SMALL)
    assert journal.json("diff", str(SMALL), "now")["same"] is True
    assert journal.json("diff", str(SMALL + 1), "now")["entities"]["removed"] == 1


def test_both_ways_to_a_state_give_the_same_difference(journal, tmp_path):
    """Scenario: a history with restores into each other and a checkpoint; every pair of moments in it."""
    with open_server_sync(journal.data, background=False) as hook:
        hook.append(ObservationRemoved("global", "Acme", "renewed in May"))  # 11
        hook.core.restore(5)  # 12
        hook.append(ObservationAdded("global", "Acme", "on another timeline"), agent="ops")  # 13
        hook.checkpoint()  # journals itself as 14
        hook.core.restore(11)  # 15
        hook.append(EntityCreated("workspace:west", "Acme", "company"))  # 16
    data = Data.at(journal.data)
    reader = data.reader()
    ends = range(reader.last_seq + 1)
    for seq in ends:
        build_state(data.storage, data.layout.journal, reader, seq, f"{tmp_path}/{seq}.db", journal_mode="delete")
    extended = 0
    for before in ends:
        for after in ends:
            with (
                closing(connect_finished(f"{tmp_path}/{before}.db")) as one,
                closing(connect_finished(f"{tmp_path}/{after}.db")) as other,
            ):
                expected = to_json(diff(one, other))
            assert to_json(compare(data, reader, before, after)) == expected, (before, after)
            history = comparing.read_history(reader, data.checkpoints)
            extended += before < after and comparing._way_between(data, history, before, after) is not None
    assert extended > 10  # else only one of the ways was taken


def test_a_state_that_was_extended_is_the_state(journal, tmp_path):
    with open_server_sync(journal.data, background=False) as hook:
        hook.core.restore(7)
        hook.append(EntityCreated("global", "later", "x"))
    data = Data.at(journal.data)
    reader = data.reader()
    build = {"journal_mode": "delete"}
    build_state(data.storage, data.layout.journal, reader, 6, f"{tmp_path}/6.db", **build)
    whole = build_state(data.storage, data.layout.journal, reader, reader.last_seq, f"{tmp_path}/end.db", **build)
    history = comparing.read_history(reader)
    ranges = comparing.lineage_from(history.restores, reader.last_seq, 6)
    extend(reader, f"{tmp_path}/6.db", ranges, reader.last_seq)
    with closing(connect_finished(f"{tmp_path}/6.db")) as connection:
        assert state_digest(connection) == whole.digest


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["1"], "Missing argument"),
        (["1", "yesterday"], "is no moment"),
        (["1", "11"], "beyond the end, 10"),
        (["tag:none", "1"], "no tag"),
        (["1", "2", "-n", "-1"], "-1"),
    ],
)
def test_wrong_input_is_one_line_that_says_what_to_write(journal, words, said):
    ran = journal("diff", *words)
    assert (ran.code, ran.out) == (2, "")
    assert said in ran.err
    assert len(ran.err.splitlines()) == 1


def test_damage_between_the_moments_is_named(journal):
    segment = segment_files(str(journal.data / "journal"))[-1]
    data = segment.read_bytes()
    at = data.index(b"cancelled in June")
    segment.write_bytes(data[:at] + b"C" + data[at + 1 :])
    assert journal("diff", "1", "6").code == 0
    ran = journal("diff", "1", "now")
    assert ran.code == 12
    assert str(segment) in ran.err
    assert ran.out == ""
