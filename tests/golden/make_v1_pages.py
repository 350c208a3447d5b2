"""Makes tests/golden/v1-pages: a checkpoint of whole pieces, and a later one that is a delta to them.

    python -m tests.golden.make_v1_pages DIRECTORY

Run once for a version of the format, never to make a test pass.
"""

from __future__ import annotations

import sys
from pathlib import Path

from journal.checkpoint import CheckpointStore
from journal.events import CheckpointCreated, EntityCreated, ObservationAdded, ObservationRemoved
from replay import memory_parts
from replay.checkpoints import make_checkpoint
from replay.layout import Layout
from tests.golden.make_v1 import Maker, request


def checkpoint(made: Maker) -> None:
    """The state at the end so far, and the event that vouches for it."""
    done = make_checkpoint(made.storage, Layout.under(str(Path(made.directory).parent)), made.clock)
    made.batch(request(CheckpointCreated(done.seq, done.digest, done.bytes, done.drift, done.manifest), agent=None))


def main() -> None:
    memory_parts.BASE_BYTES_MIN = 0  # what comes of a large file comes of a small one here
    made = Maker(Path(sys.argv[1]).resolve() / "v1-pages")
    made.open()
    fact = "a fact of so many words that a few of them fill a page of the file, and that it is split soon. " * 5
    made.batch(request(*(EntityCreated("global", f"e{number}", "t") for number in range(4))))
    for number in range(4):
        made.batch(request(*(ObservationAdded("global", f"e{number}", f"{index}: {fact}") for index in range(8))))
    checkpoint(made)
    made.batch(request(*(ObservationAdded("global", "e2", f"later {index}: {fact}") for index in range(10))))
    made.batch(request(ObservationRemoved("global", "e1", f"3: {fact}")))
    checkpoint(made)
    store = CheckpointStore(made.storage, f"{made.directory}/checkpoints")
    assert [[part.kind for part in each.parts] for each in store.manifests()] == [
        ["memory.db", "memory.db.pages"], ["memory.db"],
    ]  # fmt: skip
    made.log.close()
    made.finish()


if __name__ == "__main__":
    main()
