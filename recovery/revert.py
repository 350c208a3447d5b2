"""Undoing chosen changes on a user's behalf: in words first, then by one group of compensating events.

Knows the journal's timeline and its lock; what undoes an event, and what is a conflict, is `replay.revert`'s. Nothing
leaves the journal: the changes and their undoing both stay, and the undoing can be undone by its op_id.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Set
from secrets import token_hex

import msgspec

from journal.commit import Ticket, draft, ticket
from journal.errors import Refused, UsageError
from journal.reader import LogReader
from recovery.control.writer import open_writer
from recovery.data import Data
from replay.history import read_history
from replay.records import records_of
from replay.revert import Undoing, undo
from replay.timeline import Range, lineage
from replay.units import Past

Progress = Callable[[int, int], None]
_WALKS = 3


class Revert(msgspec.Struct):
    """What undoing takes. ``elsewhere`` counts chosen events that a restore has left: they are undone already.

    ``seqs`` are those of the compensating events and ``op_id`` is their group's, once they are journaled.
    """

    chosen: int
    undoing: Undoing
    elsewhere: int = 0
    seqs: list[int] = []
    op_id: str = ""


def plan_revert(data: Data, reader: LogReader, chosen: Set[int], progress: Progress | None = None) -> Revert:
    """What undoes the events with these seqs, at the end of the log that `reader` sees. Takes no lock."""
    head = reader.last_seq
    ranges = lineage(read_history(reader, data.checkpoints).restores_until(head), head)
    here = {seq for seq in chosen if any(each.after < seq <= each.last for each in ranges)}
    walk = _Walk(reader, ranges, progress)
    return Revert(len(chosen), undo(walk, here), len(chosen) - len(here))


def revert(
    data: Data, chosen: Set[int], *, skip_conflicts: bool = False, progress: Progress | None = None
) -> Revert:
    """Journals what undoes the events, as one group that is taken whole or not at all.

    With conflicts nothing is written unless `skip_conflicts`; the result says what they are. What others wrote since a
    plan was made is counted in: the group is for the end that was planned for, and planned anew where that moved on.
    Raises UsageError where the group would be too large.
    """
    with open_writer(data) as writer:
        while True:
            reader = data.reader()
            result = plan_revert(data, reader, chosen, progress)
            if not result.undoing.events or (result.undoing.conflicts and not skip_conflicts):
                return result
            result.op_id = f"revert-{token_hex(8)}"
            request = _group(result, reader.last_seq)
            try:
                result.seqs = [receipt.seq for receipt in writer.commit(request)]
            except Refused as refused:
                if refused.code == "moved_on":
                    continue
                raise
            return result


def _group(found: Revert, head: int) -> Ticket:
    drafts = [draft(event, agent, "operator", None) for event, agent in found.undoing.events]
    try:
        return ticket(drafts, found.op_id, head)
    except Refused as error:
        raise UsageError(
            f"{len(drafts)} events would undo this, and {error.message}",
            hint="nothing was written; revert it in parts, the newest first: narrow it with --since",
        ) from None


class _Walk:
    """The history of the current state, as often as it is asked for."""

    def __init__(self, reader: LogReader, ranges: list[Range], progress: Progress | None) -> None:
        self._reader = reader
        self._ranges = ranges
        self._progress = progress or (lambda done, total: None)
        self._done = 0
        self._total = _WALKS * sum(each.last - each.after for each in ranges)

    def __call__(self) -> Iterator[Past]:
        for first_seq, records in records_of(self._reader, self._ranges):
            for seq, record in enumerate(records, first_seq):
                yield Past(seq, record.agent, record.event)
            self._done += len(records)
            self._progress(self._done, self._total)
