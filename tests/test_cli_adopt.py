"""`journal adopt`, `check` and `recover` on agent files: what a person wrote, and what nobody did."""

from __future__ import annotations

import shlex

import pytest

from tests.commands import CONFIG, Command, small_history


@pytest.fixture
def journal(tmp_path, capsys):
    small_history(tmp_path / "data")
    return Command(tmp_path / "data", capsys)


def test_a_damaged_file_is_adopted_only_by_name(journal):
    (journal.data / "agents/writer.md").write_bytes(bytes(100))
    ran = journal("adopt", "--dry-run")
    assert (ran.code, "damaged" in ran.out) == (3, True)
    assert journal.json("adopt", "agents", "writer", "--dry-run")["agents"] == ["writer"]
    assert journal("adopt").code == 3
    assert journal("recover", "agents", "--yes").code == 0
    assert (journal.data / "agents/writer.md").read_bytes() == CONFIG


def test_an_empty_file_can_be_meant(journal):
    (journal.data / "agents/writer.md").write_bytes(b"")
    assert journal.json("adopt", "agents", "writer")["agents"] == ["writer"]
    assert (journal.data / "agents/writer.md").read_bytes() == b""
    assert journal.json("check")["health"] == "healthy"


def test_a_missing_file_is_no_file_to_adopt(journal):
    (journal.data / "agents/writer.md").unlink()
    ran = journal("adopt", "agents", "writer")
    assert (ran.code, ran.out) == (2, "")
    assert "writer.md" in ran.err


def test_the_command_that_check_names_can_be_pasted(journal):
    (journal.data / "agents/two words; one.md").write_text("text")
    found = next(each for each in journal.json("check")["components"] if each["case"] == "unjournaled")
    assert shlex.split(found["hint"]) == ["journal", "adopt", "agents", "two words; one"]
    assert journal(*shlex.split(found["hint"])[1:]).code == 0


def test_recovering_an_agent_that_never_was_is_usage(journal):
    ran = journal("recover", "agents", "--agent", "nobody", "--yes")
    assert (ran.code, ran.out) == (2, "")
    assert "nobody" in ran.err
    assert journal("recover", "memory", "--agent", "writer", "--yes").code == 2
