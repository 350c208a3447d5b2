"""docs/reliability.json: the last result of each check, written by the run itself; the page's table is made of it."""

from __future__ import annotations

import json
import os
import platform
import subprocess
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent.parent
PATH = ROOT / "docs" / "reliability.json"


def results(path: Path = PATH) -> dict[str, dict[str, Any]]:
    """name of a check → its last result."""
    found: dict[str, dict[str, Any]] = json.loads(path.read_text()) if path.exists() else {}
    return found


def record(name: str, result: dict[str, Any], path: Path = PATH) -> None:
    """Keeps a result in place of the one before. Only that of this check changes."""
    kept = results(path) | {name: {key: each for key, each in result.items() if key != "check"} | surroundings()}
    path.write_text(json.dumps(dict(sorted(kept.items())), indent=1, sort_keys=True) + "\n")


def surroundings() -> dict[str, Any]:
    """What the figures depend on."""
    return {
        "when": datetime.now(UTC).strftime("%Y-%m-%d"),
        "commit": commit(),
        "on": f"{platform.system()} {platform.release().split('-')[0]}, {os.cpu_count()} cores, "
        f"Python {platform.python_version()}",
    }


def commit() -> str:
    """The commit that ran, with a `+` where the tree had changes."""

    def git(*arguments: str) -> str:
        return subprocess.run(["git", *arguments], cwd=ROOT, check=True, capture_output=True, text=True).stdout.strip()

    try:
        changed = git("status", "--porcelain", "--untracked-files=no", "--", ".", ":!docs")
        return git("rev-parse", "--short=10", "HEAD") + ("+" if changed else "")
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
