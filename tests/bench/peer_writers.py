"""Other libraries' durable writes, run by the interpreter of their own environment: imports nothing of this project.

One JSON document on stdin, `{"peer": NAME, "directory": …, "writers": N, "work": [[entity, content], …]}`, one on
stdout: operations, seconds, waits (ns, of single writes), counted (after closing and opening again), settings and
version. Each writer is a thread, since that is what these libraries document; imports are done before the clock starts.
"""

from __future__ import annotations

import json
import sqlite3
import sys
import threading
from collections.abc import Callable
from importlib.metadata import version
from time import perf_counter_ns

Write = Callable[[str, str], object]
Work = list[tuple[str, str]]


def main() -> None:
    asked = json.load(sys.stdin)
    answer = PEERS[asked["peer"]](asked["directory"], asked["writers"], [tuple(item) for item in asked["work"]])
    json.dump({**answer, "version": version(asked["peer"])}, sys.stdout)


def write_all(writers: list[Write], work: Work) -> tuple[float, list[int]]:
    """Each writer takes its share of the work, one item at a time; seconds, and ns of each write."""
    waits: list[int] = []
    failed: list[BaseException] = []
    ready = threading.Barrier(len(writers) + 1)

    def run(number: int, write: Write) -> None:
        mine = []
        ready.wait()
        try:
            for entity, content in work[number :: len(writers)]:
                start = perf_counter_ns()
                write(entity, content)
                mine.append(perf_counter_ns() - start)
        except BaseException as error:
            failed.append(error)
        waits.extend(mine)

    threads = [threading.Thread(target=run, args=item) for item in enumerate(writers)]
    for thread in threads:
        thread.start()
    ready.wait()
    start = perf_counter_ns()
    for thread in threads:
        thread.join()
    seconds = (perf_counter_ns() - start) / 1e9
    if failed:
        raise failed[0]
    return seconds, waits


def durable(connection: sqlite3.Connection) -> str:
    """The settings that make a commit durable. Raises where they do not."""
    (mode,) = connection.execute("PRAGMA journal_mode").fetchone()
    (synchronous,) = connection.execute("PRAGMA synchronous").fetchone()
    if mode != "wal" or synchronous < 2:
        raise SystemExit(f"commits are not durable: journal_mode={mode}, synchronous={synchronous}")
    return f"journal_mode={mode}, synchronous={synchronous}, SQLite {sqlite3.sqlite_version}"


def told(work: Work, timed: tuple[float, list[int]], counted: int, settings: str) -> dict[str, object]:
    return {"operations": len(work), "seconds": timed[0], "waits": timed[1], "counted": counted, "settings": settings}


def eventsourcing(directory: str, writers: int, work: Work) -> dict[str, object]:
    """An aggregate a writer, kept in memory; each write is one event of it, saved by the application."""
    from eventsourcing.application import Application
    from eventsourcing.domain import Aggregate, event

    class Memory(Aggregate):
        @event("Observed")
        def observe(self, entity: str, content: str) -> None:
            self.last = (entity, content)

    environment = {"PERSISTENCE_MODULE": "eventsourcing.sqlite", "SQLITE_DBNAME": f"{directory}/events.db"}
    application = Application(env=environment)

    def writer() -> Write:
        memory = Memory()
        application.save(memory)

        def write(entity: str, content: str) -> None:
            memory.observe(entity, content)
            application.save(memory)

        return write

    made = [writer() for _ in range(writers)]
    with application.recorder.datastore.get_connection(commit=True) as held:
        settings = durable(held._sqlite_conn)
    timed = write_all(made, work)
    application.close()
    again = Application(env=environment)
    counted = (again.recorder.max_notification_id() or 0) - writers
    again.close()
    return told(work, timed, counted, f"{settings}; an aggregate a writer, one event a save")


def langgraph(directory: str, writers: int, work: Work) -> dict[str, object]:
    """SqliteSaver on the one connection that it takes; each write is the checkpoint of a thread of its own."""
    from uuid import uuid4

    from langgraph.checkpoint.sqlite import SqliteSaver

    path = f"{directory}/checkpoints.db"
    connection = sqlite3.connect(path, check_same_thread=False)
    saver = SqliteSaver(connection)
    saver.setup()
    settings = durable(connection)

    def write(entity: str, content: str) -> None:
        checkpoint = {
            "v": 1, "id": str(uuid4()), "ts": "2026-11-26T00:00:00+00:00", "channel_versions": {}, "versions_seen": {},
            "channel_values": {"entity": entity, "content": content},
        }  # fmt: skip
        saver.put({"configurable": {"thread_id": entity, "checkpoint_ns": ""}}, checkpoint, {"source": "input"}, {})

    timed = write_all([write] * writers, work)
    connection.close()
    with SqliteSaver.from_conn_string(path) as again:
        counted = sum(1 for _ in again.list(None))
    return told(work, timed, counted, f"{settings}; SqliteSaver.put, a checkpoint an event")


def persist_queue(directory: str, writers: int, work: Work) -> dict[str, object]:
    """SQLiteQueue for threads, committed with each put."""
    from persistqueue import SQLiteQueue

    queue = SQLiteQueue(directory, multithreading=True, auto_commit=True)
    settings = durable(queue._putter)
    timed = write_all([lambda entity, content: queue.put((entity, content))] * writers, work)
    queue.close()
    again = SQLiteQueue(directory, multithreading=True, auto_commit=True)
    counted = again.size
    again.close()
    return told(work, timed, counted, f"{settings}; SQLiteQueue(multithreading=True, auto_commit=True)")


PEERS = {"eventsourcing": eventsourcing, "langgraph-checkpoint-sqlite": langgraph, "persist-queue": persist_queue}


if __name__ == "__main__":
    main()
