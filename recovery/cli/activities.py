"""The activity of a stretch of the journal that a user names, for `timeline` and `report`."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from recovery.activity import Activity
    from recovery.data import Data
    from recovery.records import Entry

_TOLD_EVERY = 10_000


def activity_of(
    data: Data,
    since: str | None,
    until: str | None,
    stretches: int,
    progress: Callable[[int, int], None] | None = None,
) -> Activity:
    """What happened between the two moments; by default since the first event, until the last.

    Raises UsageError for what is no moment, and Corrupt where the events that are asked for cannot be read.
    """
    from recovery.activity import fold
    from recovery.cli.log import bounds
    from recovery.evidence import weigh_end
    from recovery.records import entries

    reader = data.reader()
    weigh_end(data, reader)
    first, last = bounds(data, reader, since, until)
    end = reader.last_seq if last is None else last
    if last is None:
        reader.raise_for_end()
    if first > end:
        return fold((), 0, 0, stretches)

    def counted(found: Iterator[Entry]) -> Iterator[Entry]:
        for entry in found:
            if progress is not None and entry.seq % _TOLD_EVERY == 0:
                progress(entry.seq - first, end - first)
            yield entry

    found = counted(entries(reader.batches(first, end), first, end))
    return fold(found, reader.time_of(first), reader.time_of(end), stretches)
