"""The MCP memory server's file comes in as events and goes out byte for byte; what does not is named by line."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from journal.events import ImportCompleted, ImportStarted
from recovery.data import Data
from tests.command import ENVIRONMENT, ROOT, journal
from tests.mcp_server import serving

ACME = {"type": "entity", "name": "Acme", "entityType": "company", "observations": ["renewed in May", "pays late"]}
BERLIN = {"type": "entity", "name": "Berlin", "entityType": "city", "observations": []}
BASED = {"type": "relation", "from": "Acme", "to": "Berlin", "relationType": "based_in"}


def line(value: object) -> str:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"))


def text(*values: object) -> bytes:
    return "\n".join(map(line, values)).encode()


@pytest.fixture
def root(tmp_path: Path) -> Path:
    assert journal("init", "--data", str(tmp_path / "data")).returncode == 0
    return tmp_path / "data"


def take_in(root: Path, content: bytes, *arguments: str) -> tuple[int, dict]:
    file = root.parent / "memory.jsonl"
    file.write_bytes(content)
    done = journal("import", "mcp", str(file), "--json", "--data", str(root), *arguments)
    assert done.stdout, done.stderr
    return done.returncode, json.loads(done.stdout)


def export(root: Path, *arguments: str) -> bytes:
    done = journal("export", "mcp", "--data", str(root), *arguments, text=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def last_seq(root: Path) -> int:
    return Data.at(root).reader().last_seq


def test_a_file_comes_in_and_goes_out_byte_for_byte(root: Path) -> None:
    name, texts = 'a "b" \u2028 \U0001f600', ["\x07\x7f", " é", "two\nlines"]
    odd = {"type": "entity", "name": name, "entityType": "t\\", "observations": texts}
    content = text(ACME, odd, BERLIN, BASED, {**BASED, "from": "Berlin", "to": "Berlin"})
    code, done = take_in(root, content)
    assert (code, done["counts"], done["left_out"]) == (0, {"entities": 3, "observations": 5, "relations": 2}, [])
    assert export(root) == content
    assert export(root, "--scope", "agent:nobody") == b""
    assert journal("check", "--data", str(root)).returncode == 0


def test_the_same_file_again_journals_nothing_and_one_that_has_grown_journals_what_is_new(root: Path) -> None:
    take_in(root, text(ACME, BERLIN, BASED))
    seq = last_seq(root)
    code, again = take_in(root, text(ACME, BERLIN, BASED))
    assert (code, again["counts"], again["present"], last_seq(root)) == (0, {}, 5, seq)
    grown = {**ACME, "observations": [*ACME["observations"], "moved to Bonn"]}
    bonn = {**BERLIN, "name": "Bonn"}
    code, dry = take_in(root, text(grown, BERLIN, bonn, BASED), "--dry-run")
    assert (dry["counts"], dry["present"], last_seq(root)) == ({"observations": 1, "entities": 1}, 5, seq)
    code, more = take_in(root, text(grown, BERLIN, bonn, BASED))
    assert (code, more["counts"], more["present"]) == (0, {"observations": 1, "entities": 1}, 5)
    assert export(root) == text(grown, BERLIN, bonn, BASED)


def test_what_was_restored_away_can_be_imported_once_more(root: Path) -> None:
    take_in(root, text(ACME, BERLIN, BASED))
    undone = journal("replay", "--until", "0", "--in-place", "--yes", "--data", str(root))
    assert undone.returncode == 0, undone.stderr
    assert export(root) == b""
    code, again = take_in(root, text(ACME, BERLIN, BASED))
    assert (code, again["present"]) == (0, 0)
    assert export(root) == text(ACME, BERLIN, BASED)


def test_what_is_left_out_is_named_by_line_with_its_reason(root: Path) -> None:
    big = {**BERLIN, "name": "Big", "observations": ["x" * 300_000]}
    lines = [
        text(ACME), b"", b"{", b"[1]", b'{"type":"note"}', b'{"type":"entity","name":"X"}',
        text({**BERLIN, "name": ""}), text({**BASED, "to": "Atlantis"}), b'{"type":"entity","name":"\xff"}',
        text({**ACME, "observations": ["pays late", "pays late", 7, "new"]}), text(BERLIN), text(BASED), text(BASED),
        text(big),
    ]  # fmt: skip
    code, done = take_in(root, b"\n".join(lines))
    assert code == 3
    assert not done["is_whole"]
    told = {int(each.split()[1].rstrip(":")): each for each in done["left_out"]}
    assert set(told) == {3, 4, 5, 6, 7, 8, 9, 10, 13, 14}
    wanted = {3: "not JSON", 4: "list", 5: "'note'", 6: "entityType", 8: "Atlantis", 9: "UTF-8", 13: "line 12"}
    assert all(words in told[number] for number, words in wanted.items()), told
    assert "renewed in May" in export(root).decode()
    assert '"new"' in export(root).decode()
    events = [record.event for batch in Data.at(root).reader().batches() for record in batch.records()]
    (completed,) = [event for event in events if isinstance(event, ImportCompleted)]
    assert sorted(completed.left_out) == sorted(done["left_out"])
    assert journal("import", "mcp", str(root / "nowhere"), "--data", str(root)).returncode == 2
    file = str(root.parent / "memory.jsonl")
    assert journal("import", "mcp", file, "--scope", "nonsense", "--data", str(root)).returncode == 2


def test_what_the_format_cannot_hold_is_named(root: Path) -> None:
    events = [
        {"type": "memory.entity_created", "scope": "global", "name": "A", "entity_type": "t", "metadata": {"k": 1}},
        {"type": "memory.entity_created", "scope": "agent:w", "name": "B", "entity_type": "t"},
        {"type": "agent.config_written", "name": "w", "content": "---\nname: w\n---\n"},
    ]
    lines = "".join(line({"event": event}) + "\n" for event in events)
    assert journal("append", "--data", str(root), input=lines).returncode == 0
    done = journal("export", "mcp", "--data", str(root))
    assert done.stdout == line({"type": "entity", "name": "A", "entityType": "t", "observations": []})
    notes = done.stderr.splitlines()
    assert [note.split(": ", 2)[2] for note in notes] == [
        "1 entities of other scopes", "metadata or confidence of 1 entities", "1 agents",
    ]  # fmt: skip


def test_an_import_that_is_killed_goes_on(root: Path) -> None:
    """Killed behind the second batch of a thousand: the next run journals the rest, once each, as one import."""
    entities = [{**BERLIN, "name": f"E{number}", "observations": [f"fact {number}"]} for number in range(2500)]
    pairs = [random.Random(7).sample(range(2500), 2) for _ in range(1)]
    content = text(*entities, *({**BASED, "from": f"E{a}", "to": f"E{b}"} for a, b in pairs))
    file = root.parent / "memory.jsonl"
    file.write_bytes(content)
    source = """
import os, signal, sys
from recovery.data import Data
from recovery.mcp.importing import import_mcp
def progress(done, total):
    if done >= 2000:
        os.kill(os.getpid(), signal.SIGKILL)
import_mcp(Data.at(sys.argv[1]), sys.argv[2], "global", progress=progress)
"""
    killed = subprocess.run([sys.executable, "-c", source, str(root), str(file)], env=ENVIRONMENT, cwd=ROOT, timeout=60)
    assert killed.returncode == -signal.SIGKILL
    code, done = take_in(root, content)
    assert (code, done["present"], sum(done["counts"].values())) == (0, 2000, 3001)
    assert export(root) == content
    events = [record.event for batch in Data.at(root).reader().batches() for record in batch.records()]
    assert sum(isinstance(event, ImportStarted) for event in events) == 1
    assert sum(isinstance(event, ImportCompleted) for event in events) == 1


def test_a_reader_that_goes_away_is_no_error(root: Path) -> None:
    take_in(root, text(*({**BERLIN, "name": f"E{number}" * 100} for number in range(2000))))
    command = [sys.executable, "-m", "recovery", "export", "mcp", "--data", str(root)]
    exporting = subprocess.Popen(command, env=ENVIRONMENT, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert exporting.stdout is not None
    assert exporting.stderr is not None
    os.read(exporting.stdout.fileno(), 100)
    exporting.stdout.close()
    assert (exporting.wait(60), exporting.stderr.read()) == (0, b"")
    exporting.stderr.close()


def test_the_real_server_and_the_journal_hold_the_same_graph_both_ways(root: Path, tmp_path: Path) -> None:
    """@modelcontextprotocol/server-memory writes a file; it comes in, goes out, and a second server reads that."""
    first, second = tmp_path / "first.jsonl", tmp_path / "second.jsonl"
    with serving(first) as server:
        server.call("create_entities", entities=[
            {"name": "Acme", "entityType": "company", "observations": ["renewed in May"]},
            {"name": 'Zoë "Z" 😀', "entityType": "person", "observations": ["line one\nline two", "\u2028 é"]},
        ])  # fmt: skip
        server.call("add_observations", observations=[{"entityName": "Acme", "contents": ["pays late", "moved"]}])
        server.call("create_relations", relations=[
            {"from": 'Zoë "Z" 😀', "to": "Acme", "relationType": "works at"},
            {"from": "Acme", "to": "Acme", "relationType": "owns"},
        ])  # fmt: skip
        graph = server.call("read_graph")
    done = journal("import", "mcp", str(first), "--json", "--data", str(root))
    assert (done.returncode, json.loads(done.stdout)["left_out"]) == (0, []), done.stdout
    second.write_bytes(export(root))
    assert second.read_bytes() == first.read_bytes()
    with serving(second) as server:
        assert server.call("read_graph") == graph
        server.call("create_entities", entities=[{"name": "Bonn", "entityType": "city", "observations": []}])
        server.call("create_relations", relations=[{"from": "Acme", "to": "Bonn", "relationType": "moved to"}])
    again = journal("import", "mcp", str(second), "--json", "--data", str(root))
    assert json.loads(again.stdout)["counts"] == {"entities": 1, "relations": 1}
    assert export(root) == second.read_bytes()
