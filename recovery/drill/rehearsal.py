"""A rehearsal of the whole recovery, beside the live state: the journal is copied to a scratch directory, memory.db and
the agent files are made from that copy alone by the very code that a recovery runs, and what comes out is compared.

Takes no lock and changes nothing that is live, so it may run beside a writer. What is compared is `drill_compare`'s;
whether the result is journaled is the caller's.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from time import perf_counter

import msgspec

from journal.errors import NoSpace, NotAJournal
from journal.stored import unpacked_bytes
from recovery.config.table import Config
from recovery.data import Data
from recovery.drill.comparison import Compared, Verdict, compare
from recovery.execute import recover
from recovery.log.backup import back_up
from recovery.log.bring_back import planned_bringing_back
from recovery.model.looking import look_at_model
from recovery.places import is_within, lies_on_live_data, place_of
from replay.scratch import scratch_directory

Progress = Callable[[str, int, int], None]


class Timed(msgspec.Struct):
    """One step of the rehearsal; ``seconds`` by the clock."""

    name: str
    seconds: float
    said: str


class Drilled(msgspec.Struct, kw_only=True):
    """What a drill came to.

    ``seconds`` is what the recovery itself took, from the copied journal to the files; comparing is not in it.
    ``behind`` counts the events that the ``backup`` does not hold. ``model`` is what is live: it is not rehearsed, and
    no part of ``ok``. ``journaled_seq`` is that of the drill's own event, ``not_journaled`` why there is none.
    """

    ok: bool
    seq: int
    digest: str
    seconds: float
    steps: list[Timed]
    memory: Compared
    agents: Compared
    model: Compared
    backup: str | None = None
    behind: int = 0
    journaled_seq: int | None = None
    not_journaled: str | None = None


def drill(
    data: Data, *, backup: str | None = None, scratch: str | None = None, progress: Progress | None = None
) -> Drilled:
    """Rehearses, compares, and leaves nothing behind; a Ctrl-C on the way leaves nothing, either.

    Raises what the recovery would raise: Corrupt for a damaged journal or backup, NoSpace before anything is copied,
    UsageError for a scratch directory inside the live data.
    """
    steps: list[Timed] = []
    with _scratch(data, scratch, backup) as root:
        rehearsal = Data(root, Config(agents=data.config.agents), data.storage)  # no path of the live configuration
        with _timed(steps, "bring the journal") as say:
            say(_bring(data, rehearsal, backup, progress))
            seq = rehearsal.reader().last_seq
        with _timed(steps, "recover memory and agents") as say:
            result = recover(rehearsal, "agents", progress=progress)[1](progress)
            say(f"{result.events} events, {result.rows} rows, {len(result.agents_written)} agent files")
        seconds = sum(step.seconds for step in steps)
        with _timed(steps, "compare") as say:
            found = compare(data, rehearsal, seq, f"{root}/compare.db", from_backup=backup is not None)
            say(f"memory {found.memory.verdict}, agents {found.agents.verdict}")
    with _timed(steps, "model") as say:
        model = _model(data)
        say(model.said)
    behind = max(0, data.reader().last_seq - seq) if backup is not None else 0
    ok = all(each.verdict != "different" for each in (found.memory, found.agents))
    return Drilled(
        ok=ok, seq=found.seq, digest=found.digest, seconds=seconds, steps=steps, memory=found.memory,
        agents=found.agents, model=model, backup=backup, behind=behind,
    )  # fmt: skip


def _bring(data: Data, rehearsal: Data, backup: str | None, progress: Progress | None) -> str:
    if backup is not None:
        planned_bringing_back(rehearsal, backup).run()
        return f"from the backup in {backup}, every byte verified"
    tick = None if progress is None else lambda done, total: progress("copy the journal", done, total)
    copied = back_up(data, rehearsal.root, tick)
    return f"{copied.files_copied} files, {copied.bytes_copied} bytes, every byte verified"


def _model(data: Data) -> Compared:
    """The model is not fetched in a rehearsal: whether it is as journaled says whether it would have to be."""
    from recovery.decide import decide_model
    from recovery.known import Known

    decision = decide_model(look_at_model(data, data.reader(), Known(), hashed=True, tested="never"))
    verdict: Verdict = "not compared" if decision.case in ("absent", "unjournaled") else "same"
    return Compared(verdict if decision.health == "healthy" else "different", decision.reason)


@contextmanager
def _scratch(data: Data, scratch: str | None, backup: str | None) -> Iterator[str]:
    """An empty directory on a disk with room enough, gone afterwards."""
    place = place_of(scratch if scratch is not None else tempfile.gettempdir(), "--scratch")
    if lies_on_live_data(data, f"{place}/x") or is_within(place, os.path.realpath(data.root)):
        from journal.errors import UsageError

        raise UsageError("the live data lies there", path=place, hint="name a directory elsewhere")
    data.storage.make_directory(place)
    need, free = _need(data, backup), data.storage.free_bytes(place)
    if free < need:
        raise NoSpace(
            f"a drill needs about {(need >> 20) + 1} MiB, {free >> 20} MiB are free", path=place,
            hint="free some disk space, or name another directory with --scratch",
        )  # fmt: skip
    with scratch_directory("drill", place if scratch is not None else None) as root:
        yield root


def _need(data: Data, backup: str | None) -> int:
    """Bytes: the copied log and checkpoints, the memory.db that is built twice at most, and the agents' files."""
    source = Data(backup, Config(), data.storage) if backup is not None else data
    if backup is not None and not os.path.isdir(source.layout.journal):
        raise NotAJournal("no backup there", path=backup, hint="name the directory that journal backup wrote")
    manifests = source.checkpoints.manifests()
    parts = {part.sha256: part.length for manifest in manifests for part in manifest.parts}
    log = sum(unpacked_bytes(data.storage, segment.path) for segment in source.reader().segments)
    built = max(manifests[0].bytes if manifests else 0, 2 * log)
    return log + sum(parts.values()) + 2 * built


@contextmanager
def _timed(steps: list[Timed], name: str) -> Iterator[Callable[[str], None]]:
    told: list[str] = [""]

    def say(text: str) -> None:
        told[0] = text

    started = perf_counter()
    yield say
    steps.append(Timed(name, perf_counter() - started, told[0]))
