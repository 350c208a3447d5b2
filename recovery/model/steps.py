"""The steps of a plan that concern the model and its vectors, as `recovery.steps` runs them.

None of them stops a recovery: what cannot be brought back is a problem in its result, and texts wait for their vectors.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Sequence
from contextlib import closing

from journal.log import Log
from recovery.data import Data
from recovery.model.journaled import journaled_manifest
from recovery.model.looking import dimensions
from recovery.model.restore import NotRestored, restore_model
from recovery.plan import Step
from recovery.recovered import Recovered
from replay.embeddings import Embedder, Row, bad_rows, drop_rows, store
from replay.encoder import MissingExtra, NoModel
from replay.model_files import ModelDamaged
from replay.onnx_graph import UnsuitableModel
from replay.schema import connect

Progress = Callable[[str, int, int], None]


def restore(data: Data, log: Log, step: Step, result: Recovered, progress: Progress | None) -> dict[str, int]:
    try:
        restored = restore_model(data, log, progress)
    except NotRestored as error:
        result.problems.append(str(error))
        return {"restored": 0}
    result.model = restored
    if restored.quarantined is not None:
        result.quarantined.append(restored.quarantined)
    return {"restored": 1, "kept": restored.kept, "fetched": restored.fetched}


def drop_vectors(data: Data, log: Log, step: Step, result: Recovered, progress: Progress | None) -> dict[str, int]:
    path = data.generations.current().path
    if path is None:
        return {"dropped": 0}
    with closing(connect(path)) as connection:
        bad = list(bad_rows(connection, dimensions(data)))
        _in_transaction(connection, lambda: drop_rows(connection, bad))
    result.vectors_dropped = len(bad)
    return {"dropped": len(bad)}


def embed(data: Data, log: Log, step: Step, result: Recovered, progress: Progress | None) -> dict[str, int]:
    """Nothing where the model or the extra is missing: what waits is counted by `status`."""
    path = data.generations.current().path
    if path is None:
        return {"embedded": 0}
    with closing(connect(path)) as writing, closing(connect(path, read_only=True)) as reading:

        def write(rows: Sequence[Row]) -> None:
            _in_transaction(writing, lambda: store(writing, rows))

        tick = None if progress is None else lambda done, total: progress("compute vectors", done, total)
        try:
            model = data.model()
            manifest = journaled_manifest(data, log.reader())
            if manifest is not None and manifest.fingerprint != model.fingerprint:
                raise ModelDamaged("the model's files are not the journaled ones", path=str(model.path))
            done = Embedder(model, batch=data.config.embeddings.batch_size).run(reading, write, progress=tick)
        except (MissingExtra, NoModel, ModelDamaged, UnsuitableModel) as error:
            result.problems.append(f"vectors stay pending: {error}")
            return {"embedded": 0}
    result.embedded = done.done
    return {"embedded": done.done}


def _in_transaction(connection: sqlite3.Connection, change: Callable[[], None]) -> None:
    connection.execute("BEGIN IMMEDIATE")
    try:
        change()
        connection.execute("COMMIT")
    except BaseException:
        if connection.in_transaction:
            connection.execute("ROLLBACK")
        raise
