"""`journal embed`: computes the vectors that are pending, now."""

from __future__ import annotations

import click

from recovery.cli.app import App, Verb


@click.command(cls=Verb, examples=("journal embed", "journal embed --json"))
@click.pass_obj
def command(app: App) -> int | None:
    """Compute the vectors of all observations that have none yet.

    A server does this behind its writes; this is for a state that was just rebuilt or adopted. Vectors are derived:
    nothing is lost without them, and only search needs them. Needs the extra `embeddings`.
    """
    from contextlib import closing

    from recovery.server import background_of, open_core
    from replay.embeddings import pending
    from replay.encoder import MissingExtra, Model, is_available
    from replay.schema import connect

    if not is_available():
        raise MissingExtra
    data = app.data
    model = Model(data.config.model_path(data.root))  # raises where there is none
    core = open_core(data, check="quick").core
    try:
        with app.out.progress("embedding", "texts") as bar:
            done = background_of(data, core).embed(progress=bar.advance)
        with closing(connect(core.state.generation, read_only=True)) as connection:
            left = pending(connection, model.fingerprint)
    finally:
        core.close()
    if app.json:
        app.out.document({"embedded": done, "pending": left, "model": model.fingerprint})
    else:
        app.out.line(f"embedded {done} texts, {left} pending")
    return 3 if left else None
