"""Makes tests/golden/v1-successor: what goes on of the golden journal v1 when three of its batches cannot be read.

    python -m tests.golden.make_v1_successor DIRECTORY

What must be read is written down from v1's own expected.json, not from what was made. Run once for a version of the
format, never to make a test pass.
"""

from __future__ import annotations

import json
import shutil
import sys
from itertools import count
from pathlib import Path

from journal.reader import LogReader
from journal.salvage import survey
from journal.storage import RealStorage
from journal.successor import build_successor

V1 = Path(__file__).resolve().parent / "v1"
NOW = 1_764_100_000_000_000_000
EPOCH = 9
WRECKED = (2, -3, -2)  # batches: an early one, and two that follow each other


def main() -> None:
    root = Path(sys.argv[1]).resolve() / "v1-successor"
    damaged = root / "damaged"
    shutil.copytree(V1 / "journal", damaged)
    storage = RealStorage()
    batches = [(each.first_seq, each.count, bytes(each.payload)) for each in LogReader(storage, str(damaged)).batches()]
    lost = []
    for index in WRECKED:
        first, number, payload = batches[index]
        lost += range(first, first + number)
        for path in damaged.joinpath("segments").iterdir():
            path.write_bytes(path.read_bytes().replace(payload, payload[:8] + b"\xee" * 40 + payload[48:]))
    found = survey(storage, str(damaged))
    numbers = count(1)
    built = build_successor(
        storage, found, str(root / "journal"), epoch=EPOCH, now=NOW, segment_bytes_max=4 << 10,
        entropy=lambda size: bytes([next(numbers)]) * size,
    )  # fmt: skip
    shutil.rmtree(damaged)
    for folder in ("checkpoints", "quarantine"):
        (root / "journal" / folder).rmdir()
    expected = json.loads((V1 / "expected.json").read_text(encoding="utf-8"))
    records = [None if record["seq"] in lost else record for record in expected["records"]]
    text = json.dumps(
        {"journal_id": built.journal_id.hex(), "parent_journal_id": expected["journal_id"], "lost": lost,
         "records": records},
        ensure_ascii=False, indent=None,
    )  # fmt: skip
    (root / "expected.json").write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
