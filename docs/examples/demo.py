"""The main job on real input: write, kill, wreck, recover, prove, restore.

The memories are the Python standard library's own documentation on this machine: an entity a module, an observation a
sentence of its docstrings, a relation an import. The agents are small files in the shape that agent servers read. A
process of its own writes them through the hook and is killed with SIGKILL while it writes.

    python docs/examples/demo.py [--directory DIR] [--acknowledged N]
"""

from __future__ import annotations

import argparse
import ast
import json
import os
import random
import re
import signal
import sqlite3
import subprocess
import sys
import sysconfig
import tempfile
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import anyio

from journal.events import ConfigWritten, EntityCreated, Event, ObservationAdded, RelationCreated
from journal.reader import LogReader
from journal.storage import RealStorage
from recovery import open_server
from replay.digest import state_digest
from replay.model import Model
from replay.schema import connect

WRITERS = 16  # tasks that write at once


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    arguments.add_argument("--directory", help="where the server's data goes (default: a temporary directory)")
    arguments.add_argument("--acknowledged", type=int, default=4000, help="kill the writer after so many receipts")
    arguments.add_argument("--write", action="store_true", help=argparse.SUPPRESS)
    given = arguments.parse_args()
    if given.write:
        anyio.run(write, given.directory)
        return
    with tempfile.TemporaryDirectory(prefix="journal-demo-") as scratch:
        show(Path(given.directory or scratch) / "data", given.acknowledged)


# -- the writer: an agent server's process ----------------------------------------------------------------------------


def documentation() -> Iterator[tuple[str, list[str], list[str]]]:
    """(module, sentences of its docstrings, modules that it imports) of the standard library, in order."""
    library = Path(sysconfig.get_paths()["stdlib"])
    for path in sorted(library.glob("*.py")) + sorted(library.glob("*/__init__.py")):
        name = path.stem if path.stem != "__init__" else path.parent.name
        try:
            tree = ast.parse(path.read_bytes())
        except (SyntaxError, ValueError):
            continue
        owners = [node for node in ast.walk(tree) if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef)]
        texts = (ast.get_docstring(owner) for owner in owners)
        sentences = [" ".join(each.split()) for text in texts if text for each in re.split(r"(?<=\.)\s", text)]
        imports = {alias.name.split(".")[0] for node in ast.walk(tree) if isinstance(node, ast.Import)
                   for alias in node.names}  # fmt: skip
        yield name, [each for each in dict.fromkeys(sentences) if 20 < len(each) < 2000], sorted(imports)


def agent_files() -> Iterator[tuple[str, str]]:
    """A dozen agents, written as people write them."""
    duties = ("research", "review", "release", "billing", "support", "planner", "writer", "security", "data", "ops",
              "legal", "sales")  # fmt: skip
    for duty in duties:
        yield f"{duty}.agent", (
            f"---\nname: {duty}\nversion: 1.0.0\ndescription: 'Use when a question is about {duty}: answers it.'\n"
            f"capabilities: [{duty}]\ntools: [Read, Grep]\nsystem_prompt: |\n  You are the {duty} agent — be brief.\n"
            f"---\n\n# {duty.title()}\n\nNever guess. Name the source of what you say.\n"
        )


async def write(directory: str) -> None:
    """Writes until it is killed; a line of standard output for each receipt, only after it was given."""
    async with open_server(directory, background=False) as hook, anyio.create_task_group() as behind:
        for name, text in agent_files():
            tell(await hook.agents.write(name, text, agent="operator"), ConfigWritten(name, text.encode()))
        known: list[str] = []
        for module, sentences, imports in documentation():
            entity = EntityCreated("global", module, "module", {"sentences": len(sentences)})
            tell(await hook.append(entity, agent="reader"), entity)
            known.append(module)
            relations = [RelationCreated("global", module, name, "imports") for name in imports if name in known]
            queue: list[Event] = [*(ObservationAdded("global", module, each) for each in sentences), *relations]

            async def work(queue: list[Event] = queue) -> None:
                while queue:
                    event = queue.pop()
                    tell(await hook.append(event, agent="reader"), event)

            async with anyio.create_task_group() as tasks:
                for _ in range(WRITERS):
                    tasks.start_soon(work)
            if len(known) == 15:  # a server does this when it is due; writing goes on meanwhile
                behind.start_soon(hook.checkpoint)


def tell(receipt: object, event: Event) -> None:
    seq = receipt.seq  # type: ignore[attr-defined]
    os.write(1, (json.dumps([seq, event.type_name, key_of(event)]) + "\n").encode())


def key_of(event: Event) -> list[str]:
    """What identifies the event's effect, to look for it later."""
    match event:
        case ConfigWritten(name, content):
            return [name, content.decode()]
        case ObservationAdded(scope, entity, content):
            return [scope, entity, content]
        case RelationCreated(scope, source, target, kind):
            return [scope, source, target, kind]
        case EntityCreated(scope, name, kind):
            return [scope, name, kind]
    raise AssertionError(event)


# -- the story --------------------------------------------------------------------------------------------------------


def show(data: Path, wanted: int) -> None:
    started = time.perf_counter()
    say(f"An agent server's data directory: {data.name}/")
    journal("init", "--data", str(data))

    say(f"A server process writes agents and memories through the hook, {WRITERS} tasks at once.")
    acknowledged = kill_in_mid_write(data, wanted)
    say(f"  killed with SIGKILL in mid-write, after {len(acknowledged)} receipts")

    before = time.perf_counter()
    digest_before, events = judge(data)
    say(f"  the journal holds {events} events; the reference projection folds them to {digest_before[:16]}…"
        f" ({time.perf_counter() - before:.1f} s)")  # fmt: skip

    say("Now the state is wrecked behind the journal's back:")
    for harm in wreck(data):
        say(f"  {harm}")
    code, found = journal("check", "--data", str(data), ok=False)
    say(f"`journal check` exits {code} and says:")
    for line in found.strip().splitlines()[:6]:
        say(f"  | {line}")

    before = time.perf_counter()
    _, told = journal("recover", "all", "--yes", "--data", str(data))
    say(f"`journal recover all --yes` ({time.perf_counter() - before:.1f} s):")
    for line in told.strip().splitlines()[:8]:
        say(f"  | {line}")

    lost, altered, digest = compare(data, acknowledged)
    expected, _ = judge(data)
    say(f"Of {len(acknowledged)} acknowledged events {lost} are lost; {altered} rows or files differ.")
    say(f"Digest of memory.db {digest[:16]}…, of the reference projection {expected[:16]}…: "
        + ("equal" if digest == expected else "NOT EQUAL"))  # fmt: skip
    code, _ = journal("check", "--data", str(data), ok=False)

    moment = max(1, events // 2)
    before = time.perf_counter()
    _, words = journal("diff", str(moment), "now", "--data", str(data))
    say(f"What changed since seq {moment}, in words:")
    for line in words.strip().splitlines()[:5]:
        say(f"  | {line[:110]}")
    past = data.parent / "past"
    journal("replay", "--until", str(moment), "-o", str(past), "--data", str(data))
    with closing(connect(past / "memory.db", read_only=True)) as connection:
        restored = state_digest(connection)
    reference = model_of(data).state_at(moment).digest()
    say(f"`journal replay --until {moment}` restored that moment beside ({time.perf_counter() - before:.1f} s): its "
        f"digest {restored[:16]}… is " + ("the reference's" if restored == reference else "WRONG"))  # fmt: skip

    good = not lost and not altered and digest == expected and restored == reference and code == 0
    seconds = time.perf_counter() - started
    verdict = "ok" if good else "FAILED"
    print(f"demo: {verdict} acknowledged={len(acknowledged)} lost={lost} altered={altered} digest={digest} "
          f"seconds={seconds:.1f}")  # fmt: skip
    sys.exit(0 if good else 1)


def say(line: str) -> None:
    print(line, flush=True)


def journal(*arguments: str, ok: bool = True) -> tuple[int, str]:
    """Runs the command as a user would; returns its exit code and what it printed."""
    done = subprocess.run([sys.executable, "-m", "recovery", *arguments], capture_output=True, text=True)
    if ok and done.returncode:
        sys.exit(f"journal {' '.join(arguments)} exited {done.returncode}: {done.stdout}{done.stderr}")
    return done.returncode, done.stdout + done.stderr


def kill_in_mid_write(data: Path, wanted: int) -> list[tuple[int, str, list[str]]]:
    """Starts the writer and kills it once it was given `wanted` receipts; what reached us is what it must keep."""
    command = [sys.executable, __file__, "--write", "--directory", str(data)]
    acknowledged = []
    with subprocess.Popen(command, stdout=subprocess.PIPE) as writer:
        assert writer.stdout is not None
        for line in writer.stdout:
            if not line.endswith(b"\n"):
                break  # cut by the kill: it never reached us
            acknowledged.append(tuple(json.loads(line)))
            if len(acknowledged) == wanted:
                writer.send_signal(signal.SIGKILL)
    if writer.returncode != -signal.SIGKILL:
        sys.exit(f"demo: the writer ended by itself ({writer.returncode}) after {len(acknowledged)} receipts")
    return acknowledged


def model_of(data: Path) -> Model:
    model = Model()
    for batch in LogReader(RealStorage(), str(data / "journal")).batches():
        for seq, record in enumerate(batch.records(), batch.first_seq):
            model.apply(seq, record.time, record.agent, record.event)
    return model


def judge(data: Path) -> tuple[str, int]:
    """The digest that the reference projection gives the whole journal, and the number of its events."""
    model = model_of(data)
    return model.digest(), model.position


def wreck(data: Path) -> Iterator[str]:
    """What disks, people and other programs do to state."""
    rng = random.Random(1)
    database = (data / "memory.db").resolve()
    with closing(sqlite3.connect(database)) as connection:
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        gone = connection.execute("DELETE FROM observations WHERE id % 97 = 0").rowcount
        connection.commit()
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    yield f"another program deleted {gone} observations"
    pages = bytearray(database.read_bytes())
    for _ in range(12):
        start = rng.randrange(1, len(pages) // 4096) * 4096
        pages[start : start + 4096] = rng.randbytes(4096)
    database.write_bytes(pages)
    yield "12 random pages of memory.db are overwritten with noise"
    files = sorted((data / "agents").glob("*.md"))
    files[0].unlink()
    files[1].write_bytes(b"")
    files[2].write_bytes(bytes(files[2].stat().st_size))
    files[3].write_text("---\nname: [broken\n---\n")
    files[4].unlink()
    files[4].symlink_to("/dev/null")
    yield "5 agent files are gone, emptied, full of NUL bytes, broken and replaced by a link"


def compare(data: Path, acknowledged: list[tuple[int, str, list[str]]]) -> tuple[int, int, str]:
    """(acknowledged events that are lost, rows or files that differ, digest of memory.db)."""
    lost = altered = 0
    model = model_of(data)
    with closing(connect(data / "memory.db", read_only=True)) as connection:
        for seq, kind, key in acknowledged:
            match kind:
                case "agent.config_written":
                    path = data / "agents" / f"{key[0]}.md"
                    whole = not path.is_symlink() and path.is_file() and path.read_bytes() == key[1].encode()
                    lost += not whole
                case "memory.entity_created":
                    lost += connection.execute(
                        "SELECT 1 FROM entities WHERE id = ? AND scope = ? AND name = ? AND entity_type = ?",
                        (seq, *key)).fetchone() is None  # fmt: skip
                case "memory.observation_added":
                    lost += connection.execute(
                        "SELECT 1 FROM observations o JOIN entities e ON e.id = o.entity_id"
                        " WHERE o.id = ? AND e.scope = ? AND e.name = ? AND o.content = ?",
                        (seq, *key)).fetchone() is None  # fmt: skip
                case "memory.relation_created":
                    lost += connection.execute(
                        "SELECT 1 FROM relations r JOIN entities a ON a.id = r.from_entity_id"
                        " JOIN entities b ON b.id = r.to_entity_id WHERE r.id = ? AND a.scope = ? AND a.name = ?"
                        " AND b.name = ? AND r.relation_type = ?", (seq, *key)).fetchone() is None  # fmt: skip
        for table, rows in model.rows().items():
            columns = "name, sha256, content, status, reason, updated_at" if table == "agents" else "*"
            found = set(connection.execute(f"SELECT {columns} FROM {table}"))
            altered += len(found.symmetric_difference(set(rows)))
        return lost, altered, state_digest(connection)


if __name__ == "__main__":
    main()
