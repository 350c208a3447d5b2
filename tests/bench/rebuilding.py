"""Sections of reading all of it: rebuild from the first event, and the proofs over every byte and row."""

from __future__ import annotations

import shlex
import subprocess
from contextlib import closing

from journal.verify import verify as verify_journal
from replay.bulk import BulkLoader
from replay.digest import state_digest
from replay.engine import build_state
from replay.records import position_at, records_of
from replay.schema import write_position
from replay.timeline import Range
from replay.working import connect_finished, connect_private, finish
from tests.bench.foreign import DUMP, RECOVER, PeerFailed, Peers
from tests.bench.history import Rows
from tests.bench.place import INSERTS, Place, counted, plain_load, sync
from tests.bench.timing import Contender, CountMismatch, Result, Sample, Watch, compare

WITHOUT = "rebuild, without the digest"
VERIFIED = "rebuild, verified by digest"
PACKED = "the same from packed segments"
FLOOR = "plain bulk load, rows in memory"
COPIED = "plain bulk load, rows read from a file"
DUMPED = ".dump | sqlite3"
RECOVERED = ".recover | sqlite3"


def rebuild(place: Place, peers: Peers, *, rounds: int) -> dict[str, list[Result]]:
    """From genesis, against the plain load of the same rows (executemany, indexes last, nothing verified), and against
    what is done to the database where there is no journal."""
    contenders = [
        Contender(WITHOUT, lambda: _rebuilt(place, digest=False), ours=True),
        Contender(VERIFIED, lambda: _rebuilt(place, digest=True), ours=True),
        Contender(PACKED, lambda: _rebuilt(place, digest=True, packed=True), ours=True),
        Contender(FLOOR, lambda: _plain(place)),
        Contender(COPIED, lambda: _copied_rows(place)),
    ]
    for name, program, verb in ((DUMPED, DUMP, ".dump"), (RECOVERED, RECOVER, ".recover")):
        shell = peers.program(program)
        if shell is not None:
            contenders.append(Contender(name, lambda shell=shell, verb=verb: _piped(place, peers, shell, verb)))
    return {"rebuild": compare(contenders, rounds, "events/s")}


def _plain(place: Place) -> Sample:
    path = f"{place.root}/floor.db"
    seconds = plain_load(path, place.rows)
    return counted(path, place.shape.events, seconds)


def _copied_rows(place: Place) -> Sample:
    """The same where the rows come from another database, as those of a real copy have to come from somewhere."""
    path = f"{place.root}/floor.db"
    with closing(connect_finished(place.source())) as connection:
        cursors = [connection.execute(f"SELECT * FROM {table} ORDER BY id") for table in INSERTS]
        seconds = plain_load(path, Rows(*cursors))  # type: ignore[arg-type]
    return counted(path, place.shape.events, seconds)


def _piped(place: Place, peers: Peers, shell: str, verb: str) -> Sample:
    """The usual pipe of two sqlite3 processes, with the settings that the shell has by itself."""
    path, source = f"{place.root}/piped.db", place.source()
    peers.seen[f"{verb} | sqlite3"] = subprocess.run([shell, "--version"], capture_output=True, text=True).stdout[:6]
    pipe = f"{shlex.quote(shell)} {shlex.quote(source)} {verb} | {shlex.quote(shell)} {shlex.quote(path)}"
    with Watch() as watch:
        done = subprocess.run(["sh", "-c", pipe], capture_output=True, text=True, check=False)
        sync(path)
    if done.returncode:
        raise PeerFailed(f"{verb}: {done.stderr.strip()}")
    return counted(path, place.shape.events, watch.seconds)


def _rebuilt(place: Place, *, digest: bool, packed: bool = False) -> Sample:
    path, journal = f"{place.root}/rebuilt.db", place.packed() if packed else place.layout.journal
    end = place.shape.events
    with Watch() as watch:
        reader = place.reader(journal)
        if digest:
            built = build_state(place.storage, journal, reader, end, path, use_checkpoints=False)
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
    return counted(path, end, watch.seconds)


def prove(place: Place, *, rounds: int) -> dict[str, list[Result]]:
    """What proofs cost: every byte of the journal, and the digest of a state."""
    events, source = place.shape.events, place.source()

    def digest() -> Sample:
        with closing(connect_finished(source)) as connection, Watch() as watch:
            found = state_digest(connection)
        place.check(found)
        return Sample(events, watch.seconds, events)

    def verified() -> Sample:
        with Watch() as watch:
            report = verify_journal(place.storage, place.layout.journal)
        if report.exit_code:
            raise CountMismatch(f"verify found damage: {report.findings}")
        return Sample(events, watch.seconds, report.events)

    return {
        "state digest": compare([Contender("digest", digest, ours=True)], rounds, "rows/s"),
        "verify": compare([Contender("verify", verified, ours=True)], rounds, "events/s"),
    }
