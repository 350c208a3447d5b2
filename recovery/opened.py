"""What opening a server took, as log records: where it stands, what was repaired, what a person has to decide."""

from __future__ import annotations

from recovery.data import Data
from recovery.log.takeover import takeover_lines
from recovery.opening import Opened
from replay.logs import say


def say_opened(data: Data, opened: Opened) -> None:
    log, done = opened.core.log, opened.recovered
    redact = data.redactor.text if data.redactor else None
    for repair in log.opening.repaired:
        say("warning", "opening", f"repaired: {repair.words()}", redact, component="journal")
    for line in takeover_lines(log.opening):
        first = log.opening.carried[0] if log.opening.carried else (None, None)
        say("warning", "opening", line, redact, component="journal", seq=first[0], op_id=first[1])
    for step in done.steps:
        say("warning", "opening", f"recovered: {step}", redact, recovery_id=done.recovery_id, seq=done.seq)
    for problem in done.problems:
        say("error", "opening", f"not recovered: {problem}", redact, recovery_id=done.recovery_id)
    for kept in opened.kept:
        found = f"{kept.component}: {kept.reason} - {kept.hint}"
        say("warning", "opening", found, redact, component=kept.component, case=kept.case)
    say("info", "opening", f"open at seq {log.next_seq - 1}", seq=log.next_seq - 1, epoch=log.epoch)
