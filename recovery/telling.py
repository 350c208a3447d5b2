"""Repairs of the journal's own files, told to the journal as soon as it can be written.

They are noted on disk before the first file changes (`journal.repaired`), because a log that is damaged elsewhere may
not be writable for a long time. Whoever opens it next journals them, once.
"""

from __future__ import annotations

from collections import Counter
from secrets import token_hex

from journal.events import RecoveryCompleted, RecoveryStarted, RecoveryStepCompleted
from journal.log import Log
from journal.repaired import PENDING, Repair, forget_pending, read_pending
from journal.storage import Storage
from replay.own_events import journal_event


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
