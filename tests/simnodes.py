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
    """A file: what a reader sees (``live``), what is on the platter (``durable``) and what is on its way there."""

    live: bytearray = field(default_factory=bytearray)
    durable: bytearray = field(default_factory=bytearray)
    pending: list[Write | Truncate] = field(default_factory=list)
    bad_sectors: dict[int, bool] = field(default_factory=dict)  # number → True if reads just end there

    def write(self, offset: int, data: bytes) -> None:
        if data:
            apply_write(self.live, offset, data)
            self.pending.append(Write(offset, bytes(data)))

    def truncate(self, length: int) -> None:
        apply_truncate(self.live, length)
        self.pending.append(Truncate(length))

    def sync(self) -> None:
        """The pending writes become durable: those, and not what readers see, which lost writes still show."""
        for each in self.pending:
            _apply(self.durable, each)
        self.pending.clear()

    def lose_pending(self) -> None:
        """What a kernel does after a failed sync: the pages count as clean, readers see them, the disk never will."""
        self.pending.clear()

    def after_cut(self, rng: random.Random, mode: Mode) -> bytearray:
        if mode == "none":
            return bytearray(self.durable)
        content = bytearray(self.durable)
        if mode == "all":
            for each in self.pending:
                _apply(content, each)
            return content
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
        return torn(rng, content, run)


def torn(rng: random.Random, durable: bytes | bytearray, writes: list[Write]) -> bytearray:
    """The content after a cut with these writes under way."""
    if not writes:
        return bytearray(durable)
    pieces: dict[int, list[Write]] = {}
    lengths = [len(durable)]
    for write in writes:
        stop = write.offset + len(write.data)
        lengths.append(max(lengths[-1], stop))
        for sector in range(write.offset // SECTOR_BYTES, (stop - 1) // SECTOR_BYTES + 1):
            start, end = max(write.offset, sector * SECTOR_BYTES), min(stop, (sector + 1) * SECTOR_BYTES)
            piece = Write(start, write.data[start - write.offset : end - write.offset])
            pieces.setdefault(sector, []).append(piece)
    length = rng.choice(lengths)
    content = bytearray(durable).ljust(lengths[-1], b"\0")
    likelihood = rng.choice((0.0, 0.1, 0.5, 0.9, 1.0))  # from "the head never came by" to "only the length is missing"
    for versions in pieces.values():
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
        self._pending: list[list[NameChange]] = []

    def change(self, *changes: NameChange) -> None:
        for each in changes:
            each.arrive(each.directory.live)
        self._pending.append(list(changes))

    def sync(self, directory: DirectoryNode) -> None:
        for together in self._pending:
            for each in together:
                if each.directory is directory:
                    each.arrive(directory.durable)
            together[:] = [each for each in together if each.directory is not directory]
        self._pending = [together for together in self._pending if together]

    def after_cut(self, rng: random.Random, mode: Mode, root: DirectoryNode) -> DirectoryNode:
        """The tree that is found afterwards: new nodes, everything in it durable."""
        if mode == "all":
            arrived = self._pending
        elif mode == "none":
            arrived = []
        else:
            likelihood = rng.choice((0.1, 0.5, 0.9))
            arrived = [together for together in self._pending if rng.random() < likelihood]
        names: dict[int, dict[str, Node]] = {}
        for together in arrived:
            for each in together:
                each.arrive(names.setdefault(id(each.directory), dict(each.directory.durable)))
        copies: dict[int, Node] = {}

        def copy(node: Node) -> Node:
            if id(node) in copies:
                return copies[id(node)]  # two names of one file, left by half a rename
            if isinstance(node, DirectoryNode):
                found = names.get(id(node), node.durable)
                made: Node = (directory := DirectoryNode())
                copies[id(node)] = made
                directory.live = {name: copy(found[name]) for name in sorted(found)}
                directory.durable = dict(directory.live)
            elif isinstance(node, FileNode):
                content = node.after_cut(rng, mode)
                made = FileNode(content, bytearray(content), bad_sectors=dict(node.bad_sectors))
            else:
                made = LinkNode(node.target)
            copies[id(node)] = made
            return made

        after = copy(root)
        assert isinstance(after, DirectoryNode)
        return after
