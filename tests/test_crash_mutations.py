"""The rig notices durability bugs: each is made in a copy of the tree, and a check must call a promise broken there.

Here a few of them have their turn; `python -m tests.faults mutations` takes every one.
"""

from __future__ import annotations

import random

import pytest

from tests.faults.mutations import noticed
from tests.mutations import MUTATIONS, ROOT, Mutation

SHARE = 4
SWIFT = ("crashes.errors", "crashes.damage", "crashes.log")
QUICK = [each for each in MUTATIONS if each.by in SWIFT and each.count <= 400]


def test_there_are_enough_of_them_and_each_has_a_name_of_its_own() -> None:
    assert len(MUTATIONS) >= 30
    assert len({each.name for each in MUTATIONS}) == len(MUTATIONS)


@pytest.mark.parametrize("mutation", MUTATIONS, ids=lambda each: each.name)
def test_every_bug_fits_the_code_as_it_is(mutation: Mutation) -> None:
    """A bug that cannot be made any more would pass for one that is noticed."""
    assert mutation.source() != (ROOT / mutation.path).read_text()


def test_an_edit_that_does_not_fit_is_called_stale() -> None:
    with pytest.raises(ValueError, match="not once"):
        MUTATIONS[0]._replace(old="no such line").source()
    with pytest.raises(ValueError, match="there is no"):
        MUTATIONS[0]._replace(function="SegmentWriter.gone").source()


@pytest.mark.parametrize("mutation", random.Random(3).sample(QUICK, SHARE), ids=lambda each: each.name)
def test_the_bug_is_noticed(mutation: Mutation) -> None:
    assert noticed(mutation) == {"bugs noticed": 1}


def test_what_changes_nothing_is_not_called_noticed() -> None:
    harmless = MUTATIONS[0]._replace(
        old="self._file.sync()", new="self._file.sync()  # still there", by="crashes.errors"
    )
    with pytest.raises(AssertionError, match="do not notice it"):
        noticed(harmless)


def test_a_bug_that_breaks_the_program_itself_is_no_proof() -> None:
    broken = MUTATIONS[0]._replace(new="        self._file.no_such_call()\n", by="crashes.errors")
    with pytest.raises(AssertionError, match="not a broken promise"):
        noticed(broken)
