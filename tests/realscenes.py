"""What an agent server and its operator do to a data directory, as actions for a child process that is made to fail.

Each scene prepares a directory from one small history, and acts on it by the public faces: hook, command, recovery.
What an action was promised it writes to a file beside the directory, line by line, so that it outlives a kill.
"""

from __future__ import annotations

import asyncio
import atexit
import json
import os
import shutil
import sqlite3
import sys
import tempfile
from collections.abc import Callable
from contextlib import closing, suppress
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

from journal.errors import JournalError
from journal.event_json import event_to_json
from journal.events import (
    ConfigRemoved,
    ConfigWritten,
    EntityCreated,
    Event,
    ObservationAdded,
    RelationCreated,
    StatusChanged,
)
from recovery import open_server, open_server_sync
from recovery.cli.app import run as journal
from recovery.setup import initialise
from replay import shadow
from replay.hook import SyncHook
from replay.live import LiveState
from replay.model import Model
from tests.damage import fold, records
from tests.histories import SeededSource, growing

AGENTS = ("keeper", "planner.agent", "été")


def config(name: str, version: int) -> bytes:
    return f"---\nname: {name}\nversion: {version}.0.0\n---\nYou are {name}.\n".encode()


class Request(NamedTuple):
    """One thing that is sent: its key, and its events (more than one: a group)."""

    op_id: str
    events: tuple[Event, ...]


REQUESTS = (
    Request("r-entity", (EntityCreated("global", "Initech", "company", {"city": "Austin"}),)),
    Request("r-observation", (ObservationAdded("global", "Initech", "moved to Rome"),)),
    Request(
        "r-group",
        (
            EntityCreated("global", "Bill", "person"),
            RelationCreated("global", "Bill", "Initech", "runs"),
            ObservationAdded("global", "Bill", "wants reports"),
        ),
    ),
    Request("r-config", (ConfigWritten("keeper", config("keeper", 9)),)),
    Request("r-new-config", (ConfigWritten("courier", config("courier", 1)),)),
    Request("r-status", (StatusChanged("courier", "suspended", "on leave"),)),
    Request("r-removed", (ConfigRemoved("planner.agent"),)),
    Request("r-late", (ObservationAdded("global", "Initech", "back in Austin"),)),
)
LARGE = tuple(
    Request(f"r-large-{number}", (ObservationAdded("global", "Globex", f"{number} " + "x" * 30_000),))
    for number in range(6)
)


# -- the history that all begin with ----------------------------------------------------------------------------------


class Images(NamedTuple):
    closed: Path
    killed: Path
    older_db: Path
    lines: Path  # REQUESTS as `append` takes them


@cache
def images() -> Images:
    scratch = Path(tempfile.mkdtemp(prefix="journal-tests-"))
    atexit.register(_remove_in, os.getpid(), scratch)
    made = Images(scratch / "closed", scratch / "killed", scratch / "older.db", scratch / "lines.jsonl")
    initialise(made.closed)
    guide, source = Model(), SeededSource(4)
    with open_server_sync(made.closed, background=False) as hook:
        for name in AGENTS:
            hook.append(ConfigWritten(name, config(name, 1)))
        hook.append(EntityCreated("global", "Globex", "company"))
        _grow(hook, guide, source, made.closed, 30)
        hook.checkpoint()
        _grow(hook, guide, source, made.closed, 20)
        hook.restore(30)
        hook.core.state.folding.copy()
        shutil.copyfile(hook.core.state.generation, made.older_db)
        _grow(hook, guide, source, made.closed, 10)
        hook.checkpoint()
        hook.core.state.folding.copy()
        _grow(hook, guide, source, made.closed, 15)
        for name in AGENTS:
            hook.append(ConfigWritten(name, config(name, 2)))
        shutil.copytree(made.closed, made.killed, symlinks=True, ignore=shutil.ignore_patterns("control.sock"))
    with made.lines.open("w") as out:
        for request in REQUESTS:
            out.write(json.dumps({"events": list(map(event_to_json, request.events)), "op_id": request.op_id}) + "\n")
    return made


def _remove_in(pid: int, scratch: Path) -> None:
    if os.getpid() == pid:  # not at the end of a forked child
        shutil.rmtree(scratch, ignore_errors=True)


def _grow(hook: SyncHook, guide: Model, source: SeededSource, root: Path, count: int) -> None:
    for record in records(root)[guide.position :]:
        guide.apply(*record)
    for step in growing(source, guide, count):
        hook.append(step.event, agent=step.agent)


# -- what is promised -------------------------------------------------------------------------------------------------


def said(root: Path) -> list[dict[str, Any]]:
    """What an action was told, in order; a line that a kill cut is none."""
    path = root.parent / "said"
    if not path.exists():
        return []
    return [json.loads(line) for line in path.read_bytes().split(b"\n")[:-1]]


class Diary:
    """Appends lines to a file beside the data directory, each by one write."""

    def __init__(self, root: Path) -> None:
        self.fd = os.open(root.parent / "said", os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)

    def write(self, **what: Any) -> None:
        os.write(self.fd, json.dumps(what).encode() + b"\n")

    def receipts(self, request: Request, receipts: Any) -> None:
        self.write(op_id=request.op_id, receipts=[{"seq": each.seq, "chain": each.chain} for each in receipts])

    def error(self, request: Request, error: JournalError) -> None:
        self.write(op_id=request.op_id, error=error.code, seq=error.seq)


# -- actions ----------------------------------------------------------------------------------------------------------


def ending(action: Callable[[Path], int | None]) -> Callable[[Path], int]:
    """An action in Python ends as the command does: a declared error is its exit code, any other a traceback."""

    def run(root: Path) -> int:
        try:
            return action(root) or 0
        except JournalError as error:
            print(f"journal: {error}", file=sys.stderr)
            return error.exit_code

    return run


def _send(hook: SyncHook, diary: Diary, requests: tuple[Request, ...]) -> None:
    for request in requests:
        try:
            if len(request.events) == 1 and isinstance(request.events[0], ConfigWritten):
                wanted = request.events[0]
                diary.receipts(request, [hook.agents.write(wanted.name, wanted.content, op_id=request.op_id)])
            else:
                diary.receipts(request, hook.append_all(request.events, op_id=request.op_id))
        except JournalError as error:
            diary.error(request, error)


@ending
def hook_appends(root: Path) -> None:
    diary = Diary(root)
    with open_server_sync(root, background=False) as hook:
        _send(hook, diary, REQUESTS)


@ending
def async_hook_appends(root: Path) -> None:
    diary = Diary(root)

    async def main() -> None:
        async with open_server(root, background=False) as hook:

            async def send(request: Request) -> None:
                try:
                    diary.receipts(request, await hook.append_all(request.events, op_id=request.op_id))
                except JournalError as error:
                    diary.error(request, error)

            await asyncio.gather(*map(send, REQUESTS))

    asyncio.run(main())


@ending
def segments_rotate(root: Path) -> None:
    diary = Diary(root)
    with open_server_sync(root, background=False) as hook:
        _send(hook, diary, LARGE)


def command_appends(root: Path) -> int:
    """`journal append`, whose receipts go straight to the file of promises."""
    path = root.parent / "said"
    for target, flags, name in ((0, os.O_RDONLY, images().lines), (1, os.O_WRONLY | os.O_CREAT | os.O_APPEND, path)):
        fd = os.open(name, flags, 0o600)
        os.dup2(fd, target)
        os.close(fd)
    return journal(["--data", str(root), "append"])


def checkpoint_process(root: Path) -> int:
    """What `journal checkpoint create` starts as a process of its own."""
    return shadow.main(["--journal", f"{root}/journal", "--memory", f"{root}/memory.db", "--nice", "0"])


def checkpoint_command(root: Path) -> int:
    return journal(["--data", str(root), "checkpoint", "create"])


@ending
def hook_folds(root: Path) -> None:
    """Each step of a fold beside writers, one after the other; then the log begins anew."""
    diary = Diary(root)
    with open_server_sync(root, background=False) as hook:

        def step(name: str) -> None:
            state = hook.core.state
            if isinstance(state, LiveState):
                with suppress(sqlite3.Error):
                    getattr(state.folding, name)()
                state.look()

        _send(hook, diary, REQUESTS[:2])
        step("hold")
        _send(hook, diary, REQUESTS[2:3])
        step("sync_log")
        step("copy")
        step("sync_file")
        _send(hook, diary, REQUESTS[3:5])
        step("copy")
        _send(hook, diary, REQUESTS[5:])


RESTORED_TO = 20


@ending
def hook_restores(root: Path) -> None:
    diary = Diary(root)
    with open_server_sync(root, background=False) as hook:
        _send(hook, diary, REQUESTS[:2])
        try:
            hook.restore(RESTORED_TO)
        except JournalError as error:
            print(f"journal: {error}", file=sys.stderr)
        _send(hook, diary, REQUESTS[3:5])


def back_up(root: Path) -> int:
    """A first backup, then one of what was written since."""
    target = f"{root}.backup"
    code = journal(["--data", str(root), "backup", target])
    again = hook_appends(root)
    return code or again or journal(["--data", str(root), "backup", target])


def compact(root: Path) -> int:
    return journal(["--data", str(root), "compact"])


def recover_all(root: Path) -> int:
    return journal(["--data", str(root), "recover", "all", "--yes"])


@ending
def open_and_close(root: Path) -> None:
    with open_server_sync(root, background=False):
        pass


# -- scenes -----------------------------------------------------------------------------------------------------------


class Scene(NamedTuple):
    """What lies there before, what is done to it, and how many system calls on it that takes at the least.

    With ``bystander`` another process has memory.db open meanwhile: see `tests.bystander`.
    """

    prepare: Callable[[Path], None]
    action: Callable[[Path], int]
    calls_min: int
    bystander: bool = False


def closed(root: Path) -> None:
    shutil.copytree(images().closed, root, symlinks=True)


def killed(root: Path) -> None:
    shutil.copytree(images().killed, root, symlinks=True)


def small_segments(root: Path) -> None:
    closed(root)
    (root / "journal.yaml").write_text("segment_bytes_max: 65536\n")


@cache
def _sealed() -> Path:
    root = images().closed.parent / "sealed"
    small_segments(root)
    with open_server_sync(root, background=False) as hook:
        for number in range(8):
            hook.append(ObservationAdded("global", "Globex", f"sealed {number} " + "y" * 30_000))
    return root


def sealed(root: Path) -> None:
    """Segments that can be packed, with parity of none."""
    shutil.copytree(_sealed(), root, symlinks=True)


def _wreck(root: Path) -> None:
    fold(root)
    path = root / os.readlink(root / "memory.db")
    with path.open("r+b") as file:
        for page in range(1, path.stat().st_size // 4096, 2):
            file.seek(page * 4096)
            file.write(os.urandom(4096))
    (root / "agents" / "keeper.md").unlink()
    (root / "agents" / "planner.agent.md").write_bytes(bytes(100))
    (root / "agents" / "été.md").write_bytes(b"---\nname: edited by hand\n---\n")


def altered(root: Path) -> None:
    """A sound database that says something else than the journal: it can be read while recovery replaces it."""
    closed(root)
    with closing(sqlite3.connect(root / os.readlink(root / "memory.db"))) as connection:
        connection.execute("UPDATE entities SET entity_type = 'altered'")
        connection.commit()
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")


def wrecked(root: Path) -> None:
    closed(root)
    _wreck(root)


def wrecked_by_a_kill(root: Path) -> None:
    killed(root)
    _wreck(root)


def memory_behind(root: Path) -> None:
    """memory.db of some time ago, an old version of an agent, and a restore between then and now."""
    killed(root)
    current = root / os.readlink(root / "memory.db")
    for suffix in ("-wal", "-shm"):
        Path(f"{current}{suffix}").unlink(missing_ok=True)
    shutil.copyfile(images().older_db, current)
    (root / "agents" / "keeper.md").write_bytes(config("keeper", 1))
    with closing(sqlite3.connect(current)) as connection:
        assert connection.execute("SELECT seq FROM journal_position").fetchone()[0] < len(records(root))


SCENES: dict[str, Scene] = {
    "append_by_hook": Scene(closed, hook_appends, 200),
    "append_by_async_hook": Scene(closed, async_hook_appends, 80),
    "append_by_command": Scene(closed, command_appends, 200),
    "open_after_a_kill": Scene(killed, hook_appends, 200),
    "rotation": Scene(small_segments, segments_rotate, 200),
    "fold": Scene(closed, hook_folds, 200),
    "checkpoint": Scene(closed, checkpoint_process, 200),
    "checkpoint_by_command": Scene(closed, checkpoint_command, 200),
    "restore": Scene(closed, hook_restores, 300),
    "backup": Scene(closed, back_up, 200),
    "packing": Scene(sealed, compact, 80),
    "recover": Scene(wrecked, recover_all, 200),
    "recover_after_a_kill": Scene(wrecked_by_a_kill, recover_all, 200),
    "recover_beside_readers": Scene(altered, recover_all, 200, bystander=True),
    "catch_up": Scene(memory_behind, open_and_close, 100),
    "catch_up_by_recover": Scene(memory_behind, recover_all, 100),
}
