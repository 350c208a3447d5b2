"""Makes tests/golden/v1-leaves: a checkpoint that lists the leaves of its digest, vouched for, and events behind it.

    python -m tests.golden.make_v1_leaves DIRECTORY

Run once for a version of the format, never to make a test pass.
"""

from __future__ import annotations

import sys
from pathlib import Path

from journal.checkpoint import CheckpointStore
from journal.events import CheckpointCreated, EntityDeleted, ObservationAdded, StatusChanged
from tests.golden.make_v1 import Maker, every_event, request


def main() -> None:
    made = Maker(Path(sys.argv[1]).resolve() / "v1-leaves")
    made.open()
    every_event(made)
    for number in range(60):  # past the edge of a bucket
        made.batch(*(request(ObservationAdded("global", "Zoë", f"Zeile {number}-{line}")) for line in range(20)))
    made.log.close()
    made.checkpoint()
    made.open()
    (manifest,) = CheckpointStore(made.storage, f"{made.directory}/checkpoints").manifests()
    made.batch(request(CheckpointCreated(manifest.seq, manifest.digest, manifest=manifest.fingerprint), agent=None))
    made.batch(request(ObservationAdded("global", "Zoë", "danach")), request(StatusChanged("ledger", "failed", "x")))
    made.batch(request(EntityDeleted("global", "Zoë")))
    made.log.close()
    made.finish()


if __name__ == "__main__":
    main()
