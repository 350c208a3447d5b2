"""`journal recover journal`: what only the journal's owner can decide, told before it is done."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from recovery.cli.app import App

if TYPE_CHECKING:
    from journal.commit import Receipt
    from recovery.data import Data
    from recovery.log.accept_loss import Loss, Succeeded


def accept(app: App, *, tail: bool, loss: bool, given: str | None, dry_run: bool, yes: bool) -> int | None:
    """Runs what was asked for. Without an answer to the question that the journal raises, raises that question."""
    from journal.errors import UsageError
    from recovery.cli.verify import text_of
    from recovery.data import Data
    from recovery.log.receipts import parse_receipts

    if tail and loss:
        raise UsageError("--accept-tail and --accept-loss are two answers", hint="give the one that check asks for")
    receipts = parse_receipts(text_of(given, "journal append")) if given is not None else []
    if loss:
        return _accept_loss(app, Data.at(app.place, app.config_option), receipts, dry_run, yes)
    return _accept_tail(app, app.data, receipts, tail, dry_run)


# -- the last batch ---------------------------------------------------------------------------------------------------


def _accept_tail(app: App, data: Data, receipts: list[Receipt], accepted: bool, dry_run: bool) -> int | None:
    """Opens the log with its owner's word that an ambiguous tail was never acknowledged."""
    from journal.errors import AmbiguousTail
    from recovery.evidence import evidence_seq
    from recovery.execute import open_log

    evidence = max([evidence_seq(data), *(receipt.seq for receipt in receipts)])
    reader = data.reader(evidence)
    _refuse_foreign(data, receipts)
    region = reader.tail.region
    found = None
    try:
        reader.raise_for_tail()
    except AmbiguousTail as error:
        if not accepted or region is None:
            raise
        found = error
    if found is None:
        for _ in reader.batches():  # damage before the end is no question of accepting a tail: it is told
            pass
    if found is None or region is None or dry_run:
        claimed = f"would set aside {region.length} bytes: {found.message}" if found and region else "nothing to accept"
        if app.json:
            app.out.document({"accepted": False, "message": claimed})
        else:
            app.out.line(claimed)
        return None
    log = open_log(data, accept_tail=True, evidence=evidence)
    opening = log.opening
    log.close()
    if app.json:
        repaired = [each.words() for each in opening.repaired]
        told = {"accepted": opening.torn_bytes > 0, "bytes": opening.torn_bytes, "quarantined": opening.quarantined}
        app.out.document({**told, "seq": log.next_seq - 1, "repaired": repaired})
    elif opening.repaired:  # nothing was to be given up: one bit explained it
        app.out.lines(f"repaired {each.words()}" for each in opening.repaired)
    else:
        app.out.line(f"set aside {opening.torn_bytes} bytes ({found.message}): {opening.quarantined}")
        app.out.line(f"the journal ends at seq {log.next_seq - 1}")
    return None


def _refuse_foreign(data: Data, receipts: list[Receipt]) -> None:
    """A receipt that the readable part contradicts is another journal's, and no evidence about this one's end."""
    from recovery.log.receipts import prove_all

    reader = data.reader()
    for proof in prove_all(reader, [receipt for receipt in receipts if receipt.seq <= reader.last_seq]):
        if proof.error is not None:
            raise proof.error


# -- a loss -----------------------------------------------------------------------------------------------------------


def _accept_loss(app: App, data: Data, receipts: list[Receipt], dry_run: bool, yes: bool) -> int | None:
    from recovery.log.accept_loss import accept_loss, assess, finish

    finished = None if dry_run else finish(data)
    _refuse_foreign_readable(data, receipts)
    with app.out.progress("reading", "bytes") as bar:
        assessed = assess(data, receipts, bar.advance)
    if assessed is None:
        _say_nothing_is_lost(app, finished)
        return None
    loss = assessed[0]
    if not app.json:
        app.out.lines(_lines(loss))
    if dry_run:
        if app.json:
            from msgspec import to_builtins

            app.out.document({"accepted": False, "loss": to_builtins(loss)})
        return None
    if not app.out.confirm(f"Go on without these {loss.events_lost:,} events?", yes=yes):
        return 1
    with app.out.progress("accepting", "") as bar:
        done = accept_loss(data, receipts, bar.step)
    if done is None:
        _say_nothing_is_lost(app, finished)
        return None
    if app.json:
        from msgspec import to_builtins

        app.out.document({"accepted": True, "loss": to_builtins(loss), "result": to_builtins(done)})
    else:
        app.out.lines(_done(done))
    return None


def _refuse_foreign_readable(data: Data, receipts: list[Receipt]) -> None:
    """As far as the damaged journal can be read; behind the damage the survey holds receipts against what survived."""
    from journal.errors import DataError

    if not receipts:
        return
    try:
        reader = data.reader()
    except DataError:
        return
    from recovery.log.receipts import prove_all

    for proof in prove_all(reader, [receipt for receipt in receipts if receipt.seq <= reader.last_seq]):
        if proof.error is not None and proof.error.exit_code == 2:
            raise proof.error


def _say_nothing_is_lost(app: App, finished: str | None) -> None:
    said = "nothing is lost: every event can be read"
    if finished is not None:
        said = f"the cut was finished: the successor is in place, its parent lies in {finished}"
    if app.json:
        app.out.document({"accepted": finished is not None, "message": said})
    else:
        app.out.line(said)


def _lines(loss: Loss) -> Iterator[str]:
    from recovery.cli.words import counted

    yield f"journal {loss.journal_id} is whole up to seq {loss.good_seq}"
    for first, last in loss.lost:
        yield f"lost: event {first}" if first == last else f"lost: events {first}-{last} ({last - first + 1:,})"
    for spot in loss.spots:
        where = f"{spot.length:,} bytes at {spot.offset}" if spot.length else f"at {spot.offset}"
        yield f"  {spot.path}: {where}: {spot.reason}"
    if loss.torn_bytes:
        yield f"a torn tail of {loss.torn_bytes:,} bytes, never acknowledged, stays with the damaged journal"
    if loss.checkpoints_beyond:
        yield (
            f"{counted(loss.checkpoints_beyond, 'checkpoint')} behind the first loss, with what a replay would not "
            "have: none is taken over"
        )
    yield f"{loss.events_kept:,} events survive, {loss.events_lost:,} are lost"
    yield "a backup may hold what is lost: journal recover --from BACKUP"


def _done(done: Succeeded) -> Iterator[str]:
    yield f"journal {done.journal_id} succeeds {done.parent_journal_id}, which lies whole in {done.parent}"
    yield f"it goes to seq {done.last_seq}, where it says what was lost (journal show {done.last_seq})"
    if done.rows_differing is not None:
        rows = ", ".join(f"{table} {count:,}" for table, count in done.rows_differing.items() if count)
        yield f"memory.db at seq {done.compared_at_seq} differs from what it makes in rows: {rows or 'none'}"
        if any(done.rows_differing.values()):
            yield "to keep what it has more: journal export mcp > FILE now, journal import mcp FILE after the recovery"
    yield "next: journal check names agent files that it no longer knows (journal adopt agents NAME keeps one); then"
    yield "journal recover all rebuilds memory.db, and keeps the old one in quarantine"
