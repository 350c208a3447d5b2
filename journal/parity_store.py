"""Which files of a journal have parity, making what is missing, and taking away what protects nothing any more.

    PARITY/segments/NAME.seg.par                  segments that are sealed: a successor or a clean close ends them
    PARITY/checkpoints/SEQ.manifest.par           verified checkpoints
    PARITY/checkpoints/parts/SHA256.par
    PARITY/lock                                   held by whoever makes or removes parity

PARITY is `parity` in the journal's directory, or another directory, on another device if possible. Runs beside a live
writer: what it protects never changes again, but for a manifest that is proven anew. Nothing gets parity that was not
proven just before, by its chain or its SHA-256.
"""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from typing import NamedTuple

import msgspec

from journal.checkpoint import MANIFEST_SUFFIX, CheckpointStore, Manifest, Part, decode_manifest
from journal.errors import DataError, EnvironmentFault
from journal.files import exclusive, is_half_written
from journal.format import SegmentHeader
from journal.parity import SHARE
from journal.parity_file import Parity, read_parity, write_parity
from journal.reader import LogReader, SegmentRef, list_segments
from journal.segment import is_packed, packed_path
from journal.storage import Storage
from journal.stored import End, is_whole, read_segment_header

SUFFIX = ".par"
_FOLDERS = ("segments", "checkpoints", "checkpoints/parts")

Progress = Callable[[int, int], None]
"""Called with bytes done and bytes to do."""


class Protected(NamedTuple):
    """A file that parity belongs to: its name relative to the journal's directory, and how many bytes of it count.

    ``end``, of a segment, plain or packed, is where it ends, as its successor says; a clean close lies behind it.
    """

    name: str
    length: int
    end: End | None = None


class Filled(msgspec.Struct):
    """What a run made, in files and bytes, and what it took away. ``skipped`` are names that could not be proven."""

    files: int = 0
    bytes: int = 0
    protected_bytes: int = 0
    removed: int = 0
    skipped: list[str] = []


class ParityStore:
    """The parity files of one journal."""

    def __init__(self, storage: Storage, journal: str, directory: str | None = None, share: float = SHARE) -> None:
        self.storage = storage
        self.journal = journal
        self.directory = directory or f"{journal}/parity"
        self.share = share
        self._checkpoints = CheckpointStore(storage, f"{journal}/checkpoints")

    def path_of(self, name: str) -> str:
        """Where the parity of the file `name` (relative to the journal's directory) lies."""
        return f"{self.directory}/{name}{SUFFIX}"

    def size_of(self, name: str) -> int:
        """Bytes of the parity of a file; 0 where that was swept since it was listed, or cannot be had."""
        try:
            return self.storage.size(self.path_of(name))
        except (FileNotFoundError, EnvironmentFault):
            return 0

    def names(self) -> list[str]:
        """Files that have parity, damaged or not, in order of their names; none where the directory cannot be read.

        It may lie on another device, and that may fail: then there is no parity, as if none had been made, and the
        journal goes on without it. Whoever reports asks for the `problem`.
        """
        try:
            return self._names()
        except EnvironmentFault:
            return []

    def problem(self) -> EnvironmentFault | None:
        """Why the directory cannot be read; None where it can, or is not there."""
        try:
            self._names()
        except EnvironmentFault as error:
            return error
        return None

    def _names(self) -> list[str]:
        found = []
        for folder in _FOLDERS:
            for name in self.storage.list(f"{self.directory}/{folder}"):
                if name.endswith(SUFFIX) and not name.startswith("."):
                    found.append(f"{folder}/{name.removesuffix(SUFFIX)}")
        return found

    def strays(self) -> list[str]:
        """Paths of what is no parity: left by a cut, or somebody else's."""
        if self.problem() is not None:
            return []
        found = []
        for folder in ("", *(f"/{each}" for each in _FOLDERS)):
            for name in self.storage.list(f"{self.directory}{folder}"):
                is_ours = name.endswith(SUFFIX) and not name.startswith(".") if folder else name == "lock"
                if not is_ours and f"{folder}/{name}"[1:] not in _FOLDERS:
                    found.append(f"{self.directory}{folder}/{name}")
        return found

    def read(self, name: str) -> Parity | None:
        """The parity of a file, or None where there is none that can be used, or it is another file's."""
        try:
            parity = read_parity(self.storage, self.path_of(name))
        except (DataError, EnvironmentFault):
            return None
        return parity if parity.header.name == name else None

    def sealed_seq(self, journal_id: str | None) -> int:
        """The last seq that the newest segment with parity held when it was sealed, so that it was durable; else 0."""
        segments = [name for name in self.names() if name.startswith("segments/")]
        parity = self.read(segments[-1]) if segments else None
        if parity is None or (journal_id is not None and parity.header.journal_id.hex() != journal_id):
            return 0
        return parity.header.last_seq

    @contextmanager
    def exclusive(self) -> Iterator[None]:
        """Held while parity is made or removed. Raises Locked."""
        with exclusive(self.storage, self.directory, "making parity", "wait until it has ended, then try again"):
            yield

    # -- making -------------------------------------------------------------------------------------------------------

    def fill(self, *, anew: Collection[str] = (), progress: Progress | None = None) -> Filled:
        """Makes the parity that is missing, and that of the names in `anew`; takes away what protects nothing.

        Raises Locked, NotAJournal, and what the disk raises: what was made until then stays.
        """
        result = Filled()
        with self.exclusive():
            result.removed = self._sweep()
            wanted = list(self._wanted(set(self._names()) - set(anew)))
            total = sum(each.length for each in wanted)
            journal_id = LogReader(self.storage, self.journal).journal_id if wanted else b""
            touched = set()
            for each in wanted:
                made = self._make(each, journal_id)
                if made is None:
                    result.skipped.append(each.name)
                else:
                    result.files, result.bytes = result.files + 1, result.bytes + made
                    touched.add(self.path_of(each.name).rsplit("/", 1)[0])
                result.protected_bytes += each.length
                if progress is not None:
                    progress(result.protected_bytes, total)
            for folder in sorted(touched):
                self.storage.sync_dir(folder)
        return result

    def protect(self, wanted: Protected) -> bool:
        """Makes the parity of one file, durable with its name; False where the file is not what it should be."""
        with self.exclusive():
            if self._make(wanted, LogReader(self.storage, self.journal).journal_id) is None:
                return False
            folder = self.path_of(wanted.name).rsplit("/", 1)[0]
            self.storage.sync_dir(folder)
            for above in (self.directory, self.directory.rsplit("/", 1)[0]):  # a killed run may have just made them
                self.storage.sync_dir(above)
            return True

    def forget(self, name: str) -> None:
        """Takes away the parity of a file that is there no more, if it has any."""
        with self.exclusive():
            if self.storage.kind(self.path_of(name)) != "missing":
                self.storage.remove(self.path_of(name))

    def _wanted(self, there: Collection[str]) -> Iterator[Protected]:
        yield from (each for each in self.sealed() if each.name not in there)
        manifests = [each for each in self._checkpoints.manifests() if each.state == "verified"]
        for part in listed_parts(manifests):
            if part.length and (name := _part_name(part)) not in there:
                yield Protected(name, part.length)
        for manifest in manifests:
            name = self._name(self._checkpoints.manifest_path(manifest.seq))
            try:
                data = self.storage.read(f"{self.journal}/{name}")
            except FileNotFoundError:
                continue  # pruned just now
            known = self.read(name) if name in there else None
            if known is None or known.header.sha256 != hashlib.sha256(data).digest():
                yield Protected(name, len(data))

    def sealed(self) -> Iterator[Protected]:
        """Segments that will never be written again, and where they end."""
        segments = list_segments(self.storage, self.journal)
        for segment, after in itertools.pairwise(segments):
            header = self._header(after)
            if header is not None and (header.previous_first_seq, header.previous_epoch) == segment[:2]:
                end = End(header.previous_end, header.first_seq, header.previous_chain)
                length = self.storage.size(segment.path) if is_packed(segment.path) else header.previous_end
                yield Protected(self._name(segment.path), length, end)
        if segments and self._header(segments[-1]) is not None:
            try:
                tail = LogReader(self.storage, self.journal).tail
            except DataError:
                return
            if tail.closed and tail.region is None and tail.path == segments[-1].path:
                end = End(tail.records_end, tail.last_seq + 1, tail.chain)
                yield Protected(self._name(tail.path), tail.records_end, end)

    def _header(self, segment: SegmentRef) -> SegmentHeader | None:
        try:
            return read_segment_header(self.storage, segment.path)[0]
        except (DataError, FileNotFoundError):
            return None

    def _make(self, wanted: Protected, journal_id: bytes) -> int | None:
        """Bytes of the parity that was made of a file, or None where the file is not what it should be."""
        name, length = wanted.name, wanted.length
        try:
            data = self._proven(wanted)
            if len(data) != length:
                return None  # a manifest that was replaced just now
        except (DataError, FileNotFoundError):
            return None
        return write_parity(
            self.storage, self.path_of(name), lambda offset, count: data[offset : offset + count], length, name=name,
            journal_id=journal_id, share=self.share, last_seq=wanted.end.next_seq - 1 if wanted.end else 0,
        )  # fmt: skip

    def _proven(self, wanted: Protected) -> bytes:
        """The bytes of a protected file, checked by what it is. Raises DataError."""
        folder, base = wanted.name.rsplit("/", 1)
        path = f"{self.journal}/{wanted.name}"
        if folder == "segments":
            file = self.storage.open(path)
            try:
                data = file.read_at(0, wanted.length)
            finally:
                file.close()
            if wanted.end is None or not is_whole(data, path, wanted.end):
                raise DataError("the segment is damaged", path=path)
            return data
        if folder == "checkpoints":
            data = self._checkpoints.encoded(path)
            decode_manifest(data, path)
            return data
        return self._checkpoints.read_part(Part("", base, wanted.length))

    # -- taking away --------------------------------------------------------------------------------------------------

    def sweep(self) -> int:
        """Takes away the parity of pruned checkpoints; returns how many files that were. Raises Locked."""
        with self.exclusive():
            return self._sweep()

    def _sweep(self) -> int:
        """A segment's parity stays until the segment is packed: where that is missing, it is what may bring it back."""
        manifests, damaged = self._checkpoints.scan()
        listed = {_part_name(part) for manifest in manifests for part in manifest.parts}
        removed = 0
        for name in self._names():
            of_part = name.startswith("checkpoints/parts/")
            gone = name.endswith(MANIFEST_SUFFIX) and self.storage.kind(f"{self.journal}/{name}") == "missing"
            gone = gone or self._is_packed_since(name)
            if gone or (of_part and name not in listed and not damaged):
                self.storage.remove(self.path_of(name))
                removed += 1
        for folder in _FOLDERS:
            for name in self.storage.list(f"{self.directory}/{folder}"):
                if is_half_written(name):
                    self.storage.remove(f"{self.directory}/{folder}/{name}")
        return removed

    def _is_packed_since(self, name: str) -> bool:
        """True for a plain segment whose pack took its place, and has parity of its own."""
        if not name.startswith("segments/") or is_packed(name):
            return False
        packed = packed_path(name)
        missing = self.storage.kind(f"{self.journal}/{name}") == "missing"
        return missing and self.storage.kind(f"{self.journal}/{packed}") == "file" and self.read(packed) is not None

    def _name(self, path: str) -> str:
        return path.removeprefix(f"{self.journal}/")


def _part_name(part: Part) -> str:
    return f"checkpoints/parts/{part.sha256}"


def listed_parts(manifests: Collection[Manifest]) -> list[Part]:
    """Every part once, whatever it is listed as, in order of its name."""
    parts = {part.sha256: part for manifest in manifests for part in manifest.parts}
    return [parts[sha256] for sha256 in sorted(parts)]
