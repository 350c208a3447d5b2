"""The power goes while agent files are brought to the current version: at any change, with any legal outcome."""

from __future__ import annotations

import json
import os
import random
import tempfile
from pathlib import Path

import pytest

from journal.files import write_file
from journal.storage import Storage
from replay.agents import (
    TEMPORARY,
    bring_current,
    inspect,
    write_files,
)
from tests.agent_place import EDIT, NEW, OLD, TIME, Place, RecordingStorage, sha
from tests.simdisk import SimDisk
from tests.simfaults import PowerCut
from tests.simnodes import Mode


@pytest.fixture
def place(tmp_path: Path) -> Place:
    return Place(tmp_path)


ROOT, QUARANTINE = "/data/agents", "/data/journal/quarantine"
STATE = {
    name: (sha(NEW + name.encode()), NEW + name.encode()) for name in ("current", "missing", "old", "edited", "link")
}
DAMAGED = {"current.md": NEW + b"current", "old.md": OLD, "edited.md": EDIT, "gone.md": OLD}


def wreck(disk: Storage) -> None:
    """An agent that is current, one missing, one old, one edited, one linked away, and one that was removed."""
    disk.make_directory(ROOT)
    for name, content in DAMAGED.items():
        write_file(disk, f"{ROOT}/{name}", content)
    disk.make_link("/nowhere", f"{ROOT}/link.md")
    disk.sync_dir(ROOT)


def repair(disk: Storage) -> None:
    def versions(name: str) -> set[str]:
        return {sha(OLD), sha(NEW + name.encode())}

    facts = inspect(disk, ROOT, STATE, versions)
    bring_current(disk, ROOT, facts, STATE, drift="set_aside", quarantine=QUARANTINE, time=TIME, reason="recovery")


def files_below(disk: Storage, path: str) -> dict[str, bytes]:
    found: dict[str, bytes] = {}
    for name in disk.list(path):
        if disk.kind(f"{path}/{name}") == "directory":
            found |= files_below(disk, f"{path}/{name}")
        elif disk.kind(f"{path}/{name}") == "file":
            found[f"{path}/{name}"] = disk.read(f"{path}/{name}")
    return found


def assert_repaired(disk: Storage) -> None:
    """Every file is current, and the edit and the link's target are in quarantine."""
    assert files_below(disk, ROOT) == {f"{ROOT}/{name}.md": content for name, (_, content) in STATE.items()}
    assert disk.list(ROOT) == sorted(f"{name}.md" for name in STATE)
    kept = files_below(disk, QUARANTINE)
    assert EDIT in kept.values()
    targets = [json.loads(content)["target"] for path, content in kept.items() if path.endswith("/note.json")]
    assert "/nowhere" in targets


@pytest.mark.parametrize("mode", ["torn", "none", "all"])
def test_a_power_cut_anywhere_loses_no_byte_and_running_again_ends_the_same(mode: Mode) -> None:
    for cut in range(1, 1000):
        disk = SimDisk()
        wreck(disk)
        disk.cut_at = disk.counts.changes + cut
        try:
            repair(disk)
        except PowerCut:
            pass
        else:
            break
        for seed in range(5):
            after = disk.crash(random.Random(seed), mode)
            assert EDIT in files_below(after, "/data").values()
            for path, content in files_below(after, ROOT).items():
                if path.endswith(".md"):
                    name = path.rsplit("/", 1)[1].removesuffix(".md")
                    assert content in {NEW + name.encode(), DAMAGED.get(f"{name}.md")}
            repair(after)
            assert_repaired(after)
    assert cut > 40


def test_what_was_brought_current_survives_a_power_cut() -> None:
    disk = SimDisk()
    wreck(disk)
    repair(disk)
    assert disk.unsynced_paths() == []
    assert_repaired(disk.crash(random.Random(0), "none"))


def test_each_file_is_synced_before_its_name_and_all_names_by_one_directory_sync(place: Place) -> None:
    place.storage = storage = RecordingStorage()
    write_files(storage, str(place.agents), [("a", OLD), ("b", NEW)])
    one = [("create", TEMPORARY), ("write", TEMPORARY), ("sync", TEMPORARY)]
    assert storage.calls == [*one, ("replace", "a.md"), *one, ("replace", "b.md"), ("sync_dir", "agents")]
    assert not TEMPORARY.endswith(".md")


def test_quarantine_is_durable_before_the_old_name_is_taken_again(place: Place) -> None:
    place.file.write_bytes(EDIT)
    place.storage = storage = RecordingStorage()
    (kept,) = place.bring().set_aside.values()
    aside, back = (at for at, call in enumerate(storage.calls) if call == ("replace", "writer.md"))
    durable = ("sync_dir", os.path.basename(kept))
    assert durable in storage.calls[:aside]  # the note
    assert durable in storage.calls[aside:back]  # the file
    assert storage.calls[-1] == ("sync_dir", "agents")


def test_a_link_goes_only_after_its_note_is_durable(place: Place) -> None:
    place.file.symlink_to("/nowhere")
    place.storage = storage = RecordingStorage()
    (kept,) = place.bring().set_aside.values()
    assert ("sync_dir", os.path.basename(kept)) in storage.calls[: storage.calls.index(("remove", "writer.md"))]


def test_a_removal_is_durable(place: Place) -> None:
    place.state.clear()
    (place.agents / "gone.md").write_bytes(OLD)
    place.storage = storage = RecordingStorage()
    place.bring()
    assert storage.calls == [("remove", "gone.md"), ("sync_dir", "agents")]


@pytest.mark.skipif(not os.path.isdir("/dev/shm"), reason="needs a second file system")
def test_quarantine_on_another_file_system_gets_a_copy(place: Place) -> None:
    place.file.write_bytes(EDIT)
    with tempfile.TemporaryDirectory(dir="/dev/shm") as other:
        if os.stat(other).st_dev == os.stat(place.agents).st_dev:
            pytest.skip("the same file system")
        place.quarantine = Path(other)
        place.storage = storage = RecordingStorage()
        (kept,) = place.bring().set_aside.values()
        removed = storage.calls.index(("remove", "writer.md"))
        assert storage.calls[removed - 2 : removed] == [("sync", "writer.md"), ("sync_dir", os.path.basename(kept))]
        assert (place.set_aside()[0] / "writer.md").read_bytes() == EDIT
    assert place.file.read_bytes() == NEW
