"""Bringing a built state to a later one on its timeline, by the events in between.

For private files: one that nobody else has open, and that is thrown away after a failure.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import closing

from journal.reader import LogReader
from replay.memory import apply_records
from replay.records import position_at, records_of
from replay.schema import write_position
from replay.timeline import Range, event_count
from replay.working import connect_private

EVENTS_PER_COMMIT = 20_000  # bounds what a transaction holds in memory


def extend(
    reader: LogReader,
    path: str,
    ranges: Sequence[Range],
    seq: int,
    progress: Callable[[int, int], None] | None = None,
) -> None:
    """Makes the state in the file at `path` state(seq); `ranges` are those between the two (see `lineage_from`)."""
    done, total = 0, event_count(ranges)
    with closing(connect_private(path)) as connection:
        connection.execute("BEGIN")
        pending = 0
        for first_seq, records in records_of(reader, ranges):
            apply_records(connection, first_seq, records)
            done, pending = done + len(records), pending + len(records)
            if pending >= EVENTS_PER_COMMIT:
                connection.execute("COMMIT")
                connection.execute("BEGIN")
                pending = 0
            if progress is not None:
                progress(done, total)
        write_position(connection, position_at(reader, seq))
        connection.execute("COMMIT")
