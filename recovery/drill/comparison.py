"""Whether a rehearsed state is the live one: memory by digest at one and the same seq, agents by their bytes.

The live memory.db may be written meanwhile, and may lag behind its journal. So its digest is taken in one snapshot,
and the rehearsal is brought to that very seq before the two are compared. Changes nothing that is live.
"""

from __future__ import annotations

import os
import shutil
import sqlite3
from contextlib import closing
from typing import Literal, NamedTuple

import msgspec

from journal.errors import JournalError
from recovery.data import Data
from recovery.reading import reading
from replay.agents import file_name
from replay.digest import state_digest
from replay.engine import build_state
from replay.extend import extend
from replay.history import read_history
from replay.schema import connect, read_position
from replay.timeline import lineage_from

Verdict = Literal["same", "different", "not compared"]
Rows = dict[str, tuple[str, bytes]]


class Compared(msgspec.Struct, frozen=True):
    """A verdict, and what it rests on in words."""

    verdict: Verdict
    said: str


class Comparison(NamedTuple):
    """``seq`` and ``digest`` are those of the rehearsed state."""

    seq: int
    digest: str
    memory: Compared
    agents: Compared


class _State(NamedTuple):
    seq: int
    digest: str
    agents: Rows


def compare(live: Data, rehearsed: Data, seq: int, scratch: str, *, from_backup: bool) -> Comparison:
    """The rehearsal, made of a journal that ends at `seq`, against what is live; `scratch` is for a state in between.

    A backup is older than the live state, so it is held against what the live journal says of its last seq.
    """
    path = rehearsed.generations.current().path
    assert path is not None  # it was just made
    made = _state(path)  # what the rehearsal journaled of itself behind `seq` makes no rows
    files = _agent_files(rehearsed, made.agents)
    try:
        if from_backup:
            memory = _by_journal(live, seq, made, scratch)
        else:
            memory = _by_memory(live, rehearsed, seq, made, scratch)
    except (sqlite3.Error, OSError, JournalError) as error:
        memory = Compared("not compared", f"what is live cannot be read: {error}")
    return Comparison(seq, made.digest, memory, files)


def _by_memory(live: Data, rehearsed: Data, seq: int, made: _State, scratch: str) -> Compared:
    current = live.generations.current()
    if current.path is None or current.kind != "generation":
        return Compared("not compared", "there is no live memory.db")
    with reading(current.path) as connection:
        found = _read(connection)
    digest = made.digest if found.seq == seq else _digest_at(live, rehearsed, seq, found.seq, scratch)
    return _verdict(found.seq, digest, "the live memory.db", found.digest)


def _by_journal(live: Data, seq: int, made: _State, scratch: str) -> Compared:
    reader = live.reader()
    if seq > reader.last_seq:
        return Compared("different", f"the backup goes to seq {seq}, the live journal only to {reader.last_seq}")
    built = build_state(
        live.storage, live.layout.journal, reader, seq, scratch, embeddings=False, journal_mode="delete", scan=True
    )  # fmt: skip
    return _verdict(seq, made.digest, "the live journal", built.digest)


def _verdict(seq: int, rehearsed: str, what: str, live: str) -> Compared:
    if rehearsed != live:
        return Compared("different", f"at seq {seq} the rehearsal has digest {rehearsed}, {what} {live}")
    return Compared("same", f"at seq {seq} the rehearsal and {what} have digest {live}")


def _digest_at(live: Data, rehearsed: Data, copied: int, seq: int, scratch: str) -> str:
    """Of the rehearsed state, brought to another seq: back by the copied journal, on by what was written meanwhile."""
    source, reader = (rehearsed, rehearsed.reader()) if seq < copied else (live, live.reader())
    between = lineage_from(read_history(reader, source.checkpoints).restores_until(seq), seq, copied)
    path = rehearsed.generations.current().path
    if seq < copied or between is None or path is None:
        built = build_state(
            source.storage, source.layout.journal, reader, seq, scratch, embeddings=False, journal_mode="delete",
            scan=True,
        )  # fmt: skip
        return built.digest
    shutil.copyfile(path, scratch)
    extend(reader, scratch, between, seq)
    return _state(scratch).digest


def _state(path: str) -> _State:
    with closing(connect(path, read_only=True)) as connection:
        return _read(connection)


def _read(connection: sqlite3.Connection) -> _State:
    position = read_position(connection)
    if position is None:
        raise sqlite3.DatabaseError("it has no position")
    rows = connection.execute("SELECT name, sha256, content FROM agents")
    agents = {name: (sha256, content) for name, sha256, content in rows}
    return _State(position.seq, state_digest(connection), agents)


def _agent_files(data: Data, agents: Rows) -> Compared:
    """The files that were made, byte for byte against the state that they were made from, and nothing beside them."""
    wanted = {file_name(name): content for name, (_, content) in agents.items()}
    there = set(os.listdir(data.layout.agents)) if os.path.isdir(data.layout.agents) else set()
    wrong = sorted(set(wanted) ^ there)
    for name in sorted(set(wanted) & there):
        with open(os.path.join(data.layout.agents, name), "rb") as file:
            if file.read() != wanted[name]:
                wrong.append(name)
    if wrong:
        return Compared("different", f"{len(wrong)} files are not as journaled: {', '.join(wrong[:3])}")
    return Compared("same", f"{len(wanted)} files, byte for byte as journaled")
