"""How long what was set aside is kept: a pure plan over what lies there, and its execution.

Age counts from the run that first saw a thing here, as the ledger beside it says: a file that is moved keeps the time
of its content, and nothing may depend on that. What a run sees for the first time it never removes. So a recovery
keeps all that it has just set aside, however small the bound on bytes is.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass, field

import msgspec

from journal.errors import EnvironmentFault, Unreadable
from journal.files import write_file
from journal.storage import Storage
from recovery.data import Data
from replay.agent_quarantine import printable
from replay.layout import SIDECARS

LEDGER = "kept-since.json"
DAY_NS = 86_400 * 10**9


@dataclass(frozen=True, slots=True)
class Entry:
    """One thing that was set aside: a file, a directory, a database with its sidecars.

    ``since`` is UTC ns, None for what no run has seen before; ``paths`` are the names in the quarantine.
    """

    name: str
    paths: tuple[str, ...]
    bytes: int
    since: int | None


@dataclass(slots=True)
class Expired:
    """What was removed, by name, and how much that was. ``problem`` is why something stayed that should have gone."""

    removed: list[str] = field(default_factory=list)
    bytes: int = 0
    problem: str | None = None


def plan_expiry(entries: Collection[Entry], now: int, *, days: int, bytes_max: int) -> list[Entry]:
    """What goes, oldest first: whatever is `days` old, and the oldest of the rest while all exceed `bytes_max`.

    Pure. 0 days keep for ever, 0 bytes set no bound.
    """
    total = sum(entry.bytes for entry in entries)
    gone = []
    seen = [(entry.since, entry.name, entry) for entry in entries if entry.since is not None]
    for since, _, entry in sorted(seen, key=lambda each: each[:2]):
        if (days and now - since >= days * DAY_NS) or (bytes_max and total > bytes_max):
            gone.append(entry)
            total -= entry.bytes
    return gone


def expire(data: Data, now: int) -> Expired:
    """Removes what has been kept long enough by the configuration. The caller holds the journal's lock.

    An import that was cut may still read from here, so nothing goes before it is finished. A disk that refuses is no
    reason to stop a server: it is told of, and the next run tries again.
    """
    storage, place, keep = data.storage, data.quarantine, data.config.quarantine
    expired = Expired()
    if storage.kind(place) != "directory" or storage.kind(data.import_path) != "missing":
        return expired
    try:
        before = _read_ledger(storage, place)
        entries = list(_entries(storage, place, before))
        gone = plan_expiry(entries, now, days=keep.days, bytes_max=keep.bytes_max)
        after = {each.name: now if each.since is None else each.since for each in entries if each not in gone}
        if after != before:  # first: a cut then keeps too long, while an old line could name a new thing
            write_file(storage, f"{place}/{LEDGER}", msgspec.json.format(msgspec.json.encode(after)))
        for entry in gone:
            for name in entry.paths:
                remove_below(storage, f"{place}/{name}")
            expired.removed.append(entry.name)
            expired.bytes += entry.bytes
        if gone:
            storage.sync_dir(place)
    except (EnvironmentFault, Unreadable) as error:
        expired.problem = str(error)
    return expired


def _read_ledger(storage: Storage, place: str) -> dict[str, int]:
    """name → since. One that cannot be read is begun anew: everything is kept as if it had just come."""
    try:
        return msgspec.json.decode(storage.read(f"{place}/{LEDGER}"), type=dict[str, int])
    except (FileNotFoundError, msgspec.MsgspecError, UnicodeDecodeError):
        return {}


def _entries(storage: Storage, place: str, since: dict[str, int]) -> Iterable[Entry]:
    together: dict[str, list[str]] = {}
    for name in storage.list(place):
        if name not in (LEDGER, f".{LEDGER}.tmp"):
            together.setdefault(printable(_database_of(name)), []).append(name)
    for name, paths in together.items():
        size = sum(_bytes_below(storage, f"{place}/{path}") for path in paths)
        yield Entry(name, tuple(paths), size, since.get(name))


def _database_of(name: str) -> str:
    """A -wal without its database, or the other way round, is no longer what was set aside."""
    suffix = next((suffix for suffix in SIDECARS if name.endswith(suffix)), "")
    return name.removesuffix(suffix)


def _below(storage: Storage, path: str) -> list[str]:
    """The path and all that is in it, each before what it holds. Links are not followed."""
    found = [path]
    for each in found:  # which grows: a tree too deep for recursion is no reason to fail
        if storage.kind(each) == "directory":
            found += [f"{each}/{name}" for name in storage.list(each)]
    return found


def _bytes_below(storage: Storage, path: str) -> int:
    return sum(storage.size(each) for each in _below(storage, path) if storage.kind(each) == "file")


def remove_below(storage: Storage, path: str) -> None:
    """Removes a file, or a directory with all that is in it; of a link the link."""
    for each in reversed(_below(storage, path)):
        if storage.kind(each) == "directory":
            storage.remove_directory(each)
        else:
            storage.remove(each)
