"""`journal init`: what it leaves out is said, and an import that was cut is seen by whoever looks."""

from __future__ import annotations

import pytest

from recovery.setup import initialise
from tests.commands import Command


@pytest.fixture
def journal(tmp_path, capsys):
    (tmp_path / "data/agents").mkdir(parents=True)
    (tmp_path / "data/agents/writer.md").write_text("text")
    return Command(tmp_path / "data", capsys)


def test_agent_files_that_are_not_taken_in_are_mentioned_once(journal):
    ran = journal("init")
    assert (ran.code, "journal adopt agents" in ran.err) == (0, True)
    assert journal("init").err == ""


def test_an_import_that_was_cut_is_named_until_it_is_finished(journal):
    initialise(journal.data, adopt=True)  # and no further
    (found,) = [each for each in journal("check", "--json").json()["components"] if each["health"] == "failed"]
    assert (found["component"], found["hint"]) == ("import", "journal init --adopt")
    assert journal("check").code == 1
    assert journal.json("status")["importing"] is True
    assert "journal init --adopt" in journal("status").out
    assert journal("tag", "x").code == 2
    assert journal.json("init", "--adopt")["adopted"] == {"agents": 1}
    assert journal.json("check")["health"] == "healthy"
    assert journal.json("status")["importing"] is False
