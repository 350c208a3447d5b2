"""Every span and attribute that leaves, as tables: the conversion reads them, and docs/telemetry.md is made from them.

Names follow OpenTelemetry's semantic conventions where there are any (GenAI memory spans, database, errors); what is
the journal's own begins with `journal.`.
"""

from __future__ import annotations

SCOPE_NAME = "agent-journal"

RECOVERY_SPANS = (
    ("recovery", "A recovery from its start to its end; its trace holds its steps."),
    ("recovery.step", "One step of it: its child."),
)

LIVE_SPANS = (
    ("journal.append", "A call of `append`, from the call to its receipt. A memory's change has the name of its "
     "`gen_ai.operation.name` instead."),
    ("journal.append_all", "A call of `append_all`: a group."),
    ("apply memory.db", "One batch: its sync, and the transaction that applied it. Callers share it: it has no parent, "
     "and links to what each came from."),
    ("journal.checkpoint", "A checkpoint that is built and proven."),
    ("journal.replay", "A state that is built: by a recovery, a restore, a checkpoint, `journal replay`."),
    ("journal.restore", "A restore in place."),
    ("journal.recovery", "A plan that is run, or one scope that is put right."),
    ("journal.recovery.step", "One step of it."),
    ("search_memory", "A call of `search`."),
    ("journal.backup", "A backup, its verification included."),
    ("open memory.db", "The connection that writes is opened, and what is known of the state is read."),
    ("check memory.db", "What is wrong with it is looked for: `integrity_check memory.db` and `digest memory.db` are "
     "its children."),
    ("integrity_check memory.db", "SQLite's own check."),
    ("digest memory.db", "All rows are read and hashed."),
    ("catch_up memory.db", "Events behind its position are applied; none where there are none."),
    ("rebuild_scope memory.db", "One scope is put right, in a copy that takes its place."),
    ("fold memory.db", "Its write-ahead log is moved into it."),
    ("write_vectors memory.db", "Vectors are stored, or dropped."),
)  # fmt: skip

ATTRIBUTES = {
    "journal.seq": "The event's seq. On live spans: the first that was given.",
    "journal.event.type": "The event's type, such as `memory.entity_created`.",
    "journal.op_id": "The operation's key: the caller's, or the generated one.",
    "journal.actor": "Who caused it.",
    "journal.batch.size": "Events that shared the sync.",
    "journal.sync.seconds": "How long writing and syncing the batch took.",
    "journal.group.size": "How many events a group holds.",
    "gen_ai.operation.name": "`create_memory`, `update_memory`, `delete_memory`, `delete_memory_store`, "
    "`search_memory`.",
    "gen_ai.agent.name": "The agent that wrote, or whose config it is.",
    "gen_ai.memory.store.id": "The scope: `global`, `workspace:NAME`, `agent:NAME`.",
    "gen_ai.memory.record.id": "A pseudonym of the memory: equal for the same one, and not its name.",
    "gen_ai.memory.record.count": "How many memories it is about; of a search, how many were found.",
    "db.system.name": "`sqlite`, where memory.db, or what is built to replace it, was read or written.",
    "db.namespace": "The database's file, without its directory.",
    "db.operation.name": "What was done with it: the first word of the span's name, `rebuild`, `search`; of a step of "
    "a recovery its strategy.",
    "error.type": "Why it failed, as a short code: an error's of this project (`locked`, `no_space`), an exception's "
    "name, `recovery_failed`, `recovery_cut`, `drill_failed`, `scrub_findings`, `drift`, `config_rejected`, "
    "`event_lost`.",
    "journal.recovery.id": "The recovery's id, as in the journal.",
    "journal.recovery.component": "What is recovered: `all`, `memory`, `agents`, `journal`, `model`, an agent.",
    "journal.recovery.strategy": "How: the plan's strategy, or the step's kind.",
    "journal.recovery.checkpoint": "The seq of the checkpoint it began from; 0 is the journal's begin.",
    "journal.recovery.events": "Events that were replayed.",
    "journal.recovery.rows": "Rows that were written.",
    "journal.recovery.bytes": "Bytes that were written or put right.",
    "journal.recovery.outcome": "`completed`, `failed`, or `cut`: its process died.",
    "journal.recovery.reason": "Why, in words; the redaction rules apply.",
    "journal.recovery.count.*": "What else the journal counted: `written`, `removed`, `vectors`, …",
    "journal.restore.to_seq": "The moment that a restore made current.",
    "journal.restore.undone": "How many changes that undid; the newest 128 are linked.",
    "journal.checkpoint.seq": "The checkpoint's seq.",
    "journal.checkpoint.bytes": "Its length.",
    "journal.replay.seq": "The moment whose state was built.",
    "journal.replay.events": "Events that were applied to build it.",
    "journal.drill.ok": "Whether the rehearsal succeeded.",
    "journal.scrub.bytes": "What a scrub read.",
    "journal.scrub.findings": "How many regions or files were found damaged.",
    "journal.content": "The whole event as JSON; only with `--include-content`, and redacted even then.",
}

LINKS = {
    "request": "From a change to the span that its traceparent names: the request that caused it.",
    "undone": "From a restore to a change that it undid.",
    "cut": "From a recovery to the one of the same id that was cut, and goes on here.",
}
