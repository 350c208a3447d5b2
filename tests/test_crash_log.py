"""Power cuts at random changes over four lives of a journal: nothing acknowledged is lost, no epoch is used twice.

With `none`, every byte and name that was not synced is gone: leaving out any one sync shows. With `torn`, any legal
part of them survives, sectors torn, in any order.
"""

from __future__ import annotations

import pytest

from tests.crashes import Mode, run, run_full_when_synced


@pytest.mark.parametrize("mode", ["none", "torn", "all"])
@pytest.mark.parametrize("first", range(0, 140, 20))
def test_every_promise_holds_after_power_cuts(first: int, mode: Mode) -> None:
    for seed in range(first, first + (20 if mode != "all" else 5)):
        run(seed, mode)


def test_a_disk_that_is_full_only_when_synced_refuses_and_leaves_nothing_in_doubt() -> None:
    run_full_when_synced()
