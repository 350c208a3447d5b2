"""Runs a plan once: rebuild beside, verify, swap. Re-entrant: a cut leaves the old state or the new one, and running
again ends in the same bytes.

The plan is written to recovery.json and synced before the first step, and journaled as soon as the log is writable.
Nothing is deleted: what is replaced goes to quarantine.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Sequence
from contextlib import closing, suppress
from secrets import token_hex
from time import perf_counter, time_ns

import msgspec

from journal.errors import JournalError, Locked, UsageError
from journal.events import RecoveryCompleted, RecoveryFailed, RecoveryStarted, RecoveryStepCompleted
from journal.format import KIND_PLAN, encode_header
from journal.log import Holder, Log
from journal.storage import write_file
from recovery.data import Data
from recovery.decide import Decision, decide
from recovery.diagnose import diagnose, evidence_seq
from recovery.facts import Facts
from recovery.known import Known
from recovery.leftovers import tidy
from recovery.plan import Plan, Step, make_plan
from recovery.quarantine import expire
from replay.agent_quarantine import set_aside
from replay.catchup import catch_up
from replay.digest import state_digest
from replay.own_events import journal_event
from replay.rebuild import rebuild, renew_agents
from replay.schema import connect, read_position

Progress = Callable[[str, int, int], None]


class Recovered(msgspec.Struct):
    """What a recovery did: the state it ended in and what it cost. ``digest`` is that of a scan after the swap."""

    recovery_id: str
    seq: int = 0
    digest: str = ""
    steps: list[str] = []
    rebuilt: bool = False
    base_seq: int = 0
    passed_over: list[tuple[int, str]] = []
    events: int = 0
    rows: int = 0
    agents_written: list[str] = []
    agents_removed: list[str] = []
    quarantined: list[str] = []
    expired: list[str] = []  # names that were in quarantine for as long as the configuration says
    seconds: float = 0.0


def recover(
    data: Data, target: str, *, names: Sequence[str] = (), progress: Progress | None = None
) -> tuple[Plan, Callable[[Progress | None], Recovered]]:
    """The plan for what is wrong now, and the function that runs it.

    Diagnosing takes no lock. Running takes it, and plans again under it: the state may have changed since. What did
    not is not computed twice. A writer that is still at work is told of by Locked, a name of no agent by UsageError.
    """
    known = Known()

    def make() -> Plan:
        facts = diagnose(data, progress=progress, known=known)
        unknown = set(names) - {fact.name for fact in facts.agents}
        if unknown and not facts.journal.error:
            raise UsageError(
                f"there is no agent {min(unknown)!r}, and no file of one",
                path=data.layout.agents,
                hint="journal check names what is damaged",
            )
        return plan_for(facts, decide(facts), target=target, names=names)

    plan = make()

    def run(progress: Progress | None = None) -> Recovered:
        if not plan.steps:
            return Recovered(plan.recovery_id)
        try:
            log = open_log(data)
        except Locked:
            if plan.is_repair:
                raise
            return Recovered(plan.recovery_id)  # what is only late is the business of the writer at work
        try:
            result = execute(data, log, make(), progress)
            result.expired = expire(data, time_ns()).removed
            return result
        finally:
            log.close()

    return plan, run


def plan_for(facts: Facts, decisions: Sequence[Decision], *, target: str, names: Sequence[str] = ()) -> Plan:
    """The plan for what was found. One that was cut goes on under its own id."""
    resumed = facts.interrupted is not None
    recovery_id = _id_of(facts.interrupted) if facts.interrupted else None
    return make_plan(decisions, target=target, recovery_id=recovery_id or token_hex(8), names=names, resumed=resumed)


class _Named(msgspec.Struct):
    recovery_id: str


def _id_of(plan: str) -> str | None:
    """The id in a recovery.json, which another version may have written."""
    try:
        return msgspec.json.decode(plan, type=_Named).recovery_id
    except msgspec.MsgspecError:
        return None


def open_log(data: Data, *, accept_tail: bool = False) -> Log:
    """The journal's writer, with everything outside the log as evidence of what was durable."""
    return Log.open(
        data.storage,
        data.layout.journal,
        evidence_seq=evidence_seq(data),
        holder=Holder(pid=os.getpid(), command=" ".join([os.path.basename(sys.argv[0]), *sys.argv[1:2]]).strip()),
        segment_bytes_max=data.config.segment_bytes_max,
        reserve_bytes=data.config.disk.reserve_bytes,
        accept_tail=accept_tail,
    )


def execute(data: Data, log: Log, plan: Plan, progress: Progress | None = None) -> Recovered:
    """Runs the plan's steps under the log's lock. Raises what stopped it, after journaling `recovery.failed`."""
    result = Recovered(plan.recovery_id)
    if not plan.steps:
        return result
    started = perf_counter()
    if plan.is_repair:
        body = encode_header(KIND_PLAN, msgspec.json.format(msgspec.json.encode(plan), indent=1))
        write_file(data.storage, data.plan_path, body)
        journal_event(log, RecoveryStarted(plan.recovery_id, plan.target, strategy="replay", reason=_why(plan)))
    try:
        for step in _grouped(plan.steps):
            before = perf_counter()
            counts = _STEPS[step.kind](data, log, step, result, progress)
            result.steps.append(step.words)
            if plan.is_repair:
                counts["milliseconds"] = round((perf_counter() - before) * 1000)
                done = RecoveryStepCompleted(plan.recovery_id, step.component, step.kind, counts, step.reason)
                journal_event(log, done)
    except Exception as error:
        if plan.is_repair and log.poisoned is None:
            with suppress(JournalError):  # a disk too full to recover on may be too full to say so
                journal_event(log, RecoveryFailed(plan.recovery_id, plan.target, reason=str(error)[:2000]))
        raise
    if plan.is_repair:
        counts = {"events": result.events, "rows": result.rows, "agents": len(result.agents_written)}
        journal_event(log, RecoveryCompleted(plan.recovery_id, plan.target, strategy="replay", counts=counts))
    _finish(data, result)
    if data.storage.kind(data.plan_path) != "missing":
        data.storage.remove(data.plan_path)
        data.storage.sync_dir(data.layout.journal)
    result.seconds = perf_counter() - started
    return result


def _why(plan: Plan) -> str:
    return "; ".join(dict.fromkeys(step.reason for step in plan.steps))[:2000]


def _grouped(steps: Sequence[Step]) -> list[Step]:
    """Steps on agents become one: their files are brought current together, with one directory sync."""
    agents = [step for step in steps if step.kind == "restore_agents"]
    if not agents:
        return list(steps)
    names = tuple(name for step in agents for name in step.names)
    reason = "; ".join(dict.fromkeys(step.reason for step in agents))[:1000]
    together = Step("restore_agents", "agents", reason, f"bring {len(names)} agent files current", names)
    first = steps.index(agents[0])
    return [*steps[:first], together, *(step for step in steps[first:] if step.kind != "restore_agents")]


# -- the steps --------------------------------------------------------------------------------------------------------


def _rebuild_memory(data: Data, log: Log, step: Step, result: Recovered, progress: Progress | None) -> dict[str, int]:
    tick = None if progress is None else lambda done, total: progress("rebuild memory.db", done, total)
    built = rebuild(data.storage, data.layout, log.reader(), tick, mark=step.mark)
    result.rebuilt, result.base_seq, result.passed_over = True, built.base_seq, list(built.passed_over)
    result.events, result.rows = built.events, built.rows
    result.seq, result.digest = built.position.seq, built.digest
    retired = data.generations.retire()
    result.quarantined += retired.quarantined
    return {"events": built.events, "rows": built.rows, "base_seq": built.base_seq}


def _catch_up(data: Data, log: Log, step: Step, result: Recovered, progress: Progress | None) -> dict[str, int]:
    path = data.generations.current().path
    assert path is not None
    with closing(connect(path)) as connection:
        caught = catch_up(connection, log.reader())
    if caught.restore is not None:  # journaled since the plan was made: a live file cannot go back
        return _rebuild_memory(data, log, step, result, progress)
    result.seq = caught.to_seq
    result.events += caught.applied.events
    return {"events": caught.applied.events}


def _set_agents_aside(data: Data, log: Log, step: Step, result: Recovered, progress: Progress | None) -> dict[str, int]:
    path = data.layout.agents
    kept = set_aside(data.storage, path, data.quarantine, time=time_ns(), reason=f"journal recover: {step.reason}")
    data.storage.sync_dir(os.path.dirname(path))
    result.quarantined.append(kept)
    return {"set_aside": 1}


def _restore_agents(data: Data, log: Log, step: Step, result: Recovered, progress: Progress | None) -> dict[str, int]:
    outcome = renew_agents(
        data.storage, data.layout, log.reader(), time=time_ns(), reason="journal recover", names=step.names
    )
    result.agents_written += outcome.written
    result.agents_removed += outcome.removed
    result.quarantined += outcome.set_aside.values()
    return {"written": len(outcome.written), "removed": len(outcome.removed), "set_aside": len(outcome.set_aside)}


def _tidy(data: Data, log: Log, step: Step, result: Recovered, progress: Progress | None) -> dict[str, int]:
    tidied = tidy(data)
    result.quarantined += tidied.quarantined
    return {"removed": len(tidied.removed), "set_aside": len(tidied.quarantined)}


_STEPS: dict[str, Callable[[Data, Log, Step, Recovered, Progress | None], dict[str, int]]] = {
    "rebuild_memory": _rebuild_memory,
    "catch_up": _catch_up,
    "set_agents_aside": _set_agents_aside,
    "restore_agents": _restore_agents,
    "tidy": _tidy,
}


def _finish(data: Data, result: Recovered) -> None:
    """Moves memory.db past the recovery's own records, and takes the digest of what users will read."""
    path = data.generations.current().path
    if path is None:
        return
    with closing(connect(path)) as connection:
        catch_up(connection, data.reader())
        position = read_position(connection)
        result.digest = result.digest or state_digest(connection)  # the recovery's own records make no rows
    assert position is not None
    result.seq = position.seq
