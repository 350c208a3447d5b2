"""Restoring a past moment on a user's behalf: beside the live state, in its place, or only in words."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Sequence
from contextlib import closing
from time import time_ns
from typing import TYPE_CHECKING

import msgspec

from journal.errors import UsageError
from journal.reader import LogReader
from recovery.data import Data
from recovery.server import open_core
from replay.agents import write_files
from replay.engine import build_state
from replay.restore import Restored
from replay.schema import connect

if TYPE_CHECKING:
    from replay.diff import StateDiff

Progress = Callable[[int, int], None]


class Copy(msgspec.Struct):
    """A standalone copy of one state: what it is, where it lies, how it was made."""

    seq: int
    path: str
    digest: str
    base_seq: int
    events: int
    agents: int
    passed_over: list[tuple[int, str]] = []
    moved_aside: str | None = None


def restore_beside(
    data: Data,
    reader: LogReader,
    seq: int,
    output: str,
    *,
    agents: Sequence[str] = (),
    force: bool = False,
    progress: Progress | None = None,
) -> Copy:
    """Writes state(seq) as a standalone memory.db without side files and agents/ into `output`.

    Built in a directory beside it and renamed when it is whole and synced, so that a cut leaves nothing under the
    name. Raises UsageError if something is there, unless `force` moves it aside.
    """
    storage = data.storage
    path = os.path.abspath(output)
    if path == data.root or data.root.startswith(f"{path}/"):
        raise UsageError("the live data directory lies there", hint="name another directory, or use --in-place")
    occupied = storage.kind(path) != "missing" and (storage.kind(path) != "directory" or bool(storage.list(path)))
    if occupied and not force:
        raise UsageError(f"{path} is not empty", hint="name a new directory, or add --force to move it aside")
    parent = os.path.dirname(path)
    storage.make_directory(parent)
    building = tempfile.mkdtemp(prefix=".journal-replay-", dir=parent)
    try:
        built = build_state(
            storage, data.layout.journal, reader, seq, f"{building}/memory.db", progress, journal_mode="delete"
        )
        with closing(connect(f"{building}/memory.db", read_only=True)) as connection:
            rows = dict(connection.execute("SELECT name, content FROM agents"))
        wanted = {name: content for name, content in rows.items() if not agents or name in agents}
        for name in agents:
            if name not in rows:
                raise UsageError(f"there is no agent {name!r} at seq {seq}", seq=seq)
        write_files(storage, f"{building}/agents", sorted(wanted.items()))
        storage.make_directory(f"{building}/agents")
        aside = None
        if storage.kind(path) == "directory" and not storage.list(path):
            storage.remove_directory(path)
        elif occupied:
            aside = f"{path}.{time_ns()}"
            storage.replace(path, aside)
        storage.replace(building, path)
        storage.sync_dir(parent)
    except BaseException:
        _remove_tree(building)
        raise
    passed_over = [(each.seq, each.reason) for each in built.passed_over]
    return Copy(seq, path, built.digest, built.base_seq, built.events, len(wanted), passed_over, aside)


def _remove_tree(path: str) -> None:
    """Removes what this run made; it was never under a name that anybody uses."""
    import shutil

    shutil.rmtree(path, ignore_errors=True)


def restore_live(data: Data, seq: int, reason: str, progress: Progress | None = None) -> Restored:
    """The in-place restore: checkpoint, journal `state.restored`, build, swap. Takes the journal's lock."""
    from recovery.server import background_of

    core = open_core(data).core
    try:
        background_of(data, core).checkpoint()
        return core.restore(seq, reason, actor="operator", progress=progress)
    finally:
        core.close()


def compare_with_end(data: Data, reader: LogReader, seq: int, progress: Progress | None = None) -> StateDiff:
    """What a restore of state(seq) would change, against the journal's end."""
    from replay.diff import diff

    with tempfile.TemporaryDirectory(prefix="journal-replay-") as scratch:
        paths = []
        for number, target in enumerate((reader.last_seq, seq)):
            paths.append(f"{scratch}/{number}.db")
            build_state(data.storage, data.layout.journal, reader, target, paths[-1], progress, journal_mode="delete")
        with closing(connect(paths[0], read_only=True)) as now, closing(connect(paths[1], read_only=True)) as then:
            return diff(now, then)
