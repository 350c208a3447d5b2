"""What opening a server took, as log records: where it stands, what was repaired, what a person has to decide."""

from __future__ import annotations

from collections.abc import Sequence

from recovery.data import Data
from recovery.log.takeover import takeover_lines
from recovery.recovered import Recovered
from recovery.rows import Decision
from replay.core import Core
from replay.logs import say


def say_opened(data: Data, core: Core, done: Recovered | None, left: Sequence[Decision]) -> None:
    """``left`` is what only a person can decide."""
    log = core.log
    redact = data.redactor.text if data.redactor else None
    for repair in log.opening.repaired:
        say("warning", "opening", f"repaired: {repair.words()}", redact, component="journal")
    for line in takeover_lines(log.opening):
        first = log.opening.carried[0] if log.opening.carried else (None, None)
        say("warning", "opening", line, redact, component="journal", seq=first[0], op_id=first[1])
    if done is not None:
        for step in done.steps:
            say("warning", "opening", f"recovered: {step}", redact, recovery_id=done.recovery_id, seq=done.seq)
        for problem in done.problems:
            say("error", "opening", f"not recovered: {problem}", redact, recovery_id=done.recovery_id)
    for kept in left:
        found = f"{kept.component}: {kept.reason} - {kept.hint}"
        say("warning", "opening", found, redact, component=kept.component, case=kept.case)
    say("info", "opening", f"open at seq {log.next_seq - 1}", seq=log.next_seq - 1, epoch=log.epoch)
