"""What was read from bytes once is not read again from equal bytes, while a rig looks at thousands of like images.

Only successes are kept, under the very bytes (and path, which errors would name) that they came from, and only results
that nobody changes: segment headers, the batches of a scan with where it ended, records. Everything else of the product
runs as it is; bytes that differ in one bit are read anew.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from journal import format as binary
from journal import scan
from journal.format import PROLOGUE_BYTES, SegmentHeader
from journal.record import Record
from journal.scan import BadRegion, Batch, Scanner

ENTRIES_MAX = 2000  # each keeps the bytes of a small segment
_LENGTH_AT = 12  # of the header, in the prologue


class _Scanned:
    """One scan to its end: what it gave and the scanner's state then."""

    __slots__ = ("batches", "header", "region", "state")

    def __init__(self, header: SegmentHeader, batches: list[Batch], state: dict[str, Any]) -> None:
        self.header = header  # kept, so that no other header takes its id
        self.batches = batches
        self.state = state
        self.region: tuple[BadRegion | None] | None = None


class _Cache(dict[Any, Any]):
    """Forgets everything where it would grow without end."""

    def keep(self, key: Any, value: Any) -> Any:
        if len(self) >= ENTRIES_MAX:
            self.clear()
        self[key] = value
        return value


def _headers(decode: Callable[[Any, str], tuple[SegmentHeader, int]]) -> Callable[[Any, str], Any]:
    known = _Cache()

    def decode_segment_header(data: Any, path: str) -> tuple[SegmentHeader, int]:
        length = int.from_bytes(data[_LENGTH_AT : _LENGTH_AT + 4], "little")
        if not PROLOGUE_BYTES <= length <= len(data):
            return decode(data, path)
        key = (bytes(data[:length]), path)
        return known.get(key) or known.keep(key, decode(data, path))

    return decode_segment_header


def _scans(
    iterate: Callable[[Scanner], Iterator[Batch]], region_of: Callable[[Scanner], BadRegion | None]
) -> tuple[Callable[[Scanner], Iterator[Batch]], Callable[[Scanner], BadRegion | None]]:
    known = _Cache()

    def __iter__(scanner: Scanner) -> Iterator[Batch]:
        data = scanner.data
        whole = data.obj if type(data.obj) is bytes and len(data.obj) == len(data) else bytes(data)
        key = (whole, scanner.offset, scanner.path, id(scanner.header))
        found = known.get(key)
        if found is None:
            batches = list(iterate(scanner))
            found = known.keep(key, _Scanned(scanner.header, batches, dict(scanner.__dict__)))
        else:
            scanner.__dict__.update(found.state)
        scanner.__dict__["scanned"] = found
        return iter(found.batches)

    def bad_region(scanner: Scanner) -> BadRegion | None:
        found = scanner.__dict__.get("scanned")
        if found is None:
            return region_of(scanner)
        if found.region is None:
            found.region = (region_of(scanner),)
        return found.region[0]  # type: ignore[no-any-return]

    return __iter__, bad_region


def _records(decode: Callable[[Batch], list[Record]]) -> Callable[[Batch], list[Record]]:
    known = _Cache()

    def records(batch: Batch) -> list[Record]:
        key = (batch.chain, batch.count, bytes(batch.payload), batch.offset)
        return known.get(key) or known.keep(key, decode(batch))

    return records


@contextmanager
def remembering() -> Iterator[None]:
    """While this runs, equal bytes are read once."""
    readers = [each for name, each in sys.modules.items() if name.startswith("journal.")]
    original = binary.decode_segment_header
    users = [each for each in readers if getattr(each, "decode_segment_header", None) is original]
    iterate, region, records = Scanner.__iter__, Scanner.bad_region, scan.Batch.records
    known = _headers(original)
    for each in users:
        each.decode_segment_header = known  # type: ignore[attr-defined]
    Scanner.__iter__, Scanner.bad_region = _scans(iterate, region)  # type: ignore[method-assign]
    Batch.records = _records(records)  # type: ignore[method-assign]
    try:
        yield
    finally:
        for each in users:
            each.decode_segment_header = original  # type: ignore[attr-defined]
        Scanner.__iter__, Scanner.bad_region = iterate, region  # type: ignore[method-assign]
        Batch.records = records  # type: ignore[method-assign]
