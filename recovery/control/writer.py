"""What a verb or another worker asks of the one writer: commit, checkpoint, restore, recover.

`open_writer` takes the lock where nobody holds it, and goes through the holder's control socket where somebody does, so
that an operator's verb works beside a live server. Where the holder does not listen, Locked names it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Protocol

import msgspec

from journal.commit import Receipt, Ticket, draft, ticket
from journal.errors import Locked
from journal.events import Event
from recovery.control.tickets import Answer, commit_lines
from recovery.data import Data
from recovery.opening import Check, background_of, open_core
from replay.hook import SyncHook
from replay.restore import check_target

if TYPE_CHECKING:
    from recovery.recovered import Recovered
    from recovery.rows import Decision
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


class CoreWriter:
    """The writer over a core of this process. ``settle`` is the way in of the face over that core."""

    def __init__(
        self, data: Data, core: Core, background: Background, settle: Callable[[Sequence[Ticket]], object]
    ) -> None:
        self._data = data
        self.core = core
        self.settle = settle
        self._background = background
        self.recovered: Recovered | None = None  # what opening repaired
        self.kept: Sequence[Decision] = ()

    def commit(self, request: Ticket) -> list[Receipt]:
        self.settle([request])
        return request.result()

    def append_lines(self, lines: Sequence[bytes]) -> list[Answer]:
        return commit_lines(self.settle, lines)

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
        from replay.encoder import MissingExtra, Model, is_available
        from replay.schema import connect

        if not is_available():
            raise MissingExtra
        model = Model(self._data.config.model_path(self._data.root))
        done = self._background.embed(progress=tick)
        with closing(connect(self.core.state.layout.memory_db, read_only=True)) as connection:
            return Embedded(done, pending(connection, model.fingerprint), model.fingerprint)


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


@contextmanager
def journaling(data: Data, note: Callable[[str], None]) -> Iterator[Callable[[Event], Receipt | None]]:
    """For verbs that work without the writer and only want to leave a word of it: journals an event where it can.

    Where the holder does not listen, `note` says so, and the verb's own work stands.
    """

    def journal(event: Event) -> Receipt | None:
        with suppress(Locked), open_writer(data) as writer:
            return commit_events(writer, [event], actor="journal")[0]
        note(f"{event.type_name} was not journaled: another process writes, and does not listen")
        return None

    yield journal
