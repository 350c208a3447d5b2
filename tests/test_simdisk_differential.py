"""The simulated disk shows what real files show: any sequence of operations, the same values and errors on both."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

from hypothesis import example, given, settings
from hypothesis import strategies as st

from journal.errors import JournalError
from journal.storage import File, Lock, RealStorage, Storage
from tests.simdisk import SimDisk

PATHS = ("a", "b", "d", "d/a", "d/b", "d/e", "d/e/a", "link/a", "x" * 256)
TARGETS = ("d", "a", "../a", "e/a", "missing", ".", "link")

paths = st.sampled_from(PATHS)
offsets = st.integers(0, 1100)
handles = st.integers(0, 2)
data = st.integers(0, 1100).map(lambda length: bytes(range(256)) * (length // 256) + bytes(range(length % 256)))
operations = st.one_of(
    st.tuples(st.just("open"), paths, st.booleans(), st.booleans()),
    st.tuples(st.just("open"), paths, st.just(True), st.just(True)),
    st.tuples(st.sampled_from(["read", "list", "kind", "make_directory", "remove", "remove_directory"]), paths),
    st.tuples(st.sampled_from(["read_link", "sync_dir", "lock", "make_directory"]), paths),
    st.tuples(st.just("replace"), paths, paths),
    st.tuples(st.just("make_link"), st.sampled_from(TARGETS), paths | st.just("link")),
    st.tuples(st.just("read_at"), handles, offsets, st.integers(0, 2000)),
    st.tuples(st.just("write_at"), handles, offsets, data),
    st.tuples(st.just("truncate"), handles, offsets),
    st.tuples(st.sampled_from(["sync", "size", "close"]), handles),
    st.tuples(st.sampled_from(["lock.read", "lock.is_held", "lock.release"]), handles),
    st.tuples(st.just("lock.write"), handles, data),
)


class Machine:
    """One storage with its open files and locks; `do` gives what a caller would observe."""

    def __init__(self, storage: Storage, root: str) -> None:
        self.storage = storage
        self.root = root
        self.files: list[File] = []
        self.locks: list[Lock] = []
        storage.make_directory(root)

    def do(self, name: str, *arguments: Any) -> object:
        try:
            return self._do(name, *arguments)
        except (JournalError, FileNotFoundError, FileExistsError) as error:
            where = error.path if isinstance(error, JournalError) else None
            return type(error).__name__, where

    def _do(self, name: str, first: Any, *rest: Any) -> object:
        if name == "make_link":
            self.storage.make_link(first, self.path(rest[0]))
            return "linked"
        if name.startswith("lock."):
            if first >= len(self.locks):
                return None
            holder = self.locks.pop(first) if name == "lock.release" else self.locks[first]
            return getattr(holder, name.removeprefix("lock."))(*rest)
        if isinstance(first, int):
            if first >= len(self.files):
                return None
            file = self.files.pop(first) if name == "close" else self.files[first]
            return getattr(file, name)(*rest)
        if name == "open":
            self.files.append(self.storage.open(self.path(first), write=rest[0], create=rest[1]))
            return "opened"
        if name == "lock":
            lock = self.storage.lock(self.path(first))
            self.locks += [lock] if lock else []
            return lock is not None
        return getattr(self.storage, name)(*map(self.path, (first, *rest)))

    def path(self, relative: str) -> str:
        return f"{self.root}/{relative}"

    def tree(self) -> dict[str, object]:
        """Everything there is, in the storage's own words."""
        found: dict[str, object] = {}

        def walk(path: str) -> None:
            for name in self.storage.list(path):
                below = f"{path}/{name}"
                kind = self.storage.kind(below)
                if kind == "link":
                    found[below] = self.storage.read_link(below)
                else:
                    found[below] = self.storage.read(below) if kind == "file" else kind
                if kind == "file":
                    assert self.storage.size(below) == len(self.storage.read(below))
                if kind == "directory":
                    walk(below)

        walk(self.root)
        return found

    def close(self) -> None:
        for each in self.files:
            each.close()
        for lock in self.locks:
            lock.release()


def directory_sizes(real: Machine, name: str, first: Any) -> bool:
    """True if the operation asks for the size of a directory's handle, which is the file system's own business."""
    return name == "size" and first < len(real.files) and isinstance(real.do("read_at", first, 0, 1), tuple)


@settings(max_examples=150, deadline=None)
@given(st.lists(operations, max_size=60))
@example([("make_directory", "b"), ("open", "b", False, False), ("write_at", 0, 0, b""), ("truncate", 0, 0)])
def test_it_shows_what_real_files_show(sequence: list[tuple[Any, ...]]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        root = str(Path(folder, "root"))
        real, simulated = Machine(RealStorage(), root), Machine(SimDisk(), root)
        try:
            for operation in sequence:
                if not directory_sizes(real, *operation[:2]):
                    assert real.do(*operation) == simulated.do(*operation), operation
            assert real.tree() == simulated.tree()
        finally:
            real.close()
            simulated.close()


def test_the_comparison_reaches_what_it_compares(tmp_path: Path) -> None:
    """Every operation of the differential test succeeds at least once in some sequence, on both."""
    sequence: list[tuple[Any, ...]] = [
        ("make_directory", "d/e"), ("open", "d/a", True, True), ("write_at", 0, 600, b"x" * 600), ("sync", 0),
        ("read_at", 0, 500, 200), ("truncate", 0, 700), ("size", 0), ("replace", "d/a", "d/b"), ("read", "d/b"),
        ("make_link", "d", "link"), ("open", "link/b", False, False), ("read_at", 1, 0, 9), ("read_link", "link"),
        ("lock", "a"), ("lock", "a"), ("lock.write", 0, b"pid"), ("lock.read", 0), ("lock.is_held", 0),
        ("remove", "a"), ("lock.is_held", 0), ("lock.release", 0), ("sync_dir", "d"), ("list", "link"),
        ("remove_directory", "d/e"), ("kind", "d/e"), ("remove", "d/b"), ("read_at", 0, 600, 5), ("close", 0),
    ]  # fmt: skip
    real, simulated = Machine(RealStorage(), str(tmp_path)), Machine(SimDisk(), str(tmp_path))
    seen = [real.do(*operation) for operation in sequence]
    assert seen == [simulated.do(*operation) for operation in sequence]
    assert not [each for each in seen if isinstance(each, tuple)]
    assert {operation[0] for operation in sequence} == OPERATION_NAMES
    assert real.tree() == simulated.tree()
    real.close()


OPERATION_NAMES = {
    "open", "read", "list", "kind", "make_directory", "remove", "remove_directory", "read_link", "sync_dir", "lock",
    "replace", "make_link", "read_at", "write_at", "truncate", "sync", "size", "close", "lock.read", "lock.is_held",
    "lock.release", "lock.write",
}  # fmt: skip
