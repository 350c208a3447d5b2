"""The parent of a journal: what a successor's first segment header says of the journal whose losses it survived.

Knows one key of that header's map. How a successor is made is `journal.successor`'s.
"""

from __future__ import annotations

from typing import Annotated

import msgspec

from journal.errors import Corrupt
from journal.format import SegmentHeader

KEY = "parent"
LOST_RANGES_MAX = 2000  # a segment's header must fit into its first 65,536 bytes

Seq = Annotated[int, msgspec.Meta(ge=0, le=(1 << 63) - 1)]
Hash = Annotated[bytes, msgspec.Meta(min_length=32, max_length=32)]


class Parent(msgspec.Struct, frozen=True):
    """``seq`` and ``chain`` are where the parent was whole up to: the same here. ``lost`` are (first, last) seqs."""

    journal_id: Annotated[bytes, msgspec.Meta(min_length=16, max_length=16)]
    seq: Seq
    chain: Hash
    lost: list[tuple[Seq, Seq]]

    def has_lost(self, seq: int) -> bool:
        """True if the parent's event of this seq could not be read."""
        return any(first <= seq <= last for first, last in self.lost)


def parent_of(header: SegmentHeader, path: str) -> Parent | None:
    """The parent that a first segment's header names; None where there is none. Raises Corrupt."""
    told = header.extra.get(KEY)
    if told is None:
        return None
    try:
        return msgspec.convert(told, Parent)
    except msgspec.ValidationError as error:
        raise Corrupt(f"what the header says of the parent cannot be decoded: {error}", path=path) from error


def as_key(parent: Parent) -> dict[str, object]:
    """The parent as a value of the header's map."""
    return {"journal_id": parent.journal_id, "seq": parent.seq, "chain": parent.chain,
            "lost": [list(each) for each in parent.lost]}  # fmt: skip
