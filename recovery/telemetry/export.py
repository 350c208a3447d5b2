"""The journal as an outbox: from a cursor on, its records become spans and go to a backend, once or for ever.

Holds one batch of spans at a time, however long the journal is and however slow the backend. What was taken is
remembered by a cursor in the journal; a cut between the two exports some spans twice, under the same ids.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import islice

import msgspec

from journal.errors import DataError, Diverged
from journal.events import StateRestored, tag_of
from journal.follow import Follower
from journal.reader import LogReader
from journal.scan import Batch
from recovery.data import Data
from recovery.evidence import evidence_seq, weigh_end
from recovery.telemetry import cursor
from recovery.telemetry.convert import Conversion
from recovery.telemetry.delivery import Delivery
from recovery.telemetry.runs import RUN_TAGS
from recovery.telemetry.spans import Span
from recovery.telemetry.undone import Undone, look_up
from replay.event_types import may_hold
from replay.timeline import Range

SPANS_MAX = 512
BYTES_MAX = 1 << 20
POLL_SECONDS = 0.5
HELD_MAX = 64  # batches of the journal that are read ahead
REMEMBER_SECONDS = 30.0
_PRIMING = RUN_TAGS | {tag_of(StateRestored)}


class Exported(msgspec.Struct):
    """What one run did. ``cursor`` is the seq up to which the backend has everything; None where it was not moved."""

    from_seq: int
    to_seq: int
    spans: int = 0
    rejected: int = 0
    retries: int = 0
    cursor: int | None = None
    unsettled: int = 0


@dataclass(frozen=True)
class Wanted:
    """What goes out. Without ``first`` it begins behind the cursor; without ``last`` it ends where the journal does."""

    consumer: str
    first: int | None = None
    last: int | None = None
    agents: tuple[str, ...] = ()
    include_content: bool = False


@dataclass
class Export:
    """One run over one journal. ``tick`` hears of seqs that are done, and of how many there are."""

    data: Data
    wanted: Wanted
    delivery: Delivery
    note: Callable[[str], None]
    tick: Callable[[int, int], None] = lambda done, total: None
    shipped: Callable[[Exported], None] = lambda told: None
    clock: Callable[[], float] = time.monotonic
    keeps_cursor: bool = True
    done: Exported = field(default_factory=lambda: Exported(1, 0))  # so far
    _waiting: list[Span] = field(default_factory=list)
    _bytes: int = 0
    _done: int = 0  # the backend has everything from the first up to here
    _told_of: int = 0  # the last seq of which a span went out
    _remembered: int = 0
    _remembered_at: float = 0.0
    _remembered_taken: int = 0
    _journal_id: bytes = b""
    _problem: str = ""  # why the cursor could not be moved the last time

    def run(self, *, follow: bool = False, going_on: Callable[[], bool] = lambda: True) -> Exported:
        """Exports what is wanted; with `follow` what is appended too, while `going_on`. Raises BackendFailed.

        However it ends, the cursor is moved to where the backend has everything.
        """
        data, wanted = self.data, self.wanted
        reader = data.reader()
        self._journal_id = reader.journal_id
        weigh_end(data, reader)
        known = cursor.read_positions(reader).get(wanted.consumer, 0)
        first = known + 1 if wanted.first is None else wanted.first
        end = reader.last_seq if wanted.last is None else min(wanted.last, reader.last_seq)
        settled = min(end, settled_seq(reader))
        told = self.done = Exported(first, max(settled, first - 1), unsettled=max(0, end - max(settled, first - 1)))
        self._done, self._remembered, self._remembered_at = first - 1, known, self.clock()
        conversion = Conversion(
            reader.journal_id, self._undone, include_content=wanted.include_content, redactor=data.redactor
        )
        try:
            earlier = reader.batches(1, first - 1) if first > 1 else iter(())
            conversion.prime((each for each in earlier if may_hold(each, _PRIMING)), first)
            if first <= settled:
                self._ship(self._converted(conversion, reader.batches(first, settled), first, settled), told)
            if wanted.last is None and not told.unsettled:
                reader.raise_for_end()
            if follow:
                self._follow(conversion, reader, told, going_on)
        finally:
            self._note_tally(told)
            told.to_seq = self._done
            self._remember(told)
        return told

    # -- what goes out ------------------------------------------------------------------------------------------------

    def _converted(
        self, conversion: Conversion, batches: Iterable[Batch], first: int, last: int
    ) -> Iterator[tuple[int, list[Span]]]:
        """Batch by batch: the seq up to which they go, and the spans of it that are wanted.

        A batch that reaches beyond the first or the last is converted to there and no further.
        """
        agents = self.wanted.agents
        for batch in batches:
            spans = conversion.spans(batch, after=first - 1)
            found = [each for each in spans if each.seq <= last and (not agents or each.agent in agents)]
            yield min(batch.last_seq, last), found

    def _undone(self, ranges: Sequence[Range]) -> Undone:
        return look_up(self.data.reader(), ranges) if ranges else Undone()

    def _ship(self, converted: Iterable[tuple[int, list[Span]]], told: Exported) -> None:
        """Sends in batches of a bounded size; what one batch of the journal made may go in several.

        Where reading meets damage, what is whole goes out before that is told.
        """
        total, seq = max(0, told.to_seq - told.from_seq + 1), self._done
        try:
            for seq, spans in converted:
                self._gather(spans)
                if not self._waiting:
                    self._done = max(self._done, seq)
                elif self.clock() - self._remembered_at >= REMEMBER_SECONDS:
                    self._send(seq)
                    self._remember(told)
                self.tick(self._done - told.from_seq + 1, total)
        except DataError:
            self._send(seq)
            raise
        self._send(told.to_seq)
        self.tick(total, total)

    def _gather(self, spans: Iterable[Span]) -> None:
        for each in spans:
            self._waiting.append(each)
            self._bytes += each.size
            if len(self._waiting) >= SPANS_MAX or self._bytes >= BYTES_MAX:
                self._send(each.seq - 1)  # of the record itself another span may follow

    def _send(self, done: int) -> None:
        waiting, self._waiting, self._bytes = self._waiting, [], 0
        self.delivery.send(waiting)
        self._told_of = max(self._told_of, *(each.seq for each in waiting), 0)
        self._done = max(self._done, done)

    def _follow(self, conversion: Conversion, reader: LogReader, told: Exported, going_on: Callable[[], bool]) -> None:
        """While a backend is away nothing is read: what waits is in the journal, not here."""
        follower = Follower(reader)
        appended = follower.poll()
        held = list(reader.batches(told.to_seq + 1)) if told.to_seq < reader.last_seq else []
        while going_on():
            taken = list(islice(appended, HELD_MAX))
            if not taken:
                appended = follower.poll()
                taken = list(islice(appended, HELD_MAX))
            if reader.journal_id != self._journal_id:
                raise _another(self.data)
            held += taken
            settled = max(settled_seq(reader), *(each.durable_seq for each in held), 0) if held else 0
            if held and held[-1].last_seq > settled:
                settled = max(settled, evidence_seq(self.data))
            ready = [each for each in held if each.last_seq <= settled]
            held = held[len(ready) :]
            if ready:
                after, told.to_seq = told.to_seq, ready[-1].last_seq
                before = self.delivery.tally.total
                self._ship(self._converted(conversion, ready, after + 1, told.to_seq), told)
                if self.delivery.tally.total > before:
                    self._note_tally(told)
                    self.shipped(told)
            elif self.clock() - self._remembered_at >= REMEMBER_SECONDS:
                self._remember(told)
            if not taken:
                time.sleep(POLL_SECONDS)

    # -- the cursor ---------------------------------------------------------------------------------------------------

    def _note_tally(self, told: Exported) -> None:
        tally = self.delivery.tally
        told.spans, told.rejected, told.retries = tally.taken, tally.rejected, tally.retries

    def _remember(self, told: Exported) -> None:
        """Moves the cursor, if something was taken since, and nothing between it and what went out was left out."""
        self._remembered_at = self.clock()
        taken = self.delivery.tally.taken
        if not self.keeps_cursor:
            return
        is_news = taken > self._remembered_taken and self._told_of > self._remembered
        if not is_news or told.from_seq - 1 > self._remembered:
            return
        if self.data.journal_id() != self._journal_id.hex():
            return  # to a journal that took this one's place it is no news
        problem = cursor.move(self.data, self.wanted.consumer, self._done)
        if problem is None:
            self._remembered, self._remembered_taken = self._done, taken
            told.cursor = self._done
        elif problem.code != self._problem:
            self.note(f"the cursor was not moved, so that some spans go out again: {problem.what}")
        self._problem = "" if problem is None else problem.code


def _another(data: Data) -> Diverged:
    return Diverged(
        "the journal was replaced by another one: what it holds goes out under other ids",
        path=data.layout.journal, hint="start the export again",
    )  # fmt: skip


def settled_seq(reader: LogReader) -> int:
    """The last seq that nothing can take back: of a writer at work, what is known to be synced.

    A batch that is only written may be gone after a power cut, and its seqs be another's: it would have been exported
    under their ids.
    """
    tail = reader.tail
    return reader.last_seq if tail.closed else min(reader.last_seq, max(tail.durable_seq, reader.evidence_seq))
