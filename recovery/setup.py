"""Laying out a data directory: `journal init`, and what `--adopt` takes in.

On a journal that is there it changes nothing. An import that was cut leaves `import.json`: until it is finished by the
same command no server opens, since half of a memory is no state that anybody had.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from secrets import token_hex

import msgspec

from journal.commit import draft, ticket
from journal.errors import JournalError, Refused, UsageError
from journal.events import (
    Event,
    ImportCompleted,
    ImportStarted,
    RecoveryCompleted,
    RecoveryStarted,
    RecoveryStepCompleted,
)
from journal.files import write_file
from journal.format import KIND_PLAN, encode_header
from journal.log import create
from journal.segment import PACKED, PLAIN
from recovery.adopt.opening import Attempt
from recovery.adopt.stream import Adoption
from recovery.data import Data
from recovery.opening import open_core
from replay import schema
from replay.core import Core
from replay.schema import Position

AT_ONCE = 1000
_LEFT_OUT_MAX = 1000


class Import(msgspec.Struct):
    """import.json: where the import reads from, and the backup for where nothing can be read there."""

    memory_db: str | None = None
    backup: str | None = None


class AdoptedState(msgspec.Struct):
    """What an import journaled, by kind, and what it left out; ``is_whole`` if no memory and no agent is missing."""

    counts: dict[str, int] = {}
    left_out: list[str] = []
    is_whole: bool = True
    attempts: list[str] = []  # the ways to a memory.db that were tried, where the first was not enough


def initialise(
    path: str | os.PathLike[str], config_path: str | None = None, *, adopt: bool = False, backup: str | None = None
) -> tuple[Data, bool]:
    """Makes an empty journal, memory.db and agents/ under `path`, with parents; False if a journal was there already.

    With `adopt`, a memory.db that is there is remembered as the source of an import that `adopt_state` then runs, and
    `backup` as what to take where not a row of it can be read. Raises UsageError if one is there and nobody said what
    to do with it.
    """
    data = Data.at(path, config_path)
    storage, layout = data.storage, data.layout
    if any(name.endswith((PLAIN, PACKED)) for name in storage.list(f"{layout.journal}/segments")):
        _finish_layout(data)
        return data, False
    if storage.kind(f"{layout.journal}.successor") != "missing":
        raise UsageError(
            "the journal that was here is being succeeded, and that was cut",
            path=f"{layout.journal}.successor",
            hint="finish it with: journal recover journal --accept-loss",
        )
    current = data.generations.current()
    if current.kind not in ("missing", "dangling") and not adopt:
        raise UsageError(
            "there is a memory.db already", path=layout.memory_db, hint="take it in with: journal init --adopt"
        )
    for directory in (data.root, layout.agents, layout.models, layout.journal):
        storage.make_directory(directory)
    if adopt:
        _write_import(data, Import(current.path, os.path.abspath(backup) if backup is not None else None))
    journal_id = create(storage, layout.journal)
    if current.kind in ("missing", "dangling"):
        make_empty_state(data, journal_id)
    return data, True


def _finish_layout(data: Data) -> None:
    """An init that was cut between journal and memory.db goes on. With an event in it that would be recovery's work."""
    if data.generations.current().kind != "missing" or data.pending_import() is not None or data.reader().last_seq:
        return
    lock = data.storage.lock(f"{data.layout.journal}/lock")
    if lock is None:
        return  # a server that opens it makes its memory.db itself
    try:
        if data.generations.current().kind == "missing":
            make_empty_state(data, data.reader().journal_id)
            data.generations.retire()  # one that was made, and did not become current
    finally:
        lock.release()


def _write_import(data: Data, source: Import) -> None:
    write_file(data.storage, data.import_path, encode_header(KIND_PLAN, msgspec.json.encode(source)))


def make_empty_state(data: Data, journal_id: bytes) -> None:
    """The first generation of memory.db: state(0). What has the name and is no link is set aside."""
    data.generations.clean()
    path = data.generations.building_path()
    data.storage.open(path, write=True, create=True).close()  # SQLite would make it readable to all
    with closing(schema.connect(path)) as connection:
        schema.create(connection)
        schema.write_position(connection, Position(0, journal_id.hex(), 0, bytes(32).hex()))
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        connection.execute("PRAGMA journal_mode=DELETE")  # folds it into one file without side files, to be swapped in
    file = data.storage.open(path, write=True)
    try:
        file.sync()
    finally:
        file.close()
    data.generations.swap(path, mark=False)


# -- taking in --------------------------------------------------------------------------------------------------------


def adopt_state(data: Data, progress: Callable[[int, int], None] | None = None) -> AdoptedState:
    """Journals what import.json names and the agent files, or goes on where that was cut; nothing without one.

    The old memory.db is set aside first (Locked while a process holds it) and only read from then on.
    """
    pending = data.pending_import()
    if pending is None:
        return AdoptedState()
    given = msgspec.json.decode(pending, type=Import)
    source = _set_source_aside(data, given)
    with Adoption(data.storage, memory_db=source, agents=data.layout.agents, backup=given.backup) as adoption:
        core = open_core(data, check="quick", importing=True).core
        try:
            core.state.materialises = False
            done = _journaled_import(data, adoption.fingerprint)
            if done is None:
                _append(core, [(None, ImportStarted(adoption.fingerprint, adoption.found), None)])
                _append(core, [(None, event, None) for event in _told(adoption.attempts)])
            total = sum(adoption.found.values())
            _append_all(core, adoption, progress or (lambda done, total: None), total)
            report = adoption.report
            completed = ImportCompleted(adoption.fingerprint, dict(report.counts), report.lines(_LEFT_OUT_MAX))
            _append(core, [(None, completed, None)])
        finally:
            core.close()
    data.storage.remove(data.import_path)
    data.storage.sync_dir(data.layout.journal)
    told = [str(each) for each in adoption.attempts] if len(adoption.attempts) > 1 else []
    return AdoptedState(dict(report.counts), report.lines(), report.is_whole and not told, told)


def _told(attempts: Sequence[Attempt]) -> Iterator[Event]:
    """A source that was not whole is a recovery, and is journaled as one: each way that was tried, with its source."""
    if len(attempts) < 2:
        return
    recovery_id = token_hex(8)
    first, last = attempts[0], attempts[-1]
    yield RecoveryStarted(recovery_id, "memory", "adopt", {}, first.outcome[:2000])
    for each in attempts:
        reason = f"{each.path}: {each.outcome}" if each.path else each.outcome
        yield RecoveryStepCompleted(recovery_id, "memory", each.strategy, each.counts, reason[:2000])
    yield RecoveryCompleted(recovery_id, "memory", last.strategy, last.counts, last.outcome[:2000])


def _set_source_aside(data: Data, source: Import) -> str | None:
    """The memory.db to read, where nothing else will write it; its new place is remembered before it is used."""
    current = data.generations.current()
    if current.kind == "file":
        moved = data.generations.set_aside()
        path = next((path for path in moved if not path.endswith(("-wal", "-shm", "-journal"))), None)
        source = Import(path, source.backup)
        _write_import(data, source)
    elif source.memory_db is not None and data.storage.kind(source.memory_db) == "missing":
        name = source.memory_db.rsplit("/", 1)[1]  # moved by a run that was cut before it wrote that down
        source = Import(f"{data.quarantine}/{name}", source.backup)
        _write_import(data, source)  # the name that it was moved from is about to be taken by the empty state
    if data.generations.current().kind in ("missing", "dangling"):
        make_empty_state(data, data.reader().journal_id)
    elif source.memory_db is not None and data.generations.current().path == source.memory_db:
        make_empty_state(data, data.reader().journal_id)  # a generation of a journal that is lost
    return source.memory_db


def _journaled_import(data: Data, fingerprint: str) -> int | None:
    """The seq of the import.started of this very source, if an earlier run got so far."""
    for batch in data.reader().batches():
        for seq, record in enumerate(batch.records(), batch.first_seq):
            if isinstance(record.event, ImportStarted):
                if record.event.source != fingerprint:
                    raise UsageError(
                        "the source is not the one that the import began with",
                        path=data.import_path,
                        hint="bring memory.db and agents/ back as they were, then run journal init --adopt again",
                    )
                return seq
    return None


Item = tuple[str | None, object, str | None]


def _append_all(core: Core, adoption: Adoption, progress: Callable[[int, int], None], total: int) -> None:
    batch: list[Item] = []
    count = 0
    for adopted in adoption.events():
        batch.append(adopted)
        if len(batch) == AT_ONCE:
            _append(core, batch)
            count += len(batch)
            progress(count, max(total, count))
            batch.clear()
    _append(core, batch)


def _append(core: Core, items: list[Item]) -> None:
    """Journals the items; one that an earlier run journaled is answered by its op_id."""
    from journal.events import Event

    requests = []
    for op_id, event, agent in items:
        assert isinstance(event, Event)
        requests.append(ticket((draft(event, agent, "import", None),), op_id))
    with core.lock:
        for request in requests:
            core.committer.submit(request)
        while len(core.committer):
            core.commit()
        if core.state.wants_fold:  # else the log of what is taken in would take as much of the disk again
            core.fold()
    for request in requests:
        _accept(request.error)


def _accept(error: JournalError | None) -> None:
    """A row that the journal holds already, under another op_id window, is no reason to stop."""
    if error is not None and not (isinstance(error, Refused) and error.code == "already_exists"):
        raise error
