"""Edits of agents/ by hand while it is watched, in the ways that editors and people have; and writes to memory.db past
the hook. Each is waited for by what the watch tells of it.
"""

from __future__ import annotations

import hashlib
import json
import os
import queue
import shutil
import signal
import sqlite3
import subprocess
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from itertools import product
from pathlib import Path
from typing import Any, get_args

import anyio
import pytest

from journal.events import ConfigRejected, ConfigRemoved, ConfigWritten, EntityCreated, Event, TagCreated
from recovery import open_server, open_server_sync
from recovery.agents.watch import Noticed
from recovery.data import Data
from recovery.server import ServerSyncHook
from recovery.setup import initialise
from recovery.tables.watch import WATCH, Lies, WatchFact, watch_case, watch_row
from tests.commands import ENVIRONMENT, arguments
from tests.damage import files

pytest.importorskip("watchfiles")
SECONDS = 60  # a machine that is busy may take its time; nothing else depends on it
ONE = b"---\nname: writer\ndescription: One.\n---\n"
TWO = b"---\nname: writer\ndescription: Two.\n---\n"
BAD = b"---\nname: writer\ndescription: Two: three\n---\n"


class Watched:
    """A server that watches, with one agent at its first version."""

    def __init__(self, root: Path, hook: ServerSyncHook) -> None:
        self.root = root
        self.hook = hook
        self.agents = root / "agents"
        self.told: queue.Queue[Noticed] = queue.Queue()
        hook.watch.told = self.told.put

    def wait(self, what: str, name: str = "writer") -> Noticed:
        """The next notice of this kind; others are passed over."""
        while True:
            noticed = self.told.get(timeout=SECONDS)
            if (noticed.what, noticed.name) == (what, name):
                return noticed

    def settle(self) -> None:
        """All that was done before is noticed: a new file is, whose name and notice come after."""
        name = f"zz-sentinel-{len(os.listdir(self.agents))}"
        self.save(ONE, name)
        self.wait("new", name)

    def save(self, content: bytes, name: str = "writer") -> None:
        """As most editors do: a file beside it, renamed over."""
        beside = self.agents / f".{name}.md.swp"
        beside.write_bytes(content)
        os.rename(beside, self.agents / f"{name}.md")

    def events(self, name: str = "writer") -> list[Event]:
        return [
            record.event for batch in Data.at(self.root).reader().batches() for record in batch.records()
            if getattr(record.event, "name", None) == name
        ]  # fmt: skip

    def row(self, name: str = "writer") -> bytes | None:
        with self.hook.core.lock:
            asked = "SELECT content FROM agents WHERE name = ?"
            row = self.hook.core.state.connection.execute(asked, (name,)).fetchone()
        return row[0] if row else None


@contextmanager
def watched(root: Path, config: str = "") -> Iterator[Watched]:
    if not root.exists():
        initialise(str(root))
    if config:
        (root / "journal.yaml").write_text(config)
    with open_server_sync(root, background=False, watch=True) as hook:
        made = Watched(root, hook)
        if made.row() is None:
            hook.agents.write("writer", ONE)
        yield made
        assert hook.watch.error is None


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return tmp_path / "data"


def truncate_and_write(path: Path, content: bytes) -> None:
    path.write_bytes(content)


def write_over(path: Path, content: bytes) -> None:
    with open(path, "r+b") as file:
        file.write(content)
        file.truncate()


def rename_over(path: Path, content: bytes) -> None:
    beside = path.with_suffix(".md.tmp")
    beside.write_bytes(content)
    os.rename(beside, path)


def backup_and_rename(path: Path, content: bytes) -> None:
    """vim with backupcopy=no: the old file is moved away first, and for a moment there is none."""
    os.rename(path, f"{path}~")
    path.write_bytes(content)
    os.unlink(f"{path}~")


def delete_and_create(path: Path, content: bytes) -> None:
    os.unlink(path)
    path.write_bytes(content)


def by_another_process(path: Path, content: bytes) -> None:
    subprocess.run(["sh", "-c", 'cat > "$0"', str(path)], input=content, check=True)


WAYS = (truncate_and_write, write_over, rename_over, backup_and_rename, delete_and_create, by_another_process)


def test_an_edit_is_the_next_version_whatever_way_it_is_saved(root: Path) -> None:
    with watched(root) as place:
        for number, way in enumerate(WAYS):
            content = ONE + f"version {number}, {way.__name__}\n".encode() * (1 + number % 2)
            way(place.agents / "writer.md", content)
            while place.row() != content:
                place.told.get(timeout=SECONDS)
        place.settle()
        written = [each for each in place.events() if isinstance(each, ConfigWritten)]
        assert [each.origin for each in written] == ["hook", *["watch"] * (len(written) - 1)]
        assert len(written) >= 1 + len(WAYS)
        assert not any(isinstance(each, ConfigRejected) for each in place.events())
        assert not [name for name in os.listdir(place.agents) if "~" in name]


def test_a_new_file_is_a_new_agent_and_a_deleted_one_is_gone(root: Path) -> None:
    with watched(root) as place:
        place.save(TWO, "second")
        assert place.wait("new", "second").seq == 2
        os.unlink(place.agents / "writer.md")
        assert place.wait("deleted").seq == 3
        assert place.row() is None
        (place.agents / "notes.txt").write_text("of no agent")
        (place.agents / ".#writer.md~").write_text("an editor's")
        place.settle()
        assert place.events() == [ConfigWritten("writer", ONE, _sha(ONE)), ConfigRemoved("writer", origin="watch")]
    with watched(root) as place:
        assert not (place.agents / "second.md").exists() or place.row("second") == TWO


def test_what_the_hook_writes_is_not_echoed(root: Path) -> None:
    with watched(root) as place:
        for number in range(20):
            place.hook.agents.write("writer", ONE + bytes([65 + number]))
        place.hook.agents.write("other", ONE)
        place.hook.agents.remove("other")
        place.settle()
        assert {each.origin for each in place.events() if isinstance(each, ConfigWritten)} == {"hook"}
        assert len(place.events()) == 21
        assert len(place.events("other")) == 2


def test_the_last_of_many_quick_edits_is_the_version_in_force(root: Path) -> None:
    with watched(root) as place:
        for number in range(200):
            place.save(ONE + f"{number}\n".encode())
        place.settle()
        assert place.row() == ONE + b"199\n"
        assert len(place.events()) < 200, "what nobody could have seen is not journaled"


def test_an_editor_saves_again_while_its_edit_is_journaled(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The later bytes stay where they are, and are the next version."""
    with watched(root) as place:
        place.settle()
        commit_now = place.hook.core.committer.commit_now
        saved: list[bytes] = []

        def late(request: Any) -> None:
            if not saved:
                saved.append(TWO)
                rename_over(place.agents / "writer.md", TWO)
            commit_now(request)

        monkeypatch.setattr(place.hook.core.committer, "commit_now", late)
        place.save(ONE + b"first\n")
        while place.row() != TWO:
            place.wait("edited")
        assert (place.agents / "writer.md").read_bytes() == TWO
        assert [each.content for each in place.events() if isinstance(each, ConfigWritten)] == [
            ONE, ONE + b"first\n", TWO,
        ]  # fmt: skip
        assert not (root / "journal" / "quarantine").exists() or not os.listdir(root / "journal" / "quarantine")


def test_a_program_that_is_still_writing_is_waited_for(root: Path) -> None:
    with watched(root) as place:
        with open(place.agents / "writer.md", "wb") as file:  # empty now
            place.settle()
            file.write(TWO[:20])
            file.flush()
            place.settle()
            assert place.row() == ONE
            assert len(place.events()) == 1
            file.write(TWO[20:])
        place.wait("edited")
        assert place.row() == TWO


def test_an_older_version_put_back_by_hand_is_an_edit(root: Path) -> None:
    """As `git checkout` does: the journal holds these bytes already, but they are not those in force."""
    with watched(root) as place:
        place.hook.agents.write("writer", TWO)
        place.save(ONE)
        place.wait("edited")
        assert place.row() == ONE
        assert len(place.events()) == 3


def test_strict_puts_the_last_good_version_back_and_loses_nothing(root: Path) -> None:
    with watched(root, "agents: {validation: strict}\n") as place:
        place.save(BAD)
        noticed = place.wait("refused")
        assert "line 3" in noticed.detail
        assert (place.agents / "writer.md").read_bytes() == ONE
        assert place.row() == ONE
        rejected = place.events()[-1]
        assert isinstance(rejected, ConfigRejected)
        assert (rejected.content, rejected.errors) == (BAD, [noticed.detail])
        assert BAD in files(Path(noticed.kept)).values()
        place.save(TWO)
        place.wait("edited")
        place.save(BAD, "draft")
        assert place.wait("refused_new", "draft").seq == 4
        place.hook.watch.scan()
        place.settle()
        assert len(place.events("draft")) == 1, "the same text is rejected once"
        assert (place.agents / "draft.md").read_bytes() == BAD, "nobody's last good version: it stays"


def test_a_file_that_was_emptied_gets_its_version_again(root: Path) -> None:
    with watched(root) as place:
        (place.agents / "writer.md").write_bytes(b"")
        place.wait("damaged")
        assert (place.agents / "writer.md").read_bytes() == ONE
        (place.agents / "fresh.md").touch()
        assert place.wait("unfinished", "fresh").seq is None
        place.save(TWO, "fresh")
        place.wait("new", "fresh")


def test_links_and_directories_are_only_reported(root: Path) -> None:
    with watched(root) as place:
        os.symlink("/etc/passwd", place.agents / "link.md")
        os.mkdir(place.agents / "folder.md")
        os.mkfifo(place.agents / "pipe.md")
        told = [place.told.get(timeout=SECONDS) for _ in range(3)]
        assert {(each.name, each.what, each.action) for each in told} == {
            (name, "no_file", "report") for name in ("link", "folder", "pipe")
        }
        place.settle()
        assert place.events("link") == place.events("folder") == place.events("pipe") == []


def test_the_whole_directory_moved_away_deletes_no_agent(root: Path) -> None:
    with watched(root) as place:
        os.rename(place.agents, root / "away")
        place.wait("no_directory")
        assert place.row() == ONE
        os.rename(root / "away", place.agents)
        place.save(TWO)
        place.wait("edited")
        assert [type(each) for each in place.events()] == [ConfigWritten, ConfigWritten]


def test_what_was_edited_while_nobody_watched_is_journaled_at_the_start(root: Path) -> None:
    with watched(root):
        pass
    (root / "agents" / "writer.md").write_bytes(TWO)
    (root / "agents" / "third.md").write_bytes(ONE)
    with watched(root) as place:
        assert (place.row(), place.row("third")) == (TWO, ONE)
        (place.agents / "writer.md").write_bytes(ONE)  # at the very end: close looks once more
    assert [each.content for each in place.events() if isinstance(each, ConfigWritten)] == [ONE, TWO, ONE]


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
def test_a_server_of_tasks_watches_too(root: Path, backend: str) -> None:
    initialise(str(root))

    async def main() -> None:
        async with open_server(root, background=False, watch=True) as hook:
            (root / "agents" / "writer.md").write_bytes(TWO)
            with anyio.fail_after(SECONDS):
                while not Data.at(root).reader().last_seq:
                    await hook.append(EntityCreated("global", "Acme", "company"), op_id="once")
                    await anyio.sleep(0.01)
        assert (root / "agents" / "writer.md").read_bytes() == TWO

    anyio.run(main, backend=backend)
    reader = Data.at(root).reader()
    assert sum(isinstance(record.event, ConfigWritten) for batch in reader.batches() for record in batch.records()) == 1


# -- memory.db --------------------------------------------------------------------------------------------------------


def foreign_write(root: Path) -> None:
    with closing(sqlite3.connect(root / "memory.db", isolation_level=None)) as connection:
        connection.execute("BEGIN IMMEDIATE")
        connection.execute("INSERT INTO entities VALUES (99999, 'global', 'Nobody', 'ghost', '{}', 1.0, 1, 1)")
        connection.execute("UPDATE entities SET entity_type = 'lie' WHERE name = 'Acme'")
        connection.execute("COMMIT")


@pytest.mark.parametrize("configured", ["report", "revert", "adopt"])
def test_rows_that_another_program_wrote_are_found(root: Path, configured: str) -> None:
    with watched(root, f"watch: {{memory: {configured}}}\n") as place:
        place.hook.append(EntityCreated("global", "Acme", "company"))
        swapped: list[str] = []
        place.hook.on_swap(swapped.append)
        foreign_write(root)
        noticed = place.wait("memory_drift", "memory.db")
        place.hook.append(EntityCreated("global", "Bob", "person"))
        with place.hook.core.lock:
            asked = "SELECT name, entity_type FROM entities ORDER BY id"
            rows = place.hook.core.state.connection.execute(asked).fetchall()
        if configured == "report":
            assert noticed.action == "reported"
            assert rows == [("Acme", "lie"), ("Bob", "person"), ("Nobody", "ghost")]
        elif configured == "adopt":
            assert noticed.action == "adopted"
            assert {row[0]: row[1] for row in rows} == {"Acme": "lie", "Bob": "person", "Nobody": "ghost"}
            assert swapped
        else:
            assert noticed.action == "reverted"
            assert rows == [("Acme", "company"), ("Bob", "person")]
            assert swapped
        seen = {type(each) for each in place.events("Nobody")}
        assert seen == ({EntityCreated} if configured == "adopt" else set())


# -- by command -------------------------------------------------------------------------------------------------------


def read_until(lines: Any, matches: Callable[[dict[str, Any]], bool]) -> dict[str, Any]:
    for line in lines:
        noticed: dict[str, Any] = json.loads(line)
        if matches(noticed):
            return noticed
    raise AssertionError("it ended before")


@pytest.mark.parametrize(("sent", "code"), [(signal.SIGTERM, 0), (signal.SIGINT, 130)])
def test_the_command_watches_until_it_is_told_to_end(root: Path, sent: signal.Signals, code: int) -> None:
    initialise(str(root))
    with subprocess.Popen(
        arguments(root, "watch", "--json"), env=ENVIRONMENT, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as process:
        assert process.stderr is not None
        assert "watching" in process.stderr.readline()
        (root / "agents" / "writer.md").write_bytes(ONE)
        assert read_until(process.stdout, lambda noticed: noticed["seq"] == 1)["what"] == "new"
        beside = subprocess.run(arguments(root, "tag", "here"), env=ENVIRONMENT, text=True, capture_output=True)
        assert beside.returncode == 0, beside.stderr  # it holds the lock, and takes what other verbs bring
        (root / "agents" / "writer.md").write_bytes(TWO)
        process.send_signal(sent)
        process.communicate(timeout=SECONDS)
    assert process.returncode == code
    reader = Data.at(root).reader()
    assert reader.tail.closed
    events = [record.event for batch in reader.batches() for record in batch.records()]
    written = [event.content for event in events if isinstance(event, ConfigWritten)]
    assert TagCreated("here", 1) in events
    assert written[-1:] == [TWO] or code == 130


def test_the_command_looks_once(root: Path) -> None:
    initialise(str(root))
    (root / "agents" / "writer.md").write_bytes(ONE)
    for expected in ("agent writer: new, journaled (seq 1)\n", ""):
        done = subprocess.run(arguments(root, "watch", "--once"), env=ENVIRONMENT, text=True, capture_output=True)
        assert (done.returncode, done.stdout) == (0, expected), done
    shutil.rmtree(root)


# -- the table --------------------------------------------------------------------------------------------------------


def facts() -> Iterator[WatchFact]:
    flags = [(False, True)] * 5
    for lies, complaint, (is_agent, directory, writing, held, safe) in product(
        get_args(Lies), ("", "line 3: no"), product(*flags)
    ):
        yield WatchFact("a", lies, is_agent, directory, writing, held, safe, complaint)


def test_every_file_has_exactly_one_case_and_none_loses_anything() -> None:
    seen = set()
    for fact in facts():
        row = watch_row(fact)
        seen.add(watch_case(fact))
        if row.action == "remove":
            assert fact.lies == "missing"
            assert fact.has_directory, "a directory that was unmounted deletes no agent"
        if row.action == "write":
            assert fact.lies == "text"
            assert not fact.complaint
            assert not fact.is_held
        if row.action == "reject_and_put_back":
            assert fact.is_agent, "there is no version to put back"
        if fact.is_writing or fact.lies == "journaled":
            assert row.action in ("none", "report")
        if row.action in ("write", "reject", "reject_and_put_back"):
            assert fact.is_safe
    assert seen == {row.case for row in WATCH}
    assert len(WATCH) == len(seen)


def _sha(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()
