"""Agent files missing, old, edited, emptied, zeroed, linked away: each is told apart, and no edit is lost."""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from journal.errors import IOFault, Refused
from journal.storage import RealStorage
from replay.agents import (
    NAME_BYTES_MAX,
    READ_BYTES_MAX,
    TEMPORARY,
    AgentFact,
    Outcome,
    action_for,
    file_name,
    inspect,
)
from tests.agent_place import EDIT, NEW, OLD, TIME, Place, sha


@pytest.fixture
def place(tmp_path: Path) -> Place:
    return Place(tmp_path)


def test_current_files_are_ok_and_the_journal_is_not_scanned(place: Place) -> None:
    place.file.write_bytes(NEW)
    assert place.facts()["writer"].condition == "ok"
    assert place.asked == []
    assert place.bring() == Outcome()


def test_a_missing_file_is_written_byte_for_byte(place: Place) -> None:
    assert place.facts()["writer"].condition == "missing"
    assert place.bring().written == ["writer"]
    assert place.file.read_bytes() == NEW
    assert place.file.stat().st_mode & 0o777 == 0o600
    assert os.listdir(place.agents) == ["writer.md"]


def test_a_missing_directory_is_made(place: Place) -> None:
    place.agents.rmdir()
    place.bring()
    assert place.file.read_bytes() == NEW


def test_an_older_version_is_stale_and_replaced_without_quarantine(place: Place) -> None:
    place.file.write_bytes(OLD)
    assert place.facts()["writer"].condition == "stale"
    assert place.bring(drift="keep").written == ["writer"]
    assert place.file.read_bytes() == NEW
    assert place.set_aside() == []


def test_a_hand_edit_is_kept_until_someone_decides(place: Place) -> None:
    place.file.write_bytes(EDIT)
    fact = place.facts()["writer"]
    assert (fact.condition, fact.detail, fact.found, fact.expected) == ("drift", "", sha(EDIT), sha(NEW))
    assert place.bring(drift="keep") == Outcome(kept=["writer"])
    assert place.file.read_bytes() == EDIT


def test_a_hand_edit_goes_to_quarantine_with_time_and_reason(place: Place) -> None:
    place.file.write_bytes(EDIT)
    outcome = place.bring()
    (kept,) = place.set_aside()
    assert outcome.set_aside == {"writer": str(kept)}
    assert kept.name == "20251124T160000.123456789Z-writer.md"
    assert (kept / "writer.md").read_bytes() == EDIT
    note = json.loads((kept / "note.json").read_bytes())
    assert note == {"name": "writer.md", "kind": "file", "time": TIME, "reason": "recovery: drift", "target": None}
    assert place.file.read_bytes() == NEW


def test_two_edits_at_the_same_time_both_stay(place: Place) -> None:
    for edit in (EDIT, EDIT + b"more\n"):
        place.file.write_bytes(edit)
        place.bring()
    assert {(kept / "writer.md").read_bytes() for kept in place.set_aside()} == {EDIT, EDIT + b"more\n"}


def test_broken_yaml_is_a_detail_of_drift_with_its_line(place: Place) -> None:
    place.file.write_bytes(b"---\nname: writer\ndescription: Use when: it broke\n---\n")
    fact = place.facts()["writer"]
    assert (fact.condition, fact.detail) == ("drift", "broken_yaml")
    assert fact.message.startswith("line 3: frontmatter: ")


@pytest.mark.parametrize(
    ("content", "detail"), [(b"", "empty"), (bytes(len(NEW)), "nul_bytes"), (NEW[:20] + bytes(500), "nul_bytes")]
)
def test_what_a_crash_leaves_is_damage_and_replaced_without_asking(place: Place, content: bytes, detail: str) -> None:
    place.file.write_bytes(content)
    fact = place.facts()["writer"]
    assert (fact.condition, fact.detail) == ("damaged", detail)
    place.bring(drift="keep")
    assert place.file.read_bytes() == NEW
    assert (place.set_aside()[0] / "writer.md").read_bytes() == content


@pytest.mark.parametrize("content", [b"", bytes(100)])
def test_journaled_bytes_are_never_damage_whatever_they_look_like(place: Place, content: bytes) -> None:
    place.state["writer"] = (sha(content), content)
    place.file.write_bytes(content)
    assert place.facts()["writer"].condition == "ok"
    place.state["writer"] = (sha(NEW), NEW)
    place.history["writer"].add(sha(content))
    assert place.facts()["writer"].condition == "stale"


def test_a_link_is_never_followed_and_kept_as_a_note(place: Place, tmp_path: Path) -> None:
    """The link leads to the very bytes that belong there: it is damage all the same, and its target stays untouched."""
    target = tmp_path / "elsewhere.md"
    target.write_bytes(NEW)
    place.file.symlink_to(target)
    fact = place.facts()["writer"]
    assert (fact.condition, fact.detail, fact.found) == ("damaged", "link", None)
    place.bring(drift="keep")
    assert not place.file.is_symlink()
    assert place.file.read_bytes() == target.read_bytes() == NEW
    (kept,) = place.set_aside()
    assert os.listdir(kept) == ["note.json"]
    assert json.loads((kept / "note.json").read_bytes())["target"] == str(target)


def test_a_dangling_link_does_not_make_its_target(place: Place, tmp_path: Path) -> None:
    place.file.symlink_to(tmp_path / "nowhere.md")
    place.bring()
    assert place.file.read_bytes() == NEW
    assert not (tmp_path / "nowhere.md").exists()


def test_a_directory_under_the_name_is_moved_with_what_is_in_it(place: Place) -> None:
    place.file.mkdir()
    (place.file / "notes.txt").write_text("mine")
    assert place.facts()["writer"].detail == "not_a_file"
    place.bring()
    assert place.file.read_bytes() == NEW
    assert (place.set_aside()[0] / "writer.md" / "notes.txt").read_text() == "mine"


def test_a_pipe_under_the_name_is_not_opened(place: Place) -> None:
    os.mkfifo(place.file)
    assert place.facts()["writer"].detail == "not_a_file"
    place.bring()
    assert place.file.read_bytes() == NEW


def test_a_file_too_large_for_any_event_is_drift_and_never_read(place: Place) -> None:
    with place.file.open("wb") as file:
        file.truncate(READ_BYTES_MAX + 1)
    fact = place.facts()["writer"]
    assert (fact.condition, fact.detail, fact.found) == ("drift", "too_large", None)
    place.bring()
    assert (place.set_aside()[0] / "writer.md").stat().st_size == READ_BYTES_MAX + 1


@pytest.fixture
def unprivileged() -> Iterator[Path]:
    """A directory owned by a user who is not root, whom permissions bind; the test runs as that user."""
    with tempfile.TemporaryDirectory() as path:
        if os.geteuid() != 0:
            yield Path(path)
            return
        os.chown(path, 65534, 65534)
        os.seteuid(65534)
        try:
            yield Path(path)
        finally:
            os.seteuid(0)


def test_an_unreadable_file_is_moved_unread(unprivileged: Path) -> None:
    place = Place(unprivileged)
    place.file.write_bytes(EDIT)
    place.file.chmod(0)
    fact = place.facts()["writer"]
    assert (fact.condition, fact.detail) == ("damaged", "unreadable")
    place.bring()
    assert place.file.read_bytes() == NEW
    kept = place.set_aside()[0] / "writer.md"
    kept.chmod(0o600)
    assert kept.read_bytes() == EDIT


def test_a_removed_agents_file_goes_only_if_its_bytes_are_journaled(place: Place) -> None:
    file = place.agents / "gone.md"
    file.write_bytes(OLD)
    assert place.facts()["gone"].condition == "stale"
    assert place.bring(drift="keep").removed == ["gone"]
    assert not file.exists()
    file.write_bytes(EDIT)
    assert place.facts()["gone"].condition == "drift"
    assert place.bring(drift="keep").kept == ["gone"]
    assert file.read_bytes() == EDIT
    assert place.bring().set_aside.keys() == {"gone"}
    assert not file.exists()


def test_an_emptied_file_of_a_removed_agent_is_drift_since_nothing_replaces_it(place: Place) -> None:
    (place.agents / "gone.md").write_bytes(b"")
    assert (place.facts()["gone"].condition, place.facts()["gone"].detail) == ("drift", "empty")


def test_files_that_the_journal_never_saw_are_reported_and_left_alone(place: Place) -> None:
    (place.agents / "stranger.md").write_bytes(EDIT)
    (place.agents / "linked.md").symlink_to("/nowhere")
    (place.agents / "README.txt").write_bytes(b"no agent")
    (place.agents / os.fsdecode(b"caf\xe9.md")).write_bytes(EDIT)
    before = sorted(os.listdir(place.agents))
    facts = place.facts()
    assert {name: fact.condition for name, fact in facts.items()} == {
        "writer": "missing",
        "stranger": "unjournaled",
        "linked": "unjournaled",
        "caf\\xe9": "unjournaled",
    }
    json.dumps(list(facts), ensure_ascii=False).encode()  # each can be printed
    place.bring()
    assert sorted(os.listdir(place.agents)) == sorted([*before, "writer.md"])


@pytest.mark.parametrize(
    "name",
    ["../escape", "a/b", "/etc/passwd", "..", ".", "", "a\\b", "nul\0", "bell\a", "\ud800", "x" * 253, "é" * 127],
)
def test_a_row_whose_name_could_leave_the_directory_is_refused(place: Place, name: str) -> None:
    with pytest.raises(Refused, match="agent name"):
        file_name(name)
    place.state[name] = (sha(EDIT), EDIT)
    fact = place.facts()[name]
    assert (fact.condition, fact.detail) == ("refused", "unsafe_name")
    outcome = place.bring()
    assert (outcome.written, outcome.refused) == (["writer"], [name])
    assert [path.name for path in place.agents.parent.rglob("*") if path.is_file()] == ["writer.md"]


@pytest.mark.parametrize(
    "name", ["x.agent", "powershell-5.1-Expert", "Name With Spaces", "日本語", "é" * 126, ".hidden"]
)
def test_names_that_people_use_are_file_names(place: Place, name: str) -> None:
    assert len(name.encode()) <= NAME_BYTES_MAX
    place.state[name] = (sha(EDIT), EDIT)
    place.bring()
    file = place.agents / f"{name}.md"
    assert file.read_bytes() == EDIT
    place.history[name] = {sha(EDIT)}
    file.write_bytes(b"edited")
    place.bring()
    assert (Path(place.set_aside()[0]) / f"{name}.md").read_bytes() == b"edited"


def test_a_row_whose_content_is_not_what_its_sha256_says_is_not_made_into_a_file(place: Place) -> None:
    place.state["writer"] = (sha(NEW), EDIT)
    assert place.facts()["writer"].detail == "content_mismatch"
    assert place.bring().refused == ["writer"]
    assert not place.file.exists()


@pytest.mark.parametrize("before", [None, OLD, EDIT])
def test_an_edit_saved_after_the_facts_were_taken_is_not_overwritten(place: Place, before: bytes | None) -> None:
    if before is not None:
        place.file.write_bytes(before)
    facts = place.facts()
    place.file.write_bytes(EDIT + b"saved just now\n")
    assert place.bring(facts=facts).changed == ["writer"]
    assert place.file.read_bytes() == EDIT + b"saved just now\n"


def test_only_the_named_agents_are_looked_at(place: Place) -> None:
    (place.agents / "stranger.md").write_bytes(EDIT)
    (fact,) = inspect(place.storage, str(place.agents), place.state, place.versions, ["writer"])
    assert fact.name == "writer"


def test_every_condition_has_an_action() -> None:
    """The whole table: condition, whether the agent exists, and what becomes of the file under each policy."""
    table = {
        ("ok", True): ("none", "none"),
        ("ok", False): ("none", "none"),
        ("unjournaled", False): ("none", "none"),
        ("refused", True): ("refuse", "refuse"),
        ("missing", True): ("write", "write"),
        ("stale", True): ("write", "write"),
        ("stale", False): ("remove", "remove"),
        ("drift", True): ("keep", "set_aside_and_write"),
        ("drift", False): ("keep", "set_aside"),
        ("damaged", True): ("set_aside_and_write", "set_aside_and_write"),
    }
    for (condition, wanted), actions in table.items():
        fact = AgentFact("a", condition, expected=sha(NEW) if wanted else None)  # type: ignore[arg-type]
        assert (action_for(fact, drift="keep"), action_for(fact, drift="set_aside")) == actions


def test_a_full_disk_keeps_the_file_that_was_there(place: Place) -> None:
    class Full(RealStorage):
        def replace(self, source: str, target: str) -> None:
            raise IOFault("injected", path=target)

    place.file.write_bytes(OLD)
    place.storage = Full()
    with pytest.raises(IOFault):
        place.bring()
    assert place.file.read_bytes() == OLD


def test_a_temporary_file_of_an_earlier_crash_is_in_nobodys_way(place: Place) -> None:
    (place.agents / TEMPORARY).symlink_to("/nowhere")
    place.bring()
    assert os.listdir(place.agents) == ["writer.md"]
