"""A seeded share of the power cuts on the simulated disk: `python -m tests.faults crashes` goes on from here."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest

from tests.crash_errors import damage, fail
from tests.crash_files import run as run_on_files
from tests.crash_lives import run
from tests.faults.frame import Run
from tests.mutations import ROOT
from tests.simcuts import contents, images
from tests.simdisk import SimDisk
from tests.simtree import file_at


@pytest.mark.parametrize("seed", [1, 3, 8])
def test_every_image_that_a_cut_leaves_of_a_server_keeps_every_promise(seed: int) -> None:
    counts = run(seed)
    assert counts["crash states"] > 200
    assert counts["of a recovery that was cut"] > 20


def test_memory_db_is_a_whole_state_on_real_files_after_every_cut() -> None:
    counts = Run("crashes.files", seed=1, count=2).seeds(run_on_files)
    assert counts["crash states"] > 100
    assert counts["of a recovery that was cut"] > 10
    assert counts["with memory.db behind the journal"] > 10


def test_what_was_acknowledged_survives_every_failing_operation() -> None:
    counts = Run("crashes.errors", seed=0, count=100).seeds(fail)
    assert counts["faults met"] > 40
    assert counts["told as OutcomeUnknown"] > 0


def test_damage_by_the_disk_is_named_or_harmless() -> None:
    counts = Run("crashes.damage", seed=0, count=100).seeds(damage)
    assert counts["damages"] == 100
    assert sum(number for what, number in counts.items() if what.endswith(": named")) > 50


def test_a_seed_is_the_same_life_in_every_process() -> None:
    """Else the command that a failure prints would show something else: salts, ids and hashes differ by process."""
    told = []
    for hashes in ("1", "2"):
        command = ["tests.faults", "crashes.server", "crashes.errors", "--seed", "1003", "--count", "1"]
        done = subprocess.run(
            [sys.executable, "-m", *command],
            cwd=ROOT, env={**os.environ, "PYTHONHASHSEED": hashes}, capture_output=True, text=True, check=True,
        )  # fmt: skip
        told.append([check["counts"] for check in json.loads(done.stdout.splitlines()[-1])["checks"]])
    assert told[0] == told[1]
    assert told[0][0]["crash states"] > 100


# -- the images that are tried are those that the rules allow, all of them where they are few -------------------------


def disk_with(content: bytes) -> SimDisk:
    disk = SimDisk()
    disk.make_directory("/d")
    file = disk.open("/d/a", write=True, create=True)
    file.write_at(0, content)
    file.sync()
    disk.sync_dir("/d")
    return disk


def test_two_sectors_under_way_make_four_contents() -> None:
    disk = disk_with(bytes(1024))
    disk.open("/d/a", write=True).write_at(0, b"a" * 1024)
    half = b"a" * 512
    found = {image.disk().read("/d/a") for image in images(disk, None, 100)}  # type: ignore[arg-type]
    assert found == {bytes(1024), half + bytes(512), bytes(512) + half, half + half}


def test_a_grown_file_may_have_each_length_and_zeros_where_nothing_arrived() -> None:
    disk = disk_with(b"")
    disk.open("/d/a", write=True).write_at(0, b"a" * 600)
    node = file_at(disk._root, "/d/a")
    first, second = b"a" * 512, b"a" * 88
    assert set(contents(node, None, 100)) == {  # type: ignore[arg-type]
        b"", bytes(600), first + bytes(88), bytes(512) + second, first + second,
    }  # fmt: skip


def test_names_arrive_in_any_combination_and_independently_of_contents() -> None:
    disk = disk_with(b"old")
    disk.open("/d/b", write=True, create=True)
    disk.replace("/d/a", "/d/c")
    found = {tuple(image.disk().list("/d")) for image in images(disk, None, 100)}  # type: ignore[arg-type]
    assert found == {("a",), ("a", "b"), ("c",), ("b", "c")}


def test_what_was_synced_is_in_every_image() -> None:
    disk = disk_with(b"synced")
    (only,) = images(disk, None, 100)  # type: ignore[arg-type]
    assert only.disk().read("/d/a") == b"synced"


def test_images_differ_by_number_exactly_where_a_name_or_a_byte_does() -> None:
    one, same, other = disk_with(b"x"), disk_with(b"x"), disk_with(b"y")
    assert one.image() == same.image() != other.image()
    one.replace("/d/a", "/d/b")
    assert one.image() != same.image()


def test_an_image_has_the_number_of_the_disk_that_it_makes() -> None:
    disk = disk_with(b"old" * 300)
    disk.make_directory("/d/below")
    disk.open("/d/below/c", write=True, create=True).write_at(0, b"c")
    disk.open("/d/a", write=True).write_at(0, b"a" * 1024)
    disk.replace("/d/a", "/d/b")
    found = list(images(disk, None, 1000))  # type: ignore[arg-type]
    assert len({image.number for image in found}) > 10
    assert all(image.disk().image() == (image.number, image.has_bytes) for image in found)
