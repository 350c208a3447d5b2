"""`journal embed`: computes the vectors that are pending, now."""

from __future__ import annotations

import click

from recovery.cli.app import App, Verb


@click.command(
    cls=Verb, cut="what was computed stays; journal embed goes on", examples=("journal embed", "journal embed --json")
)
@click.pass_obj
def command(app: App) -> int | None:
    """Compute the vectors of all observations that have none yet.

    A server does this behind its writes; this is for a state that was just rebuilt or adopted. Vectors are derived:
    nothing is lost without them, and only search needs them. Needs the extra of the configured backend: `embeddings`
    for torch, `onnx` for onnx.
    """
    from msgspec import to_builtins

    from recovery.cli.words import counted
    from recovery.control.writer import open_writer
    from replay.encoder import MissingExtra, is_available

    data = app.data
    backend = data.config.embeddings.backend
    if not is_available(backend):
        raise MissingExtra(backend)
    data.model()  # before the lock is taken: without a model there is nothing to do
    with open_writer(data) as writer, app.out.progress("embedding", "texts") as bar:
        done = writer.embed(bar.advance)
    if app.json:
        app.out.document(to_builtins(done))
    else:
        app.out.line(f"embedded {counted(done.embedded, 'text')}, {done.pending:,} pending")
    return 3 if done.pending else None
