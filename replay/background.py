"""What runs behind the write path: checkpoints when they are due, vectors for new texts, and search.

Two threads at most. Neither is on anybody's way: a checkpoint is built by a process of its own, and vectors are handed
to memory.db's one writing connection a batch at a time.
"""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import Callable, Sequence
from contextlib import closing
from time import monotonic
from typing import TYPE_CHECKING

from journal.checkpoint import CheckpointStore
from journal.commit import Ticket, draft, ticket
from journal.events import CheckpointCreated
from journal.parity_store import ParityStore
from journal.reader import LogReader
from journal.retention import Policy, Tally, due
from replay.faults import declared
from replay.layout import ParityPlace
from replay.logs import say, say_failed
from replay.schema import connect
from replay.thinning import plan_thinning, thin
from replay.tracing import DATABASE, database_span, span

if TYPE_CHECKING:
    from journal.packing import Packed
    from replay.checkpoints import Shadow
    from replay.child import Child
    from replay.core import Core
    from replay.encoder import Backend, Model
    from replay.search import Hit, SearchIndex

_LOOK_SECONDS = 1.0  # how often the checkpointer asks whether one is due
_SETTLE_SECONDS = 2.0  # before the model is loaded: it takes seconds that a short-lived program would wait for


class Background:
    """The helpers of one open core. `start` begins them, `close` ends them within one batch."""

    def __init__(
        self,
        core: Core,
        policy: Policy,
        model: Callable[[], Model | None],
        *,
        batch_size: int = 32,
        checkpoints: bool = True,
        embeddings: bool = True,
        parity: ParityPlace | None = None,
        backend: Backend = "torch",
        packs: bool = False,
    ) -> None:
        self.core = core
        self.backend: Backend = backend
        self.policy = policy
        self.parity = parity
        self.packs = packs
        self.last_error: str | None = None
        self.last_failed: str | None = None  # whose it is: checkpoints, packing or embeddings; None once it went well
        self._find_model = model
        self._model: Model | None = None
        self._index: SearchIndex | None = None
        self._batch_size = batch_size
        self._work = {"checkpoints": self._checkpoint_when_due} if checkpoints else {}
        if embeddings:
            self._work["embeddings"] = self._embed_when_new
        self._embedded: tuple[str, int] = ("", 0)  # generation, and the observation up to which nothing is pending
        self._stop = threading.Event()
        self._texts = threading.Event()
        self._building = threading.Lock()
        self._packing: Child | None = None
        self._threads: list[threading.Thread] = []
        self._tally = Tally()
        self._since = monotonic()

    def start(self) -> None:
        """Starts the threads that were asked for. What is pending from before is taken up at once."""
        self._texts.set()
        for name, work in self._work.items():
            thread = threading.Thread(target=work, name=f"journal-{name}", daemon=True)
            thread.start()
            self._threads.append(thread)

    def close(self) -> None:
        self._stop.set()
        self._texts.set()
        if (packing := self._packing) is not None:
            packing.stop()  # nothing is lost with it, and it may have long to go
        for thread in self._threads:
            thread.join()
        self._threads.clear()

    def count(self, settled: Sequence[Ticket]) -> None:
        """Takes note of what was just committed. On the write path, so it does no more than add."""
        if not self._work:
            return
        tally, policy = self._tally, self.policy
        for request in settled:
            if request.receipts and request.joined is None:
                for item in request.drafts:
                    tally.add(policy, item.agent, len(item.encoded))
        self._texts.set()

    # -- checkpoints --------------------------------------------------------------------------------------------------

    def checkpoint(self, progress: Callable[[int, int], None] | None = None) -> Shadow:
        """Builds and verifies a checkpoint now, and journals it. Raises what stopped it."""
        from replay.shadow import run_shadow

        with self._building, span("journal.checkpoint") as live:
            self._tally, self._since = Tally(), monotonic()
            core = self.core
            made = run_shadow(core.state.layout, progress, self.parity)
            event = CheckpointCreated(made.seq, made.digest, made.bytes, made.drift, made.manifest)
            request = ticket((draft(event, None, "journal", None),), None)
            with core.lock:
                core.committer.commit_now(request)
            request.result()
            live.set(journal__checkpoint__seq=made.seq, journal__checkpoint__bytes=made.bytes)
            say("info", "checkpoints", f"a checkpoint at seq {made.seq}", seq=made.seq, bytes=made.bytes)
            if made.drift:
                found = f"memory.db is not what the journal says at seq {made.seq}: journal check"
                say("warning", "checkpoints", found, component="memory", seq=made.seq)
            return made

    def thin(self) -> None:
        """Removes checkpoints that the policy no longer needs; any seq stays near one on its timeline."""
        layout, storage = self.core.state.layout, self.core.state.storage
        store = CheckpointStore(storage, f"{layout.journal}/checkpoints")
        plan = plan_thinning(LogReader(storage, layout.journal), store, self.policy)
        if plan.drop:
            place = self.parity.directory if self.parity is not None else None
            thin(plan, store, ParityStore(storage, layout.journal, place) if place is not None else None)

    def pack(self, progress: Callable[[int, int], None] | None = None) -> Packed:
        """Packs sealed segments, in a process of its own. Raises what stopped it."""
        from replay.compact import packed, packing_of

        child = self._packing = packing_of(self.core.state.layout, self.parity)
        try:
            if self._stop.is_set():
                child.stop()
            return packed(child.run(progress))
        finally:
            self._packing = None

    def _pack_if_wanted(self) -> None:
        if not self.packs or self._stop.is_set():
            return
        try:
            self.pack()
        except Exception as error:  # the next checkpoint's run goes on from there
            if not self._stop.is_set():
                self._failed("packing", error)
        else:
            self._went_well("packing")

    def _checkpoint_when_due(self) -> None:
        while not self._stop.wait(_LOOK_SECONDS):
            if due(self.policy, self._tally, monotonic() - self._since) is not None:
                try:
                    self.checkpoint()
                    self.thin()
                except Exception as error:  # the next one is due as ever; `status` shows the age of the last
                    self._failed("checkpoints", error)
                else:
                    self._went_well("checkpoints")
                self._pack_if_wanted()

    # -- vectors ------------------------------------------------------------------------------------------------------

    def model(self) -> Model | None:
        """The sentence model, or None without the extra or its files."""
        if self._model is None:
            self._model = self._find_model()
        return self._model

    def search(self, text: str, limit: int = 10, scope: str | None = None) -> list[Hit]:
        """The observations nearest in meaning. Raises MissingExtra or NoModel where there is nothing to search with."""
        from replay.encoder import MissingExtra, is_available

        if not is_available(self.backend):
            raise MissingExtra(self.backend)
        told = DATABASE | {"gen_ai.operation.name": "search_memory", "db.operation.name": "search"}
        with span("search_memory", told | ({} if scope is None else {"gen_ai.memory.store.id": scope})) as live:
            found = self._search(text, limit, scope)
            live.set(gen_ai__memory__record__count=len(found))
            return found

    def _search(self, text: str, limit: int, scope: str | None) -> list[Hit]:
        from replay.encoder import NoModel
        from replay.search import SearchIndex

        model = self.model()
        if model is None:
            raise NoModel("there is no sentence model", hint="put one where journal.yaml says: embeddings.model")
        if self._index is None:
            self._index = SearchIndex(model)
        # By the link: a restore may put the generation that is known here away at any time.
        path = self.core.state.layout.memory_db
        with declared(path), closing(connect(path, read_only=True)) as connection:
            return self._index.search(connection, text, limit, scope)

    def embed(
        self, progress: Callable[[int, int], None] | None = None, stop: Callable[[], bool] | None = None
    ) -> int:
        """Computes every pending vector; returns how many. Nothing without the extra or the model."""
        model = self.model()
        if model is None:
            return 0
        from replay.embeddings import Embedder, drop, store

        embedder = Embedder(model, batch=self._batch_size)
        generation = self.core.state.generation
        with closing(connect(generation, read_only=True)) as connection:
            if self._embedded[0] != generation:
                # Once a generation: vectors that rot or another program changed are dropped, and so pending again.
                embedder.verify(connection, lambda keys: self._write(lambda to: drop(to, model.fingerprint, keys)))
                self._embedded = (generation, 0)
            done = embedder.run(
                connection, lambda rows: self._write(lambda to: store(to, rows)), after=self._embedded[1],
                progress=progress, stop=stop,
            )  # fmt: skip
        self._embedded = (generation, done.last_id)
        return done.done

    @database_span("write_vectors")
    def _write(self, change: Callable[[sqlite3.Connection], None]) -> None:
        """Runs `change` in a transaction of memory.db's one writing connection."""
        with self.core.lock, declared(self.core.state.generation):
            connection = self.core.state.connection  # asked for under the lock: a restore replaces it
            try:
                connection.execute("BEGIN IMMEDIATE")
                change(connection)
                connection.execute("COMMIT")
            except BaseException:
                if connection.in_transaction:
                    connection.execute("ROLLBACK")
                raise
            self.core.state.look()
            if self.core.state.wants_fold:
                self.core.fold()

    def _embed_when_new(self) -> None:
        self._stop.wait(_SETTLE_SECONDS)
        while not self._stop.is_set():
            self._texts.wait()
            self._texts.clear()
            if self._stop.is_set():
                return
            try:
                self.embed(stop=self._stop.is_set)
            except Exception as error:  # they stay pending, and `status` counts them
                self._failed("embeddings", error)
            else:
                self._went_well("embeddings")

    @property
    def has_model(self) -> bool:
        """Whether the model was found, and is used."""
        return self._model is not None

    @property
    def fingerprint(self) -> str | None:
        return self._model.fingerprint if self._model is not None else None

    def _failed(self, work: str, error: Exception) -> None:
        say_failed(work, f"no {work}", error, self.core.redact)
        self.last_error, self.last_failed = str(error), work

    def _went_well(self, work: str) -> None:
        if self.last_failed == work:
            self.last_failed = None
