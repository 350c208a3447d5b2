"""Rows straight from the pages of a SQLite file: for what no tree leads to any more, page 1 gone or an inner page.

Knows the file format of SQLite (https://www.sqlite.org/fileformat2.html, sections 1.6 and 2) as far as leaves of
tables go, and the shapes of the rows of the two schemas that can be adopted; must not know events. A page tells neither
its table nor whether it is still in use: the table is known by the shape of its rows, and a row that was deleted may
come back.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

_LEAF, _INNER, _INDEX_LEAF, _INDEX_INNER = 13, 5, 10, 2
_HEADER_BYTES = 100  # of the file, in front of page 1's own
_PAGE_SIZES = (4096, 1024, 8192, 16384, 32768, 65536, 2048, 512)
_VALUES_MAX = 64

Row = tuple[Any, ...]


class PageRow(NamedTuple):
    """One row: the page that it lies on, its rowid, and its values; an INTEGER PRIMARY KEY is None among them."""

    page: int
    rowid: int
    values: Row


class Shape(NamedTuple):
    """What the rows of one table look like, column by column; ``real`` are the columns that keep numbers as floats."""

    table: str
    columns: tuple[str, ...]
    fits: Callable[[Row], bool]
    real: frozenset[str] = frozenset()


# -- pages ------------------------------------------------------------------------------------------------------------


def page_size_of(data: bytes) -> int:
    """As the header says it, or else the size at which most pages begin as pages of a tree do."""
    (said,) = struct.unpack_from(">H", data, 16) if data[:16] == b"SQLite format 3\x00" else (0,)
    size = 65536 if said == 1 else int(said)
    if size in _PAGE_SIZES:
        return size

    def likeness(candidate: int) -> float:
        starts = range(candidate, len(data), candidate)
        return sum(data[at] in (_LEAF, _INNER, _INDEX_LEAF, _INDEX_INNER) for at in starts) / max(len(starts), 1)

    return max(_PAGE_SIZES, key=likeness)


def rows_on_pages(data: bytes) -> Iterator[PageRow]:
    """The rows of every leaf of a table that can be made out, but of free pages where the header leads to them."""
    size = page_size_of(data)
    whole_header = data[:16] == b"SQLite format 3\x00"
    usable = size - (data[20] if whole_header and data[20] < size // 2 else 0)
    free = _free_pages(data, size) if whole_header else set()
    for page in range(1, len(data) // size + 1):
        start = (page - 1) * size
        at = start + (_HEADER_BYTES if page == 1 else 0)
        if data[at] != _LEAF or page in free:
            continue
        (cells,) = struct.unpack_from(">H", data, at + 3)
        if at + 8 + 2 * cells > start + size:
            continue
        for offset in struct.unpack_from(f">{cells}H", data, at + 8):
            try:
                rowid, payload = _cell(data, start, offset, size, usable)
                yield PageRow(page, rowid, _values(payload))
            except (IndexError, ValueError, struct.error):
                continue  # this cell is no cell


def _free_pages(data: bytes, size: int) -> set[int]:
    trunk, found = struct.unpack_from(">I", data, 32)[0], set[int]()
    while trunk and trunk not in found and trunk * size <= len(data):
        found.add(trunk)
        following, count = struct.unpack_from(">II", data, (trunk - 1) * size)
        if count > size // 4 - 2:
            break
        found.update(struct.unpack_from(f">{count}I", data, (trunk - 1) * size + 8))
        trunk = following
    return found


def _cell(data: bytes, start: int, offset: int, size: int, usable: int) -> tuple[int, bytes]:
    """Rowid and payload; what does not fit into the page is on a chain of others."""
    if not 8 <= offset < size:
        raise ValueError("no offset")
    length, at = _varint(data, start + offset)
    rowid, at = _varint(data, at)
    room = usable - 35
    if length <= room:
        if at + length > start + size:
            raise ValueError("it ends behind its page")
        return _signed(rowid), data[at : at + length]
    least = (usable - 12) * 32 // 255 - 23
    local = least + (length - least) % (usable - 4)
    local = local if local <= room else least
    parts, left = [data[at : at + local]], length - local
    (page,) = struct.unpack_from(">I", data, at + local)
    while left > 0:
        if not 0 < page <= len(data) // size:
            raise ValueError("its chain leaves the file")
        begin = (page - 1) * size
        parts.append(data[begin + 4 : begin + 4 + min(left, usable - 4)])
        left -= usable - 4
        (page,) = struct.unpack_from(">I", data, begin)
    return _signed(rowid), b"".join(parts)


def _varint(data: bytes, at: int) -> tuple[int, int]:
    value = 0
    for count in range(8):
        byte = data[at + count]
        value = value << 7 | byte & 0x7F
        if byte < 0x80:
            return value, at + count + 1
    return value << 8 | data[at + 8], at + 9


def _signed(value: int) -> int:
    return value - (1 << 64) if value >> 63 else value


_INTEGER_BYTES = {1: 1, 2: 2, 3: 3, 4: 4, 5: 6, 6: 8}


def _values(payload: bytes) -> Row:
    header, at = _varint(payload, 0)
    kinds: list[int] = []
    while at < header:
        kind, at = _varint(payload, at)
        kinds.append(kind)
    if at != header or len(kinds) > _VALUES_MAX:
        raise ValueError("no record")
    values: list[Any] = []
    for kind in kinds:
        length = _INTEGER_BYTES.get(kind, 8 if kind == 7 else (kind - 12) // 2 if kind >= 12 else 0)
        cell = payload[at : at + length]
        if len(cell) != length or kind in (10, 11):
            raise ValueError("a value ends behind its record")
        values.append(_value(kind, cell))
        at += length
    if at != len(payload):
        raise ValueError("bytes behind its last value")
    return tuple(values)


def _value(kind: int, cell: bytes) -> Any:
    if kind in _INTEGER_BYTES:
        return int.from_bytes(cell, "big", signed=True)
    if kind == 7:
        return struct.unpack(">d", cell)[0]
    if kind >= 12:
        return cell.decode(errors="surrogateescape") if kind % 2 else cell
    return {0: None, 8: 0, 9: 1}[kind]


# -- shapes -----------------------------------------------------------------------------------------------------------


def shape_of(values: Row) -> Shape | None:
    """The one table whose rows look like this, if there is one."""
    return next((shape for shape in SHAPES if len(values) == len(shape.columns) and shape.fits(values)), None)


def _is(values: Row, kinds: str) -> bool:
    """One letter a value: n NULL (a rowid's column), i integer, t text, b blob, r number; upper case: or NULL."""
    return all(map(_is_kind, values, kinds))


_KINDS: dict[str, tuple[type, ...]] = {"i": (int,), "t": (str,), "b": (bytes,), "r": (int, float)}


def _is_kind(value: Any, kind: str) -> bool:
    if value is None:
        return kind == "n" or kind.isupper()
    return kind != "n" and isinstance(value, _KINDS[kind.lower()])


def _is_scope(text: str) -> bool:
    return text == "global" or text.startswith(("agent:", "workspace:"))


_CAXTON_ENTITY = (
    "id", "name", "entity_type", "observations", "confidence", "strength", "version", "created_at", "updated_at",
    "valid_from", "valid_to", "metadata",
)  # fmt: skip
_CAXTON_RELATION = (
    "id", "from_entity_id", "to_entity_id", "relation_type", "strength", "confidence", "created_at", "updated_at",
    "valid_from", "valid_to", "metadata",
)  # fmt: skip
_NUMBERS = frozenset({"strength", "confidence"})

SHAPES: tuple[Shape, ...] = (
    Shape("entities",
        ("id", "scope", "name", "entity_type", "metadata", "confidence", "created_at", "updated_at"),
        lambda v: _is(v, "nttttRii") and _is_scope(v[1]), _NUMBERS),
    Shape("relations",
        ("id", "from_entity_id", "to_entity_id", "relation_type", "strength", "confidence", "metadata", "created_at"),
        lambda v: _is(v, "niitRRti"), _NUMBERS),
    Shape("observations",
        ("id", "entity_id", "content", "text_sha256", "metadata", "agent", "created_at"),
        lambda v: _is(v, "nitbtTi") and len(v[3]) == 32),
    Shape("messages",
        ("id", "conversation_id", "message_id", "agent", "role", "content", "created_at"),
        lambda v: _is(v, "ntttttI")),
    Shape("agents",
        ("name", "sha256", "content", "status", "reason", "updated_at"),
        lambda v: _is(v, "ttbtti") and len(v[1]) == 64),
    Shape("entities", _CAXTON_ENTITY, lambda v: _is(v, "nttTRRRIIIIT"), _NUMBERS),
    Shape("relations", _CAXTON_RELATION, lambda v: _is(v, "niitRRIIIIT"), _NUMBERS),
)  # fmt: skip
