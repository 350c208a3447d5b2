"""Links are swapped in where files and directories belong, before and while recovery runs: nothing outside changes.

The racer is a process of its own that puts symbolic and hard links to files outside under every name that recovery
writes, as fast as it can. What lies outside must keep its bytes, its times and its names.
"""

from __future__ import annotations

import os
import shutil
import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import pytest

from journal.events import EntityCreated
from recovery import open_server_sync
from replay.reader import open_reader
from tests.commands import ENVIRONMENT
from tests.damage import AGENTS, VERSION, agent, config, copy_of, images
from tests.test_recovery_damage import journal

RACER = """
import os, random, sys
data, outside, seed = sys.argv[1:]
rng = random.Random(int(seed))
names = [f"{data}/agents/{name}.md" for name in ("keeper", "scribe", "Reviewer")]
names += [f"{data}/agents/.agent.tmp", f"{data}/.memory.db.link", f"{data}/journal/.recovery.json.tmp"]
names += [f"{data}/journal/recovery.json", f"{data}/memory.db"]
targets = [f"{outside}/precious.md", f"{outside}/precious.db", f"{outside}/deep"]
temporary = f"{data}/racer"
print("started", flush=True)
while True:
    name, target = rng.choice(names), rng.choice(targets)
    try:
        if rng.random() < 0.3:
            os.unlink(name)
            continue
        if rng.random() < 0.3 and not os.path.isdir(target):
            os.link(target, temporary)
        else:
            os.symlink(target, temporary)
        os.replace(temporary, name)
    except OSError:
        pass
    try:
        os.unlink(temporary)
    except OSError:
        pass
"""


def outside_of(root: Path) -> Path:
    place = root.parent / "outside"
    (place / "deep").mkdir(exist_ok=True)
    (place / "deep" / "keeper.md").write_text("not the journal's")
    (place / "precious.db").write_bytes(b"a database of somebody else" * 200)
    return place


def photograph(place: Path) -> dict[str, tuple[bytes, int, int]]:
    """Bytes, time of change and mode of all that lies there, hard links to it not counted."""
    found = {}
    for path in [place, *sorted(place.rglob("*"))]:
        status = path.lstat()
        found[str(path)] = (path.read_bytes() if path.is_file() else b"", status.st_mtime_ns, status.st_mode)
    return found


@pytest.mark.parametrize("seed", range(2))
def test_links_that_are_swapped_in_while_recovery_runs(tmp_path: Path, capsys, seed: int) -> None:
    root = copy_of(images().closed, tmp_path)
    outside = outside_of(root)
    before = photograph(outside)
    racer = subprocess.Popen(
        [sys.executable, "-c", RACER, str(root), str(outside), str(seed)], stdout=subprocess.PIPE, env=ENVIRONMENT
    )
    try:
        assert racer.stdout is not None
        assert racer.stdout.readline() == b"started\n"
        for _ in range(4):
            code = journal(["recover", "all", "--yes", "--data", str(root)])
            assert code in (0, 1, 2, 3, 10, 11, 12, 14), code
            assert "Traceback" not in capsys.readouterr().err
            assert photograph(outside) == before
    finally:
        racer.kill()
        racer.wait()
    for name in ("racer", ".memory.db.link"):
        (root / name).unlink(missing_ok=True)
    for _ in range(2):
        code = journal(["recover", "all", "--yes", "--data", str(root)])
    assert (code, photograph(outside)) == (0, before)
    assert [agent(root, name).read_bytes() for name in AGENTS] == [config(name, VERSION) for name in AGENTS]
    assert os.readlink(root / "memory.db").startswith("memory-")


@pytest.mark.parametrize(
    "name",
    ["agents/keeper.md", "agents/.agent.tmp", ".memory.db.link", "journal/.recovery.json.tmp", "journal/recovery.json",
     "memory.db", "memory-000002.db.building", "memory-000002.db", "journal/checkpoints/work", "journal/lock",
     "journal/checkpoints/lock", "journal/import.json", "journal/repairs.json"],
)  # fmt: skip
def test_a_link_that_lay_there_before(tmp_path: Path, capsys, name: str) -> None:
    for make in (os.symlink, os.link):
        place = tmp_path / make.__name__
        place.mkdir()
        root = copy_of(images().closed, place)
        outside = outside_of(root)
        before = photograph(outside)
        agent(root, "scribe").write_bytes(b"")  # something to be done
        path = root / name
        path.unlink(missing_ok=True)
        make(outside / "precious.db", path)
        for words in (["recover", "all", "--yes"], ["checkpoint", "create"]):
            assert journal([*words, "--data", str(root)]) in (0, 1, 2, 3, 10, 12, 14)
            assert photograph(outside) == before, words


def test_a_backup_of_hard_links_keeps_its_bytes(tmp_path: Path) -> None:
    """`cp -al`: the generation and its -wal have two names, and SQLite writes in place."""
    root, backup = copy_of(images().closed, tmp_path), tmp_path / "backup"
    with open_server_sync(root, background=False) as hook:  # killed: the -wal stays, and is linked, too
        hook.append(EntityCreated("global", "Before", "t"))
        subprocess.run(["cp", "-al", root, backup], check=True)
    for lock in ("lock", "checkpoints/lock", "parity/lock"):  # as the error says: two could lock one file
        (root / "journal" / lock).unlink(missing_ok=True)
    before = photograph(backup)
    for name in ("one", "two"):
        with open_server_sync(root, background=False) as hook:
            hook.append(EntityCreated("global", name, "t"))
            hook.agents.write("keeper", f"changed by {name}")
            hook.restore(hook.core.log.next_seq - 1)
    assert journal(["recover", "all", "--yes", "--data", str(root)]) == 0
    assert journal(["checkpoint", "create", "--data", str(root)]) == 0
    after = photograph(backup)
    changed = {path for path in before if before[path][0] != after.get(path, (b"",))[0] and not path.endswith("-shm")}
    assert changed == set()
    (backup / "journal" / "lock").unlink()
    assert journal(["recover", "all", "--yes", "--data", str(backup)]) == 0
    with open_reader(str(backup / "memory.db")) as memory, memory.transaction() as connection:
        names = {name for (name,) in connection.execute("SELECT name FROM entities")}
        assert "Before" in names
        assert not {"one", "two"} & names


SWAPPER = """
import itertools, os, sys
data, outside = sys.argv[1:]
names = ["journal/quarantine", "journal/checkpoints", "journal/checkpoints/parts", "journal/segments"]
print("started", flush=True)
for name in itertools.cycle(names):
    path = f"{data}/{name}"
    try:
        os.rename(path, f"{path}.away")
        os.symlink(f"{outside}/{os.path.basename(name)}", path)
        for _ in range(50):
            os.lstat(path)
        os.unlink(path)
        os.rename(f"{path}.away", path)
    except OSError:
        print(f"a directory was made anew at {path}", flush=True)
        break
"""


@pytest.mark.parametrize("name", ["quarantine", "checkpoints", "checkpoints/parts", "segments", "parity"])
def test_a_directory_of_the_journals_own_that_is_a_link_is_not_written_through(
    tmp_path: Path, capsys, name: str
) -> None:
    """It leads to a copy of what was there: everything would work, outside of the journal."""
    root = copy_of(images().closed, tmp_path)
    outside = outside_of(root)
    agent(root, "scribe").write_bytes(b"")
    agent(root, "keeper").write_bytes(b"an edit")  # for the quarantine
    assert journal(["checkpoint", "create", "--data", str(root)]) in (0, 3)
    path = root / "journal" / name
    path.mkdir(exist_ok=True)
    path.rename(outside / "moved")
    path.symlink_to(outside / "moved")
    before = photograph(outside)
    for words in (["recover", "all", "--yes"], ["checkpoint", "create"], ["append"], ["scrub"]):
        code = journal([*words, "--data", str(root)])
        assert code in (0, 1, 2, 3, 10, 12, 14), (words, code)
        assert photograph(outside) == before, words
    said = capsys.readouterr()
    assert "Traceback" not in said.err
    if name != "segments":  # behind a link none are found, and so nothing is written
        assert "a link lies where a directory of the journal's own belongs" in said.err + said.out


def test_directories_that_are_swapped_for_links_while_recovery_runs(tmp_path: Path, capsys) -> None:
    root = copy_of(images().closed, tmp_path)
    outside = outside_of(root)
    for name in ("quarantine", "checkpoints", "parts", "segments", "checkpoints/parts"):
        (outside / name).mkdir()
    before = photograph(outside)
    swapper = subprocess.Popen(
        [sys.executable, "-c", SWAPPER, str(root), str(outside)], stdout=subprocess.PIPE, env=ENVIRONMENT
    )
    try:
        assert swapper.stdout is not None
        assert swapper.stdout.readline() == b"started\n"
        for number in range(6):
            agent(root, "keeper").write_bytes(b"edit %d" % number)
            for words in (["recover", "agents", "--yes"], ["checkpoint", "create"]):
                code = journal([*words, "--data", str(root)])
                assert code in (0, 1, 2, 3, 10, 11, 12, 14), code
                assert "Traceback" not in capsys.readouterr().err
                assert photograph(outside) == before, words
    finally:
        swapper.kill()
        swapper.wait()


@pytest.mark.parametrize("link", [os.symlink, os.link], ids=["a symbolic link", "a hard link"])
@pytest.mark.parametrize(
    ("victim", "nth", "with_checkpoints"),
    [("an empty file", 1, True), ("another server's memory.db", 2, True), ("an empty file", 2, False),
     ("another server's memory.db", 1, False)],
)  # fmt: skip
def test_a_link_that_is_swapped_in_right_before_sqlite_opens_a_file(
    tmp_path: Path, capsys, monkeypatch: pytest.MonkeyPatch, link, victim: str, nth: int, with_checkpoints: bool
) -> None:
    """SQLite follows links, and what lies outside can be a database of the same form."""
    root, name = copy_of(images().closed, tmp_path), "memory-000003.db.building"
    if not with_checkpoints:
        shutil.rmtree(root / "journal" / "checkpoints")
    outside = outside_of(root)
    shutil.copyfile(root / os.readlink(root / "memory.db"), outside / "memory.db")
    with closing(sqlite3.connect(outside / "memory.db")) as connection:
        connection.execute("PRAGMA journal_mode=DELETE")
    if victim == "an empty file":
        (outside / "memory.db").write_bytes(b"")
    with closing(sqlite3.connect(root / os.readlink(root / "memory.db"))) as connection:
        connection.execute("UPDATE entities SET entity_type = 'altered'")
        connection.commit()
    before = photograph(outside)
    connect, seen = sqlite3.connect, 0

    def swapping(database: str, *given: object, **named: object) -> sqlite3.Connection:
        nonlocal seen
        if name in str(database) and "mode=ro" not in str(database) and os.path.exists(root / name):
            seen += 1
            if seen == nth:
                os.unlink(root / name)
                link(outside / "memory.db", root / name)
        return connect(database, *given, **named)

    monkeypatch.setattr(sqlite3, "connect", swapping)
    code = journal(["recover", "all", "--yes", "--data", str(root)])
    monkeypatch.undo()
    assert "Traceback" not in capsys.readouterr().err
    assert (code in (0, 1), photograph(outside)) == (True, before)
    assert journal(["recover", "all", "--yes", "--data", str(root)]) == 0
    assert photograph(outside) == before
