"""What a recovery did, printable as JSON as it is."""

from __future__ import annotations

import msgspec


class Rescued(msgspec.Struct, frozen=True):
    """An agent that got a valid config again: where it came from, and what was passed over before, with why."""

    name: str
    strategy: str
    source: str
    seq: int
    passed_over: list[str] = []


class RestoredModel(msgspec.Struct):
    """What became of the model. ``kept`` files were good where they lay, or from a run that was cut; ``test``
    is what proves it."""

    source: str
    files: int
    kept: int
    fetched: int
    quarantined: str | None
    test: str


class Recovered(msgspec.Struct):
    """What a recovery did: the state it ended in and what it cost. ``digest`` is that of a scan after the swap."""

    recovery_id: str
    seq: int = 0
    digest: str = ""
    scope: str = ""  # the only one that was put right; then ``digest`` is that of the scope
    rest_differs: bool = False  # outside of it memory.db is not what the journal says, and was left as it was
    steps: list[str] = []
    repaired: list[str] = []  # what was put right in the log's own files, in words
    rebuilt: bool = False
    base_seq: int = 0
    passed_over: list[tuple[int, str]] = []
    events: int = 0
    rows: int = 0
    vectors: int = 0  # that the rebuilt memory.db holds, from checkpoints and from the file before it
    vectors_pending: int = 0  # texts that wait for one
    agents_written: list[str] = []
    agents_removed: list[str] = []
    rescued: list[Rescued] = []
    quarantined: list[str] = []
    model: RestoredModel | None = None
    vectors_dropped: int = 0
    embedded: int = 0
    problems: list[str] = []  # what could not be brought back, each with its reason; everything else was
    expired: list[str] = []  # names that were in quarantine for as long as the configuration says
    seconds: float = 0.0
