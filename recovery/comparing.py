"""What changed between two moments: both states built beside, sharing work, then compared.

Must not know how moments are spelt or how changes are told.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable
from contextlib import closing

from journal.reader import LogReader
from recovery.data import Data
from replay.diff import LISTED_MAX, StateDiff, diff
from replay.engine import build_state
from replay.extend import extend
from replay.history import History, read_history
from replay.scratch import scratch_directory
from replay.timeline import Range, event_count, lineage_from
from replay.working import connect_finished

Progress = Callable[[int, int], None]
BULK_GAIN = 3  # a bulk load from genesis is about so much faster than applying the same events one by one


def compare(
    data: Data, reader: LogReader, before: int, after: int, *, limit: int = LISTED_MAX, progress: Progress | None = None
) -> StateDiff:
    """What it takes to come from state(before) to state(after); either may be the later one.

    Nothing is left behind. Raises as `build_state` does.
    """
    history = read_history(reader, data.checkpoints)
    with scratch_directory("diff") as scratch:
        low, high = min(before, after), max(before, after)
        paths = {seq: f"{scratch}/{seq}.db" for seq in (low, high)}
        _build(data, reader, low, paths[low], history, progress)
        if high != low:
            between = _way_between(data, history, low, high)
            if between is None:
                _build(data, reader, high, paths[high], history, progress)
            else:
                shutil.copyfile(paths[low], paths[high])
                extend(reader, paths[high], between, high, progress)
        with closing(connect_finished(paths[before])) as one, closing(connect_finished(paths[after])) as other:
            return diff(one, other, limit=limit)


def _build(data: Data, reader: LogReader, seq: int, path: str, history: History, progress: Progress | None) -> None:
    build_state(
        data.storage, data.layout.journal, reader, seq, path, progress, history=history, embeddings=False,
        journal_mode="delete",
    )  # fmt: skip


def _way_between(data: Data, history: History, low: int, high: int) -> list[Range] | None:
    """The ranges from one state to the other, where going them is less work than building the second anew."""
    restores = history.restores_until(high)
    between = lineage_from(restores, high, low)
    if between is None:
        return None
    rebuilds = [lineage_from(restores, high, each.seq) for each in data.checkpoints.manifests() if each.seq <= high]
    from_checkpoint = min((event_count(each) for each in rebuilds if each is not None), default=None)
    from_genesis = high // BULK_GAIN
    anew = from_genesis if from_checkpoint is None else min(from_genesis, from_checkpoint)
    return between if event_count(between) <= anew else None
