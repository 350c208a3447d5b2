"""The description of the holder's API, OpenAPI 3.1, from the Structs that it decodes and encodes."""

from __future__ import annotations

from collections.abc import Iterable
from functools import cache
from itertools import chain
from typing import Any

import msgspec

from journal import __version__
from recovery.control.event_schema import event_schemas
from recovery.control.messages import (
    Ack,
    Acked,
    Acknowledged,
    Append,
    Failure,
    Handed,
    Health,
    LogQuery,
    Nothing,
    Pending,
    Planned,
    Records,
    Recover,
    Replay,
    WouldRestore,
)
from recovery.control.web import JSON, LINES
from recovery.control.writer import Embedded
from recovery.recovered import Recovered
from recovery.standing import Standing
from replay.checkpoints import Shadow
from replay.restore import Restored

# path, method, operation, what it does, body, answers; the errors that each may answer with besides 401
_OPERATIONS: tuple[tuple[str, str, str, str, type | None, dict[int, tuple[Any, ...]], tuple[int, ...]], ...] = (
    ("/v1/append", "post", "append", "Append one event, or a group that is taken whole or not at all.", Append,
     {201: (Acknowledged,)}, (202, 404, 409, 413, 415, 422, 503, 504, 507)),
    ("/v1/checkpoint", "post", "checkpoint", "Build and verify a checkpoint of now.", Nothing,
     {200: (Shadow,)}, (413, 415, 422, 503, 507)),
    ("/v1/replay", "post", "replay", "Make a past moment the live state, or say what that would change.", Replay,
     {200: (Restored, WouldRestore)}, (404, 413, 415, 422, 503, 507)),
    ("/v1/recover", "post", "recover", "Repair what is damaged, or say what that would do.", Recover,
     {200: (Recovered, Planned)}, (404, 413, 415, 422, 503, 507)),
    ("/v1/embed", "post", "embed", "Compute the vectors that are pending.", Nothing,
     {200: (Embedded,)}, (409, 413, 415, 422, 503, 507)),
    ("/v1/health", "get", "health", "Whether the writer writes.", None, {200: (Health,), 503: (Health,)}, ()),
    ("/v1/status", "get", "status", "Where journal, memory.db and checkpoints stand.", None,
     {200: (Standing,)}, (503,)),
    ("/v1/messages", "get", "messages", "The oldest messages that a consumer has not acknowledged.", None,
     {200: (Handed,)}, (422, 503)),
    ("/v1/messages/ack", "post", "ack", "Acknowledge a message, and all before it in its conversation.", Ack,
     {200: (Acked,)}, (404, 409, 413, 415, 422, 503, 507)),
    ("/v1/log", "get", "log", "Records, oldest first; the newest n.", None, {200: (Records,)}, (404, 422, 503)),
)  # fmt: skip


_QUERIES: dict[str, type] = {"log": LogQuery, "messages": Pending}


@cache
def document() -> dict[str, Any]:
    """The OpenAPI document."""
    kinds: list[Any] = [Failure]
    for *_, body, answers, _ in _OPERATIONS:
        kinds += [kind for kind in (body, *chain(*answers.values())) if kind is not None]
    schemas, components = msgspec.json.schema_components(
        [*kinds, LogQuery, Pending], ref_template="#/components/schemas/{name}"
    )
    by_kind = dict(zip(map(repr, kinds), schemas, strict=False))
    append = components["Append"]
    append["oneOf"] = [{"required": ["event"]}, {"required": ["events"]}]
    components |= event_schemas()
    components["Event"] = {"oneOf": [{"$ref": f"#/components/schemas/{name}"} for name in event_schemas()]}
    append["properties"]["event"] = {"$ref": "#/components/schemas/Event"}
    append["properties"]["events"]["items"] = {"$ref": "#/components/schemas/Event"}
    paths: dict[str, Any] = {}
    for path, method, name, summary, body, answers, errors in _OPERATIONS:
        operation: dict[str, Any] = {"operationId": name, "summary": summary, "responses": {}}
        if body is not None:
            content = {JSON: {"schema": by_kind[repr(body)]}}
            if name == "append":
                content[LINES] = {"schema": {"type": "string"}}
            operation["requestBody"] = {"required": body in (Append, Replay, Ack), "content": content}
        if name in _QUERIES:
            operation["parameters"] = list(_parameters(components[_QUERIES[name].__name__]))
        for status, told in answers.items():
            each = [by_kind[repr(kind)] for kind in told]
            content = {JSON: {"schema": each[0] if len(each) == 1 else {"anyOf": each}}}
            operation["responses"][str(status)] = {"description": "done", "content": content}
        if name == "append":
            lines = {LINES: {"schema": {"type": "string"}}}
            operation["responses"]["200"] = {"description": "an answer a line", "content": lines}
        for status in (*errors, 401):
            content = {JSON: {"schema": by_kind[repr(Failure)]}}
            described = {"description": "an error", "content": content}
            operation["responses"].setdefault(str(status), described)
        paths.setdefault(path, {})[method] = operation
    text = {"description": "Prometheus' text format", "content": {"text/plain": {"schema": {"type": "string"}}}}
    scraped: dict[str, Any] = {"operationId": "metrics", "summary": "For Prometheus.", "responses": {"200": text}}
    for status in (409, 401, 503):
        failed = {"description": "an error", "content": {JSON: {"schema": by_kind[repr(Failure)]}}}
        scraped["responses"][str(status)] = failed
    paths["/metrics"] = {"get": scraped}
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "agent-journal",
            "version": __version__,
            "description": "The process that holds a journal's lock, asked by others. Every answer that is an error "
            "says what, where and what to do next.",
            "license": {"name": "Apache-2.0", "identifier": "Apache-2.0"},
        },
        "servers": [{"url": "/"}],
        "security": [{"token": []}],
        "paths": paths,
        "components": {
            "schemas": {name: each for name, each in components.items() if name not in ("LogQuery", "Pending")},
            "securitySchemes": {"token": {"type": "http", "scheme": "bearer"}},
        },
    }


def _parameters(query: dict[str, Any]) -> Iterable[dict[str, Any]]:
    for name, schema in query["properties"].items():
        kept = {key: value for key, value in schema.items() if key != "default"}
        alternatives = [each for each in kept.get("anyOf", []) if each.get("type") != "null"]
        schema = alternatives[0] if alternatives else kept
        yield {"name": name, "in": "query", "required": name in query.get("required", ()), "schema": schema}
