"""The figures that are kept in docs/performance.json, section by section: a run of some leaves the others."""

from __future__ import annotations

import json
import os
import platform
import sqlite3
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from tests.bench.targets import Figures
from tests.faults.record import commit as commit  # as the fault runs name it

_DOCS = Path(__file__).resolve().parents[2] / "docs"
PATH = _DOCS / "performance.json"
SCALE = _DOCS / "scale.json"


@dataclass
class Recorded:
    machine: dict[str, Any] = field(default_factory=dict)
    quick: bool = False
    sections: dict[str, dict[str, Any]] = field(default_factory=dict)
    values: dict[str, float] = field(default_factory=dict)
    peers: dict[str, str] = field(default_factory=dict)
    missing: dict[str, str] = field(default_factory=dict)

    def figures(self) -> Figures:
        return {**self.sections, "values": self.values}

    def merged(self, newer: Recorded) -> Recorded:
        return Recorded(
            newer.machine, newer.quick, {**self.sections, **newer.sections}, {**self.values, **newer.values},
            {**self.peers, **newer.peers}, newer.missing,
        )  # fmt: skip

    def save(self, path: Path) -> None:
        path.write_text(json.dumps(asdict(self), indent=1, ensure_ascii=False) + "\n", encoding="utf-8")

    @classmethod
    def load(cls, path: Path) -> Recorded:
        return cls(**json.loads(path.read_text(encoding="utf-8"))) if path.exists() else cls()


def growth(path: Path = SCALE) -> dict[str, float]:
    """What the runs of `tests.bench.scale` say of the longest history and of one a tenth of it, as plain numbers."""
    sizes: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))["sizes"] if path.exists() else {}
    longest = sizes.get(str(10**7))
    if longest is None:
        return {}
    runs = [name for name, value in longest.items() if isinstance(value, dict)]
    values = {f"{name}, 10^7 events, seconds": longest[name]["seconds"] for name in runs}
    values |= {f"{name}, 10^7 events, MiB at the peak": longest[name]["peak_bytes"] / (1 << 20) for name in runs}
    for name, shorter in sizes.get(str(10**6), {}).items():
        if name in runs:
            values[f"{name}, 10^7 events to 10^6"] = longest[name]["seconds"] / shorter["seconds"]
    return values


def machine() -> dict[str, Any]:
    return {
        "system": f"{platform.system()} {platform.release()} {platform.machine()}",
        "cores": os.cpu_count(),
        "python": platform.python_version(),
        "sqlite": sqlite3.sqlite_version,
    }


def when() -> str:
    return datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC")
