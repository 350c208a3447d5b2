"""Repairs of the journal's own files, told to the journal as soon as it can be written.

They are noted on disk before the first file changes (`journal.repaired`), because a log that is damaged elsewhere may
not be writable for a long time. Whoever opens it next journals them, once.
"""

from __future__ import annotations

from collections import Counter
from secrets import token_hex

from journal.events import RecoveryCompleted, RecoveryStarted, RecoveryStepCompleted
from journal.log import Log
from journal.repair_bench import RepairPlan
from journal.repaired import PENDING, Repair, forget_pending, read_pending
from journal.storage import Storage
from recovery.data import Data
from replay.own_events import journal_event


def log_repairs(data: Data) -> RepairPlan:
    """What can be put right in the segments, all of it proven. Changes nothing.

    The manifests and parts do not count here: whatever they lost, the log makes again.
    """
    from journal.repair import plan_repairs  # only where something is wrong

    plan = plan_repairs(data.storage, data.layout.journal, data.parity)
    segments = f"{data.layout.journal}/segments/"
    plan.files = {path: planned for path, planned in plan.files.items() if path.startswith(segments)}
    plan.parity, plan.indexes = [], []
    return plan


def put_log_right(data: Data) -> list[Repair]:
    """Does what `log_repairs` found. Whoever opens the log next journals it. Raises Locked beside a writer."""
    from journal.repair import execute_repairs

    plan = log_repairs(data)
    return execute_repairs(data.storage, data.layout.journal, data.parity, plan) if plan.files else []


def journal_repairs(storage: Storage, directory: str, log: Log) -> list[Repair]:
    """Journals the repairs that are noted: a recovery with a step for each. Returns them."""
    if storage.kind(f"{directory}/{PENDING}") == "missing":
        return []
    repairs = read_pending(storage, directory)
    if repairs:
        recovery_id, counts = token_hex(8), dict(Counter(each.method.replace(" ", "_") for each in repairs))
        journal_event(log, RecoveryStarted(recovery_id, "journal", strategy="repair", counts=counts))
        for each in repairs:
            journal_event(
                log, RecoveryStepCompleted(recovery_id, "journal", each.method, _counts(each), each.words()[:2000])
            )
        journal_event(log, RecoveryCompleted(recovery_id, "journal", strategy="repair", counts=counts))
    forget_pending(storage, directory)
    return repairs


def _counts(repair: Repair) -> dict[str, int]:
    facts = {"offset": repair.offset, "bytes": repair.length, "bit": repair.bit}
    facts |= {"first_seq": repair.first_seq, "last_seq": repair.last_seq}
    return {name: value for name, value in facts.items() if value is not None}
