"""Another process that reads memory.db while its writer fails: idle, and in the midst of reading.

One that writes it by itself is another matter: recovery refuses beside it (`recovery.serving.holding`).

    python -m tests.bystander DIR

Says `ready`, waits for a line on stdin, and then tells as JSON what each of the three has met.
"""

from __future__ import annotations

import json
import os
import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path
from typing import Any, NamedTuple

from journal.errors import JournalError
from recovery import open_reader
from replay.digest import state_digest
from replay.schema import connect, read_position
from tests.command import ENVIRONMENT, ROOT


class Seen(NamedTuple):
    """What one transaction read: a seq, and the digest of the whole state in it."""

    seq: int
    digest: str

    @classmethod
    def by(cls, connection: sqlite3.Connection) -> Seen:
        position = read_position(connection)
        assert position is not None
        return cls(position.seq, state_digest(connection))


class Bystander:
    """The process, as whoever makes the writer fail holds it."""

    def __init__(self, root: Path) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-m", "tests.bystander", str(root)],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, cwd=ROOT, env=ENVIRONMENT, text=True,
        )  # fmt: skip
        assert self.process.stdout is not None
        assert self.process.stdout.readline() == "ready\n"

    def tell(self) -> dict[str, Any]:
        """Lets it go on to its end."""
        out, _ = self.process.communicate("go on\n", timeout=60)
        assert self.process.returncode == 0
        told: dict[str, Any] = json.loads(out)
        return told


def main() -> int:
    link = os.path.join(sys.argv[1], "memory.db")
    generation = os.path.join(sys.argv[1], os.readlink(link))
    with open_reader(link) as idle, closing(connect(generation, read_only=True)) as reading:
        with idle.transaction() as connection:
            before = Seen.by(connection)
        reading.execute("BEGIN")
        first = Seen.by(reading)
        print("ready", flush=True)
        sys.stdin.readline()
        told: dict[str, Any] = {"before": before, "same_snapshot": Seen.by(reading) == first}
        reading.execute("ROLLBACK")
        try:
            with idle.transaction() as connection:
                told["idle"] = Seen.by(connection)
        except JournalError as error:
            told["idle_error"] = error.code
    print(json.dumps(told))
    return 0


if __name__ == "__main__":
    sys.exit(main())
