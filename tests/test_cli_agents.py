"""`journal agents`: what an operator asks of agents, of broken and strange ones above all."""

from __future__ import annotations

import os
import shlex
import shutil
from pathlib import Path

import pytest

from journal.events import ConfigRejected, StatusChanged
from recovery import open_server_sync
from recovery.cli.app import run
from recovery.data import Data
from tests.commands import Command, process, small_history
from tests.damage import tree
from tests.journals import segment_files

VALID = b"---\nname: clerk\ndescription: Files things.\n---\nBody.\n"
COLON = b"---\nname: clerk\ndescription: Files: things\n---\n"


@pytest.fixture
def command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Command:
    small_history(tmp_path / "data")
    return Command(tmp_path / "data", capsys)


def grow(command: Command) -> None:
    """11: valid, 12: a colon too many, 13: rejected, 14: removed, 15: restored to 11, 16: bytes that are no text."""
    with open_server_sync(command.data, background=False) as hook:
        hook.agents.write("clerk", VALID, agent="boss")
        hook.agents.write("clerk", COLON, actor="ann")
        hook.append(ConfigRejected("clerk", b"\xff", ["no text"]))
        hook.agents.remove("clerk")
        hook.restore(11)
        hook.agents.write("bytes", b"\xff\xfe")


def test_a_list_of_what_is_there_and_what_is_wrong_with_it(command: Command) -> None:
    grow(command)
    (command.data / "agents" / "stray.md").write_bytes(VALID)
    (command.data / "agents" / "writer.md").write_bytes(b"edited")
    before = tree(command.data)
    listed = {each["name"]: each for each in command.json("agents", "list")["agents"]}
    assert tree(command.data) == before
    assert {name: (each["status"], each["valid"], each["file"]) for name, each in listed.items()} == {
        "bytes": ("active", False, "ok"),
        "clerk": ("active", True, "ok"),
        "stray": (None, None, "unjournaled"),
        "writer": ("suspended", False, "drift"),
    }
    assert listed["writer"]["reason"] == "too chatty"
    told = command("agents", "list")
    assert told.code == 0
    assert [line.split()[0] for line in told.out.splitlines()] == ["NAME", "bytes", "clerk", "stray", "writer"]


def test_a_damaged_journal_leaves_files_unknown_and_not_missing(command: Command) -> None:
    """An edit makes the list scan the journal for old versions, and there it meets the damage."""
    with open_server_sync(command.data, background=False) as hook:
        hook.checkpoint()
    shutil.rmtree(command.data / "journal" / "parity", ignore_errors=True)
    (command.data / "agents" / "stray.md").write_bytes(VALID)
    segment = next(each for each in segment_files(str(command.data / "journal")) if b"renewed" in each.read_bytes())
    segment.write_bytes(segment.read_bytes().replace(b"renewed", b"\xee" * 7))
    told = command("agents", "list")
    assert (told.code, "agent files were not compared" in told.err) == (3, True), told
    listed = command("agents", "list", "--json")
    assert {each["name"]: each["file"] for each in listed.json()["agents"]} == {"writer": "unknown"}


def test_a_name_that_begins_with_a_dash_is_told_as_the_shell_takes_it(command: Command) -> None:
    (command.data / "agents" / "-d ash.md").write_bytes(VALID)
    (command.data / "agents" / "folder.md").mkdir()
    told = command("check")
    hint = next(line for line in told.out.splitlines() if "agent -d ash" in line).partition(" - journal ")[2]
    assert command(*shlex.split(hint)).code == 0
    assert command("agents", "show", "--", "-d ash").out.encode() == VALID
    folder = next(line for line in told.out.splitlines() if "agent folder" in line)
    assert "a directory" in folder
    assert "adopt" not in folder, "it could not be adopted"


def test_a_config_of_any_moment_byte_for_byte(command: Command) -> None:
    grow(command)
    assert command.json("agents", "show", "bytes")["content_base64"] == "//4="
    for seq in ("11", "15", "seq:16"):
        assert command("agents", "show", "clerk", "--at", seq).out.encode() == VALID
    shown = command.json("agents", "show", "clerk", "--at", "12")
    assert (shown["content"].encode(), shown["findings"][0]["line"]) == (COLON, 3)
    missing = command("agents", "show", "clerk", "--at", "14")
    assert (missing.code, missing.out) == (2, "")
    near = command("agents", "show", "clrk")
    assert "did you mean clerk?" in near.err
    assert process(command.data, "agents", "show", "bytes", text=False).stdout == b"\xff\xfe"


def test_it_is_shown_although_memory_db_is_gone(command: Command) -> None:
    grow(command)
    os.unlink(command.data / "memory.db")
    assert command("agents", "show", "clerk").out.encode() == VALID
    assert len(command.json("agents", "list")["agents"]) == 3


def test_every_version_with_who_when_and_whether_it_was_valid(command: Command) -> None:
    grow(command)
    told = command.json("agents", "history", "clerk")["history"]
    assert [(each["seq"], each["kind"], each["valid"], each["agent"] or each["actor"]) for each in told] == [
        (11, "written", True, "boss"),
        (12, "written", False, "ann"),
        (13, "rejected", False, None),
        (14, "removed", None, None),
        (15, "restored", True, "journal"),
    ]
    assert told[0]["sha256"] == told[4]["sha256"]
    assert told[2]["reason"] == "no text"
    assert command("agents", "history", "nobody").code == 2
    lines = command("agents", "history", "clerk").out.splitlines()
    assert [line.split()[0] for line in lines] == ["SEQ", "11", "12", "13", "14", "15"]


@pytest.mark.parametrize("target", [0, 11, 12, 14])
def test_a_restore_is_history_only_where_it_changed_the_agent(command: Command, target: int) -> None:
    grow(command)
    with open_server_sync(command.data, background=False) as hook:
        hook.restore(target)  # 17
    now = [file for file in os.listdir(command.data / "agents") if file == "clerk.md"]
    told = command.json("agents", "history", "clerk")["history"]
    changed = target != 11
    assert (told[-1]["seq"] == 17) == changed
    assert bool(now) == (target in (11, 12))
    if changed:
        assert (told[-1]["sha256"] is not None) == bool(now)


def test_findings_by_line_for_agents_and_files(command: Command, tmp_path: Path) -> None:
    draft = tmp_path / "draft.md"
    draft.write_bytes(COLON)
    ran = command("agents", "validate", str(draft))
    assert ran.code == 1
    assert ran.out.splitlines()[0].startswith(f"{draft}:3: error: frontmatter: mapping values")
    (command.data / "journal.yaml").write_text("agents: {schema: caxton}\n")
    draft.write_bytes(b'---\nname: draft\nversion: "1"\ntools: x\ncapabilities: []\nsystem_prompt: |\n  Do.\n---\n')
    found = command("agents", "validate", str(draft), "--json").json()
    assert [(each["line"], each["code"]) for each in found["agents"][0]["findings"]] == [
        (3, "bad_value"), (4, "bad_value"),
    ]  # fmt: skip
    everything = command("agents", "validate", "--json").json()
    assert [(each["name"], each["valid"]) for each in everything["agents"]] == [("writer", False)]
    assert command("agents", "validate", "writr").code == 2
    assert command("agents", "validate", str(tmp_path / "none.md")).code == 2
    assert command("agents", "validate", str(tmp_path) + "/").code == 2


def test_suspending_and_resuming_is_journaled_once(command: Command) -> None:
    grow(command)
    assert command.json("agents", "suspend", "clerk", "--reason", "on leave")["agents"][0]["seq"] == 17
    assert command("agents", "suspend", "clerk", "--reason", "on leave").out == "agent clerk is suspended: as it was\n"
    assert command("agents", "suspend", "clerk").out == "agent clerk is suspended: as it was\n", "its reason stays"
    assert command("agents", "resume", "clerk", "writer").code == 0
    records = [record for batch in Data.at(command.data).reader().batches(17) for record in batch.records()]
    assert [record.event for record in records] == [
        StatusChanged("clerk", "suspended", "on leave"), StatusChanged("clerk", "active"),
        StatusChanged("writer", "active"),
    ]  # fmt: skip
    assert {record.actor for record in records} == {"operator"}
    refused = command("agents", "resume", "clerk", "nobody")
    assert refused.code == 2
    assert Data.at(command.data).reader().last_seq == 19, "one name of no agent, and nothing is journaled"
    assert command("check").code == 0


def test_names_are_completed(command: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    grow(command)
    (command.data / "agents" / "clone.md").write_bytes(VALID)

    def completed(*words: str) -> list[str]:
        monkeypatch.setenv("_JOURNAL_COMPLETE", "bash_complete")
        monkeypatch.setenv("COMP_WORDS", " ".join(["journal", "--data", str(command.data), *words]))
        monkeypatch.setenv("COMP_CWORD", str(len(words) + 2))
        command.capsys.readouterr()
        run([])
        monkeypatch.delenv("_JOURNAL_COMPLETE")
        return [line.partition(",")[2] for line in command.capsys.readouterr().out.splitlines()]

    assert completed("agents", "show", "cl") == ["clerk", "clone"]
    assert completed("recover", "agents", "--agent", "w") == ["writer"]
    assert completed("adopt", "agents", "clo") == ["clone"]
    assert completed("show", "--entity", "A") == ["Acme"]
    assert completed("log", "--entity", "Ac") == ["Acme"]
