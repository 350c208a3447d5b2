"""A second writer of sparse indexes, from docs/format.md alone; what it reads of segments is `second_reader`'s.

Shares no code with the project. It makes the bytes of an index from a segment's records, as the text says.
"""

from __future__ import annotations

import hashlib
import struct
import zlib
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

from tests.second_reader import Journal, read_batches, segments_in

ENTITIES = {
    "memory.entity_created": ["name"],
    "memory.entity_updated": ["name"],
    "memory.entity_deleted": ["name"],
    "memory.observation_added": ["entity"],
    "memory.observation_removed": ["entity"],
    "memory.relation_created": ["from_entity", "to_entity"],
    "memory.relation_updated": ["from_entity", "to_entity"],
    "memory.relation_deleted": ["from_entity", "to_entity"],
}


def names_of(record: dict[str, Any], epoch: int) -> Iterator[str]:
    event = record["event"]
    yield f"type\0{event['type']}"
    for kind in ("agent", "actor"):
        if record[kind] is not None:
            yield f"{kind}\0{record[kind]}"
    if record["op_id"] != f"e{epoch}-{record['seq']}":
        yield f"op_id\0{record['op_id']}"
    if "scope" in event:
        yield f"scope\0{event['scope']}"
    for field in ENTITIES.get(event["type"], []):
        yield f"entity\0{event[field]}"


def filter_for(names: set[str]) -> bytes:
    length = max(8, 2 * len(names))
    value = 0
    for name in names:
        digest = hashlib.sha256(name.encode()).digest()
        first, step = struct.unpack_from("<QQ", digest)
        for probe in range(6):
            value |= 1 << (first + probe * (step | 1)) % (8 * length)
    return value.to_bytes(length, "little")


def indexes_of(directory: Path) -> Iterator[tuple[str, bytes]]:
    """Name and bytes of the index of each sealed segment that holds records."""
    read, segments = Journal(), list(segments_in(directory))
    for (_, data, segment), (_, _, after) in pairwise(segments):
        batches, records = len(read.batches), len(read.records)
        before = read.chain
        read_batches(data[: after.previous_end], segment, read)
        if len(read.records) == records:
            continue
        granules: list[list[Any]] = []
        at, chain = segment.start, before
        rest = iter(read.records[records:])
        for batch in read.batches[batches:]:
            size = struct.unpack_from("<I", data, at + 52)[0]
            told = [next(rest) for _ in range(batch["count"])]
            if not granules or granules[-1][5] >= 1000 or at - granules[-1][1] >= 1 << 18:
                granules.append([batch["first_seq"], at, told[0]["time"], chain, set(), 0])
            granules[-1][4] |= {name for record in told for name in names_of(record, batch["epoch"])}
            granules[-1][5] += batch["count"]
            at, chain = at + 101 + size, bytes.fromhex(batch["chain"])
        filters = [filter_for(each[4]) for each in granules]
        body = struct.pack(
            "<16s8sIIQQQ32sII", segment.journal_id, segment.salt, segment.epoch, 0, segment.first_seq,
            after.previous_end, after.first_seq, after.previous_chain, len(granules), 0,
        )  # fmt: skip
        for (seq, offset, time, previous, _, _), made in zip(granules, filters, strict=True):
            body += struct.pack("<QQQ32sI", seq, offset, time, previous, len(made))
        body += b"".join(filters)
        front = struct.pack("<8sHHI", bytes.fromhex("89414a0d0a1a0a00"), 1, 7, 20 + len(body))
        yield (
            f"{segment.first_seq:016d}-{segment.epoch:06d}.idx",
            front + struct.pack("<I", zlib.crc32(front + body)) + body,
        )
