"""Every rig, by name: a module of this package with a tuple of `CHECKS`, named `rig.what`.

To add one: a file, a line here, and a test in `tests/test_faults_*.py` that runs a seeded share of it in `make test`.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from importlib import import_module

from tests.faults.frame import Check

RIGS = ("crashes", "damage", "packs", "hostile", "real", "repairs", "mutations")


def checks(wanted: Sequence[str] = ()) -> Iterator[Check]:
    """Those of the rigs and checks named, in the order of the list; all without a name. KeyError for an unknown one.

    Only the modules of these rigs are imported.
    """
    rigs = [rig for rig in RIGS if not wanted or rig in {name.split(".")[0] for name in wanted}]
    found = [check for rig in rigs for check in import_module(f"tests.faults.{rig}").CHECKS]
    for name in wanted:
        if not any(matches(check, name) for check in found):
            raise KeyError(name)
    yield from (check for check in found if not wanted or any(matches(check, name) for name in wanted))


def matches(check: Check, name: str) -> bool:
    """`crashes` names every check of that rig, `crashes.log` the one."""
    return check.name == name or check.name.startswith(f"{name}.")
