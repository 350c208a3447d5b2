"""The live state behind a hook: memory.db's one writing connection, its validator, and the agent files after it.

Applies what is durable and never what is not. Where applying fails, the events stay journaled, the position does not
skip, and the next batch first catches up.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Collection, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, TypeVar

from journal.commit import CannotTell
from journal.errors import Diverged, EnvironmentFault, JournalError, Refused
from journal.events import ConfigRemoved, ConfigWritten, Event, StateRestored
from journal.log import Appended
from journal.reader import LogReader
from journal.record import Record
from journal.storage import Storage
from replay import schema
from replay.agent_twins import would_be_one
from replay.agents import bring_current, inspect
from replay.catchup import catch_up
from replay.faults import sqlite_fault
from replay.folding import Folding
from replay.holders import identity_of
from replay.layout import Layout
from replay.memory import Applied, apply_records
from replay.rebuild import generations_of
from replay.schema import Position
from replay.tracing import database_span
from replay.validate import RULES, Validator

if TYPE_CHECKING:
    from replay.agent_format import Mode

T = TypeVar("T")
_LOST = (
    sqlite3.SQLITE_FULL, sqlite3.SQLITE_READONLY, sqlite3.SQLITE_IOERR, sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB,
    sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_PERM,
)  # fmt: skip
_LOOK_EVERY = 16  # batches between two looks at the length of memory.db's write-ahead log


class LiveState:
    """memory.db's current generation and the agent files, at the journal's head.

    Used under the core's lock. `applied_seq` is the position; `foreign_writes` counts how often another program was
    seen to have written memory.db since it was opened.
    """

    def __init__(self, storage: Storage, layout: Layout, connection: sqlite3.Connection, generation: str) -> None:
        position = schema.read_position(connection)
        if position is None:
            raise Diverged("memory.db has no position", path=generation, hint="run: journal recover memory")
        self.storage = storage
        self.layout = layout
        self.connection = connection
        self.generation = generation
        self.applied_seq = position.seq
        self.journal_id = position.journal_id
        self.foreign_writes = 0
        self.failure: str | None = None
        self.lost: str | None = None  # why memory.db cannot be used any more, once it was found out
        self.can_leave = False  # whether events are to be journaled without it then
        self.folding = Folding(storage, connection, generation)
        self.wants_fold = False
        self.validation: Mode = "lenient"
        self.materialises = True  # an import journals files that are there already, some of them in two versions
        self._file = identity_of(generation)
        self._begun = False
        self._staged = 0  # first seq of the batch whose rows lie in the open transaction; 0: none
        self.unwritten: set[str] = set()  # agents whose files are not known to be current
        self.left_alone: str | None = None  # an agent whose file is where the event comes from
        self._are_one: dict[tuple[str, str], bool] = {}
        self._batches = 0
        self.caught = Applied()  # by the last catch-up
        self._data_version = self._read_data_version()
        self._validator = Validator(connection, position.seq)
        self._versions: dict[str, set[str]] = {
            name: {sha256} for name, sha256 in connection.execute("SELECT name, sha256 FROM agents")
        }

    @classmethod
    @database_span("open")
    def open(cls, storage: Storage, layout: Layout) -> LiveState:
        """The current generation, which must be there. Raises Diverged where it is not."""
        path = generations_of(storage, layout).current().path
        if path is None:
            raise Diverged("memory.db is missing", path=layout.memory_db, hint="run: journal recover memory")
        return cls(storage, layout, schema.connect(path), path)

    # -- validation ---------------------------------------------------------------------------------------------------

    def begin(self) -> None:
        """From here to `end` or the next `apply` everything is asked of one snapshot, which the batch is applied to.

        Without it each question would take and release SQLite's read lock, and the application once more.
        """
        try:
            self.connection.execute("BEGIN")
            self._begun = True
            self._notice_foreign_writes()  # before anything is believed that was known of an older snapshot
        except sqlite3.Error:
            return  # what is wrong shows when something is asked

    def end(self) -> None:
        """Ends the snapshot, where nothing was applied to it."""
        self._begun, self._staged = False, 0
        if self.connection.in_transaction:
            with suppress(sqlite3.Error):  # it read only; what is wrong shows in the next one
                self.connection.execute("ROLLBACK")

    def check_all(self, events: Sequence[Event], seq: int) -> bool:
        if not _CONFIGS.isdisjoint(map(type, events)):
            return False
        try:
            return self._validator.check_all(events, seq)
        except sqlite3.Error:  # `check` finds out which event it concerns
            return False

    def check(self, event: Event, seq: int) -> None:
        try:
            if type(event) is ConfigWritten:
                self._check_config(event)
            if (rule := RULES.get(type(event))) is not None:  # `Validator.check`, without the call
                rule(self._validator, event, seq)
        except sqlite3.Error as error:  # nothing is written yet: no reason to doubt the journal
            self._note_loss(error)
            if self.lost is not None and self.can_leave:
                raise CannotTell from error
            raise sqlite_fault(error, self.generation) from error

    def _check_config(self, event: ConfigWritten) -> None:
        if self.validation == "strict":
            from replay.agent_format import validate

            verdict = validate(event.name, event.content, "strict")
            if not verdict.accepted:
                raise Refused(
                    "invalid", f"agent {event.name!r} is not valid: {verdict.findings[0]}",
                    hint="agents.validation in journal.yaml is strict; lenient refuses no bytes",
                )  # fmt: skip
        if self.materialises:
            self._refuse_twin(event.name)

    def _refuse_twin(self, name: str) -> None:
        """Two agents in one file would overwrite each other, whichever is written last."""
        for twin in self._validator.twins(name):
            pair = (twin, name)
            if pair not in self._are_one:
                self._are_one[pair] = would_be_one(self.storage, self.layout.agents, twin, name)
            if self._are_one[pair]:
                raise Refused(
                    "unsafe_name", f"the file of agent {name!r} would be that of {twin!r}: the file system of "
                    f"{self.layout.agents} takes the two names for one",
                    hint="choose another name, or remove the other agent first",
                )  # fmt: skip

    def mark(self) -> int:
        return self._validator.mark()

    def rollback(self, mark: int) -> None:
        self._validator.rollback(mark)

    # -- application --------------------------------------------------------------------------------------------------

    def stage(self, appended: Appended, records: Sequence[Record]) -> None:
        """Writes the rows while the journal's sync is under way. Only `apply` commits them, so nobody sees them before
        they are durable, and no power cut can leave them; what fails here, `apply` tries again from the start."""
        if not self._begun or self.applied_seq != appended.first_seq - 1 or _needs_rebuild(records):
            return
        try:
            self._write_rows(appended, records)
            self._staged = appended.first_seq
        except sqlite3.Error:
            self.end()

    def apply(self, appended: Appended, records: Sequence[Record]) -> None:
        """Applies one durable batch in one transaction, then writes the agent files that it changed."""
        if self.applied_seq != appended.first_seq - 1:
            self.end()
            try:
                self.catch_up()
            except sqlite3.Error as error:
                self._note_loss(error)
                raise sqlite_fault(error, self.generation) from error
            return
        if not self._staged and _needs_rebuild(records):
            raise EnvironmentFault("a restore needs a rebuild", hint="open the server again")
        try:
            try:
                self._transact(appended, records)
            except sqlite3.OperationalError as error:
                if error.sqlite_errorcode & 0xFF != sqlite3.SQLITE_BUSY or not self._begun:
                    raise
                self._begun = False
                self._transact(appended, records)  # another program writes, or wrote since `begin`: wait for it
        except BaseException as error:
            self.failure = str(error)
            if isinstance(error, sqlite3.Error):
                self._note_loss(error)
                raise sqlite_fault(error, self.generation) from error
            raise
        self._settled(appended.first_seq + appended.count - 1)
        self._note_agents(records)
        if self.unwritten:
            self._materialise(records[-1].time)
        self._batches += 1
        if self._batches % _LOOK_EVERY == 0:
            self.look()

    def _transact(self, appended: Appended, records: Sequence[Record]) -> None:
        """Rows and position in one transaction: the one that `begin` opened, or else one of its own."""
        connection, staged = self.connection, self._staged
        self._staged = 0
        try:
            if not connection.in_transaction:
                connection.execute("BEGIN IMMEDIATE")
                self._notice_foreign_writes()
            if staged != appended.first_seq:
                self._write_rows(appended, records)
            connection.execute("COMMIT")
        except BaseException:
            if connection.in_transaction:
                connection.execute("ROLLBACK")
            raise

    def _write_rows(self, appended: Appended, records: Sequence[Record]) -> None:
        apply_records(self.connection, appended.first_seq, records)
        last_seq = appended.first_seq + appended.count - 1
        position = Position(last_seq, self.journal_id, appended.epoch, appended.chain.hex())
        schema.write_position(self.connection, position)

    def catch_up(self) -> int:
        """Applies everything journaled after the position; returns how many events that were."""
        reader = LogReader(self.storage, self.layout.journal)
        before = self.applied_seq
        try:
            caught = catch_up(self.connection, reader)
        except sqlite3.Error as error:
            self.folding.note(error)
            raise
        self.caught = caught.applied
        self._settled(caught.to_seq)
        for batch in reader.batches(before + 1, caught.to_seq) if caught.to_seq > before else ():
            self._note_agents(batch.records())
        self._materialise(reader.last_time)
        if caught.restore is not None:
            raise EnvironmentFault(
                f"the restore at seq {caught.restore.seq} needs a rebuild", seq=caught.restore.seq,
                hint="open the server again: opening applies it",
            )  # fmt: skip
        return caught.to_seq - before

    def mend(self, head_seq: int) -> None:
        """Tries again what failed: rows that lag behind the journal's head, agent files that were not written.

        A retry of an event that is journaled but not applied appends nothing, so nothing else would get it applied.
        """
        if self.applied_seq == head_seq and not self.unwritten:
            return
        with suppress(JournalError, sqlite3.Error, OSError):  # then it stays so, and whoever is concerned is told
            self.catch_up()

    def _settled(self, seq: int) -> None:
        self.applied_seq = seq
        self.failure = None
        self._validator.settle(seq)

    def _note_agents(self, records: Sequence[Record]) -> None:
        if not self.materialises:
            return
        for event in [record.event for record in records if type(record.event) in _CONFIGS]:
            if event.name != self.left_alone:
                self.unwritten.add(event.name)
            elif isinstance(event, ConfigWritten):
                self._versions.setdefault(event.name, set()).add(event.sha256)

    def _materialise(self, time: int) -> None:
        """Brings the files of the agents that changed to their current version; those that fail stay to be written.

        A file with bytes that the journal never saw is a hand edit: it goes to quarantine before it is replaced.
        """
        names = self.unwritten
        if not names:
            return
        agents: dict[str, tuple[str, bytes]] = {}
        for name in names:
            row = self.connection.execute("SELECT sha256, content FROM agents WHERE name = ?", (name,)).fetchone()
            if row is not None:
                agents[name] = (row[0], row[1])
        facts = inspect(self.storage, self.layout.agents, agents, self._known_versions, names)
        bring_current(
            self.storage, self.layout.agents, facts, agents, drift="set_aside",
            quarantine=f"{self.layout.journal}/quarantine", time=time, reason="replaced by a newer version",
        )  # fmt: skip
        names.clear()
        for name, (sha256, _) in agents.items():
            self._versions.setdefault(name, set()).add(sha256)

    def _known_versions(self, name: str) -> Collection[str]:
        """What a file of this agent may hold by right: opening brought every file to its current version, and since
        then only these were written."""
        return self._versions.get(name, ())

    # -- the file -----------------------------------------------------------------------------------------------------

    def is_there(self) -> bool:
        """Whether memory.db still leads to the file that is open here. One that was removed or replaced would go on
        taking rows, and nobody would ever read them."""
        return identity_of(self.layout.memory_db) == self._file

    def is_writable(self) -> bool:
        """Whether its write lock can be had."""
        try:
            self.connection.execute("BEGIN IMMEDIATE")
            self.connection.execute("ROLLBACK")
        except sqlite3.Error:
            return False
        return True

    def _note_loss(self, error: sqlite3.Error) -> None:
        """Another program's lock passes; a file that is full, read-only or damaged stays so until somebody acts."""
        if getattr(error, "sqlite_errorcode", 0) & 0xFF in _LOST:
            self.lost = f"memory.db cannot be used: {error}"

    def _read_data_version(self) -> int:
        return int(self.connection.execute("PRAGMA data_version").fetchone()[0])

    def notice(self) -> int:
        """How often another program was seen to have written memory.db by now."""
        self._notice_foreign_writes()
        return self.foreign_writes

    def _notice_foreign_writes(self) -> None:
        """Another program's commit changes data_version on this connection: what was cached may be wrong now."""
        (version,) = self.connection.execute("PRAGMA data_version").fetchone()
        if version != self._data_version:
            self._data_version = version
            self.foreign_writes += 1
            self._validator.forget()

    def change_rows(self, change: Callable[[sqlite3.Connection], T]) -> T:
        """Runs what puts rows right (`replay.messages`), and forgets what was known of them."""
        try:
            return change(self.connection)
        except sqlite3.Error as error:
            raise sqlite_fault(error, self.generation) from error
        finally:
            self._validator.forget()

    def look(self) -> None:
        """Decides whether memory.db's write-ahead log has grown enough to be folded. For every writer of it to call."""
        self.wants_fold = self.folding.is_due()
        if self.folding.failed is not None:
            self.lost = f"memory.db cannot be used: {self.folding.failed}"

    def close(self) -> None:
        self.folding.close()


_CONFIGS = frozenset((ConfigWritten, ConfigRemoved))


def _needs_rebuild(records: Sequence[Record]) -> bool:
    return StateRestored in {type(record.event) for record in records}
