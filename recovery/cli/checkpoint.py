"""`journal checkpoint`: make, list, verify and thin the states that restores begin at."""

from __future__ import annotations

from contextlib import suppress
from time import time_ns

import click

from recovery.cli.app import App, VerbGroup


@click.group(cls=VerbGroup, examples=("journal checkpoint create", "journal checkpoint list --json"))
def command() -> None:
    """Checkpoints: verified states that a restore begins at, instead of at the first event.

    Each is built from the journal by replay and read back before it counts, so making one rehearses recovery.
    """


@command.command(
    examples=("journal checkpoint create",),
    cut="the checkpoint was not made, and nothing else was changed",
    short_help="build and verify one of the state now",
)
@click.pass_obj
def create(app: App) -> int | None:
    """Build a checkpoint of the state now, verify it, and compare the live memory.db with it."""
    from recovery.cli.words import bytes_text, counted
    from recovery.control.writer import open_writer

    with open_writer(app.data) as writer, app.out.progress("checkpoint", "events") as bar:
        made = writer.checkpoint(bar.advance)
    if app.json:
        from msgspec import to_builtins

        app.out.document(to_builtins(made))
    else:
        app.out.line(
            f"checkpoint {made.seq}, verified: digest {made.digest}, {bytes_text(made.bytes)} "
            f"({bytes_text(made.new_bytes)} new), {counted(made.events, 'event')} on "
            f"{'checkpoint ' + str(made.base_seq) if made.base_seq else 'genesis'}, "
            f"{made.seconds:.2f} s"
        )
        if made.index_files:
            app.out.line(f"indexes of {counted(made.index_files, 'segment')}")
        if made.index_problem:
            app.out.line(f"no indexes: {made.index_problem}")
        if made.parity_files:
            app.out.line(f"parity of {counted(made.parity_files, 'file')}, {bytes_text(made.parity_bytes)}")
        if made.parity_problem:
            app.out.line(f"no parity: {made.parity_problem}")
        for seq, reason in made.passed_over:
            app.out.line(f"passed over checkpoint {seq}: {reason}")
        if made.drift:
            app.out.line(f"drift: memory.db is not what the journal says ({made.live_problem or made.live_digest}) - "
                         "journal recover memory")  # fmt: skip
    return 3 if made.drift else None


@command.command(
    name="list", examples=("journal checkpoint list",), short_help="list them, newest first, damaged ones too"
)
@click.pass_obj
def list_(app: App) -> int | None:
    """List checkpoints, newest first, and those that cannot be used."""
    from msgspec import to_builtins

    from replay.vouching import refusal

    manifests, damaged = app.data.checkpoints.scan()
    reader = app.data.reader()
    refused = {each.seq: reason for each in manifests if (reason := refusal(each, reader, manifests)) is not None}
    if app.json:
        app.out.document(
            {
                "checkpoints": [{**to_builtins(each), "parts": len(each.parts), "bytes": each.bytes,
                                 "refused": refused.get(each.seq)} for each in manifests],
                "damaged": [each.error.to_json() for each in damaged],
            }
        )  # fmt: skip
    else:
        rows = [[str(each.seq), each.state, _when(each.verified_at or each.time), str(each.bytes), str(len(each.parts)),
                 each.digest[:16]] for each in manifests]  # fmt: skip
        if rows:
            app.out.table(rows, ("seq", "state", "time", "bytes", "parts", "digest"))
        else:
            app.out.line("no checkpoints: journal checkpoint create makes one")
        for each in damaged:
            app.out.line(f"damaged: {each.error}")
        for seq, reason in refused.items():
            app.out.line(f"passed over {seq}: {reason}")
    return 3 if damaged else None


def _when(time: int) -> str:
    from datetime import UTC, datetime

    return datetime.fromtimestamp(time // 1_000_000_000, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


@command.command(
    examples=("journal checkpoint verify", "journal checkpoint verify 4711"), short_help="prove that they restore"
)
@click.argument("seq", type=int, required=False)
@click.pass_obj
def verify(app: App, seq: int | None) -> int | None:
    """Prove that checkpoints restore: assemble each from its parts, scan it, compare the digest. Default: all."""
    from journal.errors import DataError, JournalError, UsageError
    from replay.checkpoints import verify_checkpoint

    manifests, damaged = app.data.checkpoints.scan()
    chosen = [each for each in manifests if seq is None or each.seq == seq]
    if seq is not None and not chosen:
        known = ", ".join(str(each.seq) for each in manifests[:5]) or "none"
        raise UsageError(f"there is no checkpoint at seq {seq}", seq=seq, hint=f"there are: {known}")
    results: list[dict[str, object]] = [{"seq": each.seq, "error": each.error.to_json()} for each in damaged]
    with app.out.progress("verifying", "checkpoints") as bar:
        for number, manifest in enumerate(chosen):
            bar.advance(number, len(chosen))
            if manifest.state != "verified":  # there is no digest yet, or its process was killed: no restore uses it
                results.append({"seq": manifest.seq, "state": manifest.state})
                continue
            try:
                proven = verify_checkpoint(app.data.checkpoints, manifest, time_ns)
                results.append({"seq": proven.seq, "digest": proven.digest, "verified_at": proven.verified_at})
            except DataError as error:  # a full or read-only disk, or a lock, is no damage of a checkpoint
                results.append({"seq": manifest.seq, "error": error.to_json()})
            except FileNotFoundError:
                continue  # pruned since
    if app.data.config.parity.share:
        with suppress(JournalError):  # of the manifests as they are now; what keeps it from that harms no checkpoint
            app.data.parity.fill()
    failed = [each for each in results if "error" in each]
    if app.json:
        app.out.document({"checkpoints": results, "damaged": len(failed)})
    else:
        for each in results:
            wrong = each.get("error")
            told = each.get("digest", "written, never verified: restores pass over it")
            told = f"DAMAGED: {wrong['message']} [{wrong.get('path')}]" if isinstance(wrong, dict) else told
            app.out.line(f"{each['seq']}  {told}")
        if not results:
            app.out.line("no checkpoints")
    return 12 if failed else None


@command.command(
    examples=("journal checkpoint prune --dry-run", "journal checkpoint prune --yes"),
    cut="parts of what was removed go with the next checkpoint",
    short_help="thin old ones",
)
@click.option("--dry-run", is_flag=True, help="Print the plan and stop.")
@click.option("--yes", is_flag=True, help="Do not ask.")
@click.pass_obj
def prune(app: App, dry_run: bool, yes: bool) -> int | None:
    """Thin old checkpoints. At least two verified ones stay, and any seq stays near one on its timeline.

    One that the journal does not vouch for, since a kill came between, goes once a newer one is. While a manifest is
    damaged nobody knows its parts: then manifests go, and no part; `journal verify --repair` puts it right.
    """
    from replay.thinning import plan_thinning, thin

    data = app.data
    plan = plan_thinning(data.reader(), data.checkpoints, data.config.policy())
    foreseen = plan.foreseen(data.checkpoints)
    if not app.json:
        app.out.lines(plan.lines() or ["no checkpoints"])
        app.out.line(f"frees {foreseen.bytes} bytes")
        for each in data.checkpoints.damaged():
            app.out.note(f"nobody knows which parts it lists, so none goes: {each.error}")
    if dry_run or not plan.drop:
        if app.json:
            told = {"files": foreseen.files, "freed_bytes": foreseen.bytes, "done": False}
            app.out.document({**plan.to_json(), **told})
        return None
    if not app.out.confirm(f"Remove {len(plan.drop)} checkpoints?", yes=yes):
        return 1
    swept = thin(plan, data.checkpoints, data.parity)
    if app.json:
        told = {"files": swept.files, "freed_bytes": swept.bytes, "bytes": swept.bytes, "done": True}
        app.out.document({**plan.to_json(), **told})
    else:
        app.out.line(f"removed {len(plan.drop)} checkpoints, {swept.files} parts, {swept.bytes} bytes")
    return None
