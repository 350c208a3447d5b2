"""A user names a file to be written: a pipe, a device, the live memory.db, a full disk."""

from __future__ import annotations

import json
import os
import stat
import threading
from pathlib import Path

import pytest

from tests.commands import process, small_history

VERBS = (("head", "-o"), ("report", "-o"))


@pytest.fixture
def data(tmp_path: Path) -> Path:
    small_history(tmp_path / "data")
    return tmp_path / "data"


@pytest.mark.parametrize("words", VERBS)
def test_a_pipe_is_written_to_and_not_replaced(data: Path, tmp_path: Path, words: tuple[str, ...]) -> None:
    """As root, a rename over /dev/stdout or /dev/null takes it away from the whole system."""
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    read: list[bytes] = []
    reader = threading.Thread(target=lambda: read.append(pipe.read_bytes()), daemon=True)
    reader.start()
    done = process(data, *words, str(pipe))
    assert stat.S_ISFIFO(os.lstat(pipe).st_mode)
    reader.join(60)
    assert (done.returncode, read[0][:1] in (b"{", b"<")) == (0, True), done


@pytest.mark.parametrize("words", VERBS)
def test_what_is_live_is_never_written_over(data: Path, words: tuple[str, ...]) -> None:
    before = os.readlink(data / "memory.db")
    for path in (data / "memory.db", data / before, data / "journal" / "lock", data / "journal" / "report.html"):
        done = process(data, *words, str(path), "--json")
        assert (done.returncode, json.loads(done.stdout)["error"]["code"]) == (2, "usage"), path
    assert os.readlink(data / "memory.db") == before
    assert process(data, "check").returncode == 0


@pytest.mark.parametrize("words", VERBS)
def test_a_place_that_is_not_there_is_told_before_the_work(data: Path, tmp_path: Path, words: tuple[str, ...]) -> None:
    done = process(data, *words, str(tmp_path / "nowhere" / "file"))
    assert done.returncode == 2
    assert "directory that exists" in done.stderr


def test_a_link_stays_and_its_file_is_replaced(data: Path, tmp_path: Path) -> None:
    (tmp_path / "week.html").write_text("old")
    link = tmp_path / "report.html"
    link.symlink_to("week.html")
    assert process(data, "report", "-o", str(link)).returncode == 0
    assert os.readlink(link) == "week.html"
    assert (tmp_path / "week.html").read_text().startswith("<!doctype html>")
