"""`--accept-loss`: what can still be read of a damaged journal goes on as a successor, and what cannot is named.

The successor is built beside, whole and synced, and the two change names in one step; the parent then gets a name of
its own and stays. A cut leaves parent or successor in place, and the same command finishes what it began.
"""

from __future__ import annotations

import os
import sqlite3
import sys
from collections.abc import Callable, Sequence
from contextlib import ExitStack, closing
from time import time_ns

import msgspec

from journal.checkpoint import CheckpointStore
from journal.commit import Receipt
from journal.errors import Corrupt, DataError, JournalError, Locked, NoSpace, UsageError
from journal.holder import Holder, encode_holder, read_holder
from journal.log import take_lock
from journal.reader import LogReader, list_segments
from journal.salvage import Spot, Survey, survey
from journal.storage import Lock, Storage
from journal.stored import unpacked_bytes
from journal.successor import Built, build_successor
from journal.watermark import read_watermark
from recovery.data import Data, journal_ids
from recovery.evidence import evidence_seq
from recovery.log.bring_back import remove_tree
from recovery.log.carried import TOKEN, carry_over
from recovery.log.exchange import exchange
from recovery.log.telling import log_repairs
from recovery.reading import peek_position, reading
from replay.diff import diff
from replay.engine import build_state
from replay.schema import TABLES, connect
from replay.scratch import scratch_directory

Progress = Callable[[str, int, int], None]
COUNTED = ("entities", "observations", "relations", "messages", "agents")


class Loss(msgspec.Struct, frozen=True):
    """What accepting would cost. ``lost`` are (first, last) seqs, ``spots`` the bytes that hold no whole batch.

    ``checkpoints_beyond`` stand behind the first loss: their states hold what a replay of the successor does not.
    """

    journal_id: str
    good_seq: int
    good_chain: str
    last_seq: int
    events_kept: int
    events_lost: int
    lost: list[tuple[int, int]]
    spots: list[Spot]
    torn_bytes: int = 0
    checkpoints_beyond: int = 0


class Succeeded(msgspec.Struct):
    """What was done. ``rows_differing`` counts, by table, how memory.db differs from what the successor makes at the
    same seq: None where memory.db could not be compared. ``parent`` is where the old journal lies now.
    """

    journal_id: str
    parent_journal_id: str
    parent: str
    last_seq: int
    epoch: int
    rows_differing: dict[str, int] | None = None
    compared_at_seq: int | None = None


def assess(
    data: Data, receipts: Sequence[Receipt] = (), progress: Callable[[int, int], None] | None = None
) -> tuple[Loss, Survey] | None:
    """What is lost for good, read-only; None where the journal is whole.

    Raises AmbiguousTail where only the last batch is in question, Diverged where two histories meet, Unsupported for a
    newer program's journal, NotAJournal.
    """
    storage, journal = data.storage, data.layout.journal
    evidence = max([evidence_seq(data), *(receipt.seq for receipt in receipts)])
    try:
        reader = data.reader(evidence)
        for _ in reader.batches():
            pass
        if reader.last_seq >= evidence:
            return None
    except Corrupt:
        if repairs := log_repairs(data).repairs():
            raise Corrupt(
                f"nothing of this need be given up: {repairs[0].words()}", path=journal, hint="journal verify --repair"
            ) from None
    found = survey(storage, journal, evidence_seq=evidence, witnesses=_witnesses(data, receipts), progress=progress)
    ours = found.journal_id.hex()
    beyond = [each for each in data.checkpoints.manifests() if each.journal_id == ours and each.seq > found.good_seq]
    loss = Loss(
        ours, found.good_seq, found.good_chain.hex(), found.last_seq, found.events, found.lost_events, found.lost,
        found.spots, found.tail_bytes, len(beyond),
    )  # fmt: skip
    return loss, found


def _witnesses(data: Data, receipts: Sequence[Receipt]) -> dict[int, str]:
    """Chains that something outside the segments vouches for; a survivor that contradicts one is of another history."""
    ids = set(journal_ids(data.storage, data.layout.journal))
    chains = {each.seq: each.chain for each in data.checkpoints.manifests() if each.journal_id in ids and each.seq}
    current = data.generations.current()
    position = peek_position(current.path) if current.path is not None and current.kind == "generation" else None
    if position is not None and position.journal_id in ids and position.seq:
        chains[position.seq] = position.chain
    for journal_id in ids:
        mark = read_watermark(data.storage, data.layout.journal, bytes.fromhex(journal_id)).mark
        if mark is not None and mark.seq:
            chains[mark.seq] = mark.chain.hex()
    return chains | {receipt.seq: receipt.chain for receipt in receipts}


def accept_loss(
    data: Data, receipts: Sequence[Receipt] = (), progress: Progress | None = None, clock: Callable[[], int] = time_ns
) -> Succeeded | None:
    """Puts a successor in the damaged journal's place; None where the journal is whole.

    Raises Locked while a writer is at work, and what `assess` raises; then nothing is changed.
    """
    if data.is_importing:
        raise UsageError(
            "an import did not end, and half of it is no state to go on from",
            path=data.import_path,
            hint="begin the import again in a directory of its own",
        )
    storage, target = data.storage, os.path.realpath(data.layout.journal)
    building = _building(target)
    lock = take_lock(storage, target)
    held = ExitStack()
    held.callback(lock.release)
    with held:
        held.enter_context(CheckpointStore(storage, f"{target}/checkpoints").exclusive())  # nothing is packed meanwhile
        assessed = assess(data, receipts, _part(progress, "reading"))
        if assessed is None:
            return None
        _, found = assessed
        _check_space(storage, target)
        remove_tree(storage, building)
        epoch = max(found.epoch, read_holder(lock.read()).epoch) + 1
        built = build_successor(
            storage, found, building, epoch=epoch, now=clock(), segment_bytes_max=data.config.segment_bytes_max,
            progress=_part(progress, "writing the successor"),
        )  # fmt: skip
        carry_over(storage, target, building, TOKEN)
        held.callback(_claimed(storage, building, epoch).release)
        compared = _compare_memory(data, building, found, built, _part(progress, "comparing memory.db"))
        storage.sync_dir(os.path.dirname(target))
        aside = _aside(storage, target, found.journal_id.hex())
        _swap(storage, building, target, aside)
    seq, rows = compared if compared is not None else (None, None)
    return Succeeded(
        built.journal_id.hex(), found.journal_id.hex(), aside, built.last_seq, built.epoch, rows, seq
    )  # fmt: skip


def finish(data: Data) -> str | None:
    """Finishes what a cut left: returns where the parent lies if its successor is in place, else None.

    A successor that was only being built is removed.
    """
    storage, target = data.storage, os.path.realpath(data.layout.journal)
    building = _building(target)
    if storage.kind(building) == "missing":
        return None
    if storage.kind(target) == "missing":  # cut between two renames, where one step for both is not to be had
        if not _is_whole(storage, building):
            raise Corrupt(
                "the journal is gone, and what lies beside is no whole successor",
                path=building,
                hint="bring a backup back: journal recover --from DIR",
            )
        storage.replace(building, target)
        storage.sync_dir(os.path.dirname(target))
        parent = LogReader(storage, target).parent
        assert parent is not None
        return _newest_aside(storage, target, parent.journal_id.hex())
    lock = take_lock(storage, target)
    try:
        parent_id = _parent_id(storage, target)
        if parent_id is None or parent_id not in journal_ids(storage, building):
            remove_tree(storage, building)
            return None
        aside = _aside(storage, target, parent_id)
        storage.replace(building, aside)
        storage.sync_dir(os.path.dirname(target))
        return aside
    finally:
        lock.release()


def _swap(storage: Storage, building: str, target: str, aside: str) -> None:
    """The successor takes the journal's name, in one step where that can be had; `finish` knows both ways."""
    if exchange(building, target):
        storage.sync_dir(os.path.dirname(target))  # the successor is in place before the parent moves on
        storage.replace(building, aside)
    else:
        storage.replace(target, aside)
        storage.replace(building, target)
    storage.sync_dir(os.path.dirname(target))


def _building(target: str) -> str:
    return f"{target}.successor"


def _aside(storage: Storage, target: str, journal_id: str) -> str:
    """A free name for the parent beside its successor."""
    name, number = f"{target}.parent-{journal_id[:12]}", 1
    path = name
    while storage.kind(path) != "missing":
        number += 1
        path = f"{name}-{number}"
    return path


def _newest_aside(storage: Storage, target: str, journal_id: str) -> str:
    folder, name = os.path.split(f"{target}.parent-{journal_id[:12]}")
    found = [each for each in storage.list(folder) if each == name or each.startswith(f"{name}-")]
    return f"{folder}/{max(found, key=len)}" if found else f"{folder}/{name}"


def _is_whole(storage: Storage, journal: str) -> bool:
    try:
        reader = LogReader(storage, journal)
        return reader.parent is not None and reader.tail.closed
    except JournalError:
        return False


def _parent_id(storage: Storage, journal: str) -> str | None:
    try:
        parent = LogReader(storage, journal).parent
    except DataError:
        return None  # a damaged journal is no fresh successor
    return parent.journal_id.hex() if parent is not None else None


def _claimed(storage: Storage, directory: str, epoch: int) -> Lock:
    """The successor's lock, held: whoever opens it the moment it has its name is told that it is not free yet."""
    lock = storage.lock(f"{directory}/lock")
    if lock is None:
        raise Locked("another process is building the successor", path=f"{directory}/lock", hint="wait for it")
    lock.write(encode_holder(Holder(epoch, os.getpid(), " ".join(sys.argv[:1])[-60:])))
    storage.sync_dir(directory)
    return lock


def _check_space(storage: Storage, target: str) -> None:
    need = sum(unpacked_bytes(storage, each.path) for each in list_segments(storage, target)) * 5 // 4
    free = storage.free_bytes(target)
    if free < need:
        raise NoSpace(
            f"a successor needs about {(need >> 20) + 1} MiB, {free >> 20} MiB are free",
            path=target,
            hint="free some disk space; nothing was changed",
        )


def _part(progress: Progress | None, label: str) -> Callable[[int, int], None] | None:
    return None if progress is None else lambda done, total: progress(label, done, total)


def _compare_memory(
    data: Data, building: str, found: Survey, built: Built, progress: Callable[[int, int], None] | None
) -> tuple[int, dict[str, int]] | None:
    """How many rows memory.db has that the successor's replay to the same seq does not make alike, by table."""
    current = data.generations.current()
    if current.kind != "generation" or current.path is None:
        return None
    position = peek_position(current.path)
    if position is None or position.journal_id != found.journal_id.hex() or not 0 <= position.seq < built.last_seq:
        return None
    with scratch_directory("loss") as scratch:
        path = f"{scratch}/state.db"
        build_state(
            data.storage, building, LogReader(data.storage, building), position.seq, path, progress, embeddings=False,
            journal_mode="delete",
        )  # fmt: skip
        try:
            with reading(current.path) as live, closing(connect(path, read_only=True)) as made:
                tables = diff(live, made, limit=0).tables
        except sqlite3.Error:
            return None
    return position.seq, {table: tables[table].total for table in TABLES if table in COUNTED}
