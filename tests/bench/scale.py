"""Time and memory against the length of the history: `make bench-scale`, or `python -m tests.bench.scale [--max 1e6]`.

A state of one size, and histories of 10^4, 10^5 … events over it (see `lengthy`), each with a verified checkpoint 5,000
events before its end. What follows the tail stays level, what reads everything rises with the events. Each run is a
process of its own, as a user starts it, and its peak of memory is its own.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import sys
from collections.abc import Callable, Iterator
from functools import partial
from math import log10
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

from journal.storage import RealStorage
from replay.engine import build_state
from replay.layout import Layout
from tests.bench.child import Took, run_child
from tests.bench.lengthy import RARE, make_lengthy
from tests.bench.plot import Panel, Series, picture
from tests.bench.recorded import commit, machine, when

DOCS = Path(__file__).resolve().parents[2] / "docs"
TAIL = 5000
SHORT_SECONDS = 3.0  # a run that reads everything and takes more is done once, the others three times
_CLI = "recovery"
_ITSELF = "tests.bench.scale"


class Run(NamedTuple):
    """``make`` gives module and arguments, from the data directory, its events and a directory that is not there yet;
    ``follows`` says whether its cost follows the events or the tail."""

    name: str
    follows: str
    make: Callable[[str, int, str], tuple[str, list[str]]]


def _journal(*arguments: str) -> Callable[[str, int, str], tuple[str, list[str]]]:
    return lambda root, events, fresh: (_CLI, ["--data", root, *arguments])


RUNS = (
    Run("log -n 20", "tail", _journal("log", "-n", "20")),
    Run("log --agent X -n 20", "tail", _journal("log", "--agent", RARE, "-n", "20")),
    Run("show SEQ", "tail", lambda root, events, fresh: (_CLI, ["--data", root, "show", str(events // 2)])),
    Run(
        "replay --until", "tail",
        lambda root, events, fresh: (_CLI, ["--data", root, "replay", "--until", str(events - 10), "-o", fresh]),
    ),
    Run("verify", "events", _journal("verify")),
    Run("rebuild from genesis", "events", lambda root, events, fresh: (_ITSELF, ["--rebuild", root, fresh])),
    Run("first open, memory.db missing", "tail", _journal("append")),
    Run("open", "tail", _journal("append")),
    Run("status", "tail", _journal("status")),
    Run("checkpoint create", "tail", _journal("checkpoint", "create")),
)  # fmt: skip
ONCE = {"first open, memory.db missing"}


def make(root: Path, events: int, tell: Callable[[str], None]) -> str:
    """The data directory with a journal of so many events under `root`, unless it is there already."""
    data = root / "data"
    if not data.exists():
        tell(f"making {events:,} events")
        make_lengthy(f"{root}/making", events, tail=TAIL)
        os.rename(f"{root}/making", data)
    return str(data)


def measure(root: Path, events: int, tell: Callable[[str], None], *, once: bool = False) -> dict[str, Any]:
    """Runs everything on the journal of so many events under `root`, which is made first."""
    data = make(root, events, tell)
    layout, storage = Layout.under(data), RealStorage()
    names = sorted(name for name in os.listdir(f"{layout.journal}/segments"))
    log_bytes = sum(storage.size(f"{layout.journal}/segments/{name}") for name in names)
    found: dict[str, Any] = {"bytes": log_bytes, "segments": len(names)}
    for run in RUNS:
        took = list(_repeated(root, data, events, run, once=once))
        found[run.name] = {"seconds": median(each.seconds for each in took), "runs": len(took),
                           "peak_bytes": max(each.peak_bytes for each in took)}  # fmt: skip
        tell(f"{run.name:<32} {found[run.name]['seconds']:>9.3f} s {found[run.name]['peak_bytes'] >> 20:>6,} MiB")
    return found


def _repeated(root: Path, data: str, events: int, run: Run, *, once: bool) -> Iterator[Took]:
    for _ in range(3):
        fresh = root / "fresh"
        took = run_child(*run.make(data, events, str(fresh)))
        if fresh.exists():
            shutil.rmtree(fresh)
        yield took
        if once or run.name in ONCE or (run.follows == "events" and took.seconds > SHORT_SECONDS):
            return


def rebuild(root: str, output: str) -> None:
    """What the child does for `rebuild from genesis`: the whole history, proven by digest."""
    from journal.reader import LogReader

    layout, storage = Layout.under(root), RealStorage()
    os.makedirs(output)
    reader = LogReader(storage, layout.journal)
    built = build_state(storage, layout.journal, reader, reader.last_seq, f"{output}/all.db", use_checkpoints=False)
    print(built.digest)


# -- the picture ------------------------------------------------------------------------------------------------------


def picture_of(sizes: dict[str, Any]) -> str:
    """SVG: seconds, and the peak of memory, by events; both axes logarithmic."""
    counts = sorted(map(int, sizes))

    def series(key: str, unit: float) -> list[Series]:
        return [
            Series(run.name, [(n, sizes[str(n)][run.name][key] / unit) for n in counts], dashed=run.follows == "tail")
            for run in RUNS
            if all(run.name in sizes[str(n)] for n in counts)
        ]

    return picture(
        [
            Panel("Time, from the start of the process to its end", "events in the journal", "seconds",
                  series("seconds", 1.0)),
            Panel("Memory, the process's peak", "events in the journal", "MiB", series("peak_bytes", 1 << 20)),
            Panel("Bytes on disk", "events in the journal", "MiB of segments",
                  [Series("segments", [(n, sizes[str(n)]["bytes"] / (1 << 20)) for n in counts])]),
        ]
    )  # fmt: skip


# -- the command ------------------------------------------------------------------------------------------------------


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.bench.scale", description="Growth with the history.")
    parser.add_argument("--max", type=float, default=1e7, metavar="N", help="events of the longest; default: 1e7")
    parser.add_argument("--min", type=float, default=1e4, metavar="N", help="events of the shortest; default: 1e4")
    parser.add_argument("--json", default=str(DOCS / "scale.json"), metavar="FILE",
                        help="where the figures go; those of other lengths stay; default: docs/scale.json")  # fmt: skip
    parser.add_argument("--svg", default=str(DOCS / "scale.svg"), metavar="FILE", help="the picture of all in FILE")
    parser.add_argument("--dir", metavar="DIR", help="a directory on the disk to measure; 10^7 events take 3 GB there")
    parser.add_argument(
        "--made",
        metavar="DIR",
        help="with --make-only: where the journals are left; else: where they "
        "are, for one run, which takes long if it has to make them at the priority of measuring",
    )
    parser.add_argument("--make-only", action="store_true", help="makes the journals under --made and measures nothing")
    parser.add_argument("--once", action="store_true", help="everything once, instead of the median of three")
    parser.add_argument("--rebuild", nargs=2, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.rebuild:
        rebuild(*options.rebuild)
        return
    if not TAIL < options.min <= options.max:
        parser.error(f"--min must be above {TAIL:,} and --max not below it")
    if options.make_only and not options.made:
        parser.error("--make-only needs --made")
    path = Path(options.json)
    kept: dict[str, Any] = json.loads(path.read_text()) if path.exists() else {}
    sizes = kept.get("sizes", {})
    for power in range(round(log10(options.min)), round(log10(options.max)) + 1):
        events = 10**power
        tell = partial(print, flush=True)
        if options.made:
            place = Path(options.made, str(events))
            place.mkdir(parents=True, exist_ok=True)
            make(place, events, tell)
        if options.make_only:
            continue
        about = {"when": when(), "commit": commit(), "load": round(os.getloadavg()[0], 1)}
        with TemporaryDirectory(prefix="journal-scale-", dir=options.made or options.dir) as root:
            if options.made:
                os.rename(place / "data", Path(root, "data"))  # what is run changes it: another run needs another
            found = measure(Path(root), events, tell, once=options.once)
        sizes[str(events)] = {**about, **found}
        sizes = dict(sorted(sizes.items(), key=lambda item: int(item[0])))
        path.write_text(json.dumps({"machine": machine(), "sizes": sizes}, indent=1) + "\n")
        Path(options.svg).write_text(picture_of(sizes))
    if options.make_only:
        return
    print(f"{options.json}, {options.svg}; make docs puts the figures into docs/performance.md")


if __name__ == "__main__":
    try:
        main()
    except KeyboardInterrupt:
        sys.exit(130)
