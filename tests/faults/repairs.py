"""Repairs: every bit of a small journal flipped and put right, shards lost up to the limit and beyond, torn writes."""

from __future__ import annotations

import random
from collections import Counter
from functools import cache
from typing import NamedTuple

from journal.events import ObservationAdded
from journal.format import BATCH_HEADER_BYTES, TRAILER_BYTES
from journal.parity_file import read_parity, restore, restored, write_parity
from journal.record import array_of
from journal.syndrome import Flip, flips_in_batch
from tests.faults.frame import Check, Run
from tests.journals import record
from tests.repairs import Subject, build, judge_flip
from tests.simdisk import SimDisk
from tests.test_journal_syndrome import judge_torn_tails, segment

TORN_TAILS_A_SEED = 2000
LOSSES_A_SEED = 20
RECORD_BYTES = 4096


class Place(NamedTuple):
    """One byte of a journal with parity or without: the file's number, and the offset in it. ``bit``: only that one."""

    parity: bool
    file: int
    offset: int
    bit: int | None = None


@cache
def _subject(parity: bool) -> Subject:
    return build(parity=parity)


def bits(run: Run) -> Counter[str]:
    places = [
        Place(parity, number, offset, offset % 8 if parity else None)
        for parity in (False, True)
        for number, (path, length) in enumerate(_subject(parity).places())
        if parity or "/parts/" not in path  # without parity a part is refused: the suite has that
        for offset in range(length)
    ]
    last = None if run.count is None else run.seed + run.count
    return run.each(judge_bits, places[run.seed : last], lambda place: run.replay(places.index(place)))


def judge_bits(place: Place) -> Counter[str]:
    subject = _subject(place.parity)
    path, _ = subject.places()[place.file]
    bits = range(8) if place.bit is None else (place.bit,)
    methods = Counter(judge_flip(subject, path, place.offset, bit) for bit in bits)
    done = Counter({"flipped bits put right": len(bits)})
    return done + Counter({f"by {each}": count for each, count in methods.items()})


@cache
def batch_of_4_kib() -> tuple[bytes, int]:
    """A segment with one record of that many bytes, its batch's header and trailer included; where it begins."""
    without = len(array_of([record(1, ObservationAdded("global", "Acme", "x" * 3000))])) - 3000
    length = RECORD_BYTES - BATCH_HEADER_BYTES - TRAILER_BYTES - without
    payload = array_of([record(1, ObservationAdded("global", "Acme", "x" * length))])
    data, (at,), end = segment([(1, payload)])
    assert end.offset - at == RECORD_BYTES
    return data, at


def record_bits(run: Run) -> Counter[str]:
    end = RECORD_BYTES if run.count is None else min(RECORD_BYTES, run.seed + run.count)
    return run.each(judge_record_byte, range(run.seed, end), run.replay)


def judge_record_byte(offset: int) -> Counter[str]:
    """All eight bits of one byte: each found, as the only explanation."""
    batch, at = batch_of_4_kib()
    for bit in range(8):
        found = flips_in_batch(Flip(at + offset, bit).applied_to(batch), at)
        assert found == [Flip(at + offset, bit)], (offset, bit, found)
    return Counter({"flipped bits found": 8})


def shards(run: Run) -> Counter[str]:
    return run.seeds(judge_shards)


def judge_shards(seed: int) -> Counter[str]:
    """Random losses of one file: exactly restored while each row has enough blocks, refused otherwise."""
    rng = random.Random(seed)
    length = rng.choice((rng.randrange(1, 9000), rng.randrange(1, 300_000)))
    share = rng.choice((0.125, 0.125, 0.3, 1.0))
    data, disk, counts = rng.randbytes(length), SimDisk(), Counter[str]()
    disk.make_directory("/parity")
    write_parity(
        disk, "/parity/x.par", lambda offset, count: data[offset : offset + count], length, name="x",
        journal_id=bytes(16), share=share,
    )  # fmt: skip
    parity = read_parity(disk, "/parity/x.par")
    shape = parity.header.shape
    blocks = range(0, length, shape.block_bytes)
    for _ in range(LOSSES_A_SEED):
        damaged, rows = bytearray(data), Counter[int]()
        for at in rng.sample(blocks, rng.randint(1, min(len(blocks), 3 * shape.parity_shards))):
            place = rng.randrange(at, min(at + shape.block_bytes, length))
            damaged[place] ^= rng.randrange(1, 256)
            rows[at % shape.shard_bytes // shape.block_bytes] += 1
        found = restore(disk, parity, lambda offset, count, damaged=damaged: bytes(damaged[offset : offset + count]))
        whole = restored(parity, bytes(damaged), found)
        possible = max(rows.values()) <= shape.parity_shards
        assert whole == (data if possible else None), (length, share, rows)
        counts["losses"] += 1
        counts["restored exactly" if possible else "refused"] += 1
    return counts


def torn(run: Run) -> Counter[str]:
    return run.seeds(judge_torn)


def judge_torn(seed: int) -> Counter[str]:
    finished = judge_torn_tails(seed, TORN_TAILS_A_SEED)
    return Counter({"torn tails": TORN_TAILS_A_SEED, "one set bit away from what was written": finished})


CHECKS = (
    Check(
        "repairs.bits",
        "Every flipped bit of a journal is named by `verify` and put right by `verify --repair`: the exact bytes, the "
        "damaged file in quarantine, and a second run finds nothing to do.",
        "each bit of each segment and manifest of a small journal on the simulated disk without parity; one bit of "
        "each byte of the same with parity, of its parts and of the parity itself",
        bits,
        None,
    ),
    Check(
        "repairs.record",
        "Which bit of a record was flipped, its CRC says: the right one, and no other.",
        "each of the 32,768 bits of a batch of 4 KiB, header, records and trailer, each of its checksums included",
        record_bits,
        None,
    ),
    Check(
        "repairs.shards",
        "What parity can restore it restores exactly; what it cannot is refused, never made up.",
        "files of any length with 12.5 %, 30 % or 100 % parity and random blocks damaged, within the limit and beyond",
        shards,
    ),
    Check(
        "repairs.torn",
        "A torn write is never repaired into anything but the very bytes that were being written.",
        "last batches of which any subset of sectors arrived, given to the repair of one bit with no chain behind them",
        torn,
    ),
)
