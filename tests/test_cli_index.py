"""Indexes as a user meets them: made by themselves, by whoever may, told of by `verify`, made anew, not carried along.

Scenario: a long history, `journal log --agent NAME`, and a disk that flips a bit of the file that made it fast.
"""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from journal.events import EntityCreated, ObservationAdded
from journal.storage import RealFile
from recovery import open_server_sync
from recovery.setup import initialise
from tests.commands import Command

SEGMENT_BYTES = 160 << 10


@pytest.fixture
def journal(tmp_path, capsys):
    """Three long segments, written by `ops` but for a few records."""
    data = tmp_path / "data"
    initialise(str(data))
    (data / "journal.yaml").write_text(f"segment_bytes_max: {SEGMENT_BYTES}\n")
    with open_server_sync(data, background=False) as hook:
        hook.append(EntityCreated("global", "x", "thing"), agent="sales")
        for number in range(24):
            facts = [ObservationAdded("global", "x", f"{number} {index} " + "y" * 900) for index in range(20)]
            hook.append_all(facts, agent="rare" if number in (3, 20) else "ops")
    return Command(data, capsys)


def indexes(journal: Command) -> list[Path]:
    return sorted(journal.data.joinpath("journal/index").glob("*.idx"))


def test_a_search_leaves_the_indexes_that_it_found_missing(journal):
    assert indexes(journal) == []
    first = journal("log", "--agent", "rare", "--json")
    assert [each["seq"] for each in first.json_lines()] == [*range(62, 82), *range(402, 422)]
    assert len(indexes(journal)) >= 2
    assert journal("log", "--agent", "rare", "--json").out == first.out
    assert journal("log", "--agent", "rare", "-n", "3", "--json").out.splitlines() == first.out.splitlines()[-3:]
    assert journal("log", "--agent", "nobody").out == ""
    found = journal.json("verify")
    assert (found["indexes"], found["findings"]) == (len(indexes(journal)), [])


def test_what_is_asked_without_a_filter_leaves_nothing(journal):
    for asked in (["log", "-n", "3"], ["show", "5"], ["log", "--until", "now"], ["status"]):
        assert journal(*asked).code == 0
    assert not journal.data.joinpath("journal/index").exists()


def test_a_search_of_somebody_else_leaves_nothing_of_theirs(journal, monkeypatch):
    """Scenario: root looks, and the server of another user cannot read what root left."""
    expected = journal("log", "--agent", "rare").out
    for path in indexes(journal):
        path.unlink()
    mine = os.geteuid()
    monkeypatch.setattr(os, "geteuid", lambda: mine + 1)
    assert journal("log", "--agent", "rare").out == expected
    assert indexes(journal) == []


def test_a_damaged_index_is_named_and_made_anew_and_never_answers(journal):
    expected = journal("log", "--agent", "rare").out
    path = indexes(journal)[0]
    whole = path.read_bytes()
    damaged = bytearray(whole)
    damaged[len(damaged) // 2] ^= 8
    path.write_bytes(damaged)

    found = journal("verify", "--json")
    assert found.code == 12
    (finding,) = found.json()["findings"]
    assert (finding["severity"], finding["path"]) == ("damage", str(path))
    assert "makes it anew" in finding["hint"]
    assert journal("log", "--agent", "rare", "-n", "100").out == expected

    path.write_bytes(damaged)  # a search has mended it
    assert journal("check").code in (0, 3)
    ran = journal("verify", "--repair")
    assert ran.code == 0, ran
    assert "made anew" in ran.out + ran.err
    assert path.read_bytes() == whole
    assert journal.json("verify")["findings"] == []


def test_the_checkpoints_process_makes_them(journal):
    assert journal("checkpoint", "create").code == 0
    made = indexes(journal)
    assert len(made) >= 2
    assert journal.json("verify")["indexes"] == len(made)


def test_a_backup_does_without(journal, tmp_path, capsys):
    expected = journal("log", "--agent", "rare").out
    assert journal("backup", str(tmp_path / "copy")).code == 0
    assert not list(tmp_path.joinpath("copy").rglob("*.idx"))
    assert Command(tmp_path / "copy", capsys)("log", "--agent", "rare").out == expected


def test_a_stray_agent_file_costs_the_configs_of_the_history_and_not_all_of_it(tmp_path, capsys, monkeypatch):
    """Scenario: somebody left a file in agents/; `check` asks whether its bytes were ever journaled."""
    journal = Command(tmp_path / "data", capsys)
    initialise(str(journal.data))
    (journal.data / "journal.yaml").write_text("segment_bytes_max: 1048576\n")
    with open_server_sync(journal.data, background=False) as hook:
        hook.append(EntityCreated("global", "x", "thing"))
        hook.agents.write("gone", b"---\nname: gone\n---\nOnce.\n")
        hook.agents.remove("gone")
        for number in range(50):
            hook.append_all([ObservationAdded("global", "x", f"{number} {each} " + "z" * 900) for each in range(100)])
    assert journal("checkpoint", "create").code == 0
    reads: list[int] = []
    read_at = RealFile.read_at

    def counted(file, offset, length):
        found = read_at(file, offset, length)
        reads.append(len(found) if file.path.endswith(".seg") else 0)
        return found

    monkeypatch.setattr(RealFile, "read_at", counted)

    def checked() -> tuple[int, dict[str, str]]:
        reads.clear()
        found = journal("check", "--json").json()
        return sum(reads), {each["component"]: each["case"] for each in found["components"]}

    without, _ = checked()
    (journal.data / "agents/stray.md").write_bytes(b"Whose is this?\n")
    (journal.data / "agents/gone.md").write_bytes(b"---\nname: gone\n---\nOnce.\n")
    history = sum(path.stat().st_size for path in journal.data.joinpath("journal/segments").iterdir())
    some, cases = checked()
    assert (cases["agent stray"], cases["agent gone"]) == ("unjournaled", "removed")
    assert some - without < history / 4
    for path in indexes(journal):
        path.unlink()
    everything, cases = checked()
    assert (cases["agent stray"], cases["agent gone"]) == ("unjournaled", "removed")
    assert everything - without > history * 3 / 4, "without an index it is searched"


@pytest.mark.parametrize("indexed", [True, False])
@pytest.mark.parametrize("packed", [True, False])
def test_a_generated_op_id_is_found_by_the_seq_that_it_says(journal, monkeypatch, packed, indexed):
    """Scenario: a caller was told outcome_unknown, with the op_id that the journal would have generated.

    No filter of an index has such a name. It is found all the same, and only where it can be: one of another writer's
    epoch, or behind the end, is nowhere.
    """
    with open_server_sync(journal.data, background=False) as hook:
        last = hook.append(ObservationAdded("global", "x", "the last"), op_id="crm-1").seq
    journal("log", "--agent", "nobody")  # makes the indexes
    assert len(indexes(journal)) >= 2
    if packed:
        assert journal("compact").code == 0
        assert len(list(journal.data.joinpath("journal/segments").glob("*.pack"))) >= 2
    monkeypatch.setattr("journal.indexing.make_index", lambda *_: None)  # else the search makes what is missing
    if not indexed:
        for path in indexes(journal):
            path.unlink()

    def found(op_id: str) -> list[int]:
        ways = [journal("log", "--op-id", op_id, *more, "--json").json_lines() for more in ((), ("-n", "99"))]
        assert ways[0] == ways[1]
        return [each["seq"] for each in ways[0]]

    for seq in (1, 2, 150, 299, last - 1):
        group_last = journal.json("show", str(seq))["batch"]["last_seq"]
        assert found(f"e2-{seq}") == [*range(seq, group_last + 1)], "an operation is all of its group"
        assert journal.json("show", str(seq))["op_id"] == f"e2-{seq}"
    assert found("crm-1") == [last]
    assert found("e1-150") == found(f"e2-{last}") == found("e2-999999") == []
    assert len(indexes(journal)) >= 2 if indexed else not indexes(journal)
