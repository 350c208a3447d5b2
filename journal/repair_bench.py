"""Where repairs are worked out before anything is changed: files as they would be, and what was put right in them.

Knows the files on disk, the planned ones over them, and parity; must not know what a file means.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from journal.around import read_around
from journal.errors import DataError
from journal.parity_file import protects, restore, restored
from journal.parity_store import ParityStore
from journal.repair_segment import Mended, Step
from journal.repaired import Repair, repair_of
from journal.segment import is_packed, packed_path
from journal.storage import Storage
from journal.unpack import unpack

NOT_REPAIRABLE = "more than one bit is wrong, and no parity restores it"


@dataclass(slots=True)
class RepairPlan:
    """What would be done: the new bytes of each file with what was wrong in it, and whose parity and index (by the
    segment's first seq and epoch) is made anew.

    ``refused`` are (path, reason) of damage that nothing here can put right.
    """

    files: dict[str, tuple[bytes, tuple[Repair, ...]]] = field(default_factory=dict)
    parity: list[str] = field(default_factory=list)
    indexes: list[tuple[int, int]] = field(default_factory=list)
    refused: list[tuple[str, str]] = field(default_factory=list)

    @property
    def is_empty(self) -> bool:
        return not self.files and not self.parity and not self.indexes

    def repairs(self) -> list[Repair]:
        """All that would be put right, in the order in which it is done."""
        anew = [Repair(path=f"parity of {name}", method="anew", proof="sha256") for name in self.parity]
        anew += [
            Repair(path=f"index of segment {first_seq}-{epoch}", method="anew", proof="chain")
            for first_seq, epoch in self.indexes
        ]
        return [*(repair for _, repairs in self.files.values() for repair in repairs), *anew]


@dataclass(slots=True)
class Bench:
    """One look at a journal. What is taken into the plan is what later steps see in place of what lies on disk."""

    storage: Storage
    directory: str
    parity: ParityStore
    plan: RepairPlan = field(default_factory=RepairPlan)

    def data(self, path: str) -> bytes:
        """The file as it would be after what is planned so far; nothing where it is missing."""
        if path in self.plan.files:
            return self.plan.files[path][0]
        return self._found(path)

    def _found(self, path: str) -> bytes:
        """The file as it lies there; zeros where the disk does not give it out."""
        return read_around(self.storage, path)[0] if self.storage.kind(path) == "file" else b""

    def take(self, path: str, data: bytes, steps: Sequence[Step]) -> None:
        """Plans these bytes for the file."""
        self.plan.files[path] = data, tuple(repair_of(step, path, self.directory) for step in steps)

    def refuse(self, path: str, reason: str = NOT_REPAIRABLE) -> None:
        """Leaves the file as it is."""
        self.plan.files.pop(path, None)
        self.plan.refused.append((path, reason))

    def name(self, path: str) -> str:
        return path.removeprefix(f"{self.directory}/")

    def matches_parity(self, path: str, data: bytes) -> bool | None:
        """Whether these are the bytes that the file's parity was made of; None where there is no parity."""
        parity = self.parity.read(self.name(path))
        if parity is None:
            return None
        return protects(parity, lambda offset, length: data[offset : offset + length])

    def from_pack(self, path: str) -> Mended | None:
        """The segment as the pack beside it has it, where packing was cut between the two; None where that is missing
        or damaged. Whether it ends where it should is for the caller to prove."""
        if is_packed(path):
            return None
        packed = packed_path(path)
        try:
            data = unpack(self.data(packed), packed)
        except DataError:
            return None
        return Mended(data + self.data(path)[len(data) :], (Step("copy", 0, len(data)),))

    def from_parity(self, path: str) -> Mended | None:
        """The file as its parity restores it, proven by SHA-256; None where it cannot, or would change nothing."""
        parity = self.parity.read(self.name(path))
        if parity is None:
            return None
        data = self._found(path)
        found = restore(self.storage, parity, lambda offset, length: data[offset : offset + length])
        whole = restored(parity, data, found)
        if whole is None or whole == data:
            return None
        offset = found.patches[0][0] if found.patches else len(data)
        return Mended(whole, (Step("parity", offset, found.bytes or len(whole) - len(data), proof="sha256"),))
