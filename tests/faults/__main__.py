"""Runs the checks that are asked for, by seed. The last line on stdout is JSON; exit 1 if a promise broke."""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
import traceback
from collections import Counter
from typing import Any

from tests.faults.frame import Broken, Check, Missing, Run, words
from tests.faults.record import record
from tests.faults.registry import RIGS, checks


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m tests.faults", description="Tries to break what the journal promises, by seed."
    )
    parser.add_argument("checks", nargs="*", metavar="CHECK", help=f"a rig ({', '.join(RIGS)}) or one check of it")
    parser.add_argument("--list", action="store_true", help="names every check and its claim, and runs none")
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="the first seed (default 0)")
    parser.add_argument("--count", type=int, metavar="N", help="how many seeds; default: as many as time allows")
    parser.add_argument("--minutes", type=float, metavar="M", help="for each check; default: what it is set to")
    parser.add_argument("--workers", type=int, default=os.cpu_count() or 1, metavar="N", help="default: every core")
    parser.add_argument("--record", action="store_true", help="keeps the results in docs/reliability.json")
    options = parser.parse_args(arguments)
    try:
        wanted = list(checks(options.checks))
    except KeyError as error:
        parser.error(f"no such check: {error.args[0]}; --list names them")
    if options.list:
        for check in wanted:
            print(f"{check.name:<24} {check.claim}")
        return 0
    done = []
    for check in wanted:
        result = perform(check, options)
        done.append(result)
        if options.record and result["outcome"] != "skipped":
            record(check.name, result)
    broken = [result["check"] for result in done if result["outcome"] == "broken"]
    print(json.dumps({"ok": not broken, "broken": broken, "seed": options.seed, "checks": done}))
    return 1 if broken else 0


def perform(check: Check, options: argparse.Namespace) -> dict[str, Any]:
    """One check to its end; what came of it, as the last line has it."""
    minutes = options.minutes if options.minutes is not None or options.count is not None else check.minutes
    seconds = None if minutes is None else minutes * 60
    run = Run(check.name, options.seed, options.count, seconds, max(1, options.workers), sys.stderr)
    told = "".join(
        f" --{name} {value:g}" for name in ("count", "minutes") if (value := getattr(options, name)) is not None
    )
    result: dict[str, Any] = {
        "check": check.name, "outcome": "held",
        "command": f"python -m tests.faults {check.name} --seed {run.seed}{told}",
    }  # fmt: skip
    counts: Counter[str] = Counter()
    started = time.monotonic()
    try:
        counts = check.run(run)
        if not counts:
            raise Broken("nothing was counted: the check did not run", result["command"])
    except Broken as error:
        result |= {"outcome": "broken", "message": str(error), "replay": error.replay}
        print(f"{check.name}: BROKEN: {error}\n{check.name}: to see it again: {error.replay}", flush=True)
    except Missing as error:
        result |= {"outcome": "skipped", "message": str(error)}
        print(f"{check.name}: SKIPPED: {error}", flush=True)
    except Exception as error:  # the rig's own fault: no proof of anything, and no reason to leave out the others
        traceback.print_exc()
        result |= {"outcome": "broken", "message": f"{type(error).__name__}: {error}", "replay": result["command"]}
    seconds_taken = time.monotonic() - started
    result |= {"counts": dict(counts), "seconds": round(seconds_taken, 1), "workers": run.workers}
    if result["outcome"] == "held":
        print(f"{check.name}: held: {words(counts, seconds_taken)}; {seconds_taken:,.0f} s", flush=True)
    return result


if __name__ == "__main__":
    sys.exit(main())
