"""`journal append`, fed 20,000 events and killed at a random moment: every receipt that reached stdout is kept."""

from __future__ import annotations

import json
import random
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from journal.commit import Receipt
from journal.reader import LogReader
from journal.storage import RealStorage
from journal.verify import verify
from journal.witness import prove
from recovery.setup import initialise
from tests.command import ENVIRONMENT

EVENTS = 20_000


@pytest.fixture(scope="module")
def lines(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """20,000 lines: entities, then observations, every third with an op_id, some as groups."""
    path = tmp_path_factory.mktemp("input") / "events.jsonl"
    with path.open("w") as out:
        number = 0
        while number < EVENTS:
            if number % 100 == 0:
                event = {"type": "memory.entity_created", "scope": "global", "name": f"e{number // 100}",
                         "entity_type": "thing"}  # fmt: skip
                out.write(json.dumps({"event": event}) + "\n")
                number += 1
                continue
            observation = {"type": "memory.observation_added", "scope": "global", "entity": f"e{number // 100}"}
            line: dict[str, object] = {"event": {**observation, "content": f"fact {number}"}}
            if number % 3 == 0:
                line["op_id"] = f"op-{number}"
            out.write(json.dumps(line) + "\n")
            number += 1
    return path


@pytest.mark.parametrize("seed", range(20))
def test_every_receipt_that_reached_stdout_survives_a_kill(tmp_path: Path, lines: Path, seed: int) -> None:
    rng = random.Random(seed)
    initialise(tmp_path)
    command = [sys.executable, "-m", "recovery", "append", "--data", str(tmp_path)]
    kill_after = rng.randrange(1, EVENTS - 500)
    receipts: list[dict[str, object]] = []
    with lines.open("rb") as stdin, subprocess.Popen(
        command, stdin=stdin, stdout=subprocess.PIPE, env=ENVIRONMENT
    ) as process:
        assert process.stdout is not None
        timer: threading.Timer | None = None
        for line in process.stdout:
            if not line.endswith(b"\n"):
                break  # cut by the kill
            receipts.append(json.loads(line))
            if len(receipts) == kill_after:  # then a few moments later, in the middle of whatever it does
                timer = threading.Timer(rng.random() * 0.02, process.send_signal, (signal.SIGKILL,))
                timer.start()
        if timer is not None:
            timer.join()
    assert process.returncode == -signal.SIGKILL, "it ended before it was killed: nothing was tested"
    assert len(receipts) >= kill_after

    reopened = subprocess.run(command, input=b"", capture_output=True, env=ENVIRONMENT)
    assert reopened.returncode == 0, reopened.stderr
    assert reopened.stdout == b""
    reader = LogReader(RealStorage(), str(tmp_path / "journal"))
    kept = {}
    for batch in reader.batches():
        for seq, record in enumerate(batch.records(), batch.first_seq):
            kept[seq] = (record.event, record.time, batch.chain.hex(), batch.epoch)
    sent = lines.read_text().splitlines()
    for number, receipt in enumerate(receipts):
        assert receipt["seq"] == number + 1
        event, time, chain, epoch = kept[number + 1]
        given = json.loads(sent[number])["event"]
        assert (event.type_name, event.scope) == (given["type"], "global")
        assert getattr(event, "content", None) == given.get("content")
        assert (time, chain, epoch) == (receipt["time"], receipt["chain"], receipt["epoch"])
    prove(reader, Receipt(**receipts[-1]))  # type: ignore[arg-type]
    assert verify(RealStorage(), str(tmp_path / "journal")).exit_code == 0
