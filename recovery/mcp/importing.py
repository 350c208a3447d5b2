"""Takes in a file of the MCP memory server: entities, observations and relations of one scope, as events.

Each event's op_id is made from what it says, not from where it stands. So the same file again journals nothing, a file
that has grown journals what is new, and an import that was cut goes on by running it again. What a restore of an
earlier moment took back can be imported once more. What is not taken is listed by line, with its reason.
"""

from __future__ import annotations

import hashlib
import sqlite3
from collections.abc import Callable, Iterable, Iterator
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import msgspec

from journal.commit import Ticket, draft, ticket
from journal.errors import Refused
from journal.events import EntityCreated, Event, ImportCompleted, ImportStarted, ObservationAdded, RelationCreated
from journal.limits import admit
from recovery.adopt.rows import IMPORTED, LeftOut
from recovery.control.writer import Writer, open_writer
from recovery.data import Data
from recovery.mcp.lines import BadLine, Entity, Relation, read_file
from replay.history import read_history
from replay.schema import connect

AT_ONCE = 1000
_LEFT_OUT_MAX = 1000
Progress = Callable[[int, int], None]


class Imported(msgspec.Struct):
    """What an import took, by kind; ``present`` were in the journal already. ``is_whole`` if nothing is missing."""

    source: str
    scope: str
    counts: dict[str, int] = {}
    present: int = 0
    left_out: list[str] = []
    is_whole: bool = True
    dry_run: bool = False


class _Event(NamedTuple):
    line: int
    kind: str
    event: Event

    def op_id(self, restore: int) -> str:
        """The same for the same words since the same restore: see the module's docstring."""
        said = msgspec.msgpack.encode((restore, self.kind, msgspec.to_builtins(self.event)))
        return f"mcp-{hashlib.sha256(said).hexdigest()[:40]}"


@dataclass(slots=True)
class _Taken:
    """What was let through so far, and what was not."""

    counts: dict[str, int] = field(default_factory=dict)
    left_out: list[LeftOut] = field(default_factory=list)

    def leave(self, line: int, reason: str, *, missing: bool = True) -> None:
        self.left_out.append(LeftOut(f"line {line}", reason, missing))


def import_mcp(
    data: Data, path: str, scope: str, *, dry_run: bool = False, progress: Progress | None = None
) -> Imported:
    """Journals what the file holds and the journal does not. Raises OSError, Refused for a scope, Locked."""
    file = Path(path)
    with file.open("rb") as opened:
        source = f"mcp sha256:{hashlib.file_digest(opened, 'sha256').hexdigest()} into {scope}"
    known = _entities_there(data, scope)
    first = _Taken()
    total = sum(1 for _ in _events(file, scope, known, first))
    if dry_run:
        counts, present = _not_there_yet(data, file, scope, known)
        return _report(source, scope, first, counts, present, dry_run=True)
    with open_writer(data) as writer:
        restore = _last_restore(data)
        state = _state_of(data, source, restore)
        if state != "completed":
            taken = _Taken()
            if state == "new":
                _append(writer, [_Event(0, "", ImportStarted(source, first.counts))], restore)
            events = _events(file, scope, known, taken)
            counts, present = _journal(data, writer, events, taken, restore, total, progress)
            _append(writer, [_Event(0, "", ImportCompleted(source, counts, _lines(taken)))], restore)
            return _report(source, scope, taken, counts, present)
    return _report(source, scope, first, {}, total)


# -- lines to events --------------------------------------------------------------------------------------------------


def _events(file: Path, scope: str, known: dict[str, str], taken: _Taken) -> Iterator[_Event]:
    """Entities and their observations first, wherever they stand, then the relations between them."""
    lines: dict[str, int] = {}  # of each entity the line that it was first on
    seen: dict[str, set[bytes]] = {}
    for item in read_file(file):
        if isinstance(item, BadLine):
            taken.leave(item.line, item.reason)
        elif isinstance(item, Entity):
            yield from _entity(item, scope, known, lines, seen, taken)
    relations: dict[tuple[str, str, str], int] = {}
    for item in read_file(file):
        if isinstance(item, Relation):
            key = (item.start, item.end, item.relation_type)
            dangling = [end for end in (item.start, item.end) if end not in lines and end not in known]
            if dangling:
                taken.leave(item.line, f"a relation of {dangling[0][:80]!r}, which is no entity here")
            elif key in relations:
                taken.leave(item.line, f"the same relation as line {relations[key]}", missing=False)
            else:
                event = RelationCreated(scope, *key, metadata={IMPORTED: item.more} if item.more else {})
                made = _admitted(item.line, "relations", event, taken)
                if made is not None:
                    relations[key] = item.line
                    yield made


def _entity(
    item: Entity, scope: str, known: dict[str, str], lines: dict[str, int], seen: dict[str, set[bytes]], taken: _Taken
) -> Iterator[_Event]:
    """An entity that is there already, in the file or in the journal, gets the observations that are new."""
    if item.name in lines:
        reason = f"the same entity as line {lines[item.name]}, which gets its observations"
        taken.leave(item.line, reason, missing=False)
    else:
        if known.get(item.name, item.entity_type) != item.entity_type:
            taken.leave(item.line, f"{item.name[:80]!r} is there with the type {known[item.name]!r}", missing=False)
        metadata = {IMPORTED: item.more} if item.more else {}
        made = _admitted(item.line, "entities", EntityCreated(scope, item.name, item.entity_type, metadata), taken)
        if made is None:
            return
        lines[item.name], seen[item.name] = item.line, set()
        yield made
    for number, content in enumerate(item.observations, 1):
        if not isinstance(content, str):
            taken.leave(item.line, f"observation {number} is {type(content).__name__}, not text")
            continue
        key = hashlib.blake2b(content.encode(errors="surrogatepass"), digest_size=16).digest()
        if key in seen[item.name]:
            taken.leave(item.line, f"observation {number} is the same text as one before it", missing=False)
            continue
        seen[item.name].add(key)
        event = ObservationAdded(scope, item.name, content)
        made = _admitted(item.line, "observations", event, taken, f"observation {number}: ")
        if made is not None:
            yield made


def _admitted(line: int, kind: str, event: Event, taken: _Taken, what: str = "") -> _Event | None:
    """The event, if the journal's limits let it through."""
    try:
        admitted, _ = admit(event)
    except Refused as error:
        taken.leave(line, what + error.message)
        return None
    taken.counts[kind] = taken.counts.get(kind, 0) + 1
    return _Event(line, kind, admitted)


# -- events to the journal --------------------------------------------------------------------------------------------


def _journal(
    data: Data,
    writer: Writer,
    events: Iterable[_Event],
    taken: _Taken,
    restore: int,
    total: int,
    progress: Progress | None,
) -> tuple[dict[str, int], int]:
    """Counts by kind of what was new, and how many were there. A thousand events at a time share their syncs."""
    counts: dict[str, int] = {}
    present = done = 0
    batch: list[_Event] = []

    def flush() -> None:
        nonlocal present, done
        head = data.reader().last_seq + 1
        for item, request in zip(batch, _append(writer, batch, restore), strict=True):
            if request.error is None and request.receipts[0].seq >= head:
                counts[item.kind] = counts.get(item.kind, 0) + 1
            elif request.error is None or _is_there(request):
                present += 1
            elif isinstance(request.error, Refused):
                taken.leave(item.line, request.error.message)
            else:
                raise request.error
        done += len(batch)
        if progress is not None:
            progress(done, max(total, done))
        batch.clear()

    for item in events:
        batch.append(item)
        if len(batch) == AT_ONCE:
            flush()
    flush()
    return counts, present


def _is_there(request: Ticket) -> bool:
    return isinstance(request.error, Refused) and request.error.code == "already_exists"


def _append(writer: Writer, items: list[_Event], restore: int) -> list[Ticket]:
    requests = [
        ticket((draft(item.event, None, "import", None),), item.op_id(restore) if item.kind else None)
        for item in items
    ]
    writer.settle(requests)
    for item, request in zip(items, requests, strict=True):
        if not item.kind:
            request.result()
    return requests


def _last_restore(data: Data) -> int:
    restores = read_history(data.reader(), data.checkpoints).restores
    return restores[-1].seq if restores else 0


def _state_of(data: Data, source: str, restore: int) -> str:
    """new, started or completed: what the journal knows of this very file in this scope since the last restore."""
    state = "new"
    for batch in data.reader().batches(restore + 1):
        if source.encode() not in bytes(batch.payload):
            continue
        for record in batch.records():
            if isinstance(record.event, ImportStarted | ImportCompleted) and record.event.source == source:
                state = "started" if isinstance(record.event, ImportStarted) else "completed"
    return state


def _entities_there(data: Data, scope: str) -> dict[str, str]:
    """Name → type of the scope's entities in memory.db, where there is one."""
    path = data.generations.current().path
    if path is None:
        return {}
    with closing(connect(path, read_only=True)) as connection:
        return dict(connection.execute("SELECT name, entity_type FROM entities WHERE scope = ?", (scope,)))


def _not_there_yet(data: Data, file: Path, scope: str, known: dict[str, str]) -> tuple[dict[str, int], int]:
    """Counts by kind of what memory.db does not hold, and how many it holds."""
    counts: dict[str, int] = {}
    present = 0
    path = data.generations.current().path
    with closing(connect(path, read_only=True) if path is not None else sqlite3.connect(":memory:")) as connection:
        for item in _events(file, scope, known, _Taken()):
            if path is not None and _holds(connection, item.event):
                present += 1
            else:
                counts[item.kind] = counts.get(item.kind, 0) + 1
    return counts, present


def _holds(connection: sqlite3.Connection, event: Event) -> bool:
    key: tuple[str | bytes, ...]
    match event:
        case EntityCreated():
            sql, key = "SELECT 1 FROM entities WHERE scope = ? AND name = ?", (event.scope, event.name)
        case ObservationAdded():
            sql = """SELECT 1 FROM observations AS o JOIN entities AS e ON e.id = o.entity_id
                WHERE e.scope = ? AND e.name = ? AND o.text_sha256 = ?"""
            key = (event.scope, event.entity, hashlib.sha256(event.content.encode()).digest())
        case RelationCreated():
            sql = """SELECT 1 FROM relations AS r JOIN entities AS a ON a.id = r.from_entity_id
                JOIN entities AS b ON b.id = r.to_entity_id
                WHERE a.scope = ? AND a.name = ? AND b.name = ? AND r.relation_type = ?"""
            key = (event.scope, event.from_entity, event.to_entity, event.relation_type)
        case _:
            return False
    return connection.execute(sql, key).fetchone() is not None


def _lines(taken: _Taken) -> list[str]:
    shown = [str(each) for each in taken.left_out[:_LEFT_OUT_MAX]]
    more = len(taken.left_out) - len(shown)
    return [*shown, f"and {more} more"] if more else shown


def _report(
    source: str, scope: str, taken: _Taken, counts: dict[str, int], present: int, *, dry_run: bool = False
) -> Imported:
    left_out = [str(each) for each in sorted(taken.left_out, key=lambda each: int(each.what.split()[1]))]
    whole = not any(each.missing for each in taken.left_out)
    return Imported(source, scope, dict(counts), present, left_out, whole, dry_run)
