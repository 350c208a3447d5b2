"""Hot reload: a config is journaled, the server is told to load it, and what fails is made good again.

The attempt is journaled before the server sees it, and so is everything that is done about a failure. The steps are the
table's (`recovery.tables.reload`); this module runs them, one by one, on the live state. All of it happens in the
caller's thread; the writer's lock is held only while something is appended or exchanged, so other writers go on.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from secrets import token_hex
from typing import Any, Literal

import msgspec

from journal.commit import Receipt, draft, ticket
from journal.errors import JournalError, Refused
from journal.events import (
    ConfigRejected,
    ConfigRemoved,
    ConfigWritten,
    Event,
    RecoveryCompleted,
    RecoveryFailed,
    RecoveryStarted,
    RecoveryStepCompleted,
    StatusChanged,
)
from journal.reader import LogReader
from recovery.agents.failures import failure_in, failure_of
from recovery.agents.measure import Measure
from recovery.agents.messages import recover_messages
from recovery.agents.rescue import Rescuer
from recovery.config.kinds import Failure
from recovery.data import Data
from recovery.tables.reload import StepName, remedy_for
from replay.agent_tools import without_tools
from replay.core import Core
from replay.deviation import words

Callback = Callable[[str, bytes], object]
"""The server's own reload: called with an agent's name and config, raises where it cannot load it."""

LOG_BYTES_MAX = 1 << 20  # of a server's log that are looked at, from its end


class Done(msgspec.Struct, frozen=True):
    """One step that was taken: whether it worked, and what came of it, in words."""

    step: StepName
    ok: bool
    detail: str


class Reloaded(msgspec.Struct):
    """How a reload, or the recovery from a failed one, ended.

    ``outcome``: reloaded at once; recovered (the new version is in force, or what is left of it without the tools that
    failed); rolled_back (an earlier version is in force, or the agent is gone if it had none); failed (nothing helped,
    and the agent's status says so). ``seq`` is that of the attempt's config.
    """

    name: str
    outcome: Literal["reloaded", "recovered", "rolled_back", "failed"] = "reloaded"
    seq: int | None = None
    failure: Failure | None = None
    cause: str = ""
    recovery_id: str = ""
    steps: list[Done] = []


class _StepFailed(Exception):
    """A step did not help; the text says why."""


@dataclass
class _Run:
    """One recovery under way: what failed, what was before, and what is known by now."""

    result: Reloaded
    failed: bytes  # the text that could not be loaded
    previous: bytes | None = None  # the version in force before it
    status: tuple[str, str] = ("active", "")
    is_new: bool = False  # there was no such agent before
    tools: tuple[str, ...] = ()
    tried: set[str] = field(default_factory=set)  # sha256 of what the server could not load
    gone: bool = False


class Reloader:
    """Reloads agents of one open core. `callback` is the server's own reload, `declared` says what its exceptions
    mean; without a callback nobody is told, and failures come from the server's log."""

    def __init__(
        self,
        data: Data,
        core: Core,
        callback: Callback | None = None,
        declared: Mapping[type[BaseException], Failure] | None = None,
    ) -> None:
        self.data = data
        self.core = core
        self.callback = callback
        self.declared = declared

    def reload(self, name: str, content: bytes, **envelope: Any) -> Reloaded:
        """Journals the config, tells the server, and recovers by the type of the failure where it cannot load it.

        Raises Refused for a config that strict validation refuses, after journaling it as rejected.
        """
        row = self._row(name)
        try:
            receipt = self._append(ConfigWritten(name, content), **envelope)[0]
        except Refused as error:
            if error.code == "invalid":
                self._append(ConfigRejected(name, content, [error.message]), **envelope)
            raise
        result = Reloaded(name, seq=receipt.seq)
        log_at = _log_bytes(self.data)
        try:
            if self.callback is not None:
                self.callback(name, content)
            return result
        except Exception as error:
            failure, tools = failure_of(error, self.declared)
            cause = f"{type(error).__name__}: {error}"
        if failure == "unknown":
            failure, tools, line = failure_in(log_of(self.data, log_at), name, self.data.config.reload.all_patterns)
            cause += f" (log: {line})" if line else ""
        run = _Run(result, content, tools=tools, is_new=row is None)
        if row is not None:
            run.previous, run.status = row[0], row[1:]
        return self._recover(run, failure, cause)

    def recover(self, name: str, failure: Failure, tools: tuple[str, ...] = (), cause: str = "") -> Reloaded:
        """Recovers from a failed reload of the config that is in force now. Raises Refused where there is no such
        agent."""
        row = self._row(name)
        if row is None:
            raise Refused("not_found", f"there is no agent {name!r}", hint="journal agents list names them")
        run = _Run(Reloaded(name), row[0], status=("active", "") if row[1] != "active" else row[1:], tools=tools)
        return self._recover(run, failure, cause or "an operator said so")

    # -- running the table --------------------------------------------------------------------------------------------

    def _recover(self, run: _Run, failure: Failure, cause: str) -> Reloaded:
        result = run.result
        result.recovery_id, result.failure, result.cause = token_hex(8), failure, cause[:2000]
        result.outcome = "recovered"
        run.tried.add(_sha256(run.failed))
        component = f"agent {result.name}"
        self._append(RecoveryStarted(result.recovery_id, component, failure, reason=result.cause))
        trying: Failure | None = failure
        while trying is not None:
            remedy = remedy_for(trying)
            problem = self._run_steps(run, remedy.steps)
            if not problem:
                counts = {"steps": len(result.steps)}
                self._append(RecoveryCompleted(result.recovery_id, component, trying, counts, result.outcome))
                return result
            trying = remedy.otherwise
        result.outcome = "failed"
        ending: list[Event] = [RecoveryFailed(result.recovery_id, component, failure, reason=problem[:2000])]
        if self._row(result.name) is not None:
            ending.insert(0, StatusChanged(result.name, "failed", problem[:1000]))
        self._append(*ending)
        return result

    def _run_steps(self, run: _Run, steps: tuple[StepName, ...]) -> str:
        """Runs the steps until one fails; returns why, or nothing."""
        result = run.result
        for step in steps:
            if run.gone and step != "roll_back":
                continue
            try:
                detail, events = _STEPS[step](self, run)
                ok = True
            except (_StepFailed, JournalError) as error:
                detail, events, ok = str(error), (), False
            told = f"{detail}" if ok else f"did not help: {detail}"
            component = f"agent {result.name}"
            self._append(*events, RecoveryStepCompleted(result.recovery_id, component, step, {}, told[:2000]))
            result.steps.append(Done(step, ok, detail))
            if not ok:
                return f"{step}: {detail}"
        return ""

    # -- steps: each returns what came of it, and the events that are journaled with it -------------------------------

    def _suspend(self, run: _Run) -> tuple[str, tuple[Event, ...]]:
        name, result = run.result.name, run.result
        if (self._row(name) or ("", ""))[1] == "suspended":
            return "it is suspended already", ()
        return "suspended", (StatusChanged(name, "suspended", f"{result.failure}: {result.cause}"[:1000]),)

    def _resume(self, run: _Run) -> tuple[str, tuple[Event, ...]]:
        return run.status[0], (StatusChanged(run.result.name, *run.status),)

    def _roll_back(self, run: _Run) -> tuple[str, tuple[Event, ...]]:
        name, result = run.result.name, run.result
        row = self._row(name)
        if row is not None:
            run.tried.add(_sha256(row[0]))
        result.outcome = "rolled_back"
        rejected = ConfigRejected(name, run.failed, [f"{result.failure}: {result.cause}"[:1000]])
        if run.is_new:
            run.gone = True
            return "it had no version before: removed", (rejected, ConfigRemoved(name, origin="recovery"))
        content, source = self._last_good(run)
        return source, (rejected, ConfigWritten(name, content, origin="recovery"))

    def _last_good(self, run: _Run) -> tuple[bytes, str]:
        """The version in force before, if nothing speaks against it; else what the ladder of `agents.rescue` gives:
        valid in every respect if there is such a one, else as the configuration asks."""
        name, config = run.result.name, self.data.config.agents
        previous = run.previous
        usual = Measure.of(config)
        if previous is not None and _sha256(previous) not in run.tried and not usual.complaint(name, previous):
            return previous, "the version before"
        reader = LogReader(self.data.storage, self.data.layout.journal)
        for measure, mend in ((Measure.of(config, strictly=True), False), (usual, False), (usual, True)):
            found = Rescuer(self.data, reader, measure).find(name, run.result.cause, but=run.tried, mend=mend)
            if found.content is not None and found.rescue.chosen is not None:
                chosen = found.rescue.chosen
                over = "; ".join(found.rescue.passed_over) or "nothing"
                return found.content, f"{chosen.strategy}: {chosen.source}; passed over: {over}"
        raise _StepFailed("there is no other version")

    def _validate(self, run: _Run) -> tuple[str, tuple[Event, ...]]:
        name = run.result.name
        row = self._row(name)
        complaint = Measure.of(self.data.config.agents).complaint(name, row[0]) if row is not None else "it is gone"
        if complaint:
            raise _StepFailed(complaint)
        return "nothing forbids it", ()

    def _rebuild_scope(self, run: _Run) -> tuple[str, tuple[Event, ...]]:
        rebuilt = self.core.recover_scope(f"agent:{run.result.name}")
        return words(rebuilt.tables) or "every row was the journal's", ()

    def _verify_scope(self, run: _Run) -> tuple[str, tuple[Event, ...]]:
        from recovery.scope import look_at_scope

        facts = look_at_scope(self.data, f"agent:{run.result.name}")
        if facts.digest is None or facts.digest != facts.expected:
            raise _StepFailed(words(facts.tables or {}) or facts.memory.problem or "its digest is not the journal's")
        return f"digest {facts.digest}", ()

    def _rebuild_messages(self, run: _Run) -> tuple[str, tuple[Event, ...]]:
        rebuilt = recover_messages(self.data, self.core, run.result.name)
        return f"{rebuilt.rows} messages, {rebuilt.missing} were missing, {len(rebuilt.replaced)} replaced", ()

    def _reduce_tools(self, run: _Run) -> tuple[str, tuple[Event, ...]]:
        name = run.result.name
        row = self._row(name)
        reduced = without_tools(row[0], run.tools) if row is not None else None
        if reduced is None:
            named = ", ".join(run.tools) or "no tool was named"
            raise _StepFailed(f"the config cannot be written without the failing tools ({named})")
        seq = self.core.log.next_seq - 1
        detail = f"without {', '.join(run.tools)}; the original: journal replay --until {seq} --in-place --agent {name}"
        return detail, (ConfigWritten(name, reduced, origin="recovery"),)

    def _reload(self, run: _Run) -> tuple[str, tuple[Event, ...]]:
        name = run.result.name
        row = self._row(name)
        if row is None:
            raise _StepFailed("the agent is gone")
        if self.callback is None:
            return "nobody to tell: the server loads the file", ()
        try:
            self.callback(name, row[0])
        except Exception as error:
            raise _StepFailed(f"{type(error).__name__}: {error}") from error
        return "loaded", ()

    # -- the live state -----------------------------------------------------------------------------------------------

    def _row(self, name: str) -> tuple[bytes, str, str] | None:
        """Content, status and reason of an agent."""
        with self.core.lock:
            asked = "SELECT content, status, reason FROM agents WHERE name = ?"
            found: tuple[bytes, str, str] | None = self.core.state.connection.execute(asked, (name,)).fetchone()
        return found

    def _append(self, *events: Event, agent: str | None = None, actor: str | None = "journal",
                op_id: str | None = None, traceparent: str | None = None) -> list[Receipt]:  # fmt: skip
        request = ticket([draft(event, agent, actor, traceparent) for event in events], op_id)
        with self.core.lock:
            self.core.committer.commit_now(request)
        return request.result()


# -- the server's log -------------------------------------------------------------------------------------------------


def log_of(data: Data, since: int = 0) -> str:
    """What the configured log has behind `since`, or all of it where it was begun anew; at most its last MiB."""
    path = data.reload_log
    if path is None:
        return ""
    try:
        with open(path, "rb") as file:
            size = file.seek(0, os.SEEK_END)
            begin = since if since <= size else 0
            file.seek(max(begin, size - LOG_BYTES_MAX))
            return file.read(LOG_BYTES_MAX).decode(errors="replace")
    except OSError:  # then it says nothing, and the failure is one that nobody knows
        return ""


def _log_bytes(data: Data) -> int:
    try:
        return os.path.getsize(data.reload_log) if data.reload_log is not None else 0
    except OSError:
        return 0


def _sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


_STEPS: Mapping[StepName, Callable[[Reloader, _Run], tuple[str, tuple[Event, ...]]]] = {
    "suspend": Reloader._suspend,
    "roll_back": Reloader._roll_back,
    "validate": Reloader._validate,
    "rebuild_scope": Reloader._rebuild_scope,
    "verify_scope": Reloader._verify_scope,
    "reduce_tools": Reloader._reduce_tools,
    "rebuild_messages": Reloader._rebuild_messages,
    "reload": Reloader._reload,
    "resume": Reloader._resume,
}
