"""Checkpoints in a process of their own: `python -m replay.shadow`, at low priority, beside the server that writes.

The child builds and verifies; its result is one JSON document on stdout, its progress lines of two numbers on stderr.
It takes no lock but that of the checkpoints, appends nothing to the journal and never writes memory.db, so it may be
killed at any point, and so may its parent. A process, not a thread: replay would hold the writers up, and a fault in
it must not take the server down.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import threading
from collections.abc import Callable, Sequence
from time import monotonic, time_ns
from typing import Any

import msgspec

from journal.errors import EnvironmentFault, JournalError, from_json
from journal.events import type_dictionary, type_named
from journal.storage import RealStorage, Storage
from replay.checkpoints import Shadow, make_checkpoint
from replay.faults import declared
from replay.layout import Layout, ParityPlace

NICENESS = 10
_PROGRESS_SECONDS = 0.1


def run_shadow(
    layout: Layout, progress: Callable[[int, int], None] | None = None, parity: ParityPlace | None = None
) -> Shadow:
    """Makes and verifies a checkpoint in a child process and returns what it did. Raises what stopped it.

    The child then makes the parity that is missing, if `parity` says where. The caller journals `checkpoint.created`.
    """
    command = [sys.executable, "-P", "-m", "replay.shadow", "--journal", layout.journal, "--memory", layout.memory_db]
    if parity is not None:
        command += ["--parity", parity.directory, "--share", repr(parity.share)]
    for module in _event_modules():
        command += ["--import", module]
    # The child imports what this process would, and nothing from the directory that it is started in.
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(map(os.path.abspath, sys.path))}
    child = subprocess.Popen(
        command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment
    )
    assert child.stdout is not None
    said: list[str] = []
    listener = threading.Thread(target=_listen, args=(child, progress, said), daemon=True)
    listener.start()
    try:
        result = child.stdout.read()
        child.wait()
    finally:
        if child.poll() is None:
            child.kill()
            child.wait()
        listener.join()
        child.stdout.close()
    return _outcome(child.returncode, result, said)


def _listen(child: subprocess.Popen[str], progress: Callable[[int, int], None] | None, said: list[str]) -> None:
    assert child.stderr is not None
    with child.stderr as lines:
        for line in lines:
            numbers = line.split()
            if len(numbers) == 2 and all(number.isdecimal() for number in numbers):
                if progress is not None:
                    progress(int(numbers[0]), int(numbers[1]))
            else:
                said.append(line.strip())


def _outcome(code: int, result: str, said: Sequence[str]) -> Shadow:
    if code < 0:
        raise EnvironmentFault(f"the checkpoint process was killed by signal {-code}", hint="it is made anew when due")
    try:
        if code == 0:
            return msgspec.json.decode(result, type=Shadow)
        raise from_json(msgspec.json.decode(result, type=_Failure).error)
    except msgspec.MsgspecError:
        last = said[-1] if said else f"exit code {code}"
        raise EnvironmentFault(f"the checkpoint process failed: {last}") from None


class _Failure(msgspec.Struct):
    error: dict[str, Any]


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
    os.nice(options.nice)
    for module in options.modules:
        __import__(module)
    journal, memory = os.path.abspath(options.journal), os.path.abspath(options.memory)
    root = os.path.dirname(memory)
    layout = Layout(root, memory, f"{root}/agents", f"{root}/models", journal)
    try:
        storage = RealStorage()
        with declared(memory):
            made = make_checkpoint(storage, layout, time_ns, _reporter())
        made = with_indexes(made, storage, journal)
        if options.parity is not None:
            made = with_parity(made, storage, journal, os.path.abspath(options.parity), options.share)
    except JournalError as error:
        print(msgspec.json.encode({"error": error.to_json()}).decode())
        return error.exit_code
    except KeyboardInterrupt:
        return 130
    print(msgspec.json.encode(made).decode())
    return 0


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


def _reporter() -> Callable[[int, int], None]:
    """Writes progress to stderr, a few lines a second. Nobody reading it any more is no reason to stop."""
    last = 0.0

    def report(done: int, total: int) -> None:
        nonlocal last
        now = monotonic()
        if now - last < _PROGRESS_SECONDS and done < total:
            return
        last = now
        try:
            print(done, total, file=sys.stderr, flush=True)
        except BrokenPipeError:
            last = float("inf")

    return report


if __name__ == "__main__":
    sys.exit(main())
