"""Makes tests/golden/v1-unchecked: events that were taken while there was no memory.db, some of them for nothing.

    python -m tests.golden.make_v1_unchecked DIRECTORY

Run once for a version of the format, never to make a test pass.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from journal.events import EntityCreated, ObservationAdded, RelationCreated
from tests.golden.make_v1 import Maker, request


class Anything:
    """A model that refuses nothing, as a writer without memory.db does."""

    def __init__(self, model: Any) -> None:
        self._model = model

    def would_refuse(self, event: object) -> None:
        return None

    def __getattr__(self, name: str) -> Any:
        return getattr(self._model, name)


def main() -> None:
    made = Maker(Path(sys.argv[1]).resolve() / "v1-unchecked")
    made.open()
    made.batch(request(EntityCreated("global", "Zoë", "person"), op_id="crm-991"))
    made.model = Anything(made.model)  # type: ignore[assignment]
    made.committer.unchecked = True
    first = len(made.records)
    made.batch(
        request(ObservationAdded("global", "Zoë", "there"), ObservationAdded("global", "Nobody", "not there")),
        request(EntityCreated("global", "Zoë", "person"), op_id="again"),
    )
    for record in made.records[first:]:
        record["unchecked"] = True
    made.committer.unchecked = False
    made.batch(request(RelationCreated("global", "Zoë", "Zoë", "knows")))
    made.log.close()
    made.finish()


if __name__ == "__main__":
    main()
