"""What is built beside and thrown away goes a few MiB at a time, and never takes anything else with it."""

from __future__ import annotations

import os
from itertools import pairwise
from pathlib import Path

import pytest

from journal.storage import RealStorage
from replay.working import discard, throw_away

MIB = 1 << 20


def test_a_large_file_is_freed_in_pieces(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Scenario: a checkpoint throws its 270 MB draft away. Freed at once, it kept a commit's sync waiting for 20 ms."""
    usual, lengths = os.ftruncate, [20 * MIB]
    monkeypatch.setattr("os.ftruncate", lambda fd, length: (lengths.append(length), usual(fd, length)))
    path = tmp_path / "draft.db"
    for name in (path, Path(f"{path}-wal")):
        name.write_bytes(bytes(20 * MIB))
    discard(RealStorage(), str(path))
    assert list(tmp_path.iterdir()) == []
    freed = [before - after for before, after in pairwise([*lengths[:5], 0])]
    assert freed == [4 * MIB] * 5
    assert len(lengths) == 9


def test_what_has_another_name_keeps_its_bytes(tmp_path: Path) -> None:
    """Scenario: somebody links a file of theirs to where a scratch file lies, by a hard or a symbolic link."""
    theirs = tmp_path / "theirs"
    theirs.write_bytes(b"x" * 9 * MIB)
    os.link(theirs, tmp_path / "hard.db")
    (tmp_path / "soft.db").symlink_to(theirs)
    for name in ("hard.db", "soft.db"):
        throw_away(RealStorage(), str(tmp_path / name))
    assert theirs.read_bytes() == b"x" * 9 * MIB
    assert os.listdir(tmp_path) == ["theirs"]
