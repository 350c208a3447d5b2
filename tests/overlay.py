"""A directory held in memory, and what one damage changes of it: the Storage protocol, cheap enough for every bit.

The image is read from the disk once and never changed. A `View` lays changes over it (a file's new bytes, or None where
it is gone) and keeps what a program writes to itself; throwing the view away is the way back. It can note which bytes
are read: an outcome cannot depend on a byte that nobody read. Paths outside of the image are real files.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from journal.storage import File, Kind, RealStorage

Image = dict[str, bytes]
Reads = dict[str, list[tuple[int, int]]]
PLENTY = 1 << 40


def image_of(directory: str) -> Image:
    """The bytes of every regular file below `directory`."""
    return {str(path): path.read_bytes() for path in sorted(Path(directory).rglob("*")) if path.is_file()}


class ViewFile:
    """One open file of a view. Writing copies it first."""

    __slots__ = ("_path", "_view")

    def __init__(self, view: View, path: str) -> None:
        self._view = view
        self._path = path

    def read_at(self, offset: int, length: int) -> bytes:
        view = self._view
        data = bytes(view.content(self._path)[offset : offset + length])
        if view.reads is not None:
            view.reads.setdefault(self._path, []).append((offset, offset + len(data)))
        return data

    def write_at(self, offset: int, data: bytes) -> None:
        content = self._view.writable(self._path)
        if len(content) < offset:
            content.extend(bytes(offset - len(content)))
        content[offset : offset + len(data)] = data

    def truncate(self, length: int) -> None:
        content = self._view.writable(self._path)
        del content[length:]
        content.extend(bytes(length - len(content)))

    def size(self) -> int:
        return len(self._view.content(self._path))

    def start_sync(self, offset: int, length: int) -> None:
        pass

    def sync(self) -> None:
        pass

    def close(self) -> None:
        pass


class ViewLock:
    """Nobody else is there to hold it."""

    def __init__(self, view: View, path: str) -> None:
        self._file = ViewFile(view, path)

    def read(self) -> bytes:
        return self._file.read_at(0, 65536)

    def write(self, data: bytes) -> None:
        self._file.truncate(0)
        self._file.write_at(0, data)

    def is_held(self) -> bool:
        return True

    def release(self) -> None:
        pass


class View:
    """The image under `root` with `changes` laid over it. Directories are what has files below it, or was made."""

    def __init__(
        self, root: str, image: Image, changes: dict[str, bytes | None] | None = None, *, note_reads: bool = False
    ) -> None:
        self.root = root
        self.image = image
        self.layer: dict[str, bytes | bytearray | None] = dict(changes or {})
        self.directories: set[str] = {root, f"{root}/segments"}
        self.reads: Reads | None = {} if note_reads else None
        self.real = RealStorage()

    def is_inside(self, path: str) -> bool:
        return path == self.root or path.startswith(f"{self.root}/")

    def content(self, path: str) -> bytes | bytearray:
        found = self.layer[path] if path in self.layer else self.image.get(path)
        if found is None:
            raise FileNotFoundError(path)
        return found

    def writable(self, path: str) -> bytearray:
        found = self.content(path)
        if not isinstance(found, bytearray):
            found = self.layer[path] = bytearray(found)
        return found

    def names(self) -> Iterable[str]:
        if not self.layer:
            return self.image
        return [path for path in {**self.image, **self.layer} if self.layer.get(path, b"") is not None]

    # -- Storage ------------------------------------------------------------------------------------------------------

    def open(self, path: str, *, write: bool = False, create: bool = False) -> File:
        if not self.is_inside(path):
            return self.real.open(path, write=write, create=create)
        if create:
            if self.kind(path) != "missing":
                raise FileExistsError(path)
            self.layer[path] = bytearray()
        self.content(path)
        return ViewFile(self, path)

    def read(self, path: str) -> bytes:
        if not self.is_inside(path):
            return self.real.read(path)
        file = self.open(path)
        return file.read_at(0, file.size())

    def list(self, path: str) -> list[str]:
        if not self.is_inside(path):
            return self.real.list(path)
        start = len(path) + 1
        below = {name[start:].split("/", 1)[0] for name in self.names() if name.startswith(f"{path}/")}
        below |= {each[start:].split("/", 1)[0] for each in self.directories if each.startswith(f"{path}/")}
        return sorted(below)

    def kind(self, path: str) -> Kind:
        if not self.is_inside(path):
            return self.real.kind(path)
        if self.layer[path] is not None if path in self.layer else path in self.image:
            return "file"
        return "directory" if path in self.directories or self.list(path) else "missing"

    def size(self, path: str) -> int:
        return len(self.content(path)) if self.is_inside(path) else self.real.size(path)

    def make_directory(self, path: str) -> None:
        self.directories.add(path)

    def replace(self, source: str, target: str) -> None:
        self.layer[target], self.layer[source] = self.content(source), None

    def remove(self, path: str) -> None:
        if not self.is_inside(path):
            return self.real.remove(path)
        self.content(path)
        self.layer[path] = None
        return None

    def remove_directory(self, path: str) -> None:
        self.directories.discard(path)

    def make_link(self, target: str, path: str) -> None:
        raise NotImplementedError("the journal makes no links below its own directory")

    def read_link(self, path: str) -> str:
        raise OSError(f"{path} is no link")

    def sync_dir(self, path: str) -> None:
        if not self.is_inside(path):
            self.real.sync_dir(path)

    def lock(self, path: str) -> ViewLock:
        if self.kind(path) == "missing":
            self.layer[path] = bytearray()
        return ViewLock(self, path)

    def free_bytes(self, path: str) -> int:
        return PLENTY if self.is_inside(path) else self.real.free_bytes(path)


def is_read(reads: Reads, path: str, offset: int) -> bool:
    return any(start <= offset < end for start, end in reads.get(path, ()))
