"""`journal compact`: packs sealed segments by hand, all that there are."""

from __future__ import annotations

import click

from recovery.cli.app import App, Verb


@click.command(
    cls=Verb,
    cut="what is packed stays packed; journal compact goes on",
    examples=("journal compact --dry-run", "journal compact", "journal compact --json"),
)
@click.option("--dry-run", is_flag=True, help="Say what would be packed, and change nothing.")
@click.pass_obj
def command(app: App, dry_run: bool) -> int | None:
    """Replace sealed segments by packed ones: the same bytes, compressed, in a fraction of the space.

    No event, chain or receipt changes, and every verb reads both. A segment goes only after its pack was read back,
    compared byte by byte, synced, and has its parity. The last two segments stay as they are, and so do small ones. It
    runs beside a server, whose checkpoints do the same where segments.pack is on. Cut at any point, it goes on the next
    time. Exit code 3: a segment was left because it is damaged.
    """
    from journal.packing import pack_segments, packable
    from recovery.cli.words import bytes_text, counted

    data = app.data
    data.reader()  # says what is wrong where no journal is
    if dry_run:
        found = packable(data.storage, data.layout.journal)
        size = sum(each.end.offset for each in found)
        if app.json:
            app.out.document({"segments": [each.path for each in found], "bytes": size})
        else:
            told = f"would pack {counted(len(found), 'segment')}, {bytes_text(size)}"
            app.out.line(told if found else "nothing to pack")
        return None
    parity = data.parity if data.config.parity.share else None
    with app.out.progress("packing", "bytes") as bar:
        done = pack_segments(data.storage, data.layout.journal, parity, run_bytes=None, progress=bar.advance)
    if app.json:
        from msgspec import to_builtins

        app.out.document(to_builtins(done))
    else:
        for path in done.skipped:
            app.out.line(f"left as it is: {path} is damaged, or has no parity - journal verify")
        app.out.line(
            f"packed {counted(done.segments, 'segment')}, {bytes_text(done.bytes_before)} to "
            f"{bytes_text(done.bytes_after)}" if done.segments else "nothing to pack"
        )  # fmt: skip
    return 3 if done.skipped else None
