"""Spans to a backend, whatever it takes: waits, splits, and counts what was not taken. Nothing is dropped in silence.

How long to wait is a pure rule; sleeping and the clock are the caller's.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from journal.errors import EnvironmentFault
from recovery.telemetry.spans import Span
from recovery.telemetry.transport import Answer, Transport

FIRST_SECONDS = 0.5
LONGEST_SECONDS = 60.0
ASKED_SECONDS_MAX = 3600.0
SMALL_BYTES = 1 << 13  # a backend to which even this is too large is none, or busy


class BackendFailed(EnvironmentFault):
    """The backend could not be reached, or refuses: nothing is lost, the cursor stays where it was."""

    code = "backend_failed"


@dataclass(slots=True)
class Tally:
    """What became of the spans so far; ``problem`` is what the backend last said of those that it rejected."""

    taken: int = 0
    rejected: int = 0
    retries: int = 0
    problem: str = ""

    @property
    def total(self) -> int:
        return self.taken + self.rejected


def pause(failures: int, asked: float | None, chance: float) -> float:
    """Seconds before the next try after so many failures in a row: what the backend asked for, else twice as long each
    time, shortened by up to half (`chance` in 0-1) so that many exporters do not come back at once."""
    if asked is not None:
        return min(asked, ASKED_SECONDS_MAX)
    return min(FIRST_SECONDS * 2.0 ** min(failures - 1, 30), LONGEST_SECONDS) * (1 - chance / 2)


class Delivery:
    """Sends batches one after the other. With `patience` None it waits for ever; else so many seconds a batch."""

    def __init__(
        self,
        transport: Transport,
        patience: float | None,
        note: Callable[[str], None],
        sleep: Callable[[float], object] = time.sleep,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._transport = transport
        self._patience = patience
        self._note = note
        self._sleep = sleep
        self._clock = clock
        self._noted = ""
        self.tally = Tally()

    def send(self, spans: Sequence[Span]) -> None:
        """Returns once the backend has taken them, or has said which it never will. Raises BackendFailed."""
        if not spans:
            return
        answer = self._until_answered(spans)
        if answer.kind == "too_large" and len(spans) > 1:
            half = len(spans) // 2
            self.send(spans[:half])
            self.send(spans[half:])
            return
        rejected = len(spans) if answer.kind == "too_large" else min(answer.rejected, len(spans))
        self.tally.taken += len(spans) - rejected
        if answer.kind == "taken" and answer.reason and not rejected:
            self._note_once(f"the backend took them, and says: {answer.reason}")
        if rejected:
            self.tally.rejected += rejected
            where = f"seq {spans[0].seq}" + (f" to {spans[-1].seq}" if len(spans) > 1 else "")
            why = answer.reason or "it does not say why"
            self.tally.problem = f"{rejected} of {len(spans)} spans of {where}: {why}"
            self._note(f"the backend rejected {self.tally.problem}")

    def _until_answered(self, spans: Sequence[Span]) -> Answer:
        started, failures, told = self._clock(), 0, ""
        while True:
            answer = self._transport.send(spans)
            if answer.kind == "too_large" and len(spans) == 1 and spans[0].size <= SMALL_BYTES:
                answer = replace(answer, kind="refused", hint="it takes no span, however small")
            if answer.kind in ("taken", "too_large"):
                if failures:
                    self._note("the backend answers again")
                return answer
            failures += 1
            self.tally.retries += 1
            seconds = pause(failures, answer.wait, random.random())
            if answer.kind == "refused" and self._patience is not None:
                raise _failed(answer.reason, answer.hint or "check --endpoint, --protocol and --header")
            if self._patience is not None and self._clock() + seconds - started > self._patience:
                raise _failed(answer.reason, "run it again once the backend is back: it goes on where it stopped")
            if answer.reason != told:
                told = answer.reason
                self._note(f"the backend does not take spans: {told}; trying again")
            self._sleep(seconds)


    def _note_once(self, text: str) -> None:
        if text != self._noted:
            self._noted = text
            self._note(text)


def _failed(reason: str, hint: str) -> BackendFailed:
    return BackendFailed(f"the backend does not take spans: {reason}", hint=hint)
