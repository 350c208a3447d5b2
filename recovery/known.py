"""What one diagnosis computed, so that the next one of the same run need not: digests and scans are the costly part.

Keyed by what each thing was computed from: a place in the journal's history by its seq and chain, a file by its
identity. So nothing here is ever out of date, only unused.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import NamedTuple

from recovery.reading import Identity
from replay.agents import Agents
from replay.deviation import Deviation
from replay.probe import Probed


class Scan(NamedTuple):
    """SQLite's own verdict on a file, and the digest of its rows where that was asked for."""

    integrity: str
    digest: str | None


@dataclass(slots=True)
class Known:
    expected: dict[tuple[int, str], str] = field(default_factory=dict)  # seq, chain → digest of the state
    agents: dict[tuple[int, str], Agents] = field(default_factory=dict)  # seq, chain → its agents
    probes: dict[str, Probed] = field(default_factory=dict)  # the model's fingerprint → what encoding a sentence said
    scans: dict[Identity, Scan] = field(default_factory=dict)
    tables: dict[tuple[Identity, int, str], dict[str, Deviation]] = field(default_factory=dict)  # file, seq, chain
