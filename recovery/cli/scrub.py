"""`journal scrub`: reads all of the journal at a bounded rate, and makes the parity that is missing."""

from __future__ import annotations

import click

from recovery.cli.app import App, Verb


@click.command(
    cls=Verb,
    cut="journal scrub goes on from here",
    examples=("journal scrub", "journal scrub --rate 20", "journal scrub --rate 0 --anew --json"),
)
@click.option("--rate", type=click.FloatRange(min=0), metavar="MIB", help="MiB a second; 0: as fast as it goes. "
              "Default: scrub.bytes_per_second.")  # fmt: skip
@click.option("--anew", is_flag=True, help="Do not go on with one that was interrupted.")
@click.pass_obj
def command(app: App, rate: float | None, anew: bool) -> int:
    """Read every segment, checkpoint and parity file, and name what rotted; make the parity that is missing.

    What nobody reads rots unseen, and two rotten files are worse than one: run it once a week or so, from a timer. It
    takes no lock to read, so it runs beside a server. Interrupted (Ctrl-C) it goes on where it was the next time. At
    the end it journals scrub.completed with what it found, unless a writer holds the journal. It repairs nothing but
    parity: that is journal verify --repair. Exit code: 0, or that of the first damage.
    """
    from recovery.cli.words import bytes_text, counted
    from recovery.log.scrub import scrub

    data = app.data
    speed = data.config.scrub.bytes_per_second if rate is None else rate * (1 << 20)
    with app.out.progress("scrubbing", "bytes") as bar:
        done = scrub(data, speed, anew=anew, progress=bar.advance)
    if app.json:
        from msgspec import to_builtins

        app.out.document({"ok": not done.findings, **to_builtins(done)})
        return done.exit_code
    for each in done.findings:
        where = f" [{each.path}" + (f" @ {each.offset}" if each.offset is not None else "") + "]" if each.path else ""
        app.out.line(f"damage: {each.code}: {each.message}{where} - {each.hint or 'journal verify --repair'}")
    if done.parity_files:
        app.out.line(f"made parity of {counted(done.parity_files, 'file')}, {bytes_text(done.parity_bytes)}")
    if done.parity_problem:
        app.out.note(f"no parity: {done.parity_problem}")
    if done.problem:
        app.out.note(f"not journaled: {done.problem}")
    verdict = counted(len(done.findings), "damage") if done.findings else "no damage"
    app.out.line(f"{counted(done.files, 'file')}, {bytes_text(done.bytes)} read in {done.seconds:.1f} s: {verdict}")
    return done.exit_code
