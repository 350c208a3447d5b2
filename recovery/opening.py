"""Opening the one writer: lock, settle the tail, check, repair what is broken, catch up.

Damage is repaired by replay; a hand edit of an agent file is kept and reported, since only a person can say which
version is meant. Knows no faces and no sockets: `recovery.server` puts them over what is opened here.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from contextlib import ExitStack
from time import time_ns
from typing import Literal

from journal.commit import Ticket, draft, ticket
from journal.errors import UsageError
from journal.waiting import WaitingRoom
from recovery.config.kinds import LEVELS
from recovery.data import Data
from recovery.decide import decide
from recovery.diagnose import diagnose
from recovery.execute import execute, open_log, plan_for
from recovery.known import Known
from recovery.log.takeover import takeover_event
from recovery.log.telling import put_log_right
from recovery.model.seen import model_finder
from recovery.plan import Plan
from recovery.quarantine import expire
from recovery.recovered import Recovered
from recovery.rows import Decision, stop_error
from replay.background import Background
from replay.core import Core
from replay.faults import declared
from replay.holders import holders
from replay.layout import ParityPlace
from replay.live import LiveState

Check = Literal["full", "quick"]
Progress = Callable[[str, int, int], None]

KEPT = ("drift", "drift_of_removed", "no_file", "unjournaled")  # cases that an open leaves for a person to decide


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
        core.redact = data.redactor.text if data.redactor else None
        if not importing:
            core.use_policy(data.config.degraded.memory)
        _tell_of_takeover(core)
        if data.config.degraded.disk == "queue" and not importing:
            core.committer.room = WaitingRoom(data.config.degraded.queue_bytes, _level_of(data))
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
        parity=ParityPlace(data.parity.directory, share) if share else None, backend=data.config.embeddings.backend,
        packs=data.config.segments.pack,
    )  # fmt: skip


def _level_of(data: Data) -> Callable[[str | None], int]:
    """How soon what an agent writes is taken when room is scarce: 0 is first."""
    policy = data.config.policy()
    return lambda agent: LEVELS.index(policy.criticality(agent))


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
