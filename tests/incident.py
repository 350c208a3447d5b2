"""A history with all that telemetry tells, made by the product itself: a crash, damage, a recovery that is cut and one
that is not, a restore, drills. Every step is a process; what kills them is SIGKILL.
"""

from __future__ import annotations

import json
import shlex
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

from opentelemetry.proto.trace.v1.trace_pb2 import Span

from recovery.data import Data
from tests.commands import CONFIG, ENVIRONMENT, ROOT, arguments, process
from tests.otlp import http_receiver

REQUEST = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"
GROUP = 250

# Recovers everything, and is killed where it would make the rebuilt memory.db the one that counts.
_CUT = """
import os, signal, sys
from journal.storage import RealStorage
from recovery.cli.app import run
def killed(*_):
    os.kill(os.getpid(), signal.SIGKILL)
RealStorage.make_link = killed
run(sys.argv[1:])
"""


def incident(data: Path, groups: int = 0) -> int:
    """Makes the history at `data`, with so many groups of `GROUP` events among it; returns its last seq."""
    _run(data, "init")
    _append(data, _first_day())
    _append(data, _bulk(groups))
    _run(data, "checkpoint", "create")
    _killed_in_the_middle_of_writing(data)
    _alter(data)
    assert process(data, "drill").returncode == 1, "a drill that finds what was altered"
    _damage(data)
    cut = [sys.executable, "-c", _CUT, *arguments(data, "recover", "all", "--yes")[3:]]
    assert subprocess.run(cut, env=ENVIRONMENT, cwd=ROOT, capture_output=True, timeout=120).returncode == -9
    _run(data, "recover", "all", "--yes")
    before = _last_seq(data)
    _append(data, _second_day())
    _run(data, "replay", "--until", str(before), "--in-place", "--yes")
    _run(data, "drill")
    _run(data, "scrub")
    return _last_seq(data)


def _first_day() -> Iterator[dict[str, Any]]:
    """Agents, actors, requests; names and keys in several scripts; a group; each kind of change."""
    acme = {"scope": "global", "name": "Acme"}
    yield {"event": {"type": "memory.entity_created", **acme, "entity_type": "company"}, "agent": "sales",
           "op_id": "crm-1", "actor": "ann", "traceparent": REQUEST}  # fmt: skip
    yield {"event": _fact("renewed in May"), "agent": "sales", "actor": "ann"}
    yield {"event": _fact("a line\nand a tab\t, “quoted” and \\ escaped"), "agent": "поиск", "actor": "Zoë 🦉"}
    yield {"events": [
        {"type": "memory.entity_created", "scope": "workspace:east", "name": "Łódź", "entity_type": "city"},
        {"type": "memory.entity_created", "scope": "global", "name": "Bob", "entity_type": "person"},
        {"type": "memory.relation_created", "scope": "global", "from_entity": "Bob", "to_entity": "Acme",
         "relation_type": "works_for", "strength": 0.5},
    ], "agent": "research", "op_id": "лот-1", "traceparent": REQUEST}  # fmt: skip
    yield {"event": {"type": "agent.config_written", "name": "writer", "content": CONFIG.decode()}, "actor": "ann"}
    yield {"event": {"type": "agent.status_changed", "name": "writer", "status": "suspended", "reason": "too chatty"}}
    yield {"event": {"type": "conversation.message_recorded", "conversation_id": "c1", "agent": "writer",
                     "role": "user", "content": "hello", "message_id": "m1"}, "op_id": "o" * 256}  # fmt: skip
    yield {"event": {"type": "memory.entity_updated", **acme, "confidence": 0.25}, "agent": "ops"}
    yield {"event": {"type": "memory.relation_deleted", "scope": "global", "from_entity": "Bob", "to_entity": "Acme",
                     "relation_type": "works_for"}}  # fmt: skip
    yield {"event": {"type": "memory.observation_removed", "scope": "global", "entity": "Acme",
                     "content": "renewed in May"}}  # fmt: skip
    yield {"event": {"type": "memory.scope_cleared", "scope": "workspace:east"}, "agent": "ops"}
    yield {"event": {"type": "agent.config_written", "name": "writer", "content": CONFIG.decode() + "Shortly.\n"}}


def _second_day() -> Iterator[dict[str, Any]]:
    """What the restore undoes: more changes than it may link to."""
    yield {"event": {"type": "memory.entity_deleted", "scope": "global", "name": "Bob"}, "traceparent": REQUEST}
    yield {"events": [_fact(f"rumour {n}") for n in range(140)], "agent": "gossip"}
    yield {"event": {"type": "agent.config_removed", "name": "writer"}, "actor": "eve"}


def _bulk(groups: int) -> Iterator[dict[str, Any]]:
    for group in range(groups):
        facts = [_fact(f"reading {group} {n}") for n in range(GROUP)]
        yield {"events": facts, "agent": f"sensor-{group}", "op_id": f"readings-{group}"}


def _fact(content: str) -> dict[str, Any]:
    return {"type": "memory.observation_added", "scope": "global", "entity": "Acme", "content": content}


def _killed_in_the_middle_of_writing(data: Path) -> None:
    """A writer whose events are acknowledged, and which does not live to close."""
    with subprocess.Popen(
        arguments(data, "append"), stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=ENVIRONMENT
    ) as writer:
        assert writer.stdin is not None
        assert writer.stdout is not None
        for content in ("before the crash", "just before the crash"):
            writer.stdin.write(json.dumps({"event": _fact(content), "agent": "ops"}) + "\n")
            writer.stdin.flush()
            assert "seq" in json.loads(writer.stdout.readline())
        writer.kill()
    assert writer.returncode == -9


def _alter(data: Path) -> None:
    """Another program changes what was remembered; memory.db stays a sound file."""
    with closing(sqlite3.connect(data / "memory.db")) as connection, connection:
        connection.execute("UPDATE observations SET content = 'never said' WHERE content LIKE 'before%'")


def _damage(data: Path) -> None:
    """The first pages of memory.db are overwritten, and the agent's file by hand."""
    memory = (data / "memory.db").resolve()
    with memory.open("r+b") as file:
        file.write(b"\xa5" * 8192)
    (data / "agents" / "writer.md").write_text("rewritten by a tool")


def _append(data: Path, lines: Iterator[dict[str, Any]]) -> None:
    text = "".join(json.dumps(line) + "\n" for line in lines)
    _run(data, "append", input=text)


def _run(data: Path, *words: str, **settings: Any) -> None:
    ran = process(data, *words, **settings)
    assert ran.returncode == 0, (words, ran.stdout, ran.stderr)


def _last_seq(data: Path) -> int:
    return Data.at(data).reader().last_seq


def documented(heading: str, url: str) -> list[str]:
    """The words of the export that docs/telemetry.md shows under a heading, for the backend at `url`."""
    section = (ROOT / "docs" / "telemetry.md").read_text().partition(f"### {heading}\n")[2].partition("\n##")[0]
    (line,) = (each for each in section.splitlines() if each.startswith("journal trace export "))
    words = shlex.split(line)[3:]
    words[words.index("--endpoint") + 1] = url
    return words


def leaving(data: Path) -> list[Span]:
    """Every span of the history, as it leaves, decoded by a receiver."""
    with http_receiver() as receiver:
        exported(data, "--endpoint", receiver.url)
        return receiver.spans


def exported(data: Path, *words: str) -> Any:
    """The document of `journal trace export`, which must succeed."""
    ran = process(data, "trace", "export", "--json", *words)
    assert ran.returncode == 0, (ran.stdout, ran.stderr)
    return json.loads(ran.stdout)

