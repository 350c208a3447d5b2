"""What a simulated disk keeps under its names: the bytes and names that are durable, and those that are not yet.

Rules of a power cut, harsher than most file systems and never kinder:

- A file's sectors of 512 bytes reach the disk in any order, each as it was after any of the writes to it since the last
  sync. Its length may be any that it had meanwhile. A grown file shows zeros where no sector arrived.
- A truncation is ordered against the writes around it.
- Names (created, removed, renamed) arrive in any combination. A rename arrives as a whole or not at all, unless one of
  two directories was synced: then the other's half may still be missing.
- Syncing a file makes no name durable, syncing a directory no content.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Literal

SECTOR_BYTES = 512

Mode = Literal["torn", "none", "all"]


@dataclass(slots=True)
class Write:
    offset: int
    data: bytes


@dataclass(slots=True)
class Truncate:
    length: int


@dataclass(slots=True, eq=False)
class FileNode:
    """A file: what a reader sees (``live``), what is on the platter (``durable``) and what is on its way there.

    Whoever only reads shares its bytes with the disk that it came from: they are copied when it is written.
    """

    live: bytes | bytearray = b""
    durable: bytes = b""
    pending: list[Write | Truncate] = field(default_factory=list)
    bad_sectors: dict[int, bool] = field(default_factory=dict)  # number → True if reads just end there
    has_lost: bool = False  # a write that readers see and the disk never will: the two are no longer one

    def write(self, offset: int, data: bytes) -> None:
        if data:
            apply_write(self._writable(), offset, data)
            self.pending.append(Write(offset, bytes(data)))

    def truncate(self, length: int) -> None:
        apply_truncate(self._writable(), length)
        self.pending.append(Truncate(length))

    def poke(self, offset: int, data: bytes) -> None:
        """Bytes that change behind everybody's back, on the platter and in the cache."""
        apply_write(self._writable(), offset, data)
        durable = bytearray(self.durable)
        apply_write(durable, offset, data)
        self.durable = bytes(durable)

    def _writable(self) -> bytearray:
        if not isinstance(self.live, bytearray):
            self.live = bytearray(self.live)
        return self.live

    def sync(self) -> None:
        """The pending writes become durable: those, and not what readers see, which lost writes still show."""
        if self.pending:
            self.durable = self._all_arrived() if self.has_lost else bytes(self.live)
            self.pending.clear()

    def lose_pending(self) -> None:
        """What a kernel does after a failed sync: the pages count as clean, readers see them, the disk never will."""
        self.has_lost = True
        self.pending.clear()

    def _all_arrived(self) -> bytes:
        content = bytearray(self.durable)
        for each in self.pending:
            _apply(content, each)
        return bytes(content)

    def after_cut(self, rng: random.Random, mode: Mode) -> bytes:
        """What one cut leaves: nothing of what is pending, all of it, or any legal part."""
        if mode == "none" or not self.pending:
            return self.durable
        if mode == "all":
            return self._all_arrived()
        content = bytearray(self.durable)
        run: list[Write] = []
        for each in self.pending:
            if isinstance(each, Write):
                run.append(each)
                continue
            if rng.random() < 0.5:
                break  # this truncation never arrived, and nothing after it
            content = torn(rng, content, run)
            apply_truncate(content, each.length)
            run = []
        return bytes(torn(rng, content, run))


def pieces_of(writes: list[Write]) -> dict[int, list[Write]]:
    """The writes by the sector that they fall into, each sector's in their order."""
    pieces: dict[int, list[Write]] = {}
    for write in writes:
        stop = write.offset + len(write.data)
        for sector in range(write.offset // SECTOR_BYTES, (stop - 1) // SECTOR_BYTES + 1):
            start, end = max(write.offset, sector * SECTOR_BYTES), min(stop, (sector + 1) * SECTOR_BYTES)
            piece = Write(start, write.data[start - write.offset : end - write.offset])
            pieces.setdefault(sector, []).append(piece)
    return pieces


def lengths_of(length: int, writes: list[Write]) -> list[int]:
    """Every length that a file of `length` bytes has on the way through these writes, ascending."""
    lengths = [length]
    for write in writes:
        lengths.append(max(lengths[-1], write.offset + len(write.data)))
    return lengths


def torn(rng: random.Random, durable: bytes | bytearray, writes: list[Write]) -> bytearray:
    """The content after a cut with these writes under way."""
    if not writes:
        return bytearray(durable)
    lengths = lengths_of(len(durable), writes)
    length = rng.choice(lengths)
    content = bytearray(durable).ljust(lengths[-1], b"\0")
    likelihood = rng.choice((0.0, 0.1, 0.5, 0.9, 1.0))  # from "the head never came by" to "only the length is missing"
    for versions in pieces_of(writes).values():
        if rng.random() < likelihood:
            for piece in versions[: rng.randint(1, len(versions))]:
                apply_write(content, piece.offset, piece.data)
    del content[length:]
    return content


def _apply(content: bytearray, operation: Write | Truncate) -> None:
    if isinstance(operation, Write):
        apply_write(content, operation.offset, operation.data)
    else:
        apply_truncate(content, operation.length)


def apply_write(content: bytearray, offset: int, data: bytes) -> None:
    if len(content) < offset:
        content.extend(bytes(offset - len(content)))
    content[offset : offset + len(data)] = data


def apply_truncate(content: bytearray, length: int) -> None:
    del content[length:]
    content.extend(bytes(length - len(content)))


# -- names ------------------------------------------------------------------------------------------------------------


@dataclass(slots=True, eq=False)
class LinkNode:
    target: str


@dataclass(slots=True, eq=False)
class DirectoryNode:
    """Names and what they mean: as seen, and as a cut would leave them if nothing pending arrived."""

    live: dict[str, Node] = field(default_factory=dict)
    durable: dict[str, Node] = field(default_factory=dict)


Node = FileNode | LinkNode | DirectoryNode


@dataclass(slots=True, eq=False)
class NameChange:
    """One name takes a meaning (`node`) or, with None, loses it."""

    directory: DirectoryNode
    name: str
    node: Node | None

    def arrive(self, names: dict[str, Node]) -> None:
        if self.node is None:
            names.pop(self.name, None)
        else:
            names[self.name] = self.node


class Names:
    """The unsynced changes of names on one disk, oldest first; those in one list arrive together or not at all."""

    def __init__(self) -> None:
        self.pending: list[list[NameChange]] = []

    def change(self, *changes: NameChange) -> None:
        for each in changes:
            each.arrive(each.directory.live)
        self.pending.append(list(changes))

    def sync(self, directory: DirectoryNode) -> None:
        for together in self.pending:
            for each in together:
                if each.directory is directory:
                    each.arrive(directory.durable)
            together[:] = [each for each in together if each.directory is not directory]
        self.pending = [together for together in self.pending if together]

    def settle(self, directory: DirectoryNode, name: str) -> None:
        """One name becomes durable as it is."""
        if name in directory.live:
            directory.durable[name] = directory.live[name]
        else:
            directory.durable.pop(name, None)
        for together in self.pending:
            together[:] = [each for each in together if each.directory is not directory or each.name != name]
        self.pending = [together for together in self.pending if together]

    def arriving(self, rng: random.Random, mode: Mode) -> list[list[NameChange]]:
        """Those of the pending changes that one cut lets arrive."""
        if mode == "all":
            return self.pending
        if mode == "none":
            return []
        likelihood = rng.choice((0.1, 0.5, 0.9))
        return [together for together in self.pending if rng.random() < likelihood]


def names_after(arrived: list[list[NameChange]]) -> dict[int, dict[str, Node]]:
    """The names in the directories (by id) that are not as they were synced, after a cut that let these arrive."""
    names: dict[int, dict[str, Node]] = {}
    for together in arrived:
        for each in together:
            found = names.get(id(each.directory))
            if found is None:
                found = names[id(each.directory)] = dict(each.directory.durable)
            each.arrive(found)
    return names


def tree_after(
    root: DirectoryNode, arrived: list[list[NameChange]], content_of: Callable[[FileNode], bytes]
) -> DirectoryNode:
    """The tree that is found after a cut: new nodes, everything in it durable.

    ``arrived`` are the changes of names that made it, ``content_of`` says what became of a file.
    """
    names = names_after(arrived)
    copies: dict[int, Node] = {}

    def copy(node: Node) -> Node:
        made = copies.get(id(node))
        if made is not None:
            return made  # two names of one file, left by half a rename
        if isinstance(node, FileNode):
            content = content_of(node)
            made = FileNode(content, content, bad_sectors=dict(node.bad_sectors))
        elif isinstance(node, DirectoryNode):
            found = names.get(id(node), node.durable)
            made = directory = DirectoryNode()
            copies[id(node)] = made
            directory.live = {name: copy(each) for name, each in found.items()}
            directory.durable = dict(directory.live)
        else:
            made = LinkNode(node.target)
        copies[id(node)] = made
        return made

    after = copy(root)
    assert isinstance(after, DirectoryNode)
    return after
