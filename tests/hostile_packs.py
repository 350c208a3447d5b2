"""Packs that somebody made to do harm, valid in every checksum that the change leaves; and bytes that are no pack."""

from __future__ import annotations

import random
import struct
import tracemalloc
from collections import Counter
from zlib import crc32

import zstandard

from journal.errors import JournalError
from journal.format import KIND_PACK, PROLOGUE_BYTES, encode_header
from journal.log import Log
from journal.pack import TAIL_BYTES, find_pack
from journal.parity_store import ParityStore
from journal.reader import LogReader
from journal.repair import plan_repairs
from journal.salvage import survey
from journal.scrub import units
from journal.verify import verify
from tests.hostile import ODD_INTEGERS, scrambled
from tests.overlay import View
from tests.packs import packed_specimen, packs

_ENTRY = 52
MEMORY_BYTES_MAX = 160 << 20  # a block's body, its copy, and some


def with_header(data: bytes, path: str, body: bytes, frames: bytes | None = None) -> bytes:
    """The pack with this body in both of its headers, their CRCs right, and these frames."""
    pack = find_pack(data, path)
    header = encode_header(KIND_PACK, body)
    between = data[pack.header_bytes : pack.copy_at] if frames is None else frames
    return header + between + header + len(header).to_bytes(TAIL_BYTES, "little")


def with_frame(data: bytes, path: str, number: int, frame: bytes, body_bytes: int | None = None) -> bytes:
    """The pack with another frame for one block, its entry telling the truth of it but, if told, of its content."""
    pack = find_pack(data, path)
    block = pack.blocks[number]
    body = bytearray(pack.encoded[PROLOGUE_BYTES:])
    at = len(body) - _ENTRY * (len(pack.blocks) - number)
    body[at : at + 8] = struct.pack("<II", len(frame), block.body_bytes if body_bytes is None else body_bytes)
    body[at + 16 : at + 20] = struct.pack("<I", crc32(frame))
    frames = data[pack.header_bytes : block.offset] + frame + data[block.offset + block.length : pack.copy_at]
    return with_header(data, path, bytes(body), frames)


def hostile_pack(rng: random.Random, data: bytes, path: str) -> bytes:
    """One of the ways to lie."""
    pack = find_pack(data, path)
    body = bytearray(pack.encoded[PROLOGUE_BYTES:])
    number = rng.randrange(len(pack.blocks))
    block = pack.blocks[number]
    content = zstandard.ZstdDecompressor().decompress(data[block.offset : block.offset + block.length])
    match rng.randrange(9):
        case 0:  # a number of the header
            at = rng.choice((0, 8, 48, 52, 56))
            width = 8 if at < 16 else 4
            body[at : at + width] = (rng.choice(ODD_INTEGERS) % (1 << 8 * width)).to_bytes(width, "little")
            return with_header(data, path, bytes(body))
        case 1:  # a number of a block's entry
            at = len(body) - _ENTRY * (len(pack.blocks) - number) + rng.choice((0, 4, 8, 12, 16))
            body[at : at + 4] = (rng.choice(ODD_INTEGERS) % (1 << 32)).to_bytes(4, "little")
            return with_header(data, path, bytes(body))
        case 2:  # any of the header's bytes
            return with_header(data, path, scrambled(rng, bytes(body)))
        case 3:  # a number of a batch's entry
            changed, at = bytearray(content), rng.choice((0, 4, 8, 12, 16))
            changed[at : at + 4] = (rng.choice(ODD_INTEGERS) % (1 << 32)).to_bytes(4, "little")
            return with_frame(data, path, number, _compressed(bytes(changed)))
        case 4:  # any bytes of a block
            changed = scrambled(rng, content)
            return with_frame(data, path, number, _compressed(changed), len(changed))
        case 5:  # a frame that says more, or nothing, of its length
            odd = rng.choice((_compressed(bytes(1 << 26)), _silent(content), _compressed(content) * 2, b""))
            return with_frame(data, path, number, odd, rng.choice((None, 1 << 26, len(content), 1 << 31)))
        case 6:  # bytes of a frame, under a right CRC
            frame = scrambled(rng, data[block.offset : block.offset + block.length])
            return with_frame(data, path, number, frame)
        case 7:
            return scrambled(rng, data)
        case _:
            return rng.randbytes(rng.choice((0, 1, 20, 600, 9000)))


def _compressed(data: bytes) -> bytes:
    return zstandard.ZstdCompressor().compress(data)


def _silent(data: bytes) -> bytes:
    return zstandard.ZstdCompressor(write_content_size=False).compress(data)


def judge(seed: int) -> Counter[str]:
    """What each way through the product makes of one such pack. Raises where it was no answer."""
    rng, subject = random.Random(seed), packed_specimen()
    path = rng.choice([path for path in packs(subject) if find_pack(subject.image[path], path).blocks])
    changed = hostile_pack(rng, subject.image[path], path)
    found = Counter({"hostile packs": 1})
    for name, way in WAYS.items():
        view = subject.view({path: changed})
        tracemalloc.start()
        try:
            way(view, subject.root)
            found["taken"] += 1
        except JournalError:
            found["refused"] += 1
        except Exception as error:
            raise AssertionError(f"seed {seed}, {name}: {type(error).__name__}: {error}") from error
        finally:
            peak = tracemalloc.get_traced_memory()[1]
            tracemalloc.stop()
        assert peak < MEMORY_BYTES_MAX, f"seed {seed}, {name}: {peak >> 20} MiB"
    return found


def _read(view: View, root: str) -> None:
    for number, batch in enumerate(LogReader(view, root).batches()):
        assert batch.payload == packed_specimen().payloads[number], f"batch {number} is read with another content"
        batch.records()


def _verify(view: View, root: str) -> None:
    verify(view, root)


def _scrub(view: View, root: str) -> None:
    for unit in units(view, root, ParityStore(view, root)):
        unit.check()


def _repair(view: View, root: str) -> None:
    plan = plan_repairs(view, root, ParityStore(view, root))
    for path, (data, _) in plan.files.items():
        assert data == packed_specimen().image[path], "repaired to other bytes than there were"


def _salvage(view: View, root: str) -> None:
    found = survey(view, root)
    assert not [run for run in found.runs if run.first_seq > packed_specimen().last_seq]


def _open(view: View, root: str) -> None:
    Log.open(view, root).close()


WAYS = {"read": _read, "verify": _verify, "scrub": _scrub, "repair": _repair, "salvage": _salvage, "open": _open}
