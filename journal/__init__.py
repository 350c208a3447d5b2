"""Bytes and order: an append-only, checksummed, chained log of events, and its checkpoints.

Must not know what state the events make; that is `replay`'s, and what to do about damage is `recovery`'s.
"""

__version__ = "0.1.0"
