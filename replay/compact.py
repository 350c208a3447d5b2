"""Packing sealed segments in a process of its own: `python -m replay.compact`, after a checkpoint was made.

It takes the lock of the checkpoints, a segment at a time, and may be killed at any point: see `journal.packing`.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence

import msgspec

from journal.packing import Packed, pack_segments
from journal.parity import SHARE
from journal.parity_store import ParityStore
from journal.storage import RealStorage
from replay.child import Child, answer, reporter
from replay.layout import Layout, ParityPlace


def packing_of(layout: Layout, parity: ParityPlace | None) -> Child:
    """The process, started. Its `run` returns what `packed` reads."""
    arguments = ["--journal", layout.journal]
    if parity is not None:
        arguments += ["--parity", parity.directory, "--share", repr(parity.share)]
    return Child("replay.compact", arguments, "packing", "it goes on after the next checkpoint")


def packed(result: str) -> Packed:
    """What such a process did."""
    return msgspec.json.decode(result, type=Packed)


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m replay.compact", description="Packs sealed segments.")
    parser.add_argument("--journal", required=True, metavar="DIR", help="the journal's directory")
    parser.add_argument("--parity", metavar="DIR", help="where a pack gets parity before its segment goes")
    parser.add_argument("--share", type=float, default=SHARE, metavar="X", help="of a file that may rot")
    options = parser.parse_args(arguments)
    journal, storage = os.path.abspath(options.journal), RealStorage()
    parity = None
    if options.parity is not None:
        parity = ParityStore(storage, journal, os.path.abspath(options.parity), options.share)
    return answer(lambda: pack_segments(storage, journal, parity, progress=reporter()))


if __name__ == "__main__":
    sys.exit(main())
