"""What a sparse index saves, counted: bytes that are read, files that are opened, records that are decoded.

Scenario: the history is eight times as long, and what is looked for lies where it lay; or somebody is looked for who
wrote twice in all.
"""

from __future__ import annotations

from contextlib import closing

import pytest

from journal.events import ObservationAdded
from journal.log import Log, create
from journal.reader import LogReader
from journal.record import Record, encode_record
from journal.scan import Batch
from recovery.records import Filter, selected
from tests.journals import START
from tests.simdisk import SimDisk
from tests.test_journal_index import JOURNAL, indexed, small

pytestmark = pytest.mark.usefixtures(small.__name__)


def observed(seq: int, agent: str) -> bytes:
    return encode_record(
        Record(0, START + seq, None, None, agent, None, None, ObservationAdded("global", "x", f"{seq}"))
    )


@pytest.mark.parametrize("ask", ["newest", "show", "moment", "agent"])
def test_what_is_read_does_not_depend_on_the_length_of_the_history(ask, monkeypatch):
    """The last twenty, one in the middle, a moment in the middle, and an agent who wrote lately."""
    costs = []
    for segments in (10, 80):
        disk = SimDisk()
        create(disk, JOURNAL, journal_id=bytes(16))
        with closing(Log.open(disk, JOURNAL, reserve_bytes=0, segment_bytes_max=16384)) as log:
            while len(disk.list(f"{JOURNAL}/segments")) <= segments:
                log.append(
                    [observed(log.next_seq, "rare" if log.next_seq % 50 == 0 else "often")], START + log.next_seq
                )
            last = log.next_seq - 1
        indexed(disk)
        before, opened = disk.counts.bytes_read, disk.counts["open"]
        reader = LogReader(disk, JOURNAL)
        opening = disk.counts.bytes_read - before
        if ask == "newest":
            assert len(list(selected(reader, Filter(), 1, None, 20))) == 20
        elif ask == "show":
            assert reader.batch_of(last // 2).first_seq == last // 2
        elif ask == "moment":
            assert reader.seq_at(START + last // 2) == last // 2
        else:
            assert len(list(selected(reader, Filter(agents=("rare",)), 1, None, 4))) == 4
        costs.append((opening, disk.counts.bytes_read - before - opening, disk.counts["open"] - opened))
    (opening, first, few), (opening_later, second, many) = costs
    steps = 4 if ask == "moment" else 0  # eight times as many segments: three more steps of the bisection
    assert opening_later <= opening + 16384
    assert second <= first + 2 * 16384 + steps * 140_000  # a step reads two headers
    assert many <= few + 2 + steps * 3


def test_a_rare_name_is_found_by_reading_indexes_and_the_granules_that_hold_it(monkeypatch):
    disk = SimDisk()
    create(disk, JOURNAL, journal_id=bytes(16))
    with closing(Log.open(disk, JOURNAL, reserve_bytes=0, segment_bytes_max=16384)) as log:
        for seq in range(1, 2001):
            log.append([observed(seq, "rare" if seq in (5, 1000) else "often")], START + seq)
    reader = indexed(disk)
    scanned: list[int] = []
    monkeypatch.setattr(LogReader, "_whole", lambda self, number, _: scanned.append(number) or iter(()))
    found = [entry.seq for entry in selected(reader, Filter(agents=("rare",)), 1, 1990, 20)]
    assert found == [5, 1000]
    assert set(scanned) <= {0}, "the first holds nothing, and has no index"


def test_a_rare_name_costs_each_index_once_and_decodes_what_holds_it(monkeypatch):
    """Of each segment its header and its index are opened and read; of records those of a batch that has the name."""
    disk = SimDisk()
    create(disk, JOURNAL, journal_id=bytes(16))
    with closing(Log.open(disk, JOURNAL, reserve_bytes=0, segment_bytes_max=16384)) as log:
        for _ in range(800):
            seq = log.next_seq
            agents = ["rare" if seq + index in (801, 1602) else "often" for index in range(5)]
            log.append([observed(seq + index, agent) for index, agent in enumerate(agents)], START + seq + 4)
    indexed(disk)
    decoded: list[int] = []
    records = Batch.records
    monkeypatch.setattr(Batch, "records", lambda self: decoded.append(self.count) or records(self))
    reader = LogReader(disk, JOURNAL)
    read, opened = disk.counts.bytes_read, disk.counts["open"]
    found = [entry.seq for entry in selected(reader, Filter(agents=("rare",)), 1, None, 20)]
    assert found == [801, 1602]
    assert sum(decoded) == 2 * 5, "the last segment has no index, and is read whole all the same"
    segments, indexes = len(reader.segments), disk.list(f"{JOURNAL}/index")
    index_bytes = sum(disk.size(f"{JOURNAL}/index/{name}") for name in indexes if name != "lock")
    assert segments > 15
    assert disk.counts["open"] - opened <= 2 * segments + 4
    # Headers, the granules of ten records, and the last segment, whose length its granules follow.
    assert disk.counts.bytes_read - read <= index_bytes + segments * 4096 + 6 * 16384
