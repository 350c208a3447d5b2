"""Beside a live server: operators' verbs and other processes write through whoever holds the lock.

A holder of each face is a process of its own. What went through it is in the journal, in memory.db and in the files.
"""

from __future__ import annotations

import json
import signal
import sqlite3
import subprocess
import threading
import time
from contextlib import closing
from pathlib import Path

import pytest

from journal.errors import Refused
from journal.events import EntityCreated, ObservationAdded
from journal.reader import LogReader
from journal.storage import RealStorage
from recovery.control.writer import commit_events, open_writer
from recovery.data import Data
from tests.commands import ENVIRONMENT, SMALL, arguments, process
from tests.holders import FACES, SOCKET, observation, rows, server


@pytest.mark.parametrize("face", FACES)
def test_every_verb_that_appends_works_beside_a_live_server(data: Path, face: str) -> None:
    (data / "agents" / "writer.md").write_text("---\nname: writer\n---\nEdited by hand.\n")
    with server(data, face) as holder:
        took_lock = (data / "journal" / "lock").read_bytes()
        appended = process(data, "append", input=observation("one", op_id="a") + "oops\n" + observation("two"))
        assert appended.returncode == 3, appended
        first, refused, second = map(json.loads, appended.stdout.splitlines())
        assert (first["seq"], first["op_id"], second["seq"]) == (SMALL + 1, "a", SMALL + 2)
        assert refused["error"]["line"] == 2
        assert process(data, "append", input=observation("one", op_id="a")).stdout.startswith(f'{{"seq":{SMALL + 1},')
        assert process(data, "tag", "here").returncode == 0
        assert process(data, "adopt", "agents", "writer").returncode == 0
        assert process(data, "revert", "--op-id", "a", "--yes").returncode == 0
        assert rows(data, "SELECT count(*) FROM observations WHERE content = 'one'") == [(0,)]
        made = process(data, "checkpoint", "create", "--json")
        assert json.loads(made.stdout)["drift"] is False, made
        before = process(data, "status", "--json")
        assert json.loads(before.stdout)["journal"]["writer"]["pid"] == holder.pid
        restored = process(data, "replay", "--until", str(SMALL), "--in-place", "--yes", "--json")
        assert restored.returncode == 0, restored
        assert rows(data, "SELECT count(*) FROM observations WHERE content = 'one'") == [(0,)]
        again = process(data, "append", input=observation("after"))
        assert again.returncode == 0, again
        assert (data / "journal" / "lock").read_bytes() == took_lock, "somebody else took the lock"
    assert process(data, "check").returncode == 0
    assert rows(data, "SELECT content FROM observations WHERE content IN ('one', 'after')") == [("after",)]
    assert not (data / SOCKET).exists()


@pytest.mark.parametrize("face", FACES)
def test_damage_beside_a_live_server_is_repaired_by_it(data: Path, face: str) -> None:
    """Another program changed rows, and an agent's file is gone: the server lets go, rebuilds, and goes on."""
    with server(data, face):
        with closing(sqlite3.connect(data / "memory.db")) as vandal, vandal:
            vandal.execute("UPDATE observations SET content = 'never said' WHERE id = 2")
        (data / "agents" / "writer.md").unlink()
        assert process(data, "check").returncode == 1
        done = process(data, "recover", "all", "--yes", "--json")
        assert done.returncode == 0, done
        assert json.loads(done.stdout)["result"]["rebuilt"] is True
        assert process(data, "check").returncode == 0
        assert rows(data, "SELECT content FROM observations WHERE id = 2") == [("renewed in May",)]
        assert process(data, "append", input=observation("goes on")).returncode == 0
        with closing(sqlite3.connect(data / "memory.db")) as vandal, vandal:
            vandal.execute("UPDATE observations SET content = 'never said' WHERE id = 2")
        scoped = process(data, "recover", "memory", "--scope", "global", "--yes", "--json")
        assert json.loads(scoped.stdout)["result"]["scope"] == "global", scoped
    assert process(data, "check").returncode == 0
    assert rows(data, "SELECT count(*) FROM observations WHERE content = 'goes on'") == [(1,)]


@pytest.mark.parametrize("face", FACES)
def test_what_other_verbs_have_to_say_is_journaled_by_the_live_server(data: Path, face: str, tmp_path: Path) -> None:
    """Rows of another program are adopted, a file is imported, a drill and a scrub leave word, a cursor moves."""
    (tmp_path / "memory.jsonl").write_text(
        '{"type":"entity","name":"Zoë","entityType":"person","observations":["hi"]}\n'
    )
    said = {"type": "conversation.message_recorded", "conversation_id": "c", "agent": "writer", "role": "user"}
    with server(data, face):
        with closing(sqlite3.connect(data / "memory.db")) as other, other:
            other.execute("UPDATE entities SET entity_type = 'customer' WHERE name = 'Bob'")
        adopted = process(data, "adopt", "memory", "--yes", "--json")
        assert adopted.returncode == 0, adopted
        assert json.loads(adopted.stdout)["counts"] == {"memory.entity_updated": 1}
        imported = process(data, "import", "mcp", str(tmp_path / "memory.jsonl"))
        assert imported.returncode == 0, imported
        message = json.dumps({"event": {**said, "content": "hello", "message_id": "m1"}}) + "\n"
        assert process(data, "append", input=message).returncode == 0
        assert json.loads(process(data, "messages", "ack", "mailer", "m1", "--json").stdout)["seq"] is not None
        assert json.loads(process(data, "messages", "ack", "mailer", "m1", "--json").stdout)["seq"] is None
        drilled = process(data, "drill", "--json")
        assert json.loads(drilled.stdout)["journaled_seq"] is not None, drilled
        assert process(data, "scrub").returncode == 0
        failed = process(data, "recover", "agents", "--agent", "writer", "--failure", "unknown", "--yes", "--json")
        assert failed.returncode == 0, failed
    types = {json.loads(line)["type"] for line in process(data, "log", "--json").stdout.splitlines()}
    assert {"drill.completed", "scrub.completed", "import.completed", "cursor.moved"} <= types
    assert rows(data, "SELECT entity_type FROM entities WHERE name IN ('Bob', 'Zoë') ORDER BY name") == [
        ("customer",),
        ("person",),
    ]
    assert process(data, "check").returncode == 0


def test_a_healthy_state_beside_a_live_server_is_left_alone(data: Path) -> None:
    with server(data):
        assert process(data, "append", input=observation("one")).returncode == 0
        assert process(data, "recover", "all", "--yes").stdout == "nothing to do\n"
        last = LogReader(RealStorage(), str(data / "journal")).last_seq
    assert last == SMALL + 1


def test_a_holder_that_is_killed_in_mid_feed_loses_no_receipt(data: Path) -> None:
    """The feed ends with what is in doubt, by name; the next open has all that was acknowledged, and each once."""
    with server(data) as holder:
        feed = subprocess.Popen(
            arguments(data, "append"), stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
            env=ENVIRONMENT,
        )  # fmt: skip
        assert feed.stdin is not None
        assert feed.stdout is not None
        assert feed.stderr is not None
        receipts = []
        for number in range(40):
            feed.stdin.write(observation(f"fact {number}", op_id=f"op-{number}"))
            feed.stdin.flush()
            receipts.append(json.loads(feed.stdout.readline()))
        holder.send_signal(signal.SIGKILL)
        holder.wait()
        feed.stdin.write(observation("in doubt", op_id="op-40"))
        _, told = feed.communicate(timeout=60)
        assert feed.returncode == 1
        assert "went away" in told
        assert "op_id" in told
    assert (data / SOCKET).exists(), "a killed holder leaves its socket"
    feed_again = "".join(observation(f"fact {number}", op_id=f"op-{number}") for number in range(40))
    again = process(data, "append", input=feed_again + observation("in doubt", op_id="op-40"))
    assert again.returncode == 0, again
    told_again = list(map(json.loads, again.stdout.splitlines()))
    assert [each["seq"] for each in told_again[:40]] == [each["seq"] for each in receipts]
    assert rows(data, "SELECT count(*) FROM observations WHERE content LIKE 'fact %' OR content = 'in doubt'") == [
        (41,)
    ]
    assert not (data / SOCKET).exists()


def test_a_refusal_and_its_hint_reach_the_other_process(data: Path) -> None:
    with server(data), open_writer(Data.at(data)) as writer:
        with pytest.raises(Refused) as caught:
            commit_events(writer, [ObservationAdded("global", "Nobody", "hm")])
        assert caught.value.code == "not_found"
        receipts = commit_events(
            writer, [EntityCreated("global", "Zoë", "person"), ObservationAdded("global", "Zoë", "hi")]
        )
        assert [each.seq for each in receipts] == [SMALL + 1, SMALL + 2]
    with closing(sqlite3.connect(data / "memory.db")) as connection:
        (found,) = connection.execute("SELECT count(*) FROM entities WHERE name = 'Zoë'").fetchone()
    assert found == 1


def test_what_was_asked_is_answered_before_a_server_closes(data: Path) -> None:
    """The server ends while another process's long feed is under way: receipts or one clear error, never silence."""
    outcome: list[subprocess.CompletedProcess[str]] = []
    lines = "".join(observation(f"fact {number}") for number in range(3000))
    with server(data):
        feed = threading.Thread(target=lambda: outcome.append(process(data, "append", input=lines)))
        feed.start()
        while LogReader(RealStorage(), str(data / "journal")).last_seq == SMALL:
            time.sleep(0.01)
    feed.join()
    receipts = [json.loads(line) for line in outcome[0].stdout.splitlines()]
    assert outcome[0].returncode in (0, 1, 11)
    last = LogReader(RealStorage(), str(data / "journal")).last_seq
    assert receipts
    assert max(receipt["seq"] for receipt in receipts if "seq" in receipt) <= last
    assert process(data, "check").returncode == 0
