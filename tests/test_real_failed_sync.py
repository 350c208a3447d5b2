"""A sync fails because the medium does, on a real ext4 and XFS: nothing that was acknowledged rests on it.

The zero-filled space that the next batch goes to loses its blocks on the device, so the write-back of that batch fails
there and fdatasync(2) says so, once. From then on the kernel says that all is well, reads give the lost bytes from the
page cache, and after a remount they are gone: retrying is losing, and restarting the program is not enough.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from journal.reader import LogReader
from journal.storage import RealStorage
from recovery.setup import initialise
from tests import loopdisk
from tests.command import ENVIRONMENT, journal
from tests.loopdisk import Disk

CONFIG = "segment_bytes_max: 65536\ndisk:\n  reserve_bytes: 1048576\n"
ENTITY = {"type": "memory.entity_created", "scope": "global", "name": "Acme", "entity_type": "company"}


def line(op_id: str, content: str) -> dict[str, Any]:
    observation = {"type": "memory.observation_added", "scope": "global", "entity": "Acme", "content": content}
    return {"event": observation, "op_id": op_id}


DOOMED = line("doomed", "the medium fails under it")
PAGE = 4096


def end_of_log(root: Path) -> int:
    """The offset in the last segment at which the next batch begins."""
    return LogReader(RealStorage(), str(root / "journal")).tail.offset


def batch_of_300(root: Path) -> int:
    """How long the last batch is, whose content has 300 characters. One of more is longer by these alone."""
    reader = LogReader(RealStorage(), str(root / "journal"))
    return reader.tail.offset - list(reader.batches())[-1].offset


class Failed(NamedTuple):
    """The directory after the failure, the receipts before it, what the line was told, and the run's end."""

    disk: Disk
    root: Path
    receipts: list[dict[str, Any]]
    told: dict[str, Any]
    code: int
    err: str


@pytest.fixture(params=loopdisk.FILE_SYSTEMS)
def failed(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Failed]:
    if (why := loopdisk.missing(request.param)) is not None:
        pytest.skip(why)
    with loopdisk.failing_disk(request.param, tmp_path) as (disk, ballast):
        root = disk.at / "data"
        initialise(root)
        (root / "journal.yaml").write_text(CONFIG)
        with Writer(root) as writer:
            receipts = [writer.send({"event": ENTITY, "op_id": "first"}), writer.send(line("second", "x" * 300))]
            left = PAGE - end_of_log(root) % PAGE  # of the page, which the next batch is to fill to its end
            receipts.append(writer.send(line("filler", "x" * (300 + left - batch_of_300(root)))))
            (segment,) = [path for path in (root / "journal" / "segments").iterdir() if path.stat().st_size == 65536]
            end = end_of_log(root)
            assert end % PAGE == 0, "the next batch would begin in a page that is in use"
            assert disk.punch(segment, end, 65536 - end) == 65536 - end
            loopdisk.fill(ballast)
            told = writer.send(DOOMED)
            code, err = writer.end()
        assert b"the medium fails under it" in segment.read_bytes(), "the page cache tells the truth: no such failure"
        ballast.unlink()
        yield Failed(disk, root, receipts, told, code, err)


class Writer:
    """`journal append`, fed line by line."""

    def __init__(self, root: Path) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-m", "recovery", "append", "--data", str(root)],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=ENVIRONMENT, text=True,
        )  # fmt: skip

    def __enter__(self) -> Writer:
        return self

    def send(self, given: dict[str, Any]) -> dict[str, Any]:
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(json.dumps(given) + "\n")
        self.process.stdin.flush()
        answer: dict[str, Any] = json.loads(self.process.stdout.readline())
        return answer

    def end(self) -> tuple[int, str]:
        _, err = self.process.communicate(timeout=60)
        return self.process.returncode, err

    def __exit__(self, *_: object) -> None:
        self.process.kill()
        self.process.wait()
        for stream in (self.process.stdin, self.process.stdout, self.process.stderr):
            if stream is not None:
                stream.close()


def append(root: Path, *lines: dict[str, Any]) -> tuple[list[dict[str, Any]], str]:
    """Receipts of a run in which every line is taken, and its stderr."""
    ran = journal("append", "--data", str(root), input="".join(json.dumps(each) + "\n" for each in lines))
    assert ran.returncode == 0, ran.stdout + ran.stderr
    return [json.loads(each) for each in ran.stdout.splitlines()], ran.stderr


def assert_kept(root: Path, receipts: list[dict[str, Any]]) -> None:
    """Every receipt proves, the state is the journal's, and nothing is doubled."""
    for receipt in receipts:
        path = root.parent / "receipt.json"
        path.write_text(json.dumps(receipt))
        ran = journal("verify", "--data", str(root), "--receipt", str(path))
        assert ran.returncode == 0, ran.stdout + ran.stderr
    check = journal("check", "--data", str(root))
    assert check.returncode == 0, check.stdout
    told = journal("log", "--data", str(root), "--json").stdout.splitlines()
    op_ids = [record["op_id"] for record in map(json.loads, told)]
    assert len(op_ids) == len(set(op_ids))


def test_the_line_is_told_that_nobody_knows(failed: Failed) -> None:
    """Neither a receipt nor a refusal: its op_id is what to ask with. The run ends there."""
    assert failed.told["error"]["code"] == "outcome_unknown"
    assert failed.told["error"]["op_id"] == "doomed"
    assert failed.told["error"]["line"] == 4
    assert failed.code == 1
    assert "Traceback" not in failed.err
    assert "open the journal again" in failed.err


def test_after_a_restart_of_the_program_alone(failed: Failed) -> None:
    """The lost batch still reads well. Opening carries it over and syncs it anew before anything builds on it; it is
    named, its retry gets the first receipt, and a power cut takes nothing of what was acknowledged."""
    _, err = append(failed.root)
    assert "op_id doomed" in err, "opening does not say what became of it"
    told = journal("log", "--data", str(failed.root), "--op-id", "doomed", "--json").stdout
    assert json.loads(told)["seq"] == 4
    receipts, _ = append(failed.root, DOOMED, line("after", "built on it"))
    assert [each["seq"] for each in receipts] == [4, receipts[1]["seq"]], "it was taken twice"
    failed.disk.cut_power()
    failed.disk.restart()
    append(failed.root)
    assert_kept(failed.root, [*failed.receipts, *receipts])


def test_after_a_remount_before_any_restart(failed: Failed) -> None:
    """What was never on the medium is gone, and was never acknowledged. Its retry is taken once."""
    failed.disk.cut_power()
    failed.disk.restart()
    receipts, _ = append(failed.root, DOOMED, line("after", "goes on"))
    assert receipts[1]["seq"] == receipts[0]["seq"] + 1
    failed.disk.cut_power()
    failed.disk.restart()
    append(failed.root)
    assert_kept(failed.root, [*failed.receipts, *receipts])
