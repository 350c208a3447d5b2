"""Every disk that a power cut at one moment may leave: all of them where they are few, else a seeded choice.

The rules are those of `simnodes`; this only counts out what they allow. The choices are independent: of the pending
changes of names any subset arrives, and each file with pending writes has one of its possible contents.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from itertools import product
from math import prod

from tests.simdisk import SimDisk
from tests.simnodes import FileNode, NameChange, Truncate, Write, apply_truncate, apply_write, lengths_of, pieces_of


class Image:
    """One disk that a cut may leave: told apart by `number`, made by `disk`. Only until the disk it is of changes."""

    __slots__ = ("_arrived", "_contents", "_disk", "has_bytes", "number")

    def __init__(self, disk: SimDisk, arrived: list[list[NameChange]], contents: dict[int, bytes]) -> None:
        self._disk, self._arrived, self._contents = disk, arrived, contents
        self.number, self.has_bytes = disk.image_after(arrived, contents)

    def disk(self) -> SimDisk:
        return self._disk.after(self._arrived, self._contents)


def images(disk: SimDisk, rng: random.Random, limit: int) -> Iterator[Image]:
    """At most `limit` of the disks that a cut now may leave, "nothing arrived" and "all arrived" always among them."""
    names, files = disk.pending()
    choices = [contents(node, rng, limit) for node in files]
    ways = 2 ** len(names) * prod(map(len, choices))
    if ways <= limit:
        picks = product(*(range(2) for _ in names), *(range(len(each)) for each in choices))
    else:
        sizes = [2] * len(names) + [len(each) for each in choices]
        ends = [tuple(0 for _ in sizes), tuple(size - 1 for size in sizes)]
        picks = iter(ends + [tuple(rng.randrange(size) for size in sizes) for _ in range(limit - len(ends))])
    for pick in picks:
        arrived: list[list[NameChange]] = [each for each, does in zip(names, pick, strict=False) if does]
        found = zip(files, choices, pick[len(names) :], strict=True)
        yield Image(disk, arrived, {id(node): options[index] for node, options, index in found})


def contents(node: FileNode, rng: random.Random, limit: int) -> list[bytes]:
    """Distinct contents of a file after a cut, from "nothing arrived" to "all arrived"; at most `limit` of them."""
    ends = [node.after_cut(rng, "none"), node.after_cut(rng, "all")]
    if any(isinstance(each, Truncate) for each in node.pending):
        between = _around_truncations(node)
    else:
        writes = [each for each in node.pending if isinstance(each, Write)]
        lengths = sorted(set(lengths_of(len(node.durable), writes)))
        pieces = list(pieces_of(writes).values())
        if len(lengths) * prod(len(versions) + 1 for versions in pieces) <= limit:
            between = list(_every(node.durable, pieces, lengths))
        else:
            between = []
    if not between:
        between = [node.after_cut(rng, "torn") for _ in range(limit - len(ends))]
    return list(dict.fromkeys([ends[0], *between, ends[1]]))


def _every(durable: bytes, pieces: list[list[Write]], lengths: list[int]) -> Iterator[bytes]:
    """Each sector as after any number of its writes, under each length."""
    for arrived in product(*(range(len(versions) + 1) for versions in pieces)):
        content = bytearray(durable.ljust(lengths[-1], b"\0"))
        for versions, count in zip(pieces, arrived, strict=True):
            for piece in versions[:count]:
                apply_write(content, piece.offset, piece.data)
        for length in lengths:
            yield bytes(content[:length])


def _around_truncations(node: FileNode) -> list[bytes]:
    """The states between the operations, where each is one write of one sector or a truncation; none otherwise."""
    content = bytearray(node.durable)
    found = []
    for each in node.pending:
        if isinstance(each, Truncate):
            apply_truncate(content, each.length)
        elif len(pieces_of([each])) == 1 and each.offset + len(each.data) <= len(content):
            apply_write(content, each.offset, each.data)
        else:
            return []
        found.append(bytes(content))
    return found
