"""Behind the write path: checkpoints come when they are due, old ones are thinned, and a strict server refuses."""

from __future__ import annotations

import time
from itertools import pairwise
from pathlib import Path

import pytest

from journal.errors import Refused
from journal.events import CheckpointCreated, EntityCreated
from journal.reader import LogReader
from journal.storage import RealStorage
from recovery import open_server_sync
from recovery.data import Data
from recovery.setup import initialise
from replay.hook import SyncHook


def write(hook: SyncHook, first: int, count: int, agent: str | None = None) -> None:
    for number in range(first, first + count):
        hook.append(EntityCreated("global", f"e{number}", "thing"), agent=agent)


def checkpoints(data: Path) -> list[int]:
    return [manifest.seq for manifest in Data.at(data).checkpoints.manifests() if manifest.state == "verified"]


def wait_for(condition: object, seconds: float = 60) -> None:
    assert callable(condition)
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not come"
        time.sleep(0.1)


@pytest.mark.parametrize(("agent", "count"), [(None, 60), ("pager", 20)])
def test_a_checkpoint_is_made_when_it_is_due_and_journaled(tmp_path: Path, agent: str | None, count: int) -> None:
    (tmp_path / "journal.yaml").write_text("checkpoint:\n  events: 50\n  agents: {pager: critical}\n")
    initialise(tmp_path)
    with open_server_sync(tmp_path) as hook:
        write(hook, 0, count, agent)
        wait_for(lambda: checkpoints(tmp_path))
        wait_for(lambda: hook.core.log.next_seq > count + 1)
    reader = LogReader(RealStorage(), str(tmp_path / "journal"))
    made = [
        record.event
        for batch in reader.batches()
        for record in batch.records()
        if isinstance(record.event, CheckpointCreated)
    ]
    assert [event.seq for event in made] == [checkpoints(tmp_path)[0]]
    assert not made[0].drift


def test_what_a_stateless_agent_writes_calls_for_none(tmp_path: Path) -> None:
    (tmp_path / "journal.yaml").write_text("checkpoint:\n  events: 50\n  agents: {chatter: stateless}\n")
    initialise(tmp_path)
    with open_server_sync(tmp_path) as hook:
        write(hook, 0, 60, "chatter")
        time.sleep(2.5)  # the checkpointer looked at least once
    assert checkpoints(tmp_path) == []


def test_old_checkpoints_are_thinned_and_any_moment_can_still_be_restored(tmp_path: Path) -> None:
    (tmp_path / "journal.yaml").write_text("retention:\n  gap_events: 30\n  gap_ratio: 0.0\n")
    data, _ = initialise(tmp_path)
    with open_server_sync(tmp_path, background=False) as hook:
        for round_ in range(8):
            write(hook, round_ * 10, 10)
            hook.checkpoint()
        before = checkpoints(tmp_path)
        hook.background.thin()
        after = checkpoints(tmp_path)
    assert len(before) == 8
    assert set(after) < set(before)
    assert after[:2] == before[:2], "the two newest stay"
    ascending = [0, *reversed(after)]
    assert all(later - earlier <= 31 for earlier, later in pairwise(ascending))
    assert data.checkpoints.check(data.checkpoints.manifests()[0]) == []


def test_a_strict_server_refuses_an_invalid_agent_and_a_lenient_one_takes_it(tmp_path: Path) -> None:
    for mode in ("strict", "lenient"):
        root = tmp_path / mode
        root.mkdir()
        (root / "journal.yaml").write_text(f"agents:\n  validation: {mode}\n")
        initialise(root)
        with open_server_sync(root, background=False) as hook:
            if mode == "strict":
                with pytest.raises(Refused, match="not valid"):
                    hook.agents.write("broken", "---\nname: [\n---\n")
                assert not (root / "agents" / "broken.md").exists()
            else:
                hook.agents.write("broken", "---\nname: [\n---\n")
                assert (root / "agents" / "broken.md").exists()
