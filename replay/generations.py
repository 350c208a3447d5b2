"""memory.db is a symbolic link, and each state that replaces another is a new file behind it.

    memory.db -> memory-000007.db          the current generation, with its own -wal and -shm
    memory-000006.db                       an older one that a process may still hold
    memory-000008.db.building              the next one, until it is whole

Replacing a database file while its -wal or a reader stays would mix two states in a way that no check notices. So a
file is never replaced: the link is, by one rename. Numbers are never used twice, else a new file could meet the -wal
of an old one. Everything here is called by the one writer, under its lock, and moves files without opening them.

Must not know what makes a state right, nor when to swap.
"""

from __future__ import annotations

import re
import sqlite3
from collections.abc import Collection
from contextlib import closing
from dataclasses import dataclass
from typing import Literal, NamedTuple
from urllib.parse import quote

from journal.errors import EnvironmentFault, Locked
from journal.storage import Storage
from replay.holders import Holder, holders, refuse_another
from replay.layout import COMPACT, SIDECARS

BUILDING = ".building"
_GENERATION = re.compile(r"(?P<stem>.+)-(?P<number>[0-9]{6,})\.db(?P<rest>.*)", re.DOTALL)


class Current(NamedTuple):
    """What lies under the name memory.db. ``path`` is the file behind it, where there is one.

    ``generation`` is the only good one. ``dangling``: the link names a generation that is gone. ``foreign_link`` leads
    elsewhere, ``file`` is a regular file that took the name, ``other`` is a directory or worse.
    """

    kind: Literal["generation", "missing", "dangling", "foreign_link", "file", "other"]
    path: str | None = None
    number: int | None = None


@dataclass(frozen=True, slots=True)
class Swapped:
    """``unmarked`` says why the old generation does not know that it was superseded; the link tells readers anyway."""

    path: str
    number: int
    previous: str | None
    unmarked: str | None
    quarantined: list[str]


class Held(NamedTuple):
    """An old generation that stays; ``by`` is None where nobody can tell."""

    path: str
    by: list[Holder] | None


class Retired(NamedTuple):
    quarantined: list[str]
    held: list[Held]


class Generations:
    """The link at `link` (an absolute path) and the files behind it; what is retired goes to `quarantine`."""

    def __init__(self, storage: Storage, link: str, quarantine: str) -> None:
        self.storage = storage
        self.link = link
        self.quarantine = quarantine
        self.directory, self.name = link.rsplit("/", 1)
        self.stem = self.name.removesuffix(".db")

    def current(self) -> Current:
        kind = self.storage.kind(self.link)
        if kind == "missing":
            return Current("missing")
        if kind != "link":
            return Current("file", self.link) if kind == "file" else Current("other")
        target = self.storage.read_link(self.link)
        number = self._number(target, among=("",))
        if number is None:
            return Current("foreign_link", target if target.startswith("/") else f"{self.directory}/{target}")
        path = f"{self.directory}/{target}"
        found = self.storage.kind(path)
        if found != "file":
            return Current("dangling" if found == "missing" else "foreign_link", path, number)
        return Current("generation", path, number)

    def path_of(self, number: int) -> str:
        return f"{self.directory}/{self.stem}-{number:06d}.db"

    def building_path(self) -> str:
        """A free name to build the next generation under, in a directory that is there. Its number was never used."""
        self.storage.make_directory(self.directory)  # paths.memory_db may name one of its own, and that may be lost
        used = [self._number(name) for place in (self.directory, self.quarantine) for name in self.storage.list(place)]
        if self.storage.kind(self.link) == "link":
            used.append(self._number(self.storage.read_link(self.link)))
        return self.path_of(1 + max((number for number in used if number is not None), default=0)) + BUILDING

    # -- the swap -----------------------------------------------------------------------------------------------------

    def swap(self, built: str, *, mark: bool = True, wait_seconds: float = 2.0) -> Swapped:
        """Makes `built` (from `building_path`; folded, synced, closed) the current generation.

        The rename of the link is the swap: a cut leaves the old generation or the new one. `mark` then tells the old
        one, as its last transaction; False where it is damaged. What is no generation and took the name is set aside;
        Locked if a process holds it, since it would go on writing to what nobody reads.
        """
        path = built.removesuffix(BUILDING)
        number = self._number(path.rsplit("/", 1)[1], among=("",))
        if number is None or path == built:
            raise ValueError(f"{built} is not named by building_path()")
        left = [built + suffix for suffix in SIDECARS if self.storage.kind(built + suffix) != "missing"]
        if left:
            raise ValueError(f"{left[0]}: a generation must be folded before it is swapped in")
        before = self.current()
        quarantined = self.set_aside() if before.kind in ("file", "other") else []
        self.storage.replace(built, path)
        self.storage.sync_dir(self.directory)  # else a power cut may keep the link and lose what it names
        temporary = f"{self.directory}/.{self.name}.link"
        if self.storage.kind(temporary) != "missing":
            self.storage.remove(temporary)
        self.storage.make_link(path.rsplit("/", 1)[1], temporary)
        self.storage.replace(temporary, self.link)
        self.storage.sync_dir(self.directory)
        previous = before.path if before.kind == "generation" else None
        unmarked = mark_superseded(previous, path.rsplit("/", 1)[1], wait_seconds) if previous and mark else None
        return Swapped(path, number, previous, unmarked, quarantined)

    def set_aside(self) -> list[str]:
        """Moves what is under the name and is no link, with its sidecars, to quarantine. Locked if it may be held."""
        files = [self.link, *(self.link + suffix for suffix in SIDECARS)]
        found = holders(files)
        if found != []:
            who = f"{found[0]} has it open" if found else "nobody can tell who has it open"
            raise Locked(
                f"{self.name} is no link to a generation, and {who}",
                path=self.link,
                hint="stop that process, then run the command again",
            )
        return self._move(files)

    # -- what is left -------------------------------------------------------------------------------------------------

    def retire(self) -> Retired:
        """Moves every generation that is not current and that nobody holds to quarantine, and tells which are held.

        Files of a file that once had the link's own name (memory.db-wal) go too: no database looks at them any more.
        """
        quarantined: list[str] = []
        held: list[Held] = []
        for files in self._replaced():
            found = holders(files)
            if found == []:
                quarantined += self._move(files)
            else:
                held.append(Held(files[0], found))
        return Retired(quarantined, held)

    def clean(self) -> list[str]:
        """Removes what a cut left of a build or of a link; none of it was ever current."""
        removed = self._unfinished()
        for path in removed:
            self.storage.remove(path)
        return removed

    def leftovers(self) -> list[str]:
        """What `retire` would move and `clean` remove now. Looks only."""
        free = [path for files in self._replaced() if holders(files) == [] for path in files]
        return free + self._unfinished()

    def _replaced(self) -> list[list[str]]:
        """Old generations, each with its sidecars, and the sidecars of a file that once had the link's own name."""
        current = self.current()
        groups: dict[int, list[str]] = {}
        stray: list[str] = []
        for name in self.storage.list(self.directory):
            number = self._number(name, among=("", *SIDECARS))
            if number is not None and number != current.number:
                groups.setdefault(number, []).append(f"{self.directory}/{name}")
            elif current.kind == "generation" and name in {self.name + suffix for suffix in SIDECARS}:
                stray.append(f"{self.directory}/{name}")
        return [*groups.values(), *([stray] if stray else [])]

    def _unfinished(self) -> list[str]:
        endings = [BUILDING + suffix for suffix in ("", *SIDECARS, COMPACT)]
        return [
            f"{self.directory}/{name}"
            for name in self.storage.list(self.directory)
            if name == f".{self.name}.link" or self._number(name, among=endings) is not None
        ]

    def _move(self, files: list[str]) -> list[str]:
        """To quarantine, under one free name for the database and its sidecars, so that they still belong together.

        The sidecars go first: a cut leaves the database, so that the next run finds it and brings it after them.
        """
        there = [path for path in files if self.storage.kind(path) != "missing"]
        if not there:
            return []
        self.storage.make_directory(self.quarantine)
        taken = set(self.storage.list(self.quarantine))
        count = 0
        targets = [_target(path, count) for path in there]
        while not taken.isdisjoint(targets):
            count += 1
            targets = [_target(path, count) for path in there]
        for path, target in reversed(list(zip(there, targets, strict=True))):
            self.storage.replace(path, f"{self.quarantine}/{target}")
        self.storage.sync_dir(self.quarantine)
        self.storage.sync_dir(self.directory)
        return [f"{self.quarantine}/{target}" for target in targets]

    def _number(self, name: str, *, among: Collection[str] | None = None) -> int | None:
        """The number in the name of a generation; what follows it must be `among` the given endings (default: any)."""
        match = _GENERATION.fullmatch(name)
        if match is None or match["stem"] != self.stem or (among is not None and match["rest"] not in among):
            return None
        return int(match["number"])


def _target(path: str, count: int) -> str:
    """`memory.db-wal` as it is, or as `memory.db.1-wal`: a -wal is found by the name of its database."""
    name = path.rsplit("/", 1)[1]
    for suffix in SIDECARS:
        if name.endswith(suffix):
            stem = name.removesuffix(suffix)
            return (f"{stem}.{count}" if count else stem) + suffix
    return f"{name}.{count}" if count else name


def mark_superseded(path: str, by: str, wait_seconds: float) -> str | None:
    """The last transaction of an old generation: which file took its place. Why not, or None if it is done."""
    try:
        uri = f"file:{quote(path)}?mode=rw"  # never creates a database under the name of one that was moved away
        with closing(sqlite3.connect(uri, uri=True, timeout=wait_seconds, isolation_level=None)) as connection:
            connection.execute("PRAGMA schema_version")
            refuse_another(path)
            connection.execute("UPDATE journal_position SET superseded_by = ?", (by,))
    except (sqlite3.Error, OSError, EnvironmentFault) as error:
        return str(error)
    return None
