"""Runs the sections that are asked for, prints their tables, and keeps the figures where asked."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

from tests.bench.checkpointing import checkpoint
from tests.bench.foreign import Peers
from tests.bench.place import Place
from tests.bench.rebuilding import prove, rebuild
from tests.bench.recorded import PATH, Recorded, commit, machine, when
from tests.bench.restoring import restore
from tests.bench.sizes import bytes_per_event
from tests.bench.starting import start
from tests.bench.tables import markdown_of_figures, markdown_of_targets, text_of, text_of_targets
from tests.bench.telemetry import telemetry
from tests.bench.timing import Result
from tests.bench.vectors import embeddings, missing
from tests.bench.writing import append, write_through

ROUNDS = {
    "append": 7, "write-through": 7, "telemetry": 7, "start": 21, "bytes": 1, "rebuild": 3, "prove": 5, "checkpoint": 5,
    "restore": 5, "embeddings": 3,
}  # fmt: skip
SECTIONS = tuple(ROUNDS)
PEERS_OF = ("write-through", "rebuild", "restore")  # sections with other projects in them

Sections = dict[str, list[Result]]


class Bench:
    """The sections under `root`, a directory on the disk to be measured."""

    def __init__(self, root: Path, *, quick: bool, rounds: int | None = None) -> None:
        self.root, self.quick, self._rounds = root, quick, rounds
        self.peers = Peers()
        self.values: dict[str, float] = {}
        self._place: Place | None = None

    @property
    def place(self) -> Place:
        """Made by the first section that wants it; its journal takes a while."""
        if self._place is None:
            self._place = Place(self.root, quick=self.quick)
        return self._place

    def run(self, section: str) -> Sections:
        rounds = self._rounds or (2 if self.quick else ROUNDS[section])
        run: dict[str, Callable[[], Sections]] = {
            "append": lambda: append(self.root, quick=self.quick, rounds=rounds),
            "write-through": lambda: write_through(self.root, self.peers, quick=self.quick, rounds=rounds),
            "telemetry": lambda: telemetry(self.root, quick=self.quick, rounds=rounds),
            "start": lambda: start(self.root, rounds=rounds),
            "bytes": lambda: self._with_numbers({}, bytes_per_event(self.root)),
            "embeddings": lambda: self._with_numbers(*embeddings(self.root, quick=self.quick, rounds=rounds)),
            "rebuild": lambda: rebuild(self.place, self.peers, rounds=rounds),
            "prove": lambda: prove(self.place, rounds=rounds),
            "checkpoint": lambda: checkpoint(self.place, self.values, rounds=rounds, quick=self.quick),
            "restore": lambda: restore(self.place, self.peers, rounds=rounds),
        }
        return run[section]()

    def _with_numbers(self, sections: Sections, values: dict[str, float]) -> Sections:
        self.values |= values
        return sections

    def missing(self, wanted: Sequence[str]) -> dict[str, str]:
        """What the sections lack here, and how to have it."""
        lacking = self.peers.missing() if set(wanted) & set(PEERS_OF) else {}
        return lacking | (missing() if "embeddings" in wanted else {})


def measure(bench: Bench, wanted: Sequence[str], command: str) -> Recorded:
    """Runs sections and prints each as it is done."""
    found = Recorded(machine=machine(), quick=bench.quick)
    for section in (each for each in SECTIONS if each in wanted):
        about = {"command": command, "when": when(), "load": round(os.getloadavg()[0], 1), "commit": commit()}
        for title, results in bench.run(section).items():
            rows = [result.to_json() for result in results]
            found.sections[title] = {**about, "rows": rows}
            print(*text_of(title, rows), sep="\n", flush=True)
    found.values, found.peers = bench.values, bench.peers.seen
    if found.values:
        print("\nnumbers")
        for name, number in found.values.items():
            print(f"  {number:>10.3f}  {name}")
    return found


def tell_missing(lacking: dict[str, str]) -> None:
    """To stderr, loudly: a table without its peers looks like one."""
    if lacking:
        print("NOT COMPARED WITH, because they are not there:", file=sys.stderr)
        for name, how in lacking.items():
            print(f"  {name:<36} {how}", file=sys.stderr)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.bench", description="Timed runs, as ratios within one run.")
    parser.add_argument("sections", nargs="*", metavar="SECTION", help=f"of {', '.join(SECTIONS)}; default: all")
    parser.add_argument("--quick", action="store_true", help="small counts: shows that all works, measures nothing")
    parser.add_argument("--rounds", type=int, metavar="N", help="of each section, instead of its own number")
    parser.add_argument("--json", metavar="FILE", help="writes all figures there, too")
    parser.add_argument("--markdown", action="store_true", help="ends with the tables of docs/performance.md")
    parser.add_argument("--record", action="store_true", help="keeps the figures in docs/performance.json: make docs")
    parser.add_argument("--dir", metavar="DIR", help="a directory on the disk to measure; default: the temporary one")
    options = parser.parse_args()
    if unknown := set(options.sections) - set(SECTIONS):
        parser.error(f"no such section: {', '.join(sorted(unknown))}")
    if options.record and options.quick:
        parser.error("--quick measures nothing that could be recorded")
    if options.rounds is not None and options.rounds < 1:
        parser.error("--rounds takes 1 or more")
    wanted = options.sections or SECTIONS
    with TemporaryDirectory(prefix="journal-bench-", dir=options.dir) as root:
        bench = Bench(Path(root), quick=options.quick, rounds=options.rounds)
        tell_missing(lacking := bench.missing(wanted))
        found = measure(bench, wanted, command_line())
    found.missing = lacking
    if not options.quick:
        print(*text_of_targets(found.figures()), sep="\n")
    print("\n" + ", ".join(f"{key} {value}" for key, value in found.machine.items()))
    tell_missing(lacking)
    if options.markdown:
        print("", *markdown_of_targets(found.figures()), "", sep="\n")
        print(*markdown_of_figures(found.figures(), found.machine, found.peers), sep="\n")
    if options.json:
        found.save(Path(options.json))
    if options.record:
        Recorded.load(PATH).merged(found).save(PATH)


def command_line() -> str:
    return f"`python -m tests.bench {' '.join(sys.argv[1:])}`".replace(" `", "`")


if __name__ == "__main__":
    main()
