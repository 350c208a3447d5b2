"""A large file read by two processes: a row at the cut that both or neither reads, a helper that fails or is killed."""

from __future__ import annotations

import os
import random
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from replay import scanning
from replay.bulk import BulkLoader
from replay.digest import BUCKET_BITS, digest_of, state_leaves
from replay.model import Model
from replay.scanning import file_leaves
from replay.working import connect_finished, connect_private
from tests.histories import SeededSource, decoded, growing

EVENTS = 4000


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Model]:
    """A file of 4,000 events, and the model that applied them. Tests only read it."""
    path, model = tmp_path_factory.mktemp("scan") / "memory.db", Model()
    steps = list(growing(SeededSource(9), model, EVENTS))
    with closing(connect_private(str(path))) as connection:
        loader = BulkLoader(connection)
        loader.add(1, decoded(steps))
        loader.finish()
    return path, model


@pytest.fixture(autouse=True)
def split(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scanning, "SPLIT_BYTES_MIN", 0)
    monkeypatch.setattr(os, "cpu_count", lambda: 2)


@pytest.fixture
def helpers(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[subprocess.Popen[bytes]]]:
    """The processes that were started."""
    started: list[subprocess.Popen[bytes]] = []

    class Noted(subprocess.Popen):  # type: ignore[type-arg]
        def __init__(self, *arguments: object, **options: object) -> None:
            super().__init__(*arguments, **options)  # type: ignore[call-overload]
            started.append(self)

    monkeypatch.setattr(subprocess, "Popen", Noted)
    yield started
    assert all(helper.returncode is not None for helper in started), "one was left behind"


def whole(path: Path) -> object:
    with closing(connect_finished(str(path))) as connection:
        return state_leaves(connection)


def test_two_halves_are_the_whole(made: tuple[Path, Model], helpers: list[subprocess.Popen[bytes]]) -> None:
    path, model = made
    assert file_leaves(str(path)) == whole(path)
    assert digest_of(file_leaves(str(path))) == model.digest()
    assert [helper.returncode for helper in helpers] == [0, 0]


@pytest.mark.parametrize("cut", [-5, 0, 1, 1023, 1024, 1025, 2048, 4096, 1 << 40])
def test_wherever_it_is_cut(made: tuple[Path, Model], monkeypatch: pytest.MonkeyPatch, cut: int) -> None:
    monkeypatch.setattr(scanning, "_middle_of", lambda _: cut >> BUCKET_BITS << BUCKET_BITS)
    assert file_leaves(str(made[0])) == whole(made[0])


def test_a_file_without_rows(tmp_path: Path) -> None:
    with closing(connect_private(str(tmp_path / "empty.db"))) as connection:
        BulkLoader(connection).finish()
    assert file_leaves(str(tmp_path / "empty.db")) == whole(tmp_path / "empty.db")


@pytest.mark.parametrize("interpreter", ["/bin/false", "/bin/true", "/no/such/file", ""])
def test_a_helper_that_fails_costs_time_only(
    made: tuple[Path, Model], monkeypatch: pytest.MonkeyPatch, interpreter: str
) -> None:
    monkeypatch.setattr(sys, "executable", interpreter)
    assert file_leaves(str(made[0])) == whole(made[0])


def test_a_helper_that_is_killed_costs_time_only(
    made: tuple[Path, Model], helpers: list[subprocess.Popen[bytes]], monkeypatch: pytest.MonkeyPatch
) -> None:
    part_of = scanning._part_of

    def killing(*arguments: object) -> object:
        helpers[0].kill()
        return part_of(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(scanning, "_part_of", killing)
    assert file_leaves(str(made[0])) == whole(made[0])
    assert helpers[0].returncode != 0


@pytest.mark.parametrize("half", [0.25, 0.75])
def test_damage_in_either_half_is_said_and_leaves_no_process(
    made: tuple[Path, Model], tmp_path: Path, half: float, helpers: list[subprocess.Popen[bytes]]
) -> None:
    rng, path = random.Random(1), tmp_path / "damaged.db"
    data = bytearray(made[0].read_bytes())
    with closing(sqlite3.connect(made[0])) as connection:
        pages = [
            number
            for (number,) in connection.execute(
                "SELECT pageno FROM dbstat WHERE name = 'observations' AND pagetype = 'leaf' ORDER BY pageno"
            )
        ]
    at = (pages[int(len(pages) * half)] - 1) * 4096
    data[at : at + 4096] = rng.randbytes(4096)
    path.write_bytes(data)
    with pytest.raises(sqlite3.DatabaseError):
        file_leaves(str(path))
    assert len(helpers) == 1
