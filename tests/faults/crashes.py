"""Power cuts on the simulated disk: what was promised before each is held against what is there after it."""

from __future__ import annotations

from collections import Counter

from tests.crashes import run
from tests.faults.frame import Check, Run


def log(run: Run) -> Counter[str]:
    return run.seeds(log_seed)


def log_seed(seed: int) -> Counter[str]:
    run(seed, "none")
    run(seed, "torn")
    return Counter({"lives cut": 8})


CHECKS = (
    Check(
        "crashes.log",
        "After a power cut at any change, every receipt proves, nothing unsent appears, and no epoch is used twice.",
        "four lives of a writer on the simulated disk, each cut at a random change, and the open after it as well",
        log,
    ),
)
