"""Sections of reading: rebuild, restore, catch-up, verify, digest, and the bytes that all of it reads."""

from __future__ import annotations

import gc
import os
import shutil
import sqlite3
from contextlib import closing
from pathlib import Path
from tempfile import mkdtemp

import msgspec

from journal.events import CheckpointCreated, ObservationAdded
from journal.format import Record, encode_record
from journal.log import Log, create
from journal.reader import LogReader
from journal.storage import RealStorage
from journal.verify import verify as verify_journal
from recovery.records import entries
from replay.bulk import BulkLoader
from replay.catchup import catch_up
from replay.checkpoints import make_checkpoint
from replay.digest import state_digest
from replay.engine import build_state
from replay.layout import Layout
from replay.records import position_at, records_of
from replay.schema import connect, create_indexes, write_position
from replay.schema import create as create_tables
from replay.timeline import Range
from replay.working import connect_finished, connect_private, finish
from tests.bench.history import START, Rows, Shape, write_history, write_more
from tests.bench.timing import Contender, CountMismatch, Result, Sample, Watch, compare
from tests.bench.work import AGENT, ENTITIES, SCOPE, texts

TOGETHER = 1000
MORE = 10_000
_INSERTS = {
    "entities": "INSERT INTO entities(id, scope, name, entity_type, metadata, confidence, created_at, updated_at)"
    " VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
    "observations": "INSERT INTO observations(id, entity_id, content, text_sha256, metadata, agent, created_at)"
    " VALUES (?, ?, ?, ?, ?, ?, ?)",
    "relations": "INSERT INTO relations(id, from_entity_id, to_entity_id, relation_type, strength, confidence,"
    " metadata, created_at) VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
}


class Place:
    """A long journal under `root`, the rows that it makes, and the digest of their plain load."""

    def __init__(self, root: Path, *, quick: bool) -> None:
        self.root = root
        self.shape = Shape(100 if quick else 100_000)
        self.more = 50 if quick else MORE
        self.storage = RealStorage()
        self.layout = Layout.under(f"{root}/long")
        self.rows = write_history(self.layout.journal, self.shape, TOGETHER)
        gc.freeze()  # millions of tuples that no run made: the collector need not walk them in any
        self._digest: str | None = None

    def reader(self) -> LogReader:
        return LogReader(self.storage, self.layout.journal)

    def check(self, digest: str) -> None:
        """Raises CountMismatch where a state is not that of the plain rows."""
        if self._digest is None:
            path = f"{self.root}/plain.db"
            plain_load(path, self.rows)
            with closing(connect_finished(path)) as connection:
                self._digest = state_digest(connection)
            os.unlink(path)
        if digest != self._digest:
            raise CountMismatch("the rebuilt state is not that of the plain rows")


# -- rebuild ----------------------------------------------------------------------------------------------------------


def rebuild(place: Place, *, quick: bool) -> dict[str, list[Result]]:
    """From genesis, against the plain load of the same rows: executemany, indexes last, nothing verified."""
    contenders = [
        Contender("rebuild, without the digest", lambda: _rebuilt(place, digest=False), ours=True),
        Contender("rebuild, verified by digest", lambda: _rebuilt(place, digest=True), ours=True),
        Contender("plain bulk load, rows in memory", lambda: _plain(place)),
        Contender("plain bulk load, rows read from a file", lambda: _copied_rows(place)),
    ]
    title = f"rebuild, {place.shape.observations:,} observations"
    return {title: compare(contenders, 2 if quick else 5, "events/s")}


def plain_load(path: str, rows: Rows) -> float:
    """Loads rows into a new file, which is durable at the end. Returns the seconds."""
    with Watch() as watch:
        with closing(sqlite3.connect(path, isolation_level=None)) as connection:
            for setting in ("page_size=4096", "journal_mode=OFF", "synchronous=OFF"):
                connection.execute(f"PRAGMA {setting}")
            create_tables(connection, indexes=False)
            connection.execute("BEGIN")
            for table, insert in _INSERTS.items():
                connection.executemany(insert, getattr(rows, table))
            create_indexes(connection)
            connection.execute("COMMIT")
        fd = os.open(path, os.O_RDWR)
        os.fsync(fd)
        os.close(fd)
    return watch.seconds


def _plain(place: Place) -> Sample:
    path = f"{place.root}/floor.db"
    seconds = plain_load(path, place.rows)
    return _counted(path, place.shape.events, seconds)


def _copied_rows(place: Place) -> Sample:
    """The same where the rows come from another database, as those of a real copy have to come from somewhere."""
    source, path = f"{place.root}/source.db", f"{place.root}/floor.db"
    if not os.path.exists(source):
        plain_load(source, place.rows)
    with closing(connect_finished(source)) as connection:
        cursors = [connection.execute(f"SELECT * FROM {table} ORDER BY id") for table in _INSERTS]
        seconds = plain_load(path, Rows(*cursors))  # type: ignore[arg-type]
    return _counted(path, place.shape.events, seconds)


def _rebuilt(place: Place, *, digest: bool) -> Sample:
    path = f"{place.root}/rebuilt.db"
    end = place.shape.events
    with Watch() as watch:
        reader = place.reader()
        if digest:
            built = build_state(place.storage, place.layout.journal, reader, end, path, use_checkpoints=False)
        else:
            with closing(connect_private(path)) as connection:
                loader = BulkLoader(connection)
                for first_seq, records in records_of(reader, [Range(0, end)]):
                    loader.add(first_seq, records)
                loader.finish()
                write_position(connection, position_at(reader, end))
            finish(place.storage, path, "wal")
    if digest:
        place.check(built.digest)
    return _counted(path, end, watch.seconds)


def _counted(path: str, events: int, seconds: float) -> Sample:
    with closing(connect_finished(path)) as connection:
        counts = (connection.execute(f"SELECT count(*) FROM {table}").fetchone()[0] for table in _INSERTS)
        found = sum(counts)
    os.unlink(path)
    return Sample(events, seconds, found)


# -- digest and verify ------------------------------------------------------------------------------------------------


def prove(place: Place, *, quick: bool) -> dict[str, list[Result]]:
    """What proofs cost: every byte of the journal, and the digest of a state."""
    path = f"{place.root}/digest.db"
    plain_load(path, place.rows)
    events = place.shape.events

    def digest() -> Sample:
        with closing(connect_finished(path)) as connection, Watch() as watch:
            found = state_digest(connection)
        place.check(found)
        return Sample(events, watch.seconds, events)

    def verified() -> Sample:
        with Watch() as watch:
            report = verify_journal(place.storage, place.layout.journal)
        if report.exit_code:
            raise CountMismatch(f"verify found damage: {report.findings}")
        return Sample(events, watch.seconds, report.events)

    rounds = 2 if quick else 5
    try:
        return {
            "state digest": compare([Contender("digest", digest, ours=True)], rounds, "rows/s"),
            "verify": compare([Contender("verify", verified, ours=True)], rounds, "events/s"),
        }
    finally:
        os.unlink(path)


# -- the last few events ----------------------------------------------------------------------------------------------


def restore(place: Place, *, quick: bool) -> dict[str, list[Result]]:
    """A checkpoint and the events after it, against copying a backup and checking its integrity; and the catch-up of
    a live memory.db by the same events. Makes the journal longer: the last section that uses it."""
    made = make_checkpoint(place.storage, place.layout, lambda: START)
    with closing(Log.open(place.storage, place.layout.journal)) as log:
        event, time = CheckpointCreated(made.seq, made.digest, manifest=made.manifest), START + log.next_seq
        log.append([encode_record(Record(0, time, None, None, AGENT, None, None, event))], time)
    behind = f"{place.root}/behind.db"
    build_state(place.storage, place.layout.journal, place.reader(), place.shape.events + 1, behind)
    write_more(place.layout.journal, place.more, 100)
    backup = f"{place.root}/backup.db"
    end = place.shape.events + 1 + place.more
    expected = build_state(place.storage, place.layout.journal, place.reader(), end, backup, use_checkpoints=False)

    def restored() -> Sample:
        path = f"{place.root}/restored.db"
        with Watch() as watch:
            built = build_state(place.storage, place.layout.journal, place.reader(), end, path)
        if (built.digest, built.base_seq) != (expected.digest, place.shape.events):
            raise CountMismatch("the restore is not the state, or did not begin at the checkpoint")
        return _counted(path, end - 1, watch.seconds)  # what vouches for the checkpoint makes no row

    def copied() -> Sample:
        path = f"{place.root}/copied.db"
        with Watch() as watch:
            shutil.copyfile(backup, path)
            fd = os.open(path, os.O_RDWR)
            os.fsync(fd)
            os.close(fd)
            with closing(sqlite3.connect(path)) as connection:
                (integrity,) = connection.execute("PRAGMA integrity_check").fetchone()
        if integrity != "ok":
            raise CountMismatch(f"the copy fails its check: {integrity}")
        return _counted(path, end - 1, watch.seconds)  # what vouches for the checkpoint makes no row

    def caught_up() -> Sample:
        directory = Path(mkdtemp(dir=place.root))
        path = directory / "memory.db"
        shutil.copyfile(behind, path)
        with closing(connect(path)) as connection:
            with Watch() as watch:
                done = catch_up(connection, place.reader())
            (found,) = connection.execute("SELECT count(*) FROM observations").fetchone()
        shutil.rmtree(directory)
        if done.to_seq != end:
            raise CountMismatch(f"caught up to {done.to_seq} of {end}")
        return Sample(place.more, watch.seconds, found - place.shape.observations)

    rounds = 2 if quick else 5
    contenders = [
        Contender("checkpoint + events, digest proven", restored, ours=True),
        Contender("copy of a backup + integrity_check", copied),
    ]
    catching = [Contender("catch-up", caught_up, ours=True)]
    return {
        f"restore, checkpoint + {place.more:,} events": compare(contenders, rounds, "rows/s"),
        f"catch-up of {place.more:,} events": compare(catching, rounds, "events/s"),
    }


# -- bytes ------------------------------------------------------------------------------------------------------------


def bytes_per_event(root: Path) -> dict[str, dict[str, float]]:
    """By events a batch: bytes on disk of a 120-byte observation in a closed segment, and of its JSON line."""
    storage, found = RealStorage(), {}
    for together in (1, 32, 256):
        directory = f"{mkdtemp(dir=root)}/journal"
        create(storage, directory)
        with closing(Log.open(storage, directory)) as log:
            numbered = enumerate(texts(together * max(8, 4096 // together)))
            records = [
                encode_record(
                    Record(0, START + number, None, f"crm-{number}", AGENT, None, None,
                           ObservationAdded(SCOPE, ENTITIES[number % 1000], text))
                )
                for number, text in numbered
            ]  # fmt: skip
            for start in range(0, len(records), together):
                log.append(records[start : start + together], START + start + together)
        reader = LogReader(storage, directory)
        lines = [msgspec.json.encode(entry.to_json()) for entry in entries(reader.batches())]
        if len(lines) != len(records):
            raise CountMismatch(f"{len(records)} written, {len(lines)} found")
        on_disk = sum(storage.size(segment.path) for segment in reader.segments)
        line = sum(map(len, lines)) / len(lines) + 1
        stored = on_disk / len(records)
        found[str(together)] = {"on_disk": round(stored, 1), "json_line": round(line, 1), "ratio": stored / line}
    return found
