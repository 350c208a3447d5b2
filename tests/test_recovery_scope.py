"""One scope of a broken memory.db is put right, and not a row of any other is touched, whatever they look like.

Each case breaks a real file by another program's SQL or by pages written over, in a directory with a long history.
"""

from __future__ import annotations

import atexit
import json
import os
import shutil
import signal
import sqlite3
import subprocess
import sys
import tempfile
from contextlib import closing
from functools import cache
from pathlib import Path

import pytest

from journal.events import EntityCreated, ObservationAdded, RecoveryCompleted, RecoveryStarted, RelationCreated
from recovery import open_reader, open_server_sync
from recovery.data import Data
from recovery.scope import decide_scope, look_at_scope
from recovery.setup import initialise
from replay.model import Model
from replay.scope import read_part
from replay.tolerant import Gap, walk
from tests.commands import ENVIRONMENT, Command
from tests.damage import PAGE, current, images, model_of, records
from tests.damage import copy_of as copied
from tests.test_recovery_severity import execute, pages_of, write_over

MINE, OTHER, THIRD = "agent:sales", "workspace:east", "global"
SCOPES = (MINE, OTHER, THIRD)


@pytest.fixture
def run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Command:
    shutil.copytree(_three_scopes(), tmp_path / "data", symlinks=True)
    return Command(tmp_path / "data", capsys)


@cache
def _three_scopes() -> Path:
    """Three scopes with the same names in them, enough for many pages each; made once."""
    scratch = tempfile.mkdtemp(prefix="journal-tests-")
    atexit.register(shutil.rmtree, scratch)
    data = Path(scratch) / "data"
    initialise(str(data))
    with open_server_sync(data, background=False) as hook:
        for scope in SCOPES:
            names = [f"customer {number}" for number in range(150)]
            hook.append_all([EntityCreated(scope, name, "company") for name in names])
            hook.append_all([ObservationAdded(scope, name, f"of {scope}: " + name * 20) for name in names])
            hook.append_all([RelationCreated(scope, name, names[0], "knows") for name in names])
        hook.agents.write("sales", b"one\n")
    return data


Rows = dict[str, list[tuple[object, ...]]]


def rows_of(root: Path, scope: str | None = None) -> Rows:
    """All rows that can be read of one scope (None: of every other table and scope but MINE), straight from SQL."""
    with closing(sqlite3.connect(f"file:{current(root)}?mode=ro", uri=True)) as connection:
        found: Rows = {}
        gaps: list[Gap] = []
        entities = {row[1]: row[2] for row in walk(connection, "entities", "*", gaps)}
        ours = {each for each, name in entities.items() if (name == scope if scope else name != MINE)}
        for table, columns in (("entities", 1), ("observations", 2), ("relations", 3)):
            read = [row[1:] for row in walk(connection, table, "*", gaps)]
            at = 0 if columns == 1 else 1
            found[table] = [row for row in read if row[at] in ours]
        for table in ("messages", "agents", "embeddings"):
            found[table] = [row[1:] for row in walk(connection, table, "*", gaps)] if scope is None else []
    return found


def wanted(root: Path, scope: str) -> Rows:
    """What the reference projection says of the scope."""
    state = model_of(root).state
    ids = {each.id for each in state.entities.values() if each.scope == scope}
    return {
        "entities": sorted(tuple(each) for each in state.entities.values() if each.id in ids),
        "observations": sorted(tuple(each) for each in state.observations.values() if each.entity_id in ids),
        "relations": sorted(tuple(each) for each in state.relations.values() if each.from_entity_id in ids),
        "messages": [], "agents": [], "embeddings": [],
    }  # fmt: skip


HARMS = {
    "rows deleted": ["DELETE FROM observations WHERE id IN (SELECT o.id FROM observations o JOIN entities e"
                     " ON e.id = o.entity_id WHERE e.scope = 'agent:sales' LIMIT 40)"],
    "the whole scope deleted": ["PRAGMA foreign_keys=ON", "DELETE FROM entities WHERE scope = 'agent:sales'"],
    "entities deleted, what hangs from them left": ["DELETE FROM entities WHERE scope = 'agent:sales' AND id % 3 = 0"],
    "rows changed": ["UPDATE entities SET confidence = 0.5, metadata = 'no json' WHERE scope = 'agent:sales'"],
    "rows invented": [
        "INSERT INTO entities VALUES (99999, 'agent:sales', 'Nobody', 'ghost', '{}', 1.0, 1, 1)",
        "INSERT INTO observations VALUES (99999, 99999, 'boo', x'00', '{}', NULL, 1)",
    ],
    "a name taken by another row": [
        "DELETE FROM entities WHERE scope = 'agent:sales' AND name = 'customer 7'",
        "INSERT INTO entities VALUES (99999, 'agent:sales', 'customer 7', 'ghost', '{}', 1.0, 1, 1)",
    ],
    "an entity moved to another scope": [
        "UPDATE entities SET scope = 'agent:thief' WHERE scope = 'agent:sales' AND name = 'customer 7'"
    ],
    "an observation hung from another scope's entity": [
        "UPDATE observations SET entity_id = (SELECT id FROM entities WHERE scope = 'global' LIMIT 1)"
        " WHERE id = (SELECT o.id FROM observations o JOIN entities e ON e.id = o.entity_id"
        " WHERE e.scope = 'agent:sales' LIMIT 1)"
    ],
}  # fmt: skip
ELSEWHERE = [
    "DELETE FROM observations WHERE entity_id IN (SELECT id FROM entities WHERE scope = 'workspace:east' LIMIT 9)",
    "UPDATE entities SET entity_type = 'altered' WHERE scope = 'global' AND id % 7 = 0",
    "INSERT INTO messages VALUES (88888, 'c', 'm', 'a', 'user', 'never said', 1)",
    "INSERT INTO embeddings VALUES (x'01', 'm', x'02', 3)",
]


@pytest.mark.parametrize("harm", [pytest.param(each, id=name) for name, each in HARMS.items()])
def test_the_scope_is_the_journals_and_the_rest_as_broken_as_before(run: Command, harm: list[str]) -> None:
    assert run("check", "--scope", MINE).code == 0
    execute(run.data, *harm, *ELSEWHERE)
    assert not_ours(run.data) != wanted(run.data, OTHER)
    before, journaled = not_ours(run.data), len(records(run.data))
    checked = run("check", "--scope", MINE)
    assert checked.code == 1
    assert f"journal recover memory --scope {MINE}" in checked.out
    assert "outside of it memory.db is not what the journal says" in checked.out
    planned = run("recover", "memory", "--scope", MINE, "--dry-run")
    assert (planned.code, len(records(run.data))) == (0, journaled)
    done = run("recover", "memory", "--scope", MINE, "--yes")
    assert done.code == 0
    assert "was left as it was: journal check" in done.out
    assert rows_of(run.data, MINE) == wanted(run.data, MINE)
    assert not_ours(run.data) == before
    facts = look_at_scope(Data.at(run.data), MINE)
    assert facts.digest == facts.expected
    assert decide_scope(facts).case == "healthy"
    events = [event for *_, event in records(run.data)[journaled:]]
    assert [type(each) for each in events[:1] + events[-1:]] == [RecoveryStarted, RecoveryCompleted]
    assert (events[0].component, events[0].strategy) == ("memory", f"replay of scope {MINE}")
    assert sum(events[0].counts.values()) > 0
    assert all(f"{count} of" in checked.out or f"{count} " in checked.out for count in events[0].counts.values())
    assert run("check", "--scope", OTHER).code == 1
    assert run("recover", "memory", "--scope", MINE, "--yes").out == "nothing to do\n"
    assert run("recover", "memory", "--yes").code == 0
    assert run("check").code == 0


def not_ours(root: Path) -> Rows:
    """Every row that the journal does not give to MINE, and that does not lie there."""
    found = rows_of(root)
    mine = wanted(root, MINE)
    ids = {table: {row[0] for row in rows} for table, rows in mine.items()}
    entities = ids["entities"] | {99999}
    return {
        table: [
            row
            for row in rows
            if table not in mine or not ids[table] or (row[0] not in ids[table] and row[1] not in entities)
        ]
        for table, rows in found.items()
    }


def test_a_relation_that_joins_two_scopes_lies_in_both_and_goes(run: Command) -> None:
    """Scenario: another program related an entity of ours to one of theirs. No event can have made that."""
    execute(
        run.data,
        "INSERT INTO relations SELECT 99999, a.id, b.id, 'owns', 1.0, 1.0, '{}', 1 FROM entities a, entities b"
        " WHERE a.scope = 'global' AND b.scope = 'agent:sales' AND a.name = 'customer 1' AND b.name = 'customer 1'",
    )
    for scope in (MINE, THIRD):
        facts = look_at_scope(Data.at(run.data), scope)
        assert facts.tables is not None
        assert facts.tables["relations"].extra == 1
    assert run("check", "--scope", OTHER).code == 0
    assert run("recover", "memory", "--scope", MINE, "--yes").code == 0
    assert run("check").code == 0


def test_bad_pages_of_others_stay_and_the_scope_is_put_right_between_them(run: Command) -> None:
    """Scenario: dd over leaves that hold another scope's rows, and rows of ours deleted by a program."""
    execute(run.data, "UPDATE observations SET content = 'lie' WHERE content LIKE 'of agent:sales: customer 1%'")
    with closing(sqlite3.connect(current(run.data))) as connection:
        third = {row[0] for row in connection.execute("SELECT id FROM entities WHERE scope = 'global'")}
        ids = [row[0] for row in connection.execute("SELECT id, entity_id FROM observations") if row[1] in third]
    leaf = leaf_of(run.data, "observations", sorted(ids)[-20])
    write_over(run.data, [leaf])
    assert run("check").code == 1
    before = rows_of(run.data, OTHER), rows_of(run.data, THIRD)
    done = run("recover", "memory", "--scope", MINE, "--yes")
    assert done.code == 0, done
    assert "was left as it was" in done.out
    assert rows_of(run.data, MINE) == wanted(run.data, MINE)
    assert (rows_of(run.data, OTHER), rows_of(run.data, THIRD)) == before
    assert run("recover", "all", "--yes").code == 0
    assert run("check").code == 0


def test_where_its_own_rows_lie_on_bad_pages_it_says_what_to_run_instead(run: Command) -> None:
    with closing(sqlite3.connect(current(run.data))) as connection:
        (first,) = connection.execute("SELECT min(id) FROM observations").fetchone()
    write_over(run.data, [leaf_of(run.data, "observations", first + 20)])
    image = current(run.data).read_bytes()
    refused = run("recover", "memory", "--scope", MINE, "--yes")
    assert refused.code == 12
    assert "journal recover memory" in refused.err
    assert current(run.data).read_bytes() == image
    assert run("recover", "memory", "--yes").code == 0
    assert run("check").code == 0


def leaf_of(root: Path, table: str, row_id: int) -> int:
    """The page that holds the row: the leaf without which it cannot be read."""
    image = current(root).read_bytes()
    for page in pages_of(root, table):
        if image[(page - 1) * PAGE] == 13:
            write_over(root, [page])
            with closing(sqlite3.connect(f"file:{current(root)}?mode=ro&immutable=1", uri=True)) as connection:
                try:
                    connection.execute(f"SELECT * FROM {table} WHERE rowid = ?", (row_id,)).fetchone()
                    hit = False
                except sqlite3.DatabaseError:
                    hit = True
            current(root).write_bytes(image)
            if hit:
                return page
    raise AssertionError("no leaf holds it")


def test_a_memory_db_that_is_gone_has_no_scopes(run: Command) -> None:
    os.unlink(current(run.data))
    assert run("check", "--scope", MINE).code == 1
    refused = run("recover", "memory", "--scope", MINE, "--yes")
    assert refused.code == 1
    assert "journal recover memory" in refused.err


def test_what_is_no_scope_is_refused(run: Command) -> None:
    assert run("check", "--scope", "sales").code == 2
    assert run("recover", "memory", "--scope", "team:x").code == 2
    assert run("recover", "agents", "--scope", MINE).code == 2
    empty = run("check", "--scope", "agent:nobody")
    assert (empty.code, "0 rows" in empty.out) == (0, True)


def test_the_hook_of_a_server_does_it_itself(run: Command) -> None:
    """Scenario: a hot reload failed on corrupted memory, and the server puts that agent's scope right."""
    with open_server_sync(run.data, background=False) as hook, open_reader(run.data / "memory.db") as reader:
        swapped: list[str] = []
        hook.on_swap(swapped.append)
        hook.append(ObservationAdded(MINE, "customer 1", "the last word"))
        with closing(sqlite3.connect(current(run.data), isolation_level=None)) as rogue:
            rogue.execute("DELETE FROM observations WHERE content LIKE 'of agent:sales%'")
            rogue.execute("UPDATE entities SET entity_type = 'altered' WHERE scope = 'global'")
        done = hook.recover_scope(MINE)
        assert done.tables["observations"].missing == 150
        assert done.rest_differs
        assert swapped == [str(current(run.data))]
        with reader.transaction() as connection:
            found = read_part(connection, MINE)
        assert found.digest == done.digest
        hook.append(ObservationAdded(MINE, "customer 1", "and one more"))
    assert rows_of(run.data, MINE) == wanted(run.data, MINE)
    assert [type(event).__name__ for *_, event in records(run.data)[-3:]] == [
        "RecoveryStarted", "RecoveryCompleted", "ObservationAdded"
    ]  # fmt: skip
    assert run("recover", "memory", "--yes").code == 0
    assert run("check").code == 0


@pytest.mark.parametrize("at", ["rename", "link", "swapped"])
def test_killed_at_any_point_the_next_run_ends_in_the_same_rows(run: Command, at: str) -> None:
    """Scenario: SIGKILL before the next generation has its name, before the link leads to it, and right after."""
    execute(run.data, *HARMS["the whole scope deleted"], *ELSEWHERE)
    before = not_ours(run.data)
    program = f"""
import os, signal, sys
from journal.storage import RealStorage
at, replace = {at!r}, RealStorage.replace
def dying(self, source, target):
    name = target.rsplit("/", 1)[1]
    if at == "rename" and name.startswith("memory-"): os.kill(os.getpid(), signal.SIGKILL)
    if at == "link" and name == "memory.db": os.kill(os.getpid(), signal.SIGKILL)
    replace(self, source, target)
    if at == "swapped" and name == "memory.db": os.kill(os.getpid(), signal.SIGKILL)
RealStorage.replace = dying
from recovery.cli.app import run
sys.exit(run(["recover", "memory", "--scope", {MINE!r}, "--yes", "--data", {str(run.data)!r}]))
"""
    killed = subprocess.run([sys.executable, "-c", program], env=ENVIRONMENT, capture_output=True, check=False)
    assert killed.returncode == -signal.SIGKILL, killed
    assert not_ours(run.data) == before
    again = run("recover", "memory", "--scope", MINE, "--yes")
    assert again.code == 0, again
    assert rows_of(run.data, MINE) == wanted(run.data, MINE)
    assert not_ours(run.data) == before
    assert run("recover", "all", "--yes").code == 0
    assert run("check").code == 0
    assert not [name for name in os.listdir(run.data) if ".building" in name]


def test_in_a_long_history_every_scope_can_be_compared(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Restores, renamed and deleted entities, relations of an entity to itself: each scope is found to be whole."""
    root = copied(images().killed, tmp_path)
    run = Command(root, capsys)
    scopes = {each.scope for each in model_of(root).state.entities.values()}
    assert len(scopes) > 2
    for scope in sorted(scopes):
        found = json.loads(run("check", "--scope", scope, "--json").out)
        assert (found["health"], found["facts"]["rest_differs"]) == ("healthy", False), scope


def test_the_model_knows_no_relation_of_two_scopes() -> None:
    """So that the rule above, which gives such a relation to both, never gives one row to two scopes of a journal."""
    model = Model()
    model.apply(1, 1, None, EntityCreated("global", "A", "x"))
    model.apply(2, 2, None, EntityCreated("agent:sales", "B", "x"))
    assert not model.apply(3, 3, None, RelationCreated("global", "A", "B", "knows"))
