"""An agent server: memories and agent configs over HTTP, every write journaled before it is acknowledged.

    pip install agent-journal starlette uvicorn
    python docs/examples/server.py --data data --port 8080

`open_server` checks the state, repairs it if needed, and gives the hook that all writes go through. Reads go to
memory.db itself, each in one transaction. One process serves one directory; `recovery.worker`
is for several.
"""

from __future__ import annotations

import argparse
import logging
import sqlite3
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any, TypeVar

import msgspec
import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from journal.commit import Receipt
from journal.errors import CallerError, JournalError, NoSpace, NotApplied, OutcomeUnknown, Refused
from journal.events import EntityCreated, ObservationAdded, RelationCreated
from recovery import open_reader, open_server
from recovery.setup import initialise

T = TypeVar("T")
log = logging.getLogger("uvicorn.error")


class Memory(msgspec.Struct, forbid_unknown_fields=True):
    """The body of POST /api/v1/memories. The entity is made if it is not known yet."""

    entity: str
    observation: str
    scope: str = "global"
    entity_type: str = "thing"
    metadata: dict[str, Any] = {}


class Relation(msgspec.Struct, forbid_unknown_fields=True):
    """The body of POST /api/v1/relations."""

    from_entity: str
    to_entity: str
    relation_type: str
    scope: str = "global"
    strength: float = 1.0
    confidence: float = 1.0
    metadata: dict[str, Any] = {}


# -- writing: through the hook ----------------------------------------------------------------------------------------


async def add_memory(request: Request) -> Response:
    """Two operations, each with an op_id of its own: a retry after a crash does what was not done, and only that."""
    hook, given, memory = request.state.hook, envelope(request), await body(request, Memory)
    of_entity = {**given, "op_id": f"{given['op_id']}/entity" if given["op_id"] else None}
    try:
        await hook.append(EntityCreated(memory.scope, memory.entity, memory.entity_type), **of_entity)
    except Refused as refused:
        if refused.code != "already_exists":
            raise
    observation = ObservationAdded(memory.scope, memory.entity, memory.observation, memory.metadata)
    return acknowledged(await hook.append(observation, **given))


async def add_relation(request: Request) -> Response:
    relation = RelationCreated(**msgspec.structs.asdict(await body(request, Relation)))
    return acknowledged(await request.state.hook.append(relation, **envelope(request)))


async def put_agent(request: Request) -> Response:
    """The body is the config, byte for byte what agents/NAME.md will hold."""
    name, content = request.path_params["name"], await request.body()
    return acknowledged(await request.state.hook.agents.write(name, content, **envelope(request)))


def envelope(request: Request) -> dict[str, str | None]:
    """Who writes, and the key under which a retry is the same operation."""
    return {"agent": request.headers.get("x-agent"), "op_id": request.headers.get("idempotency-key")}


async def body(request: Request, kind: type[T]) -> T:
    try:
        return msgspec.json.decode(await request.body(), type=kind)
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise Refused("invalid", f"the body is not what is taken here: {error}") from None


def acknowledged(receipt: Receipt) -> Response:
    """Sent only once the write is durable, and visible to every reader."""
    return answer(201, receipt)


# -- reading: memory.db in one transaction ----------------------------------------------------------------------------


def get_memory(request: Request) -> Response:
    """Not async, as the other reads: Starlette runs it in a thread, so that a slow disk holds up no writer."""
    key = (request.query_params.get("scope", "global"), request.path_params["entity"])
    with open_reader(request.state.memory_db) as reader, reader.transaction() as db:
        db.row_factory = sqlite3.Row
        entity = db.execute("SELECT * FROM entities WHERE scope = ? AND name = ?", key).fetchone()
        if entity is None:
            raise Refused("not_found", f"no entity {key[1]!r} in {key[0]}")
        observations = db.execute(
            "SELECT id, content, agent, created_at FROM observations WHERE entity_id = ? ORDER BY id", (entity["id"],)
        ).fetchall()
        relations = db.execute(
            "SELECT r.id, a.name AS from_entity, r.relation_type, b.name AS to_entity, r.strength FROM relations r"
            " JOIN entities a ON a.id = r.from_entity_id JOIN entities b ON b.id = r.to_entity_id"
            " WHERE ? IN (a.id, b.id) ORDER BY r.id", (entity["id"],)
        ).fetchall()  # fmt: skip
    told = {**entity, "metadata": msgspec.Raw(entity["metadata"].encode())}  # JSON text already
    return answer(200, {**told, "observations": [*map(dict, observations)], "relations": [*map(dict, relations)]})


def get_agent(request: Request) -> Response:
    name = request.path_params["name"]
    with open_reader(request.state.memory_db) as reader, reader.transaction() as db:
        row = db.execute("SELECT content, sha256 FROM agents WHERE name = ?", (name,)).fetchone()
    if row is None:
        raise Refused("not_found", f"no agent {name!r}")
    return Response(row[0], media_type="text/markdown", headers={"etag": f'"{row[1]}"'})


async def search(request: Request) -> Response:
    hits = await request.state.hook.search(request.query_params.get("q", ""), limit=10)
    return answer(200, [hit._asdict() for hit in hits])


def health(request: Request) -> Response:
    """503 once the log takes nothing more: only opening it again helps, so the supervisor should restart the server."""
    with open_reader(request.state.memory_db) as reader, reader.transaction() as db:
        (agents,) = db.execute("SELECT count(*) FROM agents").fetchone()
    poisoned = request.state.hook.core.log.poisoned
    document = {"status": "failed" if poisoned else "healthy", "memory_backend": "embedded", "agents": agents}
    return answer(503 if poisoned else 200, document)


# -- answers ----------------------------------------------------------------------------------------------------------


STATUS = {"not_found": 404, "already_exists": 409, "op_id_reused": 409, "too_large": 413}


def status_of(error: JournalError) -> int:
    """The HTTP status of a declared error; its JSON says what, where and what to do next."""
    match error:
        case CallerError():
            return STATUS.get(error.code, 422)
        case NotApplied():
            return 202  # durable: it shows up once memory.db has caught up
        case NoSpace():
            return 507  # nothing was written; the same request works once there is room
        case OutcomeUnknown():
            return 504  # it may have been written: send it again, under the same key, once the server is back
    return 503


def declared(request: Request, error: Exception) -> Response:
    assert isinstance(error, JournalError)
    return answer(status_of(error), {"error": error.to_json()})


def answer(status: int, document: object) -> Response:
    return Response(msgspec.json.encode(document), status, media_type="application/json")


# -- the server -------------------------------------------------------------------------------------------------------


def application(data: str) -> Starlette:
    @asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncIterator[dict[str, object]]:
        async with open_server(data) as hook:
            for finding in hook.kept:  # hand edits and unknown files, which only a person can decide about
                log.warning("%s: %s - %s", finding.component, finding.reason, finding.hint)
            yield {"hook": hook, "memory_db": hook.core.state.layout.memory_db}

    def route(path: str, endpoint: Callable[..., Any], method: str) -> Route:
        return Route(f"/api/v1{path}", endpoint, methods=[method])

    return Starlette(
        lifespan=lifespan,
        exception_handlers={JournalError: declared},
        routes=[
            route("/memories", add_memory, "POST"),
            route("/memories/{entity}", get_memory, "GET"),
            route("/relations", add_relation, "POST"),
            route("/agents/{name}", put_agent, "PUT"),
            route("/agents/{name}", get_agent, "GET"),
            route("/search", search, "GET"),
            route("/health", health, "GET"),
        ],
    )


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    options.add_argument("--data", default="data", help="the data directory; a journal is begun where there is none")
    options.add_argument("--port", type=int, default=8080)
    given = options.parse_args()
    initialise(given.data)
    uvicorn.run(application(given.data), host="127.0.0.1", port=given.port, log_level="warning")


if __name__ == "__main__":
    main()
