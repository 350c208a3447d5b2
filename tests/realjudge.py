"""Holds a data directory that a fault came over against what was promised: at once, and after it was made good.

The judge is the reference projection, folded over the journal as it lies on disk, and the file of promises beside it.
"""

from __future__ import annotations

import os
import sqlite3
import stat
from collections.abc import Collection
from pathlib import Path
from typing import Any, NamedTuple

from journal.commit import Receipt, draft
from journal.errors import JournalError
from journal.events import ConfigWritten, Event, StateRestored
from journal.reader import LogReader
from journal.record import RECORD_CONTINUES_GROUP
from journal.storage import RealStorage
from journal.verify import verify
from journal.witness import prove
from recovery.data import Data
from recovery.decide import decide
from recovery.diagnose import diagnose
from recovery.execute import recover
from recovery.reading import reading
from replay.digest import state_digest
from replay.schema import read_position
from tests.damage import Record, current, files, model_of, records
from tests.realscenes import LARGE, REQUESTS, said

OWN = ("recovery.", "epoch.", "checkpoint.", "import.", "tag.")
# Nothing of such a request may be in the journal: it was refused before a byte was written.
WITHOUT_A_TRACE = frozenset({"no_space", "invalid", "not_found", "already_exists", "poisoned", "io_error", "read_only"})
EXIT_CODES = frozenset({0, 1, 2, 3, 10, 11, 12, 13, 14, 15})


class Before(NamedTuple):
    """What lay there before the fault; ``is_sound`` if memory.db was a state of its journal."""

    records: list[Record]
    link: str
    memory: bytes
    is_sound: bool
    agents: dict[str, bytes]


def look(root: Path) -> Before:
    try:
        assert_is_a_state(root, current(root))
        is_sound = True
    except (AssertionError, sqlite3.Error):
        is_sound = False
    memory = current(root).read_bytes()
    return Before(records(root), os.readlink(root / "memory.db"), memory, is_sound, files(root / "agents"))


def sent_by(op_id: str) -> tuple[Event, ...]:
    """The events of a request as they are admitted: what is computed of them filled in."""
    request = next(request for request in (*REQUESTS, *LARGE) if request.op_id == op_id)
    return tuple(draft(event, None, None, None).event for event in request.events)


# -- what the run said of itself --------------------------------------------------------------------------------------


def assert_declared(code: int, err: str, out: str) -> None:
    """Whatever failed ended in one line and its exit code, without a traceback."""
    assert "Traceback" not in err, err
    assert code in EXIT_CODES, (code, err)
    if code not in (0, 3):
        assert err.strip() or '{"error":' in out, f"exit code {code} without a word"


# -- at once ----------------------------------------------------------------------------------------------------------


def judge_at_once(root: Path, before: Before) -> None:
    """Before anything is made good: promises are in the journal, memory.db and agents are the old or the new, whole."""
    try:
        hold_promises(root, before)
    except JournalError as error:
        raise AssertionError(f"the journal cannot be read after the fault: {error}") from error
    _memory_is_whole(root, before)
    _agents_are_whole(root, before)


def hold_promises(root: Path, before: Before) -> None:
    """Every receipt that was given is kept, what was refused left no trace, and nothing is there that nobody sent."""
    now = records(root)
    assert now[: len(before.records)] == before.records, "history changed"
    heads, chains = _heads(root)
    at = {heads[seq][0]: seq for seq in range(1, len(now) + 1) if heads[seq][0] is not None}
    assert len(at) == sum(op_id is not None for op_id, _ in heads.values()), "an op_id is there twice"
    for seq, *_, event in now[len(before.records) :]:
        if isinstance(event, StateRestored) or event.type_name.startswith(OWN):
            continue
        first = seq
        while heads[first][1] & RECORD_CONTINUES_GROUP:
            first -= 1
        op_id = heads[first][0]
        assert op_id is not None, f"seq {seq}: an event that nobody sent: {event}"
        assert event == sent_by(op_id)[seq - first], f"seq {seq} is not what was sent"
    for op_id, first in at.items():
        if first > len(before.records):  # all of a group, or none
            assert [event for *_, event in now[first - 1 : first - 1 + len(sent_by(op_id))]] == [*sent_by(op_id)], op_id
    for answer in answers(root):
        op_id = answer["op_id"]
        if "receipts" in answer:
            assert at.get(op_id) == answer["receipts"][0]["seq"], f"acknowledged {op_id} is lost"
            for receipt in answer["receipts"]:
                assert chains[receipt["seq"]] == receipt["chain"], f"acknowledged {op_id} lies in another history"
        elif answer["error"] == "journaled_not_applied":
            assert at.get(op_id) == answer["seq"], f"{op_id} was told to be journaled, and is not"
        elif answer["error"] in WITHOUT_A_TRACE:
            assert op_id not in at, f"{op_id} was refused ({answer['error']}), and is there"


def answers(root: Path) -> list[dict[str, Any]]:
    """What each request was told. `append` answers in the order of its lines, a group by several receipts."""
    found: list[dict[str, Any]] = []
    lines = said(root)
    if lines and "op_id" in lines[0] and ("receipts" in lines[0] or isinstance(lines[0].get("error"), str)):
        return lines
    order = iter(REQUESTS)
    at = 0
    while at < len(lines) and (request := next(order, None)) is not None:
        if "error" in lines[at]:
            error = lines[at]["error"]
            if "line" not in error:
                break  # the run's own, printed last
            found.append({"op_id": request.op_id, "error": error["code"], "seq": error.get("seq")})
            at += 1
        else:
            receipts = lines[at : at + len(request.events)]
            found.append({"op_id": request.op_id, "receipts": receipts})
            at += len(request.events)
    return found


def _heads(root: Path) -> tuple[dict[int, tuple[str | None, int]], dict[int, str]]:
    """seq → (op_id as given, flags), and seq → chain of its batch."""
    heads, chains = {}, {}
    for batch in LogReader(RealStorage(), str(root / "journal")).batches():
        for seq, head in enumerate(batch.heads(), batch.first_seq):
            heads[seq], chains[seq] = (head.op_id, head.flags), batch.chain.hex()
    return heads, chains


def _memory_is_whole(root: Path, before: Before) -> None:
    """Whoever reads memory.db now sees the state of one seq; or the very bytes that were wrong before."""
    assert stat.S_ISLNK(os.lstat(root / "memory.db").st_mode)
    path = current(root)
    untouched = os.readlink(root / "memory.db") == before.link and path.read_bytes() == before.memory
    if before.is_sound or not untouched:
        assert_is_a_state(root, path)


def assert_is_a_state(root: Path, path: Path) -> None:
    with reading(str(path)) as connection:
        position = read_position(connection)
        assert position is not None
        assert state_digest(connection) == model_of(root).state_at(position.seq).digest(), "memory.db is a mixture"


def _agents_are_whole(root: Path, before: Before) -> None:
    """Each file holds a journaled version, or what it held before; one that held one is there."""
    versions: dict[str, set[bytes]] = {}
    for *_, event in records(root):
        if isinstance(event, ConfigWritten):
            versions.setdefault(f"{event.name}.md", set()).add(event.content)
    now = files(root / "agents")
    gone = {f"{event.name}.md" for *_, event in records(root) if event.type_name == "agent.config_removed"}
    restored = any(isinstance(event, StateRestored) for *_, event in records(root)[len(before.records) :])
    for name, content in now.items():
        if name.endswith(".md"):
            known = versions.get(name, set()) | {before.agents.get(name, b"\0never")}
            assert content in known, f"agents/{name} is a mixture"
    for name, content in before.agents.items():
        if content in versions.get(name, ()) and name not in gone and not restored:
            assert name in now, f"agents/{name} is gone"


def judge_bystander(root: Path, before: Before, told: dict[str, Any]) -> None:
    """A transaction that was open kept its snapshot; a new one sees the old file or a whole state."""
    assert told["same_snapshot"], "a snapshot changed under its reader"
    swapped = os.readlink(root / "memory.db") != before.link
    if swapped:
        assert "idle" in told, told
        seq, digest = told["idle"]
        assert digest == model_of(root).state_at(seq).digest(), "a reader saw a mixture"
    elif "idle" in told:
        assert told["idle"] == told["before"], "a reader saw neither the old file nor the new one"
    else:
        assert told["idle_error"] in ("diverged", "failed", "locked"), told


# -- after it was made good -------------------------------------------------------------------------------------------


def settle(root: Path, before: Before) -> None:
    """`check` names what is wrong; recovery ends healthy, run again it does nothing; all promises hold."""
    data = Data.at(root)
    for decision in decide(diagnose(data)):
        assert decision.reason, decision
        assert decision.health == "healthy" or decision.hint, f"without the command to run next: {decision}"
    _, run = recover(data, "all")
    run(None)
    hold_promises(root, before)
    model = model_of(root)
    with reading(str(current(root))) as connection:
        position = read_position(connection)
        assert position is not None
        assert position.seq == model.position
        assert state_digest(connection) == model.digest()
    assert files(root / "agents") == {f"{name}.md": agent.content for name, agent in model.state.agents.items()}
    plan, run = recover(data, "all")
    run(None)
    assert not plan.steps, f"a further recovery had something to do: {plan.steps}"
    assert len(records(root)) == model.position, "a further recovery journaled something"
    report = verify(RealStorage(), str(root / "journal"))
    assert report.exit_code == 0, report.findings
    _nothing_is_left_over(root)
    reader = LogReader(RealStorage(), str(root / "journal"))
    for line in said(root)[-1:]:
        if "chain" in line:  # a whole receipt, as the command prints it
            prove(reader, Receipt(**line))


def _nothing_is_left_over(root: Path, allowed: Collection[str] = ("journal.yaml", "models")) -> None:
    generation = os.readlink(root / "memory.db")
    beside = set(os.listdir(root)) - {*allowed, f"{generation}-wal", f"{generation}-shm"}
    assert beside == {"memory.db", generation, "agents", "journal"}, beside
    journal = root / "journal"
    assert not {"recovery.json", "import.json"} & set(os.listdir(journal))
    half = [path for path in journal.rglob("*.tmp") if path.relative_to(journal).parts[0] == "segments"]
    assert not half, half


