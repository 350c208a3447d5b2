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
from journal.files import write_file
from journal.format import KIND_PLAN, encode_header
from journal.holder import Holder
from journal.log import Log
from journal.repaired import Repair
from recovery.data import Data
from recovery.decide import decide
from recovery.diagnose import diagnose
from recovery.evidence import evidence_seq
from recovery.facts import Facts
from recovery.known import Known
from recovery.log.takeover import takeover_event
from recovery.log.telling import journal_repairs, put_log_right
from recovery.model.looking import Tested
from recovery.plan import Plan, Step, make_plan
from recovery.quarantine import expire
from recovery.recovered import Recovered
from recovery.rows import Decision, stop_error
from recovery.serving.holding import refuse_beside_writer
from recovery.steps import STEPS, Progress
from replay.catchup import catch_up
from replay.core import Core
from replay.digest import state_digest
from replay.faults import declared
from replay.own_events import journal_event
from replay.schema import connect, read_position
from replay.sharing import unshare
from replay.tracing import span

_TESTED: dict[str, Tested] = {"all": "never", "model": "unjournaled"}  # other targets do not look at the model


def recover(
    data: Data, target: str, *, names: Sequence[str] = (), progress: Progress | None = None
) -> tuple[Plan, Callable[[Progress | None], Recovered]]:
    """The plan for what is wrong now, and the function that runs it; see `planned`.

    A name of no agent is told of by UsageError.
    """
    return planned(data, planner(data, target, names=names, progress=progress))


def planner(
    data: Data, target: str, *, names: Sequence[str] = (), progress: Progress | None = None
) -> Callable[[], Plan]:
    """Makes the plan for what is wrong whenever it is called, and computes nothing twice."""
    known = Known()

    def make() -> Plan:
        facts = diagnose(
            data, progress=progress, known=known, asked=names, model=_TESTED.get(target), around=target == "all"
        )
        unknown = set(names) - {fact.name for fact in facts.agents}
        if unknown and not facts.journal.error:
            raise UsageError(
                f"there is no agent {min(unknown)!r}, and no file of one",
                path=data.layout.agents,
                hint="journal check names what is damaged",
            )
        return plan_for(facts, decide(facts), target=target, names=names)

    return make


def planned(data: Data, make: Callable[[], Plan]) -> tuple[Plan, Callable[[Progress | None], Recovered]]:
    """A plan, and the function that runs it.

    Planning takes no lock. Running takes it, and plans again under it: the state may have changed since. A writer that
    is still at work is told of by Locked.
    """
    plan = make()

    def run(progress: Progress | None = None) -> Recovered:
        if not plan.steps:
            return Recovered(plan.recovery_id)
        try:
            repaired = put_log_right(data) if plan.repairs_log else []
            log = open_log(data)
        except Locked:
            if plan.is_repair:
                raise
            return Recovered(plan.recovery_id)  # what is only late is the business of the writer at work
        try:
            if plan.swaps_memory:
                refuse_beside_writer(data)
            told = takeover_event(log)
            if told is not None:  # before planning: memory.db then catches up with it, too
                journal_event(log, told)
            return _run(data, log, make(), progress, repaired)
        finally:
            log.close()

    return plan, run


def run_within(data: Data, core: Core, make: Callable[[], Plan], progress: Progress | None = None) -> Recovered:
    """The same while a hook is open over `core`: its callers wait, and go on with what is current then.

    Raises what a plan stops for, as `stop_error` has it.
    """
    plan = make()
    _stop_for(plan)
    if not plan.is_repair:
        return Recovered(plan.recovery_id)  # what is only late is the hook's own business
    with core.exclusively() as log:
        return _run(data, log, make(), progress)


def _run(
    data: Data, log: Log, plan: Plan, progress: Progress | None, repaired: Sequence[Repair] = ()
) -> Recovered:
    _stop_for(plan)
    result = execute(data, log, plan, progress)
    result.repaired = [each.words() for each in repaired]
    result.expired = expire(data, time_ns()).removed
    return result


def _stop_for(plan: Plan) -> None:
    for decision in plan.stops:
        raise stop_error(decision)


def plan_for(facts: Facts, decisions: Sequence[Decision], *, target: str, names: Sequence[str] = ()) -> Plan:
    """The plan for what was found. One that was cut goes on under its own id."""
    return plan_for_decisions(decisions, facts.interrupted, target=target, names=names)


def plan_for_decisions(
    decisions: Sequence[Decision], interrupted: str | None, *, target: str, names: Sequence[str] = ()
) -> Plan:
    """As `plan_for`; `interrupted` is the plan that was cut, if there is one."""
    recovery_id = _id_of(interrupted) if interrupted else None
    return make_plan(
        decisions, target=target, recovery_id=recovery_id or token_hex(8), names=names, resumed=interrupted is not None
    )


class _Named(msgspec.Struct):
    recovery_id: str


def _id_of(plan: str) -> str | None:
    """The id in a recovery.json, which another version may have written."""
    try:
        return msgspec.json.decode(plan, type=_Named).recovery_id
    except (msgspec.MsgspecError, ValueError, RecursionError):
        return None


def open_log(data: Data, *, accept_tail: bool = False, evidence: int = 0) -> Log:
    """The journal's writer, with everything outside the log as evidence of what was durable.

    Repairs of the journal's files, by this open or before it, are journaled first of all.
    """
    command = " ".join([os.path.basename(sys.argv[0]), *sys.argv[1:2]]).strip()
    log = Log.open(
        data.storage,
        data.layout.journal,
        evidence_seq=max(evidence, evidence_seq(data)),
        holder=Holder(pid=os.getpid(), command=data.redactor.text(command)),
        segment_bytes_max=data.config.segment_bytes_max,
        reserve_bytes=data.config.disk.reserve_bytes,
        accept_tail=accept_tail,
        strict=data.config.durability.strict,
    )
    try:
        with declared(data.layout.memory_db):
            unshare(data.storage, data.layout)  # before anything catches up: a backup of hard links would follow
        journal_repairs(data.storage, data.layout.journal, log)
    except BaseException:
        log.close()
        raise
    return log


def execute(data: Data, log: Log, plan: Plan, progress: Progress | None = None) -> Recovered:
    """Runs the plan's steps under the log's lock. Raises what stopped it, after journaling `recovery.failed`."""
    if not plan.steps:
        return Recovered(plan.recovery_id)
    if not plan.is_repair:  # what is only late is caught up with: no recovery, in the journal or in a trace
        return _execute(data, log, plan, progress)
    told = {"id": plan.recovery_id, "component": plan.target, "strategy": plan.strategy}
    with span("journal.recovery", {f"journal.recovery.{name}": each for name, each in told.items()}) as live:
        result = _execute(data, log, plan, progress)
        live.set(journal__recovery__events=result.events, journal__recovery__rows=result.rows)
        return result


def _execute(data: Data, log: Log, plan: Plan, progress: Progress | None) -> Recovered:
    result = Recovered(plan.recovery_id)
    started = perf_counter()
    if plan.is_repair:
        told = msgspec.to_builtins(plan)
        told |= {key: data.redactor.value(told[key]) for key in ("steps", "stops", "left")}
        body = encode_header(KIND_PLAN, msgspec.json.format(msgspec.json.encode(told), indent=1))
        write_file(data.storage, data.plan_path, body)
        found = {name: count for step in plan.steps for name, count in step.counts.items()}
        why = _why(data, plan)
        journal_event(log, RecoveryStarted(plan.recovery_id, plan.target, plan.strategy, found, why))
    try:
        for step in _grouped(plan.steps):
            before = perf_counter()
            with span("journal.recovery.step", {"journal.recovery.strategy": step.kind}):
                counts = step.counts | STEPS[step.kind](data, log, step, result, progress)
            result.steps.append(step.words)
            if plan.is_repair:
                counts["milliseconds"] = round((perf_counter() - before) * 1000)
                reason = data.redactor.text(step.reason)
                done = RecoveryStepCompleted(plan.recovery_id, step.component, step.kind, counts, reason)
                journal_event(log, done)
    except Exception as error:
        if plan.is_repair and log.poisoned is None:
            with suppress(JournalError):  # a disk too full to recover on may be too full to say so
                reason = data.redactor.text(str(error))[:2000]
                journal_event(log, RecoveryFailed(plan.recovery_id, plan.target, reason=reason))
        raise
    if plan.is_repair:
        counts = {"events": result.events, "rows": result.rows, "agents": len(result.agents_written)}
        reason = "; ".join(result.problems)[:2000]
        journal_event(log, RecoveryCompleted(plan.recovery_id, plan.target, plan.strategy, counts, reason))
    if not plan.scope:  # elsewhere the file may be damaged: nothing is applied to it here
        _finish(data, result)
    if data.storage.kind(data.plan_path) != "missing":
        data.storage.remove(data.plan_path)
        data.storage.sync_dir(data.layout.journal)
    result.seconds = perf_counter() - started
    return result


def _why(data: Data, plan: Plan) -> str:
    return data.redactor.text("; ".join(dict.fromkeys(step.reason for step in plan.steps)))[:2000]


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
