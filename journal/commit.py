"""Group commit: what callers queued becomes one batch, one sync, one transaction, and their receipts.

The core under both faces (async tasks and threads): `submit` may be called from anywhere, `run` by one at a time.
While one batch syncs the next gathers by itself; there are no timers. Knows drafts, tickets and receipts; what a retry
is answered is `journal.op_ids`' business, what an event refers to and what it makes the state machine's.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from typing import Protocol

import msgspec

from journal.errors import (
    EnvironmentFault,
    JournalError,
    NoSpace,
    NotApplied,
    OutcomeUnknown,
    Poisoned,
    Refused,
    reason_of,
)
from journal.events import Event
from journal.log import Appended, Log
from journal.op_ids import GENERATED, OpIds
from journal.record import RECORD_CONTINUES_GROUP, RECORD_UNCHECKED, Record, generated_op_id
from journal.ticket import GROUP_BYTES_MAX as GROUP_BYTES_MAX
from journal.ticket import GROUP_RECORDS_MAX as GROUP_RECORDS_MAX
from journal.ticket import Draft as Draft
from journal.ticket import Receipt as Receipt
from journal.ticket import Ticket as Ticket
from journal.ticket import draft as draft
from journal.ticket import single as single
from journal.ticket import ticket as ticket
from journal.waiting import WaitingRoom

BATCH_RECORDS = 4096
BATCH_BYTES = 8 << 20

_encode_records = msgspec.msgpack.Encoder().encode  # a list of them is the payload of a batch, as `format` has it


class CannotTell(Exception):
    """Raised by `StateMachine.check`: the state cannot be asked at all any more. Nothing of the batch is written, its
    tickets stay queued, and `Committer.run` returns; whoever runs it puts another machine in its place."""


class StateMachine(Protocol):
    """What the journal asks of the state: may this event be, and then make it so."""

    applied_seq: int

    def check_all(self, events: Sequence[Event], seq: int) -> bool:
        """Whether `check` lets all of them pass, the first as `seq`; then they are counted in. False counts none in,
        and says nothing of any: each is to be checked."""
        ...

    def check(self, event: Event, seq: int) -> None:
        """Raises Refused, or CannotTell; otherwise counts the event in, as if applied at `seq`."""
        ...

    def mark(self) -> int: ...

    def rollback(self, mark: int) -> None:
        """Forgets what `check` counted in since `mark`."""
        ...

    def stage(self, appended: Appended, records: Sequence[Record]) -> None:
        """Told of a batch that the disk is at work on. May prepare what `apply` will do, as long as nobody can see it
        and nothing of it outlives a batch that does not become durable. Raises nothing that `apply` would not."""
        ...

    def apply(self, appended: Appended, records: Sequence[Record]) -> None:
        """Applies a durable batch; on return ``applied_seq`` covers it. Any error means: journaled, not applied."""
        ...


class Committer:
    """Turns queued tickets into batches of one log. `clock` gives UTC ns."""

    def __init__(
        self,
        log: Log,
        machine: StateMachine,
        clock: Callable[[], int] = time.time_ns,
        *,
        remember_op_ids: bool = True,
    ) -> None:
        self.log = log
        self.machine = machine
        self.room: WaitingRoom | None = None  # where tickets wait for room on the disk; None: they are refused
        self.unchecked = False  # whether the machine that stands in now holds no references against anything
        self._clock = clock
        self.timed = False
        self._queue: deque[Ticket] = deque()
        self._taken: list[Ticket] = []
        self.settled: list[Ticket] = []  # by the last run: an interrupt keeps that from returning them
        self._op_ids = OpIds(log, remember=remember_op_ids)

    def submit(self, request: Ticket) -> None:
        """Queues a ticket for the next batch. Once queued it cannot be withdrawn."""
        if self.timed:
            request.queued_ns = time.perf_counter_ns()
        self._queue.append(request)

    def __len__(self) -> int:
        return len(self._queue) + len(self._taken) + (0 if self.room is None else len(self.room))

    @property
    def waiting(self) -> int:
        """Tickets that wait for room on the disk."""
        return len(self.room) if self.room is not None else 0

    def refuse_waiting(self) -> list[Ticket]:
        """Gives up on what waits for room, and lets nothing wait any more: it is told that nothing was written."""
        room, self.room = self.room, None
        refused = room.empty() if room is not None else []
        for request in refused:
            request.error = _no_room(self.log.directory)
        _finish(refused)
        return refused

    def run(self) -> list[Ticket]:
        """Commits one batch of what is queued and returns the tickets that are settled by it.

        Returns an empty list if nothing was queued. Errors are in the tickets; only an interrupt is raised, after
        every ticket of the batch has its outcome.
        """
        refused = self._into_room() if self.room is not None and len(self.room) else []
        taken = self.settled = self._take()
        if taken:
            try:
                self._settle(taken)
            finally:
                done = [request for request in taken if request.done]
                self._taken = (
                    [request for request in taken if not request.done and not request.waits]
                    if len(done) < len(taken)
                    else []
                )
                self.settled = refused + done
        elif refused:
            self.settled = refused
        return self.settled

    def _into_room(self) -> list[Ticket]:
        """While some wait for room, all others wait with them, in their order; returns those that do not fit in."""
        room, refused = self.room, []
        assert room is not None
        for queue in (self._taken, self._queue):
            while queue:
                refused += room.admit([queue[0]])
                del queue[0]  # last: an interrupt loses none, and the room takes none twice
        for request in refused:
            request.error = _no_room(self.log.directory)
        _finish(refused)
        self._taken = room.draw()
        return refused

    def commit_now(self, request: Ticket) -> None:
        """Commits one ticket as a batch of its own, ahead of what is queued. As exclusive as `run`."""
        room, self.room = self.room, None  # it is not queued, and does not wait
        try:
            self._settle([request])
        finally:
            self.room = room
        if not request.done:
            request.error = EnvironmentFault("the state cannot be asked; nothing was written", hint="send it again")
            request.done = True

    def _settle(self, taken: list[Ticket]) -> None:
        try:
            self._commit(taken)
        except BaseException as error:
            # A bug or an interrupt between queue and receipt: nobody may take silence for success, or retry blindly.
            self.log.poison(f"commit failed: {error!r}")
            for request in taken:
                if request.error is None and not request.receipts:
                    request.error = OutcomeUnknown(f"commit failed: {error!r}", op_id=request.op_id)
            if not isinstance(error, Exception):
                raise
        finally:
            self._op_ids.forget_past()
            for request in taken:
                if request.joined is not None and request.joined.waits and self.room is not None:
                    request.joined = None  # what it joined is settled by a later batch: it finds that by its op_id
                    self._wait([request], self.room)
            _finish(taken)

    def _wait(self, requests: Sequence[Ticket], room: WaitingRoom) -> None:
        for request in room.admit(requests):
            request.error = _no_room(self.log.directory)
            _finish([request])

    def _take(self) -> list[Ticket]:
        """The next batch's tickets. An interrupt at any point loses none: what it left goes first the next time."""
        queue, taken, records, size = self._queue, self._taken, 0, 0
        if taken:
            if queue and queue[0] is taken[-1]:
                queue.popleft()
            _finish([request for request in taken if request.receipts or request.error])
            taken = self._taken = [request for request in taken if not request.done]
        while queue and records < BATCH_RECORDS and size < BATCH_BYTES:
            request = queue[0]
            taken.append(request)
            queue.popleft()
            records += len(request.drafts)
            size += request.bytes
        return taken

    def _commit(self, taken: list[Ticket]) -> None:
        log, machine, op_ids = self.log, self.machine, self._op_ids
        if log.poisoned is not None:  # not even a refusal would be certain: who knows what the last batch left
            poisoned = Poisoned(f"the log takes nothing more: {log.poisoned}", hint="close it and open it again")
            for request in taken:
                request.error = poisoned
            return
        start = machine.mark()
        if op_ids.are_new(taken) and machine.check_all([request.drafts[0].event for request in taken], log.next_seq):
            self._write_all(taken, start)
            return
        unchecked = RECORD_UNCHECKED if self.unchecked else 0
        known = op_ids.seqs
        check, clock, seq, last_time = machine.check, self._clock, log.next_seq, log.last_time
        records: list[Record] = []
        accepted: list[Ticket] = []
        in_flight: dict[str, Ticket] = {}
        for request in taken:
            op_id, drafts, first, mark = request.op_id, request.drafts, seq, None
            try:
                if (
                    op_id is not None
                    and (op_id in in_flight or op_id in known or op_id[0] == GENERATED)  # else it is new
                    and op_ids.has_answer(request, op_id, in_flight, machine.applied_seq)
                ):
                    continue
                if request.after_seq is not None and request.after_seq != first - 1:
                    raise Refused("moved_on", f"the journal is at seq {first - 1}, not at {request.after_seq} any more")
                if len(drafts) > 1:
                    mark = machine.mark()
                for item in drafts:
                    check(item.event, seq)
                    seq += 1
            except JournalError as error:
                if mark is not None:  # a single event that is refused counted nothing in
                    machine.rollback(mark)
                request.error, seq = error, first
                continue
            except CannotTell:
                machine.rollback(start)
                for each in taken:
                    if each.joined is not None and each.joined in accepted:
                        each.joined = None
                return
            now, read = clock(), None
            if now >= last_time:
                last_time = now
            else:
                read = now
            if op_id is not None:
                in_flight[op_id] = request
            flags = unchecked
            for item in drafts:
                records.append(
                    Record(flags, last_time, read, op_id, item.agent, item.actor, item.traceparent, item.event)
                )
                op_id, flags = None, RECORD_CONTINUES_GROUP | unchecked
            accepted.append(request)
        if accepted:
            self._write(accepted, records, last_time, start)

    def _write_all(self, taken: list[Ticket], start: int) -> None:
        """What most batches are: new single events, all of which may be. They share one reading of the clock."""
        flags, now, last_time = RECORD_UNCHECKED if self.unchecked else 0, self._clock(), self.log.last_time
        last_time, read = (now, None) if now >= last_time else (last_time, now)
        records = [
            Record(flags, last_time, read, request.op_id, item.agent, item.actor, item.traceparent, item.event)
            for request in taken
            for item in request.drafts
        ]
        self._write(taken, records, last_time, start)

    def _write(self, accepted: list[Ticket], records: list[Record], last_time: int, start: int) -> None:
        """Appends the batch, applies it, and gives each ticket its receipts or its error."""
        receipts: list[list[Receipt]] = []

        def meanwhile(appended: Appended) -> None:
            self.machine.stage(appended, records)
            receipts.extend(self._receipts(accepted, appended, records))

        try:
            appended = self.log.append_payload(_encode_records(records), len(records), last_time, meanwhile)
        except OutcomeUnknown as error:
            self._give_up(accepted, error)
            return
        except JournalError as error:  # not a byte of it was written: the seqs stay free
            self.machine.rollback(start)
            if self.room is not None and isinstance(error, NoSpace):
                self._wait(accepted, self.room)
                return
            for request in accepted:
                request.error = error
            return
        self._op_ids.remember(accepted, appended.first_seq)
        try:
            self.machine.apply(appended, records)
        except BaseException as error:
            for request, made in zip(accepted, receipts, strict=True):
                request.error = NotApplied(
                    f"journaled at seq {made[0].seq}, not applied: {reason_of(error)}",
                    seq=made[0].seq,
                    hint="it is safe, and applied by the next catch-up; do not send it again under another op_id",
                )
            if not isinstance(error, Exception):
                raise
            return
        for request, made in zip(accepted, receipts, strict=True):
            request.receipts = made

    def _give_up(self, accepted: list[Ticket], error: JournalError) -> None:
        seq = self.log.next_seq
        for request in accepted:
            request.error = OutcomeUnknown(
                error.message,
                op_id=request.op_id or generated_op_id(self.log.epoch, seq),
                seq=seq,
                hint="open the journal again, then retry with this op_id: it is applied at most once",
            )
            seq += len(request.drafts)
        if isinstance(error.__cause__, BaseException) and not isinstance(error.__cause__, Exception):
            raise error.__cause__

    def _receipts(self, accepted: list[Ticket], appended: Appended, records: list[Record]) -> list[list[Receipt]]:
        """Each ticket's receipts. It gets them once the batch is applied: that is what they acknowledge."""
        receipts: list[list[Receipt]] = []
        chain, epoch, first, checked = appended.chain.hex(), appended.epoch, appended.first_seq, not self.unchecked
        at = 0
        for request in accepted:
            op_id = request.op_id
            made: list[Receipt] = []
            for _ in request.drafts:
                seq = first + at
                made.append(Receipt(seq, records[at].time, op_id or generated_op_id(epoch, seq), chain, epoch, checked))
                op_id = None  # it is the group's, and stands for it at its first record
                at += 1
            receipts.append(made)
        return receipts


def _finish(settled: Iterable[Ticket]) -> None:
    """Each has its outcome, or shares that of the ticket which it joined, or stays queued."""
    for request in settled:
        twin = request.joined
        if twin is not None:
            request.receipts, request.error = twin.receipts, twin.error
        request.done = bool(request.receipts or request.error)


def _no_room(path: str) -> NoSpace:
    return NoSpace(
        "the disk is full, and no more writes may wait for room", path=path,
        hint="free some disk space; degraded.queue_bytes says how many wait",
    )  # fmt: skip
