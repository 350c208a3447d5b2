"""Checkpoints on disk: what is shared, what is damaged, what a cut leaves behind."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

import msgspec
import pytest

from journal.checkpoint import KIND_MEMORY, CheckpointStore, Manifest, Part, ladder
from journal.errors import Corrupt, Locked, Unsupported
from journal.format import KIND_MANIFEST, encode_header
from journal.storage import RealStorage

JOURNAL = "ab" * 16
HEX = "cd" * 32


def manifest(seq: int, parts: list[Part] | None = None, state: str = "verified", **changes: object) -> Manifest:
    fields: dict[str, object] = {
        "journal_id": JOURNAL, "seq": seq, "chain": HEX, "epoch": 1, "time": 1_700_000_000_000_000_000, "digest": HEX,
        "digest_version": 1, "projection_version": 1, "state": state, "parts": parts or [],
    }  # fmt: skip
    return msgspec.convert(fields | changes, Manifest)


@pytest.fixture
def store(tmp_path: Path) -> CheckpointStore:
    return CheckpointStore(RealStorage(), str(tmp_path / "checkpoints"))


def put(store: CheckpointStore, *contents: bytes) -> list[Part]:
    return [store.put_part(KIND_MEMORY, data)[0] for data in contents]


def test_a_published_checkpoint_reads_back(store: CheckpointStore):
    parts = put(store, b"one", b"two")
    written = manifest(7, parts, restores=[(5, 2)], tags={"before": 3}, counts={"entities": 1})
    store.publish(written)
    assert store.manifests() == [written]
    assert [store.read_part(part) for part in parts] == [b"one", b"two"]
    assert store.check(written) == []


def test_manifests_come_newest_first(store: CheckpointStore):
    put(store, b"x")
    for seq in (5, 100, 20):
        store.publish(manifest(seq))
    assert [each.seq for each in store.manifests()] == [100, 20, 5]


def test_equal_parts_are_stored_once(store: CheckpointStore):
    first, new = store.put_part(KIND_MEMORY, b"same bytes")
    again, new_again = store.put_part(KIND_MEMORY, b"same bytes")
    assert first == again
    assert (new, new_again) == (True, False)
    assert len(os.listdir(store.parts_directory)) == 1


def test_a_damaged_part_is_not_shared_with_a_new_checkpoint(store: CheckpointStore):
    (part,) = put(store, b"precious")
    Path(store.part_path(part)).write_bytes(b"preciouz")
    shared, new = store.put_part(KIND_MEMORY, b"precious")
    assert new
    assert store.read_part(shared) == b"precious"


@pytest.mark.parametrize("damage", ["flipped", "shortened", "extended", "missing", "emptied", "a link"])
def test_a_damaged_part_is_named(store: CheckpointStore, damage: str):
    (part, other) = put(store, b"content of a part", b"another")
    path = Path(store.part_path(part))
    data = path.read_bytes()
    match damage:
        case "flipped":
            path.write_bytes(bytes([data[0] ^ 1]) + data[1:])
        case "shortened":
            path.write_bytes(data[:-1])
        case "extended":
            path.write_bytes(data + b"\0")
        case "missing":
            path.unlink()
        case "emptied":
            path.write_bytes(b"")
        case "a link":
            path.unlink()
            path.symlink_to(store.part_path(other))
    with pytest.raises(Corrupt) as caught:
        store.read_part(part)
    assert caught.value.path == str(path)
    assert [error.path for error in store.check(manifest(1, [part, other]))] == [str(path)]


def test_every_flipped_bit_of_a_manifest_is_detected(store: CheckpointStore):
    store.publish(manifest(3, put(store, b"x"), tags={"t": 1}))
    path = Path(store.manifest_path(3))
    good = path.read_bytes()
    for index in range(len(good)):
        for bit in range(8):
            path.write_bytes(good[:index] + bytes([good[index] ^ 1 << bit]) + good[index + 1 :])
            manifests, damaged = store.scan()
            assert manifests == []
            assert [(each.path, each.seq) for each in damaged] == [(str(path), 3)]


def test_bytes_after_a_manifest_are_damage(store: CheckpointStore):
    put(store, b"x")
    store.publish(manifest(3))
    with open(store.manifest_path(3), "ab") as file:
        file.write(b"\0")
    (damaged,) = store.damaged()
    assert isinstance(damaged.error, Corrupt)
    assert damaged.error.offset == os.path.getsize(damaged.path) - 1


def test_a_manifest_under_another_seq_is_damage(store: CheckpointStore):
    """Renamed by hand, it would put a state at a seq where it does not belong."""
    put(store, b"x")
    store.publish(manifest(3))
    os.rename(store.manifest_path(3), store.manifest_path(4))
    (damaged,) = store.damaged()
    assert damaged.seq == 4
    assert "under another name" in damaged.error.message


def test_a_part_name_that_leaves_the_directory_is_refused(store: CheckpointStore):
    body = msgspec.json.encode(manifest(3)).replace(
        b'"parts":[]', b'"parts":[{"kind":"memory.db","sha256":"../../../etc/passwd","length":1}]'
    )
    os.makedirs(store.directory)
    Path(store.manifest_path(3)).write_bytes(encode_header(KIND_MANIFEST, body))
    (damaged,) = store.damaged()
    assert isinstance(damaged.error, Corrupt)


def test_a_newer_manifest_is_unsupported_not_corrupt(store: CheckpointStore):
    put(store, b"x")
    store.publish(manifest(3))
    path = Path(store.manifest_path(3))
    data = bytearray(path.read_bytes())
    data[8] = 2  # version, with the CRC made good again
    from zlib import crc32

    data[16:20] = crc32(data[20:], crc32(data[:16])).to_bytes(4, "little")
    path.write_bytes(data)
    (damaged,) = store.damaged()
    assert isinstance(damaged.error, Unsupported)


def test_a_sweep_removes_only_what_nobody_lists(store: CheckpointStore):
    kept, orphan = put(store, b"listed", b"orphan")
    store.publish(manifest(3, [kept]))
    Path(store.parts_directory, f".{'0' * 64}.tmp").write_bytes(b"half a part")
    Path(store.directory, ".0000000000000009.manifest.tmp").write_bytes(b"half")
    with store.exclusive():
        swept = store.sweep()
    assert swept == (3, len(b"orphan") + len(b"half a part") + len(b"half"))
    assert sorted(os.listdir(store.parts_directory)) == [kept.sha256]
    assert not os.path.exists(store.part_path(orphan))


def test_a_sweep_takes_no_part_while_a_manifest_is_damaged(store: CheckpointStore):
    """Its parts are unknown, and it may be repaired from a backup."""
    (part,) = put(store, b"listed by the damaged one")
    store.publish(manifest(3, [part]))
    Path(store.manifest_path(3)).write_bytes(b"garbage")
    assert store.sweep() == (0, 0)
    assert os.path.exists(store.part_path(part))


def test_two_cannot_add_and_sweep_at_once(store: CheckpointStore):
    with store.exclusive(), pytest.raises(Locked), store.exclusive():
        pass
    with store.exclusive():
        pass


class Recorder(RealStorage):
    """The real disk, telling the order of what was asked of it."""

    def __init__(self) -> None:
        self.calls: list[tuple[str, str]] = []

    def open(self, path: str, *, write: bool = False, create: bool = False):  # type: ignore[no-untyped-def]
        file = super().open(path, write=write, create=create)
        if create:
            calls, sync = self.calls, file.sync

            class Recorded(type(file)):  # type: ignore[misc]
                __slots__ = ()

                def sync(self) -> None:
                    calls.append(("sync", os.path.basename(path)))
                    sync()

            return Recorded(file.fd, path)
        return file

    def replace(self, source: str, target: str) -> None:
        self.calls.append(("replace", os.path.basename(target)))
        super().replace(source, target)

    def remove(self, path: str) -> None:
        self.calls.append(("remove", os.path.basename(path)))
        super().remove(path)

    def sync_dir(self, path: str) -> None:
        self.calls.append(("sync_dir", os.path.basename(path)))
        super().sync_dir(path)


def test_a_manifest_never_appears_before_its_parts_are_durable(tmp_path: Path):
    """A power cut between any two steps leaves the old set of checkpoints, or the new one, whole."""
    storage = Recorder()
    store = CheckpointStore(storage, str(tmp_path / "checkpoints"))
    os.makedirs(store.parts_directory)
    part, _ = store.put_part(KIND_MEMORY, b"content")
    store.publish(manifest(1, [part]))
    name = "0000000000000001.manifest"
    assert storage.calls == [
        ("sync", f".{part.sha256}.tmp"), ("replace", part.sha256),
        ("sync_dir", "parts"),
        ("sync", f".{name}.tmp"), ("replace", name), ("sync_dir", "checkpoints"),
    ]  # fmt: skip


def test_parts_go_only_after_the_manifests_removal_is_durable(tmp_path: Path):
    storage = Recorder()
    store = CheckpointStore(storage, str(tmp_path / "checkpoints"))
    part, _ = store.put_part(KIND_MEMORY, b"content")
    store.publish(manifest(1, [part]))
    storage.calls.clear()
    store.remove(store.manifests())
    store.sweep()
    assert storage.calls == [
        ("remove", "0000000000000001.manifest"), ("sync_dir", "checkpoints"), ("remove", part.sha256)
    ]  # fmt: skip


def test_verification_is_recorded_with_its_time(store: CheckpointStore):
    put(store, b"x")
    store.publish(manifest(3, state="written"))
    (written,) = store.manifests()
    assert (written.state, written.verified_at) == ("written", None)
    store.mark_verified(written, 99)
    (verified,) = store.manifests()
    assert (verified.state, verified.verified_at) == ("verified", 99)


def test_the_ladder_names_what_it_passes_over():
    manifests = [manifest(10), manifest(20, state="written"), manifest(30), manifest(40), manifest(50)]
    rungs, passed_over = ladder(manifests, lambda each: "left by a restore" if each.seq == 30 else None, at_most=45)
    assert [rung.seq for rung in rungs] == [40, 10]
    assert passed_over == [(30, "left by a restore"), (20, "written, but never verified")]


def test_a_part_is_named_by_its_content(store: CheckpointStore):
    (part,) = put(store, b"content")
    assert part.sha256 == hashlib.sha256(b"content").hexdigest()
    assert Path(store.part_path(part)).read_bytes() == b"content"
