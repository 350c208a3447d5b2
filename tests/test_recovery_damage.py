"""Real damage to a real data directory, one case each: named, planned without a touch, repaired, and quiet afterwards.

The judge is the reference projection, folded over the journal. Every case is also what a server may find at its start.
"""

from __future__ import annotations

import os
import shutil
import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import NamedTuple

import pytest

from journal.errors import Diverged
from journal.events import ConfigWritten
from recovery import open_server_sync
from recovery.cli.app import run as journal
from recovery.data import Data
from recovery.decide import decide, exit_code
from recovery.diagnose import diagnose
from recovery.execute import recover
from recovery.opening import open_core
from replay.digest import state_digest
from tests.damage import (
    AGENTS,
    PAGE,
    VERSION,
    Harm,
    agent,
    agent_bytes,
    agent_replaced,
    agents_directory,
    all_agents_gone,
    all_but_the_journal,
    assert_recovered,
    changed_text,
    config,
    copy_of,
    current,
    cut_wal,
    delete_wal,
    directory_with_files,
    empty_wal,
    files,
    foreign_database,
    hot_journal,
    images,
    model_of,
    older_beside_newer_wal,
    overwritten_pages,
    records,
    remove_current,
    replace_current,
    stale_shm,
    swapped_pages,
    take_the_name,
    tree,
    truncated_to,
    with_bytes,
    with_memory,
    zeroed_page_1,
)

MEMORY = ("unreadable", "damaged", "altered")  # what bytes at random may come to; all are rebuilt


class Case(NamedTuple):
    """What was done to the directory, and what must be found: (component, one of these cases), and check's code."""

    harm: Harm
    finds: tuple[str, tuple[str, ...]]
    code: int = 1
    killed: bool = False  # on what a kill left, where memory.db's last events are in its -wal


def memory(harm: Harm, *cases: str, code: int = 1, killed: bool = False) -> Case:
    return Case(harm, ("memory", cases), code, killed)


def keeper(harm: Harm, case: str, code: int = 1) -> Case:
    return Case(harm, ("agent keeper", (case,)), code)


def sql(statement: str, *parameters: object) -> Harm:
    def action(connection: sqlite3.Connection) -> None:
        assert connection.execute(statement, parameters).rowcount > 0

    return with_memory(action)


CASES: dict[str, Case] = {
    "the link is missing": memory(lambda root: (root / "memory.db").unlink(), "missing"),
    "the link and the file are missing": memory(
        lambda root: (remove_current(root), (root / "memory.db").unlink())[0], "missing"
    ),
    "the link dangles": memory(remove_current, "missing"),
    "empty": memory(truncated_to(0), "unreadable"),
    "cut within its header": memory(with_bytes(lambda data: data[:60]), "unreadable"),
    "cut after page 1": memory(with_bytes(lambda data: data[:PAGE]), *MEMORY),
    "cut in half": memory(truncated_to(0.5), *MEMORY),
    "cut within its last page": memory(with_bytes(lambda data: data[:-3000]), *MEMORY),
    "one page short": memory(with_bytes(lambda data: data[:-PAGE]), *MEMORY),
    "page 1 zeroed": memory(with_bytes(zeroed_page_1), "unreadable"),
    "all zeros": memory(with_bytes(lambda data: bytes(len(data))), "unreadable"),
    "random pages overwritten (1)": memory(overwritten_pages(1), *MEMORY),
    "random pages overwritten (2)": memory(overwritten_pages(2), *MEMORY),
    "random pages overwritten (3)": memory(overwritten_pages(3), *MEMORY),
    "pages swapped": memory(with_bytes(swapped_pages), *MEMORY),
    "bytes changed inside a row": memory(with_bytes(changed_text), "altered"),
    "rows deleted": memory(sql("DELETE FROM observations WHERE id % 5 = 0"), "altered"),
    "a row inserted": memory(
        sql("INSERT INTO entities VALUES (999999, 'global', 'Nobody', 'ghost', '{}', 1.0, 1, 1)"), "altered"
    ),
    "a row updated": memory(sql("UPDATE relations SET strength = 0.125"), "altered"),
    "an agent's content changed": memory(
        sql("UPDATE agents SET content = ? WHERE name = 'keeper'", b"evil"), "altered"
    ),
    "an agent's content made text": memory(
        sql("UPDATE agents SET content = CAST(content AS TEXT) WHERE name = 'keeper'"), "altered"
    ),
    "an agent named to leave its directory": memory(
        sql("UPDATE agents SET name = '../../outside/precious' WHERE name = 'keeper'"), "altered"
    ),
    "rows deleted, in a -wal": memory(
        lambda root: _write_and_keep_the_wal(root, "DELETE FROM observations WHERE id % 5 = 0"), "altered"
    ),
    "a table dropped": memory(with_memory(lambda connection: connection.execute("DROP TABLE messages")), *MEMORY),
    "the position dropped": memory(sql("DELETE FROM journal_position"), "unreadable"),
    "the position negative": memory(sql("UPDATE journal_position SET seq = -7"), "position_unknown"),
    "the position moved back": memory(sql("UPDATE journal_position SET seq = 0, chain = ?", "00" * 32), "altered"),
    "another projection's": memory(
        sql("UPDATE journal_position SET projection_version = 999"), "other_version", code=0
    ),
    "a foreign database": memory(replace_current(foreign_database), "unreadable"),
    "text": memory(replace_current(lambda path: path.write_text("no database\n" * 1000)), "unreadable"),
    "another journal's memory.db": memory(
        replace_current(lambda path: shutil.copyfile(current(images().other), path)), "foreign"
    ),
    "an old memory.db": memory(
        replace_current(lambda path: shutil.copyfile(images().older_db, path)), "behind", code=0
    ),
    "an old memory.db beside a newer -wal": memory(older_beside_newer_wal, *MEMORY, killed=True),
    "killed": memory(lambda root: None, "healthy", code=0, killed=True),
    "the -wal deleted": memory(delete_wal, "behind", *MEMORY, killed=True),
    "the -wal cut in half": memory(cut_wal(0.5), "behind", *MEMORY, killed=True),
    "the -wal cut within a frame": memory(cut_wal(0.9), "behind", *MEMORY, killed=True),
    "a rollback journal of an earlier moment": memory(hot_journal, "unreadable"),
    "a regular file in place of the link": memory(
        take_the_name(lambda path: shutil.copyfile(images().older_db, path)), "not_a_generation"
    ),
    "an empty file in place of the link": memory(take_the_name(lambda path: path.touch()), "not_a_generation"),
    "a directory in place of the link": memory(take_the_name(directory_with_files), "not_a_generation"),
    "a pipe in place of the link": memory(take_the_name(os.mkfifo), "not_a_generation"),
    "a link to another journal's memory.db": memory(
        take_the_name(lambda path: path.symlink_to(images().other / "memory.db")), "not_a_generation"
    ),
    "a link to a directory": memory(
        take_the_name(lambda path: path.symlink_to(path.parent.parent / "outside")), "not_a_generation"
    ),
    "an agent file missing": keeper(lambda root: agent(root).unlink(), "missing"),
    "an agent file emptied": keeper(agent_bytes(b""), "damaged_empty"),
    "an agent file full of NUL bytes": keeper(agent_bytes(bytes(600)), "damaged_nul_bytes"),
    "an agent file with a hole": keeper(agent_bytes(config("keeper", VERSION)[:40] + bytes(40)), "damaged_nul_bytes"),
    "an agent file of an older version": keeper(agent_bytes(config("keeper", 1)), "stale", code=0),
    "a link to a file outside": keeper(
        agent_replaced(lambda path, outside: path.symlink_to(outside / "precious.md")), "damaged_link"
    ),
    "a link to its own bytes": keeper(
        lambda root: (agent(root).rename(root.parent / "moved.md"), agent(root).symlink_to("../../moved.md"))[1],
        "damaged_link",
    ),
    "a dangling link": keeper(
        agent_replaced(lambda path, outside: path.symlink_to(outside / "nothing.md")), "damaged_link"
    ),
    "a link to a directory outside": keeper(
        agent_replaced(lambda path, outside: path.symlink_to(outside)), "damaged_link"
    ),
    "a directory in place of an agent file": keeper(
        agent_replaced(lambda path, outside: directory_with_files(path)), "damaged_not_a_file"
    ),
    "a pipe in place of an agent file": keeper(
        agent_replaced(lambda path, outside: os.mkfifo(path)), "damaged_not_a_file"
    ),
    "the file of a removed agent is back": Case(
        agent_bytes(config("retired", 1), "retired"), ("agent retired", ("removed",)), 0
    ),
    "all agents gone": keeper(all_agents_gone, "missing"),
    "a file in place of agents/": Case(
        agents_directory(lambda path: path.write_text("mv went wrong")), ("agents", ("not_a_directory",))
    ),
    "a dangling link in place of agents/": Case(
        agents_directory(lambda path: path.symlink_to("/nowhere/agents")), ("agents", ("not_a_directory",))
    ),
    "everything gone but journal/": memory(all_but_the_journal, "missing"),
}

HARMLESS: dict[str, Case] = {
    "a stale -shm": memory(stale_shm, "healthy", code=0),
    "an empty -wal": memory(empty_wal, "healthy", code=0),
    "vectors deleted and invented": memory(
        sql("INSERT INTO embeddings VALUES (zeroblob(32), 'some model', X'0000803f' || zeroblob(1532), 2192942392)"),
        "healthy", code=0,
    ),
    "agents/ is a link to a directory": Case(
        lambda root: ((root / "agents").rename(root.parent / "elsewhere"),
                      (root / "agents").symlink_to("../elsewhere"))[1],
        ("agent keeper", ("ok",)), 0,
    ),
}  # fmt: skip

EDIT = b"---\nname: keeper\nversion: 3.0.1\n---\n\nYou are keeper, and I changed this by hand.\n"
EDITS: dict[str, tuple[str, bytes, str]] = {
    "edited by hand": ("keeper", EDIT, "drift"),
    "broken YAML": ("keeper", b"---\nname: [keeper\ntools: {\n---\n", "drift"),
    "an edit of a removed agent": ("retired", EDIT, "drift_of_removed"),
    "emptied, of a removed agent": ("retired", b"", "drift_of_removed"),
    "a file that the journal never saw": ("newcomer", b"---\nname: newcomer\n---\n", "unjournaled"),
}


def _write_and_keep_the_wal(root: Path, statement: str) -> None:
    """As a program that was killed leaves it: its commit is in the -wal only."""
    path = current(root)
    before = path.read_bytes()
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        connection.execute(statement)
        wal = Path(f"{path}-wal").read_bytes()
    path.write_bytes(before)
    Path(f"{path}-wal").write_bytes(wal)


@pytest.fixture
def root(tmp_path: Path, case: Case) -> Path:
    found = copy_of(images().killed if case.killed else images().closed, tmp_path)
    case.harm(found)
    return found


def found_in(root: Path) -> tuple[dict[str, str], int]:
    decisions = decide(diagnose(Data.at(root)))
    return {each.component: each.case for each in decisions}, exit_code(decisions)


def kept_bytes(root: Path) -> list[bytes]:
    return list(files(root / "journal" / "quarantine").values())


def recover_all(root: Path, target: str = "all") -> list[str]:
    """Runs it, and returns the words of its steps."""
    plan, run = recover(Data.at(root), target)
    assert not plan.stops
    run(None)
    return [step.words for step in plan.steps]


parametrized = pytest.mark.parametrize("case", [pytest.param(case, id=name) for name, case in CASES.items()])
harmless = pytest.mark.parametrize("case", [pytest.param(case, id=name) for name, case in HARMLESS.items()])


@parametrized
def test_it_is_named_planned_without_a_touch_and_repaired_once(root: Path, case: Case, capsys) -> None:
    everything, before = tree(root.parent), records(root)
    component, cases = case.finds
    found, code = found_in(root)
    assert found[component] in cases
    assert code == case.code or (code in (0, 1) and "behind" in cases), found
    assert journal(["recover", "all", "--dry-run", "--data", str(root)]) == 0
    assert capsys.readouterr().out != "nothing to do\n" or found[component] == "healthy"
    assert tree(root.parent) == everything, "looking changed something"

    replaced = _state_files(root)
    recover_all(root)
    after = records(root)
    assert after[: len(before)] == before, "an acknowledged event is gone"
    assert_recovered(root, model_of(root))
    assert found_in(root)[1] == 0
    _assert_kept(root, replaced)
    assert {name: fact for name, fact in tree(root.parent).items() if name.startswith("outside")} == {
        name: fact for name, fact in everything.items() if name.startswith("outside")
    }

    quiet = tree(root.parent)
    assert recover_all(root) == []
    assert journal(["recover", "all", "--yes", "--data", str(root)]) == 0
    assert capsys.readouterr().out == "nothing to do\n"
    assert tree(root.parent) == quiet, "a second run did something"


@parametrized
def test_a_server_that_opens_it_repairs_it(root: Path, case: Case) -> None:
    before = records(root)
    with open_server_sync(root, background=False) as hook:
        assert records(root)[: len(before)] == before
        assert state_digest(hook.core.state.connection) == model_of(root).digest()
        hook.agents.write("keeper", config("keeper", 9))
    assert_recovered(root, model_of(root))
    assert found_in(root)[1] == 0
    quiet = tree(root / "journal" / "segments")
    with open_server_sync(root, background=False):
        pass
    assert tree(root / "journal" / "segments") == quiet, "a healthy open journaled something"


@harmless
def test_what_is_no_damage_is_left_alone(root: Path, case: Case) -> None:
    everything, before = tree(root.parent), len(records(root))
    component, cases = case.finds
    found, code = found_in(root)
    assert (found[component] in cases, code) == (True, 0)
    assert recover_all(root) == []
    assert tree(root.parent) == everything
    with open_server_sync(root, background=False) as hook:
        hook.agents.write("keeper", config("keeper", 9))
    assert len(records(root)) == before + 1
    assert found_in(root)[1] == 0
    assert agent(root).read_bytes() == config("keeper", 9)


def _state_files(root: Path) -> dict[str, bytes]:
    """What lies there of the state: files by name; a link's target is not followed."""
    return {name: content for name, content in files(root).items() if not name.startswith(("journal/", "models/"))}


def _assert_kept(root: Path, replaced: dict[str, bytes]) -> None:
    """Every byte that was replaced lies in quarantine; only what the journal holds too may be gone.

    A memory.db that was still a state was told that it is superseded, and its -wal folded: it is known by its rows.
    """
    there, kept = _state_files(root), kept_bytes(root)
    journaled = {event.content for *_, event in records(root) if isinstance(event, ConfigWritten)}
    for name, content in replaced.items():
        if there.get(name) == content or content in kept or content in journaled or name.endswith("-shm"):
            continue
        database = name.removesuffix("-wal")
        if database in there and database.startswith("memory"):
            continue  # brought up to date in place
        wanted = _rows(root.parent / "wanted.db", replaced[database], replaced.get(f"{database}-wal", b""))
        found = [_rows(root.parent / "kept.db", each) for each in kept if each.startswith(b"SQLite format")]
        assert wanted is not None, f"{name} is gone"
        assert wanted in found, f"{name} is gone"


def _rows(path: Path, content: bytes, wal: bytes = b"") -> list[tuple[object, ...]] | None:
    path.write_bytes(content)
    Path(f"{path}-wal").write_bytes(wal)
    try:
        with closing(sqlite3.connect(path)) as connection:
            tables = ("entities", "observations", "relations", "messages", "agents")
            return [row for table in tables for row in connection.execute(f"SELECT * FROM {table} ORDER BY 1")]
    except sqlite3.Error:
        return None
    finally:
        for suffix in ("", "-wal", "-shm"):
            Path(f"{path}{suffix}").unlink(missing_ok=True)


# -- hand edits -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", EDITS)
def test_a_hand_edit_is_kept_by_an_open_and_put_into_quarantine_by_recover(tmp_path: Path, name: str) -> None:
    root = copy_of(images().closed, tmp_path)
    who, content, case = EDITS[name]
    agent(root, who).write_bytes(content)
    everything = tree(root)
    found, code = found_in(root)
    assert found[f"agent {who}"] == case
    assert code == (0 if case == "unjournaled" else 3)
    assert tree(root) == everything

    with open_server_sync(root, background=False) as hook:
        assert [(each.component, each.case) for each in hook.kept] == [(f"agent {who}", case)]
        assert f"journal adopt agents {who}" in hook.kept[0].hint
    assert_recovered(root, model_of(root), edits={f"{who}.md": content})

    done = recover_all(root)
    if case == "unjournaled":
        assert done == []
        assert agent(root, who).read_bytes() == content
        return
    assert_recovered(root, model_of(root))
    assert content in kept_bytes(root)
    assert recover_all(root) == []


def test_damage_beside_an_edit_is_repaired_and_the_edit_kept(tmp_path: Path) -> None:
    root = copy_of(images().closed, tmp_path)
    agent(root).write_bytes(EDIT)
    agent(root, "scribe").write_bytes(b"")
    truncated_to(0.5)(root)
    opened = open_core(Data.at(root))
    opened.core.close()
    assert [each.component for each in opened.kept] == ["agent keeper"]
    assert opened.recovered.rebuilt
    assert opened.recovered.agents_written == ["scribe"]
    assert_recovered(root, model_of(root), edits={"keeper.md": EDIT})


def test_one_agent_is_recovered_and_the_others_are_left(tmp_path: Path) -> None:
    root = copy_of(images().closed, tmp_path)
    for name in AGENTS[:3]:
        agent(root, name).write_bytes(EDIT)
    recover(Data.at(root), "agents", names=["keeper"])[1](None)
    assert agent(root).read_bytes() == config("keeper", VERSION)
    assert [agent(root, name).read_bytes() for name in AGENTS[1:3]] == [EDIT, EDIT]


# -- two histories ----------------------------------------------------------------------------------------------------


def beyond_the_end(root: Path) -> None:
    """The journal's directory was put back from an older copy: memory.db knows events that it does not."""
    older = root.parent / "older"
    shutil.copytree(root, older, symlinks=True)
    with open_server_sync(root, background=False) as hook:
        hook.agents.write("keeper", config("keeper", 9))
    shutil.rmtree(root / "journal")
    (older / "journal").rename(root / "journal")
    shutil.rmtree(older)


def another_chain(root: Path) -> None:
    """Two copies of one directory were written separately, and memory.db is the other one's."""
    other = root.parent / "other"
    shutil.copytree(root, other, symlinks=True)
    for place, version in ((root, 8), (other, 9)):
        with open_server_sync(place, background=False) as hook:
            hook.agents.write("keeper", config("keeper", version))
    shutil.copyfile(current(other), current(root))
    shutil.rmtree(other)


@pytest.mark.parametrize(
    ("harm", "case"), [(beyond_the_end, "beyond"), (another_chain, "other_history")], ids=["beyond", "another chain"]
)
def test_two_histories_stop_everything_and_change_nothing(
    tmp_path: Path, harm: Callable[[Path], None], case: str, capsys
) -> None:
    root = copy_of(images().closed, tmp_path)
    harm(root)
    agent(root, "scribe").unlink()  # what could be repaired waits, too
    everything = tree(root)
    found, code = found_in(root)
    assert (found["memory"], code) == (case, 14)
    for words in (["recover", "all", "--yes"], ["recover", "agents", "--yes"], ["check"]):
        assert journal([*words, "--data", str(root)]) == 14
        assert "Traceback" not in capsys.readouterr().err
    with pytest.raises(Diverged), open_server_sync(root, background=False):
        pass
    assert tree(root) == everything


# -- a writer at work -------------------------------------------------------------------------------------------------


def test_a_check_beside_a_writer_finds_it_healthy_and_recover_leaves_it_alone(tmp_path: Path, capsys) -> None:
    root = copy_of(images().closed, tmp_path)
    with open_server_sync(root, background=False) as hook:
        for version in range(10, 40):
            hook.agents.write("keeper", config("keeper", version))
            if version % 10 == 0:
                assert found_in(root)[1] == 0
                assert journal(["recover", "all", "--yes", "--data", str(root)]) == 0
        agent(root, "scribe").unlink()
        capsys.readouterr()
        assert journal(["recover", "all", "--yes", "--data", str(root)]) == 0  # by the server itself, when it is asked
        assert agent(root, "scribe").exists()
    assert_recovered(root, model_of(root))


def test_the_costly_part_is_done_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Scenario: recover plans without the lock and again under it; nothing changed meanwhile."""
    from recovery import looking

    root = copy_of(images().closed, tmp_path)
    agent(root).unlink()
    built: list[int] = []
    scanned: list[int] = []
    real_build, real_digest = looking.build_state, looking.state_digest
    monkeypatch.setattr(looking, "build_state", lambda *a, **k: (built.append(1), real_build(*a, **k))[1])
    monkeypatch.setattr(looking, "state_digest", lambda *a: (scanned.append(1), real_digest(*a))[1])
    recover_all(root)
    assert (len(built), len(scanned)) == (1, 1)
    assert_recovered(root, model_of(root))


def test_what_changed_before_the_lock_was_taken_is_seen(tmp_path: Path) -> None:
    root = copy_of(images().closed, tmp_path)
    agent(root).unlink()
    plan, run = recover(Data.at(root), "all")
    assert [step.component for step in plan.steps if step.repair] == ["agent keeper"]
    with_bytes(changed_text)(root)
    assert run(None).rebuilt
    assert_recovered(root, model_of(root))
