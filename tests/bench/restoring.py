"""Section of the last few events: restore from a checkpoint, and the catch-up of a memory.db that lags."""

from __future__ import annotations

import json
import shutil
import sqlite3
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path
from tempfile import mkdtemp
from time import sleep

from journal.checkpoint import CheckpointStore
from journal.events import CheckpointCreated
from journal.log import Log
from journal.record import Record, encode_record
from replay.catchup import catch_up
from replay.checkpoints import make_checkpoint
from replay.engine import build_state
from replay.schema import connect
from tests.bench.foreign import LITESTREAM, PeerFailed, Peers, run_program
from tests.bench.history import START, more, write_more
from tests.bench.place import INSERTS, Place, counted, sync
from tests.bench.timing import Contender, CountMismatch, Result, Sample, Watch, compare
from tests.bench.work import AGENT, digest_of

RESTORED = "checkpoint + events, digest proven"
COPIED = "copy of a backup + integrity_check"
STREAMED = "litestream restore -timestamp"
CAUGHT_UP = "catch-up"
READ_AGAIN = "every byte of it, by sha256"
_TOGETHER = 100


def restore(place: Place, peers: Peers, *, rounds: int) -> dict[str, list[Result]]:
    """A checkpoint and the events after it, against copying a backup and checking its integrity, and litestream; the
    catch-up of a live memory.db by the same events; and the checkpoint's proof alone.

    Makes the journal longer: the last section that uses it.
    """
    made = make_checkpoint(place.storage, place.layout, lambda: START)
    with closing(Log.open(place.storage, place.layout.journal)) as log:
        event, time = CheckpointCreated(made.seq, made.digest, manifest=made.manifest), START + log.next_seq
        log.append([encode_record(Record(0, time, None, None, AGENT, None, None, event))], time)
    behind = f"{place.root}/behind.db"
    build_state(place.storage, place.layout.journal, place.reader(), place.shape.events + 1, behind)
    write_more(place.layout.journal, place.more, _TOGETHER)
    backup = f"{place.root}/backup.db"
    end = place.shape.events + 1 + place.more
    rows = end - 1  # what vouches for the checkpoint makes none
    expected = build_state(place.storage, place.layout.journal, place.reader(), end, backup, use_checkpoints=False)

    def restored() -> Sample:
        path = f"{place.root}/restored.db"
        with Watch() as watch:
            built = build_state(place.storage, place.layout.journal, place.reader(), end, path)
        if (built.digest, built.base_seq) != (expected.digest, place.shape.events):
            raise CountMismatch("the restore is not the state, or did not begin at the checkpoint")
        return counted(path, rows, watch.seconds)

    def copied() -> Sample:
        path = f"{place.root}/copied.db"
        with Watch() as watch:
            shutil.copyfile(backup, path)
            sync(path)
            with closing(sqlite3.connect(path)) as connection:
                (integrity,) = connection.execute("PRAGMA integrity_check").fetchone()
        if integrity != "ok":
            raise CountMismatch(f"the copy fails its check: {integrity}")
        return counted(path, rows, watch.seconds)

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

    def read_again() -> Sample:
        store = CheckpointStore(place.storage, f"{place.layout.journal}/checkpoints")
        with Watch() as watch:
            (manifest,) = store.manifests()
            wrong = store.check(manifest)
        if wrong:
            raise CountMismatch(f"the checkpoint is damaged: {wrong[0]}")
        return Sample(manifest.bytes, watch.seconds, sum(part.length for part in manifest.parts))

    contenders = [Contender(RESTORED, restored, ours=True), Contender(COPIED, copied)]
    if (program := peers.program(LITESTREAM)) is not None:
        peers.seen[LITESTREAM] = f"{run_program([program, 'version']).strip()}: replica in a directory, -timestamp"
        replica = Replica(program, place)
        contenders.append(Contender(STREAMED, replica.restore))
    return {
        "restore": compare(contenders, rounds, "rows/s"),
        "catch-up": compare([Contender(CAUGHT_UP, caught_up, ours=True)], rounds, "events/s"),
        "verify of a checkpoint": compare([Contender(READ_AGAIN, read_again, ours=True)], rounds, "bytes/s"),
    }


class Replica:
    """A database replicated by litestream: a snapshot, the same observations in ten syncs, a moment, and one more."""

    def __init__(self, program: str, place: Place) -> None:
        self._program, self._place = program, place
        self._database, self._config = f"{place.root}/streamed.db", f"{place.root}/litestream.yml"
        self._expected = place.shape.events + place.more
        replica = {"type": "file", "path": f"{place.root}/replica"}
        settings = {"dbs": [{"path": self._database, "replica": replica}]}
        Path(self._config).write_text(json.dumps(settings))  # JSON is YAML
        shutil.copyfile(place.source(), self._database)
        with closing(sqlite3.connect(self._database, isolation_level=None)) as connection:
            connection.execute("PRAGMA journal_mode=WAL")
            connection.execute("PRAGMA wal_autocheckpoint=0")
            self._sync("-force-snapshot")
            events = more(place.shape.events + 1, place.more)
            share = -(-place.more // 10)
            for start in range(0, place.more, share):
                for first in range(start, min(start + share, place.more), _TOGETHER):
                    self._insert(connection, events[first : min(first + _TOGETHER, start + share)], first)
                self._sync()
            sleep(0.05)  # its files carry milliseconds
            self._moment = datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
            sleep(0.05)
            self._insert(connection, more(1, 1, seed=6), place.more)
            self._sync()

    def restore(self) -> Sample:
        path = f"{self._place.root}/restored.db"
        command = [self._program, "restore", "-config", self._config, "-timestamp", self._moment, "-o", path]
        with Watch() as watch:
            run_program([*command, self._database])
        return counted(path, self._expected, watch.seconds)

    def _insert(self, connection: sqlite3.Connection, events: list[tuple[int, str]], first: int) -> None:
        start = self._place.shape.events + 2 + first
        connection.execute("BEGIN")
        connection.executemany(
            INSERTS["observations"],
            [
                (seq, self._place.rows.entities[number][0], text, digest_of(text), "{}", AGENT, START + seq)
                for seq, (number, text) in enumerate(events, start)
            ],
        )
        connection.execute("COMMIT")

    def _sync(self, *options: str) -> None:
        run_program([self._program, "replicate", "-config", self._config, "-once", "-log-level", "error", *options])
        if not Path(f"{self._place.root}/replica").is_dir():
            raise PeerFailed("litestream replicated nothing")
