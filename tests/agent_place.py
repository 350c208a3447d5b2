"""A small data directory for the tests to damage: one agent at its second version, one that was removed."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

from journal.storage import RealFile, RealStorage
from replay.agents import AgentFact, Outcome, bring_current, inspect

TIME = 1_764_000_000_123_456_789
OLD = b"---\nname: writer\ndescription: The first one.\n---\n"
NEW = b"---\nname: writer\ndescription: The second one.\n---\n\xff no text, and kept as it is\n"
EDIT = b"---\nname: writer\ndescription: Changed by hand.\n---\n"


def sha(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


class Place:
    """A data directory with one agent, `writer`, at its second version, and one that was removed, `gone`."""

    def __init__(self, path: Path) -> None:
        self.agents = path / "agents"
        self.quarantine = path / "journal" / "quarantine"
        self.agents.mkdir()
        self.storage = RealStorage()
        self.state = {"writer": (sha(NEW), NEW)}
        self.history = {"writer": {sha(OLD), sha(NEW)}, "gone": {sha(OLD)}}
        self.asked: list[str] = []

    @property
    def file(self) -> Path:
        return self.agents / "writer.md"

    def versions(self, name: str) -> set[str]:
        self.asked.append(name)
        return self.history.get(name, set())

    def facts(self) -> dict[str, AgentFact]:
        facts = inspect(self.storage, str(self.agents), self.state, self.versions)
        return {fact.name: fact for fact in facts}

    def bring(self, *, drift: str = "set_aside", facts: dict[str, AgentFact] | None = None) -> Outcome:
        return bring_current(
            self.storage,
            str(self.agents),
            list((facts or self.facts()).values()),
            self.state,
            drift=drift,  # type: ignore[arg-type]
            quarantine=str(self.quarantine),
            time=TIME,
            reason="recovery",
        )

    def set_aside(self) -> list[Path]:
        return sorted(self.quarantine.iterdir()) if self.quarantine.exists() else []


class RecordingStorage(RealStorage):
    """Real files; keeps the order of the calls that change something."""

    def __init__(self) -> None:
        self.calls: list[tuple[str, str]] = []

    def record(self, what: str, path: str) -> None:
        self.calls.append((what, os.path.basename(path)))

    def open(self, path: str, *, write: bool = False, create: bool = False) -> RealFile:
        file = super().open(path, write=write, create=create)
        if not create:
            return file
        self.record("create", path)
        return RecordingFile(self, file)

    def replace(self, source: str, target: str) -> None:
        self.record("replace", target)
        super().replace(source, target)

    def remove(self, path: str) -> None:
        self.record("remove", path)
        super().remove(path)

    def sync_dir(self, path: str) -> None:
        self.record("sync_dir", path)
        super().sync_dir(path)


class RecordingFile(RealFile):
    def __init__(self, storage: RecordingStorage, file: RealFile) -> None:
        super().__init__(file.fd, file.path)
        self._storage = storage

    def write_at(self, offset: int, data: bytes) -> None:
        self._storage.record("write", self.path)
        super().write_at(offset, data)

    def sync(self) -> None:
        self._storage.record("sync", self.path)
        super().sync()
