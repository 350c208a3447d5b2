"""Facts about a data directory, read-only: nothing under it is changed, not even SQLite's side files."""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Collection

import msgspec

from journal.errors import AmbiguousTail, Corrupt, DataError, NotAJournal
from journal.reader import LogReader
from journal.storage import Kind
from journal.watermark import read_watermark
from recovery.agents.rescue import judged
from recovery.data import Data
from recovery.evidence import evidence_seq
from recovery.facts import Facts, JournalFacts, MemoryFacts, Rescue
from recovery.known import Known
from recovery.landmarks import last_drill
from recovery.leftovers import leftovers
from recovery.log.telling import log_repairs
from recovery.looking import Look, Progress
from recovery.model.looking import Tested, look_at_model, look_at_vectors
from recovery.places import nearest
from recovery.rto import estimate
from recovery.surroundings import look_at_crash, look_at_room
from replay.holders import holders
from replay.scratch import scratch_directory

Repairable = Corrupt | AmbiguousTail  # not two histories, nor a newer version


def diagnose(
    data: Data,
    *,
    deep: bool = True,
    progress: Progress | None = None,
    known: Known | None = None,
    asked: Collection[str] | None = None,
    model: Tested | None = None,
    around: bool = False,
) -> Facts:
    """Observes journal, memory.db and agents. With `deep`, digests are computed: a full scan and a replay.

    With `asked`, agent configs are held against the configured validator, too, and other versions of those that it
    refuses are looked for; it names the agents that somebody wants recovered, and may be empty. With `model`, the
    embedding model and the stored vectors are looked at, too (`deep` by their hashes and checksums); it says whether
    the model encodes a sentence in a child process, which takes seconds.

    With `around`, so are the room on the disk and what a crash left.

    `known` is what an earlier diagnosis of the same run found out, and takes what this one does. Raises NotAJournal
    where there is none; any other trouble is a fact.
    """
    reader, journal = read_journal(data)
    plan = data.interrupted_plan()
    facts = Facts(
        journal=journal,
        memory=_unjudged(data),
        agents_kind=_agents_kind(data),
        leftovers=tuple(leftovers(data)),
        writable=os.access(nearest(data.root), os.W_OK),
        free_bytes=data.storage.free_bytes(nearest(data.root)),
        sqlite_version=sqlite3.sqlite_version,
        interrupted=plan.decode(errors="replace") if plan is not None else None,
        importing=data.is_importing,
        room=look_at_room(data) if around else None,
        crash=look_at_crash(data) if around else None,
    )
    if reader is None:
        return facts
    with scratch_directory("check") as scratch:
        known = known if known is not None else Known()
        look = Look(data, reader, scratch, deep, progress, known)
        try:
            memory = look.at_memory()
            agents = look.at_agents(memory, facts.agents_kind)
            rescues: list[Rescue] = []
            if asked is not None:
                agents, rescues = judged(data, reader, agents, look.expected_agents(memory), asked)
            if around:
                estimated = estimate(data, reader, data.checkpoints.manifests(), last_drill(data, reader))
                facts = msgspec.structs.replace(facts, recovery=estimated)
            seen = look_at_model(data, reader, known, hashed=deep, tested=model) if model is not None else None
        except DataError as error:  # damage before the log's end is met where events are read
            return msgspec.structs.replace(facts, journal=_stopped_by(data, error, journal))
    return msgspec.structs.replace(
        facts, memory=memory, agents=tuple(agents), rescues=tuple(rescues), model=seen,
        vectors=look_at_vectors(data) if model is not None and deep else None,
    )  # fmt: skip


# -- the journal ------------------------------------------------------------------------------------------------------


def read_journal(data: Data) -> tuple[LogReader | None, JournalFacts]:
    """The log's reader, None where it cannot be read, and what is known of it. Raises NotAJournal."""
    evidence = evidence_seq(data)
    manifests, damaged = data.checkpoints.scan()
    proven = [manifest.verified_at for manifest in manifests if manifest.verified_at is not None]
    facts = JournalFacts(
        checkpoints=len(manifests),
        newest_checkpoint=manifests[0].seq if manifests else 0,
        proven_at=max(proven, default=None),
        damaged_checkpoints=tuple(str(each.error) for each in damaged),
    )
    try:
        reader = data.reader(evidence)
        marked = read_watermark(data.storage, data.layout.journal, reader.journal_id)
        tail = reader.tail
        facts = msgspec.structs.replace(
            facts, journal_id=reader.journal_id.hex(), last_seq=reader.last_seq, last_time=reader.last_time,
            segments=len(reader.segments), clean=tail.closed and tail.region is None,
            torn_bytes=tail.region.length if tail.region else 0,
            damaged_watermark=str(marked.problems[0].message) if marked.problems else "",
            writer=_writer(data),
        )  # fmt: skip
        reader.raise_for_tail()
        told = max(facts.newest_checkpoint, reader.watermark.seq if reader.watermark is not None else 0)
        if told > reader.last_seq:  # memory.db beyond the end is judged where memory.db is
            reader.raise_for_end()
    except NotAJournal:
        raise
    except DataError as error:
        return None, _stopped_by(data, error, facts)
    return reader, facts


def _writer(data: Data) -> str:
    """Who holds the lock, this process included."""
    held = holders([f"{data.layout.journal}/lock"])
    return str(held[0]) if held else ""


def _stopped_by(data: Data, error: DataError, facts: JournalFacts) -> JournalFacts:
    hint = error.hint or ""
    told = str(error).removesuffix(f" - {hint}")
    return msgspec.structs.replace(
        facts, error=told, error_code=error.code, error_hint=hint, exit_code=error.exit_code,
        repairs=tuple(each.words() for each in log_repairs(data).repairs()) if isinstance(error, Repairable) else (),
    )  # fmt: skip


# -- what lies around -------------------------------------------------------------------------------------------------


def _unjudged(data: Data) -> MemoryFacts:
    current = data.generations.current()
    return MemoryFacts(kind=current.kind, path=current.path, problem="the journal cannot be read, so it is not judged")


def _agents_kind(data: Data) -> Kind:
    kind = data.storage.kind(data.layout.agents)
    return "directory" if kind == "link" and os.path.isdir(data.layout.agents) else kind
