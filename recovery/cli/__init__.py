"""The `journal` command: one file a verb. `python -m recovery` is the same."""

from __future__ import annotations

import sys
from typing import NoReturn


def main() -> NoReturn:
    """The script's entry. Imports late, so that Ctrl-C during start is an interruption like any other."""
    try:
        from recovery.cli.app import run

        status = run(sys.argv[1:])
    except KeyboardInterrupt:
        status = 130
    sys.exit(status)
