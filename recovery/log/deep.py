"""The deep half of `verify`: every state that somebody relies on is made once more, from genesis, and compared.

No checkpoint and no memory.db is taken for true: the events alone say what each must hold. Changes nothing.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Literal

import msgspec

from journal.checkpoint import Manifest
from journal.errors import Corrupt, DataError, JournalError
from journal.reader import LogReader
from journal.verified import Finding, damage_of
from recovery.data import Data
from recovery.decide import decide_memory
from recovery.facts import MemoryFacts
from recovery.placing import place
from recovery.reading import reading
from replay.digest import DIGEST_VERSION, digest_of, state_digest
from replay.engine import build_state
from replay.extend import extend
from replay.history import read_history
from replay.memory_parts import assemble
from replay.scanning import file_leaves
from replay.schema import PROJECTION_VERSION, read_position, read_projection_version
from replay.scratch import scratch_directory
from replay.timeline import Range, lineage_from

Progress = Callable[[str, int, int], None]


class State(msgspec.Struct, frozen=True):
    """One comparison: the digest that ``of`` holds at ``seq``, and the one that the journal makes.

    ``found`` is None where it could not be read, ``expected`` where the journal is too damaged to say.
    """

    of: Literal["checkpoint", "memory.db"]
    seq: int
    found: str | None
    expected: str | None

    @property
    def matches(self) -> bool:
        return self.found is not None and self.found == self.expected


@dataclass
class Deep:
    """What was compared, what is wrong, and the exit code of the first of it."""

    states: list[State] = field(default_factory=list)
    findings: list[Finding] = field(default_factory=list)
    exit_code: int = 0

    def add(self, error: JournalError, path: str, exit_code: int | None = None) -> None:
        self.findings.append(damage_of(error, path))
        self.exit_code = self.exit_code or (error.exit_code if exit_code is None else exit_code)


def verify_deep(data: Data, reader: LogReader, progress: Progress | None = None) -> Deep:
    """Compares every checkpoint and memory.db with the states that the events make, in one pass where it is possible.

    Damage is in the result, never raised.
    """
    deep = Deep()
    tell = progress or (lambda step, done, total: None)
    with scratch_directory("verify") as scratch:
        # One that is only written has no digest yet, or its process was killed: nobody restores from it.
        verified = [manifest for manifest in data.checkpoints.manifests() if manifest.state == "verified"]
        manifests = sorted(verified, key=lambda manifest: manifest.seq)
        memory = _look_at_memory(data, reader)
        wanted = {manifest.seq for manifest in manifests if _is_comparable(manifest, reader)}
        if memory.digest is not None and memory.position is not None:
            wanted.add(memory.position)
        expected = _expected(data, reader, sorted(wanted), scratch, deep, tell)
        for number, manifest in enumerate(manifests):
            tell("checkpoints", number, len(manifests))
            _compare_checkpoint(data, manifest, expected.get(manifest.seq), scratch, deep)
        _compare_memory(data, memory, expected, deep)
    return deep


def _is_comparable(manifest: Manifest, reader: LogReader) -> bool:
    made_by_us = (manifest.projection_version, manifest.digest_version) == (PROJECTION_VERSION, DIGEST_VERSION)
    return made_by_us and manifest.journal_id == reader.journal_id.hex() and manifest.seq <= reader.last_seq


def _expected(
    data: Data, reader: LogReader, seqs: list[int], scratch: str, deep: Deep, tell: Progress
) -> dict[int, str]:
    """The digest that the events make at each seq; those behind damage are missing.

    One file goes from state to state as long as they lie on one timeline; where a restore left it, it is begun anew.
    """
    path, at = f"{scratch}/replayed.db", -1
    made: dict[int, str] = {}

    def replayed(done: int, total: int) -> None:
        tell("replay", done, total)

    try:
        history = read_history(reader)
        for seq in seqs:
            ranges: list[Range] | None = None
            if at >= 0:
                ranges = lineage_from(history.restores_until(seq), seq, at)
            if ranges is None:
                if at >= 0:
                    data.storage.remove(path)
                made[seq] = build_state(
                    data.storage, data.layout.journal, reader, seq, path, replayed, use_checkpoints=False,
                    journal_mode="delete",
                ).digest  # fmt: skip
            else:
                extend(reader, path, ranges, seq, replayed)
                made[seq] = _digest_of(path)
            at = seq
    except DataError as error:
        deep.add(error, data.layout.journal)
    return made


def _digest_of(path: str) -> str:
    return digest_of(file_leaves(path))


# -- checkpoints ------------------------------------------------------------------------------------------------------


def _compare_checkpoint(data: Data, manifest: Manifest, expected: str | None, scratch: str, deep: Deep) -> None:
    """Both what the manifest says and what the parts hold."""
    manifest_path = data.checkpoints.manifest_path(manifest.seq)
    path = f"{scratch}/checkpoint.db"
    found: str | None = None
    try:
        assemble(data.checkpoints, manifest, path)
        found = _digest_of(path)
    except (DataError, sqlite3.DatabaseError) as error:
        if data.storage.kind(manifest_path) == "missing":
            return  # pruned since
        problem = error if isinstance(error, DataError) else Corrupt(f"its parts make no database: {error}", hint=_MAKE)
        deep.add(problem, manifest_path)
    finally:
        if data.storage.kind(path) != "missing":
            data.storage.remove(path)
    deep.states.append(State("checkpoint", manifest.seq, found, expected))
    if found is None or expected is None:
        return
    for what, digest in (("manifest says", manifest.digest), ("parts hold", found)):
        if digest != expected:
            message = f"the {what} digest {digest} for seq {manifest.seq}, the events make {expected}"
            deep.add(Corrupt(message, seq=manifest.seq, hint=_MAKE), manifest_path)


_MAKE = "restores that begin there are wrong: move the manifest away, then run: journal checkpoint create"


# -- memory.db --------------------------------------------------------------------------------------------------------


def _look_at_memory(data: Data, reader: LogReader) -> MemoryFacts:
    """memory.db by its position and its rows; SQLite's own check is `journal check`'s."""
    current = data.generations.current()
    if current.kind != "generation" or current.path is None:
        return MemoryFacts(kind=current.kind, path=current.path)
    facts = MemoryFacts(kind="generation", path=current.path)
    try:
        with reading(current.path) as connection:
            position = read_position(connection)
            if position is None:
                return msgspec.structs.replace(facts, problem="it has no position")
            version = read_projection_version(connection)
            digest = state_digest(connection) if version == PROJECTION_VERSION else None
    except (sqlite3.Error, OSError) as error:
        return msgspec.structs.replace(facts, problem=str(error))
    ours = position.journal_id == reader.journal_id.hex()
    try:
        reader.refresh()  # what was applied was durable before: the log reaches as far by now
        where = place(data, reader, position) if ours else "unknown"
    except DataError as error:
        return msgspec.structs.replace(facts, problem=f"its position cannot be compared: {error}")
    comparable = where in ("here", "behind", "restore_pending")
    return msgspec.structs.replace(
        facts, readable=True, ours=ours, position=position.seq, position_is=where, projection_version=version,
        lag=max(0, reader.last_seq - position.seq), digest=digest if comparable else None,
    )  # fmt: skip


def _compare_memory(data: Data, memory: MemoryFacts, expected: dict[int, str], deep: Deep) -> None:
    if memory.position is not None:
        made = expected.get(memory.position)
        deep.states.append(State("memory.db", memory.position, memory.digest, made))
        if memory.digest is not None and made is None:
            return  # the journal is too damaged to say, and that is a finding already
        memory = msgspec.structs.replace(memory, expected=made if memory.digest is not None else None)
    decision = decide_memory(memory)
    if decision.health != "healthy":
        error = Corrupt(decision.reason, seq=memory.position, hint=decision.hint or None)
        error.code = decision.case
        deep.add(error, memory.path or data.layout.memory_db, decision.exit_code)
