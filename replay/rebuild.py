"""Replacing memory.db: the state at the journal's end is built beside, verified, and swapped in by its link.

Used by recovery, by a restore and by an open that finds a restore not yet applied. A cut leaves the old generation
current or the new one; what a cut left of a build is removed by the next.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from contextlib import closing

from journal.checkpoint import CheckpointStore
from journal.errors import Corrupt, NoSpace
from journal.events import ConfigWritten, tag_of
from journal.lookup import AnyOf, Lookup
from journal.reader import LogReader
from journal.storage import Storage
from journal.stored import unpacked_bytes
from replay.agents import Outcome, bring_current, inspect
from replay.digest import state_digest
from replay.engine import Built, Vectors, build_state
from replay.event_types import may_hold
from replay.generations import Generations
from replay.layout import Layout
from replay.schema import connect, read_position

Progress = Callable[[int, int], None]


def rebuild(
    storage: Storage,
    layout: Layout,
    reader: LogReader,
    progress: Progress | None = None,
    *,
    mark: bool = True,
    vectors: Vectors | None = None,
) -> Built:
    """Makes state(end of the journal) the current generation, and tells the old one so unless `mark` is False.

    `vectors` gives those that were computed before; what fits the state is kept, beside those of a checkpoint.
    The finished file passes SQLite's check, and after the swap its digest and position are read again through the
    link. Raises NoSpace before anything is written if the disk cannot hold it, Corrupt if it reads back differently.
    """
    reader.raise_for_tail()  # a damaged end is no end: what lies behind it would be lost from the state
    generations = generations_of(storage, layout)
    generations.clean()
    check_space(storage, layout, reader)
    path = generations.building_path()
    built = build_state(storage, layout.journal, reader, reader.last_seq, path, progress, vectors=vectors)
    with closing(connect(path, read_only=True)) as connection:
        (integrity,) = connection.execute("PRAGMA quick_check(1)").fetchone()
    for side_file in (f"{path}-wal", f"{path}-shm"):
        if os.path.exists(side_file):
            os.unlink(side_file)
    if integrity != "ok":
        raise Corrupt(f"the rebuilt file fails its check: {integrity}", path=path, hint="check the disk")
    swapped = generations.swap(path, mark=mark)
    with closing(connect(swapped.path, read_only=True)) as connection:
        digest, position = state_digest(connection), read_position(connection)
    if digest != built.digest or position != built.position:
        raise Corrupt("memory.db reads back differently than it was built", path=swapped.path, hint="check the disk")
    return built


def generations_of(storage: Storage, layout: Layout) -> Generations:
    """memory.db's generations; what is retired goes to the journal's quarantine."""
    return Generations(storage, layout.memory_db, f"{layout.journal}/quarantine")


def space_needed(storage: Storage, layout: Layout, reader: LogReader) -> int:
    """Free bytes that a rebuild needs: the last checkpoint's size, and the log's twice."""
    log_bytes = sum(unpacked_bytes(storage, segment.path) for segment in reader.segments)
    manifests = CheckpointStore(storage, f"{layout.journal}/checkpoints").manifests()
    return (manifests[0].bytes if manifests else 0) + 2 * log_bytes


def check_space(storage: Storage, layout: Layout, reader: LogReader) -> None:
    """Compares free space with what a rebuild needs."""
    need = space_needed(storage, layout, reader)
    free = storage.free_bytes(layout.journal)
    if free < need:
        raise NoSpace(
            f"a rebuild needs about {(need >> 20) + 1} MiB, {free >> 20} MiB are free",
            path=layout.root,
            hint="free some disk space; nothing was changed",
        )


# -- agents -----------------------------------------------------------------------------------------------------------


def current_agents(storage: Storage, layout: Layout) -> dict[str, tuple[str, bytes]]:
    """name → (sha256, content) of the agents in the current generation."""
    path = generations_of(storage, layout).current().path
    if path is None:
        return {}
    with closing(connect(path, read_only=True)) as connection:
        rows = connection.execute("SELECT name, sha256, content FROM agents")
        return {name: (sha256, content) for name, sha256, content in rows}


def journaled_versions(reader: LogReader) -> Callable[[str], set[str]]:
    """Every sha256 ever journaled for a name. The first question looks the configs up in the journal, the others are
    answered from it: of segments that have an index, only what may hold a config is read."""
    known: dict[str, set[str]] | None = None

    def versions(name: str) -> set[str]:
        nonlocal known
        if known is None:
            known = {}
            configs = AnyOf((("type", ConfigWritten.type_name),))
            for batch in Lookup(reader, [configs]).batches(1, reader.last_seq):
                for record in batch.records() if may_hold(batch, {tag_of(ConfigWritten)}) else ():
                    if isinstance(record.event, ConfigWritten):
                        known.setdefault(record.event.name, set()).add(record.event.sha256)
        return known.get(name, set())

    return versions


def renew_agents(
    storage: Storage,
    layout: Layout,
    reader: LogReader,
    *,
    time: int,
    reason: str,
    names: Iterable[str] | None = None,
) -> Outcome:
    """Brings agent files (all, or `names`) to the current generation's versions; hand edits go to quarantine."""
    agents = current_agents(storage, layout)
    facts = inspect(storage, layout.agents, agents, journaled_versions(reader), names)
    return bring_current(
        storage, layout.agents, facts, agents, drift="set_aside", quarantine=f"{layout.journal}/quarantine",
        time=time, reason=reason,
    )  # fmt: skip
