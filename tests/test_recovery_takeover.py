"""A writer is killed, or its sync fails: its callers are told outcome_unknown, and the next open answers by op_id."""

from __future__ import annotations

import json
import os
from pathlib import Path

import anyio
import pytest

from journal.errors import OutcomeUnknown
from journal.events import EntityCreated, EpochStarted
from journal.reader import LogReader
from journal.storage import RealFile, RealStorage
from recovery import open_server, open_server_sync
from recovery.data import Data
from recovery.opening import open_core
from replay.core import Core
from replay.hook import SyncHook
from tests.commands import SMALL, Command, process, small_history


@pytest.fixture
def journal(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Command:
    small_history(tmp_path / "data")
    return Command(tmp_path / "data", capsys)


class Failing(RealFile):
    """Its write arrives, and its sync reports EIO: what lies there may be gone after a power cut."""

    def sync(self) -> None:
        raise OSError(5, "EIO")


class Swallowing(Failing):
    def write_at(self, offset: int, data: bytes) -> None:
        raise OSError(5, "EIO")


def unknown(core: Core, kind: type[Failing], *op_ids: str | None) -> list[OutcomeUnknown]:
    """Appends with a disk that fails, and returns what the callers are told; the process then ends as killed."""
    from replay.background import Background

    hook = SyncHook(core, Background(core, Data.at(".").config.policy(), lambda: None))
    hook.append(EntityCreated("global", "settled", "thing"), op_id="settled")
    segment = core.log._segment
    assert segment is not None
    segment._file = kind(segment._file.fd, segment._file.path)  # type: ignore[attr-defined]
    told = []
    from journal.commit import draft, ticket

    requests = [ticket([draft(EntityCreated("global", f"new {n}", "thing"), None, None, None)], each)
                for n, each in enumerate(op_ids)]  # fmt: skip
    for request in requests:
        core.committer.submit(request)
    core.commit()
    for request in requests:
        assert isinstance(request.error, OutcomeUnknown)
        told.append(request.error)
    core.state.close()
    core.log._lock.release()
    return told


def test_the_survivors_are_named_by_op_id_wherever_a_caller_may_look(journal: Command) -> None:
    told = unknown(open_core(Data.at(journal.data)).core, Failing, "crm-7", None, "crm-8")
    asked = [error.op_id for error in told]
    assert asked == ["crm-7", f"e3-{SMALL + 3}", "crm-8"]

    status = journal.json("status")["journal"]
    assert status["unsettled"] == 3  # not the one before them: their batch says that its sync had returned
    assert "no sync is known of" in journal("status").out
    before = journal("log", "--op-id", "crm-7")
    assert (len(before.out.splitlines()), "the next open makes it durable" in before.err) == (1, True)

    opened = process(journal.data, "append", input="")
    assert opened.returncode == 0
    assert f"seqs {SMALL + 2}-{SMALL + 4} survived" in opened.stderr
    assert "crm-7" in opened.stderr
    for op_id in asked:
        ran = journal("log", "--op-id", str(op_id), "--json")
        assert [entry["op_id"] for entry in ran.json_lines()] == [op_id]
        assert ran.err == ""
    never = journal("log", "--op-id", "crm-9")
    assert (never.code, never.out, "was not taken, and may be sent again" in never.err) == (0, "", True)

    (event,) = journal("log", "--type", "epoch.started", "--json").json_lines()
    assert event["event"]["carried_from"] == SMALL + 2
    assert event["event"]["op_ids"] == ["crm-7", "crm-8"]


def test_what_did_not_survive_gets_the_definite_answer_that_it_was_not_taken(journal: Command) -> None:
    told = unknown(open_core(Data.at(journal.data)).core, Swallowing, "crm-7", None)
    process(journal.data, "append", input="")
    for error in told:
        ran = journal("log", "--op-id", str(error.op_id))
        assert (ran.out, "was not taken" in ran.err) == ("", True)
    assert journal("log", "--op-id", "settled").out
    event = {"event": {"type": "memory.entity_created", "scope": "global", "name": "new 0", "entity_type": "thing"}}
    done = process(journal.data, "append", input=json.dumps({**event, "op_id": "crm-7"}))
    assert done.returncode == 0, "sent again it is taken"


def test_the_hook_and_status_say_which_events_were_carried(journal: Command) -> None:
    unknown(open_core(Data.at(journal.data)).core, Failing, "crm-7")
    with open_server_sync(journal.data, background=False) as hook:
        assert hook.carried == ((SMALL + 2, "crm-7"),)
        assert hook.recovered is not None
        again = hook.append(EntityCreated("global", "new 0", "thing"), op_id="crm-7")
        assert again.seq == SMALL + 2
    status = journal.json("status")["journal"]
    assert (status["carried_from"], status["carried_to"], status["unsettled"]) == (SMALL + 2, SMALL + 2, 0)
    assert "outlived a writer that was cut" in journal("status").out

    async def later() -> tuple[tuple[int, str], ...]:
        async with open_server(journal.data, background=False) as hook:
            return tuple(hook.carried)

    assert anyio.run(later) == ()


def test_recover_all_before_the_server_tells_of_it_too(journal: Command) -> None:
    """ExecStartPre opens first: what it carried must not be forgotten when the server then finds a clean close."""
    unknown(open_core(Data.at(journal.data)).core, Failing, "crm-7")
    (journal.data / "agents/writer.md").unlink()
    assert journal("recover", "all", "--yes").code == 0
    assert journal("check").code == 0
    told = [record.event for batch in LogReader(RealStorage(), str(journal.data / "journal")).batches()
            for record in batch.records() if isinstance(record.event, EpochStarted)]  # fmt: skip
    assert [(each.carried, each.op_ids) for each in told] == [(1, ["crm-7"])]
    assert os.path.exists(journal.data / "agents/writer.md")
