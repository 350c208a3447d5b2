"""One bit rots, anywhere under journal/: it is named, or it is padding by docs/format.md and changes nothing."""

from __future__ import annotations

import random
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path

import pytest

from journal.checkpoint import KIND_EMBEDDINGS, KIND_MEMORY, CheckpointStore, Manifest
from journal.errors import AmbiguousTail, Corrupt, DataError, Unsupported
from journal.events import ConfigWritten, Event, ObservationAdded
from journal.format import decode_segment_header
from journal.log import Log
from journal.reader import LogReader
from journal.storage import RealStorage
from journal.verify import verify
from tests.journals import START, abandon, journal_in, record, segment_files
from tests.second_reader import read_journal, segments_in

EVENTS = 3000
DECLARED = (Corrupt, AmbiguousTail, Unsupported)


@dataclass
class HeldFile:
    data: bytearray

    def read_at(self, offset: int, length: int) -> bytes:
        return bytes(self.data[offset : offset + length])

    def size(self) -> int:
        return len(self.data)

    def close(self) -> None:
        pass


@dataclass
class Held:
    """A directory's files in memory, for reading: a flip costs nothing and is put back."""

    root: str
    files: dict[str, bytearray] = field(default_factory=dict)

    @classmethod
    def of(cls, directory: str) -> Held:
        files = {str(path): bytearray(path.read_bytes()) for path in Path(directory).rglob("*") if path.is_file()}
        return cls(directory, files)

    def open(self, path: str) -> HeldFile:
        if path not in self.files:
            raise FileNotFoundError(path)
        return HeldFile(self.files[path])

    def read(self, path: str) -> bytes:
        return self.open(path).read_at(0, self.size(path))

    def size(self, path: str) -> int:
        return len(self.files[path])

    def kind(self, path: str) -> str:
        if path in self.files:
            return "file"
        return "directory" if self.list(path) else "missing"

    def list(self, path: str) -> list[str]:
        below = {name[len(path) + 1 :].split("/")[0] for name in self.files if name.startswith(f"{path}/")}
        return sorted(below)

    @contextmanager
    def flipped(self, path: str, offset: int, bit: int) -> Iterator[None]:
        self.files[path][offset] ^= 1 << bit
        try:
            yield
        finally:
            self.files[path][offset] ^= 1 << bit


@dataclass
class Subject:
    """A journal, what is read from it when it is whole, and which of its bytes are padding."""

    held: Held
    payloads: list[bytes]
    padding: dict[str, int]  # segment → the offset from which on it is padding
    manifests: list[Manifest]

    def places(self) -> list[tuple[str, int]]:
        """Data files and their lengths, in order."""
        return [(path, len(data)) for path, data in sorted(self.held.files.items()) if not path.endswith("lock")]

    def is_padding(self, path: str, offset: int) -> bool:
        return path in self.padding and offset >= self.padding[path]


def some_event(rng: random.Random, number: int) -> Event:
    match rng.randrange(40):
        case 0:
            return ConfigWritten("zeros", bytes(rng.randrange(3000)), "0" * 64)
        case 1:
            return ConfigWritten("sparse", (b"\x04" + bytes(511)) * rng.randrange(1, 4), "0" * 64)
        case 2:
            return ObservationAdded("global", "Zoë", "長い " * rng.randrange(400))
        case _:
            return ObservationAdded("workspace:büro", "Acme", f"fact {number}", {"n": number} if number % 3 else {})


def build(directory: str) -> None:
    """A clean close, a kill with batches to carry, many rotations, and a kill at the end."""
    rng = random.Random(1)
    number = 1
    for until in (600, 1500, EVENTS + 1):
        log = Log.open(RealStorage(), directory, segment_bytes_max=24 << 10, entropy=rng.randbytes)
        while number < until:
            count = min(until - number, rng.choice((1, 1, 2, 5, 30, 100)))
            records = [record(each, some_event(rng, each)) for each in range(number, number + count)]
            log.append(records, START + (number + count - 1) * 1000)
            number += count
        if until == 600:
            log.close()
        else:
            abandon(log)
    store = CheckpointStore(RealStorage(), f"{directory}/checkpoints")
    reader = LogReader(RealStorage(), directory)
    shared = [store.put_part(KIND_MEMORY, rng.randbytes(16 << 10))[0] for _ in range(4)]
    for seq in (1000, 2500):
        own = store.put_part(KIND_MEMORY, rng.randbytes(16 << 10))[0]
        vectors = store.put_part(KIND_EMBEDDINGS, rng.randbytes(5000))[0]
        manifest = Manifest(
            journal_id=reader.journal_id.hex(), seq=seq, chain=reader.chain_at(seq).hex(), time=START,
            epoch=reader.batch_of(seq).epoch, digest="ab" * 32, digest_version=1, projection_version=1,
            restores=[(5, 2)], tags={"vor dem Umzug": 7}, parts=[own, *shared, vectors],
        )  # fmt: skip
        store.publish(manifest)
        store.mark_verified(manifest, START)


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> str:
    _, directory = journal_in(tmp_path_factory.mktemp("flips"))
    build(directory)
    return directory


@pytest.fixture(scope="module")
def subject(directory: str) -> Subject:
    held = Held.of(directory)
    reader = LogReader(held, directory)  # type: ignore[arg-type]
    batches = list(reader.batches())
    assert batches[-1].last_seq == EVENTS
    segments = list(segments_in(Path(directory)))
    padding = {str(path): after.previous_end for (path, _, _), (_, _, after) in pairwise(segments)}
    padding[str(segments[-1][0])] = read_journal(Path(directory)).end
    manifests = CheckpointStore(held, f"{directory}/checkpoints").manifests()  # type: ignore[arg-type]
    assert len(manifests) == 2
    return Subject(held, [bytes(batch.payload) for batch in batches], padding, manifests)


def read_all(subject: Subject) -> tuple[list[bytes], DataError | None]:
    """The payloads that a reader gives, and the declared error that it ends with."""
    seen: list[bytes] = []
    try:
        for batch in LogReader(subject.held, subject.held.root).batches():  # type: ignore[arg-type]
            seen.append(bytes(batch.payload))
    except DECLARED as error:
        return seen, error
    return seen, None


def judge_segment(subject: Subject, path: str, offset: int) -> None:
    """With one bit of a segment flipped: all that is read is right, and it is all unless an error names the place."""
    seen, error = read_all(subject)
    if subject.is_padding(path, offset):
        assert error is None, error
        assert seen == subject.payloads
        return
    assert error is not None, "not detected"
    assert error.path == path
    assert error.offset is not None or error.seq is not None
    assert seen == subject.payloads[: len(seen)]


def judge_checkpoint(subject: Subject, path: str) -> None:
    """With one bit flipped: the manifest is named, or the part is by every checkpoint that lists it and no other."""
    store = CheckpointStore(subject.held, f"{subject.held.root}/checkpoints")  # type: ignore[arg-type]
    manifests, damaged = store.scan()
    if path.endswith(".manifest"):
        assert [(each.path, each.error.path) for each in damaged] == [(path, path)]
        assert isinstance(damaged[0].error, DECLARED)
        assert damaged[0].seq is not None
        assert manifests == [each for each in subject.manifests if store.manifest_path(each.seq) != path]
        return
    assert (manifests, damaged) == (subject.manifests, [])
    listed = [path in map(store.part_path, manifest.parts) for manifest in manifests]
    assert any(listed)
    assert [[error.path for error in store.check(manifest)] for manifest in manifests] == [
        [path] if lists else [] for lists in listed
    ]


def judge_verify(subject: Subject, path: str, offset: int) -> None:
    """`verify` reads everything: it names the file, or finds nothing where the byte is padding."""
    report = verify(subject.held, subject.held.root)  # type: ignore[arg-type]
    damage = {finding.path for finding in report.findings if finding.severity == "damage"}
    if subject.is_padding(path, offset):
        assert (damage, report.exit_code) == (set(), 0)
    else:
        assert path in damage
        assert report.exit_code in (12, 13, 15)


@pytest.mark.parametrize("seed", range(8))
def test_a_flipped_bit_anywhere_is_named_or_harmless_by_the_text(subject: Subject, seed: int) -> None:
    rng = random.Random(seed)
    places = subject.places()
    for count in range(250):
        ((path, length),) = rng.choices(places, [length for _, length in places])
        offset, bit = rng.randrange(length), rng.randrange(8)
        with subject.held.flipped(path, offset, bit):
            if "/segments/" in path:
                judge_segment(subject, path, offset)
            else:
                judge_checkpoint(subject, path)
            if count % 10 == 0:
                judge_verify(subject, path, offset)


def test_a_flipped_bit_where_few_bytes_are_is_named_too(subject: Subject) -> None:
    """Headers, trailers and the bytes around each end of a batch or of padding: chance alone seldom comes there."""
    rng = random.Random(99)
    reader = LogReader(subject.held, subject.held.root)  # type: ignore[arg-type]
    near: set[tuple[str, int]] = set()
    for segment in reader.segments:
        near |= {(segment.path, rng.randrange(20)), (segment.path, rng.randrange(20, 116))}
        end = subject.padding[segment.path]
        near |= {(segment.path, at) for at in (end - 102, end - 1, end) if 0 <= at < subject.held.size(segment.path)}
    for batch in rng.sample(list(reader.batches()), 40):
        path = max(segment for segment in reader.segments if segment.first_seq <= batch.first_seq).path
        near |= {(path, batch.offset + rng.randrange(96)), (path, batch.end - 1), (path, batch.end - 5)}
    last = reader.batch_of(EVENTS)
    near |= {(reader.tail.path, at) for at in range(last.offset, last.offset + 96)}
    for path, offset in sorted(near):
        with subject.held.flipped(path, offset, rng.randrange(8)):
            judge_segment(subject, path, offset)


def test_every_bit_of_the_manifests_is_covered(subject: Subject) -> None:
    rng = random.Random(5)
    for path, length in subject.places():
        if path.endswith(".manifest"):
            for offset in range(length):
                with subject.held.flipped(path, offset, rng.randrange(8)):
                    judge_checkpoint(subject, path)


def test_an_open_repairs_a_flipped_bit_of_the_last_segment_and_drops_nothing(directory: str, tmp_path: Path) -> None:
    """The open after a kill decides the tail and acts on it: what it does cannot be undone by reading again."""
    rng = random.Random(3)
    copy = str(tmp_path / "journal")
    shutil.copytree(directory, copy)
    path = segment_files(copy)[-1]
    whole, end = path.read_bytes(), read_journal(Path(copy)).end
    start = decode_segment_header(whole, str(path))[1]
    offsets = [*rng.sample(range(end), 120), *range(end - 5, end + 5)]
    opened = 0
    for offset in offsets:
        bit = rng.randrange(8)
        damaged = bytearray(whole)
        damaged[offset] ^= 1 << bit
        path.write_bytes(damaged)
        if offset < start:
            with pytest.raises(DECLARED) as caught:
                Log.open(RealStorage(), copy)
            assert caught.value.path == str(path)
            continue
        log = Log.open(RealStorage(), copy)
        assert (log.next_seq, log.opening.torn_bytes) == (EVENTS + 1, 0)
        told = [(each.method, each.offset, each.bit) for each in log.opening.repaired]
        assert told == ([("one bit", offset, bit)] if offset < end else [])
        assert path.read_bytes() == (whole if offset < end else bytes(damaged))
        opened += 1
        abandon(log)
        for new in segment_files(copy)[segment_files(copy).index(path) + 1 :]:
            new.unlink()
    assert opened > 100


def test_an_open_after_a_clean_close_repairs_a_flipped_bit_or_names_it(tmp_path: Path) -> None:
    _, directory = journal_in(tmp_path)
    log = Log.open(RealStorage(), directory)
    for number in (1, 2):
        log.append([record(number)], START + number * 1000)
    log.close()
    path = segment_files(directory)[-1]
    whole = path.read_bytes()
    start = decode_segment_header(whole, str(path))[1]
    for offset in range(len(whole)):
        damaged = whole[:offset] + bytes([whole[offset] ^ 1 << offset % 8]) + whole[offset + 1 :]
        path.write_bytes(damaged)
        if offset < start:
            with pytest.raises(DECLARED) as caught:
                Log.open(RealStorage(), directory)
            assert caught.value.path == str(path)
            continue
        log = Log.open(RealStorage(), directory)
        (repaired,) = log.opening.repaired
        assert (repaired.offset, repaired.bit) == (offset, offset % 8)
        assert (log.opening.clean, log.next_seq, path.read_bytes()) == (True, 3, whole)
        assert repaired.quarantined is not None
        assert Path(repaired.quarantined).read_bytes() == damaged
        log.close()
    assert len(segment_files(directory)) == 2


def test_the_journal_under_test_has_padding_of_both_kinds(subject: Subject) -> None:
    last = max(subject.padding)
    sizes = {path: subject.held.size(path) - end for path, end in subject.padding.items()}
    assert sizes.pop(last) > 1000, "zero fill"
    assert max(sizes.values()) > 1000, "void bytes"
    assert len(subject.padding) > 15
    assert sum(map(len, subject.payloads)) > 200_000
