"""Files that somebody made to do harm: valid in every checksum, so that what lies behind the checksums is reached.

A mutation decodes a file of the specimen as far as it goes, changes one thing, and encodes it again with the CRC, the
chain and the sha256 that belong to it. `bombs` are the shapes that are known to make decoders hang or take all memory.
"""

from __future__ import annotations

import random
import struct
from collections.abc import Callable, Iterator
from typing import Any
from zlib import crc32

import msgspec

from journal.format import (
    END_BYTE,
    KIND_MANIFEST,
    KIND_PLAN,
    KIND_SEGMENT,
    PROLOGUE_BYTES,
    decode_segment_header,
    encode_header,
    next_chain,
)
from journal.scan import Scanner
from tests.specimen import Specimen

_BATCH = struct.Struct("<4sI16s8sIIQIIQ32s")
ODD_INTEGERS = (0, 1, -1, 127, 128, 255, 256, 2**31, 2**32 - 1, 2**32, 2**53 + 1, 2**62, 2**63 - 1, 2**63, 2**64 - 1)
ODD_TEXTS = (
    "", "\0", "../../etc/passwd", "a" * 300, "é" * 200, "e\u0301", "\u202e", "\x1b]0;x\x07", ".", "..", "con", "x.md",
    "global", "agent:", "workspace:" + "w" * 600, "\n", " ", "-", "$", "{}", "null", "\U0010ffff", "\ufeff", "\ufffe",
)  # fmt: skip


def odd_value(rng: random.Random, depth: int = 0) -> Any:
    match rng.randrange(12):
        case 0:
            return rng.choice(ODD_INTEGERS)
        case 1:
            return rng.choice(ODD_TEXTS)
        case 2:
            return rng.choice((None, True, False))
        case 3:
            return rng.choice((0.0, -0.0, float("inf"), float("-inf"), float("nan"), 1e308, 5e-324))
        case 4:
            return rng.randbytes(rng.choice((0, 1, 32, 600)))
        case 5:
            return [odd_value(rng, depth + 1) for _ in range(rng.randrange(4))] if depth < 4 else []
        case 6:
            return {rng.choice(ODD_TEXTS): odd_value(rng, depth + 1) for _ in range(rng.randrange(4))}
        case 7:
            return {rng.choice((1, b"k", None, "k")): odd_value(rng, depth + 1)} if depth < 4 else {}
        case 8:
            return msgspec.msgpack.Ext(rng.randrange(-128, 128), rng.randbytes(rng.choice((1, 4, 8, 12))))
        case _:
            return rng.choice(ODD_TEXTS)


def mutated(rng: random.Random, value: Any) -> Any:
    """The value with one node, somewhere in it, changed, removed, added or doubled."""
    if rng.random() < 0.25 or not isinstance(value, list | dict) or not value:
        return odd_value(rng)
    if isinstance(value, dict):
        key = rng.choice(list(value))
        match rng.randrange(5):
            case 0:
                return {each: value[each] for each in value if each != key}
            case 1:
                return {**value, rng.choice(ODD_TEXTS): odd_value(rng)}
            case _:
                return {**value, key: mutated(rng, value[key])}
    index = rng.randrange(len(value))
    match rng.randrange(7):
        case 0:
            return value[:index] + value[index + 1 :]
        case 1:
            return [*value[:index], odd_value(rng), *value[index:]]
        case 2:
            return [*value[:index], value[index], *value[index:]]
        case _:
            return [*value[:index], mutated(rng, value[index]), *value[index + 1 :]]


def scrambled(rng: random.Random, data: bytes) -> bytes:
    """Some bytes changed, a piece cut out, doubled or put in: what no decoder of values would make."""
    changed = bytearray(data)
    for _ in range(rng.choice((1, 1, 2, 8))):
        at = rng.randrange(len(changed) + 1)
        match rng.randrange(4):
            case 0:
                del changed[at : at + rng.choice((1, 2, 9, 100))]
            case 1:
                changed[at:at] = rng.randbytes(rng.choice((1, 4, 50)))
            case 2:
                changed[at:at] = changed[max(0, at - 20) : at]
            case _:
                if at < len(changed):
                    changed[at] = rng.choice((0, 0xC1, 0xC6, 0xDD, 0xDF, 0xDB, 0xFF, rng.randrange(256)))
    return bytes(changed)


# -- segments ---------------------------------------------------------------------------------------------------------


def segment_with(
    data: bytes,
    path: str,
    *,
    header: Callable[[bytes], bytes] = lambda body: body,
    payload: Callable[[int, bytes], bytes] = lambda index, payload: payload,
    fields: Callable[[int, list[Any]], list[Any]] = lambda index, fields: fields,
) -> bytes:
    """The segment with its header's body, its payloads and batch headers passed through functions, every checksum
    and the chain made to fit."""
    found, start = decode_segment_header(data, path)
    scanner = Scanner(data, start, found, path)
    out = [encode_header(KIND_SEGMENT, header(data[PROLOGUE_BYTES:start]))]
    chain = found.previous_chain
    for index, batch in enumerate(scanner):
        values = list(_BATCH.unpack_from(data, batch.offset))
        body = payload(index, bytes(batch.payload))
        values[8], values[10] = len(body), chain
        values = fields(index, values)
        try:
            front = _BATCH.pack(*values)
        except struct.error:
            continue
        crc = crc32(front[8:])
        out += [front[:4], crc.to_bytes(4, "little"), front[8:], body, crc32(body, crc).to_bytes(4, "little")]
        out.append(bytes((END_BYTE,)))
        chain = next_chain(chain, batch.first_seq, batch.count, body)
    return b"".join(out) + bytes(700)


def hostile_segment(rng: random.Random, subject: Specimen) -> tuple[str, bytes]:
    """A segment of the specimen, and what somebody made of it."""
    path = rng.choice(subject.segments)
    data = subject.image[path]
    if rng.random() < 0.1:
        return path, rng.randbytes(rng.choice((0, 1, 19, 20, 116, 5000)))
    count = data.count(b"\xabJB\x01")
    chosen = rng.randrange(max(1, count))
    match rng.randrange(6):
        case 0:
            return path, segment_with(data, path, header=lambda body: body[:96] + _encoded(rng, body[96:]))
        case 1:
            at, odd = rng.randrange(96), rng.randbytes(rng.choice((1, 4, 8)))
            return path, segment_with(data, path, header=lambda body: body[:at] + odd + body[at + len(odd) :])
        case 2:
            return path, segment_with(
                data, path, payload=lambda index, body: _encoded(rng, body) if index == chosen else body
            )
        case 3:
            bomb = rng.choice(list(bombs().values()))
            return path, segment_with(data, path, payload=lambda index, body: bomb if index == chosen else body)
        case 4:
            bomb = rng.choice(list(bombs().values()))
            return path, segment_with(data, path, header=lambda body: body[:96] + bomb)
        case _:
            field = rng.choice((4, 5, 6, 7, 8, 9, 10))
            odd = rng.randbytes(32) if field == 10 else rng.choice(ODD_INTEGERS)
            return path, segment_with(
                data, path, fields=lambda index, each: _put(each, field, odd) if index == chosen else each
            )


def _put(fields: list[Any], index: int, value: Any) -> list[Any]:
    return [*fields[:index], value, *fields[index + 1 :]]


def _encoded(rng: random.Random, data: bytes) -> bytes:
    if rng.random() < 0.3:
        return scrambled(rng, data)
    try:
        return msgspec.msgpack.encode(mutated(rng, msgspec.msgpack.decode(data)))
    except (ValueError, TypeError, OverflowError, msgspec.MsgspecError):
        return scrambled(rng, data)


def bombs() -> dict[str, bytes]:
    """MessagePack that claims more than there is, or nests without end."""
    return {
        "an array of 4 G": b"\xdd\xff\xff\xff\xff",
        "a map of 4 G": b"\xdf\xff\xff\xff\xff",
        "bytes of 4 G": b"\xc6\xff\xff\xff\xff",
        "text of 4 G": b"\xdb\xff\xff\xff\xff",
        "an extension of 4 G": b"\xc9\xff\xff\xff\xff\x05",
        "nested arrays": b"\x91" * 200_000,
        "nested maps": b"\x81\xa1k" * 100_000,
        "arrays of 4 G within arrays": b"\xdd\xff\xff\xff\xff" * 20_000,
        "a record with a text of 1 G": b"\x91\x98\x00\x01\xc0\xdb\x40\x00\x00\x00x",
        "a million nils": b"\xdd\x00\x0f\x42\x40" + b"\xc0" * 1_000_000,
        "a million empty maps": b"\xdd\x00\x0f\x42\x40" + b"\x80" * 1_000_000,
        "text that is no UTF-8": b"\x91\x98\x00\x01\xc0\xa3\xff\xfe\xfd\xc0\xc0\xc0\x91\x01",
        "a lone surrogate": b"\x91\x98\x00\x01\xc0\xa3\xed\xa0\x80\xc0\xc0\xc0\x91\x01",
        "a time of 2^64 - 1": b"\x91\x98\x00\xcf" + b"\xff" * 8 + b"\xc0\xc0\xc0\xc0\xc0\x91\x01",
    }


# -- JSON behind a prologue -------------------------------------------------------------------------------------------


def hostile_json(rng: random.Random, body: bytes) -> bytes:
    match rng.randrange(4):
        case 0:
            return scrambled(rng, body)
        case 1:
            return rng.choice(list(json_bombs().values()))
    try:
        return msgspec.json.encode(mutated(rng, msgspec.json.decode(body)))
    except (ValueError, TypeError, msgspec.MsgspecError):
        return scrambled(rng, body)


def json_bombs() -> dict[str, bytes]:
    return {
        "nested arrays": b"[" * 200_000,
        "nested objects": b'{"a":' * 100_000,
        "a number of 100,000 digits": b'{"seq":' + b"9" * 100_000 + b"}",
        "an exponent": b'{"seq":1e999999999}',
        "a lone surrogate": b'{"journal_id":"\\ud800"}',
        "no UTF-8": b'{"journal_id":"\xff"}',
        "a NUL": b'{"journal_id":"\\u0000"}',
        "a million keys": b"{" + b",".join(b'"%d":0' % number for number in range(100_000)) + b"}",
        "nothing": b"",
    }


def hostile_manifest(rng: random.Random, subject: Specimen) -> tuple[str, bytes]:
    path = rng.choice(subject.files("manifest"))
    return path, encode_header(KIND_MANIFEST, hostile_json(rng, subject.image[path][PROLOGUE_BYTES:]))


def hostile_plan(rng: random.Random, subject: Specimen) -> tuple[str, bytes]:
    path = rng.choice(subject.files("plan"))
    return path, encode_header(KIND_PLAN, hostile_json(rng, subject.image[path][PROLOGUE_BYTES:]))


def hostile_lock(rng: random.Random, subject: Specimen) -> tuple[str, bytes]:
    path = next(each for each in subject.files("lock") if subject.image[each])
    return path, hostile_json(rng, subject.image[path].rstrip())


HOSTILE: tuple[Callable[[random.Random, Specimen], tuple[str, bytes]], ...] = (
    hostile_segment, hostile_segment, hostile_segment, hostile_manifest, hostile_plan, hostile_lock,
)  # fmt: skip


def hostile_files(seed: int, subject: Specimen) -> Iterator[tuple[str, bytes]]:
    """One or two hostile files, by seed."""
    rng = random.Random(seed)
    for _ in range(rng.choice((1, 1, 1, 2))):
        yield rng.choice(HOSTILE)(rng, subject)





# -- YAML -------------------------------------------------------------------------------------------------------------

_YAML = (
    "a: &a [x,x,x,x,x,x,x,x,x]\n", "b: &b [*a,*a,*a,*a,*a,*a,*a,*a,*a]\n", "c: [*b,*b,*b,*b,*b,*b]\n", "d: *d\n",
    "e: &e {f: *e}\n", "<<: *a\n", "<<: {x: y}\n", "? [1, 2]\n: x\n", "? {a: b}\n", "on: yes\n", "1: 2\n", "null: 1\n",
    "!!python/object/apply:os.system ['true']: 1\n", "x: !!binary |\n  /w==\n", "x: !!timestamp 2024-99-99\n",
    "x: !!int ''\n", "x: !!bool maybe\n", "x: 59:59:59:59:59\n", "x: 0x" + "f" * 5000 + "\n", "x: " + "9" * 5000 + "\n",
    "x: .inf\n", "x: .nan\n", "x: 1e999999\n", "x: |\n  " + "y" * 3000 + "\n", "[" * 3000, "{" * 3000, "- " * 3000,
    "x:\n" + "".join(" " * depth + "a:\n" for depth in range(200)), "\t- x\n", "---\n", "...\n", "%YAML 9.9\n",
    "%TAG ! tag:x,2000:\n", "\x00",
    "\x1b[2J", "\ufeff", "\u2028", "\x85", "'unclosed", '"\\ud800"\n', '"\\x"\n', "@x\n",
    "name: writer\n", "tools: [search]\n", "paths: {journal: ../../../etc}\n", "paths: {agents: /}\n",
    "segment_bytes_max: 1e30\n", "redact: {patterns: ['(a+)+$', '(']}\n", "checkpoint: {agents: {'[': critical}}\n",
    "quarantine: {days: -1}\n", "paths:\n", "agents: {validation: [strict]}\n", "x: y: z\n", "# only a comment\n",
)  # fmt: skip


def hostile_yaml(rng: random.Random) -> bytes:
    """A text of pieces that YAML readers crash, hang or lie on; as frontmatter or whole."""
    text = "".join(rng.choice(_YAML) for _ in range(rng.choice((1, 2, 3, 6, 30))))
    data = text.encode(errors="surrogatepass")
    if rng.random() < 0.3:
        data = scrambled(rng, data)
    return b"---\n" + data + b"\n---\nbody\n" if rng.random() < 0.5 else data
