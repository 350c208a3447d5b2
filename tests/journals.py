"""Small real journals for the tests to damage."""

from __future__ import annotations

from pathlib import Path

from journal.events import Event, ObservationAdded
from journal.log import Log, create
from journal.record import Record, encode_record
from journal.storage import RealStorage, Storage

START = 1_764_000_000_000_000_000


def record(number: int, event: Event | None = None, *, op_id: str | None = None, agent: str | None = "sales") -> bytes:
    """An encoded record whose time is `number` microseconds after `START`."""
    event = event or ObservationAdded("global", "Acme", f"fact {number}")
    return encode_record(Record(0, START + number * 1000, None, op_id, agent, None, None, event))


def journal_in(
    path: Path, storage: Storage | None = None, journal_id: bytes = bytes(range(16))
) -> tuple[Storage, str]:
    """An empty journal under `path`; returns its storage and directory."""
    storage = storage or RealStorage()
    directory = str(path / "journal")
    create(storage, directory, journal_id)
    return storage, directory


def append(log: Log, first: int, count: int = 1) -> None:
    """One batch of `count` records numbered from `first`."""
    log.append([record(number) for number in range(first, first + count)], START + (first + count - 1) * 1000)


def abandon(log: Log) -> None:
    """Leaves a log as a killed process does: no clean close, the lock gone."""
    log._lock.release()


def segment_files(directory: str) -> list[Path]:
    return sorted(Path(directory, "segments").glob("*.seg"))
