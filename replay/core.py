"""The one writer of a data directory: log, live state and committer under one lock, and the pace of its syncs.

Knows no tasks and no threads that wait; the faces over it (`replay.hook`) do.
"""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from secrets import token_hex
from time import monotonic, time_ns
from typing import TYPE_CHECKING

from journal.commit import Committer, Ticket, draft, ticket
from journal.errors import EnvironmentFault, JournalError, Poisoned
from journal.events import Event, RecoveryCompleted, RecoveryFailed, RecoveryStarted
from journal.limits import check_scope
from journal.log import Log
from replay.away import Away, Policy, Returned
from replay.cursors import Cursors
from replay.deviation import counts
from replay.faults import declared
from replay.live import LiveState
from replay.logs import say
from replay.own_events import journal_event
from replay.rebuild import check_space, generations_of, rebuild
from replay.restore import Restored, check_target, restore_in_place
from replay.scope import ScopeRebuilt, rebuild_scope
from replay.tracing import Appending, Question, committed, span

if TYPE_CHECKING:
    from opentelemetry.context import Context
    from opentelemetry.trace import Tracer

FAST_SYNC_NS = 1_000_000  # a batch under 1 ms may be synced by the loop itself
SLOW_SYNC_NS = 2_000_000  # one over 2 ms moves the next ones to a thread
THREADED_MIN = 4  # how many fast ones bring them back at first; each slow one doubles that
THREADED_MAX = 256
_MEANWHILE: dict[Policy, str] = {"journal": "are journaled unchecked", "refuse": "are refused"}
ASK_AGAIN = 10  # so many times as long as a look took that memory.db is still gone, until the next batch looks again


class Pace:
    """Whether an event loop may sync by itself, from how long the last syncs took.

    A slow one moves the next few to a thread, and each further one before they have passed twice as many: a disk with
    a rare hiccup is served inline nearly always, one that is slow practically never.
    """

    __slots__ = ("_left", "_sentence", "inline")

    def __init__(self) -> None:
        self.inline = True
        self._left = 0
        self._sentence = THREADED_MIN

    def note(self, sync_ns: int) -> None:
        """Takes note of one batch."""
        if sync_ns > SLOW_SYNC_NS:
            self._left = self._sentence
            self._sentence = min(2 * self._sentence, THREADED_MAX)
        elif sync_ns < FAST_SYNC_NS:
            self._left -= 1
            if self._left < -self._sentence:  # as many fast ones inline: the last hiccup is forgotten
                self._left, self._sentence = 0, max(self._sentence // 2, THREADED_MIN)
        self.inline = self._left <= 0


class Core:
    """Log, live state and committer under one lock: whoever holds it is the one writer."""

    def __init__(self, log: Log, state: LiveState) -> None:
        self.log = log
        self.state: LiveState | Away = state
        self.committer = Committer(log, state)
        self.lock = threading.Lock()
        self.swap_callbacks: list[Callable[[str], object]] = []
        self.cursors: Cursors | None = None  # of the messages' consumers, once somebody asked for them
        self.redact: Callable[[str], str] | None = None  # for what live spans say
        self.tracing = Question()
        self.observer: Callable[[Sequence[Ticket], int, int], None] | None = None
        """Called after each commit with its tickets, how many events it journaled, and its sync in ns."""
        self.policy: Policy | None = None  # what becomes of writes while memory.db is gone; None: they fail one by one
        self.returned: Returned | None = None  # what was applied when it was last back
        self._pace = Pace()
        self._ask_again = 0.0
        self._began = 0.0  # when the batch at work was begun, by `monotonic`; 0: none is

    def appending(
        self, traced: Tracer, events: Sequence[Event], agent: str | None, traceparent: str | None, group: bool = False,
        context: Context | None = None,
    ) -> Appending:
        """The span of a call of `append`; `redact` is applied to what it says."""
        return Appending(traced, self.log.journal_id, events, agent, traceparent, self.redact, group, context)

    @property
    def prefers_inline(self) -> bool:
        """True while syncs are fast enough to be done by an event loop without a thread's switches."""
        return self._pace.inline and not isinstance(self.state, Away)

    @property
    def committing_seconds(self) -> float:
        """For how long the batch at work has been committed; 0 while none is. A disk that hangs shows here only."""
        began = self._began
        return monotonic() - began if began else 0.0

    @property
    def away(self) -> str:
        """Why memory.db is not written; "" while it is."""
        return self.state.reason if isinstance(self.state, Away) else ""

    def commit(self) -> list[Ticket]:
        """Commits one batch. The caller holds the lock."""
        log = self.log
        if log.poisoned is not None:  # closed, perhaps, and the state with it
            return self.committer.run()
        state = self._state()
        state.mend(log.next_seq - 1)
        before, traced = log.next_seq, self.tracing.tracer()
        started_ns = time_ns() if traced is not None else 0
        state.begin()
        self._began = monotonic()
        try:
            settled = self.committer.run()
        finally:
            self._began = 0.0
            state.end()
        if state.lost is not None and self.policy is not None:
            self._leave(state.lost)
            settled = [*settled, *self.committer.run()]  # what could not be judged any more
        if traced is not None and log.next_seq > before:
            committed(traced, started_ns, settled, before, log.next_seq - before, log.sync_ns)
        if self.observer is not None:
            self.observer(settled, log.next_seq - before, log.sync_ns)
        if log.poisoned is not None:
            self._say_poisoned(settled)
        self._pace.note(log.sync_ns)
        if self.cursors is not None and not self.cursors.note(settled, self.state.connection):
            self.cursors = None
        return settled

    def _say_poisoned(self, settled: Sequence[Ticket]) -> None:
        """Once, by the commit that found it out: what it could not answer for is what its callers ask for again."""
        unknown = [request.op_id for request in settled if request.error is not None and request.op_id]
        reason = f"no more events are taken until the journal is opened again: {self.log.poisoned}"
        say("error", "writer", reason, self.redact, seq=self.log.next_seq, op_id=unknown[0] if unknown else None,
            op_ids=unknown[:100] or None)  # fmt: skip

    def use_policy(self, policy: Policy) -> None:
        """What becomes of writes while memory.db is gone. Not for imports, which may journal nothing unchecked."""
        self.policy = policy
        if isinstance(self.state, LiveState):
            self.state.can_leave = policy == "journal"

    # -- memory.db gone, and back -------------------------------------------------------------------------------------

    def _state(self) -> LiveState | Away:
        """The state that the next batch is held against. Leaves a memory.db that is gone, takes one that is back."""
        state = self.state
        if isinstance(state, Away):
            if monotonic() >= self._ask_again:
                self.look_again()
        elif self.policy is not None and not state.is_there():
            self._leave("memory.db was removed or replaced while it was open")
        return self.state

    def _leave(self, reason: str) -> None:
        assert self.policy is not None
        gone = f"memory.db is gone, and writes {_MEANWHILE[self.policy]} meanwhile: {reason} - journal recover memory"
        say("warning", "memory", gone, self.redact, component="memory", seq=self.log.next_seq - 1)
        with suppress(sqlite3.Error):
            self.state.close()
        self._install(Away(self.state, reason, self.policy))
        self._ask_again = 0.0

    def _install(self, state: LiveState | Away) -> None:
        before = self.state
        if isinstance(state, LiveState):
            state.validation, state.materialises = before.validation, before.materialises
            state.foreign_writes = before.foreign_writes
            state.can_leave = self.policy == "journal"
        self.state = self.committer.machine = state
        self.committer.unchecked = isinstance(state, Away)
        self.cursors = None

    def look_again(self) -> bool:
        """Whether memory.db is back; then it holds everything that was journaled meanwhile. The caller holds the lock.

        What turned out to be a no-op is counted, and journaled as the recovery that this is.
        """
        away = self.state
        if not isinstance(away, Away):
            return True
        started = monotonic()
        try:
            return self._take_back(away)
        finally:  # what waits may be long to apply: looking in vain must not take the time of the writes
            self._ask_again = monotonic() + ASK_AGAIN * (monotonic() - started)

    def _take_back(self, away: Away) -> bool:
        try:
            renewed = LiveState.open(away.storage, away.layout)
        except (JournalError, sqlite3.Error, OSError):
            return False
        try:
            before = renewed.applied_seq
            renewed.materialises = away.materialises
            if not renewed.is_writable():
                raise EnvironmentFault("it cannot be written")
            renewed.catch_up()
        except (JournalError, sqlite3.Error, OSError):
            with suppress(sqlite3.Error):
                renewed.close()
            return False
        self._install(renewed)
        done = renewed.caught
        self.returned = Returned(before, renewed.applied_seq, done.events, done.no_ops)
        recovery_id, found = token_hex(8), {"events": done.events, "no_ops": done.no_ops}
        back = f"memory.db is back, and {done.events} events were applied to it"
        say("info", "memory", back, component="memory", seq=renewed.applied_seq, recovery_id=recovery_id,
            events=done.events, no_ops=done.no_ops)  # fmt: skip
        told = (
            RecoveryStarted(recovery_id, "memory", "catch-up", {}, away.reason[:2000]),
            RecoveryCompleted(recovery_id, "memory", "catch-up", found),
        )
        self.committer.commit_now(ticket([draft(event, None, "journal", None) for event in told], None))
        return True

    def commit_locked(self) -> list[Ticket]:
        with self.lock:
            return self.commit()

    def fold(self) -> None:
        """Begins to move memory.db's write-ahead log into it, in a thread: see `replay.folding`."""
        state = self.state
        if isinstance(state, LiveState):
            state.wants_fold = False
            state.folding.beside(self.lock)

    @contextmanager
    def exclusively(self) -> Iterator[Log]:
        """The log, while memory.db is let go of: for what puts another generation in its place.

        Callers wait. What they queued is committed after it, checked against the state that is current then. Where that
        cannot be opened, nothing can be checked any more: the policy says whether writes go on without it; else the log
        takes nothing until it is opened again. Raises Poisoned where it takes nothing already: what was closed stays
        closed.
        """
        with ExitStack() as telling, self.lock:  # whoever has a generation open hears of the next, whatever else failed
            if self.log.poisoned is not None:
                hint = "close it and open it again"
                raise Poisoned(f"the log takes nothing more: {self.log.poisoned}", hint=hint)
            before = self.state
            before.close()
            try:
                yield self.log
            finally:
                try:
                    with declared(before.layout.memory_db):
                        renewed = LiveState.open(before.storage, before.layout)
                except BaseException as error:
                    if self.policy is None or not isinstance(error, JournalError):
                        self.log.poison(f"memory.db cannot be opened again: {error}")
                    else:
                        self._leave(f"memory.db cannot be opened again: {error}")
                    raise
                self._install(renewed)
                if renewed.generation != before.generation:
                    for callback in reversed(self.swap_callbacks):
                        telling.callback(callback, renewed.generation)

    def restore(
        self, to_seq: int, reason: str = "", actor: str = "journal", progress: Callable[[int, int], None] | None = None
    ) -> Restored:
        """Makes state(to_seq) current while the hook stays open.

        Where a restore was journaled and could not be applied, the log takes nothing until it is opened again, which
        applies it.
        """
        check_target(self.log, to_seq)
        with span("journal.restore", {"journal.restore.to_seq": to_seq}) as live, self.exclusively() as log:
            head, layout = log.next_seq, self.state.layout
            try:
                with declared(layout.memory_db):
                    restored = restore_in_place(
                        self.state.storage, layout, log, to_seq, reason=reason, actor=actor, progress=progress
                    )
                    live.set(journal__seq=restored.seq)
                    say("info", "memory", f"restored to seq {to_seq}", component="memory", seq=restored.seq)
                    return restored
            except BaseException as error:
                if log.next_seq > head:
                    log.poison(f"the restore at seq {head} is journaled, but applying it failed: {error}")
                raise

    def recover_scope(self, scope: str) -> ScopeRebuilt:
        """Makes one scope of memory.db what the journal says while the hook stays open; nothing else is touched.

        Callers wait until the new generation is in place. Journaled as a recovery of memory. Raises Refused for what is
        no scope, Corrupt where memory.db cannot be put right in parts; then the hook goes on with what it had.
        """
        check_scope("scope", scope)
        recovery_id, how = token_hex(8), f"replay of scope {scope}"
        with self.lock:
            self.state.mend(self.log.next_seq - 1)
        told = {"journal.recovery.id": recovery_id, "journal.recovery.component": "memory"}
        with span("journal.recovery", told), self.exclusively() as log:
            storage, layout = self.state.storage, self.state.layout
            journal_event(log, RecoveryStarted(recovery_id, "memory", how))
            try:
                with declared(layout.memory_db):
                    done = rebuild_scope(storage, layout, log.reader(), scope)
            except JournalError as error:
                journal_event(log, RecoveryFailed(recovery_id, "memory", how, reason=str(error)[:2000]))
                raise
            journal_event(log, RecoveryCompleted(recovery_id, "memory", how, counts(done.tables)))
            return done

    def rebuild(self, progress: Callable[[int, int], None] | None = None) -> list[str]:
        """Replaces memory.db by what the journal makes of it, while the hook stays open; returns what went to
        quarantine. Callers wait; nothing is journaled, since the state does not change."""
        with self.exclusively() as log, declared(self.state.layout.memory_db):
            storage, layout = self.state.storage, self.state.layout
            check_space(storage, layout, log.reader())
            rebuild(storage, layout, log.reader(), progress)
            return generations_of(storage, layout).retire().quarantined

    def close(self) -> list[Ticket]:
        """Commits what is queued, then closes state and log, whatever happens. Returns what that settled."""
        settled: list[Ticket] = []
        with ExitStack() as closed, self.lock:
            if isinstance(self.state, LiveState):
                closed.callback(self.state.folding.join)  # it may wait for the lock
            try:
                settled += self.committer.refuse_waiting()
                while len(self.committer):
                    settled += self.commit()
            finally:
                try:
                    self.state.close()
                finally:
                    self.log.close()
        return settled
