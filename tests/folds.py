"""A data directory whose memory.db has a write-ahead log, and what fills it: for the tests of folding."""

from __future__ import annotations

from pathlib import Path

from journal.events import EntityCreated, ObservationAdded
from recovery import open_server_sync
from recovery.setup import initialise
from replay.core import Core
from replay.live import LiveState

LARGE = "x" * 200_000


def with_a_log(root: Path) -> Path:
    initialise(str(root))
    with open_server_sync(root, background=False) as hook:  # from here on it is in WAL mode
        hook.append(EntityCreated("global", "Acme", "company"))
    return root


def fact(number: int, text: str = "") -> ObservationAdded:
    return ObservationAdded("global", "Acme", f"{number} {text}")


def live(core: Core) -> LiveState:
    assert isinstance(core.state, LiveState)
    return core.state


def salts(state: LiveState) -> bytes:
    return Path(f"{state.generation}-wal").read_bytes()[16:24]
