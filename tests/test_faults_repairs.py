"""A share of the repairs rig: its checks hold, and count what they say."""

from __future__ import annotations

import pytest

from tests.faults import repairs
from tests.faults.frame import Check, Run


@pytest.mark.parametrize("check", repairs.CHECKS, ids=lambda check: check.name)
def test_a_share_of_each_check_holds(check: Check) -> None:
    counts = check.run(Run(check.name, seed=700, count=3))
    assert next(iter(counts.values())) >= 24


def test_the_bits_come_from_every_kind_of_file() -> None:
    for parity in (False, True):
        names = [path for path, _ in repairs._subject(parity).places()]
        kinds = {".seg", ".manifest", *([".par"] if parity else [])}
        assert all(any(name.endswith(kind) for name in names) for kind in kinds)
