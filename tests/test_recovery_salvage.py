"""A damaged memory.db that no journal ever saw: what can be read is saved table by table, then a backup, then nothing.

Real files of both schemas, broken as disks break them: pages written over as dd would, files cut, page 1 gone. How
many rows can be saved at best is counted from the pages that were left whole.
"""

from __future__ import annotations

import json
import os
import random
import shutil
import sqlite3
import subprocess
from contextlib import closing
from pathlib import Path

import pytest

from journal.events import (
    ImportCompleted,
    ImportStarted,
    RecoveryCompleted,
    RecoveryStarted,
    RecoveryStepCompleted,
)
from recovery.adopt.salvage import Salvaged, salvage
from recovery.adopt.salvage_pages import rows_on_pages, shape_of
from tests.commands import Command
from tests.damage import assert_recovered, model_of, records
from tests.foreign import CAXTON, build, entity, published, relation

PAGE = 4096
ENTITIES = 400


def caxton(path: Path) -> Path:
    rows = [
        entity(
            number, f"customer {number}", json.dumps([f"buys {number}", "é" * 40]), confidence=1.0, strength=0.5,
            version=1, created_at=number, updated_at=number,
        )
        for number in range(1, ENTITIES + 1)
    ]  # fmt: skip
    links = [relation(number, number, number // 2 + 1, strength=1.0) for number in range(1, ENTITIES + 1)]
    return build(path, CAXTON, entities=rows, relations=links)


def ours(path: Path) -> Path:
    times = {"created_at": 7}
    entities = [
        {"id": number, "scope": "agent:sales", "name": f"customer {number}", "entity_type": "company",
         "metadata": "{}", "confidence": 1.0, "updated_at": 7, **times}
        for number in range(1, ENTITIES + 1)
    ]  # fmt: skip
    observations = [
        {"id": 1000 + number, "entity_id": number, "text_sha256": bytes(32),
         "content": f"buys {number} " + "x" * (9000 if number % 50 == 0 else 60),
         "metadata": "{}", "agent": None, **times}
        for number in range(1, ENTITIES + 1)
    ]  # fmt: skip
    relations = [
        {"id": 2000 + number, "from_entity_id": number, "to_entity_id": 1, "relation_type": "knows", "strength": 0.5,
         "confidence": 1.0, "metadata": "{}", **times}
        for number in range(1, ENTITIES + 1)
    ]  # fmt: skip
    return published(path, entities=entities, observations=observations, relations=relations)


BUILDERS = {"caxton": caxton, "published": ours}


def overwrite(path: Path, pages: list[int]) -> None:
    data = bytearray(path.read_bytes())
    for page in pages:
        data[(page - 1) * PAGE : page * PAGE] = random.Random(page).randbytes(PAGE)
    path.write_bytes(data)


def leaves(path: Path, table: str) -> list[int]:
    """Pages of the table's leaves, told by the shape of their rows."""
    found = {}
    for row in rows_on_pages(path.read_bytes()):
        shape = shape_of(row.values)
        if shape is not None and shape.table == table:
            found[row.page] = True
    return sorted(found)


def rows_off(path: Path, table: str, pages: list[int]) -> int:
    """Rows of the table on other pages than these."""
    shapes = [(row.page, shape_of(row.values)) for row in rows_on_pages(path.read_bytes())]
    return sum(shape is not None and shape.table == table and page not in pages for page, shape in shapes)


def saved(path: Path) -> Salvaged:
    destination = path.parent / "salvaged.db"
    destination.unlink(missing_ok=True)
    image = path.read_bytes()
    result = salvage(str(path), str(destination))
    assert path.read_bytes() == image
    with closing(sqlite3.connect(destination)) as connection:
        assert connection.execute("PRAGMA integrity_check").fetchone() == ("ok",)
        for table, count in result.rows.items():
            assert connection.execute(f"SELECT count(*) FROM {table}").fetchone() == (count,)
    return result


@pytest.fixture(params=list(BUILDERS))
def memory(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    (tmp_path / "data").mkdir()
    return BUILDERS[request.param](tmp_path / "data" / "memory.db")


# -- what can be read -------------------------------------------------------------------------------------------------


def test_rows_around_bad_leaves_are_saved_and_the_gaps_named(memory: Path) -> None:
    pages = leaves(memory, "entities")[1:4:2]
    readable = rows_off(memory, "entities", pages)
    assert 0 < readable < ENTITIES
    overwrite(memory, pages)
    result = saved(memory)
    assert (result.rows["entities"], result.rows["relations"]) == (readable, ENTITIES)
    assert len(result.lost) == 2
    assert all(what.startswith("table entities, rowids from ") for what, _ in result.lost)
    assert result.from_pages == 0


def test_leaves_that_no_inner_page_leads_to_are_saved_from_their_pages(memory: Path) -> None:
    """Scenario: dd over the root of a table. SQLite can read none of its rows; they are all there."""
    with closing(sqlite3.connect(memory)) as connection:
        (root,) = connection.execute("SELECT rootpage FROM sqlite_master WHERE name = 'relations'").fetchone()
    overwrite(memory, [root])
    result = saved(memory)
    assert result.rows["entities"] == ENTITIES
    assert result.rows["relations"] == result.from_pages == ENTITIES
    assert "from pages alone" in str(result)


def test_page_1_gone_costs_no_row_that_lies_elsewhere(memory: Path) -> None:
    """Scenario: header and schema are gone: SQLite says that it is no database."""
    data = memory.read_bytes()
    memory.write_bytes(bytes(PAGE) + data[PAGE:])
    result = saved(memory)
    assert result.rows["entities"] == result.rows["relations"] == ENTITIES
    assert result.lost[0][0] == "the schema of memory.db"
    if "observations" in result.rows:
        assert result.rows["observations"] == ENTITIES, "those on chains of pages, too"


def test_a_file_cut_in_half_keeps_what_lies_in_front(memory: Path) -> None:
    keep = os.path.getsize(memory) // PAGE // 2
    behind = list(range(keep + 1, os.path.getsize(memory) // PAGE + 1))
    readable = rows_off(memory, "entities", behind)
    os.truncate(memory, keep * PAGE)
    result = saved(memory)
    assert 0 < result.rows["entities"] <= readable
    assert result.rows["entities"] >= readable - ENTITIES // 10


def test_numbers_come_back_as_they_were_stored(tmp_path: Path) -> None:
    """Scenario: SQLite stores the float 1.0 as the integer 1; from a page it must not come back as another number."""
    memory = ours(tmp_path / "memory.db")
    data = memory.read_bytes()
    memory.write_bytes(bytes(PAGE) + data[PAGE:])
    saved(memory)
    with closing(sqlite3.connect(tmp_path / "salvaged.db")) as connection:
        assert connection.execute("SELECT DISTINCT typeof(confidence), confidence FROM entities").fetchall() == [
            ("real", 1.0)
        ]
        long = connection.execute("SELECT content FROM observations WHERE entity_id = 50").fetchone()[0]
    assert long == "buys 50 " + "x" * 9000


def test_pages_of_noise_give_no_row_and_no_error(tmp_path: Path) -> None:
    path = tmp_path / "memory.db"
    for seed in range(20):
        data = bytearray(random.Random(seed).randbytes(8 * PAGE))
        for page in range(8):
            data[page * PAGE] = 13  # each says that it is a leaf
        path.write_bytes(data)
        assert saved(path).is_empty


def test_rows_deleted_long_ago_do_not_come_back_where_the_header_tells_free_pages(memory: Path) -> None:
    with closing(sqlite3.connect(memory)) as connection:
        connection.execute("DELETE FROM relations")
        connection.commit()
        (root,) = connection.execute("SELECT rootpage FROM sqlite_master WHERE name = 'relations'").fetchone()
    overwrite(memory, [root])
    assert saved(memory).rows["relations"] == 0


# -- against SQLite's own ---------------------------------------------------------------------------------------------


def _recover_works() -> bool:
    """Debian's sqlite3 is built without the table that .recover needs, and ends with status 0 all the same."""
    if shutil.which("sqlite3") is None:
        return False
    ran = subprocess.run(
        ["sqlite3", ":memory:", "CREATE TABLE t(x); INSERT INTO t VALUES (7);", ".recover"],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    return "7" in ran.stdout and "error" not in ran.stderr.lower()


@pytest.mark.skipif(not _recover_works(), reason="no sqlite3 here whose .recover works: nothing to compare with")
@pytest.mark.parametrize("pages", [3, 9])
def test_no_fewer_rows_are_saved_than_by_sqlites_recover(memory: Path, pages: int) -> None:
    overwrite(memory, random.Random(pages).sample(range(2, os.path.getsize(memory) // PAGE), pages))
    sql = subprocess.run(["sqlite3", str(memory), ".recover"], capture_output=True, text=True, check=False).stdout
    with closing(sqlite3.connect(":memory:")) as connection:
        connection.executescript(sql)
        theirs = {
            table: connection.execute(f"SELECT count(*) FROM {table}").fetchone()[0]
            for table in ("entities", "relations")
        }
    found = saved(memory).rows
    assert all(found.get(table, 0) >= count for table, count in theirs.items()), (found, theirs)


# -- the import -------------------------------------------------------------------------------------------------------


def adopted(memory: Path, capsys: pytest.CaptureFixture[str], *options: str) -> tuple[Command, dict[str, object]]:
    run = Command(memory.parent, capsys)
    ran = run("init", "--adopt", "--json", *options)
    assert ran.code == 3, ran
    assert_whole(memory.parent)
    return run, ran.json()


def assert_whole(root: Path) -> None:
    for name in ("salvaged.db",):
        (root / name).unlink(missing_ok=True)
    assert_recovered(root, model_of(root))


def steps(root: Path) -> list[tuple[str, dict[str, int]]]:
    return [(event.strategy, event.counts) for *_, event in records(root) if isinstance(event, RecoveryStepCompleted)]


def test_what_was_salvaged_is_journaled_with_its_source_and_what_was_lost(
    memory: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pages = leaves(memory, "entities")[1:2]
    readable = rows_off(memory, "entities", pages)
    overwrite(memory, pages)
    image = memory.read_bytes()
    run, document = adopted(memory, capsys)
    assert document["adopted"]["entities"] == readable
    lost = ENTITIES - readable
    missing = [line for line in document["left_out"] if "does not exist or was left out" in line]
    assert len(missing) >= lost, "what hung from the lost rows is named one by one"
    assert any(line.startswith("table entities, rowids from ") for line in document["left_out"])
    assert [line.partition(":")[0] for line in document["attempts"]] == ["whole", "salvage"]
    events = [event for *_, event in records(memory.parent)]
    assert [type(event) for event in events[:2]] == [ImportStarted, RecoveryStarted]
    completed = next(event for event in events if isinstance(event, RecoveryCompleted))
    assert (completed.strategy, completed.counts["entities"]) == ("salvage", readable)
    assert isinstance(events[-1], ImportCompleted)
    assert image in [path.read_bytes() for path in (memory.parent / "journal" / "quarantine").iterdir()]
    assert run("check").code == 0
    again = run("init", "--adopt")
    assert (again.code, "nothing new" in again.out) == (0, True)


def test_rows_that_break_the_rules_are_left_out_and_listed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Scenario: damage, and in the rows that are left NULL names, dangling ends, bytes that are no text."""
    memory = caxton(tmp_path / "memory.db")
    with closing(sqlite3.connect(memory)) as connection:
        connection.execute("UPDATE entities SET name = NULL WHERE id = 2")
        connection.execute("UPDATE entities SET entity_type = CAST(x'ff' AS TEXT) WHERE id = 3")
        connection.execute("UPDATE relations SET to_entity_id = 99999 WHERE id = 5")
        connection.commit()
    overwrite(memory, leaves(memory, "relations")[-1:])
    _, document = adopted(memory, capsys)
    left = "\n".join(document["left_out"])
    for said in ("entities row 2", "entities row 3", "relations row 5: entity 99999 does not exist", "table relations"):
        assert said in left
    assert len(document["left_out"]) < 60


def test_the_backup_is_taken_where_not_a_row_is_left(memory: Path, capsys: pytest.CaptureFixture[str]) -> None:
    backup = memory.parent.parent / "backup"
    backup.mkdir()
    shutil.copyfile(memory, backup / "memory.db")
    memory.write_bytes(random.Random(1).randbytes(os.path.getsize(memory)))
    run, document = adopted(memory, capsys, "--backup", str(backup))
    assert document["adopted"]["entities"] == ENTITIES
    assert [name for name, _ in steps(memory.parent)] == ["whole", "salvage", "backup"]
    started = [event for *_, event in records(memory.parent) if isinstance(event, RecoveryStepCompleted)]
    assert str(backup) in started[-1].reason
    assert run("check").code == 0


def test_a_backup_is_not_taken_while_a_row_can_be_saved(memory: Path, capsys: pytest.CaptureFixture[str]) -> None:
    backup = memory.parent / "old.db"
    with closing(sqlite3.connect(memory)) as connection, closing(sqlite3.connect(backup)) as copy:
        connection.backup(copy)
        copy.execute("DELETE FROM entities WHERE id > 10")
        copy.commit()
    overwrite(memory, leaves(memory, "entities")[1:2])
    backup.rename(memory.parent.parent / "old.db")
    _, document = adopted(memory, capsys, "--backup", str(memory.parent.parent / "old.db"))
    assert document["adopted"]["entities"] > ENTITIES // 2
    assert [name for name, _ in steps(memory.parent)] == ["whole", "salvage"]


def test_with_nothing_left_anywhere_the_memory_begins_empty_and_says_so(
    memory: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    agents = memory.parent / "agents"
    agents.mkdir()
    (agents / "writer.md").write_bytes(b"---\nname: writer\n---\n")
    memory.write_bytes(bytes(os.path.getsize(memory)))
    run, document = adopted(memory, capsys)
    assert document["adopted"] == {"agents": 1}
    assert [name for name, _ in steps(memory.parent)] == ["whole", "salvage", "fresh"]
    assert document["attempts"][-1].startswith("fresh: an empty memory")
    assert run("check").code == 0


def test_an_import_of_a_salvage_that_was_cut_goes_on(memory: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Scenario: killed in mid-import. The rest is salvaged again, and nothing is journaled twice."""
    overwrite(memory, leaves(memory, "entities")[1:2])
    from recovery import setup

    original, calls = setup._append, []

    def dying(core: object, items: list[object]) -> None:
        calls.append(len(items))
        if len(calls) == 4:
            raise KeyboardInterrupt
        original(core, items[:50])  # type: ignore[arg-type]
        if len(items) > 50:
            raise KeyboardInterrupt

    setup._append = dying  # type: ignore[assignment]
    try:
        assert Command(memory.parent, capsys)("init", "--adopt").code == 130
    finally:
        setup._append = original
    before = len(records(memory.parent))
    assert 50 <= before < ENTITIES
    adopted(memory, capsys)
    creations = [event.name for *_, event in records(memory.parent) if type(event).__name__ == "EntityCreated"]
    assert len(creations) == len(set(creations))
    assert sum(isinstance(event, RecoveryStarted) for *_, event in records(memory.parent)) <= 1


def test_a_backup_that_is_not_there_is_refused_at_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = Command(tmp_path / "data", capsys)
    assert run("init", "--adopt", "--backup", str(tmp_path / "none")).code == 2
    assert run("init", "--backup", str(tmp_path)).code == 2
    assert not (tmp_path / "data").exists()
