"""Makes the golden journals of format version 1: python -m tests.golden.make_v1 DIRECTORY

Ids, salts and the clock are fixed. The committed files were made once and are never made again: what version 1 wrote
must open in every later version, and a journal made by a later program would only prove that it can read itself.

    v1/        every event type; a clean close, a rotation, a kill whose unvouched batch was carried over, a clean end;
               a checkpoint with embeddings
    v1-torn/   a kill while the last batch was being written: one of its sectors is missing

Beside each journal, `expected.json` says what must be read: the records as they were handed to the writer, and the
digests that the reference projection gives for them.
"""

from __future__ import annotations

import json
import struct
import sys
from collections.abc import Sequence
from hashlib import sha256
from pathlib import Path
from typing import Any
from zlib import crc32

import msgspec

from journal.checkpoint import KIND_EMBEDDINGS, CheckpointStore
from journal.commit import Committer, Ticket, draft, ticket
from journal.event_json import event_to_json
from journal.events import (
    CheckpointCreated,
    ConfigRejected,
    ConfigRemoved,
    ConfigWritten,
    CursorMoved,
    DrillCompleted,
    EntityCreated,
    EntityDeleted,
    EntityUpdated,
    EpochStarted,
    Event,
    ImportCompleted,
    ImportStarted,
    JournalForked,
    MessageRecorded,
    ModelReplaced,
    ModelVerified,
    ObservationAdded,
    ObservationRemoved,
    RecoveryCompleted,
    RecoveryFailed,
    RecoveryStarted,
    RecoveryStepCompleted,
    RelationCreated,
    RelationDeleted,
    RelationUpdated,
    ScopeCleared,
    ScrubCompleted,
    StateRestored,
    StatusChanged,
    TagCreated,
)
from journal.format import CHAIN_GENESIS, SegmentHeader
from journal.log import Appended, Log
from journal.record import Record
from journal.segment import SegmentWriter
from journal.storage import RealStorage
from replay.checkpoints import make_checkpoint
from replay.embedding_parts import pack
from replay.embeddings import Row
from replay.layout import Layout
from replay.model import Model

JOURNAL_ID = bytes.fromhex("0a1b2c3d4e5f60718293a4b5c6d7e8f9")
START = 1_764_000_000_000_000_000
FILL_KEPT = 64  # of the zeros behind an unclosed segment's last batch: they only cost room

WEIGHTS = {"model.safetensors": "53aa5117" + "0" * 48 + "0128d9db"}
TRACE = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"
AGENT = "---\nname: ledger\ntools: [sum, split]\n---\nDu führst das Kassenbuch. 帳簿をつける。\n".encode()


class Clock:
    """A millisecond further at each reading, but for one step back, as of a clock that is set."""

    def __init__(self) -> None:
        self.readings: list[int] = []

    def __call__(self) -> int:
        count = len(self.readings) + 1
        self.readings.append(START + (count - (20 if count == 9 else 0)) * 1_000_000)
        return self.readings[-1]


class Entropy:
    """Bytes for salts: fixed, and never the same twice."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.calls = 0

    def __call__(self, count: int) -> bytes:
        self.calls += 1
        return sha256(f"{self.name} {self.calls}".encode()).digest()[:count]


class Journaled:
    """The state machine's part, without a state: the references are held against the model afterwards."""

    applied_seq = 0

    def check_all(self, events: Sequence[Event], seq: int) -> bool:
        return False

    def check(self, event: Event, seq: int) -> None:
        pass

    def mark(self) -> int:
        return 0

    def rollback(self, mark: int) -> None:
        pass

    def stage(self, appended: Appended, records: Sequence[Record]) -> None: ...

    def apply(self, appended: Appended, records: Sequence[Record]) -> None:
        self.applied_seq = appended.first_seq + appended.count - 1


class Maker:
    """Writes one journal and keeps what was written."""

    def __init__(self, directory: Path) -> None:
        self.directory = str(directory / "journal")
        self.storage = RealStorage()
        self.entropy = Entropy(directory.name)
        self.clock = Clock()
        self.records: list[dict[str, Any]] = []
        self.batches: list[dict[str, Any]] = []
        self.digests: list[dict[str, Any]] = []
        self.model = Model()
        for folder in ("segments", "checkpoints", "quarantine"):
            self.storage.make_directory(f"{self.directory}/{folder}")
        header = SegmentHeader(JOURNAL_ID, self.entropy(8), 1, 1, 0, 0, 0, CHAIN_GENESIS)
        SegmentWriter.create(self.storage, f"{self.directory}/segments", header).close_clean(1, CHAIN_GENESIS)

    def open(self) -> None:
        self.log = Log.open(self.storage, self.directory, segment_bytes_max=4096, entropy=self.entropy)
        self.committer = Committer(self.log, Journaled(), clock=self.clock)

    def batch(self, *requests: Ticket) -> None:
        for request in requests:
            self.committer.submit(request)
        first_reading = len(self.clock.readings)
        self.committer.run()
        receipts = [receipt for request in requests for receipt in request.result()]
        first = receipts[0]
        self.batches.append(
            {"first_seq": first.seq, "count": len(receipts), "epoch": first.epoch, "chain": first.chain}
        )
        for request, reading in zip(requests, self.clock.readings[first_reading:], strict=True):
            for index, (item, receipt) in enumerate(zip(request.drafts, request.receipts, strict=True)):
                self.records.append(
                    {
                        "seq": receipt.seq,
                        "time": receipt.time,
                        "clock": reading if reading != receipt.time else None,
                        "op_id": receipt.op_id,
                        "continues_group": index > 0,
                        "agent": item.agent,
                        "actor": item.actor,
                        "traceparent": item.traceparent,
                        "event": event_to_json(item.event),
                    }
                )
                refused = self.model.would_refuse(item.event)
                assert refused is None, f"{item.event} would be refused: {refused}"
                self.model.apply(receipt.seq, receipt.time, item.agent, item.event)
        self.digests.append({"seq": self.model.position, "digest": self.model.digest()})

    def kill(self) -> None:
        """Ends as a killed process does: no clean close, the lock gone."""
        self.log._lock.release()

    def checkpoint(self) -> None:
        """The state at the end so far. Its vectors are no model's: what counts is how they lie in their part."""
        root = str(Path(self.directory).parent)
        make_checkpoint(self.storage, Layout.under(root), self.clock)
        store = CheckpointStore(self.storage, f"{self.directory}/checkpoints")
        (manifest,) = store.manifests()
        assert manifest.digest == self.model.digest()
        rows = []
        for number, text in enumerate(sorted(row[2] for row in self.model.rows()["observations"])):
            vector = struct.pack("<4f", number, 0.5, -1.0, 2.0**-20)
            rows.append(Row(sha256(text.encode()).digest(), "example model", vector, crc32(vector)))
        vectors = [store.put_part(KIND_EMBEDDINGS, data)[0] for data in pack(rows)]
        store.publish(msgspec.structs.replace(manifest, parts=[*manifest.parts, *vectors]))

    def finish(self) -> None:
        """Cuts the zero fill and writes down what must be read."""
        for path in sorted(Path(self.directory, "segments").iterdir()):
            data = path.read_bytes()
            path.write_bytes(data[: len(data.rstrip(b"\0")) + FILL_KEPT] if data[-1] == 0 else data)
        parts = []
        for name, rows in (("batches", self.batches), ("records", self.records), ("digests", self.digests)):
            lines = ",\n".join(json.dumps(row, ensure_ascii=False) for row in rows)
            parts.append(f'"{name}": [\n{lines}\n]')
        text = f'{{"journal_id": "{JOURNAL_ID.hex()}",\n{", ".join(parts)}}}\n'
        Path(self.directory).parent.joinpath("expected.json").write_text(text, encoding="utf-8")


def request(*events: Event, op_id: str | None = None, agent: str | None = "ledger", actor: str | None = None) -> Ticket:
    trace = TRACE if actor else None
    return ticket([draft(event, agent, actor, trace) for event in events], op_id)


def every_event(made: Maker) -> None:
    """Two sessions' worth: each type at least once, on a history that holds together."""
    note = ObservationAdded("global", "Zoë", "zahlt später: €\u202f1.234,50 😀", {"source": "mail", "page": 3})
    made.batch(
        request(EntityCreated("global", "Zoë", "person", {"né": None, "rank": 0.5}), op_id="crm-991", agent=None)
    )
    made.batch(
        request(
            EntityCreated("workspace:büro", "株式会社", "company"),
            EntityCreated("workspace:büro", "e\u0301cole", "place", confidence=0.25),
            RelationCreated("workspace:büro", "株式会社", "e\u0301cole", "owns", 0.75, 1.0, {"since": [2019, 2021]}),
            op_id="import-7",
            actor="anna@example.org",
        ),
        request(note),
    )
    made.batch(
        request(EntityUpdated("global", "Zoë", confidence=0.875)),
        request(RelationUpdated("workspace:büro", "株式会社", "e\u0301cole", "owns", strength=1.5)),
        request(ConfigWritten("ledger", AGENT, origin="watch"), actor="watch"),
        request(ConfigWritten("zeros", bytes(2000))),  # whole sectors of its batch are zeros by content
        request(ConfigRejected("ledger", b"\xff\xfe---", ["line 1: no UTF-8"])),  # here the clock is set back
        request(StatusChanged("zeros", "suspended", "NUL bytes only")),
        request(MessageRecorded("c-1", "ledger", "user", "Was fehlt noch?\n", "m-1")),
        request(CursorMoved("billing", "m-1")),
        request(TagCreated("vor-dem-umzug", 5)),
    )
    made.batch(
        request(ModelVerified("all-MiniLM-L6-v2", WEIGHTS, "package")),
        request(ModelReplaced("all-MiniLM-L6-v2", WEIGHTS)),
        request(ImportStarted("memory.jsonl", {"entities": 2})),
        request(ImportCompleted("memory.jsonl", {"entities": 1}, ["line 7: no entityType"])),
        request(ScrubCompleted(4096, [])),
        request(DrillCompleted(5, True, 0.125, "ab" * 32)),
        request(CheckpointCreated(5, "ab" * 32, 40960, False)),
        request(RecoveryStarted("r-1", "memory", "rebuild"), agent=None),
        request(RecoveryStepCompleted("r-1", "memory", "rebuild", {"rows": 6}), agent=None),
        request(RecoveryCompleted("r-1", "memory", "rebuild", {"events": 14, "rows": 6}), agent=None),
        request(RecoveryFailed("r-2", "agents", "materialise", {}, "disk is full"), agent=None),
        request(JournalForked("ff" * 16, 3, "cd" * 32, [[4, 9], [12, 12]]), agent=None),
    )
    made.batch(
        request(ObservationRemoved("global", "Zoë", note.content)),
        request(RelationDeleted("workspace:büro", "株式会社", "e\u0301cole", "owns")),
        request(EntityDeleted("workspace:büro", "e\u0301cole")),
        request(ScopeCleared("workspace:büro")),
        request(ConfigRemoved("zeros")),
    )
    made.batch(request(StateRestored(14, "falsch gelöscht"), agent=None, actor="anna@example.org"))


def make_v1(directory: Path) -> None:
    made = Maker(directory)
    made.open()
    every_event(made)
    made.log.close()
    made.checkpoint()
    made.open()
    for number in range(1, 9):  # more than one segment holds
        made.batch(request(ObservationAdded("global", "Zoë", f"Beleg {number}: " + "ä" * 350)))
    made.kill()
    made.open()
    opening = made.log.opening
    assert not opening.clean
    assert opening.carried
    found = EpochStarted(made.log.epoch, opening.previous_epoch, len(opening.carried), opening.torn_bytes)
    made.batch(request(found, agent=None))
    made.batch(*(request(ObservationAdded("global", "Zoë", f"Nachtrag {number}")) for number in range(20)))
    made.log.close()
    made.finish()


def make_v1_torn(directory: Path) -> None:
    made = Maker(directory)
    made.open()
    made.batch(request(EntityCreated("global", "Zoë", "person"), op_id="crm-991"))
    made.batch(request(ObservationAdded("global", "Zoë", "whole")))
    whole = len(made.records), len(made.batches)
    offset = made.log._segment.offset if made.log._segment else 0
    made.batch(request(*(ObservationAdded("global", "Zoë", f"half {number} " + "x" * 100) for number in range(12))))
    del made.records[whole[0] :], made.batches[whole[1] :], made.digests[whole[1] :]
    made.kill()
    made.finish()
    path = sorted(Path(made.directory, "segments").iterdir())[-1]
    data = bytearray(path.read_bytes())
    sector = (offset // 512 + 2) * 512
    data[sector : sector + 512] = bytes(512)
    path.write_bytes(data)


def main() -> None:
    root = Path(sys.argv[1]).resolve()
    make_v1(root / "v1")
    make_v1_torn(root / "v1-torn")


if __name__ == "__main__":
    main()
