"""Another program wrote memory.db past the journal: it is found, told, and taken in as events or taken back.

The judge of what was meant is a reader of the tables; of the state that follows, the reference projection.
"""

from __future__ import annotations

import os
import signal
import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path
from random import Random
from typing import Any

import pytest

from journal.events import ImportCompleted, ImportStarted
from recovery import open_server_sync
from recovery.reading import reading
from tests.commands import ENVIRONMENT, SMALL, Command, process, small_history
from tests.damage import assert_recovered, copy_of, current, images, model_of, records
from tests.test_recovery_severity import execute, pages_of, write_over

Known = dict[str, Any]


@pytest.fixture
def run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Command:
    small_history(tmp_path / "data")
    return Command(tmp_path / "data", capsys)


def known(root: Path) -> Known:
    """What the tables say, without ids and times."""
    with reading(str(current(root))) as connection:
        ends = "(SELECT scope || '/' || name FROM entities WHERE id = {})"
        queries = {
            "entities": "SELECT scope, name, entity_type, json(metadata), confidence FROM entities",
            "observations": f"SELECT {ends.format('entity_id')}, content, json(metadata), agent FROM observations",
            "relations": f"SELECT {ends.format('from_entity_id')}, {ends.format('to_entity_id')}, relation_type,"
            " strength, confidence, json(metadata) FROM relations",
            "messages": "SELECT conversation_id, message_id, agent, role, content FROM messages",
            "agents": "SELECT name, content, status, reason FROM agents",
        }
        return {name: sorted(map(tuple, connection.execute(sql)), key=repr) for name, sql in queries.items()}


CHANGES = {
    "rows added": (
        "INSERT INTO entities VALUES (900, 'global', 'Zoe', 'person', '{\"vip\": true}', 0.5, 1, 1)",
        "INSERT INTO observations VALUES (901, 900, 'likes tea', x'00', '{}', 'crm', 1)",
        "INSERT INTO relations VALUES (902, 900, 1, 'owns', 0.25, 1.0, '{}', 1)",
        "INSERT INTO messages VALUES (903, 'talk', 'm9', 'crm', 'user', 'hello', 1)",
    ),
    "rows changed": (
        "UPDATE entities SET entity_type = 'firm', metadata = '{\"a\": 1}' WHERE name = 'Acme'",
        "UPDATE observations SET content = 'renewed in July' WHERE content = 'renewed in May'",
        "UPDATE relations SET strength = 0.125",
    ),
    "rows deleted": (
        "PRAGMA foreign_keys=ON",
        "DELETE FROM observations WHERE content = 'cancelled in June'",
        "DELETE FROM entities WHERE name = 'Bob'",
    ),
    "an entity renamed": ("UPDATE entities SET name = 'Acme Inc.' WHERE name = 'Acme'",),
    "an entity moved to another scope": (
        "DELETE FROM relations", "UPDATE entities SET scope = 'agent:sales' WHERE name = 'Bob'"
    ),
    "an agent changed": (
        "UPDATE agents SET content = x'6e65770a', status = 'active', reason = '' WHERE name = 'writer'",
        "INSERT INTO agents VALUES ('scout', 'x', x'68690a', 'active', '', 1)",
    ),
    "an agent removed": ("DELETE FROM agents",),
    "an observation said by another agent": ("UPDATE observations SET agent = 'ops' WHERE content = 'renewed in May'",),
}  # fmt: skip


@pytest.mark.parametrize("statements", [pytest.param(each, id=name) for name, each in CHANGES.items()])
def test_what_was_written_is_adopted_and_the_digests_are_equal(run: Command, statements: tuple[str, ...]) -> None:
    execute(run.data, *statements)
    meant = known(run.data)
    assert run("check").code == 1
    told = run("adopt", "memory", "--dry-run")
    assert told.code == 0, told
    assert "would journal: " in told.out
    assert (len(records(run.data)), known(run.data)) == (SMALL, meant), "a dry run changed something"
    done = run.json("adopt", "memory", "--yes")
    assert done["left_out"] == []
    assert known(run.data) == meant
    assert run("check").code == 0
    assert_recovered(run.data, model_of(run.data))
    assert done["digest"] == model_of(run.data).digest()
    started, *_, completed = [event for *_, event in records(run.data)[SMALL:]]
    assert isinstance(started, ImportStarted)
    assert isinstance(completed, ImportCompleted)
    assert started.source.startswith("memory.db with digest ")
    assert run.json("log", "-n", "1")["actor"] == "adopt"
    assert run("adopt", "memory", "--yes").out == "nothing to adopt: memory.db is what the journal says\n"


@pytest.mark.parametrize("statements", [pytest.param(each, id=name) for name, each in CHANGES.items()])
def test_or_it_is_taken_back(run: Command, statements: tuple[str, ...]) -> None:
    before = known(run.data)
    execute(run.data, *statements)
    assert run("recover", "all", "--yes").code == 0
    assert known(run.data) == before
    assert_recovered(run.data, model_of(run.data))


@pytest.mark.parametrize(
    ("statement", "said"),
    [
        ("UPDATE entities SET created_at = 7", "differ only in times"),
        ("UPDATE entities SET metadata = '[1]' WHERE name = 'Acme'", "its metadata is no object"),
        ("UPDATE entities SET entity_type = x'ff' WHERE name = 'Acme'", "entity_type"),
        ("UPDATE entities SET confidence = NULL WHERE name = 'Acme'", "confidence"),
        ("UPDATE observations SET content = x'ff' WHERE content LIKE 'renewed%'", "content"),
        ("UPDATE observations SET entity_id = 777 WHERE content LIKE 'renewed%'", "its entity, row 777, is not there"),
        ("UPDATE agents SET status = 'asleep'", "status"),
        ("CREATE TABLE notes(text)", ""),
    ],
)
def test_what_no_event_can_express_is_left_out_and_named(run: Command, statement: str, said: str) -> None:
    """An entity that became impossible is not deleted for that: what the journal says of it stays."""
    before = known(run.data)
    execute(run.data, statement)
    found = run("adopt", "memory", "--yes")
    if not said:  # a table of somebody's own is no drift of ours
        assert (found.code, run("check").code) == (0, 0)
        return
    assert found.code == 3, found
    assert said in found.out
    assert run("recover", "all", "--yes").code == 0
    after = known(run.data)
    assert after == before or "777" in said


def test_of_a_mixture_the_possible_is_adopted_and_the_rest_named_and_journaled(run: Command) -> None:
    execute(
        run.data,
        "UPDATE entities SET confidence = 0.75 WHERE name = 'Acme'",
        "INSERT INTO entities VALUES (900, 'no scope at all', 'Zoe', 'person', '{}', 1.0, 1, 1)",
        "INSERT INTO entities VALUES (901, 'agent:sales', 'Yan', 'person', '{}', 1.0, 1, 1)",
        "INSERT INTO relations VALUES (902, 901, 1, 'owns', 1.0, 1.0, '{}', 1)",
        "INSERT INTO observations VALUES (903, 900, 'of nobody', x'00', '{}', NULL, 1)",
    )
    done = run("adopt", "memory", "--yes", "--json")
    assert done.code == 3
    document = done.json()
    assert document["counts"] == {"memory.entity_updated": 1, "memory.entity_created": 1}
    assert [line.partition(":")[0] for line in document["left_out"]] == [
        "entities row 900 ('Zoe')", "observations row 903", "relations row 902"
    ]  # fmt: skip
    assert records(run.data)[-1][3].left_out == document["left_out"]
    assert run("check").code == 0
    entities = {(row[0], row[1]): row for row in known(run.data)["entities"]}
    assert entities["global", "Acme"][4] == 0.75
    assert ("agent:sales", "Yan") in entities
    kept = [path for path in document["quarantined"] if path.endswith(".db")]
    with closing(sqlite3.connect(kept[0])) as connection:
        assert connection.execute("SELECT count(*) FROM entities WHERE id = 900").fetchone() == (1,)


def test_damage_is_no_change_and_is_refused(run: Command) -> None:
    write_over(run.data, pages_of(run.data, "entities")[:1])
    refused = run("adopt", "memory", "--yes")
    assert refused.code == 12
    assert "journal recover memory" in refused.err
    os.unlink(current(run.data))
    gone = run("adopt", "memory", "--yes")
    assert (gone.code, "journal recover memory" in gone.err) == (1, True)
    assert len(records(run.data)) == SMALL


def test_beside_a_server_it_is_done_by_the_server(run: Command) -> None:
    with open_server_sync(run.data, background=False):
        with closing(sqlite3.connect(current(run.data), isolation_level=None)) as rogue:
            rogue.execute("UPDATE entities SET confidence = 0.75 WHERE name = 'Acme'")
        assert process(run.data, "adopt", "memory", "--dry-run").returncode == 0
        assert process(run.data, "adopt", "memory", "--yes").returncode == 0
        assert process(run.data, "check").returncode == 0
    assert run("adopt", "memory", "extra").code == 2


@pytest.mark.parametrize("at", ["journaled", "linked"])
def test_killed_after_the_events_were_journaled_nothing_of_it_is_lost(run: Command, at: str) -> None:
    """Scenario: SIGKILL once the group is durable, before the next generation has its name; and before the link."""
    execute(run.data, *CHANGES["rows changed"], *CHANGES["rows added"])
    meant = known(run.data)
    name = "memory-" if at == "journaled" else "memory.db"
    program = f"""
import os, signal, sys
from journal.storage import RealStorage
replace = RealStorage.replace
def dying(self, source, target):
    if target.rsplit("/", 1)[1].startswith({name!r}): os.kill(os.getpid(), signal.SIGKILL)
    replace(self, source, target)
RealStorage.replace = dying
from recovery.cli.app import run
sys.exit(run(["adopt", "memory", "--yes", "--data", {str(run.data)!r}]))
"""
    killed = subprocess.run([sys.executable, "-c", program], env=ENVIRONMENT, capture_output=True, check=False)
    assert killed.returncode == -signal.SIGKILL, killed
    assert len(records(run.data)) > SMALL
    again = run("adopt", "memory", "--yes")
    assert again.code in (0, 3), again
    assert run("recover", "all", "--yes").code == 0
    assert known(run.data) == meant
    assert run("check").code == 0


def test_a_program_that_writes_at_random_is_adopted_row_by_row(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Scenario: hundreds of rows of a long history changed, removed and added with foreign keys on."""
    root = copy_of(images().closed, tmp_path)
    run = Command(root, capsys)
    rng = Random(11)
    with closing(sqlite3.connect(current(root), isolation_level=None)) as connection:
        connection.execute("PRAGMA foreign_keys=ON")
        ids = [row[0] for row in connection.execute("SELECT id FROM entities ORDER BY id")]
        for row_id in rng.sample(ids, 30):
            connection.execute(
                "UPDATE entities SET confidence = ?, updated_at = 5 WHERE id = ?", (rng.random(), row_id)
            )
        for row_id in rng.sample(ids, 15):
            connection.execute("DELETE FROM entities WHERE id = ?", (row_id,))
        left = [row[0] for row in connection.execute("SELECT id FROM entities ORDER BY id")]
        for number, row_id in enumerate(rng.sample(left, 40)):
            row = (80_000 + number, row_id, f"said at random {number}", b"", "{}", "rogue", 1)
            connection.execute("INSERT INTO observations VALUES (?, ?, ?, ?, ?, ?, ?)", row)
        connection.execute("DELETE FROM relations WHERE id % 3 = 0")
    meant = known(root)
    done = run("adopt", "memory", "--yes", "--json")
    assert done.json()["left_out"] == []
    assert known(root) == meant
    assert run("check").code == 0
    assert (root / "agents" / "keeper.md").exists()
