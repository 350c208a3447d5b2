"""What happened over time: how much was written in each stretch, and what an operator looks for between the writes.

Pure: entries in, one `Activity` out, in one pass that keeps no event. Knows kinds of events; must not know how they are
drawn. Nothing that an agent wrote is in it but names.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Literal

import msgspec

from journal import events as e
from recovery.records import Entry

Series = Literal["memory", "agents", "messages", "journal"]
SERIES: tuple[Series, ...] = ("memory", "agents", "messages", "journal")
"""What events are counted as, by the front of their stored names; all that is none of the others is the journal's."""

Kind = Literal["checkpoint", "recovery", "restore", "drill", "scrub", "takeover", "import", "tag", "loss"]

_FRONTS: dict[str, Series] = {"memory": "memory", "agent": "agents", "conversation": "messages"}


class Landmark(msgspec.Struct, frozen=True):
    """One thing that an operator looks for. ``ok`` is False where it went wrong, or tells of something that did."""

    seq: int
    time: int
    kind: Kind
    ok: bool
    event: e.Event


class Step(msgspec.Struct, frozen=True):
    seq: int
    time: int
    component: str
    strategy: str
    counts: dict[str, int]
    reason: str


class Recovery(msgspec.Struct):
    """One run, from its first record to its last; ``outcome`` stays "cut" where there is none."""

    recovery_id: str
    component: str
    strategy: str
    reason: str
    seq: int
    started: int
    ended: int | None = None
    outcome: Literal["completed", "failed", "cut"] = "cut"
    counts: dict[str, int] = {}
    failure: str = ""
    steps: list[Step] = []


class Activity(msgspec.Struct):
    """``counts`` has for each series the events of each stretch; stretch i begins at ``first`` + i · ``width`` (ns).

    ``last_seqs`` are the last seqs of the stretches, that of the one before where nothing was written.
    """

    first: int
    last: int
    width: int
    counts: dict[Series, list[int]]
    last_seqs: list[int]
    landmarks: list[Landmark]
    recoveries: list[Recovery]
    events: int = 0


def fold(entries: Iterable[Entry], first: int, last: int, stretches: int) -> Activity:
    """Counts the entries into equal stretches of time between `first` and `last` (UTC ns, both included)."""
    width = max(1, -(-(last - first + 1) // stretches))
    counts = {series: [0] * stretches for series in SERIES}
    last_seqs = [0] * stretches
    landmarks: list[Landmark] = []
    recoveries: dict[str, Recovery] = {}
    total = 0
    for entry in entries:
        event, time = entry.record.event, entry.record.time
        at = min(max(0, (time - first) // width), stretches - 1)
        counts[_FRONTS.get(event.type_name.partition(".")[0], "journal")][at] += 1
        last_seqs[at] = entry.seq
        total += 1
        landmark = _landmark(entry.seq, time, event)
        if landmark is not None:
            landmarks.append(landmark)
        _follow(recoveries, entry.seq, time, event)
    for index in range(1, stretches):
        last_seqs[index] = last_seqs[index] or last_seqs[index - 1]
    return Activity(first, last, width, counts, last_seqs, landmarks, list(recoveries.values()), total)


def _landmark(seq: int, time: int, event: e.Event) -> Landmark | None:
    kind: Kind
    ok = True
    match event:
        case e.CheckpointCreated():
            kind, ok = "checkpoint", not event.drift
        case e.RecoveryCompleted() | e.RecoveryFailed():
            kind, ok = "recovery", isinstance(event, e.RecoveryCompleted)
        case e.StateRestored():
            kind = "restore"
        case e.DrillCompleted():
            kind, ok = "drill", event.ok
        case e.ScrubCompleted():
            kind, ok = "scrub", not event.findings
        case e.EpochStarted():
            kind, ok = "takeover", False
        case e.ImportCompleted():
            kind = "import"
        case e.TagCreated():
            kind = "tag"
        case e.JournalEventLost() | e.JournalForked():
            kind, ok = "loss", False
        case _:
            return None
    return Landmark(seq, time, kind, ok, event)


def _follow(recoveries: dict[str, Recovery], seq: int, time: int, event: e.Event) -> None:
    match event:
        case e.RecoveryStarted():
            run = Recovery(event.recovery_id, event.component, event.strategy, event.reason, seq, time)
            recoveries.setdefault(event.recovery_id, run)  # one that was cut goes on under its own id
        case e.RecoveryStepCompleted():
            if (found := recoveries.get(event.recovery_id)) is not None:
                step = Step(seq, time, event.component, event.strategy, dict(event.counts), event.reason)
                found.steps = [*found.steps, step]
        case e.RecoveryCompleted() | e.RecoveryFailed():
            if (found := recoveries.get(event.recovery_id)) is not None:
                found.ended, found.counts = time, dict(event.counts)
                found.outcome = "completed" if isinstance(event, e.RecoveryCompleted) else "failed"
                found.failure = "" if found.outcome == "completed" else event.reason
