"""A server with OpenTelemetry set up sees appends, checkpoints, replays and recoveries as children of its own spans.

Each server is a process of its own: what it sets is global there, and only there.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from recovery.data import Data
from recovery.records import entries
from recovery.telemetry.conventions import LIVE_SPANS
from tests.commands import ENVIRONMENT

_SET_UP = """
import json, sys
from opentelemetry import trace
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
exporter, provider = InMemorySpanExporter(), TracerProvider()
provider.add_span_processor(SimpleSpanProcessor(exporter))
trace.set_tracer_provider(provider)
def told():
    return [
        {"name": span.name, "id": f"{span.context.span_id:016x}", "trace": f"{span.context.trace_id:032x}",
         "parent": f"{span.parent.span_id:016x}" if span.parent else None, "attributes": dict(span.attributes),
         "links": [f"{link.context.span_id:016x}" for link in span.links],
         "status": span.status.status_code.name, "kind": span.kind.name, "events": len(span.events)}
        for span in exporter.get_finished_spans()
    ]
"""
_THREADS = """
from journal.events import *
from journal.errors import Refused
from recovery import open_server_sync
server = trace.get_tracer("server")
with server.start_as_current_span("request"):
    with open_server_sync(sys.argv[1], background=False) as hook:
        hook.append(ObservationAdded("global", "Acme", "over there"), agent="sales")
        hook.append_all([EntityCreated("global", f"E{n}", "thing") for n in range(3)])
        hook.append(ObservationAdded("global", "Bob", "given"),
                    traceparent="00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01")
        try:
            hook.append(ObservationAdded("global", "Nobody", "s3cret"))
        except Refused:
            pass
        hook.checkpoint()
        hook.restore(6)
print(json.dumps(told()))
"""
_ASYNC = """
import anyio
from journal.events import *
from recovery import open_server
server = trace.get_tracer("server")
async def one(hook, number):
    with server.start_as_current_span(f"request {number}"):
        await hook.append(ObservationAdded("global", "Acme", f"number {number}"))
async def main():
    async with open_server(sys.argv[1], background=False) as hook, anyio.create_task_group() as tasks:
        for number in range(5):
            tasks.start_soon(one, hook, number)
anyio.run(main, backend=sys.argv[2])
print(json.dumps(told()))
"""
_NO_SDK = """
import sys
assert "opentelemetry" not in sys.modules
{imports}
from journal.events import *
from recovery import open_server_sync
with open_server_sync(sys.argv[1], background=False) as hook:
    hook.append(ObservationAdded("global", "Acme", "quiet"))
    hook.restore(6)
assert "opentelemetry.sdk" not in sys.modules
{checks}
"""


def ran(program: str, *arguments: str) -> str:
    command = [sys.executable, "-c", program, *arguments]
    done = subprocess.run(command, capture_output=True, text=True, env=ENVIRONMENT, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_what_a_server_does_is_below_its_own_span(data: Path) -> None:
    (data / "memory.db").unlink()
    spans = json.loads(ran(_SET_UP + _THREADS, str(data)))
    by_name: dict[str, list[dict[str, Any]]] = {}
    for span in spans:
        by_name.setdefault(span["name"], []).append(span)
    (request,) = by_name["request"]
    batches = by_name.pop("apply memory.db")
    assert {span["trace"] for span in spans if span not in batches} == {request["trace"]}
    assert all(span["parent"] is None and span["trace"] != request["trace"] for span in batches)
    assert [span["attributes"]["journal.batch.size"] for span in batches] == [1, 3, 1]
    assert [span["links"] for span in batches] == [[request["id"]], [request["id"]], ["00f067aa0ba902b7"]]
    parents = {name: {span["parent"] for span in found} for name, found in by_name.items()}
    for name in ("create_memory", "journal.append_all", "journal.checkpoint", "journal.restore", "journal.recovery"):
        assert parents[name] == {request["id"]}, name
    (recovery,), (restore,) = by_name["journal.recovery"], by_name["journal.restore"]
    assert parents["journal.recovery.step"] == {recovery["id"]}
    steps = {span["id"] for span in by_name["journal.recovery.step"]}
    assert restore["id"] in parents["journal.replay"]
    assert steps & parents["journal.replay"], "the rebuild"
    written = {entry.seq: entry.record for entry in entries(Data.at(data).reader().batches())}
    first, given, refused = by_name["create_memory"]
    record = written[first["attributes"]["journal.seq"]]
    assert record.event.content == "over there"
    assert record.traceparent[:-3] == f"00-{request['trace']}-{request['id']}", "the request that caused it"
    assert first["attributes"]["gen_ai.memory.store.id"] == "global"
    assert first["attributes"]["gen_ai.agent.name"] == "sales"
    assert written[given["attributes"]["journal.seq"]].traceparent.startswith("00-4bf92f35"), "the caller's word holds"
    assert (refused["status"], refused["attributes"]["error.type"]) == ("ERROR", "not_found")
    (group,) = by_name["journal.append_all"]
    assert group["attributes"]["journal.group.size"] == 3
    for word in ("over there", "s3cret", "Nobody", "Acme", "E1"):
        assert word not in json.dumps(spans)
    assert not any(span["events"] for span in spans), "an exception's text would be content"


_DATABASE = """
from journal.events import *
from recovery import open_server_sync
from recovery.data import Data
from recovery.log.backup import back_up
with trace.get_tracer("server").start_as_current_span("request"):
    for number in range(2):
        with open_server_sync(sys.argv[1], background=False) as hook:
            hook.append(EntityCreated("agent:writer", f"s3cret {number}", "thing"))
            hook.recover_scope("agent:writer")
            hook.core.fold()
            hook.core.state.folding.join()
    back_up(Data.at(sys.argv[1]), sys.argv[1] + "-backup")
print(json.dumps(told()))
"""


def test_each_touch_of_sqlite_is_a_database_span(data: Path) -> None:
    """Where a slow open or a slow recovery spent its time: the check, the digest, the catch-up, the fold."""
    spans = json.loads(ran(_SET_UP + _DATABASE, str(data)))
    of_database = [span for span in spans if span["attributes"].get("db.system.name") == "sqlite"]
    assert {span["attributes"]["db.namespace"] for span in of_database} == {"memory.db"}
    assert all(span["kind"] == "CLIENT" for span in of_database if span["name"].endswith(" memory.db"))
    told = {span["name"]: span for span in spans}
    documented = {name for name, _ in LIVE_SPANS}
    assert {span["name"] for span in spans} <= documented | {"request", "create_memory"}
    without_a_model = {name for name in documented if name.endswith(" memory.db")} - {"write_vectors memory.db"}
    assert {span["name"] for span in of_database} == without_a_model | {"journal.replay"}
    assert told["journal.backup"]["status"] == "UNSET"
    by_id = {span["id"]: span for span in spans}
    below = {(by_id[span["parent"]]["name"], span["name"]) for span in of_database if span["parent"] in by_id}
    assert ("check memory.db", "digest memory.db") in below
    assert ("check memory.db", "integrity_check memory.db") in below
    assert ("journal.recovery", "rebuild_scope memory.db") in below
    assert "s3cret" not in json.dumps(spans)
    assert all(span["attributes"]["db.operation.name"] == span["name"].split()[0] for span in of_database
               if span["name"].endswith(" memory.db"))  # fmt: skip


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
def test_tasks_that_share_a_sync_keep_their_own_parents(data: Path, backend: str) -> None:
    spans = json.loads(ran(_SET_UP + _ASYNC, str(data), backend))
    requests = {span["id"]: span for span in spans if span["name"].startswith("request")}
    appends = [span for span in spans if span["name"] == "create_memory"]
    assert len(requests) == len(appends) == 5
    assert {span["parent"] for span in appends} == set(requests)
    written = {entry.seq: entry.record for entry in entries(Data.at(data).reader().batches())}
    for span in appends:
        asked = requests[span["parent"]]
        content = written[span["attributes"]["journal.seq"]].event.content
        assert content == asked["name"].replace("request", "number")


def test_without_opentelemetry_none_of_it_is_imported(data: Path) -> None:
    ran(_NO_SDK.format(imports="", checks='assert "opentelemetry" not in sys.modules'), str(data))


def test_with_the_api_alone_nothing_is_set(data: Path) -> None:
    imports = "from opentelemetry import trace"
    checks = "assert type(trace.get_tracer_provider()).__name__ == 'ProxyTracerProvider'"
    ran(_NO_SDK.format(imports=imports, checks=checks), str(data))
