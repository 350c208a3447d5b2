"""Trace and span ids, derived from the journal's id and a seq: the same event has the same ids whenever it is exported.

The bytes are BLAKE2b keyed by the journal's id, so that two journals never share an id.
"""

from __future__ import annotations

from hashlib import blake2b


def trace_id(journal_id: bytes, seq: int) -> int:
    """128 bits, never 0. ``seq`` is that of the event that begins the trace: a group's first, a recovery's start."""
    return _derived(journal_id, b"trace", seq, 16)


def span_id(journal_id: bytes, seq: int) -> int:
    """64 bits, never 0."""
    return _derived(journal_id, b"span", seq, 8)


def _derived(journal_id: bytes, of: bytes, seq: int, size: int) -> int:
    return int.from_bytes(blake2b(seq.to_bytes(8), digest_size=size, key=journal_id, person=of).digest()) or 1
