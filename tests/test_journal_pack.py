"""A sealed segment is packed: its bytes come back one by one, wherever they are read, and readers notice nothing."""

from __future__ import annotations

import os
import shutil
import struct
import tracemalloc
import zlib
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest
import zstandard

from journal.checkpoint import CheckpointStore
from journal.commit import Committer, draft, ticket
from journal.errors import Corrupt, IOFault, Locked, Unsupported
from journal.events import ObservationAdded
from journal.format import KIND_PACK, VERSION, encode_header
from journal.log import Log
from journal.pack import BLOCK_PAYLOAD_BYTES, BLOCK_RECORDS, TAIL_BYTES, decode_pack, encode_pack, find_pack
from journal.packing import pack_segments, packable
from journal.parity_store import ParityStore, Protected
from journal.reader import LogReader, list_segments
from journal.salvage import survey
from journal.segment import is_packed, packed_path, plain_path
from journal.storage import File, RealStorage
from journal.stored import open_segment, read_segment_header
from journal.unpack import decoder_of, unpack, unpack_block
from journal.verify import verify
from tests.crashes import Everything
from tests.hostile_packs import with_frame
from tests.journals import START, journal_in, record, segment_files
from tests.overlay import View, ViewFile
from tests.packs import packed_journal, packed_specimen, packs, write_segments
from tests.second_reader import read_journal
from tests.specimen import Specimen, specimen


def journal_of(tmp_path: Path, batches: int = 150, together: int = 25) -> tuple[RealStorage, str]:
    storage, directory = journal_in(tmp_path)
    write_segments(storage, directory, batches, together)
    assert isinstance(storage, RealStorage)
    return storage, directory


def everything(reader: LogReader) -> list[tuple[object, ...]]:
    return [
        (each.first_seq, each.count, each.epoch, each.durable_seq, each.previous_chain, each.chain, bytes(each.payload),
         each.offset, each.end, each.records())
        for each in reader.batches()
    ]  # fmt: skip


def test_the_bytes_of_each_sealed_segment_come_back(tmp_path: Path) -> None:
    storage, directory = journal_of(tmp_path)
    found = packable(storage, directory)
    assert len(found) > 3
    for each in found:
        data = storage.read(each.path)[: each.end.offset]
        pack = encode_pack(data, each.path)
        assert unpack(pack, each.path) == data
        assert len(pack) < len(data) / 3
        assert find_pack(pack, each.path) == decode_pack(pack, each.path)


@pytest.mark.parametrize("seed", [0, 1])
def test_a_journal_of_all_that_can_be_reads_the_same_when_it_is_packed(seed: int) -> None:
    plain, packed = specimen(seed), packed_specimen(seed)
    assert len(packs(packed)) == len(plain.segments) - 2
    one, other = LogReader(plain.view(), plain.root), LogReader(packed.view(), packed.root)
    assert everything(one) == everything(other)
    assert (one.tail, one.last_time, one.carried()) == (other.tail, other.last_time, other.carried())
    for seq in range(1, one.last_seq + 1):
        assert one.chain_at(seq) == other.chain_at(seq)
        assert one.time_of(seq) == other.time_of(seq)
    for time in (one.time_of(40) - 1, one.time_of(40), one.last_time, 0):
        assert one.seq_at(time) == other.seq_at(time)
    report = verify(packed.view(), packed.root, evidence_seq=packed.last_seq)
    assert (report.findings, report.last_seq, report.chain) == ([], one.last_seq, one.last_chain.hex())
    assert report.events == one.last_seq


def test_blocks_end_where_batches_do_and_are_about_a_thousand_records(tmp_path: Path) -> None:
    storage, directory = journal_in(tmp_path)
    write_segments(storage, directory, 150, 41, segment=256 << 10)
    pack_segments(storage, directory)
    path = list_segments(storage, directory)[1].path
    pack = find_pack(storage.read(path), path)
    records = [block.last_seq - block.first_seq + 1 for block in pack.blocks]
    assert len(records) > 1
    assert set(records[:-1]) == {BLOCK_RECORDS - BLOCK_RECORDS % 41}
    assert all(block.end - block.start <= BLOCK_PAYLOAD_BYTES * 2 for block in pack.blocks)


def test_any_range_of_a_segment_is_read_out_of_its_pack(tmp_path: Path) -> None:
    storage, directory = journal_of(tmp_path)
    path = packable(storage, directory)[0].path
    header, data = read_segment_header(storage, path), storage.read(path)
    pack_segments(storage, directory)
    file = open_segment(storage, path)  # under the name that it had
    data = data[: file.size()]
    assert read_segment_header(storage, path) == header
    for offset in range(0, len(data) + 700, 391):
        for length in (0, 1, 700, 70_000):
            assert file.read_at(offset, length) == data[offset : offset + length]
    file.close()
    assert open_segment(storage, path).read_at(0, len(data) + 1) == data


def test_the_last_two_segments_and_small_ones_stay_as_they_are(tmp_path: Path) -> None:
    storage, directory = journal_of(tmp_path)
    before = [each.path for each in list_segments(storage, directory)]
    assert pack_segments(storage, directory, bytes_min=1 << 30).segments == 0
    done = pack_segments(storage, directory)
    assert done.segments == len(before) - 3, "the first holds nothing"
    after = [each.path for each in list_segments(storage, directory)]
    assert after[-2:] == before[-2:]
    assert [is_packed(path) for path in after] == [False] + [True] * done.segments + [False] * 2
    assert pack_segments(storage, directory) == type(done)(), "nothing is left to do"


def test_a_reader_that_listed_the_segments_before_goes_on(tmp_path: Path) -> None:
    storage, directory = journal_of(tmp_path)
    reader = LogReader(storage, directory)
    before = everything(reader)
    batches = reader.batches()
    begun = [next(batches) for _ in range(30)]
    assert pack_segments(storage, directory).segments > 2
    assert [each.chain for each in [*begun, *batches]] == [each[5] for each in before]
    assert everything(reader) == before
    reader.refresh()
    assert everything(reader) == before


def test_retries_are_answered_from_the_open_segment_and_from_those_that_were_packed(tmp_path: Path) -> None:
    """A client retries, the log goes on and on, and the client, whose clock runs late, retries again."""
    storage, directory = journal_in(tmp_path)
    with closing(Log.open(storage, directory, segment_bytes_max=64 << 10)) as log:
        committer = Committer(log, Everything())

        def appended(number: int) -> int:
            event = ObservationAdded("global", "Acme", f"{number} {'x' * 100}")
            request = ticket([draft(event, None, None, None)], f"op-{number}")
            committer.submit(request)
            committer.run()
            return request.result()[0].seq

        assert [appended(number) for number in range(1, 101)] == [*range(1, 101)]
        assert appended(40) == 40
        for number in range(101, 1001):
            appended(number)
        assert pack_segments(storage, directory).segments == 2
        assert [appended(number) for number in (1, 40, 100, 101, 600, 1000)] == [1, 40, 100, 101, 600, 1000]
        assert log.next_seq == 1001


@pytest.mark.parametrize("closed", [True, False])
def test_a_reader_whose_last_segment_was_packed_since_goes_on(tmp_path: Path, closed: bool) -> None:
    """The next opener cuts a clean close off, or carries what nobody had vouched for, before the segment is packed."""
    storage, directory = journal_of(tmp_path)
    log = Log.open(storage, directory, segment_bytes_max=3000)
    for _ in range(3):
        log.append([record(log.next_seq)], START + log.next_seq)
    log.close() if closed else log._lock.release()
    reader = LogReader(storage, directory)
    before = [(each.first_seq, each.chain) for each in reader.batches()]
    write_segments(storage, directory, 60, 5, segment=4096)
    pack_segments(storage, directory, bytes_min=1)
    assert storage.kind(reader.tail.path) == "missing"
    assert [(each.first_seq, each.chain) for each in reader.batches()] == before
    assert reader.batch_of(reader.last_seq).chain == before[-1][1]


def test_the_second_reader_unpacks_by_the_text_alone(tmp_path: Path) -> None:
    """The specimen has blank sectors by content, carried batches and groups: all that unpacking makes anew."""
    plain, packed = specimen(0), packed_specimen()
    for name, subject in (("plain", plain), ("packed", packed)):
        for path, data in subject.image.items():
            target = tmp_path / name / path.removeprefix(f"{subject.root}/")
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(data)
    one, other = read_journal(tmp_path / "plain"), read_journal(tmp_path / "packed")
    assert (one.records, one.batches, one.flags, one.chain) == (other.records, other.batches, other.flags, other.chain)
    assert 2 in one.flags
    assert len(list((tmp_path / "packed" / "segments").glob("*.pack"))) > 8


# -- damage -----------------------------------------------------------------------------------------------------------


def one_pack() -> tuple[Specimen, str, bytes]:
    """A journal with packs; one of some blocks, and its bytes."""
    subject = packed_journal()
    path = packs(subject)[0]
    return subject, path, subject.image[path]


def test_a_damaged_block_is_named_with_its_place_and_its_events() -> None:
    subject, path, data = one_pack()
    block = find_pack(data, path).blocks[1]
    storage = subject.view({path: data[: block.offset + 9] + bytes(40) + data[block.offset + 49 :]})
    reader, seen = LogReader(storage, subject.root), []
    with pytest.raises(Corrupt, match=f"events {block.first_seq}-{block.last_seq} cannot be read") as raised:
        seen.extend(iter(reader.batches()))
    assert (raised.value.path, raised.value.offset, raised.value.seq) == (path, block.offset, block.first_seq)
    assert reader.batch_of(block.last_seq + 1).first_seq == block.last_seq + 1, "and what lies behind it is"
    report = verify(storage, subject.root)
    assert [(each.path, each.offset, each.seq) for each in report.findings] == [(path, block.offset, block.first_seq)]
    assert (report.exit_code, report.last_seq) == (12, reader.last_seq)
    found = survey(storage, subject.root)
    assert found.lost == [(block.first_seq, block.last_seq)], "no more is given up than is damaged"
    assert [(each.path, each.offset, each.length) for each in found.spots] == [(path, block.offset, block.length)]


def test_two_damaged_blocks_are_both_named() -> None:
    subject, path, data = one_pack()
    blocks = find_pack(data, path).blocks
    changed = bytearray(data)
    for block in blocks[:2]:
        changed[block.offset + 20] ^= 3
    storage = subject.view({path: bytes(changed)})
    report = verify(storage, subject.root)
    assert [each.offset for each in report.findings] == [block.offset for block in blocks[:2]]
    assert survey(storage, subject.root).lost == [(blocks[0].first_seq, blocks[1].last_seq)]


@pytest.mark.parametrize("where", ["front", "copy", "length", "behind"])
def test_a_damaged_header_costs_nothing_but_is_named(where: str) -> None:
    subject, path, data = one_pack()
    before = everything(LogReader(subject.view(), subject.root))
    pack = find_pack(data, path)
    offset = {"front": 100, "copy": pack.copy_at + 100, "length": len(data) - 3, "behind": len(data)}[where]
    changed = data + b"x" if where == "behind" else data[:offset] + b"\xff\xfe" + data[offset + 2 :]
    storage = subject.view({path: bytes(changed)})
    assert everything(LogReader(storage, subject.root)) == before
    (found,) = verify(storage, subject.root).findings
    assert (found.path, found.severity) == (path, "damage")
    assert survey(storage, subject.root).lost == []


def test_without_either_header_the_pack_is_lost_and_nothing_else() -> None:
    subject, path, data = one_pack()
    pack = find_pack(data, path)
    storage = subject.view({path: b"\0" * 40 + data[40 : pack.copy_at] + bytes(len(data) - pack.copy_at)})
    report = verify(storage, subject.root)
    assert {each.path for each in report.findings} == {path}
    found = survey(storage, subject.root)
    assert found.lost == [(pack.header.first_seq, pack.next_seq - 1)]
    assert [(each.path, each.length) for each in found.spots] == [(path, len(data))]


def test_a_newer_pack_is_unsupported_and_never_corrupt() -> None:
    subject, path, data = one_pack()
    pack = find_pack(data, path)
    newer = bytearray(encode_header(KIND_PACK, pack.encoded[20:]))
    newer[8] = VERSION + 1
    newer[16:20] = zlib.crc32(newer[20:], zlib.crc32(newer[:16])).to_bytes(4, "little")
    frames = data[pack.header_bytes : pack.copy_at]
    storage = subject.view({path: bytes(newer) + frames + bytes(newer) + len(newer).to_bytes(TAIL_BYTES, "little")})
    with pytest.raises(Unsupported):
        list(LogReader(storage, subject.root).batches())
    assert {each.code for each in verify(storage, subject.root).findings} == {Unsupported.code}


def test_a_frame_that_claims_a_gigabyte_is_refused_before_it_is_unpacked() -> None:
    _, path, data = one_pack()
    pack = find_pack(data, path)
    block = pack.blocks[0]
    bomb = zstandard.ZstdCompressor().compress(bytes(1 << 28))
    changed = bytearray(pack.encoded[20:])
    at = len(changed) - 52 * len(pack.blocks)
    for body_bytes in (block.body_bytes, 1 << 28):  # the header tells the truth of the frame, or does not
        changed[at : at + 20] = struct.pack(
            "<IIIII", len(bomb), body_bytes, block.last_seq - block.first_seq + 1, block.end - block.start,
            zlib.crc32(bomb),
        )  # fmt: skip
        header = encode_header(KIND_PACK, bytes(changed))
        frames = bomb + data[block.offset + block.length : pack.copy_at]
        whole = header + frames + header + len(header).to_bytes(TAIL_BYTES, "little")
        tracemalloc.start()
        with pytest.raises(Corrupt, match="out of bounds" if body_bytes >> 27 else "another length"):
            unpack(whole, path)
        assert tracemalloc.get_traced_memory()[1] < 20 << 20
        tracemalloc.stop()


# -- packing that is cut, or meets a bad disk -------------------------------------------------------------------------


class Rotting(View):
    """What is written to a temporary pack has one wrong bit when it is read back."""

    def open(self, path: str, *, write: bool = False, create: bool = False) -> File:
        file = super().open(path, write=write, create=create)
        return Rot(self, path) if create and path.endswith(".pack.tmp") else file


class Rot(ViewFile):
    def write_at(self, offset: int, data: bytes) -> None:
        super().write_at(offset, data[:700] + bytes((data[700] ^ 1,)) + data[701:])


def test_a_pack_that_does_not_read_back_leaves_its_segment() -> None:
    subject = specimen(0)
    disk = Rotting(subject.root, subject.image)
    with pytest.raises(IOFault, match="does not read back"):
        pack_segments(disk, subject.root, bytes_min=1)
    assert [each.path for each in list_segments(disk, subject.root)] == subject.segments
    assert [path for path in disk.names() if ".pack" in path] == []


def test_a_journal_that_takes_the_place_of_the_one_that_is_packed_keeps_its_segments(tmp_path: Path) -> None:
    """Scenario: somebody puts the directory aside and another in its place while a pack gets its parity."""
    storage, directory = journal_in(tmp_path)
    write_segments(storage, directory, 150, 25)

    class Swapping(ParityStore):
        def protect(self, wanted: Protected) -> bool:
            os.rename(directory, f"{directory}.aside")
            shutil.copytree(f"{directory}.aside", directory)
            return True

    before = [each.path for each in list_segments(storage, directory)]
    with pytest.raises(Locked, match="replaced"):
        pack_segments(storage, directory, Swapping(storage, directory))
    assert [each.path for each in list_segments(storage, directory)] == before


def test_a_damaged_segment_is_not_packed_and_keeps_what_its_repair_needs() -> None:
    subject = specimen(0)
    candidate = next(each for each in packable(subject.view(), subject.root, 1) if each.end.offset > 3000)
    data = subject.image[candidate.path]
    disk = subject.view({candidate.path: data[:2500] + b"rot" + data[2503:]})
    assert pack_segments(disk, subject.root, bytes_min=1).skipped == [candidate.path]
    assert disk.kind(packed_path(candidate.path)) == "missing"


@pytest.mark.parametrize("left", ["whole", "rotten", "of another segment", "empty"])
def test_a_pack_that_a_cut_left_is_proven_or_made_anew(left: str) -> None:
    plain, packed = specimen(0), packed_specimen()
    first, other = [path for path in packs(packed) if find_pack(packed.image[path], path).blocks][:2]
    whole = packed.image[first]
    rotten = whole[:-600] + bytes((whole[-600] ^ 16,)) + whole[-599:]
    found = {"whole": whole, "rotten": rotten, "of another segment": packed.image[other], "empty": b""}[left]
    disk = plain.view({first: found, f"{first}.tmp": b"half"})
    before = everything(LogReader(plain.view(), plain.root))
    assert everything(LogReader(disk, plain.root)) == before, "the segment counts"
    (note,) = [each for each in verify(disk, plain.root).findings if each.path == first]
    assert (note.severity, note.code) == ("note", "half_packed")
    pack_segments(disk, plain.root, bytes_min=1)
    assert disk.content(first) == whole
    assert disk.kind(plain_path(first)) == disk.kind(f"{first}.tmp") == "missing"
    assert everything(LogReader(disk, plain.root)) == before


def test_nothing_is_packed_while_somebody_changes_the_journals_files(tmp_path: Path) -> None:
    storage, directory = journal_of(tmp_path)
    before = segment_files(directory)
    with CheckpointStore(storage, f"{directory}/checkpoints").exclusive(), pytest.raises(Locked):
        pack_segments(storage, directory)
    assert segment_files(directory) == before


def test_a_segment_goes_only_with_parity_of_its_pack_where_there_is_to_be_any(tmp_path: Path) -> None:
    storage, directory = journal_of(tmp_path)
    parity = ParityStore(storage, directory)
    parity.fill()
    with parity.exclusive(), pytest.raises(Locked):
        pack_segments(storage, directory, parity)
    assert [each.path for each in list_segments(storage, directory) if is_packed(each.path)] == []
    assert pack_segments(storage, directory, parity).segments > 1
    names = set(parity.names())
    for each in list_segments(storage, directory)[1:-2]:
        name = each.path.removeprefix(f"{directory}/")
        assert name in names
        assert plain_path(name) not in names


def test_what_was_packed_is_evidence_of_the_logs_end(tmp_path: Path) -> None:
    """All segments behind the packed ones are gone: the log ends in a pack, and the next opener goes on from there."""
    storage, directory = journal_of(tmp_path)
    pack_segments(storage, directory)
    segments = list_segments(storage, directory)
    for each in segments[-2:]:
        storage.remove(each.path)
    reader = LogReader(storage, directory)
    assert (reader.tail.path, reader.tail.region, reader.tail.closed) == (segments[-3].path, None, False)
    assert list(reader.batches())[-1].chain == reader.last_chain
    log = Log.open(storage, directory)
    assert (log.next_seq, log.opening.carried) == (reader.last_seq + 1, ())
    log.append([record(log.next_seq)], START + log.next_seq * 1000)
    log.close()
    report = verify(storage, directory)
    assert (report.findings, report.last_seq) == ([], reader.last_seq + 1)


# -- what stands between a lie and its reader -------------------------------------------------------------------------


def test_a_flip_of_what_no_chain_covers_is_noticed() -> None:
    """Epochs and durable seqs of a block's batches are in no chain: what keeps them is the CRC."""
    _, path, data = one_pack()
    block = find_pack(data, path).blocks[0]
    content = bytearray(zstandard.ZstdDecompressor().decompress(data[block.offset : block.offset + block.length]))
    content[12] ^= 3  # of the first batch's lag
    frame = zstandard.ZstdCompressor(level=12).compress(bytes(content))
    pack = find_pack(data, path)
    blocks = (block._replace(length=len(frame)), *pack.blocks[1:])
    with pytest.raises(Corrupt, match="CRC"):
        unpack_block(replace(pack, blocks=blocks), blocks[0], frame, decoder_of(pack))
    assert unpack_block(pack, block, data[block.offset : block.offset + block.length], decoder_of(pack))


def test_a_block_of_another_history_is_refused() -> None:
    """The same block with one letter of a text changed, its CRC and its entry right: whole by itself, and no history
    of this journal's."""
    subject, path, data = one_pack()
    block = find_pack(data, path).blocks[0]
    content = zstandard.ZstdDecompressor().decompress(data[block.offset : block.offset + block.length])
    at = content.index(b"renewed")
    changed = content[:at] + b"R" + content[at + 1 :]
    disk = subject.view({path: with_frame(data, path, 0, zstandard.ZstdCompressor().compress(changed))})
    with pytest.raises(Corrupt, match="the chain does not continue"):
        list(LogReader(disk, subject.root).batches())
    (found,) = verify(disk, subject.root).findings
    assert (found.path, found.seq) == (path, block.first_seq)
    assert survey(disk, subject.root).lost == [(block.first_seq, block.last_seq)]
