"""What a verb or another worker asks of the one writer: commit, checkpoint, restore, recover.

`open_writer` takes the lock where nobody holds it, and goes through the holder's control socket where somebody does, so
that an operator's verb works beside a live server. Where the holder does not listen, Locked names it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Protocol

import msgspec

from journal.commit import Receipt, Ticket, draft, ticket
from journal.errors import Locked
from journal.events import CursorMoved, Event
from recovery.agents.hot_reload import Reloaded, Reloader
from recovery.control.tickets import Answer, commit_lines
from recovery.data import Data
from recovery.execute import open_log
from recovery.opening import Check, background_of, open_core
from recovery.states import LiveStates
from replay.delivery import is_unacknowledged
from replay.hook import SyncHook
from replay.own_events import journal_event
from replay.restore import check_target

if TYPE_CHECKING:
    from recovery.adopt.memory import AdoptedMemory
    from recovery.config.kinds import Failure
    from recovery.recovered import Recovered
    from recovery.rows import Decision
    from recovery.telemetry.gathering import Metrics
    from replay.background import Background
    from replay.checkpoints import Shadow
    from replay.core import Core
    from replay.restore import Restored

Tick = Callable[[int, int], None]
"""Called with what is done and what is to do; 0 is a total that is not known."""
Step = Callable[[str, int, int], None]
"""The same, with the step's name before."""


class Embedded(msgspec.Struct, frozen=True):
    """Vectors that were computed, those that are still pending, and the model's fingerprint."""

    embedded: int
    pending: int
    model: str


class Writer(Protocol):
    """The one writer of a data directory, here or in another process. Everything blocks until it is done."""

    def commit(self, request: Ticket) -> list[Receipt]:
        """The receipts of a single event or of a group, once they are durable. Raises as `Hook.append` does."""
        ...

    def settle(self, requests: Sequence[Ticket]) -> None:
        """Commits them all, sharing syncs: each has receipts or an error then."""
        ...

    def append_lines(self, lines: Sequence[bytes]) -> list[Answer]:
        """An answer to each line of `journal append`, in order; an empty line is one that was too long to keep."""
        ...

    def checkpoint(self, tick: Tick | None = None) -> Shadow: ...

    def restore(self, to_seq: int, reason: str, tick: Tick | None = None) -> Restored:
        """A checkpoint, then the restore in place."""
        ...

    def recover(
        self, target: str, names: Sequence[str] = (), scope: str | None = None, step: Step | None = None
    ) -> Recovered:
        """Diagnoses, plans and repairs, all in one; what is healthy is left alone. With `scope` that one alone."""
        ...

    def embed(self, tick: Tick | None = None) -> Embedded: ...

    def adopt_memory(self, step: Step | None = None) -> AdoptedMemory:
        """Journals what another program wrote into memory.db."""
        ...

    def recover_reload(self, name: str, failure: Failure, tools: Sequence[str], line: str) -> Reloaded:
        """Recovers from a reload of an agent that the server could not do; `line` is what its log says of it."""
        ...

    def acknowledge(self, consumer: str, message_id: str, conversation_id: str | None) -> Receipt | None:
        """Moves a consumer's cursor; None where that was acknowledged already."""
        ...


class CoreWriter:
    """The writer over a core of this process. ``settle`` is the way in of the face over that core."""

    def __init__(
        self, data: Data, core: Core, background: Background, settle: Callable[[Sequence[Ticket]], object]
    ) -> None:
        self._data = data
        self._settle = settle
        self._background = background
        self.core = core
        self.reloader = Reloader(data, core)  # a server's own, where it told what reloads an agent
        self.states = LiveStates(data, core, background)
        self.recovered: Recovered | None = None  # what opening repaired
        self.kept: Sequence[Decision] = ()
        self.metrics: Metrics | None = None  # of one that counts its writing

    def settle(self, requests: Sequence[Ticket]) -> None:
        self._settle(requests)

    def commit(self, request: Ticket) -> list[Receipt]:
        self._settle([request])
        return request.result()

    def append_lines(self, lines: Sequence[bytes]) -> list[Answer]:
        return commit_lines(self._settle, lines)

    def checkpoint(self, tick: Tick | None = None) -> Shadow:
        return self._background.checkpoint(tick)

    def restore(self, to_seq: int, reason: str, tick: Tick | None = None) -> Restored:
        check_target(self.core.log, to_seq)
        self._background.checkpoint()
        return self.core.restore(to_seq, reason, actor="operator", progress=tick)

    def recover(
        self, target: str, names: Sequence[str] = (), scope: str | None = None, step: Step | None = None
    ) -> Recovered:
        from recovery.execute import planner, run_within
        from recovery.scope import scope_planner

        if scope is not None:
            make = scope_planner(self._data, scope, step)
        else:
            make = planner(self._data, target, names=names, progress=step)
        return run_within(self._data, self.core, make, step)

    def embed(self, tick: Tick | None = None) -> Embedded:
        from contextlib import closing

        from replay.embeddings import pending
        from replay.encoder import MissingExtra, is_available
        from replay.schema import connect

        backend = self._data.config.embeddings.backend
        if not is_available(backend):
            raise MissingExtra(backend)
        model = self._data.model()
        done = self._background.embed(progress=tick)
        with closing(connect(self.core.state.layout.memory_db, read_only=True)) as connection:
            return Embedded(done, pending(connection, model.fingerprint), model.fingerprint)

    def adopt_memory(self, step: Step | None = None) -> AdoptedMemory:
        from recovery.adopt.memory import adopt_drift

        with self.core.exclusively() as log:
            return adopt_drift(self._data, log, step)

    def recover_reload(self, name: str, failure: Failure, tools: Sequence[str], line: str) -> Reloaded:
        return self.reloader.recover(name, failure, tuple(tools), line)

    def acknowledge(self, consumer: str, message_id: str, conversation_id: str | None) -> Receipt | None:
        if not is_unacknowledged(self.core, consumer, message_id, conversation_id):
            return None
        return self.commit(ticket((draft(CursorMoved(consumer, message_id), None, "operator", None),), None))[0]


@contextmanager
def open_writer(data: Data, *, check: Check = "quick", background: bool = False) -> Iterator[Writer]:
    """The writer of `data`: this process where the lock is free, else the one that holds it. Raises as `open_core`.

    With `background`, checkpoints are made when they are due while this process is the writer.
    """
    try:
        opened = open_core(data, check=check)
    except Locked as locked:
        from recovery.control.remote import connect_to

        with connect_to(data, locked) as remote:
            yield remote
        return
    behind = background_of(data, opened.core, checkpoints=background)
    with SyncHook(opened.core, behind) as hook:
        writer = CoreWriter(data, opened.core, behind, hook.settle)
        writer.recovered, writer.kept = opened.recovered, opened.kept
        yield writer


def commit_events(writer: Writer, events: Sequence[Event], *, actor: str = "operator") -> list[Receipt]:
    """One group of an operator's events; none gives none."""
    return writer.commit(ticket([draft(event, None, actor, None) for event in events], None)) if events else []


def journal_beside(data: Data, event: Event, *, actor: str = "journal") -> Receipt:
    """Journals one of the journal's own events, for a verb that works beside the writer and only leaves word of it.

    As the writer for a moment, without a look at the state, where nobody has the lock. Raises Locked where the holder
    does not listen.
    """
    try:
        log = open_log(data)
    except Locked as locked:
        from recovery.control.remote import connect_to

        with connect_to(data, locked) as holder:
            return commit_events(holder, [event], actor=actor)[0]
    try:
        return journal_event(log, event, actor=actor)
    finally:
        log.close()
