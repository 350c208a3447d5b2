"""The machine is gone, and the backup is of a journal as months of use leave it: packed segments, a base checkpoint
that was pruned, deltas to its pieces that are still needed, parity. It is backed up, brought back and rehearsed, all by
the command; and then the backup itself rots.
"""

from __future__ import annotations

import json
import random
import shutil
from pathlib import Path
from typing import Any

import pytest

from journal.checkpoint import KIND_MEMORY, KIND_PAGES, CheckpointStore, Manifest
from journal.storage import RealStorage
from replay.memory_parts import BASE_BYTES_MIN
from tests.commands import process

FACTS = 5200  # of a kilobyte each: memory.db is long enough for deltas
CONFIG = "segment_bytes_max: 524288\nretention: {gap_events: 1000000}\n"


def run(data: Path, *words: str, code: int = 0, **settings: Any) -> str:
    done = process(data, *words, **settings)
    assert done.returncode == code, (words, done.stdout[-1000:], done.stderr[-1000:])
    return done.stdout


def document(data: Path, *words: str, code: int = 0) -> Any:
    return json.loads(run(data, *words, "--json", code=code))


def append(data: Path, *groups: list[dict[str, Any]]) -> None:
    run(data, "append", input="".join(json.dumps({"events": each, "agent": "sales"}) + "\n" for each in groups))


def fact(number: int) -> dict[str, Any]:
    content = f"{number:06d} {random.Random(number).randbytes(500).hex()}"
    return {"type": "memory.observation_added", "scope": "global", "entity": "Acme", "content": content}


def manifests(data: Path) -> list[Manifest]:
    return CheckpointStore(RealStorage(), f"{data}/journal/checkpoints").manifests()


def names(data: Path, folder: str, ending: str) -> list[str]:
    return sorted(path.name for path in (data / "journal" / folder).iterdir() if path.name.endswith(ending))


@pytest.fixture(scope="module")
def grown(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three checkpoints: one whole, of which the two after it tell what differs; the first is pruned then."""
    data = tmp_path_factory.mktemp("grown") / "data"
    run(data, "init")
    (data / "journal.yaml").write_text(CONFIG)
    append(
        data,
        [{"type": "memory.entity_created", "scope": "global", "name": "Acme", "entity_type": "company"}],
        *([fact(number) for number in range(first, first + 400)] for first in range(0, FACTS, 400)),
        [{"type": "agent.config_written", "name": "writer", "content": "---\nname: writer\n---\nWrites.\n"}],
    )
    assert document(data, "checkpoint", "create")["base_seq"] == 0
    for number in (FACTS, FACTS + 1):
        append(data, [fact(number)])
        made = document(data, "checkpoint", "create")
        assert made["new_bytes"] < made["bytes"] / 4, "a delta"
    run(data, "compact")
    append(data, [fact(FACTS + 2)])
    return data


@pytest.fixture
def data(grown: Path, tmp_path: Path) -> Path:
    """Where the base's own checkpoint is gone, and nothing but the two deltas lists its pieces."""
    shutil.copytree(grown, tmp_path / "data", symlinks=True)
    pruned = document(tmp_path / "data", "checkpoint", "prune", "--yes")
    assert [each["seq"] for each in pruned["drop"]] == [manifests(grown)[-1].seq]
    return tmp_path / "data"


def assert_is_delta_and_packed(data: Path) -> None:
    newest = manifests(data)[0]
    assert newest.state == "verified"
    assert newest.of_kind(KIND_PAGES)
    assert sum(part.length for part in newest.of_kind(KIND_MEMORY)) >= BASE_BYTES_MIN
    assert len(names(data, "segments", ".pack")) > 1


def test_a_pruned_base_leaves_its_pieces_to_the_deltas_that_need_them(data: Path) -> None:
    assert_is_delta_and_packed(data)
    assert len(manifests(data)) == 2
    proven = document(data, "checkpoint", "verify")
    assert [each["seq"] for each in proven["checkpoints"]] == [each.seq for each in manifests(data)]
    assert document(data, "verify")["findings"] == []
    (data / "memory.db").unlink()
    done = document(data, "recover", "memory", "--yes")["result"]
    assert (done["base_seq"], done["passed_over"]) == (manifests(data)[0].seq, [])


def test_from_its_backup_on_an_empty_machine(data: Path, tmp_path: Path) -> None:
    log, digest = run(data, "log", "--json"), document(data, "verify", "--deep")["states"][0]["found"]
    backup, new = tmp_path / "backup", tmp_path / "new"
    first = document(data, "backup", str(backup))
    assert first["parity_files"] == len(list((data / "journal/parity").rglob("*.par"))) > 5
    again = document(data, "backup", str(backup))
    assert (again["files_copied"], again["files_kept"]) == (0, first["files_copied"] - first["parity_files"])
    assert_is_delta_and_packed(backup)

    drilled = document(data, "drill", "--from", str(backup), "--scratch", str(tmp_path))
    assert (drilled["ok"], drilled["memory"]["verdict"], drilled["behind"]) == (True, "same", 0)
    assert document(data, "drill", "--scratch", str(tmp_path))["ok"] is True

    shutil.rmtree(data)
    done = document(new, "recover", "--from", str(backup), "--yes")["result"]
    assert (done["base_seq"], done["passed_over"]) == (manifests(backup)[0].seq, [])
    assert done["events"] < 5, "the rest is in the checkpoint"
    assert run(new, "log", "--json", "--until", str(done["seq"])).startswith(log)
    assert document(new, "verify", "--deep")["states"][0]["found"] == digest
    assert (new / "agents/writer.md").read_bytes() == b"---\nname: writer\n---\nWrites.\n"
    assert document(new, "check")["health"] == "healthy"


def test_what_rots_in_the_backup_is_put_right_there_by_the_parity_that_came_along(data: Path, tmp_path: Path) -> None:
    """In a pack, in a piece of the pruned base, in the delta to it and in its manifest."""
    backup = tmp_path / "backup"
    document(data, "backup", str(backup))
    newest = manifests(backup)[0]
    paths = [
        backup / "journal" / name
        for name in (
            f"segments/{names(backup, 'segments', '.pack')[1]}",
            f"checkpoints/parts/{newest.of_kind(KIND_MEMORY)[2].sha256}",
            f"checkpoints/parts/{newest.of_kind(KIND_PAGES)[0].sha256}",
            f"checkpoints/{newest.seq:016d}.manifest",
        )
    ]
    before = {path: path.read_bytes() for path in sorted((backup / "journal").rglob("*")) if path.is_file()}
    for path in paths:
        at = len(before[path]) // 2
        path.write_bytes(before[path][:at] + bytes(64) + before[path][at + 64 :])
    run(tmp_path / "new", "recover", "--from", str(backup), "--yes", code=12)
    assert not (tmp_path / "new").exists(), "nothing is taken from a damaged backup"

    run(backup, "verify", "--repair")
    assert {path: path.read_bytes() for path in before} == before
    assert names(backup, "segments", "") == names(data, "segments", ""), "no event of its own"
    run(data, "backup", str(backup))
    run(tmp_path / "new", "recover", "--from", str(backup), "--yes")
    assert document(tmp_path / "new", "check")["health"] == "healthy"


def test_without_parity_a_backup_is_as_good_until_it_rots(data: Path, tmp_path: Path) -> None:
    backup = tmp_path / "backup"
    shutil.rmtree(data / "journal/parity")
    assert document(data, "backup", str(backup))["parity_files"] == 0
    assert not (backup / "journal/parity").exists()
    run(tmp_path / "new", "recover", "--from", str(backup), "--yes")
    assert document(tmp_path / "new", "check")["health"] == "healthy"


def test_parity_that_is_itself_damaged_does_not_come_along(data: Path, tmp_path: Path) -> None:
    """The backup is no less whole for it, and its verification must not fail."""
    bad, _, stale, other, *_ = sorted((data / "journal/parity").rglob("*.par"))
    bad.write_bytes(bad.read_bytes()[:-90] + bytes(90))
    stale.write_bytes(other.read_bytes())
    made = document(data, "backup", str(tmp_path / "backup"))
    assert made["parity_files"] == len(list((data / "journal/parity").rglob("*.par"))) - 2
    assert document(tmp_path / "backup", "verify")["findings"] == []
