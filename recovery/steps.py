"""What each kind of step does, and the counts that are journaled of it. However often one runs, the same bytes result.

Nothing is deleted: what is replaced goes to quarantine.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import closing
from functools import partial
from time import time_ns

from journal.errors import Corrupt
from journal.log import Log
from recovery.agents.steps import rescue_agents
from recovery.data import Data
from recovery.leftovers import tidy
from recovery.model import steps as model_steps
from recovery.model.vectors import good_vectors, pending_vectors
from recovery.plan import Step
from recovery.recovered import Recovered
from recovery.surroundings import core_files
from replay.agent_quarantine import set_aside
from replay.catchup import catch_up
from replay.rebuild import rebuild, renew_agents
from replay.schema import connect
from replay.scope import rebuild_scope

Progress = Callable[[str, int, int], None]


def _rebuild_memory(data: Data, log: Log, step: Step, result: Recovered, progress: Progress | None) -> dict[str, int]:
    tick = None if progress is None else lambda done, total: progress("rebuild memory.db", done, total)
    old = data.generations.current()
    vectors = None if old.path is None or old.kind not in ("generation", "file") else partial(good_vectors, old.path)
    built = rebuild(data.storage, data.layout, log.reader(), tick, mark=step.mark, vectors=vectors)
    result.rebuilt, result.base_seq, result.passed_over = True, built.base_seq, list(built.passed_over)
    result.events, result.rows = built.events, built.rows
    result.seq, result.digest = built.position.seq, built.digest
    result.vectors, result.vectors_pending = built.embeddings, pending_vectors(data)
    retired = data.generations.retire()
    result.quarantined += retired.quarantined
    vectors_now = {"vectors": result.vectors, "vectors_pending": result.vectors_pending}
    made = data.storage.size(data.generations.current().path or data.layout.memory_db)
    return {"events": built.events, "rows": built.rows, "bytes": made, "base_seq": built.base_seq, **vectors_now}


def _rebuild_scope(data: Data, log: Log, step: Step, result: Recovered, progress: Progress | None) -> dict[str, int]:
    tick = None if progress is None else lambda done, total: progress("rebuild scope", done, total)
    (scope,) = step.names
    built = rebuild_scope(data.storage, data.layout, log.reader(), scope, tick)
    result.rebuilt, result.seq, result.digest, result.scope = True, built.seq, built.digest, scope
    result.rest_differs = built.rest_differs
    result.quarantined += data.generations.retire().quarantined
    return {"rows": sum(each.wrong for each in built.tables.values())}


def _catch_up(data: Data, log: Log, step: Step, result: Recovered, progress: Progress | None) -> dict[str, int]:
    path = data.generations.current().path
    assert path is not None
    with closing(connect(path)) as connection:
        caught = catch_up(connection, log.reader())
    if caught.restore is not None:  # journaled since the plan was made: a live file cannot go back
        return _rebuild_memory(data, log, step, result, progress)
    result.seq = caught.to_seq
    result.events += caught.applied.events
    return {"events": caught.applied.events}


def _set_agents_aside(data: Data, log: Log, step: Step, result: Recovered, progress: Progress | None) -> dict[str, int]:
    path = data.layout.agents
    kept = set_aside(data.storage, path, data.quarantine, time=time_ns(), reason=f"journal recover: {step.reason}")
    data.storage.sync_dir(os.path.dirname(path))
    result.quarantined.append(kept)
    return {"set_aside": 1}


def _restore_agents(data: Data, log: Log, step: Step, result: Recovered, progress: Progress | None) -> dict[str, int]:
    outcome = renew_agents(
        data.storage, data.layout, log.reader(), time=time_ns(), reason="journal recover", names=step.names
    )
    result.agents_written += outcome.written
    result.agents_removed += outcome.removed
    result.quarantined += outcome.set_aside.values()
    return {"written": len(outcome.written), "removed": len(outcome.removed), "set_aside": len(outcome.set_aside)}


def _rescue_agents(data: Data, log: Log, step: Step, result: Recovered, progress: Progress | None) -> dict[str, int]:
    return rescue_agents(data, log, step, result)


def _set_cores_aside(data: Data, log: Log, step: Step, result: Recovered, progress: Progress | None) -> dict[str, int]:
    cores, home, moved = core_files(data), os.stat(data.layout.journal).st_dev, 0
    for path in cores:
        if os.stat(path).st_dev != home:  # it would have to be copied, and may be as large as the memory was
            result.problems.append(f"the core file {path} lies on another file system, and was left there")
            continue
        kept = set_aside(data.storage, path, data.quarantine, time=time_ns(), reason=f"journal recover: {step.reason}")
        data.storage.sync_dir(os.path.dirname(path))
        result.quarantined.append(kept)
        moved += 1
    return {"set_aside": moved}


def _tidy(data: Data, log: Log, step: Step, result: Recovered, progress: Progress | None) -> dict[str, int]:
    tidied = tidy(data)
    result.quarantined += tidied.quarantined
    return {"removed": len(tidied.removed), "set_aside": len(tidied.quarantined)}


def _repair_journal(data: Data, log: Log, step: Step, result: Recovered, progress: Progress | None) -> dict[str, int]:
    """The log is put right before it is opened, so this is reached only where that was not enough."""
    raise Corrupt(step.reason, path=data.layout.journal, hint="journal verify names all damage")


STEPS: dict[str, Callable[[Data, Log, Step, Recovered, Progress | None], dict[str, int]]] = {
    "repair_journal": _repair_journal,
    "rebuild_memory": _rebuild_memory,
    "rebuild_scope": _rebuild_scope,
    "catch_up": _catch_up,
    "set_agents_aside": _set_agents_aside,
    "rescue_agents": _rescue_agents,
    "restore_agents": _restore_agents,
    "drop_vectors": model_steps.drop_vectors,
    "restore_model": model_steps.restore,
    "embed": model_steps.embed,
    "set_cores_aside": _set_cores_aside,
    "tidy": _tidy,
}
