"""A full disk, a real one: small tmpfs for the journal, for memory.db, for the agents, with few bytes or few inodes.

What does not fit gets no receipt and leaves no trace, reads go on, recovery runs on what was kept free for it, and the
same hook takes writes again as soon as there is space: nobody restarts anything.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from journal.errors import JournalError, NoSpace, NotApplied
from journal.events import EntityCreated, ObservationAdded
from journal.retention import Policy
from recovery import open_reader, open_server_sync
from recovery.reading import reading
from recovery.setup import initialise
from replay.background import Background
from replay.digest import state_digest
from replay.encoder import Model
from replay.hook import SyncHook
from replay.schema import read_position
from tests import loopdisk
from tests.command import journal
from tests.damage import current, files, model_of, records

MIB = 1 << 20
Mount = Callable[..., Path]


@pytest.fixture
def mount(tmp_path: Path) -> Iterator[Mount]:
    if (why := loopdisk.missing("tmpfs")) is not None:
        pytest.skip(why)
    with ExitStack() as mounted:

        def make(name: str, options: str) -> Path:
            (tmp_path / name).mkdir()
            return mounted.enter_context(loopdisk.tmpfs(tmp_path / name, options))

        yield make


def begin(root: Path, config: str) -> Path:
    """A journal of one entity."""
    root.mkdir()
    (root / "journal.yaml").write_text(config)
    initialise(root)
    with open_server_sync(root, background=False) as hook:
        hook.append(EntityCreated("global", "Acme", "company"))
    return root


def observe(hook: SyncHook, number: int, size: int = 20_000) -> int:
    """The seq of an observation that is acknowledged."""
    text = f"{number} ".ljust(size, "x")
    return hook.append(ObservationAdded("global", "Acme", text), op_id=f"op-{number}").seq


def until_refused(hook: SyncHook, start: int, error: type[JournalError]) -> tuple[dict[int, int], JournalError]:
    """Appends until it fails: number → seq of what was acknowledged, and the failure."""
    taken: dict[int, int] = {}
    for number in range(start, start + 5000):
        try:
            taken[number] = observe(hook, number)
        except error as refused:
            return taken, refused
    raise AssertionError("the disk never filled")


def op_ids(root: Path) -> dict[str, int]:
    told = journal("log", "--data", str(root), "--json")
    assert told.returncode == 0, told.stderr
    return {record["op_id"]: record["seq"] for record in map(json.loads, told.stdout.splitlines())}


def assert_kept(root: Path, taken: dict[int, int]) -> None:
    """Each acknowledged observation is where its receipt says, and the state is exactly the journal's."""
    found = op_ids(root)
    for number, seq in taken.items():
        assert found.get(f"op-{number}") == seq
    model = model_of(root)
    with reading(str(current(root))) as state:
        position = read_position(state)
        assert position is not None
        assert position.seq == model.position
        assert state_digest(state) == model.digest()


def assert_reads_go_on(root: Path, count: int, health: int = 3) -> None:
    """The reading verbs, and a reader of memory.db in this process. `check` says that writes are refused."""
    assert journal("status", "--data", str(root)).returncode == 0
    assert journal("check", "--data", str(root)).returncode == health
    assert journal("verify", "--data", str(root)).returncode == 0
    assert len(journal("log", "--data", str(root)).stdout.splitlines()) >= count
    shown = journal("show", "--data", str(root), "2")
    assert shown.returncode == 0, shown.stderr
    with open_reader(root / "memory.db") as reader, reader.transaction() as connection:
        assert connection.execute("SELECT count(*) FROM observations").fetchone()[0] == count


RESERVED = f"segment_bytes_max: 262144\ndisk:\n  reserve_bytes: {2 * MIB}\n"


def test_the_disk_fills_and_is_freed_under_one_hook(mount: Mount) -> None:
    """Refused before a byte is written, again and again; then somebody makes room."""
    disk = mount("disk", "size=8m")
    root = begin(disk / "data", RESERVED)
    ballast = disk / "ballast"
    ballast.write_bytes(bytes(2 * MIB))
    with open_server_sync(root, background=False) as hook:
        taken, refused = until_refused(hook, 0, NoSpace)
        assert len(taken) > 10
        size = sum(path.stat().st_size for path in (root / "journal" / "segments").iterdir())
        for number in range(9000, 9003):
            with pytest.raises(NoSpace):
                observe(hook, number)
        assert sum(path.stat().st_size for path in (root / "journal" / "segments").iterdir()) == size
        assert refused.hint is not None
        assert "free some disk space" in refused.hint
        assert_reads_go_on(root, len(taken))
        assert not {"op-9000", "op-9001", "op-9002"} & set(op_ids(root))

        ballast.unlink()
        more, _ = until_refused(hook, 10_000, NoSpace)
        assert len(more) > 10
        taken |= more
    assert_kept(root, taken)


def test_search_on_a_full_disk(mount: Mount, embedding_model: Model) -> None:
    """What was embedded is found; what cannot be stored stays pending, and the error is a declared one."""
    disk = mount("disk", "size=4m")
    root = begin(disk / "data", "disk:\n  reserve_bytes: 65536\n")
    with open_server_sync(root, background=False) as hook:
        behind = Background(hook.core, Policy(), lambda: embedding_model, checkpoints=False, embeddings=False)
        hook.append(ObservationAdded("global", "Acme", "the parcel was sent to Rome"))
        hook.append(ObservationAdded("global", "Acme", "invoices are due in May"))
        assert behind.embed() == 2
        for number in range(40):
            observe(hook, number, 200)
        loopdisk.fill(disk / "ballast")
        with pytest.raises(NoSpace):
            behind.embed()
        assert behind.search("shipping to Italy", 1)[0].content == "the parcel was sent to Rome"
        (disk / "ballast").unlink()
        behind.embed()
        assert behind.embed() == 0
    assert_kept(root, {})


def test_recovery_runs_on_the_reserve(mount: Mount) -> None:
    """Filled until writes are refused; then memory.db and an agent break. Recovery's own records are journaled, too."""
    disk = mount("disk", "size=12m")
    root = begin(disk / "data", f"segment_bytes_max: 262144\ndisk:\n  reserve_bytes: {8 * MIB}\n")
    with open_server_sync(root, background=False) as hook:
        hook.agents.write("keeper", b"---\nname: keeper\n---\n")
        taken, _ = until_refused(hook, 0, NoSpace)
    room = shutil.disk_usage(disk).free  # more than just now: a close folds memory.db's write-ahead log
    (disk / "of-another-program").write_bytes(bytes(room - 7 * MIB))
    with current(root).open("r+b") as file:
        file.write(os.urandom(3 * 4096))
    (root / "agents" / "keeper.md").unlink()
    assert journal("check", "--data", str(root)).returncode != 0
    for _ in range(2):
        done = journal("recover", "--data", str(root), "all", "--yes")
        assert done.returncode == 0, done.stdout + done.stderr
    assert_kept(root, taken)
    assert journal("check", "--data", str(root)).returncode == 3, "all is well but the room on the disk"
    assert any(event.type_name == "recovery.completed" for *_, event in records(root))


def test_recovery_without_a_byte_to_spare_changes_nothing(mount: Mount) -> None:
    """Other programs took the reserve as well: one line says so, all is as it was, and with space it goes on."""
    disk = mount("disk", "size=8m")
    root = begin(disk / "data", RESERVED)
    with current(root).open("r+b") as file:
        file.write(os.urandom(4096))
    before = files(root)
    loopdisk.fill(disk / "ballast")
    done = journal("recover", "--data", str(root), "all", "--yes")
    assert done.returncode == 1, done.stdout + done.stderr
    assert "Traceback" not in done.stderr
    assert "free" in done.stderr
    after = files(root)
    assert {name: data for name, data in before.items() if name != "journal/lock"} == {
        name: data for name, data in after.items() if name in before and name != "journal/lock"
    }
    (disk / "ballast").unlink()
    for _ in range(2):
        done = journal("recover", "--data", str(root), "all", "--yes")
        assert done.returncode == 0, done.stdout + done.stderr
    assert journal("check", "--data", str(root)).returncode == 0


def test_memory_db_has_no_space(mount: Mount) -> None:
    """The journal's disk has room, memory.db's has not: durable, told to be not applied, and applied once it fits."""
    disk, memory = mount("disk", "size=64m"), mount("memory", "size=3m")
    ballast = memory / "ballast"
    ballast.write_bytes(bytes(MIB))
    root = begin(disk / "data", f"paths:\n  memory_db: {memory}/memory.db\n")
    with open_server_sync(root, background=False) as hook:
        taken, failed = until_refused(hook, 0, NotApplied)
        assert "no space" in str(failed)
        assert failed.seq is not None
        observe(hook, 9000)  # taken without memory.db, and without reference checks
        found = op_ids(root)
        assert found["op-9000"] == found[f"op-{len(taken)}"] + 1 == failed.seq + 1
        with open_reader(memory / "memory.db") as reader, reader.transaction() as connection:
            assert connection.execute("SELECT count(*) FROM observations").fetchone()[0] == len(taken)
            assert connection.execute("SELECT seq FROM journal_position").fetchone()[0] == failed.seq - 1

        ballast.unlink()
        with hook.core.lock:
            assert hook.core.look_again()
        seq = observe(hook, 10_000)
        assert hook.core.state.applied_seq == seq == len(records(root))
        assert observe(hook, 9000) == found["op-9000"], "a retry gets the receipt of what was journaled"
    with reading(str(memory / os.readlink(memory / "memory.db"))) as state:
        assert state_digest(state) == model_of(root).digest()


def test_a_full_disk_is_not_told_as_a_broken_one(mount: Mount) -> None:
    """The lock's few bytes still fit, and memory.db's -shm does not: SQLite calls that an input/output error."""
    root = begin(mount("disk", "size=3m") / "data", RESERVED)
    with open(root.parent / "filler", "wb", buffering=0) as filler:
        try:
            while filler.write(b"x" * 4096):
                pass
        except OSError:
            pass
    told = journal("tag", "here", "--data", str(root))
    assert (told.returncode, "free some disk space" in told.stderr) == (1, True), told.stderr


def test_the_agents_directory_has_no_space(mount: Mount) -> None:
    """The row is there and the file is not: told to be not applied, no half file is seen, and it comes with space."""
    disk, agents = mount("disk", "size=64m"), mount("agents", "size=256k")
    root = begin(disk / "data", f"paths:\n  agents: {agents}/agents\n")
    with open_server_sync(root, background=False) as hook:
        hook.agents.write("keeper", b"first\n")
        loopdisk.fill(agents / "ballast")
        with pytest.raises(NotApplied, match="no space"):
            hook.agents.write("keeper", b"second " * 1000)
        with pytest.raises(NotApplied, match="no space"):
            hook.agents.write("courier", b"new " * 1000)
        seen = {path.name: path.read_bytes() for path in (agents / "agents").glob("*.md")}
        assert seen == {"keeper.md": b"first\n"}
        (agents / "ballast").unlink()
        observe(hook, 1)
        seen = {path.name: path.read_bytes() for path in (agents / "agents").glob("*.md")}
        assert seen == {"keeper.md": b"second " * 1000, "courier.md": b"new " * 1000}
    assert journal("check", "--data", str(root)).returncode == 0


def test_quarantine_has_no_space(mount: Mount) -> None:
    """A hand edit that cannot be set aside is not written over."""
    disk, agents = mount("disk", "size=16m"), mount("agents", "size=1m")
    root = begin(disk / "data", f"paths:\n  agents: {agents}/agents\ndisk:\n  reserve_bytes: 0\n")
    edit = b"edited by hand " * 3000
    with open_server_sync(root, background=False) as hook:
        hook.agents.write("keeper", b"first\n")
        (agents / "agents" / "keeper.md").write_bytes(edit)
        loopdisk.fill(disk / "ballast")  # the segment has room that was filled with zeros ahead
        with pytest.raises(NotApplied):
            hook.agents.write("keeper", b"second\n")
        assert (agents / "agents" / "keeper.md").read_bytes() == edit
        (disk / "ballast").unlink()
        observe(hook, 1, 100)
        assert (agents / "agents" / "keeper.md").read_bytes() == b"second\n"
    kept = [path.read_bytes() for path in (root / "journal" / "quarantine").rglob("*") if path.is_file()]
    assert edit in kept
    assert journal("check", "--data", str(root)).returncode == 0


def test_a_checkpoint_has_no_space(mount: Mount) -> None:
    """It fails with a declared error, none is on the ladder that cannot be used, and the next one succeeds."""
    disk = mount("disk", "size=16m")
    root = begin(disk / "data", RESERVED)
    with open_server_sync(root, background=False) as hook:
        for number in range(50):
            observe(hook, number)
        loopdisk.fill(disk / "ballast")
        with pytest.raises(NoSpace):
            hook.checkpoint()
        assert json.loads(journal("checkpoint", "list", "--data", str(root), "--json").stdout)["damaged"] == []
        (disk / "ballast").unlink()
        made = hook.checkpoint()
        assert made.digest == model_of(root).state_at(made.seq).digest()
    listed = json.loads(journal("checkpoint", "list", "--data", str(root), "--json").stdout)
    assert [each["seq"] for each in listed["checkpoints"]] == [made.seq]
    assert not (root / "journal" / "checkpoints" / "work").exists()


def test_no_inode_is_left(mount: Mount) -> None:
    """Bytes enough and no file to be made: appending goes on up to the segment's end, and behind it with an inode."""
    disk = mount("disk", "size=64m,nr_inodes=40")
    root = begin(disk / "data", "segment_bytes_max: 65536\ndisk:\n  reserve_bytes: 1048576\n")
    with open_server_sync(root, background=False) as hook:
        taken = {0: observe(hook, 0)}
        spare = [disk / f"spare-{number}" for number in range(os.statvfs(disk).f_ffree)]
        for path in spare:
            path.touch()
        with pytest.raises(OSError, match="No space left"):
            (disk / "one more").touch()
        more, refused = until_refused(hook, 1, NoSpace)
        taken |= more
        assert refused.code == "no_space"
        assert_reads_go_on(root, len(taken), health=0)
        with pytest.raises(NoSpace):
            observe(hook, 9000)
        for path in spare[:10]:
            path.unlink()
        taken[10_000] = observe(hook, 10_000)
    assert "op-9000" not in op_ids(root)
    assert_kept(root, taken)


def test_an_open_after_a_kill_has_no_space(mount: Mount) -> None:
    """What the killed writer left must be copied before anything builds on it: without space the open says so, and
    nothing was harmed."""
    disk = mount("disk", "size=8m")
    root = begin(disk / "data", RESERVED)
    with open_server_sync(root, background=False) as hook:
        taken = {number: observe(hook, number, 100) for number in range(5)}
        hook.core.log.poison("the process is killed here")  # so that closing marks no clean end
    loopdisk.fill(disk / "ballast")
    with pytest.raises(NoSpace), open_server_sync(root, background=False):
        pass
    (disk / "ballast").unlink()
    with open_server_sync(root, background=False) as hook:
        taken[10] = observe(hook, 10, 100)
    assert_kept(root, taken)
