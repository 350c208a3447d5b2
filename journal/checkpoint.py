"""Checkpoints on disk: manifests, and the content-addressed parts they list.

    checkpoints/0000000000001234.manifest    one a checkpoint, named by its seq
    checkpoints/parts/SHA256                 up to 1 MiB each, shared by every checkpoint that lists it
    checkpoints/lock                         held by whoever adds or removes parts

Knows names, bytes and the order of syncs; must not know what a part means. Which checkpoints stay is `retention`'s.

A part is synced before it gets its name, the names before the manifest that lists them, and the manifest appears by
rename: a cut leaves parts that nobody lists, never a manifest that lists what is not there.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Collection, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Annotated, Literal, NamedTuple

import msgspec
from msgspec import UNSET, UnsetType

from journal.errors import Corrupt, DataError
from journal.files import exclusive, is_half_written, publish, read_bounded, write_file
from journal.format import HEADER_BYTES_MAX, KIND_MANIFEST, PROLOGUE_BYTES, decode_file, encode_header
from journal.storage import Lock, Storage

PART_BYTES = 1 << 20
PART_BYTES_MAX = 1 << 26
KIND_MEMORY = "memory.db"  # consecutive pieces of one SQLite file, in order: all of it, or the base of a delta
KIND_PAGES = "memory.db.pages"  # the delta: groups of pages that differ from the base (`journal.delta`)
KIND_EMBEDDINGS = "embeddings"
MANIFEST_SUFFIX = ".manifest"

_WHEN = ("time", "state", "verified_at")  # the keys that a later proof may change

Count = Annotated[int, msgspec.Meta(ge=0)]
Hex32 = Annotated[str, msgspec.Meta(pattern="^[0-9a-f]{64}$")]
Digest = Annotated[str, msgspec.Meta(pattern="^([0-9a-f]{64})?$")]


class Part(msgspec.Struct, frozen=True):
    kind: str
    sha256: Hex32
    length: Annotated[int, msgspec.Meta(ge=0, le=PART_BYTES_MAX)]


class Whole(msgspec.Struct, frozen=True):
    """The file that the parts make: its length, and the SHA-256 of the SHA-256 of each of its pieces (`PART_BYTES`).

    Like a digest, that is empty in a manifest that is only written.
    """

    length: Count
    sha256: Digest


def whole_of(length: int, pieces: Iterable[bytes]) -> Whole:
    """`pieces` are the 32 bytes of each piece's SHA-256, in order."""
    return Whole(length, hashlib.sha256(b"".join(pieces)).hexdigest())


class Manifest(msgspec.Struct, frozen=True, kw_only=True):
    """What one checkpoint is. ``written`` until a scan of what its parts make gave ``digest``, then ``verified``.

    ``digest`` is empty while it is only written: nothing has been proven, and no time was taken to prove it.
    ``restores`` (seq, to_seq) and ``tags`` are all of those up to ``seq``, so that nobody scans the log for them
    again; ``latest`` are the last events about what is no part of the state (None in a manifest from before they were
    listed). ``time`` is when it was written and ``verified_at`` when it last proved restorable, both UTC ns.
    """

    journal_id: Annotated[str, msgspec.Meta(pattern="^[0-9a-f]{32}$")]
    seq: Count
    chain: Hex32
    epoch: Count
    time: int
    digest: Digest
    digest_version: int
    projection_version: int
    state: Literal["written", "verified"] = "written"
    verified_at: int | None = None
    restores: list[tuple[Count, Count]] = []
    tags: dict[str, Count] = {}
    latest: dict[str, Count] | None = None
    counts: dict[str, Count] = {}
    parts: list[Part] = []
    whole: Whole | UnsetType = UNSET  # unset in a manifest from before there were deltas

    def of_kind(self, kind: str) -> list[Part]:
        return [part for part in self.parts if part.kind == kind]

    @property
    def memory_parts(self) -> list[Part]:
        """Those that its memory.db is made of."""
        return [part for part in self.parts if part.kind in (KIND_MEMORY, KIND_PAGES)]

    @property
    def fingerprint(self) -> str:
        """SHA-256 of all that it says but when it was made and proven: what the journal keeps to vouch for it."""
        content = {key: value for key, value in msgspec.to_builtins(self).items() if key not in _WHEN}
        return hashlib.sha256(msgspec.json.encode(content, order="deterministic")).hexdigest()

    @property
    def bytes(self) -> int:
        return sum(part.length for part in self.parts)


@dataclass(frozen=True, slots=True)
class Damaged:
    """A manifest that cannot be used, and why: Corrupt, or Unsupported for a newer version."""

    path: str
    seq: int | None  # as its name says
    error: DataError


class Swept(NamedTuple):
    files: int
    bytes: int


class PassedOver(NamedTuple):
    seq: int
    reason: str


class CheckpointStore:
    """The checkpoints of one journal. Reading takes no lock; `exclusive` is for those who add or remove."""

    def __init__(self, storage: Storage, directory: str) -> None:
        self.storage = storage
        self.directory = directory
        self.parts_directory = f"{directory}/parts"

    @contextmanager
    def exclusive(self) -> Iterator[Lock]:
        """Held while parts are added or swept: a sweep would take the parts of a checkpoint not yet published.

        And while segments are packed, or the journal's files repaired or put aside: those must not go on at once.
        """
        hint = "wait until it has ended, then try again"
        with exclusive(self.storage, self.directory, "building or pruning checkpoints", hint) as lock:
            yield lock

    # -- manifests ----------------------------------------------------------------------------------------------------

    def manifest_path(self, seq: int) -> str:
        return f"{self.directory}/{seq:016d}{MANIFEST_SUFFIX}"

    def scan(self) -> tuple[list[Manifest], list[Damaged]]:
        """Every manifest, newest first, and those that cannot be used."""
        good: list[Manifest] = []
        damaged: list[Damaged] = []
        for name in self.storage.list(self.directory):
            if not name.endswith(MANIFEST_SUFFIX) or name.startswith("."):
                continue
            path = f"{self.directory}/{name}"
            try:
                good.append(self._read(path))
            except FileNotFoundError:
                continue  # pruned since it was listed
            except DataError as error:
                stem = name.removesuffix(MANIFEST_SUFFIX)
                damaged.append(Damaged(path, int(stem) if stem.isdecimal() else None, error))
        return sorted(good, key=lambda manifest: -manifest.seq), damaged

    def manifests(self) -> list[Manifest]:
        return self.scan()[0]

    def damaged(self) -> list[Damaged]:
        return self.scan()[1]

    def _read(self, path: str) -> Manifest:
        return decode_manifest(self.encoded(path), path)

    def encoded(self, path: str) -> bytes:
        """A manifest's bytes as they lie there. FileNotFoundError if there is none."""
        if self.storage.kind(path) not in ("file", "missing"):
            raise Corrupt("manifest is no regular file", path=path, hint=_HINT)
        return read_bounded(self.storage, path, HEADER_BYTES_MAX)

    def publish(self, manifest: Manifest) -> None:
        """Makes the checkpoint visible; its parts must have been put."""
        self.storage.sync_dir(self.parts_directory)  # else a power cut leaves a manifest whose parts have no names
        body = msgspec.json.encode(manifest)
        write_file(self.storage, self.manifest_path(manifest.seq), encode_header(KIND_MANIFEST, body))

    def mark_verified(self, manifest: Manifest, now: int) -> Manifest:
        """Puts it on the ladder: a scan of its parts as they lie on disk gave its digest."""
        verified = msgspec.structs.replace(manifest, state="verified", verified_at=now)
        self.publish(verified)
        return verified

    def remove(self, manifests: Iterable[Manifest]) -> None:
        for manifest in manifests:
            self.storage.remove(self.manifest_path(manifest.seq))
        self.storage.sync_dir(self.directory)  # else parts could go while a manifest that lists them comes back

    # -- parts --------------------------------------------------------------------------------------------------------

    def part_path(self, part: Part) -> str:
        return f"{self.parts_directory}/{part.sha256}"

    def put_part(self, kind: str, data: bytes) -> tuple[Part, bool]:
        """Stores `data`; False where an equal part was there already. A damaged one under its name is replaced."""
        part = Part(kind, hashlib.sha256(data).hexdigest(), len(data))
        path = self.part_path(part)
        if self.storage.kind(path) != "missing":
            try:
                self.read_part(part)
                return part, False
            except Corrupt:
                pass  # rewritten below: sharing it would spread the damage to a new checkpoint
        if self.storage.kind(self.parts_directory) == "missing":
            self.storage.make_directory(self.parts_directory)
        temporary = f"{self.parts_directory}/.{part.sha256}.tmp"
        publish(self.storage, temporary, path, data)
        return part, True

    def read_part(self, part: Part) -> bytes:
        """Its bytes, proven. Corrupt names the file where they are missing or not what the manifest says."""
        path = self.part_path(part)
        kind = self.storage.kind(path)
        if kind != "file":
            raise Corrupt("part is missing" if kind == "missing" else "part is no regular file", path=path, hint=_HINT)
        try:
            length = self.storage.size(path)
            if length != part.length:
                raise Corrupt(f"part has {length} bytes where {part.length} belong", path=path, hint=_HINT)
            data = self.storage.read(path)
        except FileNotFoundError:
            raise Corrupt("part is missing", path=path, hint=_HINT) from None
        if hashlib.sha256(data).hexdigest() != part.sha256:
            raise Corrupt("part does not match its sha256", path=path, hint=_HINT)
        return data

    def check(self, manifest: Manifest) -> list[Corrupt]:
        """Reads every part; what is wrong with them, one error a part."""
        found: list[Corrupt] = []
        for part in dict.fromkeys(manifest.parts):
            try:
                self.read_part(part)
            except Corrupt as error:
                found.append(error)
        return found

    def is_whole(self, part: Part) -> bool:
        """Whether a part is what the manifest says."""
        try:
            self.read_part(part)
        except Corrupt:
            return False
        return True

    def sweepable(self, without: Collection[int] = ()) -> dict[str, int]:
        """Path and bytes of what no manifest lists, but for those of the seqs `without`: parts of a pruned or never
        published checkpoint, temporary files.

        While a manifest is damaged nobody knows its parts, so none goes.
        """
        manifests, damaged = self.scan()
        listed = {part.sha256 for manifest in manifests if manifest.seq not in without for part in manifest.parts}
        found: dict[str, int] = {}
        for directory in (self.directory, self.parts_directory):
            for name in self.storage.list(directory):
                orphan = directory == self.parts_directory and name not in listed and not damaged
                path = f"{directory}/{name}"
                if (orphan or is_half_written(name)) and self.storage.kind(path) == "file":
                    found[path] = self.storage.size(path)
        return found

    def sweep(self) -> Swept:
        """Removes what is `sweepable`. Call under `exclusive`."""
        found = self.sweepable()
        for path in found:
            self.storage.remove(path)
        return Swept(len(found), sum(found.values()))


def decode_manifest(data: bytes, path: str) -> Manifest:
    """The manifest in the bytes of a file, whose name says its seq. Raises Corrupt or Unsupported."""
    body = decode_file(data, KIND_MANIFEST, path)
    try:
        manifest = msgspec.json.decode(body, type=Manifest)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise Corrupt(f"manifest cannot be decoded: {error}", path=path, offset=PROLOGUE_BYTES) from error
    if path.rsplit("/", 1)[1] != f"{manifest.seq:016d}{MANIFEST_SUFFIX}":
        raise Corrupt(f"manifest of seq {manifest.seq} under another name", path=path, hint=_HINT)
    if manifest.state == "verified" and not (manifest.digest and (manifest.whole is UNSET or manifest.whole.sha256)):
        raise Corrupt("a verified checkpoint without a digest", path=path, hint=_HINT)
    return manifest


_HINT = (
    "restores use the next checkpoint; where journal verify --repair cannot restore it, make a new one (journal "
    "checkpoint create), then move the manifest of the damaged one away"
)


def ladder(
    manifests: Iterable[Manifest], usable: Callable[[Manifest], str | None], at_most: int
) -> tuple[list[Manifest], list[PassedOver]]:
    """The rungs for a state at seq `at_most`, newest first, and those passed over; below the last rung is genesis.

    `usable` says why a checkpoint is no base, or None if it is one.
    """
    rungs: list[Manifest] = []
    passed_over: list[PassedOver] = []
    for manifest in sorted(manifests, key=lambda each: -each.seq):
        if manifest.seq > at_most:
            continue
        reason = "written, but never verified" if manifest.state != "verified" else usable(manifest)
        if reason is None:
            rungs.append(manifest)
        else:
            passed_over.append(PassedOver(manifest.seq, reason))
    return rungs, passed_over
