"""A server's data directory with a real history, everything that can happen to it, and the judge of what recovery made.

The directory is made once and copied: hundreds of events, two checkpoints, a restore, agents with several versions and
a removed one. The judge is the reference projection, folded over the journal as it lies on disk.
"""

from __future__ import annotations

import atexit
import os
import random
import shutil
import sqlite3
import stat
import tempfile
from collections.abc import Callable, Iterator
from contextlib import closing
from functools import cache
from pathlib import Path
from typing import NamedTuple

from journal.commit import draft, ticket
from journal.events import ConfigRemoved, ConfigWritten, EntityCreated, Event, ObservationAdded, RelationCreated
from journal.reader import LogReader
from journal.storage import RealStorage
from recovery import open_server_sync
from recovery.reading import reading
from recovery.setup import initialise
from replay.digest import state_digest
from replay.hook import SyncHook
from replay.model import Model
from replay.schema import read_position
from tests.histories import SeededSource, growing

AGENTS = ("keeper", "planner.agent", "Reviewer", "scribe", "été")
REMOVED = "retired"
VERSION = 7  # of every agent's config at the end
MARK = "Globex signed on the third of May and pays in advance"  # a text to look for in the pages of a file
PAGE = 4096


def config(name: str, version: int) -> bytes:
    return f"---\nname: {name}\nversion: {version}.0.0\ntools: [Read]\n---\n\nYou are {name} — be brief.\n".encode()


# -- the directory ----------------------------------------------------------------------------------------------------


class Images(NamedTuple):
    """Copies of one directory: closed, as a kill leaves it (events in a -wal), and an old memory.db of it."""

    closed: Path
    killed: Path
    older_db: Path
    other: Path  # another journal's directory


@cache
def images() -> Images:
    scratch = Path(tempfile.mkdtemp(prefix="journal-tests-"))
    atexit.register(shutil.rmtree, scratch, ignore_errors=True)
    made = Images(scratch / "closed", scratch / "killed", scratch / "older.db", scratch / "other")
    _make(made)
    initialise(made.other)
    with open_server_sync(made.other, background=False) as hook:
        hook.append(EntityCreated("global", "Stranger", "person"))
        hook.agents.write("keeper", b"somebody else's\n")
    return made


def _make(made: Images) -> None:
    initialise(made.closed)
    guide, source = Model(), SeededSource(20)
    with open_server_sync(made.closed, background=False) as hook:

        def write(event: Event) -> None:
            hook.append(event, agent="operator")
            _follow(guide, made.closed)

        for name in AGENTS:
            write(ConfigWritten(name, config(name, 1)))
        for version in (2, 3):
            write(ConfigWritten("keeper", config("keeper", version)))
        write(ConfigWritten(REMOVED, config(REMOVED, 1)))
        write(ConfigRemoved(REMOVED))
        write(EntityCreated("global", "Globex", "company"))
        write(ObservationAdded("global", "Globex", MARK))
        hook.append_all(list(_bulk()), agent="sales")
        _follow(guide, made.closed)
        _grow(hook, guide, source, 200)
        hook.checkpoint()
        _follow(guide, made.closed)
        _grow(hook, guide, source, 80)
        hook.restore(500)
        _follow(guide, made.closed)
        hook.core.state.folding.copy()
        shutil.copyfile(hook.core.state.generation, made.older_db)
        _grow(hook, guide, source, 60)
        hook.checkpoint()
        _follow(guide, made.closed)
        hook.core.state.folding.copy()
        _grow(hook, guide, source, 100)
        for name in AGENTS:
            write(ConfigWritten(name, config(name, VERSION)))
        shutil.copytree(made.closed, made.killed, symlinks=True, ignore=shutil.ignore_patterns("control.sock"))


def _bulk() -> Iterator[Event]:
    """Enough rows that the tables fill many pages."""
    for number in range(120):
        yield EntityCreated("workspace:east", f"customer {number}", "company", {"rank": number})
        yield ObservationAdded("workspace:east", f"customer {number}", f"buys parts since {1900 + number}; " + "x" * 90)
        yield RelationCreated("workspace:east", f"customer {number}", f"customer {number // 2}", "knows")


def _grow(hook: SyncHook, guide: Model, source: SeededSource, count: int) -> None:
    steps = list(growing(source, guide, count))
    requests = [ticket((draft(step.event, step.agent, None, None),), None) for step in steps]
    for at in range(0, count, 7):
        hook.settle(requests[at : at + 7])
    assert [request.result()[0].seq for request in requests] == [step.seq for step in steps]


def _follow(guide: Model, root: Path) -> None:
    """The guide takes what was journaled since."""
    for seq, time, agent, event in records(root)[guide.position :]:
        guide.apply(seq, time, agent, event)


def copy_of(image: Path, place: Path) -> Path:
    """A data directory of its own under `place`, beside a directory `outside` that nothing may change."""
    outside = place / "outside"
    outside.mkdir()
    (outside / "precious.md").write_bytes(b"---\nname: precious\n---\nNot the journal's.\n")
    shutil.copytree(image, place / "data", symlinks=True)
    return place / "data"


# -- looking at it ----------------------------------------------------------------------------------------------------

Record = tuple[int, int, "str | None", Event]


def records(root: Path) -> list[Record]:
    reader = LogReader(RealStorage(), str(root / "journal"))
    return [
        (seq, record.time, record.agent, record.event)
        for batch in reader.batches()
        for seq, record in enumerate(batch.records(), batch.first_seq)
    ]


def model_of(root: Path) -> Model:
    model = Model()
    for record in records(root):
        model.apply(*record)
    return model


Tree = dict[str, tuple[object, ...]]


def tree(root: Path) -> Tree:
    """Everything below: type, mode, time of change, and bytes or target. Links are not followed."""
    found: Tree = {}
    for directory, folders, names in os.walk(root):
        for name in (*folders, *names):
            path = os.path.join(directory, name)
            status = os.lstat(path)
            content: object = None
            if stat.S_ISLNK(status.st_mode):
                content = os.readlink(path)
            elif stat.S_ISREG(status.st_mode):
                content = Path(path).read_bytes()
            found[os.path.relpath(path, root)] = (status.st_mode, status.st_mtime_ns, content)
    return found


def files(root: Path) -> dict[str, bytes]:
    """Regular files below, by path; links are not followed."""
    return {name: fact[2] for name, fact in tree(root).items() if isinstance(fact[2], bytes)}


def current(root: Path) -> Path:
    """The file behind memory.db."""
    return root / os.readlink(root / "memory.db")


def assert_recovered(root: Path, model: Model, *, edits: dict[str, bytes] | None = None) -> None:
    """memory.db and every agent file are what the model says, and nothing is left over; `edits` were to be kept."""
    with reading(str(current(root))) as connection:
        position = read_position(connection)
        assert position is not None
        assert position.seq == model.position
        assert state_digest(connection) == model.digest()
        for table, rows in model.rows().items():
            columns = "name, sha256, content, status, reason, updated_at" if table == "agents" else "*"
            assert sorted(connection.execute(f"SELECT {columns} FROM {table}")) == rows, table
    wanted = {f"{name}.md": agent.content for name, agent in model.state.agents.items()} | (edits or {})
    assert files(root / "agents") == wanted
    kinds = {stat.S_IFMT(os.lstat(root / "agents" / name).st_mode) for name in os.listdir(root / "agents")}
    assert kinds <= {stat.S_IFREG}
    assert_tidy(root)


def assert_tidy(root: Path) -> None:
    """No side file, half-built file or old generation is left; what was replaced lies in quarantine."""
    generation = os.readlink(root / "memory.db")
    beside = set(os.listdir(root)) - {"models", f"{generation}-wal", f"{generation}-shm"}
    assert beside == {"memory.db", generation, "agents", "journal"}
    journal = set(os.listdir(root / "journal")) - {"quarantine", "checkpoints", "parity", "index"}
    assert journal - {"lock"} == {"segments"}
    # A checkpoint's process outlives the server that was killed: what it has half written is swept by the next one.
    at_work = tuple(f"journal/{folder}/" for folder in ("quarantine", "checkpoints", "parity", "index"))
    assert not [name for name in files(root) if name.endswith(".tmp") and not name.startswith(at_work)]


# -- what happens to memory.db ----------------------------------------------------------------------------------------

Harm = Callable[[Path], None]


def with_memory(action: Callable[[sqlite3.Connection], object]) -> Harm:
    """Another program writes memory.db, and folds its write-ahead log."""

    def harm(root: Path) -> None:
        with closing(sqlite3.connect(current(root), isolation_level=None)) as connection:
            connection.execute("PRAGMA foreign_keys=ON")
            connection.execute("BEGIN")
            action(connection)
            connection.execute("COMMIT")
            connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")

    return harm


def fold(root: Path) -> None:
    """All in one file, so that what is done to its bytes is what a reader sees."""
    with closing(sqlite3.connect(current(root))) as connection:
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")


def with_bytes(change: Callable[[bytearray], bytes | bytearray]) -> Harm:
    def harm(root: Path) -> None:
        fold(root)
        path = current(root)
        path.write_bytes(change(bytearray(path.read_bytes())))

    return harm


def truncated_to(share: float) -> Harm:
    return with_bytes(lambda data: data[: int(len(data) * share)])


def zeroed_page_1(data: bytearray) -> bytearray:
    data[:PAGE] = bytes(PAGE)
    return data


def overwritten_pages(seed: int) -> Harm:
    def change(data: bytearray) -> bytearray:
        rng = random.Random(seed)
        for page in rng.sample(range(1, len(data) // PAGE), 5):
            data[page * PAGE : (page + 1) * PAGE] = rng.randbytes(PAGE)
        return data

    return with_bytes(change)


def swapped_pages(data: bytearray) -> bytearray:
    first, second = len(data) // PAGE // 3, len(data) // PAGE * 2 // 3
    one, two = (data[page * PAGE : (page + 1) * PAGE] for page in (first, second))
    assert one != two
    data[first * PAGE : (first + 1) * PAGE], data[second * PAGE : (second + 1) * PAGE] = two, one
    return data


def changed_text(data: bytearray) -> bytearray:
    """One word of a memory becomes another of the same length."""
    assert MARK.encode() in data
    return data.replace(MARK.encode(), MARK.replace("advance", "arrears").encode())


def foreign_database(path: Path) -> None:
    with closing(sqlite3.connect(path)) as connection:
        connection.executescript("CREATE TABLE songs(title); INSERT INTO songs VALUES ('Greensleeves');")


def remove_current(root: Path) -> None:
    for suffix in ("", "-wal", "-shm"):
        Path(f"{current(root)}{suffix}").unlink(missing_ok=True)


def take_the_name(make: Callable[[Path], object]) -> Harm:
    """Something else stands where the link was."""

    def harm(root: Path) -> None:
        (root / "memory.db").unlink()
        make(root / "memory.db")

    return harm


def replace_current(make: Callable[[Path], object]) -> Harm:
    def harm(root: Path) -> None:
        remove_current(root)
        make(current(root))

    return harm


def older_beside_newer_wal(root: Path) -> None:
    """A backup tool brought the database back, and left the write-ahead log where it was."""
    assert os.path.getsize(f"{current(root)}-wal") > 0
    shutil.copyfile(images().older_db, current(root))


def cut_wal(share: float) -> Harm:
    def harm(root: Path) -> None:
        path = f"{current(root)}-wal"
        os.truncate(path, int(os.path.getsize(path) * share))

    return harm


def delete_wal(root: Path) -> None:
    os.unlink(f"{current(root)}-wal")


def stale_shm(root: Path) -> None:
    """The index of a write-ahead log that is gone, and says that thousands of frames are there."""
    shutil.copyfile(f"{current(images().killed)}-shm", f"{current(root)}-shm")


def empty_wal(root: Path) -> None:
    Path(f"{current(root)}-wal").write_bytes(b"")


def hot_journal(root: Path) -> None:
    """A rollback journal of an earlier state, as a copy that mixed the files of two moments leaves it.

    Whoever opens the database next would play it back into pages that are right.
    """
    scratch = root.parent / "scratch.db"
    shutil.copyfile(images().older_db, scratch)
    with closing(sqlite3.connect(scratch, isolation_level=None)) as connection:
        connection.execute("PRAGMA journal_mode=DELETE")
        connection.execute("PRAGMA cache_size=1")
        connection.execute("PRAGMA cache_spill=1")
        connection.execute("BEGIN IMMEDIATE")
        connection.execute("UPDATE observations SET content = content || 'x'")
        connection.execute("UPDATE entities SET name = name || 'x'")
        shutil.copyfile(f"{scratch}-journal", f"{current(root)}-journal")
        connection.execute("ROLLBACK")
    scratch.unlink()


# -- what happens to agent files --------------------------------------------------------------------------------------


def agent(root: Path, name: str = "keeper") -> Path:
    return root / "agents" / f"{name}.md"


def agent_bytes(content: bytes, name: str = "keeper") -> Harm:
    def harm(root: Path) -> None:
        agent(root, name).write_bytes(content)

    return harm


def agent_replaced(make: Callable[[Path, Path], object]) -> Harm:
    """`make` gets the file's path, which is free, and the directory outside."""

    def harm(root: Path) -> None:
        agent(root).unlink()
        make(agent(root), root.parent / "outside")

    return harm


def directory_with_files(path: Path) -> None:
    path.mkdir()
    (path / "notes.md").write_text("in a directory")
    (path / "away").symlink_to(path.parent.parent.parent / "outside")


def all_agents_gone(root: Path) -> None:
    shutil.rmtree(root / "agents")


def agents_directory(make: Callable[[Path], object]) -> Harm:
    def harm(root: Path) -> None:
        shutil.rmtree(root / "agents")
        make(root / "agents")

    return harm


def all_but_the_journal(root: Path) -> None:
    for name in os.listdir(root):
        path = root / name
        if name != "journal":
            shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink()
