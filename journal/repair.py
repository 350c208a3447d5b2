"""What can be repaired in a journal's own files, found without changing anything; and doing it, file by file.

The order is that of trust: another place that provably holds the same batch, one flipped bit, parity. A result counts
only if it is proven: a segment by the chain up to where its successor says that it ends, a part by the SHA-256 in its
name, a manifest by its parity's SHA-256 or by what the log says. Nothing is bridged, nothing is guessed; what cannot be
proven stays as it is.

Planning takes no lock. Executing needs the writer's: a live writer appends to a file of which this knows the bytes of
before, and a checkpoint could be pruned meanwhile.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from journal.checkpoint import MANIFEST_SUFFIX, CheckpointStore
from journal.errors import Corrupt, EnvironmentFault, JournalError
from journal.index_check import check_indexes
from journal.index_store import IndexStore
from journal.indexing import fill
from journal.log import take_lock
from journal.parity_file import check_parity, protects
from journal.parity_store import ParityStore
from journal.reader import LogReader
from journal.repair_bench import Bench, RepairPlan
from journal.repair_checkpoints import plan_checkpoints
from journal.repair_log import plan_segments
from journal.repaired import Repair, keep_damaged, put_in_place, read_pending, write_pending
from journal.storage import Storage

Progress = Callable[[int, int], None]


def plan_repairs(storage: Storage, directory: str, parity: ParityStore, progress: Progress | None = None) -> RepairPlan:
    """Looks at every segment, manifest, part and parity file of the journal in `directory`."""
    bench = Bench(storage, directory, parity)
    plan_segments(bench, progress)
    plan_checkpoints(bench)
    bench.plan.parity = [name for name in parity.names() if not _parity_is_good(bench, name)]
    bench.plan.indexes = [found.key for found in check_indexes(storage, directory) if found.is_damage]
    return bench.plan


def _parity_is_good(bench: Bench, name: str) -> bool:
    """True where the parity is whole and of these bytes, and where its file is beyond repair: it may serve yet."""
    path = f"{bench.directory}/{name}"
    data = bench.data(path)
    if not data or path in dict(bench.plan.refused):
        return True
    parity = bench.parity.read(name)
    if parity is None or check_parity(bench.storage, parity):
        return False
    if name.endswith(MANIFEST_SUFFIX):
        return True  # of an older proof of the same checkpoint, perhaps: the next fill renews it, and that is no damage
    return protects(parity, lambda offset, length: data[offset : offset + length])


def execute_repairs(
    storage: Storage,
    directory: str,
    parity: ParityStore,
    plan: RepairPlan,
    tell: Callable[[JournalError], object] | None = None,
) -> list[Repair]:
    """Puts the planned bytes in place; returns what was done. Raises Locked while a writer is at work.

    The damaged files go to quarantine, and each repair is noted on disk before its file is replaced. Cut anywhere, the
    next run finds the rest. What keeps derived files from being made anew (parity may lie on a device that is read-only
    or gone) is told, where there is somebody to `tell`: what was put right before stays done.
    """
    done: list[Repair] = []
    lock = take_lock(storage, directory)
    try:
        with CheckpointStore(storage, f"{directory}/checkpoints").exclusive():
            for path, (data, repairs) in plan.files.items():
                done += put_in_place(storage, directory, path, data, repairs)
        try:
            done += _make_anew(storage, directory, parity, plan.parity)
            done += _index_anew(storage, directory, plan.indexes)
        except (EnvironmentFault, Corrupt) as error:  # a directory may have taken the name of one
            if tell is None:
                raise
            tell(error)
    finally:
        lock.release()
    return done


def _make_anew(storage: Storage, directory: str, parity: ParityStore, names: Sequence[str]) -> list[Repair]:
    """Parity is derived, so nothing is lost with what was there; all the same it goes to quarantine."""
    if not names:
        return []
    told = []
    for name in names:
        path = parity.path_of(name)
        kept = keep_damaged(storage, directory, path)
        told.append(Repair(path=path.removeprefix(f"{directory}/"), method="anew", proof="sha256", quarantined=kept))
    noted = read_pending(storage, directory)
    write_pending(storage, directory, [*noted, *told])
    try:
        skipped = set(parity.fill(anew=names).skipped)
    except (EnvironmentFault, Corrupt):
        write_pending(storage, directory, noted)  # else it would be journaled as done
        raise
    return [each for each, name in zip(told, names, strict=True) if name not in skipped]


def _index_anew(storage: Storage, directory: str, keys: Sequence[tuple[int, int]]) -> list[Repair]:
    """The same of indexes. No event tells of it: an index is nobody's evidence."""
    if not keys:
        return []
    store, told = IndexStore(storage, directory), []
    with store.exclusive():
        for key in keys:
            path = store.path_of(key)
            kept = keep_damaged(storage, directory, path)
            told.append(Repair(path=path.removeprefix(f"{directory}/"), method="anew", proof="chain", quarantined=kept))
            storage.remove(path)
        storage.sync_dir(store.directory)
    fill(LogReader(storage, directory))
    return told
