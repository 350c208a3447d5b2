"""Taking what another program did to memory.db into the journal, or saying in words what that would be.

The order is what makes it safe: the next generation is built beside from the journal, the events are journaled and
applied to it, and only then it takes memory.db's place. A cut before the events leaves the drift as it was found; a cut
after them leaves an altered memory.db, and its recovery ends in the state that was adopted. The file that drifted goes
to quarantine.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from functools import partial
from time import time_ns
from typing import Any

import msgspec

from journal.commit import GROUP_BYTES_MAX, GROUP_RECORDS_MAX, Draft, draft, ticket
from journal.errors import Corrupt, Diverged, JournalError, Refused
from journal.event_json import event_from_json, event_to_json
from journal.events import ConfigRemoved, ConfigWritten, Event, ImportCompleted, ImportStarted, StatusChanged
from journal.log import Log
from journal.reader import LogReader
from recovery.adopt.drift import Drift, find_drift
from recovery.data import Data
from recovery.decide import decide_journal, decide_memory
from recovery.diagnose import read_journal
from recovery.execute import open_log
from recovery.known import Known
from recovery.looking import Look
from recovery.model.vectors import good_vectors
from recovery.reading import reading
from recovery.rows import stop_error
from replay import schema
from replay.core import Core
from replay.digest import state_digest
from replay.engine import build_state
from replay.live import LiveState
from replay.logical import Written
from replay.rebuild import check_space, renew_agents
from replay.schema import connect
from replay.scratch import scratch_directory
from replay.working import discard, finish

Progress = Callable[[str, int, int], None]

ACTOR = "adopt"
_ORDINARY = ("healthy", "altered", "behind")  # cases in which the rows are somebody's doing, and no damage
_LEFT_OUT_MAX = 1000


class AdoptedMemory(msgspec.Struct):
    """What was found, or journaled: the events, the differences left out, and where the file that drifted lies now."""

    events: list[Event] = []
    left_out: list[str] = []
    seqs: list[int] = []
    digest: str = ""
    quarantined: list[str] = []

    def to_json(self) -> dict[str, Any]:
        """As it is printed, and sent to whoever asked for it; `from_json` reads it."""
        told = {field: getattr(self, field) for field in ("left_out", "seqs", "digest", "quarantined")}
        return {"events": [event_to_json(event) for event in self.events], "counts": self.counts, **told}

    @classmethod
    def from_json(cls, told: dict[str, Any]) -> AdoptedMemory:
        rest = (told["left_out"], told["seqs"], told["digest"], told["quarantined"])
        return cls([event_from_json(event) for event in told["events"]], *rest)

    @property
    def counts(self) -> dict[str, int]:
        return dict(Counter(event.type_name for event in self.events))


def look_for_drift(data: Data, progress: Progress | None = None) -> AdoptedMemory:
    """What `adopt_memory` would journal now. Takes no lock, changes nothing.

    Raises Corrupt where memory.db is damaged, since damage is nobody's doing, and what else keeps it from being
    compared, each with the command to run instead.
    """
    reader, journal = read_journal(data)
    if reader is None:
        raise stop_error(decide_journal(journal))
    drift, _ = _drift(data, reader, progress)
    return AdoptedMemory([each.event for each in drift.events], drift.left_out)


def adopt_memory(data: Data, progress: Progress | None = None) -> AdoptedMemory:
    """Journals the drift, in as few groups as can hold it, and makes the state with it current.

    What the state does not accept is left out and named. Raises as `look_for_drift` does, and Locked beside a writer.
    """
    log = open_log(data)
    try:
        return adopt_drift(data, log, progress)
    finally:
        log.close()


def adopt_drift(data: Data, log: Log, progress: Progress | None = None) -> AdoptedMemory:
    """The same for who holds the log's lock, and has no connection to memory.db open."""
    drift, digest = _drift(data, log.reader(), progress)
    if not drift.events:
        return AdoptedMemory([], drift.left_out)
    return _adopt(data, log, drift, f"memory.db with digest {digest}")


def _drift(data: Data, reader: LogReader, progress: Progress | None) -> tuple[Drift, str]:
    """The drift against the state at memory.db's position, and the digest of the file that drifted."""
    with scratch_directory("adopt") as scratch:
        memory = Look(data, reader, scratch, True, progress, Known()).at_memory()
        decision = decide_memory(memory)
        if decision.case == "damaged":
            raise Corrupt(
                f"{decision.reason}; damage is no change that could be adopted", path=memory.path, hint=decision.hint
            )
        if decision.case not in _ORDINARY or memory.path is None or memory.position is None:
            if decision.action == "stop":
                raise Diverged(decision.reason, path=memory.path, hint=decision.hint)
            raise JournalError(decision.reason, path=memory.path, hint=decision.hint or "journal recover memory")
        if memory.digest == memory.expected:
            return Drift(), memory.digest or ""
        drift = _against(data, reader, memory.path, memory.position, scratch)
        if drift.events and memory.position < reader.last_seq:
            # An adoption that was cut is in the journal, and waits for its application: nothing is left of it here.
            late = _against(data, reader, memory.path, reader.last_seq, scratch)
            drift = late if not late.events else drift
        return drift, memory.digest or ""


def _against(data: Data, reader: LogReader, found_path: str, seq: int, scratch: str) -> Drift:
    path = f"{scratch}/state-{seq}.db"
    build_state(
        data.storage, data.layout.journal, reader, seq, path, embeddings=False, journal_mode="delete"
    )  # fmt: skip
    with closing(connect(path, read_only=True)) as expected, reading(found_path) as found:
        return find_drift(found, expected)


# -- journaling -------------------------------------------------------------------------------------------------------


def _adopt(data: Data, log: Log, drift: Drift, source: str) -> AdoptedMemory:
    generations, storage, layout = data.generations, data.storage, data.layout
    old = generations.current().path
    assert old is not None
    generations.clean()
    reader = log.reader()
    check_space(storage, layout, reader)
    path = generations.building_path()
    try:
        build_state(
            storage, layout.journal, reader, reader.last_seq, path, vectors=partial(good_vectors, old)
        )
        state = LiveState(storage, layout, schema.connect(path), path)
        try:
            state.validation = data.config.agents.validation
            state.materialises = False  # the files follow the link
            result = journal_drift(Core(log, state), drift, source)
        finally:
            state.close()
        finish(storage, path, "wal")
        generations.swap(path)
    finally:
        discard(storage, path)
    result.quarantined = generations.retire().quarantined
    names = _agents_in(result.events)
    if names:
        outcome = renew_agents(
            storage, layout, log.reader(), time=time_ns(), reason="journal adopt memory", names=names
        )
        result.quarantined += outcome.set_aside.values()
    return result


def _agents_in(events: Sequence[Event]) -> list[str]:
    kinds = (ConfigWritten, ConfigRemoved, StatusChanged)
    return sorted({event.name for event in events if isinstance(event, kinds)})


def journal_drift(core: Core, drift: Drift, source: str) -> AdoptedMemory:
    """One group, with import.started and import.completed around what was taken; several where it is too large."""
    result = AdoptedMemory([], list(drift.left_out))
    taken: list[Written] = []
    with core.lock:
        mark, seq = core.state.mark(), core.log.next_seq
        for each in drift.events:
            try:
                core.state.check(each.event, seq + len(taken))
            except Refused as error:
                result.left_out.append(f"{type(each.event).type_name}: {error.message}")
            else:
                taken.append(each)
        core.state.rollback(mark)
        result.events = [each.event for each in taken]
        if not taken:
            return result
        started: Event = ImportStarted(source, result.counts)
        completed: Event = ImportCompleted(source, result.counts, result.left_out[:_LEFT_OUT_MAX])
        drafts = [draft(event, agent, ACTOR, None) for event, agent in [(started, None), *taken, (completed, None)]]
        for group in _groups(drafts):
            request = ticket(group, None)
            core.committer.commit_now(request)
            result.seqs += [receipt.seq for receipt in request.result()]
    result.digest = state_digest(core.state.connection)
    return result


def _groups(drafts: Sequence[Draft]) -> Iterator[list[Draft]]:
    """Each within the limits of a group."""
    group: list[Draft] = []
    size = 0
    for each in drafts:
        if group and (len(group) == GROUP_RECORDS_MAX or size + len(each.encoded) > GROUP_BYTES_MAX):
            yield group
            group, size = [], 0
        group.append(each)
        size += len(each.encoded)
    if group:
        yield group


