"""What is written: observations of about 120 bytes about a thousand entities, the same for every contender."""

from __future__ import annotations

import random
from hashlib import sha256

from journal.events import EntityCreated, Event, ObservationAdded

SCOPE = "global"
AGENT = "sales"
ENTITIES = [f"customer {number}" for number in range(1000)]
TEXT_BYTES = 120
_WORDS = (
    *("renewed", "contract", "in", "May", "with", "the", "buyer", "of", "parts", "who", "prefers", "mail", "over"),
    *("calls", "and", "asks", "for", "invoices", "by", "quarter", "since", "last", "delivery", "was", "late"),
)


def texts(count: int, seed: int = 1) -> list[str]:
    """Distinct, of TEXT_BYTES ASCII characters each."""
    rng = random.Random(seed)
    pool = [" ".join(rng.choices(_WORDS, k=40)) for _ in range(500)]
    return [f"{number} {pool[number % 500]}"[:TEXT_BYTES] for number in range(count)]


def entities() -> list[Event]:
    return [EntityCreated(SCOPE, name, "company") for name in ENTITIES]


def observations(count: int, seed: int = 1) -> list[ObservationAdded]:
    rng = random.Random(seed)
    return [ObservationAdded(SCOPE, rng.choice(ENTITIES), text) for text in texts(count, seed)]


def digest_of(text: str) -> bytes:
    return sha256(text.encode()).digest()
