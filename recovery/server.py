"""What an agent server embeds: open → check → recover if needed → catch up → the hook.

    async with open_server("data") as hook:
        await hook.append(ObservationAdded(scope="global", entity="Acme", content="renewed in May"))

The hook is the one writer of its directory. Other processes, an operator's verbs and further workers, write through it
by its control socket (`recovery.control`).
"""

from __future__ import annotations

import os
import threading
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import ExitStack, asynccontextmanager, contextmanager, suppress

import anyio.from_thread
import anyio.to_thread

from journal.commit import Ticket
from recovery.agents.hook import ServerAgents, ServerSyncAgents
from recovery.agents.watch import Watch
from recovery.control.listen import Control
from recovery.control.writer import CoreWriter
from recovery.data import Data
from recovery.opened import say_opened
from recovery.opening import Check, Opened, Progress, background_of, open_core
from recovery.states import LiveHealth, LiveStates
from recovery.telemetry.meters import measuring
from replay.background import Background
from replay.core import Core
from replay.hook import Hook, SyncHook
from replay.logs import say


class ServerHook(Hook):
    """The hook of an opened server: its agents can be reloaded, and `watch` journals edits by hand.

    `watch.told` is called with each `Noticed`, from the thread that watches.
    """

    agents: ServerAgents

    def __init__(self, data: Data, core: Core, background: Background) -> None:
        super().__init__(core, background)
        self.agents = ServerAgents(self, data)
        self.watch = Watch(data, core)
        self._states = LiveStates(data, core, background)

    def health(self) -> LiveHealth:
        """The state of each part: healthy, degraded or failed, and why. Counts pending texts, which takes a scan."""
        return self._states.health()


class ServerSyncHook(SyncHook):
    """The same for threads."""

    agents: ServerSyncAgents

    def __init__(self, data: Data, core: Core, background: Background) -> None:
        super().__init__(core, background)
        self.agents = ServerSyncAgents(self, data)
        self.watch = Watch(data, core)
        self._states = LiveStates(data, core, background)

    def health(self) -> LiveHealth:
        """As `ServerHook.health`."""
        return self._states.health()

    def __enter__(self) -> ServerSyncHook:
        super().__enter__()
        return self


@contextmanager
def _beside(
    data: Data, opened: Opened, hook: ServerHook | ServerSyncHook, settle: Callable[[Sequence[Ticket]], object],
    watch: bool,
) -> Iterator[None]:  # fmt: skip
    """What runs beside an open hook: the control socket, and the watch where it was asked for."""
    say_opened(data, opened.core, opened.recovered, opened.kept)
    writer = CoreWriter(data, hook.core, hook.background, settle)
    writer.reloader = hook.agents.reloader
    with measuring(data, hook.core) as metrics, Control(data, writer) as control, ExitStack() as watching:
        writer.metrics = metrics
        if control.problem is not None:
            say("warning", "control", control.problem)
        if watch:
            hook.watch.start()
            watching.callback(hook.watch.close)
        try:
            yield
        finally:
            say("info", "opening", f"closing at seq {hook.core.log.next_seq - 1}", seq=hook.core.log.next_seq - 1)


async def _in_a_thread(opening: Callable[[], Opened]) -> Opened:
    """What `opening` opens. Where asyncio cancels this (a timeout around a long rebuild), nobody waits for the thread:
    what it opens then is closed again, or this process would lock itself out."""
    made: list[Opened] = []
    given_up = threading.Event()

    def close() -> None:
        with suppress(IndexError):
            made.pop().core.close()

    def run() -> None:
        made.append(opening())
        if given_up.is_set():
            close()

    try:
        await anyio.to_thread.run_sync(run)
    except BaseException:
        given_up.set()
        close()
        raise
    return made.pop()


@asynccontextmanager
async def open_server(
    path: str | os.PathLike[str],
    *,
    check: Check = "full",
    background: bool = True,
    watch: bool = False,
    progress: Progress | None = None,
) -> AsyncIterator[ServerHook]:
    """The hook of the server whose data directory is `path`, for asyncio or trio. See `open_core` for what it raises.

    With `background`, checkpoints are made when they are due and vectors are computed behind the write path.
    `hook.kept` are the decisions that are left to a person: hand edits, files that the journal never saw. With `watch`
    (extra `watch`) those are journaled, and so is what is edited from then on; `hook.watch.told` hears of it.
    `hook.recovered` is what opening repaired, `hook.carried` which events outlived a writer that did not close.
    """
    data = Data.at(path)
    opened = await _in_a_thread(lambda: open_core(data, check=check, progress=progress))
    behind = background_of(data, opened.core, checkpoints=background, embeddings=background)
    hook = ServerHook(data, opened.core, behind)
    async with hook.running():
        hook.kept, hook.recovered = opened.kept, opened.recovered

        def settle(requests: Sequence[Ticket]) -> None:
            anyio.from_thread.run(hook.settle, requests, token=hook.loop)

        beside = _beside(data, opened, hook, settle, watch)
        await anyio.to_thread.run_sync(beside.__enter__)
        try:
            yield hook
        finally:
            with anyio.CancelScope(shield=True):  # what was asked is answered while the hook still commits
                await anyio.to_thread.run_sync(beside.__exit__, None, None, None)


@contextmanager
def open_server_sync(
    path: str | os.PathLike[str],
    *,
    check: Check = "full",
    background: bool = True,
    watch: bool = False,
    progress: Progress | None = None,
) -> Iterator[ServerSyncHook]:
    """The twin of `open_server` for threads."""
    data = Data.at(path)
    opened = open_core(data, check=check, progress=progress)
    behind = background_of(data, opened.core, checkpoints=background, embeddings=background)
    with ServerSyncHook(data, opened.core, behind) as hook:
        hook.kept, hook.recovered = opened.kept, opened.recovered
        with _beside(data, opened, hook, hook.settle, watch):
            yield hook
