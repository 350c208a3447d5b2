"""The embeddings of a checkpoint: rows of the embeddings table, packed into parts of their own kind.

A part is rows one after the other, all integers little-endian:

    sha256 of the text 32 | model bytes 2 | vector bytes 4 | checksum 4 | model (UTF-8) | vector

Embeddings are derived: they are no part of a state or its digest, they fit any state of the same texts, and what is
lost is computed again. So a part is taken over as it is from the checkpoint before while most of its rows are still
wanted, and only rows that no such part holds are packed anew: the cost of a checkpoint follows what changed.
"""

from __future__ import annotations

import sqlite3
import struct
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import islice
from zlib import crc32

from journal.checkpoint import KIND_EMBEDDINGS, PART_BYTES, CheckpointStore, Part
from journal.errors import Corrupt
from replay.embeddings import Row, store

_HEAD = struct.Struct("<32sHII")
_WANTED_SHARE = 0.5  # a part is packed again once less of it is wanted
_SMALL_BYTES = PART_BYTES // 4
_SMALL_PARTS_MAX = 8
_BATCH = 500

Key = tuple[bytes, str]


def encode_row(row: Row) -> bytes:
    model = row.model.encode()
    return _HEAD.pack(row.text_sha256, len(model), len(row.vector), row.checksum) + model + row.vector


def decode_rows(data: bytes) -> list[Row]:
    """The rows of a part. Raises ValueError where it is not made of whole rows with matching checksums."""
    rows: list[Row] = []
    at = 0
    while at < len(data):
        if len(data) - at < _HEAD.size:
            raise ValueError(f"a row at {at} ends early")
        text_sha256, model_bytes, vector_bytes, checksum = _HEAD.unpack_from(data, at)
        middle = at + _HEAD.size + model_bytes
        end = middle + vector_bytes
        if end > len(data):
            raise ValueError(f"a row at {at} ends early")
        vector = data[middle:end]
        if crc32(vector) != checksum:
            raise ValueError(f"the checksum of the row at {at} does not match")
        rows.append(Row(text_sha256, data[at + _HEAD.size : middle].decode(), vector, checksum))
        at = end
    return rows


def pack(rows: Iterable[Row]) -> Iterator[bytes]:
    """Parts of about 1 MiB, never splitting a row."""
    part: list[bytes] = []
    length = 0
    for row in rows:
        encoded = encode_row(row)
        if part and length + len(encoded) > PART_BYTES:
            yield b"".join(part)
            part, length = [], 0
        part.append(encoded)
        length += len(encoded)
    if part:
        yield b"".join(part)


def save_embeddings(
    connection: sqlite3.Connection, checkpoints: CheckpointStore, before: Sequence[Part]
) -> tuple[list[Part], int]:
    """Puts the good rows of this memory.db; returns their parts and the bytes that were written anew.

    `before` are the embeddings parts of an earlier checkpoint. Rows whose checksum is wrong are left out.
    """
    wanted = {
        (key, model): checksum
        for key, model, checksum in connection.execute("SELECT text_sha256, model, checksum FROM embeddings")
        if _is_key(key, model)
    }
    parts: list[Part] = []
    small = [part for part in before if part.length < _SMALL_BYTES]
    repack = {part.sha256 for part in small} if len(small) > _SMALL_PARTS_MAX else set()
    for part in before:
        if part.sha256 in repack:
            continue
        held = _held(checkpoints, part, wanted)
        if held is not None:
            parts.append(part)
            for key in held:
                wanted.pop(key, None)
    written = 0
    for data in pack(_rows(connection, sorted(wanted))):
        part, new = checkpoints.put_part(KIND_EMBEDDINGS, data)
        parts.append(part)
        written += part.length if new else 0
    return parts, written


def _held(checkpoints: CheckpointStore, part: Part, wanted: dict[Key, int]) -> list[Key] | None:
    """The wanted keys that the part holds; None where it is damaged, or too few of its rows are wanted."""
    try:
        rows = decode_rows(checkpoints.read_part(part))
    except (Corrupt, ValueError):
        return None
    held = [(row.text_sha256, row.model) for row in rows if wanted.get((row.text_sha256, row.model)) == row.checksum]
    return held if len(held) >= _WANTED_SHARE * len(rows) else None


def _is_key(text_sha256: object, model: object) -> bool:
    return isinstance(text_sha256, bytes) and len(text_sha256) == 32 and isinstance(model, str)


def _rows(connection: sqlite3.Connection, keys: Iterable[Key]) -> Iterator[Row]:
    query = "SELECT vector, checksum FROM embeddings WHERE text_sha256 = ? AND model = ?"
    for key in keys:
        found = connection.execute(query, key).fetchone()
        if found is not None and isinstance(found[0], bytes) and crc32(found[0]) == found[1]:
            yield Row(*key, *found)


def load_embeddings(
    connection: sqlite3.Connection,
    checkpoints: CheckpointStore,
    parts: Sequence[Part],
    lost: Callable[[str], None],
    given: Iterable[Row] = (),
) -> int:
    """Fills the embeddings table with the rows of `parts`, and those `given`, whose texts this state holds.

    Returns how many there are.

    A damaged part costs its rows and nothing else: `lost` is told why, and they are pending again. The caller owns
    the transaction.
    """
    for part in parts:
        try:
            store(connection, decode_rows(checkpoints.read_part(part)))
        except Corrupt as error:
            lost(str(error))
        except (ValueError, UnicodeDecodeError) as error:
            lost(f"{error} [{checkpoints.part_path(part)}]")
    for some in _batched(given):
        store(connection, some)
    connection.execute("DELETE FROM embeddings WHERE text_sha256 NOT IN (SELECT text_sha256 FROM observations)")
    (count,) = connection.execute("SELECT count(*) FROM embeddings").fetchone()
    return int(count)


def _batched(rows: Iterable[Row]) -> Iterator[list[Row]]:
    rows = iter(rows)
    while batch := list(islice(rows, _BATCH)):
        yield batch
