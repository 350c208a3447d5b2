"""Kills a run with SIGKILL before each change that it makes on disk, runs it again, and judges what is there.

    python -m tests.killing SCENARIO [FIRST STEP]      before the first change, the second, ... to the last
    python -m tests.killing SCENARIO random SEED N     N times at some moment: in the midst of SQLite's writing, too

A process of its own, which forks for each run: it has one thread, and no connection to a database is open then. Prints
how many kills there were; says what is wrong and exits 1 at the first that did not end as it must.
"""

from __future__ import annotations

import os
import random
import shutil
import signal
import sqlite3
import sys
import tempfile
import time
import traceback
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import NamedTuple

import replay.agent_format  # noqa: F401 - the children inherit what would cost each of them 40 ms to import
from journal.errors import JournalError
from journal.events import ImportCompleted, StateRestored
from journal.storage import RealFile, RealLock, RealStorage
from recovery.config.file import load
from recovery.data import Data
from recovery.execute import recover
from recovery.opening import open_core
from recovery.reading import reading
from recovery.restore import restore_live
from recovery.setup import adopt_state, initialise
from replay.digest import state_digest
from replay.schema import read_position
from tests.damage import (
    AGENTS,
    agent,
    assert_recovered,
    copy_of,
    directory_with_files,
    images,
    model_of,
    overwritten_pages,
    records,
    tree,
)
from tests.foreign import published, published_rows


class KillingStorage(RealStorage):
    """Real files; the process is killed before the `last`-th change."""

    def __init__(self, last: int) -> None:
        self.left = last

    def change(self) -> None:
        self.left -= 1
        if self.left == 0:
            os.kill(os.getpid(), signal.SIGKILL)

    def open(self, path: str, *, write: bool = False, create: bool = False) -> RealFile:
        if create:
            self.change()
        file = super().open(path, write=write, create=create)
        return KillingFile(self, file) if write else file

    def make_directory(self, path: str) -> None:
        if self.kind(path) == "missing":
            self.change()
        super().make_directory(path)

    def replace(self, source: str, target: str) -> None:
        self.change()
        super().replace(source, target)

    def remove(self, path: str) -> None:
        self.change()
        super().remove(path)

    def remove_directory(self, path: str) -> None:
        self.change()
        super().remove_directory(path)

    def make_link(self, target: str, path: str) -> None:
        self.change()
        super().make_link(target, path)

    def sync_dir(self, path: str) -> None:
        self.change()
        super().sync_dir(path)

    def lock(self, path: str) -> RealLock | None:
        self.change()
        return super().lock(path)


class KillingFile(RealFile):
    def __init__(self, storage: KillingStorage, file: RealFile) -> None:
        super().__init__(file.fd, file.path)
        self._storage = storage

    def write_at(self, offset: int, data: bytes) -> None:
        self._storage.change()
        super().write_at(offset, data)

    def sync(self) -> None:
        self._storage.change()
        super().sync()

    def truncate(self, length: int) -> None:
        self._storage.change()
        super().truncate(length)


# -- a run in a process of its own ------------------------------------------------------------------------------------

Action = Callable[[Path], object]


def start(action: Action, root: Path, storage: RealStorage) -> int:
    """Forks a child that runs `action`, in which every data directory has this storage."""
    sys.stdout.flush()
    pid = os.fork()
    if pid:
        return pid
    code = 1
    try:
        Data.at = classmethod(  # type: ignore[method-assign,assignment]
            lambda cls, path, config_path=None: cls(os.path.abspath(path), load(os.path.abspath(path)), storage)
        )
        action(root)
        code = 0
    except BaseException:
        traceback.print_exc()
    os._exit(code)


def is_killed(pid: int) -> bool:
    """Waits for a child. It was killed, or ran through; anything else is a failure."""
    _, status = os.waitpid(pid, 0)
    if os.WIFSIGNALED(status):
        assert os.WTERMSIG(status) == signal.SIGKILL, status
        return True
    assert os.WEXITSTATUS(status) == 0, "it failed"
    return False


def run_through(action: Action, root: Path) -> None:
    assert not is_killed(start(action, root, RealStorage()))


# -- what is run, and how it must end ---------------------------------------------------------------------------------


class Scenario(NamedTuple):
    """``prepare`` makes a directory below a place; ``judge`` looks right after the kill, ``settle`` runs it again."""

    prepare: Callable[[Path], Path]
    action: Action
    judge: Action
    settle: Action


def wrecked(image: str) -> Callable[[Path], Path]:
    def prepare(place: Path) -> Path:
        root = copy_of(getattr(images(), image), place)
        overwritten_pages(1)(root)
        agent(root, AGENTS[0]).unlink()
        agent(root, AGENTS[1]).write_bytes(bytes(100))
        agent(root, AGENTS[2]).write_bytes(b"---\nname: edited by hand\n---\n")
        agent(root, AGENTS[3]).unlink()
        agent(root, AGENTS[3]).symlink_to(place / "outside" / "precious.md")
        agent(root, AGENTS[4]).unlink()
        directory_with_files(agent(root, AGENTS[4]))
        return root

    return prepare


def whole(place: Path) -> Path:
    return copy_of(images().killed, place)


def recover_all(root: Path) -> None:
    _, run = recover(Data.at(root), "all")
    run(None)


def open_and_close(root: Path) -> None:
    open_core(Data.at(root)).core.close()


def nothing_is_lost(root: Path) -> None:
    """What was acknowledged before is in the journal, and nothing outside changed."""
    before = records(images().killed)
    assert records(root)[: len(before)] == before
    assert (root.parent / "outside" / "precious.md").read_bytes().startswith(b"---\nname: precious")
    assert os.listdir(root.parent / "outside") == ["precious.md"]


def recover_again(root: Path) -> None:
    run_through(recover_all, root)
    nothing_is_lost(root)
    assert_recovered(root, model_of(root))
    quiet = tree(root)
    run_through(recover_all, root)
    assert tree(root) == quiet, "a further run did something"
    kept = [path.read_bytes() for path in (root / "journal" / "quarantine").rglob("*") if path.is_file()]
    assert b"---\nname: edited by hand\n---\n" in kept
    assert bytes(100) in kept


def open_again(root: Path) -> None:
    run_through(open_and_close, root)
    nothing_is_lost(root)
    edit = agent(root, AGENTS[2]).read_bytes()
    assert edit.startswith(b"---\nname: edited")
    assert_recovered(root, model_of(root), edits={f"{AGENTS[2]}.md": edit})
    recover_again(root)


TARGET = 500


def restore(root: Path) -> None:
    core = open_core(Data.at(root)).core
    core.restore(TARGET, "killed in the midst of it")
    core.close()


def restore_with_checkpoint(root: Path) -> None:
    restore_live(Data.at(root), TARGET, "killed in the midst of it")


def one_state_or_the_other(root: Path) -> None:
    """Whoever reads memory.db now, before anything is repaired, sees the whole state of its position."""
    nothing_is_lost(root)
    with reading(str(root / os.readlink(root / "memory.db"))) as connection:
        position = read_position(connection)
        assert position is not None
        assert state_digest(connection) == model_of(root).state_at(position.seq).digest(), "a mixture"


def finish_restore(root: Path) -> None:
    """Opened again it stands before the restore or behind it; and the restore can be had by asking again."""
    run_through(open_and_close, root)
    before, after = records(images().killed), records(root)
    assert len(_restores(after)) - len(_restores(before)) in (0, 1, 2)  # 2: it was run, and killed, twice
    assert_recovered(root, model_of(root))
    run_through(restore, root)
    assert _restores(records(root))[-1] == TARGET
    model = model_of(root)
    assert model.digest() == model.state_at(TARGET).digest()
    assert_recovered(root, model)


def _restores(found: list[tuple]) -> list[int]:  # type: ignore[type-arg]
    return [event.to_seq for *_, event in found if isinstance(event, StateRestored)]


# -- beginning --------------------------------------------------------------------------------------------------------


def nothing(place: Path) -> Path:
    return place / "some" / "data"


def init(root: Path) -> None:
    initialise(root)


def nothing_to_judge(root: Path) -> None: ...


def init_again(root: Path) -> None:
    run_through(init, root)
    assert_recovered(root, model_of(root))
    assert records(root) == []
    run_through(open_and_close, root)
    assert records(root) == []
    assert_recovered(root, model_of(root))


CONFIGS = {"writer": b"---\nname: writer\n---\nfrom a file\n", "x.agent": b"\xff\x00 odd\n"}


def foreign(place: Path) -> Path:
    """A server's directory before it had a journal: memory.db with the last rows in its -wal, and agents."""
    root = place / "data"
    (root / "agents").mkdir(parents=True)
    for name, content in CONFIGS.items():
        (root / "agents" / f"{name}.md").write_bytes(content)
    published(root / "built.db", **published_rows())
    with closing(sqlite3.connect(root / "built.db", isolation_level=None)) as connection:
        connection.execute("PRAGMA wal_autocheckpoint=0")
        connection.execute(
            "INSERT INTO entities SELECT 100 + id, scope, name || ' late', entity_type, metadata, confidence, "
            "created_at, updated_at FROM entities"
        )
        for suffix in ("", "-wal"):
            shutil.copyfile(root / f"built.db{suffix}", root / f"memory.db{suffix}")
    (root / "built.db").unlink()
    return root


def adopt(root: Path) -> None:
    data, _ = initialise(root, adopt=True)
    adopt_state(data)


def adopt_again(root: Path) -> None:
    """Every row and file came in once, the -wal's too; and then the directory is like any other."""
    run_through(adopt, root)
    model = model_of(root)
    names = sorted((scope, name) for scope, name in model.state.entities)
    late = [(scope, f"{name} late") for scope, name in names if not name.endswith(" late")]
    assert len(names) == 6, names
    assert {*late} < {*names}
    assert sorted(each.content for each in model.state.observations.values()) == ["x\0y", "z"]
    assert {name: each.content for name, each in model.state.agents.items()} == CONFIGS
    completed = [event for *_, event in records(root) if isinstance(event, ImportCompleted)]
    assert completed
    assert completed[-1].counts == {"entities": 6, "observations": 2, "agents": 2}, completed
    run_through(open_and_close, root)
    assert_recovered(root, model_of(root))


SCENARIOS: dict[str, Scenario] = {
    "recover": Scenario(wrecked("closed"), recover_all, nothing_is_lost, recover_again),
    "recover_after_a_kill": Scenario(wrecked("killed"), recover_all, nothing_is_lost, recover_again),
    "open": Scenario(wrecked("killed"), open_and_close, nothing_is_lost, open_again),
    "restore": Scenario(whole, restore, one_state_or_the_other, finish_restore),
    "restore_with_checkpoint": Scenario(whole, restore_with_checkpoint, one_state_or_the_other, finish_restore),
    "init": Scenario(nothing, init, nothing_to_judge, init_again),
    "adopt": Scenario(foreign, adopt, nothing_to_judge, adopt_again),
}


# -- where to kill ----------------------------------------------------------------------------------------------------


def prepared(scenario: Scenario, place: Path) -> Path:
    place.mkdir()
    return scenario.prepare(place)


def at_changes(scenario: Scenario, place: Path, first: int, step: int) -> int:
    """Before change `first` and every `step`-th after it. One in four is killed once more while it is made good."""
    rng = random.Random(first)
    for kills, number in enumerate(range(first, 10_000, step)):
        root = prepared(scenario, place / str(number))
        if not is_killed(start(scenario.action, root, KillingStorage(number))):
            scenario.settle(root)
            return kills
        try:
            scenario.judge(root)
            if rng.random() < 0.25:
                is_killed(start(scenario.action, root, KillingStorage(rng.randrange(1, number + 1))))
                scenario.judge(root)
            scenario.settle(root)
        except (AssertionError, JournalError, OSError, sqlite3.Error):
            print(f"killed before change {number}, in {root}", file=sys.stderr)
            raise
        shutil.rmtree(place / str(number), ignore_errors=True)  # a checkpoint's process may still be at work
    raise AssertionError("it never ran through")


def at_random_moments(scenario: Scenario, place: Path, rng: random.Random, count: int) -> int:
    root = prepared(scenario, place / "whole")
    before = time.perf_counter()
    run_through(scenario.action, root)
    duration = time.perf_counter() - before
    kills = 0
    for number in range(count):
        root = prepared(scenario, place / str(number))
        pid = start(scenario.action, root, RealStorage())
        moment = rng.random() * duration
        time.sleep(moment)
        os.kill(pid, signal.SIGKILL)
        try:
            kills += is_killed(pid)
            scenario.judge(root)
            scenario.settle(root)
        except (AssertionError, JournalError, OSError, sqlite3.Error):
            print(f"killed after {moment:.4f} s of {duration:.4f}, in {root}", file=sys.stderr)
            raise
        shutil.rmtree(place / str(number), ignore_errors=True)  # a checkpoint's process may still be at work
    return kills


def main() -> int:
    scenario, given = SCENARIOS[sys.argv[1]], sys.argv[2:]
    images()
    place = Path(tempfile.mkdtemp(prefix="journal-killing-"))
    if given[:1] == ["random"]:
        kills = at_random_moments(scenario, place, random.Random(given[1]), int(given[2]))
    else:
        first, step = map(int, given or (1, 1))
        kills = at_changes(scenario, place, first, step)
    shutil.rmtree(place, ignore_errors=True)
    print(kills)
    return 0


if __name__ == "__main__":
    sys.exit(main())
