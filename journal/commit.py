"""Group commit: what callers queued becomes one batch, one sync, one transaction, and their receipts.

The core under both faces (async tasks and threads): `submit` may be called from anywhere, `run` by one at a time.
While one batch syncs the next gathers by itself; there are no timers. Knows drafts, op_ids and receipts; what an event
refers to and what it makes is the state machine's business.
"""

from __future__ import annotations

import re
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
from journal.format import RECORD_CONTINUES_GROUP, RECORD_UNCHECKED, Record, generated_op_id
from journal.log import Appended, Log
from journal.reader import LogReader
from journal.scan import Batch
from journal.ticket import GROUP_BYTES_MAX as GROUP_BYTES_MAX
from journal.ticket import GROUP_RECORDS_MAX as GROUP_RECORDS_MAX
from journal.ticket import Draft as Draft
from journal.ticket import Receipt as Receipt
from journal.ticket import Ticket as Ticket
from journal.ticket import draft as draft
from journal.ticket import encode_record as encode_record
from journal.ticket import ticket as ticket
from journal.waiting import WaitingRoom

BATCH_RECORDS = 4096
BATCH_BYTES = 8 << 20
OP_ID_WINDOW = 100_000

_GENERATED = re.compile(r"e(\d{1,10})-(\d{1,20})")


class CannotTell(Exception):
    """Raised by `StateMachine.check`: the state cannot be asked at all any more. Nothing of the batch is written, its
    tickets stay queued, and `Committer.run` returns; whoever runs it puts another machine in its place."""


class StateMachine(Protocol):
    """What the journal asks of the state: may this event be, and then make it so."""

    applied_seq: int

    def check(self, event: Event, seq: int) -> None:
        """Raises Refused, or CannotTell; otherwise counts the event in, as if applied at `seq`."""
        ...

    def mark(self) -> int: ...

    def rollback(self, mark: int) -> None:
        """Forgets what `check` counted in since `mark`."""
        ...

    def apply(self, appended: Appended, records: Sequence[Record]) -> None:
        """Applies a durable batch; on return ``applied_seq`` covers it. Any error means: journaled, not applied."""
        ...


class Committer:
    """Turns queued tickets into batches of one log.

    `clock` gives UTC ns. The op_id window is read back from the log, so it survives a restart and belongs to the
    journal: a restore of the state does not reset it.
    """

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
        self._past: LogReader | None = None  # for retries, as long as one run lasts
        self._past_batch: Batch | None = None
        self._op_ids = self._read_op_ids() if remember_op_ids else {}

    def _read_op_ids(self) -> dict[str, int]:
        """op_id → seq of the last `OP_ID_WINDOW` operations, oldest first. A group is one, however much it holds."""
        reader = self.log.reader()
        operations, last = 0, reader.last_seq
        parts: list[dict[str, int]] = []  # one a segment, newest first
        for first in sorted({segment.first_seq for segment in reader.segments}, reverse=True):
            if first > last:
                continue
            part: dict[str, int] = {}
            for batch in reader.batches(first, last):
                for seq, head in enumerate(batch.heads(), batch.first_seq):
                    if head.op_id is not None:
                        part[head.op_id] = seq
                    operations += not head.flags & RECORD_CONTINUES_GROUP
            parts.append(part)
            last = first - 1
            if operations >= OP_ID_WINDOW:
                break
        found: dict[str, int] = {}
        for part in reversed(parts):
            found |= part
        return found

    def submit(self, request: Ticket) -> None:
        """Queues a ticket for the next batch. Once queued it cannot be withdrawn."""
        if self.timed:
            request.queued_ns = time.perf_counter_ns()
        self._queue.append(request)

    def __len__(self) -> int:
        return len(self._queue) + len(self._taken) + self.waiting

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
        refused = self._into_room() if self.waiting else []
        taken = self.settled = self._take()
        if taken:
            try:
                self._settle(taken)
            finally:
                self._taken = [request for request in taken if not request.done and not request.waits]
                self.settled = refused + [request for request in taken if request.done]
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
            self._past = self._past_batch = None
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
        log, machine = self.log, self.machine
        if log.poisoned is not None:  # not even a refusal would be certain: who knows what the last batch left
            poisoned = Poisoned(f"the log takes nothing more: {log.poisoned}", hint="close it and open it again")
            for request in taken:
                request.error = poisoned
            return
        start, unchecked = machine.mark(), RECORD_UNCHECKED if self.unchecked else 0
        encoded: list[bytes] = []
        records: list[Record] = []
        accepted: list[Ticket] = []
        in_flight: dict[str, Ticket] = {}
        last_time = log.last_time
        for request in taken:
            mark = machine.mark()
            first = log.next_seq + len(records)
            try:
                if request.op_id is not None and self._is_settled(request, request.op_id, in_flight):
                    continue
                if request.after_seq is not None and request.after_seq != first - 1:
                    raise Refused("moved_on", f"the journal is at seq {first - 1}, not at {request.after_seq} any more")
                for seq, item in enumerate(request.drafts, first):
                    machine.check(item.event, seq)
            except JournalError as error:
                machine.rollback(mark)
                request.error = error
                continue
            except CannotTell:
                machine.rollback(start)
                for each in taken:
                    if each.joined is not None and each.joined in accepted:
                        each.joined = None
                return
            now = self._clock()
            clock = None if now >= last_time else now
            last_time = max(now, last_time)
            op_id, flags = request.op_id, unchecked
            for item in request.drafts:
                encoded.append(encode_record(flags, last_time, clock, op_id, item))
                records.append(
                    Record(flags, last_time, clock, op_id, item.agent, item.actor, item.traceparent, item.event)
                )
                op_id, flags = None, RECORD_CONTINUES_GROUP | unchecked
            if request.op_id is not None:
                in_flight[request.op_id] = request
            accepted.append(request)
        if accepted:
            self._write(accepted, encoded, records, last_time, start)

    def _write(
        self, accepted: list[Ticket], encoded: list[bytes], records: list[Record], last_time: int, start: int
    ) -> None:
        """Appends the batch, applies it, and gives each ticket its receipts or its error."""
        try:
            appended = self.log.append(encoded, last_time)
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
        receipts = self._receipts(accepted, appended, records)
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
        chain, epoch, seq, op_ids = appended.chain.hex(), appended.epoch, appended.first_seq, self._op_ids
        at, checked = iter(records), not self.unchecked
        for request in accepted:
            op_id = request.op_id
            if op_id is not None:
                op_ids[op_id] = seq
            made: list[Receipt] = []
            for _ in request.drafts:
                made.append(Receipt(seq, next(at).time, op_id or generated_op_id(epoch, seq), chain, epoch, checked))
                op_id = None  # it is the group's, and stands for it at its first record
                seq += 1
            receipts.append(made)
        floor = seq - OP_ID_WINDOW
        while op_ids:
            oldest = next(iter(op_ids))
            if len(op_ids) <= OP_ID_WINDOW or op_ids[oldest] >= floor:
                break
            del op_ids[oldest]
        return receipts

    # -- op_ids -------------------------------------------------------------------------------------------------------

    def _is_settled(self, request: Ticket, op_id: str, in_flight: dict[str, Ticket]) -> bool:
        """True if the op_id was used before: by an earlier event, or by one in this very batch.

        Raises what reading the log raises: damage in the past is the answer to this retry, and to no other ticket.
        """
        twin = in_flight.get(op_id)
        if twin is not None:
            if _same(twin.drafts, request.drafts):
                request.joined = twin
            else:
                request.error = _reused(op_id)
            return True
        seq = self._op_ids.get(op_id)
        if seq is None:
            match = _GENERATED.fullmatch(op_id)
            if match is None:
                return False
            seq = self._generated_seq(int(match[1]), int(match[2]))
            if seq is None and int(match[1]) >= self.log.epoch:
                request.error = Refused(
                    "invalid", f"op_id {op_id!r} has the form of one that the journal generates, and is none"
                )
                return True
            if seq is None:
                return False
        self._repeat(request, op_id, seq)
        return True

    def _generated_seq(self, epoch: int, seq: int) -> int | None:
        """The seq, if the record there survived and its op_id was generated by this epoch."""
        if not 1 <= seq < self.log.next_seq:
            return None
        batch = self._batch_of(seq)
        head = batch.heads()[seq - batch.first_seq]
        return seq if batch.epoch == epoch and head.op_id is None else None

    def _repeat(self, request: Ticket, op_id: str, seq: int) -> None:
        """Answers a retry with its first receipts; refuses another event under the same op_id."""
        batch = self._batch_of(seq)
        index = seq - batch.first_seq
        records = batch.records()[index:]
        size = 1
        while size < len(records) and records[size].flags & RECORD_CONTINUES_GROUP:
            size += 1
        if not _same(records[:size], request.drafts):
            request.error = _reused(op_id)
            return
        checked = not records[0].flags & RECORD_UNCHECKED
        if checked and self.machine.applied_seq < seq + size - 1:
            request.error = NotApplied(f"journaled at seq {seq}, not applied yet", seq=seq)
            return
        chain = batch.chain.hex()
        request.receipts = [
            Receipt(
                seq + at, record.time, generated_op_id(batch.epoch, seq + at) if at else op_id, chain, batch.epoch,
                checked,
            )
            for at, record in enumerate(records[:size])
        ]

    def _batch_of(self, seq: int) -> Batch:
        """The batch of an earlier record. Retries often come together: the last one found is looked into first."""
        found = self._past_batch
        if found is None or not found.first_seq <= seq <= found.last_seq:
            self._past = self._past or self.log.reader()
            found = self._past_batch = self._past.batch_of(seq)
        return found


def _same(given: Sequence[Draft | Record], again: Sequence[Draft]) -> bool:
    """Whether a retry brings the same events. Python takes True for 1; what is stored differs, so its bytes decide."""
    return [_canonical(each.event) for each in given] == [_canonical(each.event) for each in again]


_canonical = msgspec.msgpack.Encoder(order="deterministic").encode


def _finish(settled: Iterable[Ticket]) -> None:
    """Each has its outcome, or shares that of the ticket which it joined, or stays queued."""
    for request in settled:
        twin = request.joined
        if twin is not None:
            request.receipts, request.error = twin.receipts, twin.error
        request.done = bool(request.receipts or request.error)


def _reused(op_id: str) -> Refused:
    hint = "give each operation an op_id of its own"
    return Refused("op_id_reused", f"op_id {op_id!r} was used for a different event", hint=hint)


def _no_room(path: str) -> NoSpace:
    return NoSpace(
        "the disk is full, and no more writes may wait for room", path=path,
        hint="free some disk space; degraded.queue_bytes says how many wait",
    )  # fmt: skip
