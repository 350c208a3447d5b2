"""`journal init`: what it leaves out is said, and an import that was cut is seen by whoever looks."""

from __future__ import annotations

import shutil

import pytest

from journal.events import EntityCreated
from recovery import open_server_sync
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


def test_paths_of_their_own_are_laid_out_and_come_back_when_they_are_lost(tmp_path, capsys):
    """memory.db in a directory below, agents outside, names with spaces and a dash: init makes them, recovery too."""
    agents = tmp_path / "the agents"
    root = tmp_path / "data"
    root.mkdir()
    (root / "journal.yaml").write_text(
        f"paths:\n  memory_db: sub dir/mem ory.db\n  agents: {agents}\n  journal: -j\n  models: mo dels\n"
    )
    journal = Command(root, capsys)
    assert journal("init").code == 0
    with open_server_sync(root, background=False) as hook:
        hook.append(EntityCreated("global", "Acme", "company"))
        hook.agents.write("wri ter", b"text")
    shutil.rmtree(root / "sub dir")
    shutil.rmtree(agents)
    assert journal("check").code == 1
    assert journal("recover", "all", "--yes").code == 0
    assert journal("check").code == 0
    assert (agents / "wri ter.md").read_bytes() == b"text"
    assert (root / "sub dir" / "mem ory.db").is_symlink()
