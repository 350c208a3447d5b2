"""Agent configs that were broken, each in its own way: the last good version comes back, from wherever there is one.

What comes back is journaled with its source, what lay there is in quarantine, and each place that was looked into
before is named with the reason why it would not do.
"""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from journal.events import ConfigWritten, Event, RecoveryStepCompleted
from recovery import open_server_sync
from recovery.data import Data
from recovery.decide import decide
from recovery.diagnose import diagnose
from recovery.execute import recover
from recovery.recovered import Recovered
from recovery.setup import initialise
from replay.agent_format import minimal, validate
from tests.commands import Command
from tests.damage import files, tree

GOOD = b"---\nname: writer\ndescription: Writes letters.\n---\n\nYou write letters.\n"
BETTER = b"---\nname: writer\ndescription: Writes long letters.\n---\n\nYou write long letters.\n"
COLON = b"---\nname: writer\ndescription: Writes: letters\n---\nBody.\n"
HALF = b"---\nname: writer\ndescr"


@pytest.fixture
def root(tmp_path: Path) -> Path:
    initialise(str(tmp_path / "data"))
    return tmp_path / "data"


def strict(root: Path, **more: str) -> None:
    lines = "".join(f"  {key}: {value}\n" for key, value in {"validation": "strict", **more}.items())
    (root / "journal.yaml").write_text(f"agents:\n{lines}")


def events(root: Path) -> list[Event]:
    return [record.event for batch in Data.at(root).reader().batches() for record in batch.records()]


def write(root: Path, *versions: bytes, name: str = "writer") -> None:
    """Journaled while nobody asked whether they are valid."""
    config = root / "journal.yaml"
    kept = config.read_bytes() if config.exists() else None
    config.unlink(missing_ok=True)
    with open_server_sync(root, background=False) as hook:
        for version in versions:
            hook.agents.write(name, version)
    if kept is not None:
        config.write_bytes(kept)


def lay(root: Path, content: bytes, name: str = "writer") -> Path:
    path = root / "agents" / f"{name}.md"
    path.write_bytes(content)
    return path


def run(root: Path, *names: str) -> Recovered:
    before = tree(root)
    plan, go = recover(Data.at(root), "agents", names=names)
    assert tree(root) == before, "planning changed something"
    assert plan.steps
    return go(None)


def cases(root: Path, *asked: str) -> dict[str, str]:
    return {each.component: each.case for each in decide(diagnose(Data.at(root), asked=asked))}


def assert_rescued(root: Path, strategy: str, content: bytes, *, name: str = "writer") -> Recovered:
    """It is brought back by `strategy`, journaled in one group with its source, and a second run finds nothing."""
    path = root / "agents" / f"{name}.md"
    damaged = path.read_bytes() if path.exists() else None
    known = {each.content for each in events(root) if isinstance(each, ConfigWritten)}
    result = run(root)
    (rescued,) = result.rescued
    assert (rescued.name, rescued.strategy) == (name, strategy)
    assert path.read_bytes() == content
    written, told = events(root)[rescued.seq - 1 : rescued.seq + 1]
    assert isinstance(written, ConfigWritten)
    assert (written.name, written.content, written.origin) == (name, content, "recovery")
    assert isinstance(told, RecoveryStepCompleted)
    assert (told.component, told.strategy, told.recovery_id) == (f"agent {name}", strategy, result.recovery_id)
    assert rescued.source in told.reason
    assert all(each in told.reason for each in rescued.passed_over)
    if damaged is not None and damaged not in known:
        assert damaged in files(root / "journal" / "quarantine").values(), "the damaged bytes are gone"
    assert cases(root)[f"agent {name}"] == "ok"
    assert recover(Data.at(root), "all")[0].steps == ()
    return result


def git(directory: Path, *words: str) -> str:
    names = ("-c", "user.name=t", "-c", "user.email=t@example.org", "-c", "commit.gpgsign=false")
    ran = subprocess.run(["git", *names, *words], cwd=directory, capture_output=True, text=True, check=True)
    return ran.stdout


def committed(directory: Path, *versions: bytes, name: str = "writer", top: Path | None = None) -> None:
    """A repository at `top` whose commits have these versions of the file in `directory`."""
    top = top or directory
    git(top, "init", "-q")
    for version in versions:
        (directory / f"{name}.md").write_bytes(version)
        git(top, "add", "-f", str(directory / f"{name}.md"))
        git(top, "commit", "-q", "--allow-empty", "-m", "a version")


# -- the journal first ------------------------------------------------------------------------------------------------


def test_an_agent_that_broke_its_own_config_gets_the_last_valid_version(root: Path) -> None:
    strict(root)
    write(root, GOOD, BETTER, COLON, HALF)
    assert cases(root)["agent writer"] == "invalid"
    result = assert_rescued(root, "journal", BETTER)
    assert len(result.rescued[0].passed_over) == 2
    assert "line 3" in result.rescued[0].passed_over[1]


def test_a_damaged_file_gets_the_valid_version_and_not_the_journaled_one(root: Path) -> None:
    strict(root)
    write(root, GOOD, HALF)
    lay(root, b"\x00" * 40)
    assert_rescued(root, "journal", GOOD)


def test_a_missing_file_whose_journaled_version_is_invalid(root: Path) -> None:
    strict(root)
    write(root, GOOD, HALF)
    (root / "agents" / "writer.md").unlink()
    assert_rescued(root, "journal", GOOD)


def test_lenient_takes_what_its_server_took(root: Path) -> None:
    """A config that strict YAML refuses loads in many a server: recovery changes it only where it is asked to."""
    write(root, GOOD, COLON)
    assert cases(root)["agent writer"] == "ok"
    assert cases(root, "writer")["agent writer"] == "ok"
    assert recover(Data.at(root), "all")[0].steps == ()
    write(root, b"")
    assert recover(Data.at(root), "all")[0].steps == ()
    assert cases(root, "writer")["agent writer"] == "invalid", "empty is no config in any mode, if somebody asks"
    assert run(root, "writer").rescued[0].source == "seq 2"
    assert (root / "agents" / "writer.md").read_bytes() == COLON


def test_a_journaled_version_under_another_schema_is_not_valid(root: Path) -> None:
    """The server needs Caxton's keys, and all that was ever journaled has two of them."""
    strict(root, schema="caxton")
    write(root, GOOD)
    decisions = {each.component: each for each in decide(diagnose(Data.at(root), asked=()))}
    assert (decisions["agent writer"].case, decisions["agent writer"].action) == ("invalid", "keep")
    assert "--agent writer" in decisions["agent writer"].hint
    assert recover(Data.at(root), "all")[0].steps == (), "it can be read, and may be all there is"
    result = run(root, "writer")
    assert (result.rescued[0].strategy, result.agents_written) == ("minimal", ["writer"])
    assert any("capabilities" in each or "version" in each for each in result.rescued[0].passed_over)
    assert (root / "agents" / "writer.md").read_bytes() == minimal("writer", None)


def test_a_recovery_that_is_cut_behind_its_event_is_finished_by_the_next(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The config is journaled, and the file is not written yet: nothing is brought back twice."""
    strict(root)
    write(root, GOOD, HALF)
    lay(root, b"\x00" * 40)

    def cut(*given: object, **more: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patches:
        patches.setattr("recovery.agents.steps.renew_agents", cut)
        with pytest.raises(KeyboardInterrupt):
            recover(Data.at(root), "all")[1](None)
    assert (root / "agents" / "writer.md").read_bytes() == b"\x00" * 40
    plan, go = recover(Data.at(root), "all")
    assert plan.resumed
    go(None)
    assert (root / "agents" / "writer.md").read_bytes() == GOOD
    assert [each.content for each in events(root) if isinstance(each, ConfigWritten)] == [GOOD, HALF, GOOD]
    assert b"\x00" * 40 in files(root / "journal" / "quarantine").values()
    assert recover(Data.at(root), "all")[0].steps == ()


# -- what the journal never saw ---------------------------------------------------------------------------------------


def test_git_has_it_at_the_top_of_a_repository(root: Path) -> None:
    committed(root / "agents", BETTER, GOOD, HALF, b"")
    before = (root / "agents" / ".git" / "index").read_bytes()
    head = git(root / "agents", "rev-parse", "HEAD")
    lay(root, b"\x00\x00")
    result = assert_rescued(root, "git", HALF)  # lenient: half a file is what somebody may have written
    assert "HEAD~1" in result.rescued[0].source
    assert (root / "agents" / ".git" / "index").read_bytes() == before
    assert git(root / "agents", "rev-parse", "HEAD") == head


def test_git_has_it_below_the_top_and_strict_goes_on_to_a_valid_one(root: Path, tmp_path: Path) -> None:
    strict(root)
    committed(root / "agents", BETTER, GOOD, COLON, HALF, b"", top=tmp_path)
    lay(root, b"\x00\x00")
    git(tmp_path, "add", "-A", "--", ".")  # what is staged is damaged too, and stays staged
    index = (tmp_path / ".git" / "index").read_bytes()
    result = assert_rescued(root, "git", GOOD)
    assert "HEAD~3" in result.rescued[0].source
    assert [each.split(" ")[0] for each in result.rescued[0].passed_over] == ["journal", "git", "git", "git"]
    assert (tmp_path / ".git" / "index").read_bytes() == index


def test_git_is_not_asked_beyond_five_commits_before_head(root: Path) -> None:
    strict(root)
    committed(root / "agents", GOOD, b"1", b"2", b"3", b"4", b"5", b"6")
    lay(root, b"\x00")
    assert_rescued(root, "minimal", minimal("writer", None))


def test_an_environment_that_leads_to_another_repository(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As under a hook of git, which exports GIT_DIR."""
    other = tmp_path / "other"
    other.mkdir()
    committed(other, BETTER)
    committed(root / "agents", GOOD)
    lay(root, b"")
    monkeypatch.setenv("GIT_DIR", str(other / ".git"))
    monkeypatch.setenv("GIT_WORK_TREE", str(other))
    assert_rescued(root, "git", GOOD)


def test_the_backup_directory_has_it(root: Path, tmp_path: Path) -> None:
    (tmp_path / "backup").mkdir()
    (tmp_path / "backup" / "writer.md").write_bytes(BETTER)
    strict(root, backup=str(tmp_path / "backup"))
    lay(root, b"\x00" * 100)
    result = assert_rescued(root, "backup", BETTER)
    assert result.rescued[0].passed_over[0] == "journal (no version): it was never journaled"
    assert result.rescued[0].passed_over[1].startswith("git (git): ")


def test_a_backup_that_is_damaged_too_is_passed_over(root: Path, tmp_path: Path) -> None:
    (tmp_path / "backup").mkdir()
    (tmp_path / "backup" / "writer.md").write_bytes(b"\x00")
    strict(root, backup=str(tmp_path / "backup"))
    lay(root, COLON + b"\x00")
    assert_rescued(root, "repair", b'---\nname: writer\ndescription: "Writes: letters"\n---\nBody.\n')


def test_what_is_left_of_the_bytes_is_repaired(root: Path) -> None:
    strict(root)
    lay(root, b"name: writer\ndescription: Writes: letters\n\nYou write.\x00\x00\n")
    result = assert_rescued(root, "repair", b'---\nname: writer\ndescription: "Writes: letters"\n---\n\nYou write.\n')
    assert "removed 2 NUL bytes" in result.rescued[0].source


def test_every_journaled_version_is_bad_and_the_last_one_is_repaired(root: Path) -> None:
    strict(root)
    write(root, b"", COLON)
    assert_rescued(root, "repair", b'---\nname: writer\ndescription: "Writes: letters"\n---\nBody.\n')


@pytest.mark.parametrize("name", ["writer", "a b", "été", "x'\"#: ]"])
def test_nothing_is_left_and_a_minimal_config_says_so(root: Path, name: str) -> None:
    lay(root, b"", name)
    content = minimal(name, None)
    assert validate(name, content, "strict").findings == ()
    assert_rescued(root, "minimal", content, name=name)


def test_a_name_that_no_event_takes_is_left_alone(root: Path) -> None:
    lay(root, b"", " ")
    os.mkdir(root / "agents" / "more.md")
    decisions = {each.component: each for each in decide(diagnose(Data.at(root), asked=()))}
    assert (decisions["agent  "].case, decisions["agent  "].action) == ("broken", "keep")
    assert decisions["agent more"].case == "no_file", "a directory is nobody's config, unless somebody asks"
    assert recover(Data.at(root), "all")[0].steps == ()


def test_a_missing_agent_that_the_journal_never_saw_comes_back_from_the_backup_only_when_asked(
    root: Path, tmp_path: Path
) -> None:
    (tmp_path / "backup").mkdir()
    (tmp_path / "backup" / "writer.md").write_bytes(GOOD)
    (tmp_path / "backup" / "gone.md").write_bytes(GOOD)
    strict(root, backup=str(tmp_path / "backup"))
    with open_server_sync(root, background=False) as hook:
        hook.agents.write("gone", GOOD)
        hook.agents.remove("gone")
    assert cases(root) == {"journal": "ok", "memory": "healthy", "agent writer": "elsewhere"}
    assert recover(Data.at(root), "all")[0].steps == ()
    result = run(root, "writer")
    assert (result.rescued[0].strategy, result.agents_written) == ("backup", ["writer"])
    assert cases(root)["agent writer"] == "ok"


def test_an_extra_file_that_is_valid_is_reported_and_left_alone(root: Path) -> None:
    strict(root)
    lay(root, GOOD)
    assert cases(root)["agent writer"] == "unjournaled"
    assert recover(Data.at(root), "all")[0].steps == ()


def test_a_server_opens_with_it_and_leaves_it_to_a_person(root: Path) -> None:
    lay(root, b"")
    with open_server_sync(root, background=False) as hook:
        assert [each.case for each in hook.kept] == ["unjournaled"]
    assert (root / "agents" / "writer.md").read_bytes() == b""


def test_the_report_names_what_was_tried(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    strict(root)
    write(root, GOOD, COLON)
    command = Command(root, capsys)
    checked = command("check")
    assert checked.code == 1
    assert "line 3" in checked.out
    assert "journal recover agents --agent writer" in checked.out
    dry = command("recover", "agents", "--dry-run")
    assert "its last valid version is seq 1" in dry.out
    ran = command("recover", "agents", "--yes")
    assert "agent writer: journal, seq 1" in ran.out
    assert "passed over journal (seq 2): line 3" in ran.out
    assert command("check").code == 0


def test_what_is_left_to_a_person_is_said(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A legible config that only lacks what the schema asks for gives way to a minimal one only by name."""
    strict(root)
    write(root, b"---\ndescription: No name.\n---\nBody.\n")
    command = Command(root, capsys)
    ran = command("recover", "all", "--yes")
    assert (ran.code, ran.out.splitlines()[0]) == (0, "nothing to do")
    assert "left as it is: agent writer" in ran.out
    assert ran.out.endswith(" - journal recover agents --agent writer\n")
    assert [each["component"] for each in command.json("recover", "agents", "--dry-run")["plan"]["left"]] == [
        "agent writer"
    ]
    assert command("recover", "agents", "--agent", "writer", "--yes").code == 0
    assert command("check").code == 0
