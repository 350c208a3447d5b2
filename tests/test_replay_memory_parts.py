"""memory.db as a base and a delta: what comes back, what it costs, and every way in which it can be damaged.

Changes lie all over the file (an index over hashes sees to that), pages come and go, and the parts rot one by one.
"""

from __future__ import annotations

import hashlib
import random
import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import msgspec
import pytest

from journal.checkpoint import KIND_MEMORY, KIND_PAGES, PART_BYTES, CheckpointStore, Manifest, Part, Whole, whole_of
from journal.delta import Entry, decode_groups, decode_pages, encode_group, sources_of
from journal.errors import Corrupt
from journal.storage import RealStorage
from replay import memory_parts, page_delta
from replay.memory_parts import BASE_BYTES_MIN, Cut, assemble, cut
from replay.schema import PAGE_BYTES


class Place:
    """A store of checkpoints, and a database that goes on."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.store = CheckpointStore(RealStorage(), f"{root}/checkpoints")
        self.store.storage.make_directory(self.store.parts_directory)
        self.path = f"{root}/next.db"
        self.rng = random.Random(5)
        self.seq = 0

    def change(self, *statements: tuple[str, Callable[[], tuple[object, ...]], int]) -> None:
        """Each statement so many times, with parameters as they come."""
        with closing(sqlite3.connect(self.path)) as connection, connection:
            for sql, parameters, times in statements:
                connection.executemany(sql, (parameters() for _ in range(times)))

    def insert(self, count: int) -> None:
        self.change(("INSERT INTO rows(hash, text) VALUES (?, ?)", self._row, count))

    def _row(self) -> tuple[object, ...]:
        return self.rng.randbytes(32), f"a text of a few words, the {self.rng.randrange(10**9)}th of its kind"

    def cut(self, base: Manifest | None = None) -> tuple[Manifest, Cut]:
        made = cut(self.store, self.path, base)
        self.seq += 1
        manifest = Manifest(
            journal_id="0" * 32, seq=self.seq, chain="0" * 64, epoch=1, time=0, digest="0" * 64, digest_version=1,
            projection_version=1, parts=made.parts, whole=made.whole,
        )  # fmt: skip
        self.store.publish(manifest)
        return manifest, made

    def assembled(self, manifest: Manifest) -> bytes:
        path = f"{self.root}/assembled.db"
        Path(path).unlink(missing_ok=True)
        assemble(self.store, manifest, path)
        return Path(path).read_bytes()

    @property
    def file(self) -> bytes:
        return Path(self.path).read_bytes()


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Place:
    monkeypatch.setattr(memory_parts, "BASE_BYTES_MIN", 0)
    place = Place(tmp_path)
    with closing(sqlite3.connect(place.path)) as connection:
        connection.execute("PRAGMA page_size=4096")
        connection.execute("CREATE TABLE rows(id INTEGER PRIMARY KEY, hash BLOB, text TEXT)")
        connection.commit()
    place.insert(20_000)
    with closing(sqlite3.connect(place.path)) as connection, connection:
        connection.execute("CREATE UNIQUE INDEX by_hash ON rows(hash)")  # last, so that its leaves are full
    return place


def pages(data: bytes) -> list[bytes]:
    return [data[at : at + PAGE_BYTES] for at in range(0, len(data), PAGE_BYTES)]


# -- what comes back, and what it costs -------------------------------------------------------------------------------


def test_the_next_checkpoint_holds_what_changed_and_nothing_else(place: Place):
    """200 rows, of which each lands on an index page of its own: 1 % of the rows, and most of the pages differ."""
    base, first = place.cut()
    assert first.written == len(place.file) > 2 * PART_BYTES
    before = pages(place.file)
    place.insert(200)
    manifest, second = place.cut(base)
    differing = sum(new != old for new, old in zip(pages(place.file), before, strict=False))
    assert place.assembled(manifest) == place.file
    assert [part.kind for part in manifest.parts] == [KIND_MEMORY] * len(base.parts) + [KIND_PAGES]
    assert second.written == manifest.parts[-1].length
    assert second.written < first.written // 20
    assert second.written < differing * PAGE_BYTES // 8


def test_a_page_that_is_half_of_another_is_told_by_it(place: Place):
    """A leaf that was full is split by one more row; without its neighbour the new page would be written out."""
    base, _ = place.cut()
    before = len(place.file) // PAGE_BYTES
    place.insert(200)
    manifest, _ = place.cut(base)
    (part,) = manifest.of_kind(KIND_PAGES)
    groups = list(decode_groups(place.store.read_part(part), "part"))
    moved = [entry for group in groups for entry in group.entries if entry.page > before]
    assert len(moved) == len(place.file) // PAGE_BYTES - before > 30
    assert sum(entry.source > 0 for entry in moved) >= len(moved) - 2
    assert all(entry.source == entry.page for group in groups for entry in group.entries if entry.page <= before)


def test_a_delta_is_to_the_base_and_not_to_the_delta_before(place: Place):
    base, _ = place.cut()
    last = base
    for _ in range(4):
        place.insert(100)
        place.change(("DELETE FROM rows WHERE id = ?", lambda: (place.rng.randrange(1, 20_000),), 50))
        last, _ = place.cut(last)
        assert last.of_kind(KIND_MEMORY) == base.parts
        assert place.assembled(last) == place.file
    assert len(place.store.manifests()) == 5


def test_an_unchanged_file_has_no_delta(place: Place):
    base, _ = place.cut()
    again, made = place.cut(base)
    assert (again.parts, made.written) == (base.parts, 0)
    place.insert(50)
    one, _ = place.cut(base)
    other, made = place.cut(one)
    assert (other.parts, other.whole, made.written) == (one.parts, one.whole, 0)


def test_a_file_that_became_shorter_is_cut_off(place: Place):
    base, _ = place.cut()
    with closing(sqlite3.connect(place.path)) as connection:
        connection.execute("DELETE FROM rows WHERE id > 15000")
        connection.commit()
        connection.execute("VACUUM")
    assert len(place.file) < base.bytes
    manifest, _ = place.cut(base)
    assert place.assembled(manifest) == place.file


def test_a_delta_that_outgrows_its_share_is_no_delta(place: Place):
    base, _ = place.cut()
    place.insert(30_000)
    manifest, _ = place.cut(base)
    assert {part.kind for part in manifest.parts} == {KIND_MEMORY}
    assert place.assembled(manifest) == place.file
    place.store.sweep()
    assert place.store.check(manifest) == place.store.check(base) == []


def test_a_small_file_is_cut_whole(place: Place, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(memory_parts, "BASE_BYTES_MIN", BASE_BYTES_MIN)
    assert len(place.file) < BASE_BYTES_MIN
    base, _ = place.cut()
    place.insert(10)
    manifest, _ = place.cut(base)
    assert {part.kind for part in manifest.parts} == {KIND_MEMORY}


@pytest.mark.parametrize(("part_bytes", "rounds", "most"), [(PART_BYTES, 6, 600), (32 << 10, 60, 60)])
def test_random_files_come_back(place: Place, monkeypatch: pytest.MonkeyPatch, part_bytes: int, rounds: int, most: int):
    """No database at all: pages changed, added, cut off and swapped at random; with small parts, of which a delta has
    many, and groups of few pages, so that each of them may be the one that fills a part."""
    for module in (memory_parts, page_delta):
        monkeypatch.setattr(module, "PART_BYTES", part_bytes)
    if part_bytes < PART_BYTES:
        monkeypatch.setattr(page_delta, "GROUP_PAGES_MAX", 3)
        monkeypatch.setattr(page_delta, "DELTA_SHARE_MAX", 2.0)
    rng = random.Random(1)
    for _ in range(rounds):
        now = [rng.randbytes(PAGE_BYTES) for _ in range(rng.randrange(1, most))]
        Path(place.path).write_bytes(b"".join(now))
        base, _ = place.cut()
        for _ in range(rng.randrange(0, len(now))):
            at = rng.randrange(len(now))
            now[at] = now[at][:100] + rng.randbytes(10) + now[at][110:]
        now = now[: rng.randrange(len(now) // 2, len(now) + 1)] + rng.choices(now, k=rng.randrange(0, most // 2))
        now += [rng.randbytes(PAGE_BYTES) for _ in range(rng.randrange(0, most // 10))]
        Path(place.path).write_bytes(b"".join(now))
        manifest, _ = place.cut(base)
        assert place.assembled(manifest) == place.file


# -- damage -----------------------------------------------------------------------------------------------------------


@pytest.fixture
def delta(place: Place) -> Manifest:
    """A checkpoint of a base and a small delta."""
    base, _ = place.cut()
    place.insert(1)
    return place.cut(base)[0]


def refused(place: Place, manifest: Manifest) -> Corrupt:
    with pytest.raises(Corrupt) as caught:
        place.assembled(manifest)
    return caught.value


def test_every_damage_of_a_delta_is_named(place: Place, delta: Manifest):
    """A bit of each byte turned over, every length that it can be cut to, each sector zeroed."""
    (part,) = delta.of_kind(KIND_PAGES)
    path, data = Path(place.store.part_path(part)), place.store.read_part(part)
    assert len(data) < 2000
    rng = random.Random(2)
    damaged = [data[:at] + bytes([data[at] ^ 1 << rng.randrange(8)]) + data[at + 1 :] for at in range(len(data))]
    damaged += [data[:length] for length in range(len(data))]
    damaged += [data[:at] + bytes(min(512, len(data) - at)) + data[at + 512 :] for at in range(0, len(data), 512)]
    for each in damaged:
        path.write_bytes(each)
        with pytest.raises(Corrupt) as caught:
            place.store.read_part(part)
        assert caught.value.path == str(path)
    for each in damaged[:: len(damaged) // 20]:
        path.write_bytes(each)
        assert refused(place, delta).path == str(path)


@pytest.mark.parametrize("kind", [KIND_MEMORY, KIND_PAGES])
def test_a_part_that_is_gone_is_named(place: Place, delta: Manifest, kind: str):
    path = Path(place.store.part_path(delta.of_kind(kind)[-1]))
    path.unlink()
    assert refused(place, delta).path == str(path)


def test_a_rotten_base_harms_all_that_list_it_and_no_other(place: Place, delta: Manifest):
    base = place.store.manifests()[-1]
    place.insert(30_000)
    other, _ = place.cut()
    path = Path(place.store.part_path(base.parts[1]))
    data = path.read_bytes()
    path.write_bytes(data[:5000] + bytes([data[5000] ^ 4]) + data[5001:])
    for manifest in (base, delta):
        assert refused(place, manifest).path == str(path)
        assert [error.path for error in place.store.check(manifest)] == [str(path)]
    assert place.assembled(other) == place.file


def test_parts_that_make_another_file_than_the_manifest_says_are_refused(place: Place, delta: Manifest):
    """Whole parts, each what its name says, that do not belong together: a mistake of whoever packed them."""
    base = place.store.manifests()[-1]
    place.insert(3)
    other, _ = place.cut(base)
    mixed = msgspec.structs.replace(other, parts=delta.parts)
    assert refused(place, mixed).path == place.store.manifest_path(other.seq)
    assert isinstance(delta.whole, Whole)
    for whole in (
        msgspec.structs.replace(delta.whole, sha256="1" * 64),
        msgspec.structs.replace(delta.whole, length=delta.whole.length - PAGE_BYTES),
        msgspec.structs.replace(delta.whole, length=delta.whole.length + PAGE_BYTES),
        msgspec.structs.replace(delta.whole, length=1 << 60),
        msgspec.UNSET,
    ):
        refused(place, msgspec.structs.replace(delta, whole=whole))


def test_a_manifest_from_before_there_were_deltas_is_put_together(place: Place):
    base, _ = place.cut()
    old = msgspec.structs.replace(base, whole=msgspec.UNSET)
    assert place.assembled(old) == place.file
    assert b"whole" not in msgspec.json.encode(old)


def group(place: Place, *entries: tuple[int, int], data: bytes | None = None) -> bytes:
    """Made by a writer that means ill, or is broken."""
    made = [Entry(*each) for each in entries]
    sources = b"".join(place.file[(page - 1) * PAGE_BYTES :][:PAGE_BYTES] for page in sources_of(made))
    return encode_group(made, data if data is not None else bytes(PAGE_BYTES * len(made)), sources)


def test_what_a_hostile_delta_claims_is_refused(place: Place):
    """Parts whose SHA-256 is right: only what they say is wrong. Nothing is allocated for it."""
    base, _ = place.cut()
    count = len(place.file) // PAGE_BYTES
    good = group(place, (1, 1))
    claims = {
        "page 0": group(place, (0, 1)),
        "a page beyond the file": group(place, (count + 1, 1)),
        "the last page there can be": group(place, (2**32 - 1, 1)),
        "a source beyond the base": good[:6] + (count + 1).to_bytes(4, "little") + good[10:],
        "the last source there can be": good[:6] + (2**32 - 1).to_bytes(4, "little") + good[10:],
        "no pages": bytes(2),
        "more pages than a group can have": (257).to_bytes(2, "little") + bytes(4000),
        "a count behind which nothing comes": b"\x01",
        "a table that is cut off": good[:5],
        "a frame that is cut off": good[:-1],
        "a frame of another dictionary's": good[:6] + (2).to_bytes(4, "little") + good[10:],
        "two pages where one is": good[:2] + good[2:10] + (len(good) - 14 + 1).to_bytes(4, "little") + good[14:] + b"x",
        "fewer pages than it lists": b"\x02\x00" + good[2:10] * 2 + good[10:],
        "more pages than it lists": group(place, (1, 1), data=bytes(2 * PAGE_BYTES)),
        "a bomb": group(place, (1, 0), data=bytes(1 << 26)),
        "no frame at all": good[:10] + (4).to_bytes(4, "little") + b"zstd",
    }
    for what, data in claims.items():
        part, _ = place.store.put_part(KIND_PAGES, data)
        hostile = msgspec.structs.replace(base, parts=[*base.parts, part])
        error = refused(place, hostile)
        assert error.path in (place.store.part_path(part), place.store.manifest_path(base.seq)), what
        assert Path(f"{place.root}/assembled.db").stat().st_size <= len(place.file), what


def test_a_hole_at_the_end_is_no_page_of_zeros(place: Place):
    """Two pages longer than the base, of which the delta has the last: the other would read as zeros."""
    base, _ = place.cut()
    count = len(place.file) // PAGE_BYTES
    part, _ = place.store.put_part(KIND_PAGES, group(place, (count + 2, 0)))
    longer = pages(place.file) + [bytes(PAGE_BYTES)] * 2
    data = b"".join(longer)
    digests = [hashlib.sha256(data[at : at + PART_BYTES]).digest() for at in range(0, len(data), PART_BYTES)]
    whole = whole_of(len(data), digests)
    error = refused(place, msgspec.structs.replace(base, parts=[*base.parts, part], whole=whole))
    assert "missing" in str(error)


# -- prune ------------------------------------------------------------------------------------------------------------


def test_a_sweep_takes_no_base_that_a_survivor_lists(place: Place):
    base, _ = place.cut()
    place.insert(5)
    middle, _ = place.cut(base)
    place.insert(5)
    last, _ = place.cut(middle)
    place.store.remove([base, middle])
    assert place.store.sweep().files == 1, "the delta of the one in the middle"
    assert place.assembled(last) == place.file


def test_a_group_tells_its_pages_exactly():
    rng = random.Random(9)
    old = [rng.randbytes(PAGE_BYTES) for _ in range(5)]
    new = [old[0], old[3][:50] + b"new" + old[3][53:], rng.randbytes(PAGE_BYTES)]
    entries = [Entry(9, 1), Entry(3, 4), Entry(4, 0)]
    data = encode_group(entries, b"".join(new), old[0] + old[3])
    (found,) = decode_groups(data, "part")
    assert list(found.entries) == entries
    assert decode_pages(found, old[0] + old[3], "part") == b"".join(new)
    assert len(data) < PAGE_BYTES + 300
    assert Part(KIND_PAGES, hashlib.sha256(data).hexdigest(), len(data)).kind == "memory.db.pages"
