"""Sparse indexes: there, missing, of another segment, damaged bit by bit, half written, made while a writer appends.

Scenario: ten million events, and somebody asks what one agent wrote. Whatever state the indexes are in, the answer is
that of reading everything; only how much is read may differ.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from functools import cache

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from journal import index as index_module
from journal import indexing
from journal import segments as segments_module
from journal.errors import Corrupt, NoSpace, Unsupported
from journal.events import EntityCreated, EntityUpdated, Event, ObservationAdded, RelationCreated, StatusChanged
from journal.index import SegmentIndex, decode_index, encode_index, index_of
from journal.index_store import IndexStore
from journal.indexing import fill, index_on_the_way
from journal.log import Log, create
from journal.packing import pack_segments
from journal.reader import LogReader
from journal.record import Record, encode_record
from journal.storage import Storage
from journal.verify import verify
from recovery.records import Entry, Filter, entries, selected
from tests.journals import START
from tests.simcuts import images
from tests.simdisk import SimDisk
from tests.simfaults import PowerCut

JOURNAL = "/data/journal"
AGENTS = ("sales", "ops", "research", None)
NAMES = ("Acme", "Bob", "Zürich", "x")
SCOPES = ("global", "workspace:east", "agent:ops")


@pytest.fixture(autouse=True)
def small(monkeypatch):
    """Granules of ten records, and an index for every sealed segment: many of them in a small history."""
    for module in (index_module, segments_module):
        monkeypatch.setattr(module, "GRANULE_RECORDS", 10)
    for module in (segments_module, indexing):
        monkeypatch.setattr(module, "SEGMENT_BYTES_MIN", 0)


def event(rng: random.Random) -> Event:
    scope, name = rng.choice(SCOPES), rng.choice(NAMES)
    return rng.choice(
        (
            EntityCreated(scope, name, "company"),
            EntityUpdated(scope, name, confidence=0.5),
            ObservationAdded(scope, name, "text " * rng.randrange(20)),
            RelationCreated(scope, name, rng.choice(NAMES), "knows"),
            StatusChanged(name, "suspended"),
        )
    )


def write(storage: Storage, seed: int, batches: int = 120, *, segment_bytes_max: int = 8192, opens: int = 3) -> None:
    """A history by several writers, in batches of one to twelve, some of them groups."""
    rng = random.Random(seed)
    create(storage, JOURNAL, journal_id=bytes([seed % 256]) * 16)
    for _ in range(opens):
        with closing(Log.open(storage, JOURNAL, reserve_bytes=0, segment_bytes_max=segment_bytes_max)) as log:
            for _ in range(batches // opens):
                count = rng.choice((1, 1, 2, 5, 12))
                time = START + log.next_seq // 3 * 10  # the same for several batches, now and then
                group = rng.random() < 0.2
                records = [
                    Record(
                        int(group and number > 0), time + number // 2, None,
                        f"op-{log.next_seq + number}" if rng.random() < 0.3 else None, rng.choice(AGENTS),
                        rng.choice((None, "ann")), None, event(rng),
                    )
                    for number in range(count)
                ]  # fmt: skip
                log.append([encode_record(each) for each in records], records[-1].time)


def everything(storage: Storage) -> list[Entry]:
    """By reading all of it, with no index."""
    reader = LogReader(storage, JOURNAL)
    return list(entries(reader.batches()))


@cache
def history(seed: int) -> tuple[SimDisk, list[Entry]]:
    """One of a few, to be copied, and what it holds."""
    disk = SimDisk()
    write(disk, seed)
    return disk, everything(disk)


def answer(found: Iterator[Entry]) -> list[tuple[int, bytes]]:
    return [(entry.seq, encode_record(entry.record)) for entry in found]


def asked(storage: Storage, wanted: Filter, first: int, last: int | None, count: int | None) -> list[tuple[int, bytes]]:
    return answer(selected(LogReader(storage, JOURNAL), wanted, first, last, count))


def indexed(storage: Storage) -> LogReader:
    reader = LogReader(storage, JOURNAL)
    fill(reader)
    return LogReader(storage, JOURNAL)


def remade(reader: LogReader, number: int) -> SegmentIndex:
    bounds = reader.bounds(number)
    assert bounds.successor is not None
    return index_of(bounds.header, bounds.successor, reader.scan(number))


FILTERS = st.builds(
    Filter,
    agents=st.sampled_from([(), ("ops",), ("nobody",), ("sales", "ops")]),
    actors=st.sampled_from([(), (), ("ann",)]),
    types=st.sampled_from([(), (), ("memory.entity_*",), ("agent.status_changed",)]),
    entities=st.sampled_from([(), (), ("Zürich",), ("Acme", "x"), ("\udcff",)]),
    scopes=st.sampled_from([(), (), ("workspace:east",)]),
    op_ids=st.sampled_from([(), (), (), ("op-7",), ("op-40", "op-41", "e2-33"), ("e2-5", "e3-5")]),
)


@example(seed=1, wanted=Filter(agents=("sales", "ops")), count=3, first=1, length=0, state="made", packed=False)
@settings(max_examples=80, deadline=None)
@given(
    seed=st.integers(0, 5), wanted=FILTERS, count=st.sampled_from([None, 0, 1, 3, 1000]), first=st.integers(1, 300),
    length=st.one_of(st.none(), st.integers(0, 300)), state=st.sampled_from(["there", "missing", "some", "made"]),
    packed=st.booleans(),
)  # fmt: skip
def test_a_filter_answers_as_reading_everything_does(seed, wanted, count, first, length, state, packed):
    written, whole = history(seed)
    disk = written.crash(random.Random(0), "all")
    last = None if length is None else min(first + length, whole[-1].seq)
    end = whole[-1].seq if last is None else last
    kept = list(wanted.select(each for each in whole if first <= each.seq <= end))
    expected = answer(iter(kept if count is None else kept[max(0, len(kept) - count) :]))
    if state in ("there", "some"):
        assert fill(LogReader(disk, JOURNAL)).files > 3
    if state == "some":
        for name in disk.list(f"{JOURNAL}/index")[::2]:
            disk.remove(f"{JOURNAL}/index/{name}")
    if packed:
        assert pack_segments(disk, JOURNAL, bytes_min=1).segments > 1
    make = index_on_the_way if state == "made" else None
    assert answer(selected(LogReader(disk, JOURNAL), wanted, first, last, count, make)) == expected


def test_a_record_is_the_same_wherever_it_is_looked_for_from():
    disk = SimDisk()
    write(disk, 1)
    plain = LogReader(disk, JOURNAL)
    chains = {batch.last_seq: batch.chain for batch in plain.batches()}
    batches = list(plain.batches())
    reader = indexed(disk)
    for batch in batches:
        for seq in (batch.first_seq, batch.last_seq):
            found = reader.batch_of(seq)
            assert (found.first_seq, found.chain, bytes(found.payload)) == (
                batch.first_seq, batch.chain, bytes(batch.payload),
            )  # fmt: skip
            assert (found.offset, found.end, found.epoch) == (batch.offset, batch.end, batch.epoch)
            assert reader.time_of(seq) == plain.time_of(seq)
    assert {seq: reader.chain_at(seq) for seq in chains} == chains
    assert [each.chain for each in reader.batches(17, 90)] == [each.chain for each in plain.batches(17, 90)]


def test_a_moment_is_the_same_seq_with_an_index_and_without():
    disk = SimDisk()
    write(disk, 2)
    times = [entry.record.time for entry in everything(disk)]
    reader = indexed(disk)
    for time in {moment + shift for moment in times for shift in (-1, 0, 1)} | {0, times[-1] + 10**9}:
        assert reader.seq_at(time) == sum(each <= time for each in times)
        assert reader.seq_at(time, exclusive=True) == sum(each < time for each in times)


# -- indexes that are not to be believed ------------------------------------------------------------------------------


def test_every_flipped_bit_of_an_index_is_noticed():
    disk = SimDisk()
    write(disk, 3, 24, segment_bytes_max=2048)
    reader = indexed(disk)
    path = f"{JOURNAL}/index/{disk.list(f'{JOURNAL}/index')[1]}"
    data = disk.read(path)
    decode_index(data, path)
    for bit in range(len(data) * 8):
        damaged = bytearray(data)
        damaged[bit >> 3] ^= 1 << (bit & 7)
        with pytest.raises((Corrupt, Unsupported)):
            decode_index(bytes(damaged), path)
    for length in range(len(data)):
        with pytest.raises(Corrupt):
            decode_index(data[:length], path)
    assert reader.segments


def damage(disk: SimDisk, rng: random.Random) -> None:
    for name in disk.list(f"{JOURNAL}/index"):
        path = f"{JOURNAL}/index/{name}"
        if name != "lock" and rng.random() < 0.7:
            at = rng.randrange(disk.size(path))
            disk.poke(path, at, bytes([disk.read(path)[at] ^ (1 << rng.randrange(8))]))


@pytest.mark.parametrize("seed", range(4))
def test_answers_from_damaged_indexes_are_right(seed):
    disk = SimDisk()
    write(disk, seed)
    whole = everything(disk)
    indexed(disk)
    damage(disk, random.Random(seed))
    wanted = Filter(agents=("ops",), types=("memory.*",))
    expected = answer(wanted.select(iter(whole)))
    assert asked(disk, wanted, 1, None, None) == expected
    assert asked(disk, wanted, 1, None, 5) == expected[-5:]
    for entry in whole[::7]:
        assert LogReader(disk, JOURNAL).batch_of(entry.seq).first_seq <= entry.seq


def test_an_index_of_another_segment_of_that_name_is_not_used():
    """Scenario: a backup of another history was brought back, and the indexes of this one still lie there."""
    one, other = SimDisk(), SimDisk()
    write(one, 4)
    create(other, JOURNAL, journal_id=bytes([4]) * 16)  # the same id: a copy that was written separately
    rng = random.Random(99)
    with closing(Log.open(other, JOURNAL, reserve_bytes=0, segment_bytes_max=8192)) as log:
        for _ in range(200):
            log.append([encode_record(Record(0, START, None, None, "ops", None, None, event(rng)))], START)
    indexed(one)
    theirs = IndexStore(one, JOURNAL)
    key = theirs.listed()[0]
    foreign = theirs.load(key)
    store = IndexStore(other, JOURNAL)
    with store.exclusive():
        store.write(foreign)
    whole = everything(other)
    assert LogReader(other, JOURNAL).segments[0][:2] == key or any(
        each[:2] == key for each in LogReader(other, JOURNAL).segments
    )
    wanted = Filter(agents=("research",))
    assert asked(other, wanted, 1, None, None) == []
    assert len(asked(other, Filter(agents=("ops",)), 1, None, None)) == len(whole) == 200
    assert fill(LogReader(other, JOURNAL)).files == len(LogReader(other, JOURNAL).segments) - 2, "the first is empty"


def test_granules_that_begin_elsewhere_than_the_index_says_are_read_from_the_segment():
    """An index with a right CRC and wrong content, which no damage makes: by another program, say."""
    disk = SimDisk()
    write(disk, 5)
    reader = indexed(disk)
    store = reader.indexes
    with store.exclusive():
        for key in store.listed():
            known = store.load(key)
            lengths = [known.at(number + 1).seq - each.seq for number, each in enumerate(known.granules)]
            moved = tuple(
                each._replace(seq=each.seq + (number > 0 and length > 1))
                for number, (each, length) in enumerate(zip(known.granules, lengths, strict=True))
            )
            store.write(index_module.SegmentIndex(
                known.journal_id, known.salt, known.epoch, known.first_seq, moved, known.end
            ))  # fmt: skip
    plain = {entry.seq: encode_record(entry.record) for entry in everything(disk)}
    reader = LogReader(disk, JOURNAL)
    for seq, expected in plain.items():
        batch = reader.batch_of(seq)
        assert encode_record(batch.records()[seq - batch.first_seq]) == expected
    found = verify(disk, JOURNAL)
    assert found.exit_code == 12
    assert {each.message for each in found.findings} == {"the index is not that of its segment"}


def test_damage_to_a_segment_is_named_where_an_index_leads_to_it():
    disk = SimDisk()
    write(disk, 1)
    reader = indexed(disk)
    segment = reader.segments[2]
    known = reader.index_of(2)
    at = known.granules[1].offset + 100
    disk.poke(segment.path, at, bytes([disk.read(segment.path)[at] ^ 4]))
    with pytest.raises(Corrupt, match=r"events .* cannot be read") as told:
        LogReader(disk, JOURNAL).batch_of(known.granules[1].seq)
    assert told.value.path == segment.path
    with pytest.raises(Corrupt, match="cannot be read"):
        asked(disk, Filter(types=("memory.*", "agent.*")), 1, None, None)


# -- making them ------------------------------------------------------------------------------------------------------


def test_a_cut_while_an_index_is_written_leaves_an_answer_and_the_next_run_the_index():
    """Every moment of a power cut during `fill`, and every disk that it may leave."""
    before = SimDisk()
    write(before, 6, 45, segment_bytes_max=2048)
    whole = everything(before)
    wanted = Filter(agents=("sales",), entities=("Acme", "Bob"))
    expected = answer(wanted.select(iter(whole)))
    durable = before.crash(random.Random(0), "all")
    changes = durable.counts.changes
    fill(LogReader(durable, JOURNAL))
    total = durable.counts.changes - changes
    rng, looked = random.Random(1), 0
    for step in range(0, total, 2):
        disk = before.crash(random.Random(0), "all")
        disk.cut_at = disk.counts.changes + step + 1
        with pytest.raises(PowerCut):
            fill(LogReader(disk, JOURNAL))
        for image in images(disk, rng, 4):
            left = image.disk()
            assert asked(left, wanted, 1, None, None) == expected
            assert verify(left, JOURNAL).exit_code == 0
            fill(LogReader(left, JOURNAL))
            names = left.list(f"{JOURNAL}/index")
            assert not [name for name in names if name.endswith(".tmp")]
            assert len(names) - 1 == len(LogReader(left, JOURNAL).segments) - 2
            looked += 1
    assert looked > 50


def test_indexes_are_made_while_a_writer_appends(tmp_path):
    disk = SimDisk()
    write(disk, 7, 30, segment_bytes_max=2048)
    rng = random.Random(7)
    with closing(Log.open(disk, JOURNAL, reserve_bytes=0, segment_bytes_max=2048)) as log:
        for _ in range(12):
            reader = LogReader(disk, JOURNAL)
            for _ in range(9):
                log.append([encode_record(Record(0, START * 2, None, None, "ops", None, None, event(rng)))], START * 2)
            fill(reader)  # it looked before the segments that are there now
            wanted = Filter(agents=("ops",))
            expected = answer(wanted.select(iter(everything(disk))))
            assert asked(disk, wanted, 1, None, None) == expected
            assert asked(disk, wanted, 1, None, 11) == expected[-11:]


def test_an_index_whose_segment_is_gone_goes_too():
    disk = SimDisk()
    write(disk, 8)
    reader = indexed(disk)
    made = remade(reader, 1)
    with reader.indexes.exclusive():
        stranger = index_module.SegmentIndex(bytes(16), bytes(8), 9, 1, made.granules, made.end)
        reader.indexes.write(stranger)
    assert [each.code for each in verify(disk, JOURNAL).findings] == ["index_late"]
    assert fill(LogReader(disk, JOURNAL)).removed == 1
    assert verify(disk, JOURNAL).findings == []


def test_an_index_is_made_of_a_segment_in_the_same_bytes_every_time():
    disk = SimDisk()
    write(disk, 8)
    reader = indexed(disk)
    for number in range(1, len(reader.segments) - 1):  # the first holds nothing
        known = reader.index_of(number)
        assert known is not None
        assert encode_index(known) == encode_index(remade(reader, number))


def test_an_index_is_of_the_segment_whether_it_is_packed_or_not():
    disk = SimDisk()
    write(disk, 10)
    before = {number: made for number, made in enumerate(map(indexed(disk).index_of, range(5))) if made is not None}
    plain = {entry.seq: encode_record(entry.record) for entry in everything(disk)}
    assert pack_segments(disk, JOURNAL, bytes_min=1).segments > 1
    reader = LogReader(disk, JOURNAL)
    assert len(before) == 4
    for number, made in before.items():
        assert reader.index_of(number) == made == remade(reader, number)
    for seq, expected in plain.items():
        batch = reader.batch_of(seq)
        assert encode_record(batch.records()[seq - batch.first_seq]) == expected
    assert verify(disk, JOURNAL).findings == []


def test_a_filter_that_lacks_a_name_is_found_by_making_it_anew():
    """Scenario: a bug in the program that made it; its CRC is right, and no other check looks at what it leaves out."""
    disk = SimDisk()
    write(disk, 4)
    store = indexed(disk).indexes
    with store.exclusive():
        known = store.load(store.listed()[1])
        empty = known.granules[0]._replace(filter=memoryview(bytes(len(known.granules[0].filter))))
        store.write(replace(known, granules=(empty, *known.granules[1:])))
    assert verify(disk, JOURNAL).findings == []
    (found,) = verify(disk, JOURNAL, deep=True).findings
    assert (found.message, found.path) == ("the index is not that of its segment", store.path_of(store.listed()[1]))


def test_what_lies_among_the_indexes_and_is_none_is_told_of():
    disk = SimDisk()
    write(disk, 4)
    store = indexed(disk).indexes
    disk.open(f"{store.directory}/notes.txt", write=True, create=True).close()
    assert [each.code for each in verify(disk, JOURNAL).findings] == ["stray_file"]


def test_indexes_leave_the_disk_its_last_space():
    disk = SimDisk()
    write(disk, 9)
    disk.set_free_bytes(20 << 20)
    with pytest.raises(NoSpace):
        fill(LogReader(disk, JOURNAL))
    wanted = Filter(agents=("ops",))
    found = selected(LogReader(disk, JOURNAL), wanted, 1, None, None, index_on_the_way)
    assert answer(found) == answer(wanted.select(iter(everything(disk))))
    assert disk.list(f"{JOURNAL}/index") == ["lock"]


def test_an_index_that_cannot_be_written_costs_time_and_no_answer():
    disk = SimDisk()
    write(disk, 9)
    disk.fail("create", path="index")
    expected = answer(Filter(agents=("ops",)).select(iter(everything(disk))))
    found = selected(LogReader(disk, JOURNAL), Filter(agents=("ops",)), 1, None, None, index_on_the_way)
    assert answer(found) == expected


def test_each_seq_alone_is_found_by_a_filter_that_it_meets():
    """At both ends of every granule and segment: of a range of one seq nothing may be cut off."""
    written, whole = history(3)
    disk = written.crash(random.Random(0), "all")
    indexed(disk)
    reader, wanted = LogReader(disk, JOURNAL), Filter(types=("memory.*", "agent.*"))
    for entry in whole:
        for count in (None, 5):
            found = selected(reader, wanted, entry.seq, entry.seq, count)
            assert answer(found) == [(entry.seq, encode_record(entry.record))]
