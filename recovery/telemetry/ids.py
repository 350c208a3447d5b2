"""Trace and span ids, derived from the journal's id and a seq: the same event has the same ids whenever it is exported.

The bytes are BLAKE2b keyed by the journal's id, so that two journals never share an id.
"""

from __future__ import annotations

from hashlib import blake2b

_PSEUDONYM_BYTES = 8


def trace_id(journal_id: bytes, seq: int) -> int:
    """128 bits, never 0. ``seq`` is that of the event that begins the trace: a group's first, a recovery's start."""
    return _derived(journal_id, b"trace", seq, 16)


def span_id(journal_id: bytes, seq: int) -> int:
    """64 bits, never 0."""
    return _derived(journal_id, b"span", seq, 8)


def _derived(journal_id: bytes, of: bytes, seq: int, size: int) -> int:
    return int.from_bytes(blake2b(seq.to_bytes(8), digest_size=size, key=journal_id, person=of).digest()) or 1


def pseudonym(journal_id: bytes, *parts: str) -> str:
    """The same for the same names, and no name: what joins the spans of one memory whose content stays here.

    Short names can be guessed by who knows the journal's id: it keeps them out of sight, it does not encrypt them.
    """
    text = "\0".join(parts).encode(errors="surrogatepass")
    return blake2b(text, digest_size=_PSEUDONYM_BYTES, key=journal_id, person=b"memory").hexdigest()
