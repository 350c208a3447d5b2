"""Checkpoints in a process of their own: `python -m replay.shadow`, at low priority, beside the server that writes.

It builds and verifies. It takes no lock but that of the checkpoints, appends nothing to the journal and never writes
memory.db, so it may be killed at any point: see `replay.child`.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable, Sequence
from time import time_ns

import msgspec

from journal.errors import JournalError
from journal.events import type_dictionary, type_named
from journal.storage import RealStorage, Storage
from replay.checkpoints import Shadow, make_checkpoint
from replay.child import NICENESS, Child, answer, reporter
from replay.faults import declared
from replay.layout import Layout, ParityPlace


def run_shadow(
    layout: Layout, progress: Callable[[int, int], None] | None = None, parity: ParityPlace | None = None
) -> Shadow:
    """Makes and verifies a checkpoint in a child process and returns what it did. Raises what stopped it.

    The child then makes the parity that is missing, if `parity` says where. The caller journals `checkpoint.created`.
    """
    arguments = ["--journal", layout.journal, "--memory", layout.memory_db]
    if parity is not None:
        arguments += ["--parity", parity.directory, "--share", repr(parity.share)]
    for module in _event_modules():
        arguments += ["--import", module]
    child = Child("replay.shadow", arguments, "checkpoint", "it is made anew when due")
    return msgspec.json.decode(child.run(progress), type=Shadow)


def _event_modules() -> list[str]:
    """Modules that registered event types of the program's own; without them a child could not read those events."""
    kinds = [type_named(name) for name in type_dictionary()]
    return sorted({kind.__module__ for kind in kinds if kind is not None} - {"journal.events", "__main__"})


# -- the child --------------------------------------------------------------------------------------------------------


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m replay.shadow", description="Makes a checkpoint and verifies it.")
    parser.add_argument("--journal", required=True, metavar="DIR", help="the journal's directory")
    parser.add_argument("--memory", required=True, metavar="PATH", help="the live memory.db, to compare with")
    parser.add_argument("--import", action="append", default=[], dest="modules", metavar="MODULE",
                        help="a module that registers event types")  # fmt: skip
    parser.add_argument("--parity", metavar="DIR", help="make the parity that is missing there")
    parser.add_argument("--share", type=float, metavar="X", help="of a file that may rot")
    parser.add_argument("--nice", type=int, default=NICENESS, metavar="N", help="added to the niceness (default 10)")
    options = parser.parse_args(arguments)
    for module in options.modules:
        __import__(module)
    return answer(lambda: _made(options), options.nice)


def _made(options: argparse.Namespace) -> Shadow:
    journal, memory = os.path.abspath(options.journal), os.path.abspath(options.memory)
    root = os.path.dirname(memory)
    layout = Layout(root, memory, f"{root}/agents", f"{root}/models", journal)
    storage = RealStorage()
    with declared(memory):
        made = make_checkpoint(storage, layout, time_ns, reporter())
    made = with_indexes(made, storage, journal)
    if options.parity is None:
        return made
    return with_parity(made, storage, journal, os.path.abspath(options.parity), options.share)


def with_indexes(made: Shadow, storage: Storage, journal: str) -> Shadow:
    """Makes the sparse indexes of what was sealed since. What keeps that from happening is told, as of parity."""
    from journal.indexing import fill
    from journal.reader import LogReader

    try:
        return msgspec.structs.replace(made, index_files=fill(LogReader(storage, journal)).files)
    except JournalError as error:
        return msgspec.structs.replace(made, index_problem=str(error))


def with_parity(made: Shadow, storage: Storage, journal: str, directory: str, share: float | None) -> Shadow:
    """Makes what parity is missing. What keeps that from happening is told, and the checkpoint stands."""
    from journal.parity import SHARE  # not before the checkpoint is written: that takes 20 ms
    from journal.parity_store import ParityStore

    store = ParityStore(storage, journal, directory, SHARE if share is None else share)
    try:
        filled = store.fill()
    except JournalError as error:
        return msgspec.structs.replace(made, parity_problem=str(error))
    return msgspec.structs.replace(made, parity_files=filled.files, parity_bytes=filled.bytes)


if __name__ == "__main__":
    sys.exit(main())
