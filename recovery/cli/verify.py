"""`journal verify`: every byte of the journal, the states it makes, and receipts. Only --repair changes anything."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

import click

from recovery.cli.app import App, Verb
from recovery.cli.paths import DIRECTORY, FILE

if TYPE_CHECKING:
    from journal.verified import Finding, Verified
    from recovery.data import Data
    from recovery.log.deep import Deep

LOOKS = {"damage": "red", "note": "yellow"}


@click.command(
    cls=Verb,
    cut="nothing was changed, but what --repair had put right: the same command goes on",
    examples=(
        "journal verify",
        "journal verify --deep",
        "journal verify --repair --dry-run",
        "journal verify --repair",
        "journal verify --receipt receipts.jsonl",
        "journal append < events.jsonl | journal verify --receipt -",
        "journal verify --head head.json",
        "journal verify --against /mnt/copy/data",
        """journal verify --receipt '{"seq": 1, "time": 0, "op_id": "e2-1", "chain": "00", "epoch": 2}'""",
    ),
)
@click.option("--deep", is_flag=True, help="Replay from genesis, and compare every checkpoint and memory.db by digest.")
@click.option("--repair", is_flag=True, help="Put right what can be proven, then verify.")
@click.option("--dry-run", is_flag=True, help="With --repair: say what would be put right, and stop.")
@click.option(
    "--receipt", "receipt", type=FILE, metavar="JSON|FILE|-",
    help="Prove receipts instead: that their events are here.",
)  # fmt: skip
@click.option(
    "--head", "head", type=FILE, metavar="FILE|-",
    help="Hold it against what journal head printed earlier, too.",
)  # fmt: skip
@click.option(
    "--against", "other", type=DIRECTORY, metavar="DIR",
    help="Compare with another copy instead: which seq differs first.",
)  # fmt: skip
@click.pass_obj
def command(
    app: App, deep: bool, repair: bool, dry_run: bool, receipt: str | None, head: str | None, other: str | None
) -> int:
    """Read every byte under journal/ but lock and quarantine, and name all damage: file, offset, events, what to do.

    Unlike a reader it goes on behind damage. A torn tail of a write that was never acknowledged is a note, no damage;
    one that memory.db, a checkpoint or the log itself knows to have been durable is. --deep also replays the events
    from the first and compares the digest with every checkpoint's and memory.db's. --receipt takes what `journal
    append` printed, and proves that each event is in this journal, unchanged. Exit code: 0 without damage, else that of
    the first damage. Takes no lock and changes nothing, unless --repair is given.

    --repair puts right what can be proven: by another place that holds the same events, by the one flipped bit that
    explains a wrong CRC, or by parity; the chain or a SHA-256 must confirm it. The damaged file goes to quarantine and
    a new one takes its place. It needs the journal's lock, so no writer may be at work (exit code 11), and journals
    what it did. What is left is named as ever; run again it does nothing.

    --head FILE reads everything and then asks whether the history still leads through a head that was exported earlier:
    12 if the journal ends before it, 14 if another history stands there. --against DIR compares with the data directory
    or journal of another copy: the same, ahead or behind is 0; two histories are 14, with the first seq that differs.
    """
    from journal.errors import UsageError

    if dry_run and not repair:
        raise UsageError("--dry-run belongs to --repair", hint="journal verify changes nothing anyway")
    if sum((deep or repair or head is not None, receipt is not None, other is not None)) > 1:
        told = "--receipt, --against, and --deep, --repair or --head are three runs"
        raise UsageError(told, hint="ask for one at a time")
    if receipt is not None:
        return _prove(app, app.data, receipt)
    if other is not None:
        return _compare(app, app.data, other)
    repaired = _repair(app, app.data, dry_run) if repair else None
    return _verify(app, app.data, deep, head, repaired)


# -- bytes and states -------------------------------------------------------------------------------------------------


def _repair(app: App, data: Data, dry_run: bool) -> dict[str, object]:
    """Puts right what can be, tells it, and returns the same for --json."""
    from msgspec import to_builtins

    from recovery.log.repairs import plan, run

    with app.out.progress("looking for repairs", "segments") as bar:
        planned = plan(data, bar.advance)
    if dry_run or planned.is_empty:
        repairs = planned.repairs()
        if not app.json:
            app.out.lines([f"would repair {each.words()}" for each in repairs] or ["nothing to repair"])
        return {"done": False, "repairs": to_builtins(repairs)}
    outcome = run(data, planned)
    if not app.json:
        for each in outcome.repairs:
            app.out.line(f"repaired {each.words()}" + (f"; kept in {each.quarantined}" if each.quarantined else ""))
        if outcome.left:
            app.out.note(f"not made anew: {outcome.left}")
        if outcome.problem:
            app.out.note(f"not journaled yet: {outcome.problem}")
    return {"done": True, **to_builtins(outcome)}


def _verify(app: App, data: Data, deep: bool, given: str | None, repaired: dict[str, object] | None) -> int:
    from journal.verify import verify
    from recovery.evidence import evidence_seq
    from recovery.log.heads import parse_head

    head = parse_head(text_of(given, "journal head")) if given is not None else None
    evidence = evidence_seq(data)
    with app.out.progress("verifying", "bytes") as bar:
        report = verify(
            data.storage, data.layout.journal, evidence_seq=evidence, head=head, progress=bar.advance,
            parity=data.parity, deep=deep,
        )  # fmt: skip
    states = _deep(app, data, evidence, report) if deep else None
    if app.json:
        from msgspec import to_builtins

        document = {"ok": not report.exit_code, **to_builtins(report)}
        if repaired is not None:
            document["repair"] = repaired
        if states is not None:
            document["states"] = [{**to_builtins(each), "matches": each.matches} for each in states.states]
        if head is not None:
            document["head"] = {**to_builtins(head), "proven": report.head_proven}
        app.out.document(document)
        return report.exit_code
    for finding in report.findings:
        _print_finding(app, finding)
    for state in states.states if states is not None else ():
        if state.matches:
            app.out.line(f"ok: {state.of} at seq {state.seq} is what the events make, digest {state.found}")
    if head is not None and report.head_proven:
        app.out.line(f"proven: the history leads through the head at seq {head.seq}, unchanged")
    app.out.line(_summary(report))
    return report.exit_code


def _deep(app: App, data: Data, evidence: int, report: Verified) -> Deep | None:
    """Adds what replaying found to the report; None where the log is too damaged to be opened."""
    from journal.errors import DataError
    from recovery.log.deep import verify_deep

    try:
        reader = data.reader(evidence)
    except DataError as error:
        if not report.exit_code:
            report.add(error, data.layout.journal)
        return None
    with app.out.progress("replaying", "events") as bar:
        deep = verify_deep(data, reader, bar.step)
    known = {(each.path, each.offset) for each in report.findings if each.severity == "damage"}
    report.findings += [each for each in deep.findings if each.offset is None or (each.path, each.offset) not in known]
    report.exit_code = report.exit_code or deep.exit_code
    return deep


def _print_finding(app: App, finding: Finding) -> None:
    """One line: what, where, which events, what to do."""
    where = finding.path + (f" @ {finding.offset}" if finding.offset is not None else "")
    events = f", from seq {finding.seq}" if finding.seq is not None else ""
    hint = f" - {finding.hint}" if finding.hint else ""
    label = app.out.style(f"{finding.severity}: {finding.code}", fg=LOOKS[finding.severity])
    text = f": {finding.message} [{where}{events}]{hint}".replace("\n", "\\n")
    app.out.styled(label + app.out.style(text))


def _summary(report: Verified) -> str:
    from recovery.cli.words import bytes_text, counted

    damages = sum(each.severity == "damage" for each in report.findings)
    notes = len(report.findings) - damages
    files = [(report.segments, "segment"), (report.events, "event"), (report.checkpoints, "checkpoint")]
    files += [(report.parity, "parity file")] if report.parity else []
    files += [(report.indexes, "index file")] if report.indexes else []
    read = ", ".join([*(counted(*each) for each in files), f"{bytes_text(report.bytes)} read"])
    verdict = counted(damages, "damage") if damages else "no damage"
    return f"{read}: {verdict}" + (f", {counted(notes, 'note')}" if notes else "")


# -- another copy -----------------------------------------------------------------------------------------------------


def _compare(app: App, data: Data, other: str) -> int:
    from journal.compare import compare, diverged_error
    from journal.reader import LogReader
    from recovery.log.copies import journal_of

    there = LogReader(data.storage, journal_of(data.storage, other))
    found = compare(data.reader(), there)
    if app.json:
        from msgspec import to_builtins

        app.out.document({"ok": found.standing != "diverged" and not found.unreadable, **to_builtins(found)})
    elif found.standing != "diverged":
        said = {
            "same": f"the same up to seq {found.common_seq}, where both end",
            "ahead": f"the same up to seq {found.common_seq}; this one goes on to {found.here_last_seq}",
            "behind": f"the same up to seq {found.common_seq}; {other} goes on to {found.there_last_seq}",
        }
        app.out.line(said[found.standing])
    if found.unreadable is not None and not app.json:
        app.out.note(f"compared only up to damage: {found.unreadable}")
    if found.standing != "diverged":
        return found.exit_code
    if not app.json:
        app.out.error(diverged_error(found, other, "only one can go on; the other's events stay in its own copy"))
    return 14


# -- receipts ---------------------------------------------------------------------------------------------------------


def _prove(app: App, data: Data, given: str) -> int:
    from recovery.log.receipts import parse_receipts, prove_all

    receipts = parse_receipts(text_of(given, "journal append"))
    proofs = prove_all(data.reader(), receipts)
    wrong = [proof.error for proof in proofs if proof.error is not None]
    if app.json:
        from msgspec import to_builtins

        told = [
            {**to_builtins(receipt), "proven": error is None, **({"error": error.to_json()} if error else {})}
            for receipt, error in proofs
        ]
        app.out.document({"ok": not wrong, "proven": len(proofs) - len(wrong), "refused": len(wrong), "receipts": told})
    else:
        for receipt, error in proofs:
            if error is not None:
                app.out.line(f"REFUSED: receipt of seq {receipt.seq}, op_id {receipt.op_id}: {error}")
        if len(proofs) == 1 and not wrong:
            (receipt, _) = proofs[0]
            app.out.line(f"proven: seq {receipt.seq}, op_id {receipt.op_id} is in this journal, unchanged")
        else:
            app.out.line(f"{len(proofs) - len(wrong):,} of {len(proofs):,} receipts proven")
    return wrong[0].exit_code if wrong else 0


def text_of(given: str, verb: str) -> str:
    """What --receipt or --head names: JSON as it is, `-` for stdin, else a file."""
    from journal.errors import UsageError

    if given.lstrip().startswith("{"):
        return given
    try:
        if given == "-":
            return sys.stdin.buffer.read().decode()
        with open(given, "rb") as file:
            return file.read().decode()
    except UnicodeDecodeError:
        raise UsageError(f"{given} is no UTF-8 text", hint=f"give what {verb} printed") from None
    except FileNotFoundError:
        raise UsageError(
            f"there is no file {given!r}", hint=f"give JSON, a file of what {verb} printed, or - for stdin"
        ) from None
