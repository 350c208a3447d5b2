"""The figures that are kept in docs/performance.json, section by section: a run of some leaves the others."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from tests.bench.targets import Figures
from tests.faults.record import commit as commit  # as the fault runs name it

PATH = Path(__file__).resolve().parents[2] / "docs" / "performance.json"


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
