"""A whole restore in place: one event that makes an earlier state current again, and its application.

`state.restored` at seq R *is* the restore: once it is durable, state(R) = state(to_seq). Building and swapping only
applies it, so a cut anywhere ends at R-1 or at R, and the next open finishes what was journaled. No timeline is lost:
what is abandoned stays in the journal, and another restore can go back to it.
"""

from __future__ import annotations

import msgspec

from journal.errors import UsageError
from journal.events import StateRestored
from journal.log import Log
from journal.storage import Storage
from replay.layout import Layout
from replay.own_events import journal_event
from replay.rebuild import Progress, check_space, generations_of, rebuild, renew_agents


class Restored(msgspec.Struct):
    """What a restore did: its own seq, the state it made current, and what happened to the files."""

    seq: int
    to_seq: int
    digest: str
    base_seq: int
    agents_written: list[str] = []
    agents_removed: list[str] = []
    quarantined: list[str] = []


def check_target(log: Log, to_seq: int) -> None:
    """Raises UsageError where the journal has no state at that seq."""
    head = log.next_seq - 1
    if not 0 <= to_seq <= head:
        raise UsageError(f"seq {to_seq} is not in this journal, which ends at {head}", seq=to_seq)


def restore_in_place(
    storage: Storage,
    layout: Layout,
    log: Log,
    to_seq: int,
    *,
    reason: str = "",
    actor: str = "journal",
    progress: Progress | None = None,
) -> Restored:
    """Makes state(to_seq) current. The caller holds the log's lock and has no other connection to memory.db open.

    Raises UsageError if there is no such seq, NoSpace before anything is journaled.
    """
    check_target(log, to_seq)
    check_space(storage, layout, log.reader())  # from the next line on it is a fact, and has to be applied
    receipt = journal_event(log, StateRestored(to_seq, reason), actor=actor)
    reader = log.reader()
    built = rebuild(storage, layout, reader, progress)
    outcome = renew_agents(storage, layout, reader, time=receipt.time, reason=f"restore to seq {to_seq}")
    retired = generations_of(storage, layout).retire()  # what a reader still holds goes at a later open
    return Restored(
        receipt.seq, to_seq, built.digest, built.base_seq, outcome.written, outcome.removed,
        [*outcome.set_aside.values(), *retired.quarantined],
    )  # fmt: skip
