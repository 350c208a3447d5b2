"""Everything that is made is for its owner alone, whatever the umask says: files 0600, directories 0700."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest

from journal.events import EntityCreated, ObservationAdded
from recovery import open_server_sync
from tests.commands import CONFIG, Command, process


@pytest.fixture
def open_umask() -> Iterator[None]:
    before = os.umask(0)
    yield
    os.umask(before)


def modes(*roots: Path) -> dict[str, str]:
    """path → mode of whatever is not its owner's alone. Links have no mode of their own."""
    wrong = {}
    for root in roots:
        for path in [root, *root.rglob("*")]:
            status = path.lstat()
            wanted = 0o700 if stat.S_ISDIR(status.st_mode) else 0o600
            if not stat.S_ISLNK(status.st_mode) and stat.S_IMODE(status.st_mode) != wanted:
                wrong[str(path)] = oct(stat.S_IMODE(status.st_mode))
    return wrong


def test_after_every_verb_and_while_a_server_runs(tmp_path: Path, capsys, open_umask: None) -> None:
    data = tmp_path / "data"
    journal = Command(data, capsys)
    outside = [tmp_path / name for name in ("then", "backup", "heads")]
    outside[2].mkdir(mode=0o700)
    assert journal("init").code == 0
    with open_server_sync(data, background=False) as hook:
        hook.append(EntityCreated("global", "Acme", "company"))
        hook.agents.write("writer", CONFIG)
        hook.checkpoint()
        hook.append(ObservationAdded("global", "Acme", "renewed"))
        assert modes(data) == {}, "-wal and -shm too"
    assert process(data, "append", input="", umask=0).returncode == 0
    (data / "agents" / "writer.md").write_text("an edit\n")
    os.chmod(data / "agents" / "writer.md", 0o600)
    for words in (
        ["check"], ["status"], ["verify"], ["verify", "--deep"], ["log"], ["show", "1"], ["diff", "1", "now"],
        ["tag", "here"], ["checkpoint", "create"], ["checkpoint", "verify"], ["checkpoint", "prune"],
        ["replay", "--until", "2", "-o", str(outside[0])], ["backup", str(outside[1])],
        ["backup", str(outside[1])], ["head", "-o", str(outside[2] / "head")], ["agents", "suspend", "writer"],
        ["agents", "resume", "writer"], ["replay", "--until", "2", "--in-place", "--yes"],
        ["replay", "--until", "3", "--in-place", "--yes"], ["adopt", "agents", "writer"],
        ["recover", "agents", "--yes"], ["recover", "all", "--yes"],
    ):  # fmt: skip
        ran = journal(*words)
        assert ran.code in (0, 3), (words, ran)
        assert modes(data, *filter(Path.exists, outside)) == {}, words
    (data / "memory.db").unlink()
    for path in data.glob("memory-*"):
        path.unlink()
    assert journal("recover", "all", "--yes").code == 0
    assert journal("recover", "--from", str(outside[1]), "--yes").code in (0, 2)
    assert modes(data, *outside) == {}

