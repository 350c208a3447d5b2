"""Rows are written while the journal's sync is under way: nobody sees them before it returns, nor if it fails."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest

from journal.errors import OutcomeUnknown
from journal.events import EntityCreated, ObservationAdded
from journal.segment import SegmentWriter
from recovery import open_server_sync
from recovery.setup import initialise
from replay.hook import SyncHook
from replay.schema import connect, read_position

ACME = EntityCreated("global", "Acme", "company")
FACT = ObservationAdded("global", "Acme", "one")


@pytest.fixture
def data(tmp_path: Path) -> Path:
    initialise(str(tmp_path / "data"))
    return tmp_path / "data"


def seen(data: Path) -> tuple[int, int]:
    """The position and the number of observations, as another program reads them."""
    with closing(connect(data / "memory.db", read_only=True)) as another:
        position = read_position(another)
        assert position is not None
        return position.seq, another.execute("SELECT count(*) FROM observations").fetchone()[0]


def at(monkeypatch: pytest.MonkeyPatch, step: str, action: Callable[[], object]) -> None:
    """Runs `action` before this step of writing a batch."""
    plain = getattr(SegmentWriter, step)

    def stepped(self: SegmentWriter, *given: object) -> None:
        action()
        plain(self, *given)

    monkeypatch.setattr(SegmentWriter, step, stepped)


def written(hook: SyncHook) -> int:
    return hook.core.state.connection.total_changes


def test_rows_are_written_before_the_sync_and_seen_after_it(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    during: list[tuple[tuple[int, int], bool]] = []
    with open_server_sync(data, background=False) as hook:
        hook.append(ACME)
        before = written(hook)
        at(monkeypatch, "sync", lambda: during.append((seen(data), written(hook) > before)))
        hook.append(FACT)
        assert seen(data) == (2, 1)
        monkeypatch.undo()
    assert during == [((1, 0), True)]


def test_a_batch_whose_sync_fails_leaves_no_row(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails() -> None:
        raise OSError(5, "EIO")

    with open_server_sync(data, background=False) as hook:
        hook.append(ACME)
        at(monkeypatch, "sync", fails)
        with pytest.raises(OutcomeUnknown):
            hook.append(FACT, op_id="once")
        assert seen(data) == (1, 0)
        monkeypatch.undo()
    assert seen(data) == (1, 0)
    with open_server_sync(data, background=False) as hook:
        assert hook.append(FACT, op_id="once").seq == 2
    assert seen(data)[1] == 1


@pytest.mark.parametrize("step", ["begin", "sync"])
def test_another_program_writes_between_the_check_and_the_commit(
    data: Path, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    """Before the rows it makes the snapshot an old one, and they are written again; behind them it has to wait."""

    def write() -> None:
        with closing(connect(data / "memory.db")) as another:
            another.execute("PRAGMA busy_timeout=0")
            if step == "begin":
                another.execute("UPDATE entities SET entity_type = 'firm'")
                return
            with pytest.raises(another.OperationalError, match="locked"):
                another.execute("UPDATE entities SET entity_type = 'firm'")

    with open_server_sync(data, background=False) as hook:
        hook.append(ACME)
        at(monkeypatch, step, write)
        assert hook.append(FACT).seq == 2
        monkeypatch.undo()
        assert hook.core.state.notice() == (step == "begin")
        assert seen(data) == (2, 1)
