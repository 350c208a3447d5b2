"""A writer rotates and a checkpoint is pruned while somebody reads: what only goes on meanwhile is no damage."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from journal.checkpoint import KIND_MEMORY, CheckpointStore, Manifest
from journal.log import Log
from journal.parity_store import ParityStore
from journal.reader import LogReader
from journal.storage import RealStorage
from journal.verify import verify
from tests.journals import append, journal_in

PRUNED = 7


class Meanwhile(RealStorage):
    """Something else happens once, right behind the first list of the segments that is asked for."""

    def __init__(self, happens: Callable[[], object]) -> None:
        super().__init__()
        self._happens: Callable[[], object] | None = happens

    def list(self, path: str) -> list[str]:
        found = super().list(path)
        if path.endswith("/segments") and self._happens is not None:
            happens, self._happens = self._happens, None
            happens()
        return found


def read_to_the_end(storage: RealStorage, directory: str) -> None:
    LogReader(storage, directory).raise_for_end()


def verified(storage: RealStorage, directory: str) -> None:
    report = verify(storage, directory)
    assert report.exit_code == 0, report.findings


@pytest.mark.parametrize("read", [read_to_the_end, verified])
def test_a_strict_writer_that_goes_on_in_another_segment_lost_nothing(tmp_path: Path, read) -> None:
    """Its watermark is then of a segment that was not listed yet."""
    storage, directory = journal_in(tmp_path)
    log = Log.open(storage, directory, reserve_bytes=0, segment_bytes_max=2000, strict=True)
    for seq in range(1, 5):
        append(log, seq)

    def rotates() -> None:
        for seq in range(5, 25):
            append(log, seq)

    read(Meanwhile(rotates), directory)
    assert len(storage.list(f"{directory}/segments")) > 3
    log.close()


def test_parity_of_a_segment_that_was_sealed_meanwhile_is_no_end_that_is_gone(tmp_path: Path) -> None:
    storage, directory = journal_in(tmp_path)
    log = Log.open(storage, directory, reserve_bytes=0, segment_bytes_max=2000)
    for seq in range(1, 5):
        append(log, seq)

    def rotates() -> None:
        for seq in range(5, 25):
            append(log, seq)
        ParityStore(storage, directory).fill()

    verified(Meanwhile(rotates), directory)
    log.close()


def test_a_part_of_a_checkpoint_that_was_pruned_meanwhile_is_not_missing(tmp_path: Path) -> None:
    storage, directory = journal_in(tmp_path)
    log = Log.open(storage, directory)
    for seq in range(1, PRUNED + 1):
        append(log, seq)
    store = CheckpointStore(storage, f"{directory}/checkpoints")
    part, _ = store.put_part(KIND_MEMORY, b"a database")
    manifest = Manifest(
        journal_id=log.journal_id.hex(), seq=PRUNED, chain=log.chain.hex(), epoch=log.epoch, time=1, digest="0" * 64,
        digest_version=1, projection_version=1, state="verified", verified_at=1, parts=[part],
    )  # fmt: skip
    store.publish(manifest)
    log.close()

    def pruned() -> None:
        with store.exclusive():
            store.remove([manifest])
            store.sweep()

    verified(Meanwhile(pruned), directory)
    store.publish(manifest)
    assert verify(storage, directory).exit_code == 12, "without one that was pruned it is missing"
