"""A second reader of journals, written from docs/format.md alone.

Shares no code with the project: what both read, the text describes. Knows version 1 of segments, batches, records and
the canonical form of rows; its table of event types is the one in the text. Meant to be read beside it, not fast.
"""

from __future__ import annotations

import hashlib
import json
import re
import struct
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import zstandard

FORMAT = Path(__file__).resolve().parent.parent / "docs" / "format.md"


class Wrong(Exception):
    """The bytes are not what the text says."""


def table_of_types() -> dict[str, tuple[int, list[str]]]:
    """Event type → tag and the cells that describe its fields, as the text lists them."""
    rows = re.findall(r"^\| (\d+) \| `([a-z_.]+)` \| (.+) \|$", FORMAT.read_text(encoding="utf-8"), re.MULTILINE)
    return {name: (int(tag), re.findall(r"`([^`]+)`", fields)) for tag, name, fields in rows}


# -- MessagePack ------------------------------------------------------------------------------------------------------


def unpack(data: bytes, at: int = 0) -> tuple[Any, int]:
    """One value and the offset behind it."""
    code = data[at]
    at += 1
    if code < 0x80:
        return code, at
    if code >= 0xE0:
        return code - 256, at
    if code < 0x90:
        return _map(data, at, code & 15)
    if code < 0xA0:
        return _array(data, at, code & 15)
    if code < 0xC0:
        return data[at : at + (code & 31)].decode(), at + (code & 31)
    if code in (0xC0, 0xC2, 0xC3):
        return {0xC0: None, 0xC2: False, 0xC3: True}[code], at
    if code == 0xCB:
        return struct.unpack_from(">d", data, at)[0], at + 8
    if 0xCC <= code <= 0xD3:
        kind = ">" + "BHIQbhiq"[code - 0xCC]
        return struct.unpack_from(kind, data, at)[0], at + struct.calcsize(kind)
    lengths = {0xC4: 1, 0xC5: 2, 0xC6: 4, 0xD9: 1, 0xDA: 2, 0xDB: 4, 0xDC: 2, 0xDD: 4, 0xDE: 2, 0xDF: 4}
    if code not in lengths:
        raise Wrong(f"MessagePack code {code:#x} is not used")
    length, at = int.from_bytes(data[at : at + lengths[code]], "big"), at + lengths[code]
    if code >= 0xDE:
        return _map(data, at, length)
    if code >= 0xDC:
        return _array(data, at, length)
    raw = data[at : at + length]
    return (raw.decode() if code >= 0xD9 else raw), at + length


def _array(data: bytes, at: int, length: int) -> tuple[list[Any], int]:
    items = []
    for _ in range(length):
        item, at = unpack(data, at)
        items.append(item)
    return items, at


def _map(data: bytes, at: int, length: int) -> tuple[dict[Any, Any], int]:
    flat, at = _array(data, at, 2 * length)
    return dict(zip(flat[::2], flat[1::2], strict=True)), at


def pack(value: Any) -> bytes:
    """The shortest encoding of a cell, or of a row of up to 15."""
    if value is None:
        return b"\xc0"
    if isinstance(value, list):
        return bytes([0x90 | len(value)]) + b"".join(map(pack, value))
    if isinstance(value, float):
        return b"\xcb" + struct.pack(">d", value)
    if isinstance(value, str | bytes):
        raw = value.encode() if isinstance(value, str) else value
        if isinstance(value, str) and len(raw) < 32:
            return bytes([0xA0 | len(raw)]) + raw
        size = next(size for size in (1, 2, 4) if len(raw) < 1 << 8 * size)
        code = (0xD9 if isinstance(value, str) else 0xC4) + size.bit_length() - 1
        return bytes([code]) + len(raw).to_bytes(size, "big") + raw
    if -32 <= value < 128:
        return struct.pack("b", value)
    kinds = {0xCC: "B", 0xCD: "H", 0xCE: "I", 0xCF: "Q"} if value >= 0 else {0xD0: "b", 0xD1: "h", 0xD2: "i", 0xD3: "q"}
    for code, kind in kinds.items():
        try:
            return bytes([code]) + struct.pack(">" + kind, value)
        except struct.error:
            continue
    raise Wrong(f"{value} has no encoding")


# -- segments ---------------------------------------------------------------------------------------------------------


@dataclass
class Segment:
    journal_id: bytes
    salt: bytes
    epoch: int
    first_seq: int
    previous_first_seq: int
    previous_epoch: int
    previous_end: int
    previous_chain: bytes
    types: dict[int, str]
    durable_seq: int
    parent: dict[str, Any] | None
    start: int


@dataclass
class Journal:
    """What was read. ``left`` is what lies behind the last whole batch; ``end`` is its offset in ``path``."""

    batches: list[dict[str, Any]] = field(default_factory=list)
    records: list[dict[str, Any]] = field(default_factory=list)
    flags: list[int] = field(default_factory=list)
    chain: bytes = bytes(32)
    next_seq: int = 1
    closed: bool = False
    path: str = ""
    end: int = 0
    left: bytes = b""


def read_body(data: bytes, kind: int) -> bytes:
    magic, version, found, length, crc = struct.unpack_from("<8sHHII", data)
    if magic != bytes.fromhex("89414a0d0a1a0a00") or not 20 <= length <= len(data):
        raise Wrong("magic or header length")
    if zlib.crc32(data[:16] + data[20:length]) != crc:
        raise Wrong("header CRC")
    if (version, found) != (1, kind):
        raise Wrong("version or kind")
    return data[20:length]


def read_segment(data: bytes) -> Segment:
    body = read_body(data, 1)
    fields = struct.unpack_from("<16s8sIIQQIIQ32s", body)
    about, end = unpack(body, 96)
    if end != len(body):
        raise Wrong("bytes follow the map of the segment header")
    journal_id, salt, epoch, _, first, previous_first, previous_epoch, _, previous_end, chain = fields
    types = {tag: name for name, tag in about["types"].items()}
    durable = about.get("durable_seq", first - 1)
    return Segment(
        journal_id, salt, epoch, first, previous_first, previous_epoch, previous_end, chain, types, durable,
        about.get("parent"), 20 + len(body),
    )  # fmt: skip


def read_batches(data: bytes, segment: Segment, into: Journal) -> None:
    """Adds the whole batches of one segment; where they end is in ``into.end``."""
    at, into.closed = segment.start, False
    while not into.closed:
        into.end = at
        if len(data) - at < 96 or data[at : at + 4] != bytes.fromhex("ab4a4201"):
            return
        crc, journal_id, salt, epoch, flags, first, count, size, durable, chain = struct.unpack_from(
            "<I16s8sIIQIIQ32s", data, at + 4
        )
        if zlib.crc32(data[at + 8 : at + 96]) != crc or at + 101 + size > len(data):
            return
        payload = data[at + 96 : at + 96 + size]
        if data[at + 96 + size : at + 101 + size] != struct.pack("<IB", zlib.crc32(payload, crc), 0xA5):
            return
        if (journal_id, salt, first, chain) != (segment.journal_id, segment.salt, into.next_seq, into.chain):
            return
        if epoch > segment.epoch or flags & ~3 or (count == 0) != bool(flags & 1):
            raise Wrong("a batch header contradicts itself")
        into.closed, at = bool(flags & 1), at + 101 + size
        into.end = at
        if count:
            _add_batch(into, segment, payload, (first, count, epoch, flags, durable))


def _add_batch(into: Journal, segment: Segment, payload: bytes, facts: tuple[int, int, int, int, int]) -> None:
    first, count, epoch, flags, durable = facts
    if durable >= first:
        raise Wrong("a batch vouches for itself")
    into.chain = hashlib.sha256(into.chain + struct.pack("<QI", first, count) + payload).digest()
    into.batches.append({"first_seq": first, "count": count, "epoch": epoch, "chain": into.chain.hex()})
    into.flags.append(flags)
    into.next_seq = first + count
    records, end = unpack(payload)
    if end != len(payload) or len(records) != count:
        raise Wrong("the payload is not an array of count records")
    for seq, record in enumerate(records, first):
        into.records.append(_record(seq, epoch, record, segment.types))


def _record(seq: int, epoch: int, record: list[Any], types: Mapping[int, str]) -> dict[str, Any]:
    flags, time, clock, op_id, agent, actor, traceparent, (tag, *values) = record
    if flags & ~3:
        raise Wrong("an unknown record flag")
    name = types[tag]
    fields = [cell.split(":")[0] for cell in TYPES[name][1]]
    return {
        "seq": seq, "time": time, "clock": clock, "op_id": op_id or f"e{epoch}-{seq}",
        "continues_group": bool(flags & 1),
        **({"unchecked": True} if flags & 2 else {}),
        "agent": agent, "actor": actor, "traceparent": traceparent,
        "event": {"type": name, **dict(zip(fields, values, strict=False))},
    }  # fmt: skip


def unpacked(data: bytes) -> bytes:
    """The bytes of a packed segment."""
    length = int.from_bytes(data[-4:], "little")
    if data[:length] != data[-4 - length : -4]:
        raise Wrong("the two headers of a pack differ")
    body = read_body(data[:length], 6)
    end, next_seq, chain, size, count, flags = struct.unpack_from("<QQ32sIII", body)
    front = struct.pack("<8sHHI", bytes.fromhex("89414a0d0a1a0a00"), 1, 1, 20 + size)
    header = body[60 : 60 + size]
    made = front + struct.pack("<I", zlib.crc32(front + header)) + header
    segment, read, at = read_segment(made), Journal(), length
    entries = list(struct.iter_unpack("<IIIII32s", body[60 + size :]))
    if len(entries) != count:
        raise Wrong("count of blocks")
    read.next_seq, read.chain = segment.first_seq, segment.previous_chain
    for frame_bytes, body_bytes, records, segment_bytes, crc, before in entries:
        frame = data[at : at + frame_bytes]
        if zlib.crc32(frame) != crc or before != read.chain:
            raise Wrong("a block's CRC or chain")
        content = zstandard.ZstdDecompressor().decompress(frame)
        if len(content) != body_bytes or zstandard.frame_content_size(frame) != body_bytes:
            raise Wrong("body bytes")
        first, begin = read.next_seq, len(made)
        made = unpacked_batches(content, segment, read, made)
        if (read.next_seq - first, len(made) - begin) != (records, segment_bytes):
            raise Wrong("records or segment bytes of a block")
        at += frame_bytes
    if flags & ~1:
        raise Wrong("an unknown flag of a pack")
    if flags:
        made += closing(segment, read)
    if (at, len(made), read.next_seq, read.chain) != (len(data) - 4 - length, end, next_seq, chain):
        raise Wrong("where a pack ends")
    return made


def closing(segment: Segment, read: Journal) -> bytes:
    """A clean close behind what was read."""
    fields = struct.pack(
        "<16s8sIIQIIQ32s", segment.journal_id, segment.salt, segment.epoch, 1, read.next_seq, 0, 0, read.next_seq - 1,
        read.chain,
    )  # fmt: skip
    crc = struct.pack("<I", zlib.crc32(fields))
    return bytes.fromhex("ab4a4201") + crc + fields + crc + b"\xa5"


def unpacked_batches(content: bytes, segment: Segment, read: Journal, made: bytes) -> bytes:
    """The segment's bytes so far, and behind them the batches of a block."""
    batches = int.from_bytes(content[:4], "little")
    payloads = 4 + 20 * batches
    for index in range(batches):
        count, size, epoch, lag = struct.unpack_from("<IIIQ", content, 4 + 20 * index)
        payload = content[payloads : payloads + size]
        payloads += size
        first, start = read.next_seq, len(made) + 96
        inner = range(-start % 512, size + 4 - 511, 512)
        blank = any(512 - (payload + bytes(4))[at : at + 512].count(0) <= 1 for at in inner)
        fields = struct.pack(
            "<16s8sIIQIIQ32s", segment.journal_id, segment.salt, epoch, 2 if blank else 0, first, count, size,
            first - 1 - lag, read.chain,
        )  # fmt: skip
        crc = zlib.crc32(fields)
        made += bytes.fromhex("ab4a4201") + struct.pack("<I", crc) + fields + payload
        made += struct.pack("<IB", zlib.crc32(payload, crc), 0xA5)
        read.chain = hashlib.sha256(read.chain + struct.pack("<QI", first, count) + payload).digest()
        read.next_seq = first + count
    if payloads != len(content):
        raise Wrong("bytes follow the payloads of a block")
    return made


def segments_in(directory: Path) -> Iterator[tuple[Path, bytes, Segment]]:
    """The segments under `directory`, in order of first seq, then epoch; packed ones as they were."""
    found = {}
    for path in sorted(directory.joinpath("segments").iterdir()):  # a pack comes before the segment that it is of
        match = re.fullmatch(r"(\d{16})-(\d{6,})\.(seg|pack)", path.name)
        if match:
            found[int(match[1]), int(match[2])] = path
    for (first, epoch), path in sorted(found.items()):
        data = path.read_bytes() if path.suffix == ".seg" else unpacked(path.read_bytes())
        segment = read_segment(data)
        if (segment.first_seq, segment.epoch) != (first, epoch):
            raise Wrong(f"{path.name} is named otherwise inside")
        yield path, data, segment


def read_journal(directory: Path) -> Journal:
    """All records of a journal, each link and batch checked."""
    read, segments = Journal(), list(segments_in(directory))
    before = (0, 0)
    for index, (path, data, segment) in enumerate(segments):
        if (segment.previous_first_seq, segment.previous_epoch) != before:
            raise Wrong(f"{path.name} does not follow {before}")
        if (segment.first_seq, segment.previous_chain) != (read.next_seq, read.chain):
            raise Wrong(f"{path.name} continues another history")
        if segment.journal_id != segments[0][2].journal_id:
            raise Wrong(f"{path.name} belongs to another journal")
        last = index + 1 == len(segments)
        valid = data if last else data[: segments[index + 1][2].previous_end]
        read_batches(valid, segment, read)
        if not last and read.end != len(valid):
            raise Wrong(f"{path.name} is bad at {read.end}")
        before, read.path, read.left = (segment.first_seq, segment.epoch), str(path), valid[read.end :]
    if segments and segments[0][2].parent is not None:
        check_successor(segments[0][2], read)
    return read


def check_successor(first: Segment, read: Journal) -> None:
    """What the header says of the parent is what the records say."""
    told, marked = first.parent, []
    assert told is not None
    epochs = {seq: batch["epoch"] for batch in read.batches
              for seq in range(batch["first_seq"], batch["first_seq"] + batch["count"])}  # fmt: skip
    for record in read.records:
        event = record["event"]
        if event["type"] == "journal.event_lost" and epochs[record["seq"]] == first.epoch:
            if not event["first_seq"] <= record["seq"] <= event["last_seq"]:
                raise Wrong("a mark stands outside of its range")
            if record["seq"] == event["last_seq"]:
                marked.append([event["first_seq"], event["last_seq"]])
    if marked != told["lost"]:
        raise Wrong(f"the header says that {told['lost']} is lost, the records {marked}")
    chains = {batch["first_seq"] + batch["count"] - 1: batch["chain"] for batch in read.batches} | {0: bytes(32).hex()}
    if chains[told["seq"]] != told["chain"].hex():
        raise Wrong("the chain where the parent was whole up to is another one")


# -- checkpoints ------------------------------------------------------------------------------------------------------

PAGE, PIECE = 4096, 1 << 20


def read_checkpoint(checkpoints: Path, seq: int) -> tuple[dict[str, Any], bytes]:
    """The manifest of a checkpoint, and the SQLite file that its parts make."""
    data = (checkpoints / f"{seq:016d}.manifest").read_bytes()
    manifest = json.loads(read_body(data, 2))
    pieces, groups = [], []
    for part in manifest["parts"]:
        content = (checkpoints / "parts" / part["sha256"]).read_bytes()
        if (hashlib.sha256(content).hexdigest(), len(content)) != (part["sha256"], part["length"]):
            raise Wrong("a part is not what its name says")
        if part["kind"] == "memory.db":
            pieces.append(content)
        elif part["kind"] == "memory.db.pages":
            groups.append(content)
    base = b"".join(pieces)
    if "whole" not in manifest:
        return manifest, base
    length = manifest["whole"]["length"]
    file = bytearray(base[:length].ljust(length, b"\x00"))
    beyond = set(range(len(base) // PAGE + 1, length // PAGE + 1))
    for content in groups:
        _unpack_groups(content, base, file, beyond)
    if beyond:
        raise Wrong(f"pages {sorted(beyond)} are in no group")
    digests = [hashlib.sha256(file[at : at + PIECE]).digest() for at in range(0, length, PIECE)]
    if hashlib.sha256(b"".join(digests)).hexdigest() != manifest["whole"]["sha256"]:
        raise Wrong("the parts make another file")
    return manifest, bytes(file)


def _unpack_groups(content: bytes, base: bytes, file: bytearray, beyond: set[int]) -> None:
    at = 0
    while at < len(content):
        (count,) = struct.unpack_from("<H", content, at)
        table = [struct.unpack_from("<II", content, at + 2 + 8 * index) for index in range(count)]
        at += 2 + 8 * count
        (length,) = struct.unpack_from("<I", content, at)
        frame = content[at + 4 : at + 4 + length]
        at += 4 + length
        if not 1 <= count <= 256 or len(frame) != length:
            raise Wrong("a group has 1 to 256 pages and the whole of its frame")
        sources = list(dict.fromkeys(source for _, source in table if source))
        if any(page == 0 or page * PAGE > len(file) or source * PAGE > len(base) for page, source in table):
            raise Wrong("a page is beyond the file, or a source beyond the base")
        told = b"".join(base[(source - 1) * PAGE : source * PAGE] for source in sources)
        dictionary = zstandard.ZstdCompressionDict(told, dict_type=zstandard.DICT_TYPE_RAWCONTENT) if told else None
        pages = zstandard.ZstdDecompressor(dict_data=dictionary, max_window_size=2 << 20).decompress(frame)
        if len(pages) != count * PAGE:
            raise Wrong("a frame holds other than its pages")
        for index, (page, _) in enumerate(table):
            file[(page - 1) * PAGE : page * PAGE] = pages[index * PAGE : (index + 1) * PAGE]
            beyond.discard(page)


# -- the state digest -------------------------------------------------------------------------------------------------


def table_value(rows: Mapping[int, list[list[Any]]]) -> bytes:
    """A table's value from its rows by bucket."""
    leaves = ((bucket, hashlib.sha256(b"".join(map(pack, rows[bucket]))).digest()) for bucket in sorted(rows))
    return hashlib.sha256(b"".join(bucket.to_bytes(8, "little") + leaf for bucket, leaf in leaves)).digest()


def digest_of(state: Mapping[str, list[list[Any]]]) -> str:
    """The digest of a state given as rows in order of id (agents: of name)."""
    whole = hashlib.sha256(b"agent-journal state digest v1\n")
    for table in ("entities", "observations", "relations", "messages", "agents"):
        buckets: dict[int, list[list[Any]]] = {}
        for row in state.get(table, []):
            buckets.setdefault(0 if table == "agents" else row[0] // 1024, []).append(row)
        whole.update(table.encode() + b"\0" + table_value(buckets))
    return whole.hexdigest()


TYPES = table_of_types()


def example(language: str, count: int) -> Any:
    """The count-th block in this language in the text; JSON is decoded."""
    blocks = re.findall(rf"^```{language}\n(.*?)^```", FORMAT.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)
    return json.loads(blocks[count]) if language == "json" else blocks[count]
