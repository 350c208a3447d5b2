"""Makes the sparse indexes that are missing, from segments that were read whole and proven.

The checkpoint's process does so for what was sealed since, at low priority; a reading verb for the segments that it had
to search without one. Knows when an index is to be made; must not know what it is asked for.
"""

from __future__ import annotations

from collections.abc import Callable

import msgspec

from journal.errors import DataError, EnvironmentFault, Locked
from journal.index import SEGMENT_BYTES_MIN, SegmentIndex, index_of
from journal.reader import LogReader

Progress = Callable[[int, int], None]
"""Called with the events that were looked at, and how many there are."""


class Indexed(msgspec.Struct):
    """What a run made, in files and bytes, and what it took away."""

    files: int = 0
    bytes: int = 0
    removed: int = 0


def is_worth_one(reader: LogReader, number: int) -> bool:
    """Whether the segment is sealed, holds records, and is longer than is read at a glance. Raises DataError."""
    bounds = reader.bounds(number)
    holds_records = bounds.last_seq >= bounds.header.first_seq
    return bounds.successor is not None and holds_records and bounds.end >= SEGMENT_BYTES_MIN


def make_index(reader: LogReader, number: int) -> SegmentIndex | None:
    """The index of a sealed segment, by reading all of it; None where it is damaged, or of a newer version."""
    try:
        bounds = reader.bounds(number)
        if bounds.successor is None or not is_worth_one(reader, number):
            return None
        return index_of(bounds.header, bounds.successor, reader.scan(number))
    except DataError:
        return None  # whoever reads the segment is told where, and why


def fill(reader: LogReader, progress: Progress | None = None) -> Indexed:
    """Makes every index that is missing, stale or damaged; takes away those of segments that are gone.

    Raises Locked, and what the disk raises: what was made until then stays.
    """
    result = Indexed()
    with reader.indexes.exclusive():
        result.removed = len(reader.indexes.sweep({each.key for each in reader.segments}))
        for number, segment in enumerate(reader.segments):
            try:
                missing = is_worth_one(reader, number) and reader.index_of(number) is None
            except DataError:
                continue
            made = make_index(reader, number) if missing else None
            if made is not None:
                result.files, result.bytes = result.files + 1, result.bytes + reader.indexes.write(made)
            if progress is not None:
                progress(segment.first_seq, reader.last_seq)
    return result


def index_on_the_way(reader: LogReader, number: int) -> SegmentIndex | None:
    """As `make_index`; kept on the disk where that can be done, and where it cannot the answer is as good."""
    made = make_index(reader, number)
    if made is not None:
        try:
            with reader.indexes.exclusive():
                reader.indexes.write(made)
        except (EnvironmentFault, Locked, FileNotFoundError):
            pass
    return made
