"""One scope of memory.db: compared with the journal, and put right alone.

The facts are taken from outside, as `diagnose` takes its own; what belongs to a scope and how it is put right is
`replay.scope`'s. Everything else about the directory stays the business of `journal check` and `journal recover`.
"""

from __future__ import annotations

import shlex
import sqlite3
from collections.abc import Callable
from contextlib import closing

import msgspec

from journal.errors import JournalError, Refused, UsageError
from journal.limits import check_scope
from recovery.data import Data
from recovery.decide import decide_journal
from recovery.diagnose import read_journal
from recovery.execute import plan_for_decisions, planned
from recovery.facts import ScopeFacts
from recovery.known import Known
from recovery.looking import Look, Progress
from recovery.plan import Plan
from recovery.reading import reading
from recovery.recovered import Recovered
from recovery.rows import Decision, first, stop_error
from recovery.tables.scope import SCOPE
from replay.deviation import counts
from replay.engine import build_state
from replay.schema import connect, read_position
from replay.scope import deviations, read_part
from replay.scratch import scratch_directory


def check_scope_name(scope: str) -> None:
    """Raises UsageError for what no event can have as its scope."""
    try:
        check_scope("--scope", scope)
    except Refused as error:
        raise UsageError(error.message, hint=error.hint) from None


def look_at_scope(data: Data, scope: str, progress: Progress | None = None) -> ScopeFacts:
    """Compares the scope's rows with those of the journal at memory.db's position. Takes no lock, changes nothing.

    Raises what keeps the journal from being read.
    """
    reader, journal = read_journal(data)
    if reader is None:
        raise stop_error(decide_journal(journal))
    plan = data.interrupted_plan()
    interrupted = plan.decode(errors="replace") if plan is not None else None
    with scratch_directory("check") as scratch:
        memory = Look(data, reader, scratch, False, progress, Known()).at_memory()
        facts = ScopeFacts(scope=scope, memory=memory, interrupted=interrupted)
        if memory.path is None or memory.position_is not in ("here", "behind", "restore_pending"):
            return facts
        tick = None if progress is None else lambda done, total: progress("replay", done, total)
        try:
            with reading(memory.path) as found:
                position = read_position(found)
                if position is None:
                    return facts
                reader.refresh()
                path = f"{scratch}/expected.db"
                build_state(
                    data.storage, data.layout.journal, reader, position.seq, path, tick, embeddings=False,
                    journal_mode="delete",
                )  # fmt: skip
                with closing(connect(path, read_only=True)) as wanted:
                    expected = read_part(wanted, scope)
                part = read_part(found, scope, expected)
        except (sqlite3.Error, OSError) as error:
            broken = msgspec.structs.replace(memory, readable=False, problem=str(error))
            return ScopeFacts(scope=scope, memory=broken, interrupted=interrupted)
    return msgspec.structs.replace(
        facts, digest=part.digest, expected=expected.digest, tables=deviations(part, expected),
        rest_differs=part.rest != expected.rest or any(part.gaps.values()),
    )  # fmt: skip


def decide_scope(facts: ScopeFacts) -> Decision:
    decision = first(SCOPE, facts).decision(f"scope {facts.scope}", facts)
    hint = decision.hint.replace("SCOPE", shlex.quote(facts.scope))
    return msgspec.structs.replace(decision, hint=hint, counts=counts(facts.tables or {}))


def recover_scope(
    data: Data, scope: str, progress: Progress | None = None
) -> tuple[Plan, Callable[[Progress | None], Recovered]]:
    """The plan for this scope, and the function that runs it under the journal's lock, planning again.

    Raises Corrupt with what to run instead where memory.db as a whole is in no state to be put right in parts.
    """
    return planned(data, scope_planner(data, scope, progress))


def scope_planner(data: Data, scope: str, progress: Progress | None = None) -> Callable[[], Plan]:
    """Makes the plan for this scope whenever it is called. It raises as `recover_scope` does."""

    def make() -> Plan:
        facts = look_at_scope(data, scope, progress)
        decision = decide_scope(facts)
        if decision.health == "failed" and decision.action == "none":
            raise JournalError(f"scope {scope}: {decision.reason}", path=facts.memory.path, hint=decision.hint)
        plan = plan_for_decisions([decision], facts.interrupted, target="memory")
        return msgspec.structs.replace(plan, scope=scope)

    return make
