"""Putting repaired bytes in the place of damaged ones, and remembering that until it is journaled.

    journal/quarantine/damaged-NAME-HASH     the damaged file, byte for byte
    journal/repairs.json                     repairs that are not journaled yet: a prologue of kind 3, a JSON list

Knows files and the order of syncs; must not know how the bytes were found. The damaged file is copied to quarantine,
the repair is written down, and the new file is written beside, synced, read back and renamed: a cut leaves the old
file or the new one under the name, and whoever opens the log next can tell what was done.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Literal

import msgspec

from journal.around import read_around
from journal.errors import DataError, IOFault
from journal.files import publish, read_bounded, write_file
from journal.format import HEADER_BYTES_MAX, KIND_PLAN, decode_file, encode_header
from journal.repair_segment import Step
from journal.segment import PACKED
from journal.storage import Storage

PENDING = "repairs.json"


class Repair(msgspec.Struct, frozen=True, kw_only=True):
    """One thing put right in one file.

    ``path`` is relative to the journal's directory, absolute outside of it. ``method``: ``one bit`` (then ``offset``
    and ``bit`` say which), ``copy`` (another place held the same batch), ``parity``, ``cut`` (of bytes that follow the
    end), or ``anew`` (a parity file, which is derived). ``length`` bytes from ``offset`` on were looked at as wrong.
    ``proof`` is what confirmed the result.
    """

    path: str
    method: Literal["one bit", "copy", "parity", "cut", "anew"]
    offset: int = 0
    length: int = 0
    bit: int | None = None
    first_seq: int | None = None
    last_seq: int | None = None
    proof: str = "chain"
    quarantined: str | None = None

    def words(self) -> str:
        """What was done, in a line."""
        where = f"bit {self.bit} of byte {self.offset}" if self.bit is not None else f"{self.length} bytes"
        at = "" if self.bit is not None or self.method == "anew" else f" at {self.offset}"
        events = ""
        if self.first_seq is not None:
            many = self.last_seq != self.first_seq
            events = f", events {self.first_seq}-{self.last_seq}" if many else f", event {self.first_seq}"
        beside = "its pack" if self.first_seq is None else "the segment before"
        held = "the copy in the same file" if self.path.endswith(PACKED) else beside
        how = {
            "one bit": f"{where} was flipped",
            "copy": f"{where}{at} brought back from {held}",
            "parity": f"{where}{at} restored from parity",
            "cut": f"{where}{at} that follow its end cut off",
            "anew": "made anew",
        }[self.method]
        return f"{self.path}: {how}{events}, proven by {self.proof}"


def repair_of(step: Step, path: str, directory: str) -> Repair:
    """A step of mending the file at `path` as what is told of it."""
    return Repair(
        path=path.removeprefix(f"{directory}/"), method=step.method, offset=step.offset, length=step.length,
        bit=step.bit, first_seq=step.first_seq, last_seq=step.last_seq, proof=step.proof,
    )  # fmt: skip


def put_in_place(
    storage: Storage, directory: str, path: str, data: bytes, repairs: Sequence[Repair]
) -> tuple[Repair, ...]:
    """Replaces the file at `path` by `data`; returns the repairs with where the damaged file is kept.

    Raises IOFault where the new file does not read back as it was written: the old one then stays.
    """
    quarantined = keep_damaged(storage, directory, path)
    told = tuple(msgspec.structs.replace(each, quarantined=quarantined) for each in repairs)
    write_pending(storage, directory, [*read_pending(storage, directory), *told])
    folder, name = path.rsplit("/", 1)
    storage.make_directory(folder)
    temporary = f"{folder}/.{name}.tmp"

    def check() -> None:
        if storage.read(temporary) != data:
            hint = "check the disk (dmesg, smartctl)"
            raise IOFault("the repaired file does not read back", path=temporary, hint=hint)

    publish(storage, temporary, path, data, check)
    storage.sync_dir(folder)
    return told


def keep_damaged(storage: Storage, directory: str, path: str) -> str | None:
    """Copies the file to quarantine, under a name that its content decides; None where there is none. What the disk
    does not give out is zeros there."""
    if storage.kind(path) != "file":
        return None
    data, _ = read_around(storage, path)
    place = f"{directory}/quarantine"
    kept = f"{place}/damaged-{path.rsplit('/', 1)[1][:100]}-{hashlib.sha256(data).hexdigest()[:16]}"
    if storage.kind(kept) == "missing":
        storage.make_directory(place)
        write_file(storage, kept, data)
    return kept


def read_pending(storage: Storage, directory: str) -> list[Repair]:
    """Repairs that nobody has journaled yet. A list that cannot be read tells nothing."""
    path = f"{directory}/{PENDING}"
    try:
        data = read_bounded(storage, path, HEADER_BYTES_MAX)
        return msgspec.json.decode(decode_file(data, KIND_PLAN, path), type=list[Repair])
    except (FileNotFoundError, DataError, msgspec.MsgspecError, ValueError, RecursionError):
        return []


def write_pending(storage: Storage, directory: str, repairs: Sequence[Repair]) -> None:
    """What is to be journaled, equal entries once: a repair that was cut is noted again by the next run."""
    unique = list(dict.fromkeys(repairs))
    write_file(storage, f"{directory}/{PENDING}", encode_header(KIND_PLAN, msgspec.json.encode(unique)))


def forget_pending(storage: Storage, directory: str) -> None:
    """After they were journaled."""
    storage.remove(f"{directory}/{PENDING}")
    storage.sync_dir(directory)
