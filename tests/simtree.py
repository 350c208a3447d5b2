"""Paths of a simulated disk: how a path leads to a node, links included."""

from __future__ import annotations

import errno
import os

from tests.simnodes import DirectoryNode, FileNode, LinkNode, Node

LINKS_MAX = 40
NAME_BYTES_MAX = 255


def os_error(number: int) -> OSError:
    """The OSError subclass of this errno, as the operating system raises it."""
    return OSError(number, os.strerror(number))


def node_at(root: DirectoryNode, path: str, *, follow: bool = True) -> Node:
    """The node that a path names. Links on the way are followed, the last one only with `follow`."""
    todo = [part for part in path.split("/") if part]
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
    parent, name = os.path.split(path)
    return directory_at(root, parent), name


def child(directory: DirectoryNode, name: str) -> Node | None:
    if len(name.encode()) > NAME_BYTES_MAX:
        raise os_error(errno.ENAMETOOLONG)
    return directory.live.get(name)


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
