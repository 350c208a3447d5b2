"""Repairs of the journal's own files as users ask for them: planned, done under the lock, journaled if they can be."""

from __future__ import annotations

from collections.abc import Callable

import msgspec

from journal.errors import JournalError
from journal.repair import execute_repairs, plan_repairs
from journal.repair_bench import RepairPlan
from journal.repaired import PENDING, Repair
from recovery.data import Data
from recovery.execute import open_log

Progress = Callable[[int, int], None]


class Outcome(msgspec.Struct):
    """What was repaired. ``journaled`` is False where the log could not be written; ``problem`` says why.

    ``left`` is what kept damaged parity or indexes from being made anew.
    """

    repairs: list[Repair] = []
    journaled: bool = False
    problem: str | None = None
    left: str | None = None


def plan(data: Data, progress: Progress | None = None) -> RepairPlan:
    """What could be put right now. Changes nothing, takes no lock."""
    return plan_repairs(data.storage, data.layout.journal, data.parity, progress)


def run(data: Data, planned: RepairPlan) -> Outcome:
    """Puts it right, then journals it. Raises Locked while a writer is at work."""
    left: list[str] = []
    done = execute_repairs(
        data.storage, data.layout.journal, data.parity, planned, lambda error: left.append(str(error))
    )
    problem = journal_now(data)
    return Outcome(done, problem is None, problem, left[0] if left else None)


def journal_now(data: Data) -> str | None:
    """Journals the repairs that are noted, or says why that waits for the next who opens the journal.

    A journal without a memory.db is a backup: an event of its own would make another history of it.
    """
    if data.storage.kind(f"{data.layout.journal}/{PENDING}") == "missing":
        return None
    if data.storage.kind(data.layout.memory_db) == "missing":
        return "there is no memory.db here: a copy of a journal takes no events"
    try:
        open_log(data).close()
    except JournalError as error:
        return str(error)
    return None
