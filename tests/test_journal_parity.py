"""Shards of a file rot, up to the limit and beyond: restored exactly, or refused; never something in between."""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import zfec

from journal.errors import Corrupt, Unsupported
from journal.parity import Shape, decode_parity_header, shape_for
from journal.parity_code import shards
from journal.parity_file import Parity, check_parity, protects, read_parity, restore, restored, write_parity
from tests import second_parity
from tests.repairs import JOURNAL, put
from tests.simdisk import SimDisk

NAME = "segments/0000000000000001-000001.seg"
PATH = f"{JOURNAL}/parity/{NAME}.par"


def made(data: bytes, share: float = 0.125) -> tuple[SimDisk, Parity]:
    disk = SimDisk()
    write_parity(
        disk, PATH, lambda offset, length: data[offset : offset + length], len(data), name=NAME,
        journal_id=bytes(16), share=share,
    )  # fmt: skip
    return disk, read_parity(disk, PATH)


def attempt(disk: SimDisk, parity: Parity, damaged: bytes) -> bytes | None:
    return restored(parity, damaged, restore(disk, parity, lambda offset, length: damaged[offset : offset + length]))


# -- the code ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("k", "n"), [(1, 2), (1, 3), (2, 3), (9, 11), (16, 18), (16, 32), (30, 50)])
def test_the_shards_are_those_of_zfec(k: int, n: int) -> None:
    """Another implementation of the same code, in C: what it makes this restores, and the other way round."""
    rng = random.Random(n)
    data = [rng.randbytes(64) for _ in range(k)]
    theirs = zfec.Encoder(k, n).encode(tuple(data), tuple(range(k, n)))
    ours = shards(dict(enumerate(data)), range(k, n))
    assert [ours[number] for number in range(k, n)] == theirs
    everything = dict(enumerate(data)) | ours
    for _ in range(20):
        kept = rng.sample(range(n), k)
        lost = sorted(set(range(n)) - set(kept))
        assert shards({number: everything[number] for number in kept}, lost) == {n: everything[n] for n in lost}


def test_shards_that_are_none_are_refused() -> None:
    with pytest.raises(ValueError, match="equal lengths"):
        shards({0: b"ab", 1: b"c"}, [2])
    with pytest.raises(ValueError, match="below 256"):
        shards({0: b"ab"}, [256])


# -- losing shards ----------------------------------------------------------------------------------------------------

LENGTHS = [1, 511, 512, 4095, 4096, 4097, 9000, 65_536, 65_537, 200_001]


@pytest.mark.parametrize("length", LENGTHS)
def test_any_shards_up_to_the_limit_are_restored_exactly(length: int) -> None:
    rng = random.Random(length)
    data = rng.randbytes(length)
    disk, parity = made(data)
    shape = parity.header.shape
    assert shape.parity_shards >= shape.data_shards / 8
    for _ in range(12):
        damaged = bytearray(data)
        lost = rng.sample(range(shape.shards), shape.parity_shards)
        with damaged_parity(disk, parity, [shard for shard in lost if shard >= shape.data_shards], rng):
            for shard in lost:
                if shard < shape.data_shards:
                    low, high = shard * shape.shard_bytes, min(length, (shard + 1) * shape.shard_bytes)
                    damaged[low:high] = rng.choice((rng.randbytes, bytes))(max(0, high - low))
            assert attempt(disk, parity, bytes(damaged)) == data, lost


@contextmanager
def damaged_parity(disk: SimDisk, parity: Parity, lost: list[int], rng: random.Random) -> Iterator[None]:
    whole, shape = disk.read(PATH), parity.header.shape
    for shard in lost:
        disk.poke(PATH, parity.start + shape.offset_of(shard, 0), rng.randbytes(shape.shard_bytes))
    yield
    put(disk, PATH, whole)


@pytest.mark.parametrize("length", [8192, 65_536, 200_001])
def test_one_shard_more_than_the_limit_is_refused(length: int) -> None:
    rng = random.Random(length)
    data = rng.randbytes(length)
    disk, parity = made(data)
    shape = parity.header.shape
    whole = [shard for shard in range(shape.data_shards) if (shard + 1) * shape.shard_bytes <= length]
    for _ in range(10):
        damaged = bytearray(data)
        for shard in rng.sample(whole, shape.parity_shards + 1):
            damaged[shard * shape.shard_bytes] ^= 1
        assert attempt(disk, parity, bytes(damaged)) is None
    assert attempt(disk, parity, b"") is None


def test_damage_that_is_strewn_over_all_shards_is_restored_row_by_row() -> None:
    """Bad sectors here and there: two of the eighteen blocks in every row, other ones in each."""
    rng = random.Random(5)
    data = rng.randbytes(1 << 20)
    disk, parity = made(data)
    shape = parity.header.shape
    damaged = bytearray(data)
    for row in range(shape.rows):
        for shard in rng.sample(range(shape.data_shards), 2):
            at = shape.offset_of(shard, row) + 512 * rng.randrange(8)
            damaged[at : at + 512] = bytes(512)
    assert attempt(disk, parity, bytes(damaged)) == data


@pytest.mark.parametrize("length", [3000, 65_536, 1 << 20])
def test_a_file_that_lost_its_end_gets_it_back(length: int) -> None:
    data = random.Random(length).randbytes(length)
    disk, parity = made(data)
    for left in (length - 1, length - 512, length - length // 9):
        assert attempt(disk, parity, data[:left]) == data


def test_what_lies_behind_the_protected_bytes_stays() -> None:
    data, void = random.Random(1).randbytes(5000), b"void for ever"
    disk, parity = made(data)
    assert attempt(disk, parity, bytes(100) + data[100:] + void) == data + void


def test_more_parity_restores_more() -> None:
    data = random.Random(2).randbytes(1 << 16)
    disk, parity = made(data, share=0.5)
    assert parity.header.shape == Shape(1 << 16, 16, 8, 4096)
    assert attempt(disk, parity, bytes(1 << 15) + data[1 << 15 :]) == data


def test_a_block_whose_crc_fits_by_chance_is_not_enough() -> None:
    """Other bytes with the same CRCs: only the SHA-256 of the whole can tell."""
    data = random.Random(3).randbytes(4096)
    disk, parity = made(data)
    forged = Parity(parity.path, type(parity.header)(
        parity.header.journal_id, bytes(32), NAME, 0, parity.header.shape, parity.header.crcs
    ), parity.start)  # fmt: skip
    assert attempt(disk, forged, data) is None


# -- the parity file itself -------------------------------------------------------------------------------------------


def test_every_byte_of_a_parity_file_is_checked_and_one_wrong_one_harms_nothing() -> None:
    """A wrong byte in either header leaves the other; one in a block leaves the rest."""
    data = random.Random(4).randbytes(6000)
    disk, parity = made(data)
    whole = disk.read(PATH)
    damaged = bytearray(data)
    damaged[5000] ^= 1
    for offset in range(len(whole)):
        disk.poke(PATH, offset, bytes([whole[offset] ^ 0x10]))
        found = read_parity(disk, PATH)
        assert check_parity(disk, found), offset
        in_block = parity.start <= offset < parity.start + 4096
        assert attempt(disk, found, bytes(damaged)) == (None if in_block else data), offset
        disk.poke(PATH, offset, whole[offset : offset + 1])
    assert check_parity(disk, read_parity(disk, PATH)) == []


@pytest.mark.parametrize("length", [0, 1, 19, 20, 100, 500])
def test_a_parity_file_that_was_cut_short_is_damaged(length: int) -> None:
    data = random.Random(4).randbytes(3000)
    disk, _ = made(data)
    put(disk, PATH, disk.read(PATH)[:length])
    try:
        found = check_parity(disk, read_parity(disk, PATH))
    except Corrupt as error:
        found = [error]
    assert found
    assert found[0].path == PATH


def test_a_newer_version_is_unsupported_and_no_damage() -> None:
    from zlib import crc32

    disk, _ = made(b"abc")
    newer = bytearray(disk.read(PATH))
    length = int.from_bytes(newer[12:16], "little")
    newer[8] = 2
    newer[16:20] = crc32(newer[20:length], crc32(newer[:16])).to_bytes(4, "little")
    put(disk, PATH, bytes(newer[:length]))
    with pytest.raises(Unsupported):
        read_parity(disk, PATH)


@pytest.mark.parametrize(
    "shape", [Shape(0, 1, 1, 512), Shape(1 << 40, 16, 2, 4096), Shape(99, 200, 100, 512), Shape(99, 0, 2, 512),
              Shape(99, 1, 0, 512), Shape(99, 1, 1, 100), Shape(99, 1, 1, 1 << 20)],
)  # fmt: skip
def test_lengths_are_bounded_before_anything_is_made_of_them(shape: Shape) -> None:
    from journal.format import encode_header
    from journal.parity import _BODY, KIND_PARITY

    body = _BODY.pack(
        bytes(16), bytes(32), shape.length, 0, shape.data_shards, shape.parity_shards, shape.block_bytes, 0
    )  # fmt: skip
    with pytest.raises(Corrupt):
        decode_parity_header(encode_header(KIND_PARITY, body), "x.par")


def test_other_bytes_are_not_taken_for_the_protected_ones() -> None:
    data = random.Random(6).randbytes(70_000)
    _, parity = made(data)
    assert protects(parity, lambda offset, length: data[offset : offset + length])
    other = data[:-1] + b"\0" if data[-1] else data[:-1] + b"\1"
    assert not protects(parity, lambda offset, length: other[offset : offset + length])


def test_the_share_is_kept_at_every_length() -> None:
    for length in (1, 4096, 5000, 40_000, 65_536, 1 << 20, 16 << 20):
        for share in (0.01, 0.125, 0.3, 1.0):
            shape = shape_for(length, share)
            assert shape.parity_shards / shape.data_shards >= share
            assert shape.rows * shape.data_shards * shape.block_bytes >= length
    assert shape_for(16 << 20) == Shape(16 << 20, 16, 2, 4096)


# -- the text ---------------------------------------------------------------------------------------------------------

GOLDEN = Path(__file__).resolve().parent / "golden"


def golden_files() -> list[tuple[str, bytes, bytes]]:
    """(name, parity, protected file) of every golden parity file."""
    folder = GOLDEN / "v1-parity"
    names = sorted(str(path.relative_to(folder)).removesuffix(".par") for path in folder.rglob("*.par"))
    return [
        (name, (folder / f"{name}.par").read_bytes(), (GOLDEN / "v1" / "journal" / name).read_bytes()) for name in names
    ]


def test_golden_parity_restores_for_ever_by_two_readers() -> None:
    """The second reader was written from docs/format.md alone."""
    rng = random.Random(9)
    files = golden_files()
    assert len(files) > 5
    for name, parity, whole in files:
        disk = SimDisk()
        put(disk, PATH, parity)
        found = read_parity(disk, PATH)
        assert (found.header.name, check_parity(disk, found)) == (name, [])
        length, block = found.header.shape.length, found.header.shape.block_bytes
        damaged = bytearray(whole)
        at = rng.randrange(-(-length // block)) * block
        damaged[at : at + block] = rng.randbytes(min(block, len(whole) - at))
        assert attempt(disk, found, bytes(damaged)[:length]) == whole[:length]
        assert second_parity.restore(parity, bytes(damaged)) == (name, whole[:length])


def test_what_is_written_today_is_what_the_text_says() -> None:
    for length in (300, 5000, 20_000):
        data = random.Random(length).randbytes(length)
        disk, _ = made(data)
        damaged = bytes(300) + data[300:]
        assert second_parity.restore(disk.read(PATH), damaged) == (NAME, data)
