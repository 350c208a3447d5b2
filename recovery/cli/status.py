"""`journal status`: where journal, memory.db, checkpoints and quarantine stand. Fast, takes no lock."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import TYPE_CHECKING

import click

from recovery.cli.app import App, Verb

if TYPE_CHECKING:
    from recovery.standing import Standing


@click.command(cls=Verb, examples=("journal status", "journal status --json | jq .memory.lag"))
@click.pass_obj
def command(app: App) -> int | None:
    """Say where things stand: the journal's end, who writes it, how far memory.db is, what could be restored.

    Nothing is computed over the data, so it answers at once; `journal check` compares memory.db with the journal.
    Takes no lock and changes nothing. Exit code: 0, or that of the damage that stops reading the journal.
    """
    from recovery.standing import standing
    from recovery.tables.standing import states_of_standing

    found = standing(app.data, time.time_ns())
    if app.json:
        from msgspec import to_builtins

        app.out.document(to_builtins(found) | {"states": states_of_standing(found)})
    else:
        for label, text in _lines(found):
            app.out.styled(f"{app.out.style(f'{label:<12}', bold=True)} {app.out.style(text)}")
        for component, state in states_of_standing(found).items():
            if state != "healthy":
                app.out.styled(f"{app.out.style(f'{state.upper():<12}', bold=True)} {component} - journal check")
    return found.journal.exit_code


def _lines(found: Standing) -> Iterator[tuple[str, str]]:
    yield from _journal(found)
    yield from _memory(found)
    yield "agents", "unknown" if found.agents is None else f"{found.agents:,}"
    yield "embeddings", _embeddings(found)
    yield from _beside(found)


def _journal(found: Standing) -> Iterator[tuple[str, str]]:
    from recovery.cli.words import age_text, bytes_text, counted, time_text

    log = found.journal
    yield "data", found.data
    if log.last_seq is not None:
        last = ""
        if log.last_time is not None:
            last = f", the last at {time_text(log.last_time)} ({age_text(found.time - log.last_time)} ago)"
        yield "journal", f"{log.journal_id}: {counted(log.last_seq, 'event')}{last}"
        end = "closed" if log.closed else "open" if log.writer else "not closed by its last writer"
        torn = f", {counted(log.torn_bytes, 'torn byte')} behind it" if log.torn_bytes and not log.problem else ""
        yield "log", f"{counted(log.segments, 'segment')}, {bytes_text(log.bytes)}, {end}{torn}"
    if log.unsettled:
        yield "", f"{counted(log.unsettled, 'event')} that no sync is known of: the next open settles them"
    if log.carried_from is not None:
        which = f"{log.carried_from}-{log.carried_to}" if log.carried_from != log.carried_to else f"{log.carried_from}"
        yield "", f"seq {which} outlived a writer that was cut: journal log --op-id ID says what became of one"
    if log.problem is not None:
        yield "DAMAGE", log.problem
    who = f"process {log.writer.pid} ({log.writer.command})" if log.writer is not None else "none"
    yield "writer", f"{who}, epoch {log.epoch}"


def _memory(found: Standing) -> Iterator[tuple[str, str]]:
    from recovery.cli.words import counted

    memory = found.memory
    parts = [f"generation {memory.generation}"] if memory.generation is not None else []
    if memory.position is not None:
        parts.append(f"at seq {memory.position}")
    behind = f"{counted(memory.lag or 0, 'event')} behind"
    where = {
        "here": "the journal's end",
        "behind": f"{behind}: the next open catches up",
        "beyond": "BEYOND the journal's end - journal check",
        "other_history": "of ANOTHER HISTORY than the journal's - journal check",
        "restore_pending": f"{behind}, a restore among them: the next open applies it",
    }.get(memory.position_is)
    parts += [where] if where else []
    parts += [f"{memory.problem} - journal recover memory"] if memory.problem else []
    yield "memory.db", ", ".join(parts)
    tables = {"entities": "entity", "observations": "observation", "relations": "relation", "messages": "message"}
    if memory.rows:
        yield "", ", ".join(counted(memory.rows[table], noun, table) for table, noun in tables.items())


def _embeddings(found: Standing) -> str:
    embeddings = found.embeddings
    pending = "pending unknown" if embeddings.pending is None else f"{embeddings.pending:,} pending"
    lacking = [] if embeddings.extra_installed else [f"the extra `{embeddings.extra}` is not installed"]
    if embeddings.model is None:
        if found.model is not None:
            lacking.append("the model is missing or damaged - journal check")
        else:
            lacking.append("there is no model" if found.looked_from_seq == 1 else "there is none - journal check")
    return f"{pending} ({', '.join(lacking)})" if lacking else pending


def _beside(found: Standing) -> Iterator[tuple[str, str]]:
    from recovery.cli.words import age_text, bytes_text, counted

    stored = found.checkpoints
    if stored.newest_seq is None or stored.newest_time is None:
        text = "none: a rebuild replays the whole journal - journal checkpoint create"
    else:
        age = age_text(found.time - stored.newest_time)
        text = f"{stored.count} ({bytes_text(stored.bytes)}), the newest of seq {stored.newest_seq}, {age} ago"
    if stored.damaged:
        text += f", {stored.damaged} DAMAGED - journal verify"
    yield "checkpoints", text
    if stored.proven_at is not None:
        yield "", f"last proven restorable {age_text(found.time - stored.proven_at)} ago"
    elif stored.count:
        yield "", "none was proven restorable - journal checkpoint verify"
    if found.drill is not None:
        age, outcome = age_text(found.time - found.drill.time), "passed" if found.drill.ok else "FAILED"
        yield "drill", f"{outcome} {age} ago at seq {found.drill.seq}: recovered in {found.drill.seconds:.2f} s"
    elif found.looked_from_seq > 1:
        yield "drill", f"none since seq {found.looked_from_seq}; what was before, a checkpoint would tell"
    else:
        yield "drill", "none: the recovery was never rehearsed - journal drill"
    if found.recovery is not None:
        from recovery.rows import first
        from recovery.tables.rto import RTO

        yield "recovery", first(RTO, found.recovery).reason(found.recovery)
    kept = found.quarantine
    yield "quarantine", f"{counted(kept.files, 'file')}, {bytes_text(kept.bytes)}" if kept.files else "empty"
    if found.interrupted_recovery is not None:
        yield "recovery", "one was cut: journal recover all finishes it"
    if found.importing:
        yield "import", "one did not end: journal init --adopt finishes it"
