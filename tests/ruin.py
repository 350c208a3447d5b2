"""Everything that can happen to the files of a journal, one damage at a time: enumerated, never drawn.

A `Damage` is what changes of a directory's files. Which of them a run takes is its caller's choice.
"""

from __future__ import annotations

import hashlib
import random
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from typing import NamedTuple

import msgspec

from journal.checkpoint import KIND_MEMORY, MANIFEST_SUFFIX, Part
from journal.format import KIND_MANIFEST, decode_segment_header, encode_header
from journal.scan import Scanner
from journal.segment import is_packed, packed_path, segment_name
from replay.digest import state_digest
from tests.specimen import Specimen, kind_of

SECTOR = 512


class Damage(NamedTuple):
    """``path`` is the file that is damaged and must be named, ``offset`` where it first differs, if it does.

    ``may_name`` are files that may be named in its stead: the one that was linked to it.
    """

    what: str
    path: str
    offset: int | None
    changes: dict[str, bytes | None]
    may_name: tuple[str, ...] = ()
    is_flip: bool = False


def flip(specimen: Specimen, path: str, offset: int, bit: int) -> Damage:
    data = specimen.image[path]
    changed = data[:offset] + bytes((data[offset] ^ 1 << bit,)) + data[offset + 1 :]
    return Damage(f"bit {bit} of byte {offset} flipped", path, offset, {path: changed}, is_flip=True)


def drawn_flips(specimen: Specimen, kind: str, count: int, rng: random.Random) -> Iterator[Damage]:
    """`count` of all flips in files of a kind, each bit as likely as any other."""
    places = [(path, offset) for path in specimen.files(kind) for offset in range(len(specimen.image[path]))]
    for path, offset in rng.choices(places, k=count):
        yield flip(specimen, path, offset, rng.randrange(8))


def truncation(specimen: Specimen, path: str, length: int) -> Damage:
    return Damage(f"cut to {length} bytes", path, length, {path: specimen.image[path][:length]})


def zeroed_sectors(specimen: Specimen, path: str) -> Iterator[Damage]:
    data = specimen.image[path]
    for offset in range(0, len(data), SECTOR):
        end = min(offset + SECTOR, len(data))
        if any(data[offset:end]):
            first = next(at for at in range(offset, end) if data[at])
            changed = data[:offset] + bytes(end - offset) + data[end:]
            yield Damage(f"sector at {offset} zeroed", path, first, {path: changed})


def swapped_sectors(specimen: Specimen, path: str) -> Iterator[Damage]:
    """A sector that holds what belongs into the next one, and the other way round: a misdirected write."""
    data = specimen.image[path]
    for offset in range(0, len(data) - 2 * SECTOR + 1, SECTOR):
        one, two = data[offset : offset + SECTOR], data[offset + SECTOR : offset + 2 * SECTOR]
        if one != two:
            first = next(at for at in range(SECTOR) if one[at] != two[at])
            changed = data[:offset] + two + one + data[offset + 2 * SECTOR :]
            yield Damage(f"sectors at {offset} swapped", path, offset + first, {path: changed})


def misplaced_segments(specimen: Specimen, other: Specimen) -> Iterator[Damage]:
    """Each segment missing, doubled, stale, from another journal, renamed, swapped with its neighbour."""
    image, segments = specimen.image, specimen.segments
    folder = segments[0].rsplit("/", 1)[0]
    for index, path in enumerate(segments):
        after = tuple(segments[index + 1 : index + 2])
        before = tuple(segments[max(0, index - 1) : index])  # the log seems to end there, where the last is missing
        yield Damage("missing", path, None, {path: None}, (*before, *after, folder, *segments[-1:]))
        yield Damage("empty", path, 0, {path: b""})
        for seq, epoch in ((999_999, 9), (1, 9), (150, 9)):
            copy = _named(folder, seq, epoch, path)
            yield Damage(f"doubled as {seq}-{epoch}", copy, 0, {copy: image[path]}, tuple(segments))
        renamed = _named(folder, 1 + index * 7, 77, path)
        yield Damage("renamed", renamed, 0, {path: None, renamed: image[path]}, (path, *after, folder, *segments))
        if index + 1 < len(segments):
            changes: dict[str, bytes | None] = {path: image[after[0]], after[0]: image[path]}
            yield Damage("swapped with the next", path, 0, changes, after)
        theirs = other.image[other.segments[min(index, len(other.segments) - 1)]]
        yield Damage("another journal's", path, 0, {path: theirs}, tuple(segments))
    yield Damage("all missing", folder, None, dict.fromkeys(segments), (folder,))


def _named(folder: str, seq: int, epoch: int, path: str) -> str:
    """Another name for the file at `path`: plain or packed, as that is."""
    name = f"{folder}/{segment_name(seq, epoch)}"
    return packed_path(name) if is_packed(path) else name


def stale_segments(specimen: Specimen) -> Iterator[Damage]:
    """Each segment as it was at every earlier moment: with some of its batches, zeros behind."""
    for index, path in enumerate(specimen.segments):
        data = specimen.image[path]
        header, end = decode_segment_header(data, path)
        for batch in Scanner(data[: specimen.padding[path]], end, header, path):
            stale = data[: batch.offset].ljust(len(data), b"\0")
            after = tuple(specimen.segments[index + 1 : index + 2])
            yield Damage(f"as it was at {batch.offset} bytes", path, batch.offset, {path: stale}, after)


def whole_files(specimen: Specimen, path: str, other: Specimen) -> Iterator[Damage]:
    """A file that is no segment: gone, empty, zeros, noise, text, and each of another journal's of its kind."""
    data = specimen.image[path]
    rng = random.Random(path.rsplit("/", 1)[1])
    for what, content in (
        ("gone", None), ("empty", b""), ("zeros", bytes(len(data))), ("noise", rng.randbytes(len(data))),
        ("text", b"not a file of this journal\n" * 40), ("doubled", data + data), ("longer", data + b"\0"),
    ):  # fmt: skip
        yield Damage(what, path, 0, {path: content})
    for theirs in other.files(kind_of(path)):
        if other.image[theirs] != data:
            yield Damage(f"another journal's {theirs.rsplit('/', 1)[1]}", path, 0, {path: other.image[theirs]})


PLANTED = "planted: another state, whole in itself"


def planted_checkpoints(specimen: Specimen) -> Iterator[Damage]:
    """Each manifest in turn replaced by one of another state: its part, digest, position and chain agree."""
    for manifest in specimen.manifests:
        (memory,) = manifest.of_kind(KIND_MEMORY)
        folder = f"{specimen.root}/checkpoints"
        with closing(sqlite3.connect(":memory:")) as connection:
            connection.deserialize(specimen.image[f"{folder}/parts/{memory.sha256}"])
            connection.execute("UPDATE entities SET entity_type = 'planted'")
            connection.commit()
            digest, data = state_digest(connection), connection.serialize()
        part = Part(KIND_MEMORY, hashlib.sha256(data).hexdigest(), len(data))
        planted = msgspec.structs.replace(manifest, digest=digest, parts=[part], verified_at=None)
        path = f"{folder}/{manifest.seq:016d}{MANIFEST_SUFFIX}"
        body = encode_header(KIND_MANIFEST, msgspec.json.encode(planted))
        yield Damage(PLANTED, path, None, {path: body, f"{folder}/parts/{part.sha256}": data})
