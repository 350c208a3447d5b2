"""The hook that a server writes through: journal and sync, then apply, then acknowledge.

Two faces of one core (`replay.core`): `Hook` for async tasks (asyncio and trio, by anyio) and `SyncHook` for threads.
Cancelling a caller never withdraws what it queued.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from contextlib import asynccontextmanager
from time import sleep
from typing import TYPE_CHECKING, Any

import anyio
import anyio.lowlevel
import anyio.to_thread

from journal.commit import Draft, Receipt, Ticket, draft, single, ticket
from journal.errors import Poisoned, Refused
from journal.events import ConfigRemoved, ConfigWritten, Event
from journal.limits import RESERVED, refuse_reserved
from replay.background import Background
from replay.core import Core
from replay.delivery import Messages, SyncMessages
from replay.restore import Restored
from replay.scope import ScopeRebuilt
from replay.waiting import Waiter, Waiting, waiting

if TYPE_CHECKING:
    from replay.checkpoints import Shadow
    from replay.search import Hit


FULL_PAUSE_SECONDS = 0.1  # between two tries while the disk is full and writes wait for room


def _draft(event: Event, agent: str | None, actor: str | None, traceparent: str | None) -> Draft:
    refuse_reserved(event)
    return draft(event, agent, actor, traceparent)


def _group(events: Iterable[Event], agent: str | None, actor: str | None, traceparent: str | None) -> list[Draft]:
    return [_draft(event, agent, actor, traceparent) for event in events]


def _config(name: str, text: str | bytes) -> ConfigWritten:
    try:
        return ConfigWritten(name=name, content=text.encode() if isinstance(text, str) else bytes(text))
    except UnicodeEncodeError as error:
        raise Refused("invalid", f"content holds a lone surrogate at {error.start}, which is no text") from None


class Hook:
    """The async face. Use it as `async with Hook(…).running()`; `recovery.open_server` gives one that is ready."""

    kept: Sequence[Any] = ()  # what opening left for a person to decide: hand edits, files that were never journaled
    recovered: Any = None  # what opening repaired

    def __init__(self, core: Core, background: Background) -> None:
        self.core = core
        self.background = background
        self.agents = Agents(self)
        self.messages = Messages(self)
        self._open = False
        self._sleeping: Waiter | None = None
        self.loop: anyio.lowlevel.EventLoopToken  # where its tasks run, for threads that have something to run there
        self._waiting: Waiting
        self._thread: anyio.CapacityLimiter  # of its own: those who wait for a commit may hold all of the default one's
        self._served = anyio.Event()

    @property
    def carried(self) -> Sequence[tuple[int, str]]:
        """(seq, op_id) of the events that outlived a writer which did not close, and may have said outcome_unknown."""
        return self.core.log.opening.carried

    @asynccontextmanager
    async def running(self) -> AsyncIterator[Hook]:
        """Takes events while the block runs. What was queued is committed at its end, even when it is cancelled."""
        failure: BaseException | None = None
        self.loop = anyio.lowlevel.current_token()
        self._waiting = waiting()
        self._thread = anyio.CapacityLimiter(1)
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(self._serve)
            self._open = True
            try:
                self.background.start()
                yield self
            except BaseException as error:  # kept from the task group, which would wrap the caller's own error
                failure = error
            self._open = False
            self._wake()
            with anyio.CancelScope(shield=True):
                await self._served.wait()
                try:
                    await anyio.to_thread.run_sync(self.background.close, limiter=self._thread)
                finally:
                    self._answer(await anyio.to_thread.run_sync(self.core.close, limiter=self._thread))
        if failure is not None:
            raise failure

    def _wake(self) -> None:
        sleeping, self._sleeping = self._sleeping, None
        if sleeping is not None:
            self._waiting.wake((sleeping,))

    async def append(
        self,
        event: Event,
        *,
        agent: str | None = None,
        actor: str | None = None,
        op_id: str | None = None,
        traceparent: str | None = None,
    ) -> Receipt:
        """Journals one event, applies it, and returns its receipt.

        Raises Refused (nothing was written), NoSpace (nothing was written), NotApplied (durable at its seq, applied
        later) or OutcomeUnknown (ask with its op_id after the next open). Where OpenTelemetry is set up, this is a
        span, and ``traceparent`` is by default that of the span which is current.
        """
        traced = self.core.tracing.tracer()
        if traced is None:
            if type(event) in RESERVED:
                refuse_reserved(event)
            request = single(event, agent, actor, traceparent, op_id)
            await self._queued(request)
            return request.result()[0]
        with self.core.appending(traced, (event,), agent, traceparent) as span:
            receipts = await self._commit(ticket((_draft(event, agent, actor, span.traceparent),), op_id))
            span.done(receipts)
            return receipts[0]

    async def append_all(
        self,
        events: Iterable[Event],
        *,
        agent: str | None = None,
        actor: str | None = None,
        op_id: str | None = None,
        traceparent: str | None = None,
    ) -> list[Receipt]:
        """Journals a group: consecutive seqs in one batch, all or none. Raises as `append` does."""
        traced = self.core.tracing.tracer()
        if traced is None:
            drafts = _group(events, agent, actor, traceparent)
            return await self._commit(ticket(drafts, op_id)) if drafts else []
        events = list(events)
        with self.core.appending(traced, events, agent, traceparent, group=True) as span:
            drafts = _group(events, agent, actor, span.traceparent)
            receipts = await self._commit(ticket(drafts, op_id)) if drafts else []
            span.done(receipts)
            return receipts

    async def search(self, text: str, limit: int = 10, *, scope: str | None = None) -> list[Hit]:
        """The observations nearest in meaning to `text`, best first. Needs the backend's extra and a model."""
        return await anyio.to_thread.run_sync(lambda: self.background.search(text, limit, scope))

    async def checkpoint(self) -> Shadow:
        """Builds, verifies and journals a checkpoint; writing goes on meanwhile."""
        return await anyio.to_thread.run_sync(self.background.checkpoint)

    async def restore(self, to_seq: int, *, reason: str = "", actor: str = "journal") -> Restored:
        """Makes state(to_seq) current in place; it can be undone by another restore."""
        return await anyio.to_thread.run_sync(lambda: self.core.restore(to_seq, reason, actor))

    async def recover_scope(self, scope: str) -> ScopeRebuilt:
        """Makes one scope of memory.db what the journal says, and touches nothing else. See `Core.recover_scope`."""
        return await anyio.to_thread.run_sync(lambda: self.core.recover_scope(scope))

    def on_swap(self, callback: Callable[[str], object]) -> None:
        """Calls `callback` with the new generation's path after each swap, from the thread that swapped."""
        self.core.swap_callbacks.append(callback)

    def _queued(self, request: Ticket) -> Waiter:
        """Queues it; its outcome is there once what is returned was awaited."""
        if not self._open:
            raise Poisoned("the hook is closed", hint="open the server again")
        done: Waiter = self._waiting.waiter()
        request.waiter = done
        self.core.committer.submit(request)
        if self._sleeping is not None:
            self._wake()
        return done

    async def _commit(self, request: Ticket) -> list[Receipt]:
        await self._queued(request)
        return request.result()

    async def settle(self, requests: Sequence[Ticket]) -> None:
        """Commits tickets that were made elsewhere: each has receipts or an error then."""
        for done in [self._queued(request) for request in requests]:
            await done

    async def _serve(self) -> None:
        """The one task that commits; should it ever end early, nobody waits for ever."""
        try:
            await self._commit_all()
        finally:
            self._open = False
            self._answer(self.core.committer.settled)
            self._served.set()

    def _answer(self, settled: Sequence[Ticket]) -> None:
        self._waiting.wake([request.waiter for request in settled if request.waiter is not None])

    async def _commit_all(self) -> None:
        """Inline while syncs are fast, else in a thread while the next batch gathers."""
        core = self.core
        with anyio.CancelScope(shield=True):
            while True:
                if not len(core.committer):
                    if not self._open:
                        break
                    self._sleeping = self._waiting.waiter()
                    await self._sleeping
                    continue
                if core.prefers_inline and core.lock.acquire(blocking=False):
                    try:
                        settled = core.commit()
                    finally:
                        core.lock.release()
                else:
                    settled = await anyio.to_thread.run_sync(core.commit_locked, limiter=self._thread)
                self._answer(settled)
                if not settled and core.committer.waiting:  # the disk is full, and nothing else is to be done meanwhile
                    if self._open:
                        await anyio.sleep(FULL_PAUSE_SECONDS)
                    else:
                        self._answer(core.committer.refuse_waiting())
                    continue
                self.background.count(settled)
                settled.clear()  # else they live through the next batch, and the collector looks at twice as many
                if core.state.wants_fold:
                    core.fold()
                await self._waiting.turn()


class SyncHook:
    """The face for threads: whichever caller holds the lock commits for all that queued behind it."""

    kept: Sequence[Any] = ()  # as in `Hook`
    recovered: Any = None

    def __init__(self, core: Core, background: Background) -> None:
        self.core = core
        self.background = background
        self.agents = SyncAgents(self)
        self.messages = SyncMessages(self)

    @property
    def carried(self) -> Sequence[tuple[int, str]]:
        """(seq, op_id) of the events that outlived a writer which did not close, and may have said outcome_unknown."""
        return self.core.log.opening.carried

    def __enter__(self) -> SyncHook:
        try:
            self.background.start()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        try:
            self.background.close()
        finally:
            self.core.close()

    def append(
        self,
        event: Event,
        *,
        agent: str | None = None,
        actor: str | None = None,
        op_id: str | None = None,
        traceparent: str | None = None,
    ) -> Receipt:
        """As `Hook.append`, blocking."""
        traced = self.core.tracing.tracer()
        if traced is None:
            return self._commit(ticket((_draft(event, agent, actor, traceparent),), op_id))[0]
        with self.core.appending(traced, (event,), agent, traceparent) as span:
            receipts = self._commit(ticket((_draft(event, agent, actor, span.traceparent),), op_id))
            span.done(receipts)
            return receipts[0]

    def append_all(
        self,
        events: Iterable[Event],
        *,
        agent: str | None = None,
        actor: str | None = None,
        op_id: str | None = None,
        traceparent: str | None = None,
    ) -> list[Receipt]:
        """As `Hook.append_all`, blocking."""
        traced = self.core.tracing.tracer()
        if traced is None:
            drafts = _group(events, agent, actor, traceparent)
            return self._commit(ticket(drafts, op_id)) if drafts else []
        events = list(events)
        with self.core.appending(traced, events, agent, traceparent, group=True) as span:
            drafts = _group(events, agent, actor, span.traceparent)
            receipts = self._commit(ticket(drafts, op_id)) if drafts else []
            span.done(receipts)
            return receipts

    def search(self, text: str, limit: int = 10, *, scope: str | None = None) -> list[Hit]:
        """As `Hook.search`."""
        return self.background.search(text, limit, scope)

    def checkpoint(self) -> Shadow:
        """As `Hook.checkpoint`."""
        return self.background.checkpoint()

    def restore(self, to_seq: int, *, reason: str = "", actor: str = "journal") -> Restored:
        """As `Hook.restore`."""
        return self.core.restore(to_seq, reason, actor)

    def recover_scope(self, scope: str) -> ScopeRebuilt:
        """As `Hook.recover_scope`."""
        return self.core.recover_scope(scope)

    def on_swap(self, callback: Callable[[str], object]) -> None:
        """As `Hook.on_swap`."""
        self.core.swap_callbacks.append(callback)

    def settle(self, requests: Iterable[Ticket]) -> None:
        """Commits tickets that were made elsewhere: each has receipts or an error then."""
        queued = list(requests)
        for request in queued:
            self.core.committer.submit(request)
        while True:
            self._flush()
            if all(request.done for request in queued):
                return
            sleep(FULL_PAUSE_SECONDS)

    def _flush(self) -> None:
        """Commits everything queued so far."""
        core = self.core
        with core.lock:
            while len(core.committer):
                settled = core.commit()
                if not settled:
                    break  # all of them wait for room on the disk
                self.background.count(settled)
            if core.state.wants_fold:
                core.fold()

    def _commit(self, request: Ticket) -> list[Receipt]:
        self.core.committer.submit(request)
        self._flush()
        while not request.done:  # the holder of the lock may have committed ours meanwhile; or the disk is full
            sleep(FULL_PAUSE_SECONDS)
            self._flush()
        return request.result()


class Agents:
    """Agent configs through the async hook: journaled, then materialised as agents/NAME.md byte for byte."""

    def __init__(self, hook: Hook) -> None:
        self._hook = hook

    async def write(self, name: str, text: str | bytes, **envelope: Any) -> Receipt:
        """Writes the config of `name`. Raises as `Hook.append` does."""
        return await self._hook.append(_config(name, text), **envelope)

    async def remove(self, name: str, **envelope: Any) -> Receipt:
        return await self._hook.append(ConfigRemoved(name=name), **envelope)


class SyncAgents:
    """Agent configs through the sync hook."""

    def __init__(self, hook: SyncHook) -> None:
        self._hook = hook

    def write(self, name: str, text: str | bytes, **envelope: Any) -> Receipt:
        """Writes the config of `name`. Raises as `SyncHook.append` does."""
        return self._hook.append(_config(name, text), **envelope)

    def remove(self, name: str, **envelope: Any) -> Receipt:
        return self._hook.append(ConfigRemoved(name=name), **envelope)
