"""All metrics of one data directory, whenever somebody asks: what the journal tells, what this process did, where
things stand. What is slow to find out is looked at again only after a while."""

from __future__ import annotations

import sqlite3
import threading
import time
from collections.abc import Callable
from functools import cached_property

from journal.errors import JournalError
from journal.reader import LogReader, list_segments
from journal.stored import stored_bytes
from recovery.data import Data
from recovery.telemetry.folded import Folded
from recovery.telemetry.observed import Observed
from recovery.telemetry.samples import Samples
from replay.core import Core
from replay.rebuild import space_needed

LOOK_SECONDS = 5.0
RECENT_SECONDS = 1.0
PENDING_SECONDS = 60.0


class Metrics:
    """May be asked from any thread. `watch` begins to count this process's writing."""

    def __init__(self, data: Data, core: Core, clock: Callable[[], int] = time.time_ns) -> None:
        self._data = data
        self._core = core
        self._clock = clock
        self._lock = threading.Lock()
        self.folded = Folded()
        self.observed = Observed()
        self._standing = Samples()
        self._is_closed = False
        self._gathered: list[Samples] = []
        self._gathered_at = -RECENT_SECONDS
        self._looked = self._counted = -PENDING_SECONDS
        self._times: tuple[int | None, int | None] = (None, None)
        self._checkpoint_seq = 0

    @property
    def journal_id(self) -> str:
        return self._core.log.journal_id.hex()

    def watch(self) -> None:
        self._core.committer.timed = True
        self._core.observer = self.observed

    def close(self) -> None:
        """What is asked from now on has no answer: the writer is gone, and with it what this counted."""
        with self._lock:
            self._is_closed = True

    def recent(self) -> list[Samples]:
        """`gather`, for one who asks for each metric by itself: of them all, the first does the work."""
        now = time.monotonic()
        if now - self._gathered_at < RECENT_SECONDS:
            return self._gathered
        self._gathered, self._gathered_at = [] if self._is_closed else self.gather(), now
        return self._gathered

    def gather(self) -> list[Samples]:
        """Raises what reading the journal raises: metrics of a damaged one would look like those of a small one."""
        with self._lock:
            reader = self._data.reader()
            if reader.last_seq > self.folded.seq:
                self.folded.feed(reader.batches(self.folded.seq + 1, reader.last_seq))
            self._look(reader)
            self._count_ages()
            return [self.folded.samples, self.observed.samples, self._standing]

    def _look(self, reader: LogReader) -> None:
        data, core, now = self._data, self._core, time.monotonic()
        last_seq = core.log.next_seq - 1
        self._standing.set("journal.last_seq", last_seq)
        self._standing.set("journal.position_lag", max(0, last_seq - core.state.applied_seq))
        self._standing.set("journal.writable", core.log.poisoned is None)
        if now - self._looked >= LOOK_SECONDS:
            self._looked = now
            sizes = (stored_bytes(data.storage, each.path) for each in list_segments(data.storage, data.layout.journal))
            self._standing.set("journal.size", sum(sizes))
            manifests = data.checkpoints.manifests()
            proven = [each.verified_at for each in manifests if each.verified_at is not None]
            self._times = (max((each.time for each in manifests), default=None), max(proven, default=None))
            self._checkpoint_seq = manifests[0].seq if manifests else 0
            self._standing.set("journal.disk_free", data.storage.free_bytes(data.layout.journal))
            self._standing.set("journal.rebuild_space", space_needed(data.storage, data.layout, reader))
        self._standing.set("journal.checkpoint_lag", max(0, last_seq - self._checkpoint_seq))
        if now - self._counted >= PENDING_SECONDS:
            self._counted = now
            self._count_pending()

    def _count_pending(self) -> None:
        from recovery.reading import reading
        from replay.embeddings import pending

        try:
            with reading(self._core.state.generation) as connection:
                self._standing.set("journal.pending_embeddings", pending(connection, self._fingerprint))
        except (sqlite3.Error, OSError):  # a generation that was just replaced: the next look finds the new one
            self._counted = -PENDING_SECONDS

    @cached_property
    def _fingerprint(self) -> str | None:

        try:
            return self._data.model().fingerprint or None
        except (JournalError, OSError):
            return None

    def _count_ages(self) -> None:
        now, folded, standing = self._clock(), self.folded, self._standing
        made, proven = self._times
        proven = max((each for each in (proven, folded.proven_at) if each is not None), default=None)
        ages = {"checkpoint_age": made, "proven_age": proven}
        ages |= {"scrub_age": folded.scrubbed_at, "drill_age": folded.drilled_at}
        for name, since in ages.items():
            if since is not None:
                standing.set(f"journal.{name}", max(0, now - since) / 1e9)
        for cursor, seq in folded.cursors.items():
            standing.set("journal.export_lag", max(0, folded.exportable_seq - seq), cursor)
