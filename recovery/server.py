"""What an agent server embeds: open → check → recover if needed → catch up → the hook.

    async with open_server("data") as hook:
        await hook.append(ObservationAdded(scope="global", entity="Acme", content="renewed in May"))

Opening takes the journal's lock and settles what an interrupted writer left. Damage is repaired by replay; a hand edit
of an agent file is kept and reported, since only a person can say which version is meant.
"""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Callable, Iterable, Iterator
from contextlib import ExitStack, asynccontextmanager, contextmanager
from time import time_ns
from typing import Literal

import anyio.to_thread

from journal.commit import Ticket, draft, ticket
from journal.errors import UsageError
from recovery.data import Data
from recovery.decide import decide
from recovery.diagnose import diagnose
from recovery.execute import execute, open_log, plan_for, stop_error
from recovery.known import Known
from recovery.model_seen import model_finder
from recovery.plan import Plan
from recovery.quarantine import expire
from recovery.recovered import Recovered
from recovery.rows import Decision
from recovery.server_agents import ServerAgents, ServerSyncAgents
from recovery.takeover import takeover_event
from recovery.telling import put_log_right
from recovery.watch import Watch
from replay.background import Background
from replay.core import Core
from replay.faults import declared
from replay.holders import holders
from replay.hook import Hook, SyncHook
from replay.layout import ParityPlace
from replay.live import LiveState

Check = Literal["full", "quick"]
Progress = Callable[[str, int, int], None]

KEPT = ("drift", "drift_of_removed", "unjournaled")  # cases that an open leaves for a person to decide

class Opened:
    """A core that is ready, and what opening it took."""

    def __init__(self, core: Core, recovered: Recovered, kept: list[Decision]) -> None:
        self.core = core
        self.recovered = recovered
        self.kept = kept  # what only a person can decide: hand edits, files the journal never saw


def open_core(
    data: Data, *, check: Check = "full", progress: Progress | None = None, importing: bool = False
) -> Opened:
    """Takes the lock, checks, repairs, catches up. The caller closes the core.

    `check` "full" compares memory.db by digest with what the journal makes; "quick" looks only at whether it can be
    read, belongs to this journal and stands on its history: for states so large that a scan at each start is too
    slow, and whose unit runs `journal recover all` before the server starts. Raises Locked, NotAJournal, Corrupt,
    AmbiguousTail, Diverged, Unsupported, and what the disk says as NoSpace, ReadOnly or IOFault.
    """
    with declared(data.layout.memory_db):
        return _open(data, check, progress, importing)


def _open(data: Data, check: Check, progress: Progress | None, importing: bool) -> Opened:
    if not importing and data.pending_import() is not None:
        raise UsageError("an import was cut", path=data.import_path, hint="finish it with: journal init --adopt")
    known = Known()

    def look() -> tuple[Plan, list[Decision]]:
        facts = diagnose(data, deep=check == "full", model=None, progress=progress, known=known)
        decisions = decide(facts)
        kept = [each for each in decisions if each.case in KEPT]
        return plan_for(facts, [each for each in decisions if each not in kept], target="all"), kept

    if not holders([data.generations.current().path or data.layout.memory_db]):
        # Two histories are told before anything is changed. A writer at work, and a log that cannot be read, are left
        # to its opening to name.
        first = look()[0]
        _stop_for(each for each in first.stops if each.component == "memory")
        if first.repairs_log:
            put_log_right(data)
    log = open_log(data)
    with ExitStack() as opened:  # whatever stops it, nobody else is locked out for that
        opened.callback(log.close)
        plan, kept = look()
        _stop_for(plan.stops)
        recovered = execute(data, log, plan, progress)
        recovered.expired = expire(data, time_ns()).removed
        state = LiveState.open(data.storage, data.layout)
        opened.callback(state.close)
        state.validation = data.config.agents.validation
        core = Core(log, state)
        _tell_of_takeover(core)
        opened.pop_all()
    return Opened(core, recovered, kept)


def background_of(data: Data, core: Core, *, checkpoints: bool = False, embeddings: bool = False) -> Background:
    """The helpers behind a core: checkpoints by the configured policy, vectors by the configured model.

    What is not asked for runs only when called.
    """
    share = data.config.parity.share
    return Background(
        core, data.config.policy(), model_finder(data, core), batch_size=data.config.embeddings.batch_size,
        checkpoints=checkpoints, embeddings=embeddings,
        parity=ParityPlace(data.parity.directory, share) if share else None,
    )  # fmt: skip


def _stop_for(decisions: Iterable[Decision]) -> None:
    for decision in decisions:
        raise stop_error(decision)


def _tell_of_takeover(core: Core) -> None:
    """Journals that this writer took over from one that did not close, and what it found."""
    event = takeover_event(core.log)
    if event is None:
        return
    request: Ticket = ticket((draft(event, None, "journal", None),), None)
    with core.lock, core.log.into_reserve():
        core.committer.submit(request)
        core.commit()
    request.result()


class ServerHook(Hook):
    """The hook of an opened server: its agents can be reloaded, and `watch` journals edits by hand.

    `watch.told` is called with each `Noticed`, from the thread that watches.
    """

    agents: ServerAgents

    def __init__(self, data: Data, core: Core, background: Background) -> None:
        super().__init__(core, background)
        self.agents = ServerAgents(self, data)
        self.watch = Watch(data, core)


class ServerSyncHook(SyncHook):
    """The same for threads."""

    agents: ServerSyncAgents

    def __init__(self, data: Data, core: Core, background: Background) -> None:
        super().__init__(core, background)
        self.agents = ServerSyncAgents(self, data)
        self.watch = Watch(data, core)

    def __enter__(self) -> ServerSyncHook:
        super().__enter__()
        return self


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
    opened = await anyio.to_thread.run_sync(lambda: open_core(data, check=check, progress=progress))
    behind = background_of(data, opened.core, checkpoints=background, embeddings=background)
    hook = ServerHook(data, opened.core, behind)
    async with hook.running():
        hook.kept, hook.recovered = opened.kept, opened.recovered
        if watch:
            await anyio.to_thread.run_sync(hook.watch.start)
        try:
            yield hook
        finally:
            if watch:
                with anyio.CancelScope(shield=True):
                    await anyio.to_thread.run_sync(hook.watch.close)


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
        if watch:
            hook.watch.start()
        try:
            yield hook
        finally:
            if watch:
                hook.watch.close()
