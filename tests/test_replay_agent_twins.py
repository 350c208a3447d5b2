"""Two agents whose files are one: on a file system that folds case the second is refused, and nothing is overwritten.

The file system is a real one (NTFS by FUSE, mounted to ignore case): where it cannot be mounted, these say so and skip.
"""

from __future__ import annotations

import hashlib
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from journal.errors import EnvironmentFault, Refused
from journal.events import ConfigRemoved, ConfigWritten
from journal.storage import RealStorage
from recovery import open_server_sync
from recovery.data import Data
from replay.agent_twins import are_one, folded, groups, would_be_one
from replay.agents import inspect, write_files
from tests.loopdisk import folding
from tests.test_recovery_damage import journal


@pytest.fixture
def agents(tmp_path: Path) -> Iterator[Path]:
    try:
        with folding(tmp_path) as place:
            yield place
    except (FileNotFoundError, subprocess.CalledProcessError) as error:
        told = error.stderr if isinstance(error, subprocess.CalledProcessError) else error
        pytest.skip(f"NO FILE SYSTEM THAT FOLDS NAMES can be mounted here (ntfs-3g, /dev/fuse, root): {told}")


@pytest.fixture
def root(agents: Path, tmp_path: Path) -> Path:
    """A data directory whose agents lie there."""
    root = tmp_path / "data"
    root.mkdir()
    (root / "journal.yaml").write_text(f"paths:\n  agents: {agents}/agents\n")
    assert journal(["init", "--data", str(root)]) == 0
    return root


def found_in(agents: Path) -> dict[str, bytes]:
    """This one lists every name in lower case, however it was written."""
    return {path.name.lower(): path.read_bytes() for path in (agents / "agents").iterdir()}


@pytest.mark.parametrize("names", [("Writer", "writer"), ("STRASSE", "straße"), ("caf\u00e9", "cafe\u0301"),
                                   ("\u212bngstrom", "\u00e5ngstrom"), ("a\u200db", "ab"), ("ﬁx", "FIX")])  # fmt: skip
def test_names_that_some_file_system_takes_for_one_are_found(names: tuple[str, str]) -> None:
    assert folded(names[0]) == folded(names[1])
    assert groups([*names, "other"]) == [sorted(names)]


def test_where_names_are_told_apart_twins_live_side_by_side(tmp_path: Path) -> None:
    for one, other in (("Writer", "writer"), ("caf\u00e9", "cafe\u0301")):
        assert would_be_one(RealStorage(), str(tmp_path), one, other) is False
    assert os.listdir(tmp_path) == []
    assert journal(["init", "--data", str(tmp_path)]) == 0
    with open_server_sync(tmp_path, background=False) as hook:
        hook.append_all([ConfigWritten("Writer", b"one"), ConfigWritten("writer", b"two")])
        hook.append(ConfigWritten("caf\u00e9", b"three"))
        hook.append(ConfigWritten("cafe\u0301", b"four"))
    found = {path.name: path.read_bytes() for path in (tmp_path / "agents").iterdir()}
    assert found == {"Writer.md": b"one", "writer.md": b"two", "caf\u00e9.md": b"three", "cafe\u0301.md": b"four"}


@pytest.mark.parametrize("name", ["CON", "nul", "aux.txt", "-rf", ".hidden", "~", "LPT1", "a:b", "desktop.ini"])
def test_names_that_other_systems_reserve_are_names_here(tmp_path: Path, name: str) -> None:
    assert journal(["init", "--data", str(tmp_path)]) == 0
    with open_server_sync(tmp_path, background=False) as hook:
        hook.append(ConfigWritten(name, b"content"))
    assert (tmp_path / "agents" / f"{name}.md").read_bytes() == b"content"
    assert journal(["check", "--data", str(tmp_path)]) == 0


def test_the_second_of_two_is_refused_until_the_first_is_gone(root: Path, agents: Path) -> None:
    with open_server_sync(root, background=False) as hook:
        hook.append(ConfigWritten("Writer", b"one"))
        for refused in (
            lambda: hook.append(ConfigWritten("writer", b"two")),
            lambda: hook.append_all([ConfigWritten("new", b"three"), ConfigWritten("NEW", b"four")]),
        ):
            with pytest.raises(Refused, match="takes the two names for one") as raised:
                refused()
            assert raised.value.code == "unsafe_name"
        assert found_in(agents) == {"writer.md": b"one"}
        hook.append(ConfigWritten("Writer", b"one, changed"))
        hook.append(ConfigRemoved("Writer"))
        hook.append(ConfigWritten("writer", b"two"))
        assert found_in(agents) == {"writer.md": b"two"}
    assert journal(["check", "--data", str(root)]) == 0


def test_a_journal_that_holds_both_keeps_one_file_and_names_the_other(root: Path, agents: Path, capsys) -> None:
    """It was written where names are told apart, and moved: the state stays whole, and no file is overwritten."""
    config = root / "journal.yaml"
    told_apart, folds = "paths:\n  agents: apart\n", config.read_text()
    config.write_text(told_apart)
    with open_server_sync(root, background=False) as hook:
        hook.append_all([ConfigWritten("Writer", b"one"), ConfigWritten("writer", b"two")])
    config.write_text(folds)
    for _ in range(3):
        journal(["recover", "all", "--yes", "--data", str(root)])
        assert found_in(agents) == {"writer.md": b"one"}
    capsys.readouterr()
    assert journal(["check", "--data", str(root)]) != 0
    assert "takes the two names for one" in capsys.readouterr().out
    data = Data.at(root)
    both = {"Writer": b"one", "writer": b"two"}
    current = {name: (hashlib.sha256(text).hexdigest(), text) for name, text in both.items()}
    conditions = {each.name: each.detail for each in inspect(data.storage, data.layout.agents, current, lambda _: ())}
    assert conditions["writer"] == "twin"
    with pytest.raises(EnvironmentFault, match="for one file"):
        write_files(data.storage, f"{agents}/copy", [("Writer", b"one"), ("writer", b"two")])
    assert (agents / "copy" / "Writer.md").read_bytes() == b"one"
    config.write_text(told_apart)
    assert journal(["check", "--data", str(root)]) == 0


def test_the_directory_is_asked_by_what_lies_there(agents: Path) -> None:
    storage, place = RealStorage(), str(agents)
    assert are_one(storage, place, "Writer", "writer") is None
    assert would_be_one(storage, place, "Writer", "writer") is True
    assert storage.list(place) == []
    (agents / "Writer.md").write_bytes(b"")
    assert are_one(storage, place, "Writer", "writer") is True
    assert are_one(storage, place, "writer", "Writer") is True
    assert are_one(storage, place, "Writer", "writers") is False
    (agents / "writers.md").write_bytes(b"")
    assert are_one(storage, place, "Writer", "writers") is False
