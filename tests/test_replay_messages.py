"""Messages are handed out until they are acknowledged: by a real consumer that is killed, across restores and opens."""

from __future__ import annotations

import json
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import anyio
import pytest

from journal.errors import Refused
from journal.events import CursorMoved, EntityCreated, MessageRecorded
from recovery import open_server, open_server_sync
from recovery.setup import initialise
from replay.cursors import read_cursors
from tests.commands import ENVIRONMENT, Command
from tests.damage import records

COUNT = 100


def message(number: int, conversation: str = "talk") -> MessageRecorded:
    return MessageRecorded(conversation, "sales", "user", f"order {number}", f"{conversation}-{number}")


@pytest.fixture
def data(tmp_path: Path) -> Path:
    initialise(str(tmp_path / "data"))
    return tmp_path / "data"


def ids(found: list[object]) -> list[str]:
    return [each.message_id for each in found]  # type: ignore[attr-defined]


def test_what_is_not_acknowledged_is_handed_out_again_by_the_next_open(data: Path) -> None:
    with open_server_sync(data, background=False) as hook:
        for number in range(6):
            hook.append(message(number))
        assert ids(hook.messages.pending("mailer", limit=2)) == ["talk-0", "talk-1"]
        assert ids(hook.messages.pending("mailer", limit=2)) == ["talk-0", "talk-1"], "asking is no acknowledgement"
        receipt = hook.messages.ack("mailer", "talk-2", op_id="ack-1", actor="ann")
        assert receipt is not None
        assert hook.messages.ack("mailer", "talk-2") is None
        assert hook.messages.ack("mailer", "talk-0") is None, "an older one is covered"
        assert ids(hook.messages.pending("mailer")) == ["talk-3", "talk-4", "talk-5"]
    with open_server_sync(data, background=False) as hook:
        assert ids(hook.messages.pending("mailer")) == ["talk-3", "talk-4", "talk-5"]
        assert len(hook.messages.pending("billing")) == 6, "each consumer has its own cursor"
        hook.append(message(6))
        assert ids(hook.messages.pending("mailer"))[-1] == "talk-6"
    assert len(records(data)) == 8


def test_each_conversation_has_a_cursor_of_its_own(data: Path) -> None:
    with open_server_sync(data, background=False) as hook:
        for number in range(3):
            hook.append_all([message(number, "a"), message(number, "b")])
        hook.messages.ack("mailer", "b-1")
        assert ids(hook.messages.pending("mailer")) == ["a-0", "a-1", "a-2", "b-2"]
        assert ids(hook.messages.pending("mailer", "b")) == ["b-2"]
        hook.messages.ack("mailer", "a-2", "a")
        assert ids(hook.messages.pending("mailer")) == ["b-2"]
        hook.messages.ack("mailer", "b-2")
        assert hook.messages.pending("mailer") == []
        hook.append(CursorMoved("mailer", "b-0"))  # somebody wants them again
        assert ids(hook.messages.pending("mailer")) == ["b-1", "b-2"]


def test_a_message_that_is_not_there_or_not_one_cannot_be_acknowledged(data: Path) -> None:
    with open_server_sync(data, background=False) as hook:
        hook.append(message(1, "a"))
        with pytest.raises(Refused, match="no message 'x'"):
            hook.messages.ack("mailer", "x")
        with pytest.raises(Refused, match="in conversation 'b'"):
            hook.messages.ack("mailer", "a-1", "b")
        for conversation in ("c", "d"):
            hook.append(MessageRecorded(conversation, "sales", "user", "twice", "same"))
        with pytest.raises(Refused, match="several conversations"):
            hook.messages.ack("mailer", "same", "c")
        hook.append(CursorMoved("mailer", "same"))  # past the hook's rule: the first is meant, never too much
        assert [each.conversation_id for each in hook.messages.pending("mailer")] == ["a", "d"]


def test_a_retried_acknowledgement_and_a_retried_message_apply_once(data: Path) -> None:
    with open_server_sync(data, background=False) as hook:
        first = hook.append(message(1), op_id="send-1")
        assert hook.append(message(1), op_id="send-1") == first
        ack = hook.messages.ack("mailer", "talk-1", op_id="ack-1")
    with open_server_sync(data, background=False) as hook:
        assert hook.append(message(1), op_id="send-1") == first
        assert hook.append(CursorMoved("mailer", "talk-1"), op_id="ack-1") == ack
        assert hook.messages.pending("mailer") == []
    assert len(records(data)) == 2


def test_a_restore_takes_no_acknowledgement_back(data: Path) -> None:
    """Scenario: the state goes back to before the message that was acknowledged, and new ones come."""
    with open_server_sync(data, background=False) as hook:
        for number in range(4):
            hook.append(message(number))
        hook.messages.ack("mailer", "talk-3")
        hook.restore(2)  # talk-0 and talk-1 are there again, and acknowledged
        assert hook.messages.pending("mailer") == []
        hook.append(message(9))
        assert ids(hook.messages.pending("mailer")) == ["talk-9"]
    with open_server_sync(data, background=False) as hook:
        assert ids(hook.messages.pending("mailer")) == ["talk-9"]
        hook.restore(4)
        assert hook.messages.pending("mailer") == []


def test_the_async_face_does_the_same(data: Path) -> None:
    async def main() -> None:
        async with open_server(data, background=False) as hook:
            await hook.append_all([message(number) for number in range(3)])
            assert len(await hook.messages.pending("mailer", limit=10)) == 3
            assert await hook.messages.ack("mailer", "talk-1") is not None
            assert ids(await hook.messages.pending("mailer", "talk")) == ["talk-2"]

    anyio.run(main)
    anyio.run(main_again, data)


async def main_again(data: Path) -> None:
    async with open_server(data, background=False) as hook:
        assert ids(await hook.messages.pending("mailer")) == ["talk-2"]


CONSUMER = """
import os, sys
from journal.events import EntityCreated
from recovery import open_server_sync
data, done = sys.argv[1:]
with open_server_sync(data, background=False, check="quick") as hook:
    while batch := hook.messages.pending("mailer", limit=3):
        for message in batch:
            with open(done, "a") as file:
                print(message.message_id, file=file, flush=True)
                os.fsync(file.fileno())
            hook.messages.ack("mailer", message.message_id, op_id="ack-" + message.message_id)
            with open(done, "a") as file:
                print("acknowledged", message.message_id, file=file, flush=True)
"""


def test_a_consumer_that_is_killed_again_and_again_loses_no_message(data: Path, tmp_path: Path) -> None:
    """Scenario: 100 messages, and SIGKILL at any moment between handing out, dealing with and acknowledging.

    Every message is dealt with; one is dealt with twice only if it was not acknowledged when the kill came.
    """
    with open_server_sync(data, background=False) as hook:
        for number in range(COUNT):
            hook.append(message(number, f"talk-{number % 3}"))
    done = tmp_path / "done"
    done.touch()
    rng, kills = random.Random(5), 0
    for _ in range(60):
        process = subprocess.Popen([sys.executable, "-c", CONSUMER, str(data), str(done)], env=ENVIRONMENT)
        target = done.stat().st_size + rng.randrange(0, 400)
        while process.poll() is None and (done.stat().st_size < target or kills >= 4):
            time.sleep(0.001)
        if process.poll() is None:
            process.send_signal(signal.SIGKILL)
            kills += 1
        process.wait()
        if process.returncode == 0:
            break
        assert process.returncode == -signal.SIGKILL
    assert kills == 4
    assert process.returncode == 0
    lines = done.read_text().splitlines()
    dealt = [line for line in lines if not line.startswith("acknowledged ")]
    assert set(dealt) == {message(number, f"talk-{number % 3}").message_id for number in range(COUNT)}
    assert len(dealt) <= COUNT + kills
    acknowledged: set[str] = set()
    for line in lines:
        word, _, rest = line.partition(" ")
        if word == "acknowledged":
            acknowledged.add(rest)
        else:
            assert line not in acknowledged, "handed out again after its acknowledgement had returned"
    moves = Counter(event.message_id for *_, event in records(data) if isinstance(event, CursorMoved))
    assert max(moves.values()) == 1


def test_the_log_alone_tells_the_cursors(data: Path) -> None:
    """What the hook keeps beside its writes is what a reading of the whole log gives."""
    with open_server_sync(data, background=False) as hook:
        for number in range(60):
            hook.append(message(number, f"c{number % 4}"))
            if number % 3 == 0:
                hook.messages.ack(f"consumer {number % 2}", f"c{number % 4}-{number}")
            if number % 11 == 0:
                hook.append(EntityCreated("global", f"E{number}", "x"))
        core = hook.core
        read = read_cursors(core.log.reader(), core.state.connection)
        assert core.cursors is not None
        for consumer in ("consumer 0", "consumer 1"):
            assert read.conversations(consumer) == core.cursors.conversations(consumer) != {}


def test_the_command_shows_and_acknowledges(data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with open_server_sync(data, background=False) as hook:
        hook.append_all([message(number) for number in range(3)])
    run = Command(data, capsys)
    assert run("messages", "pending", "mailer").out.splitlines()[0] == '1  talk/talk-0  sales (user): "order 0"'
    assert run("messages", "ack", "mailer", "talk-1").code == 0
    found = [json.loads(line) for line in run("messages", "pending", "mailer", "--json").out.splitlines()]
    assert [each["message_id"] for each in found] == ["talk-2"]
    assert "acknowledged already" in run("messages", "ack", "mailer", "talk-0").out
    assert run("messages", "ack", "mailer", "none").code == 3
    assert run("messages", "pending", "mailer", "--conversation", "other").out == ""
