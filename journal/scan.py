"""Bytes of a segment → whole batches, then one verdict on what lies behind them. Pure.

The only decoder of batches: reader, verifier, opener and salvager are policies over it. It states facts about a bad
region and never decides what they mean; `journal.regions` does.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import msgspec

from journal.errors import Unsupported
from journal.format import (
    BATCH_FLAGS_KNOWN,
    BATCH_HEADER_BYTES,
    BATCH_MAGIC,
    FLAG_CLEAN_CLOSE,
    FLAG_ZERO_SECTORS,
    SECTOR_BYTES,
    TRAILER_BYTES,
    BatchHeader,
    SegmentHeader,
    decode_batch_header,
    next_chain,
    trailer_matches,
)
from journal.record import Record, RecordDecoder, RecordHead


class Batch(msgspec.Struct, frozen=True, gc=False):
    """One whole batch: what one sync covered. ``chain`` is the chain after it; offsets are the segment's."""

    first_seq: int
    count: int
    epoch: int
    durable_seq: int
    previous_chain: bytes
    chain: bytes
    payload: memoryview
    offset: int
    end: int
    decoder: RecordDecoder

    @property
    def last_seq(self) -> int:
        return self.first_seq + self.count - 1

    def records(self) -> list[Record]:
        """The decoded records; the seq of the i-th is ``first_seq + i``. Raises Unsupported or Corrupt."""
        return self.decoder(self.payload, self.count, self.offset)

    def heads(self) -> list[RecordHead]:
        """The envelopes' fronts alone, at a third of the cost."""
        return self.decoder.heads(self.payload, self.count, self.offset)


@dataclass(frozen=True, slots=True)
class BadRegion:
    """Facts about bytes that are no whole batch where one should begin.

    ``first_seq`` is the seq that belongs there; ``length`` reaches to the last byte that is not zero; ``declared`` is
    the last seq that a readable batch header claims, or None. ``incomplete``: its declared extent was not all
    written. ``followed``: a valid batch header of this very segment lies behind it. ``durable_seq``: the last seq that
    the segment's header or a batch before the region says was synced.
    """

    offset: int
    length: int
    first_seq: int
    reason: str
    incomplete: bool
    followed: bool
    declared: int | None
    durable_seq: int


class Scanner:
    """Iterates over the whole batches of one segment and stops at the first that is not.

    After iteration ``offset``, ``next_seq``, ``chain`` and ``durable_seq`` describe the end of what is valid,
    ``closed`` tells of a clean close, which lies between ``records_end`` and ``offset``, and `bad_region` describes
    what lies there, if anything does.
    """

    def __init__(self, data: bytes | memoryview, start: int, header: SegmentHeader, path: str) -> None:
        self.data = memoryview(data)
        self.header = header
        self.path = path
        self.offset = self.records_end = start
        self.next_seq = header.first_seq
        self.chain = header.previous_chain
        self.durable_seq = max(header.first_seq - 1, int(header.extra.get("durable_seq", 0)))
        self.closed = False
        self._problem = ""
        self._found: BatchHeader | None = None

    def __iter__(self) -> Iterator[Batch]:
        data, decoder = self.data, RecordDecoder(self.header.types, self.path)
        while not self.closed:
            start = self.offset
            found = decode_batch_header(data, start)
            self._found = found
            if found is None:
                self._problem = "no batch header"
                return
            self._problem = self._mismatch(found)
            if self._problem:
                return
            if found.flags & ~BATCH_FLAGS_KNOWN:
                raise Unsupported("a batch flag is not known to this version", path=self.path, offset=start)
            end = start + found.total_bytes
            if end > len(data):
                self._problem = "the file ends inside the batch"
                return
            payload = data[start + BATCH_HEADER_BYTES : end - TRAILER_BYTES]
            if not trailer_matches(found, payload, data[end - TRAILER_BYTES : end]):
                self._problem = "records do not match their CRC"
                return
            chain = next_chain(self.chain, found.first_seq, found.count, payload)
            batch = Batch(
                found.first_seq, found.count, found.epoch, found.durable_seq, self.chain, chain, payload, start, end,
                decoder,
            )  # fmt: skip
            self.offset, self.chain, self.next_seq = end, chain, found.first_seq + found.count
            self.durable_seq = max(self.durable_seq, found.durable_seq)
            self.closed = bool(found.flags & FLAG_CLEAN_CLOSE)
            if found.count:
                self.records_end = end
                yield batch
        self._found = None
        self._problem = "bytes follow the clean close"

    def _mismatch(self, found: BatchHeader) -> str:
        """Why a readable batch header does not belong here, or an empty string."""
        header = self.header
        if found.journal_id != header.journal_id or found.salt != header.salt:
            return "the batch belongs to another segment"
        if found.first_seq != self.next_seq:
            return f"seq {found.first_seq} where {self.next_seq} belongs"
        if found.previous_chain != self.chain:
            return "the chain does not continue"
        if found.epoch > header.epoch or (found.count == 0) != bool(found.flags & FLAG_CLEAN_CLOSE):
            return "the batch header contradicts itself"
        return ""

    def bad_region(self) -> BadRegion | None:
        """What lies behind the last whole batch: None if only zeros (or nothing) by right, else the facts."""
        rest = _up_to_zeros(bytes(self.data[self.offset :]))
        fill = rest.lstrip(b"\0")
        if not fill or (len(fill) == 1 and fill[0].bit_count() == 1):
            # One bit set in the zero fill is rot of padding: no batch is one bit away from zeros.
            if self.durable_seq < self.next_seq:
                return None
            self._problem = "zeros where a batch belongs"  # it was synced: the header, or a batch before it, says so
        found = self._found
        belongs = found is not None and found.first_seq == self.next_seq and found.salt == self.header.salt
        # The end byte is never zero: where it still is, a write stopped short, in mid-sector even.
        extent = found.total_bytes if found is not None and belongs else BATCH_HEADER_BYTES
        explained = bool(found is not None and found.flags & FLAG_ZERO_SECTORS)
        return BadRegion(
            offset=self.offset,
            length=len(rest),
            first_seq=self.next_seq,
            reason=self._problem,
            incomplete=len(rest) < extent or self._incomplete(extent, explained),
            followed=self._followed(rest),
            declared=found.last_seq if found is not None and belongs else None,
            durable_seq=self.durable_seq,
        )

    def _incomplete(self, extent: int, explained: bool) -> bool:
        """True if the file ends inside the extent, or a sector of it still shows the zeros it was filled with.

        Sectors are looked at to their ends: the last bytes of a header may be zeros by right, but what follows it in
        its sector never is. One between header and end byte may be blank by content; the header says so
        (`FLAG_ZERO_SECTORS`), and then such a sector proves nothing.
        """
        start, end = self.offset, self.offset + extent
        if end > len(self.data):
            return True
        for sector in range(start - start % SECTOR_BYTES, end, SECTOR_BYTES):
            low, high = max(sector, start), sector + SECTOR_BYTES
            by_content = explained and low >= start + BATCH_HEADER_BYTES and high < end
            if not any(self.data[low:high]) and not by_content:
                return True
        return False

    def _followed(self, rest: bytes) -> bool:
        at = rest.find(BATCH_MAGIC, 1)
        while at >= 0:
            found = decode_batch_header(rest, at)
            if found is not None and found.salt == self.header.salt and found.journal_id == self.header.journal_id:
                return True
            at = rest.find(BATCH_MAGIC, at + 1)
        return False


def _up_to_zeros(data: bytes) -> bytes:
    """Without the zeros at the end. Mostly there is nothing else, and comparing is many times faster than stripping."""
    return b"" if data == bytes(len(data)) else data.rstrip(b"\0")
