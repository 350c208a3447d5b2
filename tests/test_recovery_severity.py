"""How bad a broken memory.db is: told by the rows that differ from the journal's, and journaled with what repaired it.

Each case breaks a real file: by another program's SQL, by pages written over as dd would, by cutting or removing it.
"""

from __future__ import annotations

import os
import random
import sqlite3
import struct
from contextlib import closing
from itertools import product
from pathlib import Path
from zlib import crc32

import pytest

from journal.events import RecoveryCompleted, RecoveryStarted, RecoveryStepCompleted
from recovery.cli.app import run as journal
from recovery.data import Data
from recovery.decide import decide_memory
from recovery.diagnose import diagnose
from recovery.execute import recover
from recovery.facts import MemoryFacts
from recovery.tables.severity import LOST_SHARE, MINOR_ROWS, MINOR_SHARE, SEVERITY, grade
from replay.deviation import Deviation
from replay.schema import TABLES
from tests.damage import (
    PAGE,
    assert_recovered,
    copy_of,
    current,
    fold,
    images,
    model_of,
    records,
    remove_current,
    with_memory,
)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return copy_of(images().closed, tmp_path)


def rows(root: Path, table: str) -> int:
    with closing(sqlite3.connect(f"file:{current(root)}?mode=ro&immutable=1", uri=True)) as connection:
        return connection.execute(f"SELECT count(*) FROM {table}").fetchone()[0]


def execute(root: Path, *statements: str) -> None:
    """Another program writes: without the rules of foreign keys, and folded into the file."""
    with closing(sqlite3.connect(current(root), isolation_level=None)) as connection:
        for statement in statements:
            connection.execute(statement)
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")


def found(root: Path) -> MemoryFacts:
    return diagnose(Data.at(root)).memory


def differing(facts: MemoryFacts) -> dict[str, tuple[int, int, int]]:
    """Table → rows missing, altered, extra."""
    assert facts.tables is not None
    return {name: (each.missing, each.altered, each.extra) for name, each in facts.tables.items() if each.wrong}


def pages_of(root: Path, name: str) -> list[int]:
    """The pages of one tree, from 1, its root first."""
    fold(root)
    data = current(root).read_bytes()
    with closing(sqlite3.connect(current(root))) as connection:
        (top,) = connection.execute("SELECT rootpage FROM sqlite_master WHERE name = ?", (name,)).fetchone()
    pages, waiting = [], [top]
    while waiting:
        page = waiting.pop()
        pages.append(page)
        start = (page - 1) * PAGE
        if data[start] in (2, 5):  # an interior page: its cells begin with a child, and one more stands in its header
            (cells,) = struct.unpack_from(">H", data, start + 3)
            offsets = struct.unpack_from(f">{cells}H", data, start + 12)
            waiting += [struct.unpack_from(">I", data, start + offset)[0] for offset in offsets]
            waiting += struct.unpack_from(">I", data, start + 8)
    return pages


def write_over(root: Path, pages: list[int], seed: int = 7) -> None:
    """As `dd of=memory.db seek=…` with noise."""
    fold(root)
    data = bytearray(current(root).read_bytes())
    for page in pages:
        data[(page - 1) * PAGE : page * PAGE] = random.Random(seed + page).randbytes(PAGE)
    current(root).write_bytes(data)


def recovered(root: Path) -> list[object]:
    """Runs `recover memory`, and returns what it journaled."""
    before = len(records(root))
    _, run = recover(Data.at(root), "memory")
    run(None)
    assert_recovered(root, model_of(root))
    assert found(root).tables is None
    return [event for *_, event in records(root)[before:]]


# -- what is counted --------------------------------------------------------------------------------------------------


def test_nothing_is_wrong_with_a_whole_one(root: Path) -> None:
    decision = decide_memory(found(root))
    assert (decision.severity, decision.counts) == ("none", {})


def test_rows_gone_changed_and_added_are_told_apart(root: Path) -> None:
    execute(
        root,
        "DELETE FROM observations WHERE id IN (SELECT id FROM observations LIMIT 2)",
        "UPDATE entities SET confidence = 0.123 WHERE name = 'Globex'",
        "INSERT INTO entities VALUES (999999, 'global', 'Nobody', 'ghost', '{}', 1.0, 1, 1)",
        "UPDATE agents SET reason = 'no reason' WHERE name = 'keeper'",
    )
    facts = found(root)
    assert differing(facts) == {"entities": (0, 1, 1), "observations": (2, 0, 0), "agents": (0, 1, 0)}
    assert facts.integrity == "ok"
    decision = decide_memory(facts)
    assert (decision.severity, grade(facts).case) == ("minor", "few_rows")
    assert f"2 of {rows(root, 'observations') + 2} observations missing" in decision.reason
    assert decision.counts == {
        "entities_altered": 1,
        "entities_extra": 1,
        "observations_missing": 2,
        "agents_altered": 1,
    }
    started, step, completed = recovered(root)
    assert isinstance(started, RecoveryStarted)
    assert started.counts == decision.counts
    assert "minor" in started.reason
    assert isinstance(step, RecoveryStepCompleted)
    assert step.counts.items() >= decision.counts.items()
    assert isinstance(completed, RecoveryCompleted)


def test_a_number_that_became_another_type_is_altered(root: Path) -> None:
    """Scenario: 1 where 1.0 was, which Python calls equal: a column without affinity takes it."""
    execute(root, "UPDATE observations SET created_at = CAST(created_at AS REAL) + 0.5 WHERE content LIKE 'Globex%'")
    assert differing(found(root)) == {"observations": (0, 1, 0)}


def test_a_tenth_of_the_rows_is_major_and_most_of_them_catastrophic(root: Path) -> None:
    total = sum(rows(root, table) for table in TABLES)
    execute(root, f"DELETE FROM relations WHERE id IN (SELECT id FROM relations LIMIT {total // 10})")
    assert decide_memory(found(root)).severity == "major"
    execute(root, "DELETE FROM observations", "DELETE FROM relations", "DELETE FROM entities")
    facts = found(root)
    assert (decide_memory(facts).severity, grade(facts).case) == ("catastrophic", "most_rows")
    recovered(root)


def test_a_broken_index_over_whole_rows_is_minor(root: Path) -> None:
    """Scenario: dd over an index: SQLite's check fails, lookups lie, and not a row is lost."""
    write_over(root, pages_of(root, "observations_by_entity"))
    facts = found(root)
    assert facts.integrity not in (None, "ok")
    assert differing(facts) == {}
    decision = decide_memory(facts)
    assert (decision.case, decision.severity, grade(facts).case) == ("damaged", "minor", "index_only")
    assert "every row is the journal's" in decision.reason
    started, *_ = recovered(root)
    assert started.counts == {}


def test_rows_on_pages_written_over_are_counted_one_by_one(root: Path) -> None:
    """Scenario: dd over two leaves of a table. The rows between and behind them can still be read."""
    before = rows(root, "entities")
    leaves = [page for page in pages_of(root, "entities") if current(root).read_bytes()[(page - 1) * PAGE] == 13]
    data = current(root).read_bytes()
    hit = leaves[1:4:2]
    lost = sum(struct.unpack_from(">H", data, (page - 1) * PAGE + 3)[0] for page in hit)
    write_over(root, hit)
    facts = found(root)
    assert differing(facts) == {"entities": (lost, 0, 0)}
    assert facts.tables is not None
    assert facts.tables["entities"].expected == before
    started, *_ = recovered(root)
    assert started.counts == {"entities_missing": lost}


def test_the_root_of_a_table_written_over_costs_the_table(root: Path) -> None:
    before = rows(root, "relations")
    write_over(root, pages_of(root, "relations")[:1])
    assert differing(found(root)) == {"relations": (before, 0, 0)}
    recovered(root)


def test_a_table_dropped_is_missing_as_a_whole(root: Path) -> None:
    before = rows(root, "messages")
    with_memory(lambda connection: connection.execute("DROP TABLE messages"))(root)
    facts = found(root)
    if facts.readable and before:
        assert differing(facts)["messages"] == (before, 0, 0)
    recovered(root)


def test_a_file_cut_short_loses_what_lay_behind(root: Path) -> None:
    fold(root)
    os.truncate(current(root), os.path.getsize(current(root)) // 2 // PAGE * PAGE)
    facts = found(root)
    assert decide_memory(facts).severity in ("major", "catastrophic")
    if facts.tables is not None:
        assert sum(each.missing for each in facts.tables.values()) > MINOR_ROWS
    recovered(root)


def test_a_file_that_is_gone_is_catastrophic(root: Path) -> None:
    remove_current(root)
    facts = found(root)
    assert (decide_memory(facts).severity, grade(facts).case) == ("catastrophic", "gone")
    recovered(root)


def test_check_says_it_in_words_and_as_json(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    import json

    execute(root, "DELETE FROM observations WHERE content LIKE 'Globex signed%'")
    assert journal(["check", "--data", str(root)]) == 1
    out = capsys.readouterr().out
    assert "minor: 1 of " in out
    assert "observations missing" in out
    assert journal(["check", "--json", "--data", str(root)]) == 1
    document = json.loads(capsys.readouterr().out)
    memory = next(each for each in document["components"] if each["component"] == "memory")
    assert (memory["severity"], memory["counts"]) == ("minor", {"observations_missing": 1})
    assert document["facts"]["memory"]["tables"]["observations"]["missing"] == 1
    assert journal(["recover", "memory", "--dry-run", "--json", "--data", str(root)]) == 0
    step = json.loads(capsys.readouterr().out)["plan"]["steps"][0]
    assert (step["severity"], step["counts"]) == ("minor", {"observations_missing": 1})


# -- vectors ----------------------------------------------------------------------------------------------------------


def vector(number: float) -> bytes:
    return struct.pack("<384f", *([number] * 384))


def test_vectors_with_a_good_checksum_come_along_and_the_rest_is_pending(root: Path) -> None:
    """Scenario: a page of rows is lost; of the vectors one has rotted, one belongs to no text, one is no number."""
    with closing(sqlite3.connect(f"file:{current(root)}?mode=ro", uri=True)) as connection:
        keys = [key for (key,) in connection.execute("SELECT DISTINCT text_sha256 FROM observations ORDER BY id")]
    good = {key: vector(index + 1) for index, key in enumerate(keys[:20])}

    def store(connection: sqlite3.Connection) -> None:
        cells = [(key, "m", data, crc32(data)) for key, data in good.items()]
        cells.append((keys[20], "m", vector(7), crc32(vector(7)) ^ 1))
        cells.append((bytes(32), "m", vector(8), crc32(vector(8))))
        cells.append((keys[21], "m", vector(float("nan")), crc32(vector(float("nan")))))
        connection.executemany("INSERT INTO embeddings VALUES (?, ?, ?, ?)", cells)

    with_memory(store)(root)
    leaves = [page for page in pages_of(root, "relations") if current(root).read_bytes()[(page - 1) * PAGE] == 13]
    write_over(root, leaves[:1])
    _, step, _ = recovered(root)
    assert step.counts["vectors"] == len(good)
    assert step.counts["vectors_pending"] == len(keys) - len(good)
    with closing(sqlite3.connect(f"file:{current(root)}?mode=ro", uri=True)) as connection:
        assert dict(connection.execute("SELECT text_sha256, vector FROM embeddings")) == good


def test_vectors_behind_a_bad_page_come_along(root: Path) -> None:
    """Scenario: dd over a leaf of the embeddings themselves: the others are kept, those on it are computed again."""
    with closing(sqlite3.connect(f"file:{current(root)}?mode=ro", uri=True)) as connection:
        keys = [key for (key,) in connection.execute("SELECT DISTINCT text_sha256 FROM observations ORDER BY id")]
    cells = [(key, "m", vector(index + 1), crc32(vector(index + 1))) for index, key in enumerate(keys[:60])]
    with_memory(lambda connection: connection.executemany("INSERT INTO embeddings VALUES (?, ?, ?, ?)", cells))(root)
    leaves = [page for page in pages_of(root, "embeddings") if current(root).read_bytes()[(page - 1) * PAGE] == 13]
    write_over(root, leaves[3:4])
    _, step, _ = recovered(root)
    assert 60 - 4 <= step.counts["vectors"] < 60
    assert step.counts["vectors"] + step.counts["vectors_pending"] == len(keys)


# -- the table of grades ----------------------------------------------------------------------------------------------


def graded() -> list[MemoryFacts]:
    """Facts with every degree of harm, around each threshold."""
    tables = [None, {}]
    for expected, missing, altered, extra in product((0, 1, 10, 600, 1000), (0, 1, 5, 6, 10, 501), (0, 6), (0, 1, 6)):
        tables.append({"entities": Deviation(expected, missing, altered, extra), "agents": Deviation(0)})
    return [
        MemoryFacts(
            kind=kind, readable=readable, ours=ours, integrity=integrity, digest=digest, expected="a", tables=each
        )
        for kind, readable, ours, integrity, digest, each in product(
            ("generation", "missing", "file"),
            (False, True),
            (False, True),
            (None, "ok", "bad"),
            (None, "a", "b"),
            tables,
        )
    ]


def test_every_state_has_a_grade_and_each_line_is_reached() -> None:
    seen = set()
    for facts in graded():
        found = grade(facts)
        assert grade(facts) == found
        seen.add(found.case)
        wrong = sum(each.wrong for each in (facts.tables or {}).values())
        if facts.kind != "generation":
            assert found.severity == "catastrophic"
        elif facts.readable and facts.ours and wrong:
            assert found.severity in ("minor", "major", "catastrophic")
        if found.severity == "none":
            assert wrong == 0
            assert facts.digest == facts.expected
    assert seen == {each.case for each in SEVERITY}


@pytest.mark.parametrize(
    ("expected", "missing", "extra", "severity"),
    [
        (100, 1, 0, "minor"),
        (100, MINOR_ROWS, 0, "minor"),
        (100, MINOR_ROWS + 1, 0, "major"),
        (1000, int(1000 * MINOR_SHARE), 0, "minor"),
        (1000, int(1000 * MINOR_SHARE), 1, "major"),
        (1000, int(1000 * LOST_SHARE), 0, "major"),
        (1000, int(1000 * LOST_SHARE) + 1, 0, "catastrophic"),
        (0, 0, MINOR_ROWS + 1, "major"),  # too much is no loss
    ],
)
def test_the_thresholds(expected: int, missing: int, extra: int, severity: str) -> None:
    tables = {"entities": Deviation(expected, missing, 0, extra)}
    facts = MemoryFacts(
        kind="generation", readable=True, ours=True, integrity="ok", digest="b", expected="a", tables=tables
    )
    assert grade(facts).severity == severity
