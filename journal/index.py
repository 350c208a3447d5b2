"""Bytes of a sparse index: where in one sealed segment to look for a seq, a time or a name. Pure; `docs/format.md`.

Derived from the segment and from nothing else, so that it may be lost. A segment's batches are taken together to
granules of about a thousand records. Of each the index holds where it begins (seq, offset, time, chain) and a Bloom
filter of the names in it (B. H. Bloom, "Space/time trade-offs in hash coding with allowable errors", 1970), which says
"not here", or "perhaps": whatever is found through an index is read, proven and asked again.

    index   =  prologue of kind 7  fixed part  granule entry*  filter*
"""

from __future__ import annotations

import struct
from bisect import bisect_right
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from hashlib import sha256
from typing import NamedTuple

from msgspec.structs import replace

from journal.errors import Corrupt
from journal.format import KIND_INDEX, PROLOGUE_BYTES, SEQ_MAX, SegmentHeader, encode_header, view_file
from journal.scan import Batch, Scanner

# Fixed part, after the prologue:
#
#     0            16     24      28         32          40          48         56      88         92
#     | journal id | salt | epoch | reserved | first seq | valid end | next seq | chain | granules | reserved |
#     |     16     |  8   |   4   |    4     |     8     |     8     |    8     |  32   |    4     |    4     |
#
# `valid end`, `next seq` and `chain` are what the segment's successor says of its end.

_FIXED = struct.Struct("<16s8sII Q QQ 32s II".replace(" ", ""))

# Granule entry; `chain` is the one before its first batch, `time` that of its first record:
#
#     0     8        16     24      56             60
#     | seq | offset | time | chain | filter bytes |
#     |  8  |   8    |  8   |  32   |      4       |

_ENTRY = struct.Struct("<QQQ32sI")

GRANULE_RECORDS = 1000
GRANULE_BYTES = 256 << 10
SEGMENT_BYTES_MIN = 64 << 10  # a smaller segment is read as soon as its index would be

BITS_PER_NAME = 16
PROBES = 6  # with 16 bits a name, one granule in a thousand is read in vain
FILTER_BYTES_MIN = 8

Hashed = tuple[int, int]


class Granule(NamedTuple):
    """Where a run of batches begins in its segment, and which names may occur in it."""

    seq: int
    offset: int
    time: int
    chain: bytes
    filter: memoryview

    def may_hold(self, names: Sequence[Hashed]) -> bool:
        """Whether one of the names (as `hashed`) may occur; False is certain."""
        bits = len(self.filter) * 8
        for first, step in names:
            for probe in range(PROBES):
                bit = (first + probe * step) % bits
                if not self.filter[bit >> 3] >> (bit & 7) & 1:
                    break
            else:
                return True
        return False


@dataclass(frozen=True, slots=True)
class SegmentIndex:
    """The index of one segment. ``end`` is where its valid bytes end: the seq that comes next, offset and chain."""

    journal_id: bytes
    salt: bytes
    epoch: int
    first_seq: int
    granules: tuple[Granule, ...]
    end: Granule

    def is_of(self, header: SegmentHeader, successor: SegmentHeader) -> bool:
        """Whether it was made of the segment with this header, as its successor says that it ends."""
        return (self.journal_id, self.salt, self.epoch, self.first_seq) == (
            header.journal_id, header.salt, header.epoch, header.first_seq,
        ) and (self.end.seq, self.end.offset, self.end.chain) == (
            successor.first_seq, successor.previous_end, successor.previous_chain,
        )  # fmt: skip

    def granule_of(self, seq: int) -> int:
        """The number of the granule that holds a seq of the segment."""
        return bisect_right(self.granules, seq, key=lambda granule: granule.seq) - 1

    def at(self, number: int) -> Granule:
        """The granule of that number, or the end behind the last."""
        return self.granules[number] if number < len(self.granules) else self.end


# -- names ------------------------------------------------------------------------------------------------------------

ENTITY_FIELDS = {
    "memory.entity_created": ("name",),
    "memory.entity_updated": ("name",),
    "memory.entity_deleted": ("name",),
    "memory.observation_added": ("entity",),
    "memory.observation_removed": ("entity",),
    "memory.relation_created": ("from_entity", "to_entity"),
    "memory.relation_updated": ("from_entity", "to_entity"),
    "memory.relation_deleted": ("from_entity", "to_entity"),
}
"""The fields of each type that name an entity."""

Name = tuple[str, str]
"""Of which kind (agent, actor, op_id, type, scope, entity), and what it says."""


def names_in(batch: Batch) -> set[Name]:
    """All that the records of a batch can be asked for. A generated op_id is not among it: it says its seq itself."""
    found: set[Name] = set()
    add = found.add
    for record in batch.records():
        event = record.event
        kind = event.type_name
        add(("type", kind))
        if record.agent is not None:
            add(("agent", record.agent))
        if record.actor is not None:
            add(("actor", record.actor))
        if record.op_id is not None:
            add(("op_id", record.op_id))
        scope = getattr(event, "scope", None)
        if isinstance(scope, str):
            add(("scope", scope))
        for field in ENTITY_FIELDS.get(kind, ()):
            add(("entity", getattr(event, field)))
    return found


def hashed(name: Name) -> Hashed:
    """What the probes of a name are computed from: two halves of 64 bits of its SHA-256, the second made odd.

    Probe i is bit ((first + i × second) mod bits) of a filter, bit b being bit b mod 8 of byte b div 8.
    """
    digest = sha256(f"{name[0]}\0{name[1]}".encode(errors="surrogatepass")).digest()
    return int.from_bytes(digest[:8], "little"), int.from_bytes(digest[8:16], "little") | 1


def filter_of(names: Iterable[Hashed], count: int) -> bytes:
    """The Bloom filter of `count` names."""
    made = bytearray(max(FILTER_BYTES_MIN, count * BITS_PER_NAME // 8))
    bits = len(made) * 8
    for first, step in names:
        for probe in range(PROBES):
            bit = (first + probe * step) % bits
            made[bit >> 3] |= 1 << (bit & 7)
    return bytes(made)


# -- bytes ------------------------------------------------------------------------------------------------------------


def index_of(header: SegmentHeader, successor: SegmentHeader, batches: Iterable[Batch]) -> SegmentIndex:
    """The index of a segment with this header and all these batches, which ends as its successor says."""
    granules: list[Granule] = []
    hashes: dict[Name, Hashed] = {}
    opened: Batch | None = None
    names: set[Name] = set()
    count = 0

    def close() -> None:
        if opened is not None:
            made = filter_of((hashes.get(name) or hashes.setdefault(name, hashed(name)) for name in names), len(names))
            time = opened.heads()[0].time
            granules.append(Granule(opened.first_seq, opened.offset, time, opened.previous_chain, memoryview(made)))

    for batch in batches:
        if opened is None or count >= GRANULE_RECORDS or batch.offset - opened.offset >= GRANULE_BYTES:
            close()
            opened, names, count = batch, set(), 0
        names |= names_in(batch)
        count += batch.count
    close()
    end = Granule(successor.first_seq, successor.previous_end, 0, successor.previous_chain, _NONE)
    return SegmentIndex(header.journal_id, header.salt, header.epoch, header.first_seq, tuple(granules), end)


_NONE = memoryview(b"")


def encode_index(index: SegmentIndex) -> bytes:
    end = index.end
    parts = [
        _FIXED.pack(
            index.journal_id, index.salt, index.epoch, 0, index.first_seq, end.offset, end.seq, end.chain,
            len(index.granules), 0,
        )
    ]  # fmt: skip
    parts += [_ENTRY.pack(each.seq, each.offset, each.time, each.chain, len(each.filter)) for each in index.granules]
    return encode_header(KIND_INDEX, b"".join([*parts, *(each.filter for each in index.granules)]))


def decode_index(data: bytes, path: str) -> SegmentIndex:
    """Raises Corrupt, or Unsupported for a newer version."""
    body = view_file(data, KIND_INDEX, path)
    if len(body) < _FIXED.size:
        raise Corrupt("index is too short", path=path, offset=PROLOGUE_BYTES)
    journal_id, salt, epoch, _, first_seq, end, next_seq, chain, count, _ = _FIXED.unpack_from(body)
    filters = _FIXED.size + count * _ENTRY.size
    if filters > len(body) or not 0 < first_seq <= next_seq <= SEQ_MAX:
        raise Corrupt("a number in the index is out of bounds", path=path, offset=PROLOGUE_BYTES)
    granules = []
    at, before = filters, (0, 0)
    for seq, offset, time, previous, length in _ENTRY.iter_unpack(body[_FIXED.size : filters]):
        if not (before < (seq, offset) and seq < next_seq and offset < end and length >= FILTER_BYTES_MIN):
            raise Corrupt("a granule of the index is out of bounds", path=path, offset=PROLOGUE_BYTES)
        granules.append(Granule(seq, offset, time, previous, body[at : at + length]))
        at, before = at + length, (seq, offset)
    if at != len(body) or (granules[0].seq if granules else next_seq) != first_seq:
        raise Corrupt("the granules of the index are not all of it", path=path, offset=PROLOGUE_BYTES)
    return SegmentIndex(journal_id, salt, epoch, first_seq, tuple(granules), Granule(next_seq, end, 0, chain, _NONE))


# -- reading a part ---------------------------------------------------------------------------------------------------


def batches_between(data: bytes, header: SegmentHeader, path: str, begin: Granule, end: Granule) -> list[Batch] | None:
    """The batches in the bytes from one granule's beginning to another's, proven by both their seqs and chains.

    None where they are not what the index says: it is wrong, or the segment is damaged, which a whole scan tells.
    """
    scanner = Scanner(data, 0, header, path)
    scanner.next_seq, scanner.chain = begin.seq, begin.chain
    found = [replace(batch, offset=batch.offset + begin.offset, end=batch.end + begin.offset) for batch in scanner]
    at = (scanner.next_seq, scanner.offset, scanner.chain)
    return found if at == (end.seq, end.offset - begin.offset, end.chain) else None
