"""Paths of a simulated disk: how a path leads to a node, links included."""

from __future__ import annotations

import errno
import os
from functools import lru_cache
from zlib import crc32

from tests.simnodes import DirectoryNode, FileNode, LinkNode, Node

LINKS_MAX = 40
NAME_BYTES_MAX = 255


def os_error(number: int) -> OSError:
    """The OSError subclass of this errno, as the operating system raises it."""
    return OSError(number, os.strerror(number))


@lru_cache(maxsize=4096)
def parts_of(path: str) -> tuple[str, ...]:
    """The names that a path is made of."""
    return tuple(part for part in path.split("/") if part)


def node_at(root: DirectoryNode, path: str, *, follow: bool = True) -> Node:
    """The node that a path names. Links on the way are followed, the last one only with `follow`."""
    node: Node | None = root
    for part in parts_of(path):
        if type(node) is not DirectoryNode:
            return _walked(root, path, follow)
        node = node.live.get(part)
    if node is None or type(node) is LinkNode:
        return _walked(root, path, follow)
    return node


def _walked(root: DirectoryNode, path: str, follow: bool) -> Node:
    """As `node_at`, where there is more to it than names that are there."""
    todo = list(parts_of(path))
    todo.reverse()
    way: list[DirectoryNode] = [root]
    links = 0
    while todo:
        part = todo.pop()
        if part == ".":
            continue
        if part == "..":
            del way[max(1, len(way) - 1) :]
            continue
        node = child(way[-1], part)
        if node is None:
            raise os_error(errno.ENOENT)
        if isinstance(node, LinkNode) and (todo or follow):
            links += 1
            if links > LINKS_MAX:
                raise os_error(errno.ELOOP)
            if node.target.startswith("/"):
                del way[1:]
            todo += reversed([part for part in node.target.split("/") if part])
        elif isinstance(node, DirectoryNode):
            way.append(node)
        elif todo:
            raise os_error(errno.ENOTDIR)
        else:
            return node
    return way[-1]


def parent_of(root: DirectoryNode, path: str) -> tuple[DirectoryNode, str]:
    """The directory that holds the last name of a path, and that name."""
    parent, _, name = path.rpartition("/")
    return directory_at(root, parent), name


def child(directory: DirectoryNode, name: str) -> Node | None:
    found = directory.live.get(name)
    if found is None and len(name.encode()) > NAME_BYTES_MAX:
        raise os_error(errno.ENAMETOOLONG)
    return found


def directory_at(root: DirectoryNode, path: str) -> DirectoryNode:
    node = node_at(root, path)
    if not isinstance(node, DirectoryNode):
        raise os_error(errno.ENOTDIR)
    return node


def is_directory(root: DirectoryNode, path: str) -> bool:
    try:
        return isinstance(node_at(root, path), DirectoryNode)
    except OSError:
        return False


def file_at(root: DirectoryNode, path: str) -> FileNode:
    node = node_at(root, path)
    assert isinstance(node, FileNode), path
    return node


def holds(top: DirectoryNode, inner: DirectoryNode) -> bool:
    """True if `inner` is `top` or lies below it."""
    return top is inner or any(holds(each, inner) for each in top.live.values() if isinstance(each, DirectoryNode))


def node_bytes(node: Node) -> int:
    """What stat(2) says of a file or a link; a directory's size means nothing."""
    if isinstance(node, FileNode):
        return len(node.live)
    return len(node.target.encode()) if isinstance(node, LinkNode) else 0


def used_bytes(node: Node) -> int:
    """The lengths of everything at and below a node."""
    return sum(map(used_bytes, node.live.values())) if isinstance(node, DirectoryNode) else node_bytes(node)


def image_of(
    node: Node, names: dict[int, dict[str, Node]] | None = None, contents: dict[int, bytes] | None = None
) -> tuple[int, bool]:
    """A hash of every name and byte at and below a node, and whether there is any byte. Links count by their target.

    As they are seen; with `names` and `contents` as a cut leaves them, which are those of the directories and files (by
    id) that are not as they were synced.
    """
    if node.__class__ is FileNode:
        content = bytes(node.live) if contents is None else contents.get(id(node), node.durable)
        return hash(("file", content, *node.bad_sectors)), bool(content)
    if node.__class__ is LinkNode:
        return hash(("link", node.target)), False
    found = node.live if names is None else names.get(id(node), node.durable)
    below: list[object] = []
    has_bytes = False
    for name, each in sorted(found.items()):
        number, any_byte = image_of(each, names, contents)
        below += (name, number)
        has_bytes = has_bytes or any_byte
    return hash(tuple(below)), has_bytes


@lru_cache(maxsize=4096)
def _checksum(content: bytes) -> int:
    return crc32(content)


def checksum_of(node: Node) -> int:
    """A checksum of every name and byte at and below a node: `image_of`, but the same in every process."""
    if isinstance(node, FileNode):
        return _checksum(bytes(node.live))
    if isinstance(node, LinkNode):
        return crc32(node.target.encode())
    found = 0
    for name, each in sorted(node.live.items()):
        found = crc32(b"%s %d" % (name.encode(), checksum_of(each)), found)
    return found
