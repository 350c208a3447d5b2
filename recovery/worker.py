"""Further workers of one server: each writes, whoever of them holds the journal.

    with open_worker("data") as worker:
        worker.append(ObservationAdded(scope="global", entity="Acme", content="renewed in May"))

The first that comes takes the lock and listens; the others send it what they append. When it ends or is killed, the
next append of any worker elects anew: whoever gets the lock opens, settles what was left, and goes on. Every append has
an op_id, so that what was sent again because no answer came is applied once. A forked child begins anew: what it has of
its parent's is left alone, since answers to both would come on one connection.
"""

from __future__ import annotations

import os
import secrets
import threading
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from time import monotonic, sleep

from journal.commit import Receipt, draft, ticket
from journal.errors import Locked, OutcomeUnknown, Poisoned
from journal.events import Event
from journal.limits import refuse_reserved
from recovery.control.listen import Control
from recovery.control.writer import CoreWriter, Writer, open_writer
from recovery.data import Data
from recovery.opened import say_opened
from recovery.telemetry.meters import measuring

ELECTION_SECONDS = 30.0
"""So long an append waits while the lock is held by somebody who does not answer: one that opens, or one that ends."""

_PAUSE_SECONDS = 0.05
_LOOK_SECONDS = 1.0  # how often a holder asks whether its log still takes events: it may serve others alone

_OF_PARENTS: list[ExitStack] = []  # kept for ever: collecting them would close what the parent uses


class Worker:
    """One of several writers of a data directory. For threads; what it appends is durable when `append` returns."""

    def __init__(self, data: Data) -> None:
        self._data = data
        self._begin()

    def _begin(self) -> None:
        self._pid = os.getpid()
        self._lock = threading.Lock()
        self._opened = ExitStack()
        self._writer: Writer | None = None

    @property
    def holds(self) -> bool:
        """True while it is this worker that holds the journal."""
        return isinstance(self._writer, CoreWriter)

    def append(
        self,
        event: Event,
        *,
        agent: str | None = None,
        actor: str | None = None,
        op_id: str | None = None,
        traceparent: str | None = None,
    ) -> Receipt:
        """As `SyncHook.append`. Raises Locked where nobody could be reached within `ELECTION_SECONDS`."""
        return self.append_all([event], agent=agent, actor=actor, op_id=op_id, traceparent=traceparent)[0]

    def append_all(
        self,
        events: Iterable[Event],
        *,
        agent: str | None = None,
        actor: str | None = None,
        op_id: str | None = None,
        traceparent: str | None = None,
    ) -> list[Receipt]:
        """As `SyncHook.append_all`; raises as `append` does."""
        drafts = []
        for event in events:
            refuse_reserved(event)
            drafts.append(draft(event, agent, actor, traceparent))
        if not drafts:
            return []
        op_id = op_id or f"worker-{secrets.token_hex(16)}"
        until = monotonic() + ELECTION_SECONDS
        while True:
            writer = None
            try:
                with self._mine():
                    writer = self._writer or self._elect()
                    if not isinstance(writer, CoreWriter):
                        return writer.commit(ticket(drafts, op_id))  # one connection, one request at a time
                return writer.commit(ticket(drafts, op_id))
            except (OutcomeUnknown, Poisoned, Locked):
                if writer is not None:
                    self._let_go(writer)
                if monotonic() > until:
                    raise
                sleep(_PAUSE_SECONDS)

    @contextmanager
    def _mine(self) -> Iterator[None]:
        """The lock, in a process whose writer it is."""
        if self._pid != os.getpid():
            _OF_PARENTS.append(self._opened)
            self._begin()
        with self._lock:
            yield

    def _elect(self) -> Writer:
        with ExitStack() as opened:
            writer = opened.enter_context(open_writer(self._data, background=True))
            if isinstance(writer, CoreWriter):
                say_opened(self._data, writer.core, writer.recovered, writer.kept)
                writer.metrics = opened.enter_context(measuring(self._data, writer.core))
                opened.enter_context(Control(self._data, writer))
                ended = threading.Event()
                opened.callback(ended.set)
                watch = threading.Thread(target=self._watch, args=(writer, ended), name="journal-worker", daemon=True)
                watch.start()
            self._opened = opened.pop_all()
        self._writer = writer
        return writer

    def _watch(self, writer: CoreWriter, ended: threading.Event) -> None:
        """Lets go of a log that takes nothing more, so that others can elect."""
        while not ended.wait(_LOOK_SECONDS):
            if writer.core.log.poisoned is not None:
                self._let_go(writer)

    def _let_go(self, writer: Writer | None) -> None:
        """Closes what was opened, unless another thread did so, and has elected anew."""
        with self._mine():
            if self._writer is writer:
                self._writer = None
                self._opened.close()

    def close(self) -> None:
        """Ends its part: what it held is closed, and the others elect another holder."""
        self._let_go(self._writer)


@contextmanager
def open_worker(path: str | os.PathLike[str]) -> Iterator[Worker]:
    """A worker of the server whose data directory is `path`. The journal is opened by the first append."""
    worker = Worker(Data.at(path))
    try:
        yield worker
    finally:
        worker.close()
