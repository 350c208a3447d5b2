"""Records → spans. Pure but for one question, what a restore undid, which is handed in.

Every event but the export's own cursors becomes one span at its own time; a recovery becomes a root span with a child a
step. Nothing of an event's content is in them unless ``include_content`` says so; names of memories are pseudonyms.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence

import msgspec

from journal.event_json import event_to_json
from journal.events import (
    CheckpointCreated,
    ConfigRejected,
    DrillCompleted,
    Event,
    JournalEventLost,
    RecoveryCompleted,
    RecoveryFailed,
    RecoveryStarted,
    RecoveryStepCompleted,
    ScrubCompleted,
    StateRestored,
)
from journal.record import RECORD_CONTINUES_GROUP, Record, generated_op_id
from journal.scan import Batch
from recovery.redact import NOTHING, Redactor
from recovery.telemetry.cursor import is_own_cursor
from recovery.telemetry.ids import span_id, trace_id
from recovery.telemetry.runs import Run, Runs, Step
from recovery.telemetry.spans import Link, Place, Span, Value, place_of_traceparent
from recovery.telemetry.undone import Undone, undone_ranges
from replay.conventions import memory_attributes, span_name
from replay.timeline import Range, Restore

_OF_RECOVERY = (RecoveryStarted, RecoveryStepCompleted, RecoveryCompleted, RecoveryFailed)
_RECOVERY_COUNTS = {"base_seq": "checkpoint", "events": "events", "rows": "rows", "bytes": "bytes"}
_OF_DATABASE = frozenset({"rebuild_memory", "rebuild_scope", "catch_up"})
CONTENT_CHARACTERS_MAX = 1 << 16


class Conversion:
    """The spans of one log, batch by batch in order. `prime` takes the batches before the first that is wanted."""

    def __init__(
        self,
        journal_id: bytes,
        undone: Callable[[Sequence[Range]], Undone],
        *,
        include_content: bool = False,
        redactor: Redactor = NOTHING,
    ) -> None:
        self._id = journal_id
        self._undone = undone
        self._include_content = include_content
        self._redactor = redactor
        self._runs = Runs()
        self._restores: list[Restore] = []

    def prime(self, batches: Iterable[Batch], before: int) -> None:
        """Takes note of runs that are open, and of restores, up to seq `before`, and makes no spans."""
        for batch in batches:
            for seq, record in enumerate(batch.records(), batch.first_seq):
                if seq >= before:
                    return
                for _ in self._runs.feed(seq, batch.epoch, record.time, record.event):
                    pass
                if isinstance(record.event, StateRestored):
                    self._restores.append(Restore(seq, record.event.to_seq))

    def spans(self, batch: Batch, after: int = 0) -> Iterator[Span]:
        """The spans that the batch's records make known; nothing of those up to seq `after`, which were primed."""
        first = batch.first_seq
        for seq, record in enumerate(batch.records(), batch.first_seq):
            if not record.flags & RECORD_CONTINUES_GROUP:
                first = seq
            if seq <= after:
                continue
            for told in self._runs.feed(seq, batch.epoch, record.time, record.event):
                yield self._of_step(seq, told) if isinstance(told, Step) else self._of_run(seq, told)
            if not isinstance(record.event, _OF_RECOVERY) and not is_own_cursor(record.event):
                yield self._of_event(seq, first, batch.epoch, record)

    # -- events -------------------------------------------------------------------------------------------------------

    def _of_event(self, seq: int, first: int, epoch: int, record: Record) -> Span:
        event = record.event
        attributes: dict[str, Value] = {"journal.seq": seq, "journal.event.type": event.type_name}
        attributes["journal.op_id"] = self._told(record.op_id or generated_op_id(epoch, seq))
        agent = record.agent or (event.name if event.type_name.startswith("agent.") else None)
        if agent is not None:
            attributes["gen_ai.agent.name"] = self._told(agent)
        if record.actor is not None:
            attributes["journal.actor"] = self._told(record.actor)
        of_memory = memory_attributes(self._id, event)
        attributes |= {key: self._told(each) if isinstance(each, str) else each for key, each in of_memory.items()}
        links = []
        if record.traceparent is not None:
            links.append(Link(place_of_traceparent(record.traceparent), "request"))
        took, error = 0, None
        match event:
            case StateRestored():
                undone = self._undone(undone_ranges(self._restores, seq, event.to_seq))
                self._restores.append(Restore(seq, event.to_seq))
                attributes |= {"journal.restore.to_seq": event.to_seq, "journal.restore.undone": undone.count}
                links += [Link(self._place(*each), "undone") for each in undone.newest]
            case CheckpointCreated():
                attributes |= {"journal.checkpoint.seq": event.seq, "journal.checkpoint.bytes": event.bytes}
                error = "drift" if event.drift else None
            case DrillCompleted():
                attributes["journal.drill.ok"] = event.ok
                took, error = round(max(0.0, event.seconds) * 1e9), None if event.ok else "drill_failed"
            case ScrubCompleted():
                attributes |= {"journal.scrub.bytes": event.bytes, "journal.scrub.findings": len(event.findings)}
                error = "scrub_findings" if event.findings else None
            case ConfigRejected():
                error = "config_rejected"
            case JournalEventLost():
                error = "event_lost"
        if error is not None:
            attributes["error.type"] = error
        if self._include_content:
            attributes["journal.content"] = self._content(event)
        parent = self._place(first, first) if first != seq else None
        start = max(0, record.time - took)
        return Span(
            seq, self._place(first, seq), parent, span_name(event.type_name), start, record.time, attributes,
            tuple(links), error, agent,
        )  # fmt: skip

    def _content(self, event: Event) -> str:
        """Redacted before it is JSON, and before it is cut. Bytes that are no text stay here: no rule could look
        into them."""
        spelled = {key: each for key, each in event_to_json(event).items() if not key.endswith("_base64")}
        text = msgspec.json.encode(self._redactor.value(spelled)).decode()
        return text if len(text) <= CONTENT_CHARACTERS_MAX else text[: CONTENT_CHARACTERS_MAX - 1] + "…"

    # -- recoveries ---------------------------------------------------------------------------------------------------

    def _of_run(self, seq: int, run: Run) -> Span:
        assert run.outcome is not None
        attributes = self._of_part(run.started.recovery_id, run.started.component, run.started.strategy)
        attributes |= self._counts((run.ended or run.started).counts)
        attributes["journal.recovery.outcome"] = run.outcome
        reasons = dict.fromkeys([run.started.reason, run.ended.reason if run.ended is not None else ""])
        reason = self._told("; ".join(each for each in reasons if each))
        if reason:
            attributes["journal.recovery.reason"] = reason
        error = None if run.outcome == "completed" else f"recovery_{run.outcome}"
        if error is not None:
            attributes["error.type"] = error
        links = () if run.resumes is None else (Link(self._place(run.resumes, run.resumes), "cut"),)
        return Span(
            seq, self._place(run.seq, run.seq), None, "recovery", run.start, run.end, attributes, links,
            error and (reason or error), _agent_of(run.started.component),
        )  # fmt: skip

    def _of_step(self, seq: int, step: Step) -> Span:
        done, run = step.completed, step.run
        attributes = self._of_part(done.recovery_id, done.component, done.strategy) | self._counts(done.counts)
        attributes["journal.recovery.outcome"] = "completed"
        if done.reason:
            attributes["journal.recovery.reason"] = self._told(done.reason)
        if done.strategy in _OF_DATABASE:
            attributes |= {
                "db.system.name": "sqlite", "db.namespace": "memory.db", "db.operation.name": done.strategy,
            }  # fmt: skip
        root = self._place(run.seq, run.seq)
        place = self._place(run.seq, seq)
        return Span(
            seq, place, root, "recovery.step", step.start, step.end, attributes, agent=_agent_of(done.component)
        )

    def _of_part(self, recovery_id: str, component: str, strategy: str) -> dict[str, Value]:
        named = {"id": recovery_id, "component": self._told(component), "strategy": self._told(strategy)}
        return {f"journal.recovery.{name}": each for name, each in named.items() if each}

    def _counts(self, counts: dict[str, int]) -> dict[str, Value]:
        named = ((_RECOVERY_COUNTS.get(name, f"count.{name}"), each) for name, each in counts.items())
        return {f"journal.recovery.{name}": each for name, each in named}

    # -- both ---------------------------------------------------------------------------------------------------------

    def _place(self, first: int, seq: int) -> Place:
        return Place(trace_id(self._id, first), span_id(self._id, seq))

    def _told(self, text: str) -> str:
        return self._redactor.text(text) if self._redactor else text


def _agent_of(component: str) -> str | None:
    return component.removeprefix("agent ") if component.startswith("agent ") else None
