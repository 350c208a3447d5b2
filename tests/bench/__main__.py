"""Runs the sections that are asked for, prints their tables, and writes JSON where asked."""

from __future__ import annotations

import argparse
import json
import os
import platform
import sqlite3
import sys
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from tests.bench.rebuilding import Place, bytes_per_event, prove, rebuild, restore
from tests.bench.starting import start
from tests.bench.telemetry import telemetry
from tests.bench.timing import Result
from tests.bench.writing import append, write_through

SECTIONS = ("append", "write-through", "rebuild", "prove", "restore", "bytes", "start", "telemetry")


def measure(root: Path, wanted: Sequence[str], *, quick: bool) -> dict[str, Any]:
    """Runs sections under `root`, a directory on the disk to be measured; prints each as it is done."""
    report: dict[str, Any] = {"machine": machine(), "quick": quick, "sections": {}}

    def keep(results: dict[str, list[Result]]) -> None:
        for title, rows in results.items():
            print_table(title, rows)
            report["sections"][title] = [row.to_json() for row in rows]

    if "append" in wanted:
        keep(append(root, quick=quick))
    if "write-through" in wanted:
        keep(write_through(root, quick=quick))
    if "telemetry" in wanted:
        keep(telemetry(root, quick=quick))
    if "start" in wanted:
        keep(start(root, quick=quick))
    if "bytes" in wanted:
        report["bytes"] = bytes_per_event(root)
        print_bytes(report["bytes"])
    if {"rebuild", "prove", "restore"} & set(wanted):
        place = Place(root, quick=quick)
        for name, section in (("rebuild", rebuild), ("prove", prove), ("restore", restore)):
            if name in wanted:
                keep(section(place, quick=quick))
    return report


def machine() -> dict[str, Any]:
    return {
        "when": datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        "system": f"{platform.system()} {platform.release()} {platform.machine()}",
        "cores": os.cpu_count(),
        "python": platform.python_version(),
        "sqlite": sqlite3.sqlite_version,
        "load": round(os.getloadavg()[0], 1),
    }


def print_table(title: str, rows: Sequence[Result]) -> None:
    print(f"\n{title}")
    for row in rows:
        waits = "" if row.p50_us is None else f"  p50 {row.p50_us:>9,.0f} µs  p99 {row.p99_us:>9,.0f} µs"
        print(f"  {row.name:<38} {row.rate:>12,.1f} {row.unit:<8} {row.seconds:>7.3f} s{waits}")
        for name, ratio in row.ratios.items():
            print(f"      {ratio:>6.2f} x  {name}")
    sys.stdout.flush()


def print_bytes(found: dict[str, dict[str, float]]) -> None:
    print("\nbytes per event, a 120-byte observation")
    for together, row in found.items():
        print(
            f"  {together:>4} a batch: {row['on_disk']:>6.1f} on disk, {row['json_line']:.1f} as a JSON line,"
            f" {row['ratio']:.2f} x"
        )


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.bench", description="Timed runs, as ratios within one run.")
    parser.add_argument("sections", nargs="*", metavar="SECTION", help=f"of {', '.join(SECTIONS)}; default: all")
    parser.add_argument("--quick", action="store_true", help="small counts: shows that all works, measures nothing")
    parser.add_argument("--json", metavar="FILE", help="writes all figures there too")
    parser.add_argument("--dir", metavar="DIR", help="a directory on the disk to measure; default: the temporary one")
    options = parser.parse_args()
    if unknown := set(options.sections) - set(SECTIONS):
        parser.error(f"no such section: {', '.join(sorted(unknown))}")
    with TemporaryDirectory(prefix="journal-bench-", dir=options.dir) as root:
        report = measure(Path(root), options.sections or SECTIONS, quick=options.quick)
    print("\n" + ", ".join(f"{key} {value}" for key, value in report["machine"].items()))
    if options.json:
        Path(options.json).write_text(json.dumps(report, indent=1) + "\n")


if __name__ == "__main__":
    main()
