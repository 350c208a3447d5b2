"""Whether memory and model recover faster side by side: `python -m tests.bench.side_by_side`.

A memory.db of 120,000 rows is rebuilt, and the real model restored from a mirror on the same disk: one after the other,
and in two threads. Prints the seconds of five rounds and the median of the ratio.
"""

from __future__ import annotations

import shutil
import statistics
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path

from journal.events import EntityCreated, Event, ObservationAdded
from recovery import open_server_sync
from recovery.adopt.model import see_model
from recovery.data import Data
from recovery.execute import open_log
from recovery.model.restore import restore_model
from recovery.setup import initialise
from replay.rebuild import rebuild
from tests.model_place import NAME, copy_of_the_model

ENTITIES = 60_000
ROUNDS = 5


def seconds(run: Callable[[], object]) -> float:
    started = time.perf_counter()
    run()
    return time.perf_counter() - started


def main() -> None:
    place = Path(tempfile.mkdtemp(prefix="journal-bench-"))
    try:
        measure(place)
    finally:
        shutil.rmtree(place)


def measure(place: Path) -> None:
    root = place / "data"
    root.mkdir()
    (root / "journal.yaml").write_text(f"embeddings:\n  hub: off\n  mirror: {place}/mirror\n")
    copy_of_the_model(place / "mirror" / NAME)
    initialise(root)
    copy_of_the_model(root / "models" / NAME)
    data = Data.at(root)
    see_model(data)
    with open_server_sync(root, background=False) as hook:
        for first in range(0, ENTITIES, 3000):
            events: list[Event] = []
            for number in range(first, first + 3000):
                fact = f"a fact about number {number} that is a few words long"
                events += [EntityCreated("global", f"e{number}", "t"), ObservationAdded("global", f"e{number}", fact)]
            hook.append_all(events)
    log = open_log(data)

    def memory() -> None:
        rebuild(data.storage, data.layout, log.reader())

    def model() -> None:
        shutil.rmtree(root / "models" / NAME)
        restore_model(data, log)

    def both() -> None:
        thread = threading.Thread(target=model)
        thread.start()
        memory()
        thread.join()

    ratios = []
    for _ in range(ROUNDS):
        alone, beside, together = seconds(memory), seconds(model), seconds(both)
        ratios.append((alone + beside) / together)
        print(f"memory {alone:.2f} s, model {beside:.2f} s, side by side {together:.2f} s")
    print(f"one after the other / side by side: {statistics.median(ratios):.2f}")
    log.close()


if __name__ == "__main__":
    main()
