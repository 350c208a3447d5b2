"""`journal check`: health for scripts and people. Changes nothing."""

from __future__ import annotations

import click

from recovery.cli.app import App, Verb

MARKS = {"healthy": "ok", "degraded": "degraded", "failed": "FAILED"}
LOOKS = {"healthy": "green", "degraded": "yellow", "failed": "red"}


@click.command(
    cls=Verb,
    examples=(
        "journal check", "journal check --quick", "journal check --deep", "journal check --scope agent:writer",
    ),
)  # fmt: skip
@click.option("--scope", metavar="SCOPE", help="Only this scope of memory.db: global, workspace:NAME or agent:NAME.")
@click.option("--quick", is_flag=True, help="Do not compare memory.db by digest, nor the model by hashes.")
@click.option("--deep", is_flag=True, help="Also let the model encode a sentence, in a process of its own. Seconds.")
@click.pass_obj
def command(app: App, scope: str | None, quick: bool, deep: bool) -> int:
    """Say whether journal, memory.db and agents are healthy, and what to run if not.

    memory.db is healthy only if SQLite's integrity check passes and its digest equals the one that the journal makes
    at its position: bytes changed inside a row's text pass the first and fail the second. Exit code: 0 healthy,
    3 degraded, 1 failed, 10-15 for the journal itself. Takes no lock and changes nothing.

    The embedding model is compared with its journaled hashes, and every stored vector with its checksum. --quick only
    looks at the model's configuration and the containers of its weights; --deep also lets it encode a sentence and
    holds the vector against the known one.

    Of what surrounds the state it says whether there is room for writes, a rebuild and open files, and what a crash
    left: core files, words in the server's log, a file system that is read-only or counts errors.

    With --scope only the rows of that scope are compared: its entities, what was observed of them, and the relations
    that start or end at one of them.
    """
    from journal.errors import UsageError
    from recovery.cli.words import counted
    from recovery.decide import decide, exit_code, states_of
    from recovery.diagnose import diagnose
    from recovery.model.looking import Tested

    if quick and deep:
        raise UsageError("--quick and --deep exclude each other", hint="leave one out")
    if scope is not None:
        return _check_scope(app, scope, quick)
    with app.out.progress("checking", "events") as bar:
        tested: Tested = "always" if deep else "never"
        facts = diagnose(app.data, deep=not quick, progress=bar.step, asked=(), model=tested, around=True)
    decisions = decide(facts)
    code = exit_code(decisions)
    health = {0: "healthy", 3: "degraded"}.get(code, "failed")
    if app.json:
        from msgspec import to_builtins

        app.out.document(
            {
                "health": health,
                "exit_code": code,
                "states": states_of(decisions),
                "components": [to_builtins(each) for each in decisions],
                "facts": {
                    "journal": to_builtins(facts.journal),
                    "memory": to_builtins(facts.memory),
                    "agents": [to_builtins(each) for each in facts.agents],
                    "model": to_builtins(facts.model),
                    "vectors": to_builtins(facts.vectors),
                    "room": to_builtins(facts.room),
                    "crash": to_builtins(facts.crash),
                    "recovery": to_builtins(facts.recovery),
                    "writable": facts.writable,
                    "free_bytes": facts.free_bytes,
                    "sqlite_version": facts.sqlite_version,
                    "interrupted": facts.interrupted is not None,
                },
            }
        )
        return code
    quiet = 0
    for each in decisions:
        if each.component.startswith("agent ") and each.case == "ok":
            quiet += 1
            continue
        mark = app.out.style(f"{MARKS[each.health]:8}", fg=LOOKS[each.health])
        hint = app.out.style(f" - {each.hint}", dim=True) if each.hint else ""
        app.out.styled(f"{mark} {app.out.style(each.component)}: {app.out.style(each.reason)}{hint}")
    if quiet:
        app.out.styled(f"{app.out.style('ok      ', fg='green')} agents: {counted(quiet, 'file')} as journaled")
    return code


def _check_scope(app: App, scope: str, quick: bool) -> int:
    from journal.errors import UsageError
    from recovery.decide import exit_code
    from recovery.scope import check_scope_name, decide_scope, look_at_scope

    check_scope_name(scope)
    if quick:
        raise UsageError("--scope compares rows, --quick none", hint="leave one of them out")
    with app.out.progress("checking", "events") as bar:
        facts = look_at_scope(app.data, scope, bar.step)
    decision = decide_scope(facts)
    code = exit_code([decision])
    if app.json:
        from msgspec import to_builtins

        health = {0: "healthy", 3: "degraded"}.get(code, "failed")
        document = {"health": health, "exit_code": code, "components": [to_builtins(decision)]}
        app.out.document({**document, "facts": to_builtins(facts)})
    else:
        hint = f" - {decision.hint}" if decision.hint else ""
        app.out.line(f"{MARKS[decision.health]:8} {decision.component}: {decision.reason}{hint}")
    return code
