"""Bytes of a record: an event with its envelope, and the arrays of them that batches carry. Pure; `docs/format.md` is
the norm.

A record is a MessagePack array: flags, time, clock, op_id, agent, actor, traceparent, event. The event is an array that
starts with its type's tag. A reader ignores elements past those that it knows.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import cache
from typing import Annotated, Any

import msgspec

from journal.errors import Corrupt, Unsupported
from journal.events import event_union, type_dictionary

RECORD_CONTINUES_GROUP = 1
RECORD_UNCHECKED = 2  # accepted without reference checks, since there was no state to ask
RECORD_FLAGS_KNOWN = RECORD_CONTINUES_GROUP | RECORD_UNCHECKED


class Record(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """An event with its envelope, as stored; its seq is its batch's first seq plus its index.

    ``time`` is UTC ns and never decreases; ``clock`` is what the clock said where that differs, else None. ``op_id``
    is None where the journal generated it (see `generated_op_id`).
    """

    flags: Annotated[int, msgspec.Meta(ge=0, le=RECORD_FLAGS_KNOWN)]  # another is Unsupported, never skipped
    time: Annotated[int, msgspec.Meta(ge=0, le=(1 << 63) - 1)]  # what a column of SQLite holds
    clock: int | None
    op_id: str | None
    agent: str | None
    actor: str | None
    traceparent: str | None
    event: Any  # narrowed to the registered types by `RecordDecoder`


class RecordHead(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """The front of a record: all that scans for times and op_ids decode."""

    flags: int
    time: int
    clock: int | None
    op_id: str | None
    agent: str | None
    actor: str | None


def generated_op_id(epoch: int, seq: int) -> str:
    """The op_id of a record whose caller gave none: unique, because an epoch never hands out a seq twice."""
    return f"e{epoch}-{seq}"


encode_record = msgspec.msgpack.Encoder().encode


def array_of(records: list[bytes]) -> bytes:
    """The payload of a batch: a MessagePack array header and the encoded records."""
    count = len(records)
    if count < 16:
        front = bytes((0x90 | count,))
    elif count < 1 << 16:
        front = b"\xdc" + count.to_bytes(2, "big")
    else:
        front = b"\xdd" + count.to_bytes(4, "big")
    return front + b"".join(records)


@cache
def _typed_decoder(union: Any) -> Callable[[bytes | memoryview], list[Record]]:
    """A decoder of record arrays whose events are `union`; building one costs more than a small segment's decoding."""
    typed = msgspec.defstruct("Record", [("event", union)], bases=(Record,), frozen=True, array_like=True, gc=False)
    decode: Callable[[bytes | memoryview], list[Record]] = msgspec.msgpack.Decoder(list[typed]).decode  # type: ignore[valid-type]
    return decode


class RecordDecoder:
    """Decodes payloads written under one segment's type dictionary.

    Where that dictionary agrees with the registry (nearly always) decoding is typed and straight. A type or flag that
    this program does not know is Unsupported, never skipped: skipping would make another state of the same journal.
    """

    __slots__ = ("_decode", "_path", "_types", "_unknown")

    def __init__(self, types: Mapping[str, int], path: str) -> None:
        self._path = path
        self._types = types
        known = type_dictionary()
        self._unknown = {}
        if types != known:
            self._unknown = {tag: name for name, tag in types.items() if known.get(name) != tag}
        self._decode = _typed_decoder(event_union())

    def __call__(self, payload: bytes | memoryview, count: int, offset: int) -> list[Record]:
        """The records of one batch. Raises Unsupported or Corrupt, with the batch's offset."""
        if self._unknown:
            self._refuse_unknown(payload, offset)
        try:
            records = self._decode(payload)
        except (msgspec.MsgspecError, RecursionError, ValueError) as error:
            self._refuse_unknown(payload, offset)
            raise Corrupt(f"records cannot be decoded: {error}", path=self._path, offset=offset) from error
        if len(records) != count:
            raise Corrupt(f"{len(records)} records where {count} belong", path=self._path, offset=offset)
        return records

    def heads(self, payload: bytes | memoryview, count: int, offset: int) -> list[RecordHead]:
        """The fronts of all records, without their events. Raises Corrupt."""
        try:
            heads = _HEADS(payload)
        except (msgspec.MsgspecError, RecursionError, ValueError) as error:
            raise Corrupt(f"records cannot be decoded: {error}", path=self._path, offset=offset) from error
        if len(heads) != count:
            raise Corrupt(f"{len(heads)} records where {count} belong", path=self._path, offset=offset)
        return heads

    def _refuse_unknown(self, payload: bytes | memoryview, offset: int) -> None:
        """Raises Unsupported if the payload holds a flag that is not known, or a type that is not registered here under
        the same tag."""
        try:
            found = {(record[0], record[7][0]) for record in msgspec.msgpack.decode(payload)}
        except (msgspec.MsgspecError, RecursionError, TypeError, LookupError, ValueError):
            return  # not even shaped like records: the caller calls it corrupt
        known = set(type_dictionary().values())
        for flags, tag in found:
            if isinstance(flags, int) and not 0 <= flags <= RECORD_FLAGS_KNOWN:
                raise Unsupported("a record flag is not known to this version", path=self._path, offset=offset)
            if tag in self._unknown or tag not in known:
                names = {number: name for name, number in self._types.items()}
                raise Unsupported(
                    f"event type {names.get(tag, tag)!r} is not known to this version",
                    path=self._path,
                    offset=offset,
                    hint="upgrade agent-journal, or import the module that registers it",
                )


_HEADS = msgspec.msgpack.Decoder(list[RecordHead]).decode
