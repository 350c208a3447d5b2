"""A backup's journal takes the place of the one in a data directory, which is kept beside it.

What that would do is found out first, and changes nothing: a backup that is damaged, of another journal, of another
history, or short of what can be read here is refused then. The copy is made beside, synced, and gets its name last.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from time import time_ns
from typing import NamedTuple

from journal.checkpoint import CheckpointStore
from journal.compare import compare, diverged_error
from journal.errors import Corrupt, JournalError, NotAJournal, Unsupported, UsageError
from journal.files import write_file
from journal.log import take_lock
from journal.reader import LogReader
from journal.storage import Storage
from journal.verify import verify
from recovery.config.section import replaced
from recovery.data import Data
from recovery.log.carried import CLAIM, TOKEN, carry_over
from recovery.plan import Step

Progress = Callable[[int, int], None]


class BringingBack(NamedTuple):
    """What would be done: None where the journal here is whole and holds all that the backup does. ``then`` is the data
    directory as it would be afterwards, to be looked at alone; ``run`` does it, and returns where the journal that was
    there is kept."""

    step: Step | None
    then: Data
    run: Callable[[], str | None]


def planned_bringing_back(data: Data, directory: str, progress: Progress | None = None) -> BringingBack:
    """Planning takes no lock and changes nothing. Running takes it, and looks again under it.

    Refuses what would lose events: a readable journal here that goes beyond the backup stays. Raises NotAJournal if
    there is no backup, Corrupt if it is damaged, UsageError if it is of another journal, Diverged for another history;
    running raises Locked while a writer is at work here.
    """
    storage, target = data.storage, data.layout.journal
    source = _source(data, directory)
    backup = _verified(storage, source, progress)
    why = _reason(storage, target, backup)

    def run() -> str | None:
        # Under the lock: a live writer would go on in the journal that is moved aside, and its receipts with it.
        with _writer_kept_out(storage, target):
            if why is None or _reason(storage, target, backup) is None:
                return None
            building = f"{target}.restoring"
            remove_tree(storage, building)
            _copy_tree(storage, source, building)
            carry_over(storage, target, building, TOKEN, CLAIM)
            with _packing_kept_out(storage, target):
                aside = None
                if storage.kind(target) != "missing":
                    aside = f"{target}.replaced-{time_ns()}"
                    storage.replace(target, aside)
                storage.replace(building, target)
                storage.sync_dir(os.path.dirname(target))
        return aside

    if why is None:
        return BringingBack(None, data, run)
    kept = "" if storage.kind(target) == "missing" else ", and keep the one that is there beside it"
    words = f"put the journal of {directory}, up to seq {backup.last_seq}, in the place of {target}{kept}"
    paths = replaced(data.config.paths, journal=source)
    then = Data(data.root, replaced(data.config, paths=paths), data.storage)
    return BringingBack(Step("bring_back", "journal", why, words), then, run)


def _source(data: Data, directory: str) -> str:
    source = f"{os.path.abspath(directory)}/journal"
    if not os.path.isdir(source):
        raise NotAJournal("no backup there", path=source, hint="name the directory that journal backup wrote")
    if os.path.realpath(source) == os.path.realpath(data.layout.journal):
        raise UsageError("that is this journal, no backup of it", path=source, hint="name another directory")
    return source


def _verified(storage: Storage, source: str, progress: Progress | None) -> LogReader:
    report = verify(storage, source, progress=progress)
    damage = [finding for finding in report.findings if finding.severity == "damage"]
    if damage:
        raise Corrupt(f"the backup is damaged: {damage[0].message}", path=damage[0].path, hint="use another backup")
    return LogReader(storage, source)

@contextmanager
def _writer_kept_out(storage: Storage, journal: str) -> Iterator[None]:
    """Holds the writer's lock of the journal that is there, if one is. Raises Locked."""
    if storage.kind(journal) != "directory":
        yield
        return
    lock = take_lock(storage, journal)
    try:
        yield
    finally:
        lock.release()


@contextmanager
def _packing_kept_out(storage: Storage, journal: str) -> Iterator[None]:
    """Else a packer that outlived its server could remove a segment of the journal that takes this one's place."""
    if storage.kind(journal) != "directory":
        yield
        return
    with CheckpointStore(storage, f"{journal}/checkpoints").exclusive():
        yield


def _reason(storage: Storage, target: str, backup: LogReader) -> str | None:
    """Why the backup is to be brought back; None where the journal that is there is whole, and all that it holds.

    Raises what `planned_bringing_back` does.
    """
    if storage.kind(target) == "missing":
        return "there is no journal"
    try:
        here = LogReader(storage, target)
    except Unsupported:  # a newer program's journal is whole: nothing is to be brought back over it
        raise
    except JournalError as error:
        return error.message  # what is here cannot be read at all: that is what the backup is for
    if here.journal_id != backup.journal_id:
        raise UsageError(
            f"the backup is of journal {backup.journal_id.hex()}, here is {here.journal_id.hex()}",
            hint="name that journal's backup, or an empty --data DIR",
        )
    found = compare(here, backup)
    if found.standing == "diverged":
        raise diverged_error(
            found, target, "nothing was changed; to take the backup all the same, name an empty --data DIR"
        )
    if found.standing == "ahead":
        whole = found.unreadable is None
        raise UsageError(
            f"the journal here is {'whole' if whole else 'readable'} and goes to seq {found.here_last_seq}, the backup "
            f"to {found.there_last_seq}: nothing was changed",
            hint="journal recover all rebuilds the state from the journal that is here"
            if whole
            else "use a newer backup; or keep what can be read here: journal recover journal --accept-loss --dry-run",
        )
    if found.unreadable is not None:
        return found.unreadable
    if found.standing == "behind":
        return f"the journal here ends at seq {found.here_last_seq}"
    return f"the end of the journal here is {here.tail.region.reason}" if here.tail.region is not None else None


def _copy_tree(storage: Storage, source: str, target: str) -> None:
    storage.make_directory(target)
    for name in storage.list(source):
        path = f"{source}/{name}"
        if storage.kind(path) == "directory":
            _copy_tree(storage, path, f"{target}/{name}")
        elif storage.kind(path) == "file":
            write_file(storage, f"{target}/{name}", storage.read(path))


def remove_tree(storage: Storage, path: str) -> None:
    """Removes a directory with all that is in it, if it is there."""
    if storage.kind(path) != "directory":
        return
    for name in storage.list(path):
        below = f"{path}/{name}"
        if storage.kind(below) == "directory":
            remove_tree(storage, below)
        else:
            storage.remove(below)
    storage.remove_directory(path)
