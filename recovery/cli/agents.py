"""`journal agents`: list agents, show a config of any moment, its history, what the validator says; suspend, resume."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import click

from recovery.cli.app import App, VerbGroup
from recovery.cli.names import AGENT_NAME, no_agent

if TYPE_CHECKING:
    from recovery.agents.states import AgentRow
    from recovery.data import Data
    from replay.agent_format import Finding


@click.group(cls=VerbGroup, examples=("journal agents list", "journal agents history writer"))
def command() -> None:
    """Agents: what they are now, what they were, and whether their configs are valid.

    An earlier version comes back with `journal replay --until SEQ --in-place --agent NAME`; `journal agents history`
    says which seq has it.
    """


# -- list -------------------------------------------------------------------------------------------------------------


@command.command(name="list", examples=("journal agents list", "journal agents list --json"), short_help="all agents")
@click.pass_obj
def list_(app: App) -> int | None:
    """List all agents: their status, whether the config is valid, and how the file compares with the journal.

    Files of no agent are listed too. Takes no lock and changes nothing. Exit code: 3 if a damaged journal keeps the
    files from being compared.
    """
    from recovery.agents.states import agents_at, judgement
    from recovery.diagnose import diagnose

    app.out.is_content = True
    data = app.data
    seen = diagnose(data, deep=False)
    facts = {fact.name: fact for fact in seen.agents}
    reader = data.reader()
    rows = agents_at(data, reader, reader.last_seq)
    listed: list[dict[str, Any]] = []
    for name in sorted({*rows, *facts}):
        row, fact = rows.get(name), facts.get(name)
        findings = judgement(data, name, row.content).findings if row else ()
        errors = [str(each) for each in findings if each.level == "error"]
        listed.append(
            {
                "name": name,
                "status": row.status if row else None,
                "reason": row.reason if row else "",
                "valid": not errors if row else None,
                "errors": errors,
                "file": fact.condition if fact else "unknown",
                "sha256": row.sha256 if row else None,
                "bytes": len(row.content) if row else None,
                "updated_at": row.updated_at if row else None,
            }
        )  # fmt: skip
    if app.json:
        app.out.document({"seq": reader.last_seq, "agents": listed})
    elif not listed:
        app.out.line("no agents")
    else:
        valid = {True: "valid", False: "not valid", None: "-"}
        app.out.table(
            [[each["name"], each["status"] or "-", valid[each["valid"]], each["file"], (each["sha256"] or "-")[:12],
              each["reason"]] for each in listed],
            ("name", "status", "config", "file", "sha256", "reason"),
        )  # fmt: skip
    if seen.journal.error:  # damage behind which the files could not be compared
        app.out.note(f"agent files were not compared: {seen.journal.error} - journal check")
        return 3
    return None


# -- show -------------------------------------------------------------------------------------------------------------


@command.command(
    examples=("journal agents show writer", 'journal agents show writer --at "2 hours ago"'), short_help="a config"
)
@click.argument("name", type=AGENT_NAME)
@click.option("--at", "at", metavar="WHEN", default="now", help="At this moment: a time with a zone, a seq, tag:NAME.")
@click.pass_obj
def show(app: App, name: str, at: str) -> None:
    """Print the config of NAME, now or at any moment, byte for byte. Takes no lock and changes nothing."""
    from recovery.agents.states import agents_at, judgement
    from recovery.moments import resolve_moment

    app.out.is_content = True
    data = app.data
    reader = data.reader()
    seq = resolve_moment(data, reader, at)
    with app.out.progress("replaying", "events") as bar:
        rows = agents_at(data, reader, seq, bar.advance)
    row = rows.get(name)
    if row is None:
        raise no_agent(name, rows, f" at seq {seq}")
    if app.json:
        verdict = judgement(data, name, row.content)
        app.out.document({"seq": seq, **_row_json(row), "findings": [_finding_json(each) for each in verdict.findings]})
    else:
        app.out.raw(row.content)


def _row_json(row: AgentRow) -> dict[str, Any]:
    from journal.event_json import event_to_json
    from journal.events import ConfigWritten

    content = event_to_json(ConfigWritten(row.name, row.content))
    spelled = {key: value for key, value in content.items() if key.startswith("content")}
    return {"name": row.name, "status": row.status, "reason": row.reason, "sha256": row.sha256,
            "bytes": len(row.content), "updated_at": row.updated_at, **spelled}  # fmt: skip


def _finding_json(finding: Finding) -> dict[str, Any]:
    return {"level": finding.level, "line": finding.line, "code": finding.code, "message": finding.message}


# -- history ----------------------------------------------------------------------------------------------------------


@command.command(examples=("journal agents history writer",), short_help="every version, who wrote it, and why")
@click.argument("name", type=AGENT_NAME)
@click.pass_obj
def history(app: App, name: str) -> None:
    """Print every version of NAME that was ever journaled, oldest first: when, by whom, and whether it is valid.

    Rejected texts and changes of status are in it, and restores where they changed the agent. `journal agents show
    NAME --at SEQ` prints a version, `journal show SEQ` a rejected text.
    """
    from msgspec import to_builtins

    from recovery.agents.states import agents_at, history_of
    from recovery.cli.words import time_text

    app.out.is_content = True
    data = app.data
    reader = data.reader()
    changes = history_of(data, reader, name)
    if not changes:
        raise no_agent(name, agents_at(data, reader, reader.last_seq))
    if app.json:
        app.out.document({"name": name, "history": [to_builtins(each) for each in changes]})
        return
    words = {True: "valid", False: "not valid", None: "-"}
    app.out.table(
        [[str(each.seq), time_text(each.time), each.kind, each.origin or "-", each.agent or each.actor or "-",
          (each.sha256 or "-")[:12], words[each.valid], each.reason[:200]] for each in changes],
        ("seq", "time", "what", "origin", "by", "sha256", "config", "reason"),
    )  # fmt: skip


# -- validate ---------------------------------------------------------------------------------------------------------


@command.command(
    examples=("journal agents validate", "journal agents validate writer", "journal agents validate drafts/writer.md"),
    short_help="findings, by line",
)
@click.argument("what", metavar="[NAME|FILE]...", nargs=-1, type=AGENT_NAME)
@click.pass_obj
def validate(app: App, what: tuple[str, ...]) -> int | None:
    """Hold configs against the schema that agents.schema names, and say what is wrong with them, by line.

    NAME is an agent, whose file in agents/ is read; FILE is a path, told by a slash or an ending in .md. Default: every
    file in agents/. Exit code: 0 if all are valid, 1 if one is not. Notes are no errors. Changes nothing.
    """
    from recovery.agents.states import judgement

    data = app.data
    judged: list[dict[str, Any]] = []
    for name, path in _files(data, what):
        content = _content(data, name, path)
        verdict = judgement(data, name, content)
        judged.append(
            {"name": name, "path": path, "valid": verdict.accepted,
             "findings": [_finding_json(each) for each in verdict.findings]}
        )  # fmt: skip
    bad = sum(not each["valid"] for each in judged)
    if app.json:
        app.out.document({"schema": data.config.agents.schema, "agents": judged, "invalid": bad})
        return 1 if bad else None
    for each in judged:
        for finding in each["findings"]:
            where = f"{each['path']}:{finding['line'] or 1}"
            app.out.line(f"{where}: {finding['level']}: {finding['message']}")
    app.out.line(f"{len(judged)} {'config' if len(judged) == 1 else 'configs'}, {bad} not valid")
    return 1 if bad else None


def _files(data: Data, what: Sequence[str]) -> list[tuple[str, str]]:
    """Name and path of each config that is asked for."""
    import os

    from replay.agents import SUFFIX

    directory = data.layout.agents
    if not what:
        return [(file.removesuffix(SUFFIX), f"{directory}/{file}") for file in data.storage.list(directory)
                if file.endswith(SUFFIX)]  # fmt: skip
    named: list[tuple[str, str]] = []
    for each in what:
        if "/" in each or (each.endswith(SUFFIX) and os.path.exists(each)):
            named.append((os.path.basename(each).removesuffix(SUFFIX), os.path.abspath(each)))
        else:
            named.append((each, f"{directory}/{each}{SUFFIX}"))
    return named


def _content(data: Data, name: str, path: str) -> bytes:
    """The bytes of a file. Raises UsageError where there is none that can be read."""
    from journal.errors import UsageError
    from replay.agents import SUFFIX, look

    seen = look(data.storage, path)
    if seen.content is not None:
        return seen.content
    if seen.kind == "missing":
        if path == f"{data.layout.agents}/{name}{SUFFIX}" and "/" not in name:
            files = data.storage.list(data.layout.agents)
            raise no_agent(name, [file.removesuffix(SUFFIX) for file in files], ", and no such file")
        raise UsageError("there is no such file", path=path, hint="journal agents list names agents")
    raise UsageError(f"it cannot be read: {seen.message}", path=path, hint="journal check")


# -- status -----------------------------------------------------------------------------------------------------------


@command.command(
    examples=('journal agents suspend writer --reason "too chatty"',), short_help="tell servers not to run it"
)
@click.argument("names", metavar="NAME...", nargs=-1, required=True, type=AGENT_NAME)
@click.option("--reason", default="", metavar="TEXT", help="Why; it is kept with the status.")
@click.pass_obj
def suspend(app: App, names: tuple[str, ...], reason: str) -> None:
    """Journal that agents are suspended. Their configs and memories stay; what it means is their server's."""
    _set_status(app, names, "suspended", reason)


@command.command(examples=("journal agents resume writer",), short_help="make it active again")
@click.argument("names", metavar="NAME...", nargs=-1, required=True, type=AGENT_NAME)
@click.option("--reason", default="", metavar="TEXT", help="Why; it is kept with the status.")
@click.pass_obj
def resume(app: App, names: tuple[str, ...], reason: str) -> None:
    """Journal that agents are active again, after they were suspended or failed."""
    _set_status(app, names, "active", reason)


def _set_status(app: App, names: Sequence[str], status: str, reason: str) -> None:
    from journal.events import StatusChanged
    from recovery.agents.states import agents_at
    from recovery.appending import append_groups

    data = app.data
    reader = data.reader()
    rows = agents_at(data, reader, reader.last_seq)
    for name in names:
        if name not in rows:
            raise no_agent(name, rows)
    chosen = [
        name for name in dict.fromkeys(names) if rows[name].status != status or reason not in ("", rows[name].reason)
    ]  # without a reason the one that is there stays
    events = [StatusChanged(name, status, reason) for name in chosen]
    receipts = append_groups(data, [events])[0] if events else []
    seqs = {name: receipt.seq for name, receipt in zip(chosen, receipts, strict=True)}
    if app.json:
        app.out.document({"agents": [{"name": name, "status": status, "seq": seqs.get(name),
                                      "reason": reason if name in seqs else rows[name].reason}
                                     for name in dict.fromkeys(names)]})  # fmt: skip
        return
    for name in dict.fromkeys(names):
        done = f"seq {seqs[name]}" if name in seqs else "as it was"
        app.out.line(f"agent {name} is {status}: {done}")
