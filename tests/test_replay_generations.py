"""Swapping memory.db while other processes hold it: none sees or makes mixed rows.

Every generation here holds rows that all carry its own name, spread over many pages: one row of another one, or a
number of rows that is not its own, is a mixture.
"""

from __future__ import annotations

import os
import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from journal.errors import Corrupt, Diverged, EnvironmentFault, Locked
from journal.storage import RealStorage
from replay.generations import Generations, mark_superseded
from replay.holders import holders
from replay.reader import Reader, open_reader
from replay.schema import Position, connect, create, write_position

ROOT = Path(__file__).resolve().parent.parent
ROWS = {"one": 3000, "two": 2000, "three": 1000}


@pytest.fixture
def place(tmp_path: Path) -> Generations:
    return Generations(RealStorage(), str(tmp_path / "memory.db"), str(tmp_path / "journal/quarantine"))


def build(place: Generations, name: str) -> str:
    """A generation of entities that all have this name as their scope, folded to one file."""
    path = place.building_path()
    with closing(connect(path)) as connection:
        create(connection)
        connection.execute("BEGIN")
        connection.executemany(
            "INSERT INTO entities (id, scope, name, entity_type, metadata, confidence, created_at, updated_at) "
            "VALUES (?, ?, ?, 't', '{}', 1.0, 0, 0)",
            [(number, name, f"{name} {number} " + "x" * 200) for number in range(1, ROWS[name] + 1)],
        )
        write_position(connection, Position(seq=ROWS[name], journal_id="ab" * 16, epoch=1, chain="cd" * 32))
        connection.execute("COMMIT")
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    return path


def content(path: str) -> dict[str, int]:
    """Scope → rows, as a new connection finds them."""
    with closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True)) as connection:
        assert connection.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
        return dict(connection.execute("SELECT scope, count(*) FROM entities GROUP BY scope").fetchall())


class Child:
    """Another process with a connection, driven line by line."""

    def __init__(self, source: str, *arguments: str) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-c", source, *arguments],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=ROOT,
        )  # fmt: skip
        assert self.line() == "ready"

    def line(self) -> str:
        assert self.process.stdout is not None
        return self.process.stdout.readline().strip()

    def go_on(self) -> str:
        assert self.process.stdin is not None
        self.process.stdin.write("go\n")
        self.process.stdin.flush()
        return self.line()

    def end(self) -> None:
        assert self.process.stdin is not None
        self.process.stdin.close()
        assert self.process.wait(30) == 0


IDLE = """
import sqlite3, sys
db = sqlite3.connect(sys.argv[1])
count = lambda: print(sorted(db.execute("SELECT scope, count(*) FROM entities GROUP BY scope").fetchall()), flush=True)
db.execute("SELECT * FROM entities LIMIT 1").fetchall()
print("ready", flush=True)
for line in sys.stdin:
    count()
"""

READING = """
import sqlite3, sys
db = sqlite3.connect(sys.argv[1])
rows = db.execute("SELECT scope FROM entities ORDER BY id")
found = [row[0] for row in rows.fetchmany(500)]
print("ready", flush=True)
sys.stdin.readline()
found += [row[0] for row in rows]
print(sorted((scope, found.count(scope)) for scope in set(found)), flush=True)
sys.stdin.read()
"""

WRITING = """
import sqlite3, sys
db = sqlite3.connect(sys.argv[1], isolation_level=None)
db.execute("BEGIN IMMEDIATE")
add = "INSERT INTO entities VALUES (?, 'foreign', ?, 't', '{}', 1.0, 0, 0)"
db.executemany(add, [(10000 + n, "half %d" % n) for n in range(500)])
print("ready", flush=True)
sys.stdin.readline()
db.executemany(add, [(20000 + n, "rest %d" % n) for n in range(500)])
db.execute("COMMIT")
print("committed", flush=True)
sys.stdin.read()
"""

HOLDING = """
import sqlite3, sys
db = sqlite3.connect(sys.argv[1])
db.execute("SELECT * FROM foreign_rows").fetchall()
print("ready", flush=True)
sys.stdin.read()
"""

FOLLOWING = """
import sys
from replay.reader import Reader, open_reader
reader = open_reader(sys.argv[1])
def count():
    with reader.transaction() as db:
        print(sorted(db.execute("SELECT scope, count(*) FROM entities GROUP BY scope").fetchall()), flush=True)
with reader.transaction() as db:
    db.execute("SELECT * FROM entities LIMIT 1").fetchall()
print("ready", flush=True)
for line in sys.stdin:
    count()
"""


def test_a_swap_makes_the_next_generation_current(place: Generations):
    first = place.swap(build(place, "one"))
    second = place.swap(build(place, "two"))
    assert os.readlink(place.link) == "memory-000002.db"
    assert (first.previous, second.previous, second.unmarked) == (None, first.path, None)
    assert place.current() == ("generation", second.path, 2)
    assert content(place.link) == {"two": 2000}
    assert content(first.path) == {"one": 3000}


@pytest.mark.parametrize("source", [IDLE, READING], ids=["idle", "mid-read"])
def test_a_connection_held_elsewhere_sees_the_old_rows_only(place: Generations, source: str):
    old = place.swap(build(place, "one"))
    child = Child(source, place.link)
    place.swap(build(place, "two"))
    assert child.go_on() == "[('one', 3000)]"
    assert content(place.link) == {"two": 2000}
    assert [held.path for held in place.retire().held] == [old.path]
    child.end()
    assert place.retire().held == []
    assert not os.path.exists(old.path)


def test_a_write_in_progress_elsewhere_reaches_the_old_generation_only(place: Generations):
    """It blocks the mark, not the swap; what it commits afterwards is in the file that nobody reads any more."""
    old = place.swap(build(place, "one"))
    child = Child(WRITING, place.link)
    swapped = place.swap(build(place, "two"), wait_seconds=0.1)
    assert swapped.unmarked == "database is locked"
    assert content(place.link) == {"two": 2000}
    assert child.go_on() == "committed"
    assert content(place.link) == {"two": 2000}
    assert content(old.path) == {"one": 3000, "foreign": 1000}
    assert place.retire().held[0].by[0].pid == child.process.pid  # type: ignore[index]
    child.end()
    quarantined = place.retire().quarantined
    assert content(quarantined[0]) == {"one": 3000, "foreign": 1000}
    assert content(place.link) == {"two": 2000}


def test_open_reader_follows_the_link_at_its_next_transaction(place: Generations):
    place.swap(build(place, "one"))
    child = Child(FOLLOWING, place.link)
    assert child.go_on() == "[('one', 3000)]"
    place.swap(build(place, "two"))
    assert child.go_on() == "[('two', 2000)]"
    place.retire()
    place.swap(build(place, "three"))
    assert child.go_on() == "[('three', 1000)]"
    child.end()


def test_open_reader_follows_the_link_where_the_old_generation_could_not_be_marked(place: Generations):
    place.swap(build(place, "one"))
    with open_reader(place.link) as reader:
        for name in ("one", "two"):
            with reader.transaction() as connection:
                assert connection.execute("SELECT DISTINCT scope FROM entities").fetchall() == [(name,)]
            place.swap(build(place, "two"), mark=False)


def test_a_swap_between_the_look_at_the_link_and_the_snapshot_is_noticed(place: Generations):
    place.swap(build(place, "one"))

    class Late(Reader):
        swapped = False

        def _connect(self) -> sqlite3.Connection | None:
            connection = super()._connect()
            if not self.swapped:
                self.swapped = True
                place.swap(build(place, "two"), mark=False)
            return connection

    with Late(place.link) as reader, reader.transaction() as connection:
        assert connection.execute("SELECT DISTINCT scope FROM entities").fetchall() == [("two",)]


def test_a_read_transaction_stays_in_one_generation(place: Generations):
    place.swap(build(place, "one"))
    with open_reader(place.link) as reader:
        with reader.transaction() as connection:
            rows = connection.execute("SELECT scope FROM entities ORDER BY id")
            found = [row[0] for row in rows.fetchmany(10)]
            place.swap(build(place, "two"))
            found += [row[0] for row in rows]
            assert connection.execute("SELECT count(*) FROM entities").fetchone() == (3000,)
            assert found == ["one"] * 3000
        with reader.transaction() as connection:
            assert connection.execute("SELECT count(*) FROM entities").fetchone() == (2000,)


def test_a_marked_generation_is_never_read_again(place: Generations):
    """A link that was turned back by hand names a file that says it is the past."""
    old = place.swap(build(place, "one"))
    place.swap(build(place, "two"))
    os.unlink(place.link)
    os.symlink(os.path.basename(old.path), place.link)
    with open_reader(place.link) as reader, pytest.raises(Diverged, match=r"memory-000002\.db took its place"):
        reader.transaction().__enter__()


def test_a_reader_says_what_is_missing_or_foreign(place: Generations, tmp_path: Path):
    with open_reader(place.link) as reader, pytest.raises(EnvironmentFault, match="cannot be opened"):
        reader.transaction().__enter__()
    (tmp_path / "memory.db").write_bytes(b"no database" * 1000)
    with open_reader(place.link) as reader, pytest.raises(Corrupt):
        reader.transaction().__enter__()


def test_numbers_are_never_used_twice(place: Generations):
    """A new file under an old number would meet the -wal that the old one left."""
    for name in ("one", "two"):
        place.swap(build(place, name))
    place.retire()
    os.unlink(place.link)
    os.unlink(place.path_of(2))
    assert place.building_path() == place.path_of(2) + ".building"  # 1 lies in quarantine; nothing is left of 2
    Path(place.path_of(7) + "-wal").write_bytes(b"left behind")
    assert place.building_path() == place.path_of(8) + ".building"
    os.symlink("memory-000012.db", place.link)
    assert place.current() == ("dangling", place.path_of(12), 12)
    assert place.building_path() == place.path_of(13) + ".building"


def test_a_generation_with_sidecars_is_not_swapped_in(place: Generations):
    built = build(place, "one")
    Path(built + "-wal").write_bytes(b"")
    with pytest.raises(ValueError, match="folded"):
        place.swap(built)
    assert place.current().kind == "missing"


def plain_database(path: str) -> None:
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("PRAGMA journal_mode=WAL")
        connection.execute("CREATE TABLE foreign_rows (x)")
        connection.commit()


def test_a_regular_file_under_the_name_is_set_aside(place: Generations):
    plain_database(place.link)
    Path(place.link + "-wal").write_bytes(b"its log")
    swapped = place.swap(build(place, "one"))
    assert [os.path.basename(path) for path in swapped.quarantined] == ["memory.db", "memory.db-wal"]
    assert all(os.path.exists(path) for path in swapped.quarantined)
    assert content(place.link) == {"one": 3000}


def test_a_regular_file_that_is_held_is_left_alone(place: Generations):
    plain_database(place.link)
    child = Child(HOLDING, place.link)
    built = build(place, "one")
    with pytest.raises(Locked, match=f"process {child.process.pid} "):
        place.swap(built)
    assert place.current().kind == "file"
    child.end()
    assert place.swap(built).number == 1


def test_the_log_of_a_file_that_was_set_aside_is_not_left_beside_the_link(place: Generations):
    """A cut between the two renames leaves memory.db-wal where the link is made next."""
    place.swap(build(place, "one"))
    Path(place.link + "-wal").write_bytes(b"of another file")
    retired = place.retire()
    assert [os.path.basename(path) for path in retired.quarantined] == ["memory.db-wal"]
    assert not os.path.exists(place.link + "-wal")


def test_a_build_in_progress_is_not_retired(place: Generations):
    place.swap(build(place, "one"))
    built = build(place, "two")
    Path(built + "-journal").write_bytes(b"of the build")
    assert place.retire().quarantined == []
    assert sorted(place.clean()) == [built, built + "-journal"]


def test_a_file_that_somebody_may_hold_is_not_set_aside(place: Generations, monkeypatch: pytest.MonkeyPatch):
    """No descriptor is free to look through /proc: that nobody was seen does not mean that nobody is there."""
    plain_database(place.link)
    monkeypatch.setattr("replay.generations.holders", lambda paths: None)
    with pytest.raises(Locked, match="nobody can tell"):
        place.set_aside()
    assert os.path.isfile(place.link)


def test_quarantine_keeps_all_that_had_the_same_name(place: Generations):
    for round_ in range(3):
        plain_database(place.link)
        Path(place.link + "-wal").write_bytes(b"%d" % round_)
        place.set_aside()
    assert sorted(os.listdir(place.quarantine)) == sorted(
        ["memory.db", "memory.db-wal", "memory.db.1", "memory.db.1-wal", "memory.db.2", "memory.db.2-wal"]
    )
    assert Path(place.quarantine, "memory.db.2-wal").read_bytes() == b"2"


class Cut(BaseException):
    """A kill: nothing in the code may handle it."""


class CutStorage(RealStorage):
    """The real disk until the n-th change of a name, which no longer happens."""

    def __init__(self, at: int) -> None:
        self.left = at

    def _count(self) -> None:
        if self.left == 0:
            raise Cut
        self.left -= 1

    def replace(self, source: str, target: str) -> None:
        self._count()
        super().replace(source, target)

    def make_link(self, target: str, path: str) -> None:
        self._count()
        super().make_link(target, path)


@pytest.mark.parametrize("before", ["a generation", "a regular file", "nothing"])
def test_a_swap_that_is_cut_anywhere_leaves_the_old_or_the_new_state(place: Generations, before: str):
    if before == "a generation":
        place.swap(build(place, "one"))
    for at in range(10):
        if before == "a regular file" and place.current().kind == "missing":
            plain_database(place.link)
        cut = Generations(CutStorage(at), place.link, place.quarantine)
        try:
            cut.swap(build(place, "two"))
            break
        except Cut:
            pass
        if before == "a generation":
            assert content(place.link) == {"one": 3000}
        assert place.current().kind in {
            "a generation": {"generation"}, "a regular file": {"file", "missing"}, "nothing": {"missing"}
        }[before]  # fmt: skip
        place.clean()
        place.retire()
        left = [name for name in os.listdir(place.directory) if "building" in name or name.endswith(".link")]
        assert left == []
    else:
        pytest.fail("the swap was cut every time")
    assert at >= 3
    assert content(place.link) == {"two": 2000}


def test_marking_never_creates_a_database(place: Generations, tmp_path: Path):
    missing = str(tmp_path / "memory-000001.db")
    assert mark_superseded(missing, "memory-000002.db", 0.1) is not None
    assert not os.path.exists(missing)


def test_a_damaged_old_generation_does_not_stop_the_swap(place: Generations):
    old = place.swap(build(place, "one"))
    Path(old.path).write_bytes(b"\0" * 4096)
    swapped = place.swap(build(place, "two"))
    assert swapped.unmarked is not None
    assert content(place.link) == {"two": 2000}


def test_the_holder_is_named(place: Generations):
    swapped = place.swap(build(place, "one"))
    assert holders([swapped.path]) == []
    child = Child(IDLE, place.link)
    found: Any = holders([swapped.path])
    assert [holder.pid for holder in found] == [child.process.pid]
    assert str(found[0]).startswith(f"process {child.process.pid} (")
    child.end()
