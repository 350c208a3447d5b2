"""`journal recover agents --agent NAME --failure TYPE`: what is done about a reload that a server could not do."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from recovery.cli.app import App

if TYPE_CHECKING:
    from recovery.agents.hot_reload import Reloaded
    from recovery.config.kinds import Failure


def recover_from_failure(
    app: App, names: Sequence[str], failure: str, tools: Sequence[str], *, dry_run: bool, yes: bool
) -> int | None:
    """One agent after the other. Exit code 1 where nothing helped one of them."""
    from msgspec import to_builtins

    from journal.errors import UsageError
    from recovery.agents.states import agents_at
    from recovery.cli.names import no_agent
    from recovery.control.writer import open_writer

    data = app.data
    if not names:
        raise UsageError("--failure needs the agent that failed", hint="add --agent NAME")
    reader = data.reader()
    rows = agents_at(data, reader, reader.last_seq)
    for name in names:
        if name not in rows:
            raise no_agent(name, rows)
    planned = {name: _type_of(app, name, failure, tools) for name in dict.fromkeys(names)}
    if not app.json:
        for name, (kind, failing, line) in planned.items():
            _print_plan(app, name, kind, failing, line)
    if dry_run:
        if app.json:
            app.out.document({"plan": [_plan_json(name, *each) for name, each in planned.items()], "done": False})
        return None
    if not app.out.confirm("Go ahead?", yes=yes):
        return 1
    results: list[Reloaded] = []
    with open_writer(data) as writer:
        for name, (kind, failing, line) in planned.items():
            results.append(writer.recover_reload(name, kind, failing, line))
    if app.json:
        plan = [_plan_json(name, *each) for name, each in planned.items()]
        app.out.document({"plan": plan, "done": True, "result": [to_builtins(each) for each in results]})
    else:
        for each in results:
            app.out.line(f"agent {each.name}: {each.outcome.replace('_', ' ')}")
            app.out.lines(f"  {step.step}: {'' if step.ok else 'did not help: '}{step.detail}" for step in each.steps)
    return 1 if any(each.outcome == "failed" for each in results) else None


def _type_of(app: App, name: str, failure: str, tools: Sequence[str]) -> tuple[Failure, tuple[str, ...], str]:
    """The type of failure as it was said, or with `auto` as the configured log says; the tools; and the log's line."""
    from recovery.agents.failures import failure_in
    from recovery.agents.hot_reload import log_of
    from recovery.config.kinds import FAILURE_NAMES

    if failure != "auto":
        kind = next(each for each in FAILURE_NAMES if each == failure)
        return kind, tuple(tools), ""
    kind, failing, line = failure_in(log_of(app.data), name, app.data.config.reload.all_patterns)
    return kind, tuple(dict.fromkeys((*tools, *failing))), line


def _print_plan(app: App, name: str, failure: Failure, tools: Sequence[str], line: str) -> None:
    from recovery.tables.reload import STEP_WORDS, remedy_for

    remedy = remedy_for(failure)
    of = f" of {', '.join(tools)}" if tools else ""
    app.out.line(f"agent {name}: {failure}{of}" + (f" ({line})" if line else ""))
    for number, step in enumerate(remedy.steps, 1):
        app.out.line(f"{number}. {STEP_WORDS[step].replace('NAME', name)}")
    then = f"as for {remedy.otherwise}" if remedy.otherwise else "its status is failed"
    app.out.line(f"where a step fails: {then}")


def _plan_json(name: str, failure: Failure, tools: Sequence[str], line: str) -> dict[str, object]:
    from recovery.tables.reload import remedy_for

    remedy = remedy_for(failure)
    return {"name": name, "failure": failure, "tools": list(tools), "log": line, "steps": list(remedy.steps),
            "otherwise": remedy.otherwise}  # fmt: skip
