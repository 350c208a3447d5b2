"""A copy of the journal that recovery can begin from: consistent while writing goes on, incremental, verified.

Only journal/ is copied (and journal.yaml): memory.db and the agents are made from it. Files go beside and are renamed,
oldest first, so that a cut backup is an older, whole one.
"""

from __future__ import annotations

import os
from collections.abc import Callable

import msgspec

from journal.around import read_around
from journal.checkpoint import CheckpointStore
from journal.errors import Corrupt, DataError, Diverged, UsageError
from journal.files import write_file
from journal.parity_check import check_one
from journal.parity_store import ParityStore
from journal.reader import LogReader, list_segments
from journal.segment import PLAIN, is_packed, packed_path, plain_path
from journal.storage import Storage
from journal.stored import stored_bytes
from journal.unpack import unpack
from journal.verified import Finding, Verified
from journal.verify import verify
from recovery.data import Data
from recovery.places import is_within, lies_on_live_data, place_of
from replay.tracing import span

Progress = Callable[[int, int], None]
_FOLDERS = ("segments", "checkpoints", "checkpoints/parts", "quarantine")


class BackedUp(msgspec.Struct):
    """What a backup holds now, and what this run added to it."""

    path: str
    journal_id: str
    last_seq: int = 0
    files_copied: int = 0
    bytes_copied: int = 0
    files_kept: int = 0
    parity_files: int = 0


@span("journal.backup")
def back_up(data: Data, directory: str, progress: Progress | None = None) -> BackedUp:
    """Brings `directory` up to the journal's end and verifies it there. Raises Corrupt for a damaged source or copy.

    Raises UsageError if a backup of another journal, or anything else, is there, Diverged if the backup knows events
    that this journal does not.
    """
    storage, source = data.storage, data.layout.journal
    root = place_of(directory, "the backup's directory")
    if is_within(root, os.path.realpath(data.root)) or lies_on_live_data(data, root):
        raise UsageError(
            "a backup inside the data directory is lost with it", path=root, hint="name a directory elsewhere"
        )
    reader = data.reader()
    reader.raise_for_tail()
    target = f"{root}/journal"
    _check_target(storage, root, target, reader)
    for folder in _FOLDERS:
        storage.make_directory(f"{target}/{folder}")
    result = BackedUp(root, reader.journal_id.hex(), reader.last_seq)
    seen: list[tuple[str, int]] = []
    while True:
        try:
            files = _files(storage, reader, data.checkpoints, source)
            if files == seen:
                told = "a file of the journal is missing, so there is no whole copy of it"
                raise Corrupt(told, path=source, hint="journal verify names it")
            seen = files
            _copy_all(storage, source, target, files, result, progress)
            break
        except FileNotFoundError:  # a checkpoint was pruned meanwhile, perhaps; what was copied is kept
            result.files_kept = 0
    for folder in _FOLDERS:  # names that are kept: the run that made them may have been killed before it synced them
        storage.sync_dir(f"{target}/{folder}")
    config = f"{data.root}/journal.yaml"
    if storage.kind(config) == "file":
        write_file(storage, f"{root}/journal.yaml", storage.read(config))
    report = verify(storage, target)
    kept = (f"{target}/checkpoints/parts/", f"{target}/parity/")  # by name and length; what rotted since comes again
    rotted = {each.path for each in _damage_in(report) if each.path.startswith(kept)}
    if rotted := {path for path in rotted if storage.kind(path) == "file"}:
        for path in rotted:
            storage.remove(path)
        files_kept = result.files_kept - sum(path.startswith(kept[0]) for path in rotted)
        _copy_all(storage, source, target, files, result)
        result.files_kept = files_kept
        report = verify(storage, target)
    for each in _damage_in(report):
        raise Corrupt(f"the copy is damaged: {each.message}", path=each.path, hint="back up again")
    result.last_seq = report.last_seq
    return result


def _damage_in(report: Verified) -> list[Finding]:
    return [finding for finding in report.findings if finding.severity == "damage"]


def _copy_all(
    storage: Storage,
    source: str,
    target: str,
    files: list[tuple[str, int]],
    result: BackedUp,
    progress: Progress | None = None,
) -> None:
    total, done = sum(length for _, length in files), 0
    for name, length in files:
        try:
            _copy(storage, f"{source}/{name}", f"{target}/{name}", length, result)
        except FileNotFoundError:
            if not name.endswith(PLAIN):
                raise
            name = packed_path(name)  # since it was listed
            length = storage.size(f"{source}/{name}")
            _copy(storage, f"{source}/{name}", f"{target}/{name}", length, result)
        if is_packed(name):
            _let_pack_count(storage, f"{target}/{name}")
        done += length
        if progress is not None:
            progress(done, total)


def _let_pack_count(storage: Storage, packed: str) -> None:
    """Takes away the plain segment that was copied before it was packed: it would count, and may be a part only, as of
    the one that was the last then. Before a segment that continues the whole one comes; not for a pack that is damaged.
    """
    plain = plain_path(packed)
    if storage.kind(plain) == "missing":
        return
    try:
        unpack(storage.read(packed), packed)
    except DataError:
        return
    storage.remove(plain)
    storage.sync_dir(plain.rsplit("/", 1)[0])


def carry_parity(data: Data, made: BackedUp) -> None:
    """Copies the parity that there is of what a backup holds, and keeps what proves to be that of the copy's bytes.

    What is not sealed has none yet, nor has what no checkpoint or scrub came by since. Raises Locked while another run
    is at it; the backup is none the worse.
    """
    storage, ours = data.storage, data.parity
    theirs = ParityStore(storage, f"{made.path}/journal")
    for name in ours.names():
        source, target = ours.path_of(name), theirs.path_of(name)
        if storage.kind(f"{theirs.journal}/{name}") != "file" or ours.read(name) is None:
            continue
        try:
            data_there = storage.read(source)
        except FileNotFoundError:
            continue  # its segment was packed just now
        if storage.kind(target) != "file" or storage.read(target) != data_there:
            storage.make_directory(target.rsplit("/", 1)[0])
            write_file(storage, target, data_there)
            if any(finding.is_damage for finding in check_one(theirs, name)):
                storage.remove(target)
                continue
            made.files_copied += 1
            made.bytes_copied += len(data_there)
        made.parity_files += 1
    if made.parity_files:
        theirs.sweep()


def _check_target(storage: Storage, root: str, target: str, reader: LogReader) -> None:
    if not list_segments(storage, target):
        others = set(storage.list(root)) - {"journal", "journal.yaml"}
        if others:
            raise UsageError(f"{root} holds something else: {sorted(others)[0]}", hint="name an empty directory")
        return
    there = LogReader(storage, target)
    if there.journal_id != reader.journal_id:
        raise UsageError(f"{root} is a backup of journal {there.journal_id.hex()}", hint="name another directory")
    _check_prefix(there, reader, root)


def _check_prefix(older: LogReader, newer: LogReader, path: str) -> None:
    """Raises Diverged unless `older` is a prefix of `newer`."""
    common = min(older.last_seq, newer.last_seq)
    if older.last_seq > newer.last_seq or older.chain_at(common) != newer.chain_at(common):
        raise Diverged(
            f"{path} ends at seq {older.last_seq} with another history than this journal's, which ends at "
            f"{newer.last_seq}",
            path=path,
            hint="two copies were written separately, or one lost its end: compare them with journal log",
        )


def _files(storage: Storage, reader: LogReader, store: CheckpointStore, source: str) -> list[tuple[str, int]]:
    """(name below journal/, bytes) in the order to copy: a file comes after everything that it refers to."""
    files = []
    for segment in reader.segments:
        last = segment.path == reader.tail.path and not is_packed(segment.path)
        length = reader.tail.offset if last else stored_bytes(storage, segment.path)
        files.append((segment.path.removeprefix(f"{source}/"), length))
    for manifest in reversed(store.manifests()):
        if manifest.seq > reader.last_seq or manifest.state != "verified":  # one that is being proven changes yet
            continue
        for part in dict.fromkeys(manifest.parts):
            files.append((store.part_path(part).removeprefix(f"{source}/"), part.length))
        path = store.manifest_path(manifest.seq)
        files.append((path.removeprefix(f"{source}/"), storage.size(path)))
    return list(dict.fromkeys(files))


def _copy(storage: Storage, source: str, target: str, length: int, result: BackedUp) -> None:
    """Copies the first `length` bytes, unless they are there. Parts are named by their content: equal names are enough
    together with equal lengths, since the backup is verified at the end."""
    if storage.kind(target) == "file" and storage.size(target) == length:
        file = storage.open(source)
        try:
            same = "/parts/" in target or file.read_at(0, length) == read_around(storage, target)[0]
        finally:
            file.close()
        if same:
            result.files_kept += 1
            return
    file = storage.open(source)
    try:
        data = file.read_at(0, length)
    finally:
        file.close()
    write_file(storage, target, data)
    result.files_copied += 1
    result.bytes_copied += length
