"""`journal recover`: makes the state what the journal says, and proves it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from recovery.cli.app import App, Verb
from recovery.cli.names import AGENT_NAME
from recovery.cli.paths import DIRECTORY, FILE
from recovery.config.kinds import FAILURE_NAMES

if TYPE_CHECKING:
    from collections.abc import Callable

    from recovery.data import Data
    from recovery.looking import Progress
    from recovery.plan import Plan, Step
    from recovery.recovered import Recovered


@click.command(
    cls=Verb,
    cut="the same command finishes what was begun",
    examples=(
        "journal recover all --dry-run",
        "journal recover all --yes",
        "journal recover memory",
        "journal recover memory --scope agent:writer",
        "journal recover agents --agent writer --yes",
        "journal recover model --dry-run",
        "journal recover agents --agent writer --failure tool_loading_failure --tool search --dry-run",
        "journal recover journal --accept-tail",
        "journal recover journal --accept-loss --dry-run",
        "journal recover --from /mnt/backup/server --data /var/lib/server/data --dry-run",
    ),
)
@click.argument("component", type=click.Choice(("all", "memory", "agents", "model", "journal")), default="all")
@click.option("--dry-run", is_flag=True, help="Print the plan and stop.")
@click.option(
    "--agent", "agents", multiple=True, metavar="NAME", type=AGENT_NAME,
    help="Only this agent's file. May be repeated.",
)
@click.option("--scope", metavar="SCOPE", help="With memory: only global, workspace:NAME or agent:NAME.")
@click.option(
    "--failure", type=click.Choice((*FAILURE_NAMES, "auto")),
    help="With --agent: the server could not reload it, for this reason; auto asks the configured log.",
)
@click.option("--tool", "tools", multiple=True, metavar="TOOL", help="With --failure: a tool that cannot be loaded.")
@click.option("--from", "backup", type=DIRECTORY, metavar="DIR", help="Bring the journal back from this backup first.")
@click.option("--accept-tail", is_flag=True, help="With journal: set an ambiguous tail aside. --yes never implies it.")
@click.option("--accept-loss", is_flag=True, help="With journal: go on with what can be read. --yes never implies it.")
@click.option(
    "--receipt", "receipt", type=FILE, metavar="JSON|FILE|-",
    help="With journal: receipts, as evidence of what was.",
)  # fmt: skip
@click.option("--no-server", is_flag=True, help="Neither stop nor start the server, whatever journal.yaml says.")
@click.option("--start", is_flag=True, help="Start the server afterwards even if it did not run.")
@click.option("--yes", is_flag=True, help="Do not ask.")
@click.pass_obj
def command(
    app: App,
    component: str,
    dry_run: bool,
    agents: tuple[str, ...],
    scope: str | None,
    failure: str | None,
    tools: tuple[str, ...],
    backup: str | None,
    accept_tail: bool,
    accept_loss: bool,
    receipt: str | None,
    no_server: bool,
    start: bool,
    yes: bool,
) -> int | None:
    """Rebuild what is damaged from the last good checkpoint and the journal.

    memory.db is rebuilt beside, verified and swapped in by its link; agent files get their journaled bytes. Nothing is
    deleted: what is replaced, hand edits included, goes to journal/quarantine. Run again after a cut it ends in the
    same bytes; on a healthy state it does nothing, journals nothing and exits 0, so that a unit file can say
    ExecStartPre=journal recover all --yes (docs/recovery.md has the line that lets exit code 3 pass, too).

    With --scope only that scope of memory.db becomes what the journal says: its entities, observations and relations.
    Nothing else in memory.db is touched, even where it is damaged; that is said, and left for `recover memory`.
    With --failure the agent's config is one that its server could not load: what is done is a table of its own in
    docs/recovery.md, by the type of the failure.

    Where server.control in journal.yaml says how, the server is stopped before anything is repaired and started again
    after, whatever became of it, and its health is waited for: exit code 1 if it does not come up well, 3 if it says
    that it is degraded. A unit that is just starting (ExecStartPre) is left to come up by itself. Without a control, a
    server that holds the journal repairs itself while its callers wait; recovery refuses while any other process has
    memory.db open for writing.

    The embedding model is put together from what is good of it, embeddings.mirror and the hub (embeddings.hub), and
    taken only with its journaled hashes. Where it cannot be had, everything else is recovered and the exit code is 3:
    a server works without it, and texts wait for their vectors. `recover model` also computes those; `journal embed`
    does so later.

    `--from` first puts the journal of a backup in the place of the one here, which is kept beside it. It refuses to
    where what can be read here goes beyond the backup, or tells another history. With --dry-run the plan is that of
    both: the backup is verified, what would be rebuilt from it is found out, and nothing is changed.

    `journal recover journal --accept-tail` is for a journal whose last batch is complete but wrong (exit code 13):
    either it was never acknowledged, or it was and has rotted, and only you can know. It moves that batch to
    quarantine and says how many events it claimed; the journal then ends before it. A receipt of it says that it was
    acknowledged: give those that you have with --receipt, and none of theirs is dropped.

    `journal recover journal --accept-loss` is for corruption (exit code 12) that nothing repairs and no backup mends.
    It lists what is lost, asks, and makes a successor: a journal of its own id that holds every event which is provably
    whole, before and behind the damage, each under its old seq, with a mark in the place of each lost one. The damaged
    journal stays beside, as journal.parent-ID. With --dry-run it lists and stops.
    """
    from msgspec import to_builtins
    from msgspec.structs import replace

    from journal.errors import JournalError, Locked, UsageError
    from recovery.control.remote import connect_to
    from recovery.execute import recover
    from recovery.rows import stop_error
    from recovery.serving.around import leave_word, stopped, verify
    from recovery.serving.control import server_control
    from recovery.systemd import extending

    control = None if no_server else server_control(app.data)
    if start and control is None:
        raise UsageError("--start needs server.control in journal.yaml, and no --no-server", hint="see docs/config.md")
    if accept_tail or accept_loss or receipt is not None or component == "journal":
        from recovery.cli.accepting import accept

        if component != "journal":
            asked = "--accept-loss" if accept_loss else "--accept-tail" if accept_tail else "--receipt"
            raise UsageError(f"{asked} belongs to the journal", hint=f"journal recover journal {asked}")
        return accept(app, tail=accept_tail, loss=accept_loss, given=receipt, dry_run=dry_run, yes=yes)
    if agents and component in ("memory", "model"):
        raise UsageError(f"--agent names an agent, and {component} is none", hint="journal recover agents --agent NAME")
    if scope is not None and (component not in ("memory", "all") or agents or backup is not None):
        raise UsageError("--scope names a part of memory.db", hint=f"journal recover memory --scope {scope}")
    if failure is not None or tools:
        if failure is None or component not in ("agents", "all"):
            raise UsageError("--failure and --tool go with agents", hint="see journal recover --help")
        from recovery.cli.failed_reload import recover_from_failure

        return recover_from_failure(app, agents, failure, tools, dry_run=dry_run, yes=yes)
    data, first = app.data, None
    if backup is not None:
        data, first, code = _bring_back(app, backup, dry_run, yes)
        if code is not None:
            return code
    asked = "all" if component == "all" and not agents else component if component != "all" else "agents"
    with app.out.progress("recovering", "events") as bar:
        step = extending(bar.step)
        plan, run = (
            _plan_for_scope(app, scope, step)
            if scope is not None
            else recover(data, asked, names=agents, progress=step)
        )
    if first is not None:
        plan = replace(plan, steps=(first, *plan.steps))
    if plan.stops:
        if first is not None and not app.json:
            app.out.line(f"1. {first.words}: {first.reason}")  # which the run does, before it comes to the stop
        raise stop_error(plan.stops[0])
    if dry_run or not (plan.steps or start):
        if app.json:
            app.out.document({"plan": to_builtins(plan), "done": False})
        else:
            app.out.lines(plan.lines())
        return None
    if not app.json:
        app.out.lines(plan.lines())
    if plan.is_repair and not app.out.confirm("Go ahead?", yes=yes):
        return 1
    concerned = control if plan.is_repair or start else None
    with (
        stopped(app.data, concerned, app.out.note, start=start) as server,
        app.out.progress("recovering", "events") as bar,
    ):
        try:
            result = run(extending(bar.step))
        except Locked as locked:
            with connect_to(app.data, locked) as holder:  # a live server repairs itself, its callers wait meanwhile
                result = holder.recover(asked, agents, scope, bar.step)
    with app.out.progress("waiting", "seconds") as bar:
        verify(app.data, server, step=bar.step)
    try:
        leave_word(app.data, server, result.recovery_id)
    except JournalError as error:
        app.out.note(f"what was done to the server is not journaled: {error}")
    code = server.exit_code or (3 if result.problems else None)
    if app.json:
        document = {"plan": to_builtins(plan), "done": True, "result": to_builtins(result)}
        app.out.document(document | ({"server": to_builtins(server)} if control is not None else {}))
        return code
    _tell(app, result)
    if server.verdict is not None:
        app.out.line(server.verdict.reason + (f" - {server.verdict.hint}" if server.verdict.hint else ""))
    return code


def _tell(app: App, result: Recovered) -> None:
    from recovery.cli.words import counted

    if result.scope:
        app.out.line(f"scope {result.scope} is what the journal says, at seq {result.seq}, digest {result.digest}")
        if result.rest_differs:
            app.out.line("outside of it memory.db is not what the journal says, and was left as it was: journal check")
        app.out.lines(f"kept aside: {path}" for path in result.quarantined)
        return
    app.out.lines(f"repaired {each}" for each in result.repaired)
    if result.rebuilt:
        base = f"checkpoint {result.base_seq}" if result.base_seq else "genesis"
        app.out.line(
            f"rebuilt memory.db from {base} and {counted(result.events, 'event')}, which touched "
            f"{counted(result.rows, 'row')}"
        )
        if result.vectors or result.vectors_pending:
            app.out.line(f"vectors: {result.vectors:,} kept, {result.vectors_pending:,} texts wait for one")
        for seq, reason in result.passed_over:
            app.out.line(f"passed over checkpoint {seq}: {reason}")
    if result.agents_written or result.agents_removed:
        app.out.line(f"agents: {len(result.agents_written)} written, {len(result.agents_removed)} removed")
    for each in result.rescued:
        app.out.line(f"agent {each.name}: {each.strategy}, {each.source} (seq {each.seq})")
        app.out.lines(f"  passed over {line}" for line in each.passed_over)
    if result.model is not None:
        app.out.line(f"model: {result.model.files} files from {result.model.source}; {result.model.test}")
    if result.vectors_dropped or result.embedded:
        app.out.line(f"vectors: {result.vectors_dropped} dropped, {result.embedded} computed")
    for path in result.quarantined:
        app.out.line(f"kept aside: {path}")
    if result.digest:
        app.out.line(f"at seq {result.seq}, digest {result.digest}, in {result.seconds:.2f} s")
    for problem in result.problems:
        app.out.note(problem)


def _plan_for_scope(app: App, scope: str, step: Progress) -> tuple[Plan, Callable[[Progress | None], Recovered]]:
    from recovery.scope import check_scope_name, recover_scope

    check_scope_name(scope)
    return recover_scope(app.data, scope, step)


def _bring_back(app: App, backup: str, dry_run: bool, yes: bool) -> tuple[Data, Step | None, int | None]:
    """The journal of a backup takes the place of the one here, which is kept beside it: the directory to go on with.

    In a dry run that is how it would be then, with the step that would come first. An exit code where nobody said yes.
    """
    from recovery.data import Data
    from recovery.log.bring_back import planned_bringing_back

    data = Data.at(app.place, app.config_option)
    with app.out.progress("reading the backup", "bytes") as bar:
        planned = planned_bringing_back(data, backup, bar.advance)
    if dry_run:
        return planned.then, planned.step, None
    if planned.step is not None:
        if not app.json:
            app.out.line(f"{planned.step.words}: {planned.step.reason}")
        if not app.out.confirm("Go ahead?", yes=yes):
            return data, None, 1
    aside = planned.run()
    if aside and not app.json:
        app.out.line(f"what was here is kept in {aside}")
    return data, None, None
