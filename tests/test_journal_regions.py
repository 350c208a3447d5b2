"""The table of bad regions: each combination of facts has exactly one verdict."""

from __future__ import annotations

from itertools import product

from journal.regions import Verdict, decide


def test_the_table_is_total_and_asks_in_the_designed_order() -> None:
    for followed, covered, incomplete in product((False, True), repeat=3):
        if followed or covered:
            expected = Verdict.CORRUPTION
        elif incomplete:
            expected = Verdict.TORN_TAIL
        else:
            expected = Verdict.AMBIGUOUS
        assert decide(followed=followed, covered=covered, incomplete=incomplete) is expected
