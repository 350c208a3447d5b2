"""Cuts the power of a real file system under a real writer, again and again, and holds it to every receipt.

    python -m tests.powercuts ext4 SEED CUTS       on a loop-mounted ext4 (data=ordered)
    python -m tests.powercuts xfs SEED CUTS

In each life a process of its own opens the directory and appends, writes agents, makes checkpoints, restores or
recovers, until the power goes at a random moment; the file system is mounted anew, its log is replayed. Prints how
many cuts there were and how many of them came into the midst of something; says what is wrong and exits 1 otherwise.
"""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from time import time_ns

import replay.agent_format  # noqa: F401 - children inherit it
import replay.folding
from journal.commit import draft, ticket
from journal.errors import JournalError
from journal.events import CheckpointCreated, ConfigWritten, EntityCreated, Event, ObservationAdded
from journal.reader import LogReader
from journal.record import RECORD_CONTINUES_GROUP
from journal.storage import RealStorage
from journal.verify import verify
from recovery import open_server_sync
from recovery.cli.app import run as journal
from recovery.data import Data
from recovery.execute import recover
from recovery.reading import reading
from recovery.setup import initialise
from replay.checkpoints import Shadow, make_checkpoint
from replay.digest import state_digest
from replay.hook import SyncHook
from replay.schema import read_position
from tests import loopdisk
from tests.damage import current, files, model_of, records
from tests.loopdisk import Disk

CONFIG = "segment_bytes_max: 65536\ndisk:\n  reserve_bytes: 1048576\n"
EVENTS_MAX = 1500  # then a new journal is begun: judging one takes as long as it is
FIRST = "first"
HANGS_SECONDS = 120
SKIPPED = 77


class Promises:
    """The receipts of all lives of one journal: op_id → (seq, chain), as its writers put them down outside."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.path.write_bytes(b"")

    def write(self, op_id: str, seq: int, chain: str) -> None:
        fd = os.open(self.path, os.O_WRONLY | os.O_APPEND)
        os.write(fd, json.dumps([op_id, seq, chain]).encode() + b"\n")
        os.close(fd)

    def count(self) -> int:
        return self.path.read_bytes().count(b"\n")

    def all(self) -> dict[str, tuple[int, str]]:
        lines = self.path.read_bytes().split(b"\n")[:-1]
        return {op_id: (seq, chain) for op_id, seq, chain in map(json.loads, lines)}


# -- a life -----------------------------------------------------------------------------------------------------------


def events_of(op_id: str) -> list[Event]:
    """What is sent under an op_id follows from it, so that the judge knows it, too."""
    if op_id == FIRST:
        return [EntityCreated("global", "Acme", "company")]
    rng = random.Random(op_id)
    kind = rng.randrange(10)
    if kind < 5:
        return [ObservationAdded("global", "Acme", f"{op_id} " + "x" * rng.randrange(3000))]
    if kind < 7:
        return [EntityCreated("global", f"{op_id} {number}", "thing") for number in range(rng.randrange(2, 9))]
    return [ConfigWritten(f"agent-{rng.randrange(4)}", f"---\nname: {op_id}\n---\n".encode() * rng.randrange(1, 60))]


def _append(hook: SyncHook, promises: Promises, life: int, count: int) -> None:
    for number in range(count):
        op_id = f"life-{life}-{number}"
        receipts = hook.append_all(events_of(op_id), op_id=op_id)
        promises.write(op_id, receipts[0].seq, receipts[0].chain)


def appending(root: Path, promises: Promises, life: int) -> None:
    with open_server_sync(root, background=False) as hook:
        _append(hook, promises, life, 10_000)


def folding(root: Path, promises: Promises, life: int) -> None:
    """memory.db's log is folded all the time beside the writes, in part and whole, and begins anew again and again."""
    replay.folding.LITTLE_BYTES = 0
    with open_server_sync(root, background=False) as hook:
        for number in range(2000):
            _append(hook, promises, life * 10_000 + number, 1)
            hook.core.fold()


def checkpointing(root: Path, promises: Promises, life: int) -> None:
    data = Data.at(root)
    made: Shadow | None = None
    for number in range(20):
        with open_server_sync(root, background=False) as hook:
            if made is not None:
                event = CheckpointCreated(made.seq, made.digest, manifest=made.manifest)
                with hook.core.lock:
                    hook.core.committer.commit_now(ticket((draft(event, None, "journal", None),), None))
            _append(hook, promises, life * 100 + number, 5)
        made = make_checkpoint(data.storage, data.layout, time_ns)


def restoring(root: Path, promises: Promises, life: int) -> None:
    with open_server_sync(root, background=False) as hook:
        for number in range(20):
            _append(hook, promises, life * 100 + number, 3)
            hook.restore(hook.core.log.next_seq * 3 // 4)
            hook.restore(hook.core.log.next_seq - 2)


def recovering(root: Path, promises: Promises, life: int) -> None:
    for _ in range(20):
        path = current(root)
        path.write_bytes(os.urandom(8192))
        for name in os.listdir(root / "agents"):
            (root / "agents" / name).write_bytes(b"")
        os.sync()
        assert journal(["--data", str(root), "recover", "all", "--yes"]) == 0


LIVES: tuple[Callable[[Path, Promises, int], None], ...] = (
    appending, folding, appending, folding, checkpointing, restoring, recovering,
)  # fmt: skip


def begin(disk: Disk, promises: Promises, life: int, chosen: Callable[[Path, Promises, int], None]) -> int:
    sys.stdout.flush()
    pid = os.fork()
    if pid:
        return pid
    quiet = os.open(os.devnull, os.O_WRONLY)
    os.dup2(quiet, 1)
    os.dup2(quiet, 2)
    try:
        chosen(disk.at / "data", promises, life)
    except (JournalError, AssertionError, OSError):
        os._exit(3)
    except BaseException as error:
        (promises.path.parent / "undeclared").write_text("".join(traceback.format_exception(error)))
        os._exit(4)
    os._exit(0)


# -- the judge --------------------------------------------------------------------------------------------------------


def hold(root: Path, promises: Promises, life: int) -> None:
    """After the power came back: first as it lies there, then opened."""
    link = root / "memory.db"
    if LIVES[life % len(LIVES)] is not recovering:  # which wrecks it itself
        with reading(str(root / os.readlink(link))) as connection:
            position = read_position(connection)
            assert position is not None
            assert state_digest(connection) == model_of(root).state_at(position.seq).digest(), "memory.db is a mixture"
    _, run = recover(Data.at(root), "all")
    run(None)
    with open_server_sync(root, background=False):
        pass
    heads: dict[int, tuple[str | None, int, str]] = {}
    for batch in LogReader(RealStorage(), str(root / "journal")).batches():
        for seq, head in enumerate(batch.heads(), batch.first_seq):
            heads[seq] = (head.op_id, head.flags, batch.chain.hex())
    now = records(root)
    at = {op_id: seq for seq, (op_id, _, _) in heads.items() if op_id is not None}
    for op_id, (seq, chain) in promises.all().items():
        assert at.get(op_id) == seq, f"acknowledged {op_id} at seq {seq} is lost: the journal ends at {len(now)}"
        assert heads[seq][2] == chain, f"acknowledged {op_id} lies in another history"
    for seq, *_, event in now:
        first = seq
        while heads[first][1] & RECORD_CONTINUES_GROUP:
            first -= 1
        op_id = heads[first][0]
        if op_id is not None:
            assert type(event) is type(events_of(op_id)[seq - first]), f"seq {seq}: {event}"
    for op_id, seq in at.items():
        wanted = [(type(event), _content(event)) for event in events_of(op_id)]
        assert [(type(event), _content(event)) for *_, event in now[seq - 1 : seq - 1 + len(wanted)]] == wanted
    model = model_of(root)
    with reading(str(current(root))) as connection:
        assert state_digest(connection) == model.digest()
    assert files(root / "agents") == {f"{name}.md": each.content for name, each in model.state.agents.items()}
    report = verify(RealStorage(), str(root / "journal"))
    assert report.exit_code == 0, report.findings


def _content(event: Event) -> object:
    return getattr(event, "content", None) or getattr(event, "name", None)


# -- cutting ----------------------------------------------------------------------------------------------------------


def new_journal(disk: Disk, place: Path) -> Promises:
    root = disk.at / "data"
    shutil.rmtree(root, ignore_errors=True)
    initialise(root)
    (root / "journal.yaml").write_text(CONFIG)
    promises = Promises(place / "promises")
    with open_server_sync(root, background=False) as hook:
        hook.append_all(events_of(FIRST), op_id=FIRST)
    os.sync()
    return promises


def _wait_for(promises: Promises, wanted: int) -> None:
    """Until so many receipts were given, however slow the machine is; a life that gives none is cut all the same."""
    started = time.monotonic()
    while promises.count() < wanted and time.monotonic() - started < 5:
        time.sleep(0.002)


def _ended(pid: int) -> int:
    """Its exit code. Raises AssertionError where it hangs: who waits for a server that lost its disk is to be told."""
    started = time.monotonic()
    while time.monotonic() - started < HANGS_SECONDS:
        found, status = os.waitpid(pid, os.WNOHANG)
        if found:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.002)
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    raise AssertionError(f"a process does not end within {HANGS_SECONDS} s once its disk is gone")


def cut(disk: Disk, place: Path, rng: random.Random, count: int) -> Counter[str]:
    root, told = disk.at / "data", Counter[str]()
    promises = new_journal(disk, place)
    started = last = time.monotonic()
    for life in range(count):
        chosen = LIVES[life % len(LIVES)]
        pid = begin(disk, promises, life, chosen)
        wanted = promises.count() + (rng.randrange(25) if chosen is not recovering else 0)
        moment = rng.random() * 0.3
        _wait_for(promises, wanted)
        time.sleep(moment)  # not a wait for something: the moment of the cut
        disk.cut_power()
        if rng.random() < 0.5:
            os.kill(pid, signal.SIGKILL)  # a machine's processes do not outlive its power; but some tell of the error
        code = _ended(pid)
        told[chosen.__name__] += 1
        told["in the midst"] += code != 0
        disk.restart()
        try:
            assert code in (-signal.SIGKILL, 0, 3), (place / "undeclared").read_text()
            hold(root, promises, life)
        except Exception:
            print(f"life {life} ({chosen.__name__}), cut after {moment:.4f} s, does not hold", flush=True)
            raise
        told["receipts"] = max(told["receipts"], len(promises.all()))
        if len(records(root)) > EVENTS_MAX:
            promises = new_journal(disk, place)
        if time.monotonic() - last > 20:
            last = time.monotonic()
            print(f"{disk.kind}: {life + 1} of {count} cuts, {last - started:.0f} s", file=sys.stderr)
    return told


def main() -> int:
    kind: loopdisk.FileSystem = "xfs" if sys.argv[1] == "xfs" else "ext4"
    seed, count = sys.argv[2], int(sys.argv[3])
    if (why := loopdisk.missing(kind)) is not None:
        print(f"SKIPPED: {why}", file=sys.stderr)
        return SKIPPED
    place = Path(tempfile.mkdtemp(prefix="journal-powercuts-"))
    try:
        with loopdisk.disk(kind, place) as disk:
            told = cut(disk, place, random.Random(f"{kind} {seed}"), count)
    finally:
        shutil.rmtree(place, ignore_errors=True)
    print(f"{kind}: {count} cuts, " + ", ".join(f"{name} {number}" for name, number in told.items()))
    assert told["in the midst"] >= count // 2, "most cuts came after the end"
    assert told["receipts"] > count, "hardly anything was promised: nothing was tested"
    return 0


if __name__ == "__main__":
    sys.exit(main())
