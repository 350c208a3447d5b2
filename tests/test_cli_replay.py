"""`journal replay`: where a copy may be written, and one agent brought back while the rest stays."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from recovery import open_server_sync
from tests.commands import CONFIG, SMALL, Command, small_history


@pytest.fixture
def journal(tmp_path, capsys):
    small_history(tmp_path / "data")
    return Command(tmp_path / "data", capsys)


def tree(root: Path) -> dict[str, bytes | str | None]:
    """Every name below: a file's bytes, a link's target."""
    return {
        str(path.relative_to(root)): os.readlink(path)
        if path.is_symlink()
        else path.read_bytes()
        if path.is_file()
        else None
        for path in root.rglob("*")
    }


# -- beside -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "place",
    ["", "..", "journal", "journal/past", "agents", "agents/past", "models", "memory.db", "memory-000001.db", "/"],
)
@pytest.mark.parametrize("through", ["data", "link"])
def test_the_live_data_is_never_moved_aside_for_a_copy(journal, tmp_path, place, through):
    (tmp_path / "link").symlink_to("data")
    before = tree(tmp_path)
    ran = journal("replay", "--until", "3", "-o", os.path.join(tmp_path / through, place), "--force")
    assert (ran.code, ran.out) == (2, "")
    assert len(ran.err.splitlines()) == 1
    assert tree(tmp_path) == before


def test_a_link_to_an_empty_directory_is_one(journal, tmp_path):
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to("real")
    assert journal("replay", "--until", "3", "-o", str(tmp_path / "link")).code == 0
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "real/memory.db").is_file()


@pytest.mark.parametrize("place", ["file", "file/below", ""])
def test_a_file_in_the_place_of_the_copy_is_left_alone(journal, tmp_path, place):
    (tmp_path / "file").write_text("mine")
    ran = journal("replay", "--until", "3", "-o", place and str(tmp_path / place), "--force")
    assert (ran.code, ran.out) == (2, "")
    assert "-o " in ran.err
    assert (tmp_path / "file").read_text() == "mine"


@pytest.mark.parametrize(
    "options", [("-o", "x", "--in-place"), ("-o", "x", "--reason", "why"), ("--in-place", "--force"), ()]
)
def test_options_that_would_be_ignored_are_refused(journal, options):
    ran = journal("replay", "--until", "3", *options)
    assert (ran.code, ran.out) == (2, "")


# -- one agent --------------------------------------------------------------------------------------------------------


@pytest.fixture
def edited(journal):
    """The writer was rewritten and suspended, an editor was added; then memory went on."""
    with open_server_sync(journal.data, background=False) as hook:
        hook.agents.write("writer", b"later")
        hook.agents.write("editor", b"new")
    return journal


def test_one_agent_is_brought_back_by_events_and_the_rest_stays(edited):
    entities = edited.json("status")["memory"]["rows"]["entities"]
    made = edited.json("replay", "--until", "6", "--in-place", "--yes", "--agent", "writer", "--agent", "editor")
    assert (made["written"], made["status"], made["removed"]) == (["writer"], ["writer"], ["editor"])
    assert (edited.data / "agents/writer.md").read_bytes() == CONFIG
    assert not (edited.data / "agents/editor.md").exists()
    group = edited("log", "-n", "3", "--json").json_lines()
    assert {each["op_id"] for each in group if each["seq"] == made["seqs"][0]} == {group[0]["op_id"]}
    assert [each["type"] for each in group] == ["agent.config_written", "agent.status_changed", "agent.config_removed"]
    assert edited.json("status")["memory"]["rows"]["entities"] == entities
    assert edited.json("check")["health"] == "healthy"


def test_bringing_an_agent_back_can_be_undone_the_same_way(edited):
    made = edited.json("replay", "--until", "6", "--in-place", "--yes", "--agent", "editor")
    edited.json("replay", "--until", str(made["seqs"][0] - 1), "--in-place", "--yes", "--agent", "editor")
    assert (edited.data / "agents/editor.md").read_bytes() == b"new"


def test_a_dry_run_for_one_agent_changes_nothing(edited):
    before = tree(edited.data)
    made = edited.json("replay", "--until", "6", "--agent", "writer", "--dry-run")
    assert (made["written"], made["seqs"]) == (["writer"], [])
    assert tree(edited.data) == before


def test_an_agent_that_is_as_it_was_is_not_journaled_again(journal):
    ran = journal("replay", "--until", "now", "--in-place", "--yes", "--agent", "writer")
    assert (ran.code, "no difference" in ran.out) == (0, True)
    assert journal.json("status")["journal"]["last_seq"] == SMALL


def test_an_agent_that_never_was_is_usage(journal):
    ran = journal("replay", "--until", "6", "--in-place", "--yes", "--agent", "nobody")
    assert (ran.code, ran.out) == (2, "")
    assert "nobody" in ran.err
